//! An attachment that writes anything into everything it can write: the sequencer memory and its own payload memory.
//!
//! It may spoil the order. It may not make another attachment panic, walk without bound, read outside a mapping, or take
//! a frame as from somebody who never put it there.
#![cfg(not(loom))]

mod common;

use std::collections::{HashMap, HashSet};

use common::{Pages, bus, bytes, owner, pattern, set_reader_state, store_cursor};
use proptest::prelude::*;
use shm_bus_ring::layout::{header, payload, sequencer};
use shm_bus_ring::{
    Address, AttachmentId, Bucket, BucketSet, Geometry, Header, Kind, Lane, LaneKind, Message, Ordering,
    PublishError, Reader, ReaderState, Region, Sequencer, SlotWord, Spoiled, Stamp, Step, intact,
};

const LOG2_SLOTS: u32 = 6;
const SLOTS: u64 = 1 << LOG2_SLOTS;
const HEADERS: u64 = 64;
const HOSTILE: u16 = 2;

#[derive(Clone, Debug)]
enum Scribble {
    /// Any word into any slot.
    Slot {
        slot: u64,
        word: u64,
    },
    /// A word as a publisher would store it, near the tail.
    Forged {
        distance: i64,
        sender: u16,
        index: u16,
        bucket: u8,
        lap: i64,
    },
    Hint(u64),
    Member {
        id: u16,
        word: u64,
        floor: u64,
    },
    High(u64),
    FullSince(u64),
    /// Any word into the own page, header array or cells.
    Own {
        word_at: u64,
        word: u64,
    },
    /// A header of its own that carries the stamp of a slot near the tail, with a wild shape.
    Header {
        index: u64,
        distance: i64,
        shape: u64,
        position: u64,
        batch: u64,
    },
    Cursor(u64),
    Reclaimed(u64),
}

#[derive(Clone, Debug)]
enum Act {
    Scribble(Scribble),
    Send { who: u16, length: u64, count: u64 },
    Read { who: u16, count: u64 },
    Find { hint: u64 },
}

/// Numbers that arithmetic goes wrong at, and any other.
fn wild() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..300u64,
        (0..300u64).prop_map(|n| u64::MAX - n),
        (0..64u32).prop_map(|bit| 1 << bit),
        (1..64u32).prop_map(|bit| (1 << bit) - 1),
    ]
}

fn scribble() -> impl Strategy<Value = Scribble> {
    let near = -70..70i64;
    prop_oneof![
        3 => (0..SLOTS, wild()).prop_map(|(slot, word)| Scribble::Slot { slot, word }),
        6 => (near.clone(), 0..4u16, 0..140u16, any::<u8>(), -3..4i64).prop_map(
            |(distance, sender, index, bucket, lap)| Scribble::Forged { distance, sender, index, bucket, lap }
        ),
        2 => wild().prop_map(Scribble::Hint),
        1 => (0..4u16, wild(), wild()).prop_map(|(id, word, floor)| Scribble::Member { id, word, floor }),
        1 => wild().prop_map(Scribble::High),
        1 => wild().prop_map(Scribble::FullSince),
        2 => (0..payload::HEADERS / 8 + 128 * 16, wild())
            .prop_map(|(word_at, word)| Scribble::Own { word_at, word }),
        6 => (0..HEADERS + 64, near, wild(), wild(), wild()).prop_map(
            |(index, distance, shape, position, batch)| Scribble::Header { index, distance, shape, position, batch }
        ),
        1 => wild().prop_map(Scribble::Cursor),
        1 => wild().prop_map(Scribble::Reclaimed),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => scribble().prop_map(Act::Scribble),
        4 => (0..2u16, 0..3_000u64, 1..20u64).prop_map(|(who, length, count)| Act::Send { who, length, count }),
        4 => (0..2u16, 1..90u64).prop_map(|(who, count)| Act::Read { who, count }),
        2 => wild().prop_map(|hint| Act::Find { hint }),
    ];
    prop::collection::vec(act, 1..120)
}

struct World {
    sequencer: Sequencer,
    regions: Vec<Region>,
    pages: Pages,
    geometry: Geometry,
    lanes: Vec<Lane>,
    readers: Vec<Reader>,
    /// What the honest ones were told to have published: by sender and stamp (a spoiled order can give a stamp twice).
    sent: HashMap<(u16, u64), HashSet<u64>>,
    seeds: u64,
    tail: u64,
}

impl World {
    fn new() -> World {
        let geometry = Geometry::new(HEADERS, 1 << 16).unwrap();
        let (sequencer, regions, pages) = bus(LOG2_SLOTS, 3, geometry);
        for id in 0..3u16 {
            let own = &regions[usize::from(id)];
            for word in 0..4 {
                own.store(payload::BUCKETS + 8 * word, u64::MAX, Ordering::Relaxed);
            }
            sequencer.members().set_reader(AttachmentId(id), 1, 100, 0);
            store_cursor(own, 1);
            if id != HOSTILE {
                set_reader_state(&sequencer, id, ReaderState::Live);
            }
        }
        World {
            lanes: regions.iter().map(|own| Lane::new(own.clone(), geometry, LaneKind::Data)).collect(),
            readers: vec![Reader::new(Stamp(1), BucketSet([u64::MAX; 4])); 2],
            sequencer,
            regions,
            pages,
            geometry,
            sent: HashMap::new(),
            seeds: 0,
            tail: 1,
        }
    }

