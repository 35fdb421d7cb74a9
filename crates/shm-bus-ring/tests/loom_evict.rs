//! Interleavings of taking a reader's place with whatever the reader does meanwhile.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, model, set};
use shm_bus_ring::{
    AttachmentId, Kind, Lane, LaneKind, PublishError, Reader, ReaderState, Stamp, Step, intact,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

const PUBLISHER: u16 = 0;
const READER: u16 = 1;
const OTHER: u16 = 2;

/// Joins the evicted reader again, as the master's role does: at the tail.
fn join_again(bus: &Bus) {
    let floor = bus.sequencer.find().unwrap().stamp;
    bus.sequencer.members().set_reader(AttachmentId(READER), floor, 0, 0);
    bus.set_reader_state(READER, ReaderState::Live);
}

/// Two who want the same place. One of them is the one whose reader is joined again afterwards.
fn two_evict(counted: bool) {
    model(Some(3), move || {
        let bus = Bus::new(1, 2, &[NONE, FIRST, NONE]);
        let there = bus.clone();
        let evict = move |bus: &Bus| {
            let (members, reader) = (bus.sequencer.members(), AttachmentId(READER));
            let seen = members.word(reader);
            let taken = if counted {
                members.evict(reader, seen)
            } else {
                seen.reader() == ReaderState::Live
                    && members.exchange(reader, seen, seen.with_reader(ReaderState::Evicted)).is_ok()
            };
            taken.then_some(seen.evictions())
        };
        let late = thread::spawn(move || evict(&there));
        let first = evict(&bus);
        if first.is_some() {
            join_again(&bus);
        }
        let taken: Vec<u8> = [first, late.join().unwrap()].into_iter().flatten().collect();
        let word = bus.sequencer.members().word(AttachmentId(READER));
        assert!(matches!(taken[..], [0] | [0, 1]), "one place was taken twice: {taken:?}");
        assert_eq!(usize::from(word.evictions()), taken.len());
        let stands = word.reader() == ReaderState::Live;
        assert_eq!(stands, first.is_some() && taken.len() == 1);
    });
}

#[test]
fn of_two_who_evict_one_takes_the_place_and_neither_the_next() {
    two_evict(true);
}

#[test]
#[should_panic = "one place was taken twice"]
fn an_eviction_that_is_not_counted_takes_the_place_after() {
    two_evict(false);
}

/// Two publishers find the order ring full of a reader that does not move. Each evicts it and goes on.
#[test]
fn two_publishers_that_evict_at_once_both_publish() {
    model(Some(2), || {
        let bus = Bus::new(1, 1, &[NONE, FIRST, NONE]);
        let mut control = bus.lane(OTHER, LaneKind::Control);
        bus.publish(&mut control, OTHER, Kind::Control, 0).unwrap();
        bus.publish(&mut control, OTHER, Kind::Control, 0).unwrap();
        let publish = |bus: Bus, id: u16| {
            let mut lane = bus.lane(id, LaneKind::Data);
            loop {
                match bus.publish(&mut lane, id, Kind::Message, 10) {
                    Ok(published) => return published.stamp.0,
                    Err(PublishError::Full(full)) => {
                        assert_eq!(full.holder, Some((AttachmentId(READER), 1)));
                        let members = bus.sequencer.members();
                        members.evict(AttachmentId(READER), members.word(AttachmentId(READER)));
                    }
                    Err(e) => panic!("{e:?}"),
                }
            }
        };
        let there = bus.clone();
        let other = thread::spawn(move || publish(there, OTHER));
        let stamps = publish(bus.clone(), PUBLISHER) + other.join().unwrap();
        assert_eq!(stamps, 3 + 4);
        assert_eq!(bus.sequencer.members().word(AttachmentId(READER)).evictions(), 1);
    });
}

#[derive(Clone, Copy, PartialEq)]
enum Judge {
    /// As it is: what was read is whole if its serial is not below the watermark.
    Watermark,
    /// What was read is whole if the reader has its place afterwards.
    Place,
    /// What was read is whole if the reader had its place before.
    PlaceBefore,
}

fn body(bus: &Bus, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    bus.pages.0[usize::from(PUBLISHER)].0.copy_out(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn publish_over(bus: &Bus, lane: &mut Lane, body: u64, evicts: bool) {
    let mut result = bus.publish(lane, PUBLISHER, Kind::Message, body);
    if evicts && matches!(result, Err(PublishError::Full(_))) {
        let members = bus.sequencer.members();
        members.evict(AttachmentId(READER), members.word(AttachmentId(READER)));
        result = bus.publish(lane, PUBLISHER, Kind::Message, body);
        assert!(result.is_ok());
    }
}

/// A reader looks at a frame under a lease and stores its cursor, while its place is taken and the frame overwritten; then
/// it may be joined again.
fn lease(judge: Judge, joined_again: bool) {
    model(Some(2), move || {
        let bus = Bus::with_frames_reused(3, &[NONE, FIRST]);
        let mut lane = bus.lane(PUBLISHER, LaneKind::Data);
        bus.publish(&mut lane, PUBLISHER, Kind::Message, 10).unwrap();
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            publish_over(&there, &mut lane, 20, true);
            let evicted = there.sequencer.members().word(AttachmentId(READER)).evictions() == 1;
            if joined_again && evicted {
                join_again(&there);
            }
        });
        let place = || bus.sequencer.members().word(AttachmentId(READER));
        let mut reader = Reader::new(Stamp(1), set());
        match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
            Step::Frame(frame) => {
                let before = place();
                let body = body(&bus, frame.offset);
                let whole = match judge {
                    Judge::Watermark => {
                        intact(&bus.pages.0[usize::from(PUBLISHER)].0, frame.lane, frame.header.serial)
                    }
                    Judge::Place => place().counts(),
                    Judge::PlaceBefore => before.counts(),
                };
                assert!(!whole || body == 10, "{body} was taken for whole");
                if whole {
                    bus.sequencer.store_cursor(&bus.own[usize::from(READER)], 2);
                }
            }
            // Overwritten: the member word says so, for it was changed first.
            Step::Violation(..) => assert_eq!(place().evictions(), 1, "lost, and not evicted"),
            step => panic!("{step:?}"),
        }
        publisher.join().unwrap();
    });
}

