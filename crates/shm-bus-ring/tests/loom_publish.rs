//! Interleavings of a publish with another publish, and with a read.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, bucket, model, set, slot_offset};
use shm_bus_ring::layout::{header, payload};
use shm_bus_ring::{
    AttachState, AttachmentId, Kind, LaneKind, Ordering, PublishError, Reader, ReaderState, SlotWord, Stamp,
    Step, intact,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);

/// What was published, in order, as a reader from the start finds it.
fn read_all(bus: &Bus) -> Vec<(u16, u64)> {
    let mut reader = Reader::new(Stamp(1), set());
    let mut senders = bus.pages.clone();
    let mut seen = Vec::new();
    loop {
        match reader.next(&bus.sequencer, &mut senders) {
            Step::Empty => return seen,
            Step::Frame(frame) => {
                assert_eq!(frame.place.stamp.0, seen.len() as u64 + 1, "a hole");
                seen.push((frame.sender.0, body(bus, frame.sender.0, frame.offset)));
            }
            step => panic!("{step:?}"),
        }
    }
}

fn body(bus: &Bus, sender: u16, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    bus.pages.0[usize::from(sender)].0.copy_out(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

#[test]
fn two_publishers_get_two_stamps_and_leave_no_hole() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let other = {
            let bus = bus.clone();
            thread::spawn(move || {
                let mut lane = bus.lane(1, LaneKind::Data);
                bus.publish(&mut lane, 1, Kind::Message, 20).unwrap().stamp.0
            })
        };
        let mut lane = bus.lane(0, LaneKind::Data);
        let first = bus.publish(&mut lane, 0, Kind::Message, 10).unwrap().stamp.0;
        let second = other.join().unwrap();
        assert_eq!(first + second, 3, "stamps {first} and {second}");
        let mut seen = read_all(&bus);
        assert_eq!(seen[first as usize - 1], (0, 10));
        seen.sort_unstable();
        assert_eq!(seen, [(0, 10), (1, 20)]);
    });
}

#[test]
fn of_three_publishes_by_two_each_is_found_in_its_sender_s_order() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let other = {
            let bus = bus.clone();
            thread::spawn(move || {
                let mut lane = bus.lane(1, LaneKind::Data);
                bus.publish(&mut lane, 1, Kind::Message, 20).unwrap();
                bus.publish(&mut lane, 1, Kind::Message, 21).unwrap();
            })
        };
        let mut lane = bus.lane(0, LaneKind::Data);
        bus.publish(&mut lane, 0, Kind::Message, 10).unwrap();
        other.join().unwrap();
        let seen = read_all(&bus);
        let of_one: Vec<_> = seen.iter().filter(|(sender, _)| *sender == 1).map(|s| s.1).collect();
        assert_eq!((seen.len(), &of_one[..]), (3, &[20, 21][..]));
    });
}

/// A store in place of the swap: of two who found the same slot, one is lost.
#[test]
#[should_panic = "stamps 1 and 1"]
fn a_slot_that_is_stored_and_not_swapped_loses_a_message() {
    fn publish(bus: &Bus, id: u16) -> u64 {
        let stamp = bus.sequencer.find().unwrap().stamp;
        let word = SlotWord::new(stamp, 2, AttachmentId(id), 0, bucket());
        bus.sequencer.region().store(slot_offset(&bus.sequencer, stamp), word.0, Ordering::SeqCst);
        stamp
    }
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let other = thread::spawn(move || publish(&there, 1));
        let first = publish(&bus, 0);
        let second = other.join().unwrap();
        assert_eq!(first + second, 3, "stamps {first} and {second}");
    });
}

/// A slot tried without a look at the one before it.
#[test]
#[should_panic = "a hole"]
fn a_slot_filled_before_its_neighbour_leaves_a_hole() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let other = thread::spawn(move || {
            // Takes "somebody is at slot 1" for "slot 1 is filled".
            let own = &there.own[1];
            own.store(payload::HEADERS + header::STAMP, 2, Ordering::Relaxed);
            there.swap(1, 2, SlotWord(0), Ordering::SeqCst);
        });
        let s = bus.sequencer.clone();
        let holes = s.is_filled(2) && !s.is_filled(1);
        other.join().unwrap();
        assert!(!holes, "a hole");
    });
}

#[test]
fn who_sees_the_slot_sees_the_frame() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let mut lane = there.lane(1, LaneKind::Data);
            there.publish(&mut lane, 1, Kind::Message, 20).unwrap();
        });
        let mut reader = Reader::new(Stamp(1), set());
        for _ in 0..2 {
            match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
                Step::Empty => thread::yield_now(),
                Step::Frame(frame) => {
                    assert_eq!((frame.header.topic, frame.header.length), (20, 8));
                    assert_eq!(body(&bus, 1, frame.offset), 20, "half a frame");
                    assert!(intact(&bus.pages.0[1].0, LaneKind::Data, frame.header.serial));
                    break;
                }
                step => panic!("{step:?}"),
            }
        }
        publisher.join().unwrap();
    });
}

/// The same publish with a relaxed swap: the slot may be seen before the frame.
#[test]
#[should_panic = "half a frame"]
fn a_relaxed_swap_shows_half_a_frame() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let own = &there.own[1];
            own.store(payload::HEADERS + header::BYTES, 20, Ordering::Relaxed);
            there.swap(1, 1, SlotWord(0), Ordering::Relaxed);
        });
        if bus.sequencer.is_filled(1) {
            assert_eq!(body(&bus, 1, payload::HEADERS + header::BYTES), 20, "half a frame");
        }
        publisher.join().unwrap();
    });
}

/// Found dead by the master's role while it publishes: its member word first, then the record.
fn zombie(checks_late: bool) {
    model(Some(3), move || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let zombie = thread::spawn(move || {
            if checks_late {
                let mut lane = there.lane(1, LaneKind::Data);
                match there.publish(&mut lane, 1, Kind::Message, 20) {
                    Ok(published) => Some(published.stamp.0),
                    Err(PublishError::Detached) => None,
                    Err(e) => panic!("{e:?}"),
                }
            } else {
                let word = there.sequencer.members().word(AttachmentId(1));
                let found = there.sequencer.find().unwrap();
                (word.attach() == AttachState::Live
                    && there.swap(1, found.stamp, SlotWord(0), Ordering::SeqCst))
                .then_some(found.stamp)
            }
        });
        let members = bus.sequencer.members();
        let word = members.word(AttachmentId(1));
        members.exchange(AttachmentId(1), word, word.with_attach(AttachState::Departed)).unwrap();
        let mut lane = bus.lane(0, LaneKind::Control);
        let departed = bus.publish(&mut lane, 0, Kind::Control, 0).unwrap().stamp.0;
        if let Some(stamp) = zombie.join().unwrap() {
            assert!(stamp < departed, "published behind its own departure");
        }
    });
}

#[test]
fn nobody_publishes_behind_its_own_departure() {
    zombie(true);
}

#[test]
#[should_panic = "published behind its own departure"]
fn a_member_word_checked_before_the_slot_is_found_lets_a_zombie_publish() {
    zombie(false);
}