    fn scribble(&mut self, scribble: &Scribble) {
        let order = Ordering::SeqCst;
        let shared = self.sequencer.region();
        let hostile = &self.regions[usize::from(HOSTILE)];
        let near = |distance: i64| self.tail.wrapping_add_signed(distance).max(1);
        match *scribble {
            Scribble::Slot { slot, word } => shared.store(sequencer::SLOTS + 8 * slot, word, order),
            Scribble::Forged { distance, sender, index, bucket, lap } => {
                let stamp = near(distance);
                let lap = stamp.wrapping_add_signed(lap * SLOTS as i64);
                let word = SlotWord::new(lap, LOG2_SLOTS, AttachmentId(sender), index, Bucket(bucket));
                shared.store(sequencer::SLOTS + 8 * (stamp % SLOTS), word.0, order);
            }
            Scribble::Hint(word) => shared.store(sequencer::HINT, word, order),
            Scribble::Member { id, word, floor } => {
                let entry = sequencer::MEMBERS + u64::from(id) * sequencer::MEMBER_BYTES;
                shared.store(entry + sequencer::MEMBER_WORD, word, order);
                shared.store(entry + sequencer::MEMBER_FLOOR, floor, order);
            }
            Scribble::High(word) => shared.store(sequencer::HIGH, word, order),
            Scribble::FullSince(word) => shared.store(sequencer::FULL_SINCE, word, order),
            Scribble::Own { word_at, word } => hostile.store(8 * word_at, word, order),
            Scribble::Header { index, distance, shape, position, batch } => {
                let entry = payload::HEADERS + index * payload::ENTRY_BYTES;
                hostile.store(entry + header::STAMP, near(distance), order);
                hostile.store(entry + header::SHAPE, shape, order);
                hostile.store(entry + header::POSITION, position, order);
                hostile.store(entry + header::BATCH, batch, order);
            }
            Scribble::Cursor(word) => hostile.store(payload::CURSOR, word, order),
            Scribble::Reclaimed(word) => {
                hostile.store(payload::RECLAIMED, word, order);
                hostile.store(payload::RECLAIMED_CONTROL, word, order);
            }
        }
    }

    fn send(&mut self, who: u16, length: u64) {
        let me = usize::from(who);
        self.seeds += 1;
        let seed = self.seeds;
        let Ok(loan) = self.lanes[me].loan::<()>(&self.sequencer, &mut self.pages, length) else {
            return;
        };
        let message = Message { destinations: &[Address::group(1)], topic: seed, descriptors: 0, time: 0 };
        self.lanes[me].write(&loan, 0, &pattern(seed, length));
        let frames = [(loan, Kind::Message, message, length)];
        let result =
            self.lanes[me].publish::<()>(&self.sequencer, &mut self.pages, owner(who), &frames, |_| Ok(()));
        match result {
            Ok(published) => {
                self.sent.entry((who, published.stamp.0)).or_default().insert(seed);
                self.tail = published.stamp.0.saturating_add(1);
            }
            Err(PublishError::Full(full)) => {
                self.sequencer.full_for(full.stamp, seed);
            }
            Err(PublishError::Detached | PublishError::Spoiled(Spoiled::NoTail { .. })) => {}
            Err(e) => panic!("{e:?}"),
        }
        if result.is_err() {
            let [(loan, ..)] = frames;
            self.lanes[me].abandon(loan);
        }
    }

