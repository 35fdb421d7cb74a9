//! Interleavings of what the gate and the watermark guard: a join at a full ring, a lease, a reclaim.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, bucket, model, set};
use shm_bus_ring::layout::{header, payload};
use shm_bus_ring::{
    AttachmentId, Gate, Kind, Lane, LaneKind, Ordering, PublishError, Reader, ReaderState, Stamp, Step,
    fence, intact,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const OUT: (ReaderState, u64) = (ReaderState::Evicted, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

const JOINER: u16 = 0;
const OTHER: u16 = 1;

#[derive(Clone, Copy, PartialEq)]
enum Scan {
    /// As it is.
    Kept,
    /// The slot that was found does not count.
    WithoutSlot,
    /// The slot is found after the cursors were read.
    SlotLast,
    /// The reader counts from its record on, not before.
    RecordFirst,
}

/// Two slots, full. One publisher scans while a reader joins and the other reader lets the order go on. What it computes
/// holds for ever: nothing from the joiner's start on is below it.
fn join(rule: Scan) {
    model(Some(2), move || {
        let bus = Bus::new(1, 2, &[NONE, FIRST, NONE]);
        let mut lane = bus.lane(OTHER, LaneKind::Data);
        bus.publish(&mut lane, OTHER, Kind::Message, 1).unwrap();
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let (s, mut pages, mut gate) = (&there.sequencer, there.pages.clone(), Gate::default());
            let found = || s.find().unwrap().stamp;
            match rule {
                Scan::WithoutSlot => gate.scan(s, u64::MAX, &mut pages),
                Scan::SlotLast => {
                    gate.scan(s, u64::MAX, &mut pages);
                    return gate.cached().min(found());
                }
                _ => gate.scan(s, found(), &mut pages),
            }
            gate.cached()
        });

        let s = &bus.sequencer;
        let tail = || s.find().unwrap().stamp;
        bus.store_cursor(OTHER, 2);
        let count = || {
            s.members().set_reader(AttachmentId(JOINER), tail(), 0, 0);
            bus.set_reader_state(JOINER, ReaderState::Live);
        };
        if rule != Scan::RecordFirst {
            count();
        }
        let mut control = bus.lane(OTHER, LaneKind::Control);
        let joined = bus.publish(&mut control, OTHER, Kind::Control, 0).unwrap().stamp.0;
        let start = joined + 1;
        // Others fill a lap behind the record, and read it.
        for stamp in [start, start + 1] {
            bus.store_cursor(OTHER, stamp);
            let word = s.slot(stamp);
            assert!(bus.swap(OTHER, stamp, word, Ordering::SeqCst));
        }
        bus.store_cursor(OTHER, start + 2);
        if rule == Scan::RecordFirst {
            count();
        }
        bus.store_cursor(JOINER, start);
        let gate = publisher.join().unwrap();
        assert!(gate <= start, "the joiner at {start} was overrun by a gate of {gate}");
    });
}

#[test]
fn a_joiner_is_never_overrun() {
    join(Scan::Kept);
}

#[test]
#[should_panic = "was overrun"]
fn a_gate_without_the_found_slot_overruns_a_joiner() {
    join(Scan::WithoutSlot);
}

#[test]
#[should_panic = "was overrun"]
fn a_gate_with_a_slot_found_after_the_cursors_overruns_a_joiner() {
    join(Scan::SlotLast);
}

#[test]
#[should_panic = "was overrun"]
fn a_joiner_that_counts_after_its_record_is_overrun() {
    join(Scan::RecordFirst);
}

fn body(bus: &Bus, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    bus.pages.0[0].0.copy_out(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn first_published(bus: &Bus) -> Lane {
    let mut lane = bus.lane(0, LaneKind::Data);
    bus.publish(&mut lane, 0, Kind::Message, 10).unwrap();
    lane
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// As it is.
    Kept,
    /// The watermark is stored after the overwrite.
    Late,
    /// Nothing keeps the overwrite behind the watermark.
    Unfenced,
}

/// One header, hence one inline payload: it is overwritten while an evicted reader looks at it.
fn reclaim(rule: Rule) {
    model(Some(2), move || {
        let bus = Bus::with_frames_reused(2, &[NONE, OUT]);
        let mut lane = first_published(&bus);
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let own = &there.own[0];
            let overwrite = || own.store(payload::HEADERS + header::BYTES, 20, Ordering::Relaxed);
            let watermark = || own.store(payload::RECLAIMED, 1, Ordering::Relaxed);
            match rule {
                Rule::Kept => {
                    there.publish(&mut lane, 0, Kind::Message, 20).unwrap();
                }
                Rule::Late => {
                    overwrite();
                    fence(Ordering::Release);
                    watermark();
                }
                Rule::Unfenced => {
                    watermark();
                    overwrite();
                }
            }
        });
        let mut reader = Reader::new(Stamp(1), set());
        match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
            Step::Frame(frame) => {
                let body = body(&bus, frame.offset);
                let whole = intact(&bus.pages.0[0].0, frame.lane, frame.header.serial);
                assert!(!whole || body == 10, "a torn frame was taken for whole");
                assert_eq!((frame.header.topic, frame.header.serial), (10, 0), "a torn header");
                assert_eq!(frame.header.bucket, bucket());
            }
            // The header is already the next one's.
            Step::Violation(Stamp(1), _) => {}
            step => panic!("{step:?}"),
        }
        publisher.join().unwrap();
    });
}

#[test]
fn an_evicted_reader_takes_nothing_torn_for_whole() {
    reclaim(Rule::Kept);
}

#[test]
#[should_panic = "a torn frame was taken for whole"]
fn a_watermark_after_the_overwrite_lets_a_torn_frame_pass() {
    reclaim(Rule::Late);
}

#[test]
#[should_panic = "a torn frame was taken for whole"]
fn a_watermark_without_its_fence_lets_a_torn_frame_pass() {
    reclaim(Rule::Unfenced);
}

/// The same header, with a reader that counts: it reads in place and then stores its cursor (or, wrongly, before).
fn lease(cursor_first: bool) {
    model(Some(3), move || {
        let bus = Bus::with_frames_reused(2, &[NONE, FIRST]);
        let mut lane = first_published(&bus);
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let result = there.publish(&mut lane, 0, Kind::Message, 20);
            assert!(matches!(result, Ok(_) | Err(PublishError::Full(_))));
        });
        let mut reader = Reader::new(Stamp(1), set());
        match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
            Step::Frame(frame) => {
                if cursor_first {
                    bus.store_cursor(1, 2);
                }
                assert_eq!(body(&bus, frame.offset), 10, "overwritten under a lease");
                if !cursor_first {
                    assert!(intact(&bus.pages.0[0].0, frame.lane, frame.header.serial));
                    bus.store_cursor(1, 2);
                }
            }
            step => panic!("{step:?}"),
        }
        publisher.join().unwrap();
    });
}

#[test]
fn a_lease_of_a_counting_reader_holds_until_its_cursor_is_stored() {
    lease(false);
}

#[test]
#[should_panic = "overwritten under a lease"]
fn a_cursor_stored_before_the_read_loses_the_frame() {
    lease(true);
}
