/*
 * Publishing: one swap a slot, found by a walk from a hint that lags.     crates/shm-bus-ring/src/{sequencer,lane,reader}.rs
 *
 * Properties
 *   I_TAIL        a swap that succeeds fills the stamp right above the last filled one: no hole, no stamp twice.
 *   REAL_TIME     a publish that begins after another returned gets the larger stamp.
 *   SYNC_PUBLISH  who finds slot p filled finds the frame that was swapped in there, complete, carrying stamp p.
 *   I_HEADER      what a reader takes for a sender's at stamp p, that sender has aimed at p.
 *   BOUNDED       a walk gives up after N + 2 steps only if others have published meanwhile, or the hint is forged.
 *
 * Abstraction: one step is one access to shared memory, sequentially consistent. A slot word is the stamp that filled it, plus
 * N, and the header it names; the tag's wrap is left out. The gate is left out (gate.pml), hence slots are overwritten at once and a
 * reader may be overrun, which ends it. Any process may be stopped for good at any step: the properties are looked at in every
 * state. A publisher that does not raise the hint was killed before it could.
 *
 * Bounds: N = 2 slots, PUBS publishers of MSGS messages each, one reader; SCRIBBLE: one that stores any hint; HOSTILE: one that
 * puts a word of its own choice, naming somebody else's header, into the next slot.
 *
 * @run rule                                    holds                quick
 * @run three         -DPUBS=3 -DMSGS=1         holds
 * @run longer        -DPUBS=2 -DMSGS=3         holds
 * @run forged-hint   -DSCRIBBLE                holds
 * @run forged-slot   -DHOSTILE -DMSGS=1        holds                quick
 * @run stamp-after-swap -DSTAMP_AFTER          fails SYNC_PUBLISH   quick  the header's stamp is stored after the swap
 * @run swap-unchecked -DPLAIN_STORE            fails I_TAIL         quick  the slot is stored to instead of swapped
 * @run neighbour-unseen -DNO_NEIGHBOUR -DSCRIBBLE fails I_TAIL      quick  a free slot is taken without a look at the one before it
 * @run stamp-unchecked -DSTAMP_UNCHECKED -DHOSTILE fails I_HEADER   quick  the reader does not compare the header's stamp
 * @run claim-first   -DCLAIM                   fails SYNC_PUBLISH   quick  a slot is taken first and its frame completed later
 */
#include "common.h"

PROPERTY(I_TAIL); PROPERTY(REAL_TIME); PROPERTY(SYNC_PUBLISH); PROPERTY(I_HEADER); PROPERTY(BOUNDED);

#ifndef PUBS
#define PUBS 2
#endif
#ifndef MSGS
#define MSGS 2
#endif
#define N 2
#define HEADERS (PUBS * MSGS)
#define NOBODY 255

byte word[N];           /* stamp + N; an unwritten slot holds the lap before the first */
byte names[N];          /* the header that the word names: one word with the above */
byte hint = 1;
byte stamp_of[HEADERS]; /* each header's stamp, 0 while not in use */
bool whole[HEADERS];    /* the rest of the frame is written */

/* Kept for the properties alone. */
byte tail = 1;          /* the next stamp */
byte log[HEADERS + 3];  /* which header was swapped in at each stamp */
byte aimed[HEADERS];    /* a bit for each stamp that the owner stored in a header */

/* One step of the walk: the slot at s, or the one before it. */
inline look() {
  atomic {
    steps++;
    w = word[s % N];
    if
    :: w == s && seen -> found = true
    :: w == s && !seen && s > 1 -> ask = true
    :: w == s && !seen && s <= 1 -> found = true                     /* the founding filled slot 0 */
    :: w < s -> seen = false; s = (s > 1 -> s - 1 : 1)
    :: w == s + N -> seen = true; s++
    :: w > s + N -> seen = false; s = w - N
    fi
  }
}
inline look_before() {
  atomic {
    ask = false;
#ifdef NO_NEIGHBOUR
    found = true
#else
    if
    :: word[(s - 1) % N] >= s - 1 + N -> found = true
    :: else -> seen = false; s--
    fi
#endif
  }
}

proctype Publisher(byte first) {
  byte n, s, w, steps, began, walked_from;
  bool seen, ask, found;
  do
  :: n < MSGS ->
    atomic { began = tail; whole[first + n] = true };
#ifdef CLAIM
    whole[first + n] = false;
#endif
    atomic { s = MAX(hint, 1); walked_from = tail };
again:
    atomic { found = false; seen = false; ask = false; steps = 0 };
    do
    :: found -> break
    :: !found && ask -> look_before()
    :: !found && !ask && steps < N + 2 -> look()
    :: !found && !ask && steps >= N + 2 ->
#ifndef SCRIBBLE
      MUST(BOUNDED, tail > walked_from);
#endif
      atomic { s = hint; walked_from = tail };
      goto again
    od;
#ifndef STAMP_AFTER
    atomic { stamp_of[first + n] = s; aimed[first + n] = aimed[first + n] | (1 << s) };
#endif
    atomic {
      if
#ifdef PLAIN_STORE
      :: true ->
#else
      :: word[s % N] == w ->
#endif
        word[s % N] = s + N; names[s % N] = first + n;
        MUST(I_TAIL, s == tail); MUST(REAL_TIME, s >= began);
        log[s] = first + n; tail++; found = true
#ifndef PLAIN_STORE
      :: else -> found = false; walked_from = tail
#endif
      fi
    };
    if
    :: !found -> goto again
    :: else
    fi;
#ifdef STAMP_AFTER
    stamp_of[first + n] = s;
#endif
#ifdef CLAIM
    whole[first + n] = true;
#endif
    if
    :: s % 2 == 1 -> atomic { hint = MAX(hint, s + 1) }
    :: true
    fi;
    atomic { n++; s = 0; w = 0; steps = 0; began = 0; walked_from = 0; found = false; seen = false; ask = false }
  :: else -> break
  od
}

proctype Reader() {
  byte p = 1, h, before;
  bool good;
end:
  do
  :: atomic { word[p % N] == p + N -> h = names[p % N] };
    before = stamp_of[h];
    good = before == p && whole[h];
    good = good && stamp_of[h] == p;
    before = 0;
#ifdef STAMP_UNCHECKED
    good = true;
#endif
    if
    :: good ->
      MUST(I_HEADER, (aimed[h] >> p) & 1);
      MUST(SYNC_PUBLISH, log[p] == h || log[p] == NOBODY)
    :: else ->
      /* A violation, unless the slot was refilled meanwhile. */
      MUST(SYNC_PUBLISH, word[p % N] != p + N || log[p] == NOBODY)
    fi;
    good = false; h = 0;
    p++
  :: word[p % N] > p + N -> break                                     /* overrun */
  od
}

#ifdef SCRIBBLE
proctype Scribbler() {
  byte h = 1;
  do :: h < HEADERS + 3 -> h++ :: break od;
  atomic { hint = h; h = 0 }
}
#endif

#ifdef HOSTILE
proctype Hostile() {
  byte h;
  do :: h + 1 < HEADERS -> h++ :: break od;
  atomic { word[tail % N] = tail + N; names[tail % N] = h; log[tail] = NOBODY; tail++; h = 0 }
}
#endif

init {
  byte i;
  atomic {
    word[0] = 0 + N; word[1] = 1;
    do :: i < PUBS -> run Publisher(i * MSGS); i++ :: else -> break od;
    run Reader();
#ifdef SCRIBBLE
    run Scribbler();
#endif
#ifdef HOSTILE
    run Hostile();
#endif
    i = 0
  }
}