    fn read(&mut self, who: u16, count: u64) {
        let me = usize::from(who);
        for _ in 0..count {
            let before = self.readers[me].position();
            let step = self.readers[me].next(&self.sequencer, &mut self.pages);
            match step {
                Step::Empty => break,
                Step::Overrun => {
                    let tail = self.sequencer.find().map_or(before, |found| found.stamp);
                    self.readers[me].resume(Stamp(tail));
                }
                Step::Violation(stamp, violation) => {
                    assert_eq!(stamp.0, before);
                    assert!(!violation.to_string().is_empty());
                }
                Step::Frame(frame) => {
                    assert_eq!(frame.place.stamp.0, before);
                    // Whoever it is said to be from has this stamp in a header of its own.
                    let view = &self.pages.0[frame.sender.index()].0;
                    let word = self.sequencer.slot(before);
                    assert_eq!(word.sender(), frame.sender);
                    let entry = self.geometry.entry(word.index()).unwrap();
                    assert_eq!(view.load(entry + header::STAMP, Ordering::Relaxed), before);
                    // Its bytes are inside the mapping, and are read without harm.
                    let length = u64::from(frame.header.length);
                    let body = bytes(view, frame.offset, length);
                    let whole = intact(view, frame.lane, frame.header.serial);
                    if frame.sender.0 != HOSTILE {
                        let Header { topic, .. } = frame.header;
                        let of = self.sent.get(&(frame.sender.0, before));
                        assert!(of.is_some_and(|seeds| seeds.contains(&topic)), "a forged sender: {frame:?}");
                        assert!(!whole || body == pattern(topic, length), "others' bytes: {frame:?}");
                    }
                }
            }
            let after = &self.readers[me];
            assert!(after.position() != before || after.in_batch() || matches!(step, Step::Overrun));
        }
        if !self.readers[me].in_batch() {
            store_cursor(&self.regions[me], self.readers[me].position());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_scribbler_forges_no_sender_and_stops_no_process(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            match act {
                Act::Scribble(scribble) => world.scribble(scribble),
                Act::Send { who, length, count } => (0..*count).for_each(|_| world.send(*who, *length)),
                Act::Read { who, count } => world.read(*who, *count),
                Act::Find { hint } => {
                    let _ = world.sequencer.find_from(*hint);
                    let _ = world.sequencer.find();
                }
            }
        }
    }

    /// A batch is read to its end however often its sender changes its mind about the count.
    #[test]
    fn a_batch_ends_within_the_headers_of_its_lane(batch in wild(), index in 0..HEADERS) {
        let mut world = World::new();
        for n in 0..HEADERS {
            let message = (Kind::Message as u64) << 48;
            let shape = Scribble::Header { index: n, distance: 0, shape: message, position: 0, batch: batch | n << 16 };
            world.scribble(&shape);
        }
        let forged = Scribble::Forged { distance: 0, sender: HOSTILE, index: index as u16, bucket: 9, lap: 0 };
        world.scribble(&forged);
        let mut steps = 0;
        while world.readers[0].position() == 1 {
            let before = world.readers[0].next(&world.sequencer, &mut world.pages);
            assert!(matches!(before, Step::Frame(_) | Step::Violation(..)));
            steps += 1;
            assert!(steps <= HEADERS);
        }
    }
}

/// One relays bytes that another made: among them a header that carries a stamp to come. At that stamp a slot names it.
#[test]
fn a_header_in_a_payload_is_none() {
    header_in_a_payload(Kind::Message);
    header_in_a_payload(Kind::Control);
}

fn header_in_a_payload(kind: Kind) {
    let mut world = World::new();
    let relay = 0;
    let (length, stamp) = (4096, 2);
    let (kind, bucket) = (kind as u64, u64::from(Bucket::of(Address::group(1)).0));
    let mut fake = vec![0u8; length as usize];
    for entry in fake.chunks_mut(64) {
        for (at, word) in [
            (header::STAMP, stamp),
            (header::SHAPE, 8 | bucket << 40 | kind << 48 | u64::from(header::INLINE) << 56),
            (header::DESTINATION, Address::group(1).0),
            (header::TOPIC, 666),
            (header::BATCH, 1),
        ] {
            entry[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    let lane = &mut world.lanes[relay];
    let loan = lane.loan::<()>(&world.sequencer, &mut world.pages, length).unwrap();
    let (at, small) = (loan.offset(), lane.loan::<()>(&world.sequencer, &mut world.pages, 64).unwrap());
    lane.write(&loan, 0, &fake);
    // An inline payload stands in the header array itself, behind its header.
    lane.write(&small, 0, &fake[..64]);
    let message = Message { destinations: &[Address::group(1)], topic: 1, descriptors: 0, time: 0 };
    let frames = [(loan, Kind::Message, message, length), (small, Kind::Message, message, 64)];
    lane.publish::<()>(&world.sequencer, &mut world.pages, owner(0), &frames, |_| Ok(())).unwrap();

    let around = (at - payload::HEADERS) / payload::ENTRY_BYTES;
    let indices = (0..HEADERS + 64).chain(around.saturating_sub(40)..around + 40);
    for index in indices.filter(|i| *i <= u64::from(u16::MAX)) {
        let word = SlotWord::new(stamp, LOG2_SLOTS, AttachmentId(0), index as u16, Bucket(bucket as u8));
        world.sequencer.region().store(sequencer::SLOTS + 8 * stamp, word.0, Ordering::SeqCst);
        world.readers[1].resume(Stamp(stamp));
        let step = world.readers[1].next(&world.sequencer, &mut world.pages);
        assert!(matches!(step, Step::Violation(..)), "header {index}: {step:?}");
    }
}

/// A member word that was stored over can only say "not live"; no reader is found beyond the table.
#[test]
fn a_scan_of_a_table_of_ones_ends() {
    let world = World::new();
    let shared = world.sequencer.region();
    shared.store(sequencer::HIGH, u64::MAX, Ordering::Relaxed);
    for word in 0..1024 * sequencer::MEMBER_BYTES / 8 {
        shared.store(sequencer::MEMBERS + 8 * word, u64::MAX, Ordering::Relaxed);
    }
    let mut gate = shm_bus_ring::Gate::default();
    gate.scan(&world.sequencer, 5, &mut world.pages.clone());
    assert_eq!((gate.cached(), gate.readers().count()), (5, 0));
}
