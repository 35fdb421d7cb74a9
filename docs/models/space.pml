/*
 * Waiting for space, the mirror image of sleeping for a message.
 *               crates/shm-bus-ring/src/space.rs, crates/shm-bus/src/{publisher,overload}.rs, crates/shm-bus/src/subscription/wait.rs
 *
 * Properties
 *   (end)   no publisher waits for ever while there is room for it, and no reader sleeps for ever while it holds the ring.
 *
 * Abstraction: one step is one access, sequentially consistent. The order has ROOM slots and one reader that counts. None of the
 * messages concerns the reader: it passes over them, in a poll, behind which it stores its cursor, or on its way to sleep. A
 * publisher that finds the ring full wakes whoever sleeps; it looks again only when it is woken, though the real one does so at
 * the end of each slice. That everyone is woken four times a lap is left out. Both waits are futex calls, which compare and queue in one step.
 *
 * Bounds: PUBS publishers of MSGS messages each, one reader; EVICT: it loses its place at any moment; KILL: a publisher is killed
 * while it waits, and its bit stays.
 *
 * @run rule                                 holds        quick
 * @run three           -DPUBS=3 -DMSGS=1    holds
 * @run longer          -DMSGS=3             holds
 * @run evicted         -DEVICT              holds        quick
 * @run killed          -DKILL -DPUBS=3 -DMSGS=1 holds    quick
 * @run bit-last        -DBIT_LAST           fails end    quick  the publisher announces itself behind its last try
 * @run space-last      -DSPACE_LAST         fails end    quick  the space word is loaded behind the last try
 * @run bits-first      -DBITS_FIRST         fails end    quick  the reader looks who waits before it stores its cursor
 * @run not-counted     -DNOT_COUNTED        fails end    quick  the reader wakes without changing the space word
 * @run evict-silent    -DEVICT -DEVICT_SILENT fails end  quick  whoever takes a reader's place wakes nobody
 * @run sleeps-holding  -DSLEEPS_HOLDING     fails end    quick  a reader goes to sleep without storing what it passed over
 * @run full-silent     -DFULL_SILENT        fails end    quick  who finds the ring full does not wake those asleep
 * @run waits-silent    -DWAITS_SILENT -DMSGS=3 fails end quick  ... or does so only before it begins to wait
 */
#include "common.h"

#ifndef PUBS
#define PUBS 2
#endif
#ifndef MSGS
#define MSGS 2
#endif
#define ROOM 2

byte tail;
byte cursor;
bool counts = true;
byte space;             /* the futex word of those who wait for space */
bool waits[PUBS];       /* a bit an id */
bool queued[PUBS];      /* blocked in the futex call */
bool row;               /* the reader's bit in the sleeper rows */
bool asleep;            /* blocked there */

#define full (counts && tail - cursor >= ROOM)

inline release_space() {
#ifndef NOT_COUNTED
  space++;
#endif
  atomic { i = 0; do :: i < PUBS -> queued[i] = false; i++ :: else -> break od; i = 0 }
}

inline wake_sleeper() {
#ifndef FULL_SILENT
  if
  :: row -> asleep = false
  :: else
  fi
#else
  skip
#endif
}

proctype Publisher(byte me) {
  byte n, v;
  bool ready;
  do
  :: n < MSGS ->
    atomic {
      if
      :: !full -> tail++; n++; ready = true
      :: else -> ready = false
      fi
    };
    if
    :: !ready ->
      wake_sleeper();
#ifndef BIT_LAST
      waits[me] = true;
#endif
      do
      :: !ready ->
#ifndef SPACE_LAST
        v = space;
#endif
        ready = !full;
#ifndef WAITS_SILENT
        if
        :: !ready -> wake_sleeper()
        :: else
        fi;
#endif
#ifdef BIT_LAST
        waits[me] = true;
#endif
#ifdef SPACE_LAST
        v = space;
#endif
        if
        :: !ready ->
          atomic { queued[me] = space == v; v = 0 };
#ifdef KILL
          if
          :: me == 0 -> goto out                                      /* killed: its bit stays */
          :: me > 0 -> !queued[me]
          fi
#else
          !queued[me]
#endif
        :: else
        fi
      :: else -> break
      od;
      waits[me] = false;
      v = 0
    :: else
    fi
  :: else -> break
  od;
out:
  skip
}

inline store_cursor() {
  if
  :: cursor != position ->
#ifdef BITS_FIRST
    atomic { wanted = false; i = 0; do :: i < PUBS -> wanted = wanted || waits[i]; i++ :: else -> break od; i = 0 };
    cursor = position;
#else
    cursor = position;
    atomic { wanted = false; i = 0; do :: i < PUBS -> wanted = wanted || waits[i]; i++ :: else -> break od; i = 0 };
#endif
    if
    :: wanted -> release_space()
    :: else
    fi
  :: else
  fi
}

proctype Reader() {
  byte position, i;
  bool wanted;
end:
  do
  :: counts -> position = tail;                                       /* a poll */
    store_cursor();
    row = true;
    position = tail;                                                  /* the last look passes over what is not for it */
#ifndef SLEEPS_HOLDING
    store_cursor();
#endif
    /* The hint has changed if something was published behind the look: the futex call returns. */
    atomic { asleep = tail == position };
end_asleep:
    !asleep;
    row = false
  :: !counts -> break
  od
}

#ifdef EVICT
proctype Evictor() {
  byte i;
  if
  :: counts = false;
#ifndef EVICT_SILENT
    release_space()
#endif
  :: true
  fi
}
#endif

init {
  byte i;
  atomic {
    do :: i < PUBS -> run Publisher(i); i++ :: else -> break od;
    run Reader();
#ifdef EVICT
    run Evictor();
#endif
    i = 0
  }
}
