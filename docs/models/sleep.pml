/*
 * Sleep and wake, by the futex or by a bell, one wake a sleep.                    crates/shm-bus-ring/src/{sleep,wake}.rs
 *
 * Properties
 *   SYNC_SLEEP    a reader that sleeps for good has read every message whose publisher came to the end of its wake.
 *   DEATH         it has read those of killed publishers too, once the record of the death is in the order.
 *
 * Abstraction: one step is one access, sequentially consistent. Every message concerns the reader; its rows are one bit. No sleep
 * ever times out, so whoever would be saved by the end of a slice counts as lost. The futex call compares and queues in one step, as
 * the kernel does. A publisher remembers the sleep that it has woken, as `Waker` does.
 *
 * Bounds: one reader that goes to sleep in either way, each time anew; PUBS publishers of MSGS messages; KILLS of them are killed
 * between their slot and the end of their wake. Then the role publishes a record of the death, which wakes as a message does.
 *
 * @run rule            -DPUBS=1 -DMSGS=4     holds               quick
 * @run two             -DLAST=1              holds
 * @run killed          -DKILLS=1 -DMSGS=1    holds
 * @run killed-longer   -DKILLS=1 -DPUBS=1 -DMSGS=3 holds
 * @run killed-alone    -DKILLS=1 -DPUBS=1 -DMSGS=2 holds         quick
 * @run look-first      -DLOOK_FIRST          fails SYNC_SLEEP    quick  the last look comes before the bits
 * @run hint-last       -DHINT_LAST           fails SYNC_SLEEP    quick  the hint is loaded after the last look
 * @run hint-late       -DHINT_LATE           fails SYNC_SLEEP    quick  the hint is loaded behind the count of the sleep
 * @run hint-not-raised -DHINT_NOT_RAISED -DMSGS=1 -DPUBS=1 fails SYNC_SLEEP quick  the wake does not raise the hint first
 * @run waker-clears    -DWAKER_CLEARS        fails SYNC_SLEEP    quick  the waker clears the sleeper's bit
 * @run waker-clears-killed -DWAKER_CLEARS -DKILLS=1 -DMSGS=1 fails SYNC_SLEEP quick  ... and is killed behind it
 * @run kind-first      -DKIND_FIRST          fails SYNC_SLEEP    quick  the waker looks how the sleeper sleeps before it loads the count
 * @run kind-last       -DKIND_LAST           fails SYNC_SLEEP    quick  the sleeper says how it sleeps behind the count
 * @run epoch-last      -DEPOCH_LAST          fails SYNC_SLEEP    quick  the sleep is counted after the last look
 * @run remembered      -DREMEMBERED          fails SYNC_SLEEP    quick  a futex wake is remembered though the hint was raised before
 * @run no-death-wake   -DNO_DEATH_WAKE -DKILLS=1 -DMSGS=1 fails DEATH quick  the record of a death wakes nobody
 */
#include "common.h"

PROPERTY(SYNC_SLEEP); PROPERTY(DEATH);

#ifndef PUBS
#define PUBS 2
#endif
#ifndef MSGS
#define MSGS 2
#endif
#ifndef LAST
#define LAST MSGS       /* messages of the last publisher */
#endif
#ifndef KILLS
#define KILLS 0
#endif
#if KILLS > 0
#define MAY_DIE if :: killed < KILLS -> killed++; goto out :: true fi
#else
#define MAY_DIE skip
#endif

byte tail;              /* messages in the order */
byte hint;              /* the futex word */
bool row;               /* the sleeper's bit in the rows of its buckets */
bool poller;            /* its bit that says: by its bell */
byte epoch;             /* in its own page */
bool queued;            /* blocked in the futex call */
bool rung;              /* the bell */
bool polls;             /* blocked until the bell rings */
byte position;          /* the reader's, counted like `tail` */

/* Kept for the properties. */
byte must;              /* one more than the last message whose publisher came to the end of its wake */
byte finished;
byte killed;

