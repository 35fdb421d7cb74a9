//! Interleavings of reclaim by bucket: what a reader's set holds, and what it lets go.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, bucket, model, set};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    BucketSet, Kind, LaneKind, Ordering, PublishError, Reader, ReaderState, Stamp, Step, intact,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

const PUBLISHER: u16 = 0;
const READER: u16 = 1;

fn body(bus: &Bus, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    bus.pages.0[usize::from(PUBLISHER)].0.copy_out(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// The word of a set that the group's bucket stands in, and its value without that bucket.
fn without_the_group() -> (u64, u64) {
    let nth = usize::from(bucket().0 >> 6);
    (payload::BUCKETS + 8 * nth as u64, BucketSet::control().0[nth])
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Kept,
    /// The reader takes what the group's frames say for its own business.
    LooksAtAll,
    /// The frames are freed whoever has yet to read them.
    FreesAll,
}

/// A publisher sends to a group, message after message through one header. A reader that is not in the group never holds
/// it up, and never touches what is overwritten; one that is in it holds each frame.
fn group(member: bool, rule: Rule) {
    model(Some(3), move || {
        let bus = Bus::with_frames_reused(3, &[NONE, FIRST]);
        let (word, bare) = without_the_group();
        if !member || rule == Rule::FreesAll {
            bus.own[usize::from(READER)].store(word, bare, Ordering::Relaxed);
        }
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let mut lane = there.lane(PUBLISHER, LaneKind::Data);
            for body in [10, 20] {
                match there.publish(&mut lane, PUBLISHER, Kind::Message, body) {
                    Ok(_) => {}
                    Err(PublishError::Full(full)) if member => {
                        assert_eq!(full.holder.map(|(id, _)| id.0), Some(READER));
                    }
                    Err(e) => panic!("held up by a reader of another group: {e:?}"),
                }
            }
        });
        let mine = if member || rule == Rule::LooksAtAll { set() } else { BucketSet::control() };
        let mut reader = Reader::new(Stamp(1), mine);
        loop {
            match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
                Step::Empty => break,
                Step::Frame(frame) => {
                    assert!(member || rule == Rule::LooksAtAll, "a frame of another group");
                    let view = &bus.pages.0[usize::from(PUBLISHER)].0;
                    let body = body(&bus, frame.offset);
                    assert!(intact(view, frame.lane, frame.header.serial), "freed before it was read");
                    assert_eq!(body, frame.header.topic);
                    bus.sequencer.store_cursor(&bus.own[usize::from(READER)], reader.position());
                }
                step => panic!("freed before it was read: {step:?}"),
            }
        }
        publisher.join().unwrap();
    });
}

#[test]
fn a_reader_of_a_group_holds_its_frames() {
    group(true, Rule::Kept);
}

#[test]
fn a_reader_of_another_group_holds_nothing_and_touches_nothing() {
    group(false, Rule::Kept);
}

#[test]
#[should_panic = "freed before it was read"]
fn a_reader_that_looks_at_frames_outside_its_set_finds_them_freed() {
    group(false, Rule::LooksAtAll);
}

#[test]
#[should_panic = "freed before it was read"]
fn frames_freed_whoever_has_yet_to_read_them_are_lost() {
    group(true, Rule::FreesAll);
}

/// A reader takes a group on: its set grows, its record enters the order, it reads what comes behind. The frame it reads
/// stands in the only header of a sender that frees frames by the readers' sets.
fn watch(set_first: bool) {
    model(Some(3), move || {
        let bus = Bus::with_frames_reused(3, &[NONE, FIRST]);
        let page = bus.own[1].clone();
        let word = payload::BUCKETS + 8 * u64::from(bucket().0 >> 6);
        let (with, without) = (set().0, BucketSet::control().0);
        let nth = usize::from(bucket().0 >> 6);
        page.store(word, without[nth], Ordering::Relaxed);

        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let mut lane = there.lane(0, LaneKind::Data);
            there.publish(&mut lane, 0, Kind::Message, 10).unwrap();
            let _ = there.publish(&mut lane, 0, Kind::Message, 20);
        });
        let grow = || page.store(word, with[nth], Ordering::Release);
        if set_first {
            grow();
        }
        let mut control = bus.lane(1, LaneKind::Control);
        let watched = bus.publish(&mut control, 1, Kind::Control, 0).unwrap().stamp.0;
        if !set_first {
            grow();
        }
        bus.store_cursor(1, watched + 1);
        let mut reader = Reader::new(Stamp(watched + 1), set());
        loop {
            match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
                Step::Empty => break,
                Step::Frame(frame) => {
                    let body = body(&bus, frame.offset);
                    assert_eq!(body, frame.header.topic, "freed before it was read");
                    assert!(
                        intact(&bus.pages.0[0].0, frame.lane, frame.header.serial),
                        "freed before it was read"
                    );
                }
                step => panic!("freed before it was read: {step:?}"),
            }
        }
        publisher.join().unwrap();
    });
}

#[test]
fn a_group_taken_on_is_held_from_its_record_on() {
    watch(true);
}

#[test]
#[should_panic = "freed before it was read"]
fn a_set_that_grows_behind_its_record_holds_too_little() {
    watch(false);
}
