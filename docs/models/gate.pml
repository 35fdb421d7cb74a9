/*
 * The gate, and a reader that joins while publishers compute it.   crates/shm-bus-ring/src/gate.rs, crates/shm-bus/src/role/membership.rs
 *
 * Properties
 *   I_GATE    no slot is filled over one that a counting reader has not passed; a joiner counts from its record on.
 *   JOIN      a joiner finds every slot from the one behind its record on, in its own lap.
 *   (end)     the joiner's own record always finds room: nobody waits for ever.
 *
 * Abstraction: one step is one access, sequentially consistent; a slot word is the stamp that filled it, plus N. The tail is found
 * in one step (publish.pml has the walk). Who scans reads the joiner (state, floor, cursor) before the other reader, which is the order that
 * hurts; the joiner's page may be mapped or not at each scan. A publisher that finds no room waits until there is some. The joiner has
 * been a reader before: its cursor is an old one. Deadlines are left out (evict.pml).
 *
 * Bounds: N = 2 slots, stamps below TOP, one publisher, the role-holder (which joins the reader once and publishes too), one
 * reader from the beginning and one that joins.
 *
 * @run rule                                holds               quick
 * @run longer            -DTOP=8           holds
 * @run without-s         -DWITHOUT_S -DTOP=6 fails I_GATE             the gate is the smallest cursor, without s
 * @run from-hint         -DFROM_HINT       fails JOIN          quick  the joiner starts at the hint instead of behind its record
 * @run record-first      -DRECORD_FIRST    fails I_GATE        quick  the join record is published before the reader counts
 * @run unmapped-skipped  -DUNMAPPED_SKIPPED fails I_GATE       quick  a reader whose page is not mapped is left out
 * @run no-floor          -DNO_FLOOR        fails end           quick  the old cursor counts: it holds the ring against the record
 * @run floor-kept        -DFLOOR_KEPT      fails end           quick  the floor is not raised while the record waits for room
 * @run floor-ahead       -DFLOOR_AHEAD     fails I_GATE        quick  the floor is above the record
 */
#include "common.h"

PROPERTY(I_GATE); PROPERTY(JOIN);

#ifndef TOP
#define TOP 5
#endif
#define N 2
#define NOT_YET 255

byte word[N];
byte tail = 1;          /* the first free slot */
byte cursor[2];         /* in the readers' pages; 0: the joiner */
byte floor0;            /* the joiner's floor and state, in the member table */
bool counts0;

byte need = NOT_YET;    /* kept for the properties: the joiner's position from its record on */

#ifdef NO_FLOOR
#define FLOOR 0
#else
#define FLOOR floor0
#endif
#define value0 (counts0 -> MAX(cursor[0], FLOOR) : NOT_YET)
#define room(s) (MIN(value0, cursor[1]) + N > s)

inline find() { atomic { s = tail; w = word[s % N] } }

/* Reads the joiner's state, floor and cursor, then the other reader's cursor. */
inline scan() {
#ifdef WITHOUT_S
  g = NOT_YET;
#else
  g = s;
#endif
  if
  :: counts0 ->
    if
    :: v = FLOOR; atomic { g = MIN(g, MAX(v, cursor[0])); v = 0 }
#ifdef UNMAPPED_SKIPPED
    :: true
#else
    :: g = MIN(g, FLOOR)
#endif
    fi
  :: else
  fi;
  atomic { g = MIN(g, cursor[1]); gate = MAX(gate, g); g = 0 }
}

/* One message, or with `record` the joiner's join record. Ends with `done` unless the order has come to TOP. */
inline publish(record) {
  done = false;
  do
  :: done -> break
  :: else ->
    find();
    if
    :: s >= TOP -> break
    :: s < TOP && s >= N + gate -> scan()
    :: else
    fi;
    if
    :: s >= TOP
    :: s < TOP && s >= N + gate ->
#ifndef FLOOR_KEPT
      if
      :: record -> floor0 = s
      :: else
      fi;
#endif
      room(s) || word[s % N] != w
    :: else ->
      atomic {
        if
        :: word[s % N] == w ->
          word[s % N] = s + N; tail = s + 1;
          MUST(I_GATE, s < N || (cursor[1] > s - N && (need == NOT_YET || need > s - N)));
          if :: record -> need = s + 1 :: else fi;
          done = true
        :: else
        fi
      }
    fi
  od;
  atomic { w = 0; g = 0 }
}

proctype Publisher() {
  byte s, w, g, v, gate;
  bool done;
  do
  :: s < TOP -> publish(false)
  :: else -> break
  od
}

proctype Role() {
  byte s, w, g, v, gate, start;
  bool done, ask;
  do
  :: s < TOP -> ask = (need == NOT_YET && !counts0);
    if
    :: ask ->
#ifdef RECORD_FIRST
#else
      find();
#ifdef FLOOR_AHEAD
      s = s + 2;
#endif
      atomic { floor0 = s };
      counts0 = true;
#endif
    :: true -> ask = false
    fi;
    start = tail;
    publish(ask);
    if
    :: ask && done ->
#ifdef RECORD_FIRST
      floor0 = s + 1; counts0 = true;
#endif
#ifdef FROM_HINT
      s = start;
#else
      s = s + 1;
#endif
      run Reader(0, s); s = s - 1
    :: else
    fi;
    start = 0
  :: else -> break
  od
}

proctype Reader(byte me; byte from) {
  byte p = from;
  cursor[me] = MAX(cursor[me], p);
end:
  do
  :: p < TOP && word[p % N] >= p + N ->
    MUST(JOIN, word[p % N] == p + N);
    p++;
    atomic { if :: me == 0 -> need = p :: else fi; cursor[me] = p }
  :: p >= TOP -> break
  od
}

init {
  atomic {
    word[0] = 0 + N; word[1] = 1; cursor[1] = 1;
    run Reader(1, 1); run Publisher(); run Role()
  }
}
