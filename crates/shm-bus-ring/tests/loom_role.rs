//! Interleavings of a change of the master's role with a record of its former holder.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, model};
use shm_bus_ring::{AttachmentId, Kind, LaneKind, Ordering, PublishError, ReaderState, SlotWord};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const OLD: u16 = 0;
const NEW: u16 = 1;

/// The former holder, stopped at any instruction, publishes a record of its term; the successor takes the role and
/// publishes its `master` record. Nothing of the old term may stand behind that.
fn take_over(checks_at_the_slot: bool) {
    model(Some(3), move || {
        let bus = Bus::new(2, 1, &[NONE, NONE]);
        let term = bus.sequencer.take_term((0, AttachmentId(0)), AttachmentId(OLD)).unwrap();
        let there = bus.clone();
        let old = thread::spawn(move || {
            let holds = || there.sequencer.term() == (term, AttachmentId(OLD));
            if checks_at_the_slot {
                let mut lane = there.lane(OLD, LaneKind::Control);
                let exact = |_| if holds() { Ok(()) } else { Err(()) };
                match there.publish_if(&mut lane, OLD, Kind::Control, 0, exact) {
                    Ok(published) => Some(published.stamp.0),
                    Err(PublishError::Refused(())) => None,
                    Err(e) => panic!("{e:?}"),
                }
            } else {
                let may = holds();
                let found = there.sequencer.find().unwrap();
                (may && there.swap(OLD, found.stamp, SlotWord(0), Ordering::SeqCst)).then_some(found.stamp)
            }
        });
        let next = bus.sequencer.take_term((term, AttachmentId(OLD)), AttachmentId(NEW));
        assert_eq!(next, Ok(term + 1));
        let mut lane = bus.lane(NEW, LaneKind::Control);
        let master = bus.publish(&mut lane, NEW, Kind::Control, 0).unwrap().stamp.0;
        if let Some(stamp) = old.join().unwrap() {
            assert!(stamp < master, "a record of the old term behind the new master's");
        }
    });
}

#[test]
fn a_former_master_publishes_nothing_behind_its_successor_s_record() {
    take_over(true);
}

#[test]
#[should_panic = "a record of the old term behind the new master's"]
fn a_term_checked_before_the_slot_is_found_lets_the_old_master_speak() {
    take_over(false);
}

#[test]
fn of_two_successors_one_gets_the_term() {
    model(Some(3), || {
        let bus = Bus::new(2, 1, &[NONE, NONE]);
        let seen = bus.sequencer.term();
        let there = bus.clone();
        let other = thread::spawn(move || there.sequencer.take_term(seen, AttachmentId(2)).is_ok());
        let mine = bus.sequencer.take_term(seen, AttachmentId(1)).is_ok();
        assert!(mine != other.join().unwrap());
        let holder = if mine { AttachmentId(1) } else { AttachmentId(2) };
        assert_eq!(bus.sequencer.term(), (seen.0 + 1, holder));
    });
}