#[test]
fn whoever_is_evicted_under_a_lease_finds_out_when_it_ends() {
    lease(Judge::Watermark, true);
}

#[test]
#[should_panic = "was taken for whole"]
fn a_lease_judged_by_the_place_passes_torn_frames_once_the_reader_has_joined_again() {
    lease(Judge::Place, true);
}

#[test]
#[should_panic = "was taken for whole"]
fn a_lease_judged_by_the_place_before_it_was_read_passes_torn_frames() {
    lease(Judge::PlaceBefore, false);
}

/// One evicts, another overwrites: whoever finds a frame gone finds itself evicted.
fn evicted_by_another(word_first: bool) {
    model(Some(2), move || {
        let bus = Bus::with_frames_reused(3, &[NONE, FIRST, NONE]);
        let mut lane = bus.lane(PUBLISHER, LaneKind::Data);
        bus.publish(&mut lane, PUBLISHER, Kind::Message, 10).unwrap();
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            if !word_first {
                // Goes by something else than the member word: the reader's page, say.
                there.store_cursor(READER, 2);
            }
            publish_over(&there, &mut lane, 20, false)
        });
        let there = bus.clone();
        let evictor = thread::spawn(move || {
            let members = there.sequencer.members();
            members.evict(AttachmentId(READER), members.word(AttachmentId(READER)))
        });
        let mut reader = Reader::new(Stamp(1), set());
        let lost = match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
            Step::Frame(_) => false,
            Step::Violation(..) => true,
            step => panic!("{step:?}"),
        };
        let evicted = bus.sequencer.members().word(AttachmentId(READER)).evictions() == 1;
        assert!(!lost || evicted, "a frame was lost, and its reader not evicted");
        publisher.join().unwrap();
        assert!(evictor.join().unwrap());
    });
}

#[test]
fn whoever_loses_a_frame_is_evicted_by_then() {
    evicted_by_another(true);
}

#[test]
#[should_panic = "a frame was lost, and its reader not evicted"]
fn a_frame_freed_before_the_eviction_is_lost_in_silence() {
    evicted_by_another(false);
}
