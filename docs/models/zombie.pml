/*
 * A former owner of an id that does not know yet: its late publish, and its late look at its bits.
 *                          crates/shm-bus-ring/src/lane.rs, crates/shm-bus/src/role/departure.rs, crates/shm-bus/src/shared/wake.rs
 *
 * Properties
 *   I_FENCE   no frame of an attachment has a stamp above its departed record.
 *   REUSE     while the new owner of an id sleeps, nobody else takes its bits away.
 *   (end)     the id becomes free in the end.
 *
 * Abstraction: one step is one access, sequentially consistent; the tail is found in one step (publish.pml has the walk). The
 * gate passes the departed record at once. The former owner was let go for a reason of the role's own, and lives: it publishes in one
 * thread and sleeps in another, under its own lock as `Shared::sleeping` is. It may also die at any step.
 *
 * Bounds: a former owner with MSGS publishes and two sleeps, another publisher with two, the role, and a new owner.
 *
 * @run rule             -DMSGS=1         holds           quick
 * @run longer                            holds
 * @run checked-first    -DCHECKED_FIRST  fails I_FENCE   quick  the own member word is looked at before the slot is found
 * @run unchecked        -DUNCHECKED      fails I_FENCE   quick  ... or not at all
 * @run record-first     -DRECORD_FIRST   fails I_FENCE   quick  the departed record is published before the member word says so
 * @run generation-blind -DGENERATION_BLIND fails I_FENCE quick  the look at the own word does not compare the generation
 * @run unacknowledged   -DUNACKNOWLEDGED fails REUSE     quick  the id is given again while its former owner lives and knows nothing
 * @run unlocked         -DUNLOCKED       fails REUSE     quick  it acknowledges without the lock of its sleepers
 */
#include "common.h"

PROPERTY(I_FENCE); PROPERTY(REUSE);

#ifndef MSGS
#define MSGS 2
#endif
#define WORD(generation, state) ((generation) * 4 + (state))
#define FREE 0
#define JOINING 1
#define LIVE 2
#define DEPARTED 3

byte tail = 1;          /* a slot is filled for stamps below it */
byte member = WORD(1, LIVE);
bool row;               /* the id's bit in the sleeper rows */

/* The former owner's own memory. */
bool sleeping;          /* its lock */
bool acknowledged;
bool dead;

byte departed = 255;    /* kept for the properties: the record's stamp */
bool slept;             /* ... and that it is the new owner who has set the bit */

#define mine (member == WORD(1, LIVE))
#ifdef GENERATION_BLIND
#define may_publish (member % 4 == LIVE)
#else
#define may_publish mine
#endif

proctype Former() {
  byte n, s;
  bool live;
  {
    do
    :: n < MSGS ->
#ifdef CHECKED_FIRST
      live = may_publish;
#else
      live = true;
#endif
      s = tail;
#ifndef UNCHECKED
#ifndef CHECKED_FIRST
      live = may_publish;
#endif
#endif
      if
      :: !live -> break
      :: else
      fi;
      atomic {
        if
        :: s == tail -> tail++; n++; MUST(I_FENCE, s < departed)
        :: else
        fi
      };
      s = 0
    :: else -> break
    od
  } unless { dead }
}

proctype FormerSleeper() {
  byte n;
  bool live;
  {
    do
    :: n < 4 ->
      atomic { !sleeping -> sleeping = true };
      live = mine;
      if
      :: live && n % 2 == 0 -> atomic { MUST(REUSE, !slept); row = true }
      :: live && n % 2 == 1 -> atomic { MUST(REUSE, !slept); row = false }
      :: else
      fi;
      atomic { sleeping = false; n++; live = false }
    :: else -> break
    od
  } unless { dead }
}

/* Its control thread: says that it knows. */
proctype FormerControl() {
  {
    member != WORD(1, LIVE);
#ifdef UNLOCKED
    acknowledged = true
#else
    atomic { !sleeping -> sleeping = true };
    atomic { acknowledged = true; sleeping = false }
#endif
  } unless { dead }
}

proctype Other() {
  byte n, s;
  do
  :: n < 2 ->
    s = tail;
    atomic {
      if
      :: s == tail -> tail++; n++
      :: else
      fi
    };
    s = 0
  :: else -> break
  od
}

inline record(s) {
  do
  :: s = tail;
    atomic {
      if
      :: s == tail -> tail++; departed = s; break
      :: else
      fi
    }
  od
}

proctype Role() {
  byte s;
#ifdef RECORD_FIRST
  record(s);
  member = WORD(1, DEPARTED);
#else
  member = WORD(1, DEPARTED);
  row = false;
  record(s);
#endif
  s = 0;
#ifndef UNACKNOWLEDGED
  acknowledged || dead;
#endif
  member = WORD(1, FREE);
  member = WORD(2, JOINING);
  member = WORD(2, LIVE);
  atomic { row = true; slept = true }
}

proctype Death() { if :: dead = true :: true fi }

init {
  atomic {
    run Former(); run FormerSleeper(); run FormerControl(); run Other(); run Role(); run Death()
  }
}