mtype = { NOTHING, FUTEX, ALL };

/* Wakes, as Waker::wake and Shared::wake do. `seen` and `woken`: the last sleep that this publisher knows, and what it has woken of it. */
inline wake(s) {
  if
  :: row ->
    MAY_DIE;
    if
    :: row ->
#ifdef WAKER_CLEARS
      row = false;
      MAY_DIE;
#endif
#ifdef KIND_FIRST
      by_bell = poller;
#endif
      atomic {
        if
        :: seen != epoch -> seen = epoch; woken = NOTHING
        :: else
        fi
      };
#ifndef KIND_FIRST
      by_bell = poller;
#endif
      MAY_DIE;
      if
      :: by_bell && woken != ALL -> atomic { woken = ALL; rung = true }
      :: !by_bell && woken == NOTHING -> blocked = true
      :: else
      fi;
      by_bell = false;
      MAY_DIE
    :: else
    fi;
#ifndef HINT_NOT_RAISED
    atomic {
      if
      :: hint < s + 1 -> hint = s + 1; woken = (blocked -> FUTEX : woken)
#ifdef REMEMBERED
      :: else -> woken = (blocked -> FUTEX : woken)
#else
      :: else
#endif
      fi
    };
#endif
    MAY_DIE;
    if
    :: blocked -> atomic { queued = false; blocked = false }
    :: else
    fi
  :: else
  fi
}

proctype Publisher(byte messages) {
  byte n, s, seen;
  mtype woken = NOTHING;
  bool blocked, by_bell;
  do
  :: n < messages ->
    atomic { s = tail; tail++ };
    MAY_DIE;
    if
    :: s % 2 == 1 -> atomic { hint = MAX(hint, s + 1) }
    :: else
    fi;
    wake(s);
    atomic { must = MAX(must, s + 1); n++; s = 0 }
  :: else -> break
  od;
out:
  finished++
}

#if KILLS > 0
/* Publishes the record of a death. */
proctype Role() {
  byte s, seen;
  mtype woken = NOTHING;
  bool blocked, by_bell;
end:
  killed == KILLS && finished == PUBS;
  atomic { s = tail; tail++ };
#ifndef NO_DEATH_WAKE
  wake(s);
#endif
out:
  finished++
}
#endif

proctype Reader() {
  byte v;
  bool found, bell;
  do
  :: atomic { position < tail -> position = tail }
  :: atomic { position >= tail -> if :: bell = false :: bell = true fi; found = false };
    v = hint;
#ifndef KIND_LAST
    poller = bell;
#endif
#ifndef EPOCH_LAST
    epoch++;
#endif
#ifdef HINT_LATE
    v = hint;
#endif
#ifdef KIND_LAST
    poller = bell;
#endif
#ifdef LOOK_FIRST
    found = position < tail;
#endif
    row = true;
#ifndef LOOK_FIRST
    found = position < tail;
#endif
#ifdef HINT_LAST
    v = hint;
#endif
#ifdef EPOCH_LAST
    epoch++;
#endif
    if
    :: found
    :: !found && bell -> polls = true;
end_polls:
      atomic { rung -> polls = false }
    :: !found && !bell -> atomic { queued = hint == v };
end_queued:
      !queued
    fi;
    row = false;
    if
    :: bell -> rung = false                                          /* the ring is taken, then it reads */
    :: else
    fi;
    v = 0
  od
}

#define asleep ((polls && !rung) || queued)

proctype Judge() {
end:
  if
  :: atomic { finished >= PUBS && asleep -> MUST(SYNC_SLEEP, position >= must) }
  :: atomic { finished > PUBS && asleep -> MUST(DEATH, position == tail) }
  fi
}

init {
  byte i;
  atomic {
    do :: i < PUBS -> run Publisher((i == PUBS - 1 -> LAST : MSGS)); i++ :: else -> break od;
#if KILLS > 0
    run Role();
#endif
    run Reader(); run Judge(); i = 0
  }
}
