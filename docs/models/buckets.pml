/*
 * A frame is freed when every reader that may read it has passed it, as the bucket sets in the readers' pages say.
 *                     crates/shm-bus-ring/src/{gate,lane}.rs, crates/shm-bus/src/subscription.rs, crates/shm-bus/src/shared/positions.rs
 *
 * Properties
 *   I_RECLAIM   no frame is freed that a subscription has yet to read: one of its buckets, above its join record.
 *   (end)       a reader that stands still for ever holds no frame of a bucket that it does not read.
 *
 * Abstraction: one step is one access, sequentially consistent. One attachment has a subscription to bucket A from the beginning, and
 * joins B with a second one; they share a cursor and a bucket set. The order is long enough. A sender frees in loan order, by
 * what it knows from its last scan, and only then scans again, as `Gate::scan` does: s, then the cursor, then the set. Frames of no bucket but MIXED concern both.
 *
 * Bounds: one sender with H = 2 headers and MSGS frames, each of any bucket; the role, which publishes the join record.
 *
 * @run rule                                holds             quick
 * @run longer         -DMSGS=6             holds
 * @run stopped        -DSTOPPED            holds             quick
 * @run grown-after    -DGROWN_AFTER        fails I_RECLAIM   quick  the bucket set grows behind the join record
 * @run unbounded      -DUNBOUNDED -DMSGS=6 fails I_RECLAIM   quick  a scan frees frames that were published behind it
 * @run not-held       -DNOT_HELD           fails I_RECLAIM   quick  the cursor is not held while the second subscription joins
 * @run freed-early    -DFREED_EARLY        fails I_RECLAIM   quick  a frame is freed one stamp early
 * @run gate-only      -DGATE_ONLY -DSTOPPED fails end         quick  only the gate frees
 */
#include "common.h"

PROPERTY(I_RECLAIM);

#ifndef MSGS
#define MSGS 4
#endif
#define H 2
#define TOP (MSGS + 3)
#define NOT_YET 255
#define A 1
#define B 2
#define MIXED 3
#define RECORD 4

byte tail = 1;
byte bucket[TOP];       /* of the frame at each stamp, as bits */
byte stamp_of[MSGS];    /* of each loan */
byte cursor = 1;        /* in the reader's page */
byte set = A;           /* its bucket set */

bool asked;
byte joined = NOT_YET;  /* the stamp of the join record */

/* The positions of the two subscriptions, under one lock. */
byte position_a = 1;
byte position_b = NOT_YET;

/* Kept for the property: where the second subscription is, from its record on. */
#define needed_b (joined == NOT_YET -> NOT_YET : (position_b == NOT_YET || position_b <= joined -> joined + 1 : position_b))

#ifdef GATE_ONLY
#define passed(stamp) (cursor > stamp)
#else
#define passed(stamp) (cursor > stamp || (bucket[stamp] & set) == 0)
#endif

/* Frees the oldest loan if the last scan allows it. */
inline free() {
  atomic {
    if
    :: stamp_of[freed] < c
#ifdef FREED_EARLY
    :: stamp_of[freed] == c && stamp_of[freed] < s
#endif
#ifndef GATE_ONLY
#ifdef UNBOUNDED
    :: s > 0 && (bucket[stamp_of[freed]] & b) == 0
#else
    :: stamp_of[freed] < s && (bucket[stamp_of[freed]] & b) == 0
#endif
#endif
    :: else -> done = false
    fi;
    if
    :: done ->
      MUST(I_RECLAIM, (bucket[stamp_of[freed]] & A) == 0 || position_a > stamp_of[freed]);
      MUST(I_RECLAIM, (bucket[stamp_of[freed]] & B) == 0 || joined == NOT_YET || stamp_of[freed] < joined || needed_b > stamp_of[freed]);
      freed++
    :: else
    fi
  }
}

proctype Sender() {
  byte n, freed, s, c, b;
  bool done;
  do
  :: n < MSGS && n - freed < H ->
    atomic {
      if
#ifdef STOPPED
      :: bucket[tail] = B
#else
      :: bucket[tail] = A
      :: bucket[tail] = B
      :: bucket[tail] = MIXED
#endif
      fi;
      stamp_of[n] = tail; tail++; n++
    }
  :: n < MSGS && n - freed >= H ->
    done = true;
    free();
    if
    :: !done ->
      s = tail;
      c = cursor;
      atomic { b = set; c = MIN(c, s); done = true };
      free();
      if
      :: !done -> passed(stamp_of[freed])
      :: else
      fi
    :: else
    fi
  :: else -> break
  od
}

inline store_cursor() { cursor = MIN(position_a, position_b) }

#ifndef STOPPED
proctype SubscriptionA() {
end:
  do
  :: atomic { position_a < tail -> position_a++; store_cursor() }
  od
}

proctype SubscriptionB() {
#ifndef GROWN_AFTER
  set = A | B;
#endif
#ifndef NOT_HELD
  atomic { position_b = cursor };
#endif
  asked = true;
  joined != NOT_YET;
#ifdef GROWN_AFTER
  set = A | B;
#endif
  atomic { position_b = joined + 1; store_cursor() };
end:
  do
  :: atomic { position_b < tail -> position_b++; store_cursor() }
  od
}

proctype Role() {
end:
  asked;
  atomic { bucket[tail] = RECORD; joined = tail; tail++ }
}
#endif

init {
  atomic {
    run Sender();
#ifndef STOPPED
    run SubscriptionA(); run SubscriptionB(); run Role()
#endif
  }
}
