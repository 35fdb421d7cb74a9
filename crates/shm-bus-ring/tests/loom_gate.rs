//! Interleavings of what the gate and the watermark guard: a join at a full ring, a lease, a reclaim.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, bucket, model, set};
use shm_bus_ring::layout::{header, payload};
use shm_bus_ring::{
    AttachmentId, Gate, Kind, Lane, LaneKind, Ordering, PublishError, Reader, ReaderState, Sequencer, Stamp,
    Step, fence, intact,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const OUT: (ReaderState, u64) = (ReaderState::Evicted, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

const JOINER: u16 = 0;
const OTHER: u16 = 1;
const PUBLISHER: u16 = 2;

/// A publisher whose gate does not count the slot that it found before the first cursor.
fn publish_with_gate_of_cursors_alone(bus: &Bus) {
    let mut gate = Gate::default();
    for _ in 0..3 {
        let found = bus.sequencer.find().unwrap();
        if found.stamp.saturating_sub(gate.cached()) >= bus.sequencer.slot_count() {
            gate.scan(&bus.sequencer, u64::MAX, &mut bus.pages.clone());
            if found.stamp.saturating_sub(gate.cached()) >= bus.sequencer.slot_count() {
                return;
            }
        }
        let word = bus.sequencer.slot(found.stamp);
        let old = found.stamp - bus.sequencer.slot_count();
        if word.laps_ahead(old, bus.sequencer.log2_slots()) == 0
            && bus.swap(PUBLISHER, found.stamp, word, Ordering::SeqCst)
        {
            return;
        }
    }
}

/// Two slots, full. One publisher scans while a reader joins and the other reader lets the order go on.
fn join(preemptions: Option<usize>, with_slot: bool) {
    model(preemptions, move || {
        let bus = Bus::new(1, 2, &[NONE, FIRST, NONE]);
        let mut lane = bus.lane(OTHER, LaneKind::Data);
        bus.publish(&mut lane, OTHER, Kind::Message, 1).unwrap();
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            if with_slot {
                let mut lane = there.lane(PUBLISHER, LaneKind::Data);
                let result = there.publish(&mut lane, PUBLISHER, Kind::Message, 9);
                assert!(matches!(result, Ok(_) | Err(PublishError::Full(_))), "{result:?}");
            } else {
                publish_with_gate_of_cursors_alone(&there);
            }
        });

        let tail = |s: &Sequencer| s.find().unwrap().stamp;
        bus.store_cursor(OTHER, 2);
        let floor = tail(&bus.sequencer);
        bus.sequencer.members().set_reader(AttachmentId(JOINER), floor, 0, 0);
        bus.set_reader_state(JOINER, ReaderState::Live);
        let mut control = bus.lane(OTHER, LaneKind::Control);
        let mut joined = None;
        for _ in 0..2 {
            match bus.publish(&mut control, OTHER, Kind::Control, 0) {
                Ok(published) => {
                    joined = Some(published.stamp.0);
                    break;
                }
                Err(PublishError::Full(_)) => bus.store_cursor(OTHER, tail(&bus.sequencer)),
                Err(e) => panic!("{e:?}"),
            }
        }
        let joined = joined.expect("room for the record");
        bus.store_cursor(JOINER, joined + 1);
        for body in 2..4 {
            bus.store_cursor(OTHER, tail(&bus.sequencer));
            let _ = bus.publish(&mut lane, OTHER, Kind::Message, body);
        }
        bus.store_cursor(OTHER, tail(&bus.sequencer));
        publisher.join().unwrap();

        let mut position = joined + 1;
        while bus.sequencer.is_filled(position) {
            let word = bus.sequencer.slot(position);
            assert_eq!(word.laps_ahead(position, 1), 0, "the joiner was overrun");
            position += 1;
        }
    });
}

#[test]
fn a_joiner_is_never_overrun() {
    join(Some(2), true);
}

#[test]
#[should_panic = "the joiner was overrun"]
fn a_gate_without_the_found_slot_overruns_a_joiner() {
    join(Some(2), false);
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
