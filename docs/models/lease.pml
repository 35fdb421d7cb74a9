/*
 * Reading under a lease, losing one's place meanwhile, and the watermark that tells.  crates/shm-bus-ring/src/{lane,reader}.rs
 *
 * Properties
 *   I_RECLAIM   whatever a reader takes for whole when its lease ends is whole: nothing of it was overwritten.
 *   I_LEASE     a reader that has not lost its place finds every frame, and finds it whole.
 *
 * Abstraction: one step is one access, sequentially consistent. The order is long enough (gate.pml has its wrap); the sender has two
 * headers, each with two words of payload, so the third loan overwrites the first. A lease is over one frame or two, and what
 * it remembers is the oldest loan. A timer is an eviction at any moment, by anyone; a hostile one takes it back at once.
 *
 * Bounds: one sender of MSGS frames, one reader, one eviction.
 *
 * @run rule                                      holds             quick
 * @run hostile          -DHOSTILE                holds             quick
 * @run longer           -DMSGS=7 -DHOSTILE       holds
 * @run unchecked        -DUNCHECKED              fails I_RECLAIM   quick  the end of a lease looks at nothing
 * @run word-checked     -DWORD_CHECKED -DHOSTILE fails I_RECLAIM   quick  it looks at the reader's own member word
 * @run watermark-after  -DWATERMARK_AFTER        fails I_RECLAIM   quick  the watermark is stored behind the overwriting
 * @run stamp-kept       -DSTAMP_KEPT             fails I_RECLAIM   quick  the stamp is not taken off before the header is overwritten
 * @run stamp-seen-once  -DSTAMP_SEEN_ONCE        fails I_RECLAIM   quick  the stamp is not looked at again behind the header's copy
 * @run newest-serial    -DNEWEST_SERIAL          fails I_RECLAIM   quick  the lease remembers the newest loan
 * @run freed-early      -DFREED_EARLY            fails I_LEASE     quick  a frame is freed one stamp early
 */
#include "common.h"

PROPERTY(I_RECLAIM); PROPERTY(I_LEASE);

#ifndef MSGS
#define MSGS 5
#endif
#define H 2

byte tail = 1;          /* frame n has stamp n + 1 and is in cell n mod H */
byte stamp_of[H];
byte serial_of[H];
byte first[H];
byte second[H];
byte reclaimed;         /* loans below it may be overwritten */
byte cursor = 1;
bool evicted;           /* the member word */
bool was_evicted;       /* kept for the properties */

proctype Sender() {
  byte n, freed, c;
  do
  :: n < MSGS ->
    c = n % H;
    if
    :: n - freed >= H ->
      /* The oldest frame has stamp freed + 1. A reader that was put back after it has learned of its eviction is evicted anew. */
end_full:
#ifdef FREED_EARLY
      evicted || cursor >= freed + 1;
#else
      evicted || cursor > freed + 1;
#endif
      freed++;
#ifndef WATERMARK_AFTER
      reclaimed = freed
#endif
    :: else
    fi;
#ifndef STAMP_KEPT
    stamp_of[c] = 0;
#endif
    first[c] = n;
    second[c] = n;
    serial_of[c] = n;
#ifdef WATERMARK_AFTER
    reclaimed = freed;
#endif
    stamp_of[c] = n + 1;
    atomic { tail = n + 2; n++ }
  :: else -> break
  od
}

proctype Reader() {
  byte p = 1, c, serial, oldest;
  bool whole, lost, more;
  do
  :: p <= MSGS ->
    atomic { tail > p -> whole = true; lost = false; oldest = 255; more = true };
    if
    :: evicted -> break                                               /* it has learned of it */
    :: else
    fi;
    do
    :: more && !lost && tail > p ->
      c = (p - 1) % H;
      lost = stamp_of[c] != p;
      if
      :: !lost ->
        serial = serial_of[c];
#ifndef STAMP_SEEN_ONCE
        lost = stamp_of[c] != p;
#endif
        if
        :: !lost ->
          whole = whole && first[c] == p - 1;
#ifdef NEWEST_SERIAL
          atomic { whole = whole && second[c] == p - 1; oldest = serial };
#else
          atomic { whole = whole && second[c] == p - 1; oldest = MIN(oldest, serial) };
#endif
          p++;
          if :: more = false :: true fi
        :: else
        fi
      :: else
      fi
    :: else -> break
    od;
    /* The lease ends. */
#ifndef UNCHECKED
#ifdef WORD_CHECKED
    lost = lost || evicted;
#else
    lost = lost || reclaimed > oldest;
#endif
#endif
    MUST(I_LEASE, !lost || was_evicted);
    MUST(I_RECLAIM, lost || whole);
    if
    :: lost -> break
    :: else -> cursor = p
    fi
  :: else -> break
  od
}

proctype Evictor() {
  if
  :: atomic { evicted = true; was_evicted = true };
#ifdef HOSTILE
    evicted = false
#endif
  :: true
  fi
}

init { atomic { run Sender(); run Reader(); run Evictor() } }
