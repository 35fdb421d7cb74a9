//! What a reader counts as in a publisher's gate, whatever it writes into its own page and whoever has it mapped.
#![cfg(not(loom))]

mod common;

use common::{GENERATION, Pages, bus, set_reader_state, store_cursor};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    AttachmentId, Bucket, BucketSet, Gate, Geometry, Ordering, Peers, ReaderState, Region, Sequencer, View,
};

const READER: u16 = 0;
const BUCKET: Bucket = Bucket(9);

/// A bus with one reader that counts, joined at `floor`, whose set has one bucket.
fn reader(floor: u64) -> (Sequencer, Region, Pages) {
    let (sequencer, regions, pages) = bus(6, 1, Geometry::new(64, 1 << 16).unwrap());
    let own = regions[0].clone();
    let mut set = BucketSet::control();
    set.insert(BUCKET);
    for (i, word) in set.0.into_iter().enumerate() {
        own.store(payload::BUCKETS + 8 * i as u64, word, Ordering::Relaxed);
    }
    sequencer.members().set_reader(AttachmentId(READER), floor, 100, 0);
    set_reader_state(&sequencer, READER, ReaderState::Live);
    store_cursor(&own, floor);
    (sequencer, own, pages)
}

fn gate_at(sequencer: &Sequencer, stamp: u64, peers: &mut impl Peers) -> u64 {
    let mut gate = Gate::default();
    gate.scan(sequencer, stamp, peers);
    gate.cached()
}

/// Nobody's page is mapped.
struct Unmapped;

impl Peers for Unmapped {
    fn page(&mut self, _id: AttachmentId, _generation: u32) -> Option<View> {
        None
    }
}

#[test]
fn a_forged_cursor_counts_as_no_more_than_the_tail_and_no_less_than_the_floor() {
    let (sequencer, own, mut pages) = reader(10);
    store_cursor(&own, 15);
    assert_eq!(gate_at(&sequencer, 30, &mut pages), 15);
    store_cursor(&own, u64::MAX);
    assert_eq!(gate_at(&sequencer, 30, &mut pages), 30);
    store_cursor(&own, 0);
    assert_eq!(gate_at(&sequencer, 30, &mut pages), 10);
}

#[test]
fn a_gate_once_computed_never_falls() {
    let (sequencer, own, mut pages) = reader(10);
    let mut gate = Gate::default();
    store_cursor(&own, 20);
    gate.scan(&sequencer, 30, &mut pages);
    store_cursor(&own, 12);
    gate.scan(&sequencer, 31, &mut pages);
    assert_eq!(gate.cached(), 20);
    // What it passed then stays free; what it holds is what it says now.
    assert!(gate.has_passed(19, BUCKET) && !gate.has_passed(20, BUCKET));
}

#[test]
fn the_gate_of_nobody_is_the_slot_that_was_found() {
    let (sequencer, _own, mut pages) = reader(10);
    for state in [ReaderState::None, ReaderState::Evicted] {
        set_reader_state(&sequencer, READER, state);
        assert_eq!(gate_at(&sequencer, 30, &mut pages), 30);
    }
}

#[test]
fn a_reader_whose_page_is_not_mapped_counts_by_its_floor_and_for_every_bucket() {
    let (sequencer, own, mut pages) = reader(10);
    store_cursor(&own, 25);
    let mut gate = Gate::default();
    gate.scan(&sequencer, 30, &mut Unmapped);
    assert_eq!(gate.cached(), 10);
    assert!(!gate.has_passed(11, BUCKET) && !gate.has_passed(11, Bucket(10)));
    gate.scan(&sequencer, 30, &mut pages);
    assert!(gate.has_passed(11, BUCKET) && gate.has_passed(26, Bucket(10)) && !gate.has_passed(26, BUCKET));
}

/// The page of a former owner of the id, which that one may still write, says nothing about the next.
#[test]
fn a_page_counts_for_its_own_generation_only() {
    let (sequencer, own, mut pages) = reader(10);
    store_cursor(&own, 25);
    let members = sequencer.members();
    let word = members.word(AttachmentId(READER));
    let next = shm_bus_ring::MemberWord(word.0 & 0xFFFF_FFFF | u64::from(GENERATION + 1) << 32);
    members.exchange(AttachmentId(READER), word, next).unwrap();
    assert_eq!(gate_at(&sequencer, 30, &mut pages), 10);
}

/// Between floor and record a reader holds everything from its floor on, for its set may not be told yet.
#[test]
fn a_joining_reader_counts_by_its_floor() {
    let (sequencer, own, mut pages) = reader(10);
    store_cursor(&own, 25);
    set_reader_state(&sequencer, READER, ReaderState::Joining);
    assert_eq!(gate_at(&sequencer, 30, &mut pages), 10);
}
