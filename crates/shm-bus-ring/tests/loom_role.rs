//! Interleavings of a change of the master's role with records of its former holder, and of records with exact sends.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, model, owner};
use shm_bus_ring::layout::sequencer;
use shm_bus_ring::{
    AttachmentId, Bucket, Fenced, Kind, Lane, LaneKind, Ordering, Proof, PublishError, ReaderState, SlotWord,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const OLD: u16 = 0;
const NEW: u16 = 1;
const PUBLISHER: u16 = 2;

/// Puts a record into the order as the role does; gives its stamp.
fn record(bus: &Bus, lane: &mut Lane, id: u16, term: u64) -> Result<u64, Fenced> {
    match lane.record(&bus.sequencer, &mut bus.pages.clone(), owner(id), term, &[], 0) {
        Ok(published) => Ok(published.stamp.0),
        Err(PublishError::Refused(fenced)) => Err(fenced),
        Err(e) => panic!("{e:?}"),
    }
}

/// The former holder, stopped at any instruction, publishes a record of its term; the successor takes the role and
/// publishes its `master` record. Nothing of the old term may stand behind that.
fn take_over(checks_at_the_slot: bool) {
    model(Some(3), move || {
        let bus = Bus::new(2, 1, &[NONE, NONE]);
        let term = bus.sequencer.take_term((0, AttachmentId(0)), AttachmentId(OLD)).unwrap();
        let there = bus.clone();
        let old = thread::spawn(move || {
            if checks_at_the_slot {
                record(&there, &mut there.lane(OLD, LaneKind::Control), OLD, term).ok()
            } else {
                let may = there.sequencer.term() == (term, AttachmentId(OLD));
                let found = there.sequencer.find().unwrap();
                (may && there.swap(OLD, found.stamp, SlotWord(0), Ordering::SeqCst)).then_some(found.stamp)
            }
        });
        let next = bus.sequencer.take_term((term, AttachmentId(OLD)), AttachmentId(NEW)).unwrap();
        assert_eq!(next, term + 1);
        let master = record(&bus, &mut bus.lane(NEW, LaneKind::Control), NEW, next).unwrap();
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

/// A record of the old term is announced and settled, or given up, around the whole first record of the new one. The
/// control word is busy while that is on its way, and moved by nobody afterwards.
fn stale_control(of_its_term: bool) {
    model(Some(3), move || {
        let bus = Bus::new(2, 1, &[NONE, NONE]);
        let term = bus.sequencer.take_term((0, AttachmentId(0)), AttachmentId(OLD)).unwrap();
        let there = bus.clone();
        let old = thread::spawn(move || {
            let _ = record(&there, &mut there.lane(OLD, LaneKind::Control), OLD, term);
            if of_its_term {
                there.sequencer.settle_control(term);
            } else {
                // Takes the announcement that it finds for its own.
                let region = there.sequencer.region();
                region.fetch_and(sequencer::CONTROL, !0xFF, Ordering::SeqCst);
            }
        });
        let next = bus.sequencer.take_term((term, AttachmentId(OLD)), AttachmentId(NEW)).unwrap();
        record(&bus, &mut bus.lane(NEW, LaneKind::Control), NEW, next).unwrap();
        let announced = bus.sequencer.control();
        assert!(announced.is_busy() && announced.is_of(next), "a record was settled by another");
        bus.sequencer.settle_control(next);
        let settled = bus.sequencer.control();
        old.join().unwrap();
        assert!(!settled.is_busy());
        assert_eq!(bus.sequencer.control(), settled, "a former master moved the control word");
    });
}

#[test]
fn a_stale_term_moves_no_control_word() {
    stale_control(true);
}

#[test]
#[should_panic = "a record was settled by another"]
fn a_control_word_without_a_term_is_settled_by_a_former_master() {
    stale_control(false);
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Kept,
    /// The record is not announced.
    Unannounced,
    /// The record is settled before it is in the order.
    SettledEarly,
    /// What is known is compared before the slot is found.
    ProofFirst,
    /// What is applied counts as known though a record is on its way.
    BusyIgnored,
    /// What is known below a slot counts as all that is known, though that slot has been filled meanwhile.
    SlotIgnored,
}

/// A publisher that sends to whom the records name: it applies every record below the slot that it fills.
struct Exact {
    proof: Proof,
    /// For those who break a rule: the word that they took for a proof.
    word: Option<u64>,
    rule: Rule,
}

impl Exact {
    /// Whether a record was found below `stamp`.
    fn scan(bus: &Bus, stamp: u64) -> Result<(), ()> {
        let control = |at| bus.sequencer.slot(at).bucket() == Bucket::CONTROL;
        if (1..stamp).any(control) { Err(()) } else { Ok(()) }
    }

    fn word(bus: &Bus) -> u64 {
        bus.sequencer.region().load(sequencer::CONTROL, Ordering::SeqCst)
    }

    /// `Err` if a record says that the destination is gone.
    fn check(&mut self, bus: &Bus, stamp: u64) -> Result<(), ()> {
        match self.rule {
            Rule::BusyIgnored | Rule::SlotIgnored => {
                let word = Self::word(bus);
                if self.word == Some(word) {
                    return Ok(());
                }
                Self::scan(bus, stamp)?;
                let busy = word & 0xFF != 0 && self.rule != Rule::BusyIgnored;
                let filled = bus.sequencer.is_filled(stamp) && self.rule != Rule::SlotIgnored;
                self.word = (!busy && !filled).then_some(word);
                Ok(())
            }
            _ if self.proof.holds(&bus.sequencer) => Ok(()),
            _ => self.proof.renew(&bus.sequencer, stamp, |_| Self::scan(bus, stamp)),
        }
    }

    /// Publishes; gives the stamp, or nothing if the destination is known to be gone.
    fn send(&mut self, bus: &Bus, lane: &mut Lane) -> Option<u64> {
        let known = self.rule == Rule::ProofFirst && self.proof.holds(&bus.sequencer);
        let exact = |stamp| if known { Ok(()) } else { self.check(bus, stamp) };
        match bus.publish_if(lane, PUBLISHER, Kind::Message, 10, exact) {
            Ok(published) => Some(published.stamp.0),
            Err(PublishError::Refused(())) => None,
            Err(e) => panic!("{e:?}"),
        }
    }
}

/// Two sends by one publisher, and the record that its destination is gone.
fn exact(rule: Rule) {
    model(Some(3), move || {
        let bus = Bus::new(3, 2, &[NONE, NONE, NONE]);
        let term = bus.sequencer.take_term((0, AttachmentId(0)), AttachmentId(OLD)).unwrap();
        let mut control = bus.lane(OLD, LaneKind::Control);
        let there = bus.clone();
        let master = thread::spawn(move || {
            if rule == Rule::Unannounced {
                let gone = there.publish(&mut control, OLD, Kind::Control, 0).unwrap().stamp.0;
                let region = there.sequencer.region();
                region.fetch_add(sequencer::CONTROL, 1 << 8, Ordering::SeqCst);
                return gone;
            }
            if rule == Rule::SettledEarly {
                let region = there.sequencer.region();
                region.fetch_add(sequencer::CONTROL, 1 << 8, Ordering::SeqCst);
                return there.publish(&mut control, OLD, Kind::Control, 0).unwrap().stamp.0;
            }
            let gone = record(&there, &mut control, OLD, term).unwrap();
            there.sequencer.settle_control(term);
            gone
        });
        let mut sender = Exact { proof: Proof::default(), word: None, rule };
        let mut lane = bus.lane(PUBLISHER, LaneKind::Data);
        let sent: Vec<u64> = (0..2).map_while(|_| sender.send(&bus, &mut lane)).collect();
        let gone = master.join().unwrap();
        assert!(sent.iter().all(|stamp| *stamp < gone), "sent at {sent:?} to one gone at {gone}");
    });
}

#[test]
fn nobody_sends_behind_the_record_that_the_destination_is_gone() {
    exact(Rule::Kept);
}

#[test]
#[should_panic = "to one gone at"]
fn a_record_that_is_not_announced_is_missed() {
    exact(Rule::Unannounced);
}

#[test]
#[should_panic = "to one gone at"]
fn a_record_that_is_settled_before_it_is_in_the_order_is_missed() {
    exact(Rule::SettledEarly);
}

#[test]
#[should_panic = "to one gone at"]
fn a_proof_looked_at_before_the_slot_is_found_misses_a_record() {
    exact(Rule::ProofFirst);
}

#[test]
#[should_panic = "to one gone at"]
fn a_proof_made_while_a_record_is_on_its_way_misses_it() {
    exact(Rule::BusyIgnored);
}

#[test]
#[should_panic = "to one gone at"]
fn a_proof_made_for_a_slot_that_a_record_has_taken_misses_it() {
    exact(Rule::SlotIgnored);
}

/// The record is that of a master which is stopped somewhere in it, while another takes its role. The record is in the
/// order below the new master's or not at all, and whoever sends behind it knows it.
#[test]
fn nobody_sends_behind_a_record_of_a_master_that_was_stopped_in_it() {
    model(Some(2), || {
        let bus = Bus::new(3, 2, &[NONE, NONE, NONE]);
        let term = bus.sequencer.take_term((0, AttachmentId(0)), AttachmentId(OLD)).unwrap();
        let there = bus.clone();
        let old = thread::spawn(move || {
            let gone = record(&there, &mut there.lane(OLD, LaneKind::Control), OLD, term);
            there.sequencer.settle_control(term);
            gone.ok()
        });
        let there = bus.clone();
        let new = thread::spawn(move || {
            let next = there.sequencer.take_term((term, AttachmentId(OLD)), AttachmentId(NEW)).unwrap();
            let master = record(&there, &mut there.lane(NEW, LaneKind::Control), NEW, next).unwrap();
            there.sequencer.settle_control(next);
            master
        });
        // Any record stands for the one that matters, so the first it finds ends its sends.
        let mut sender = Exact { proof: Proof::default(), word: None, rule: Rule::Kept };
        let mut lane = bus.lane(PUBLISHER, LaneKind::Data);
        let sent = sender.send(&bus, &mut lane);
        let (gone, master) = (old.join().unwrap(), new.join().unwrap());
        let first = gone.map_or(master, |gone| gone.min(master));
        assert!(gone.is_none_or(|gone| gone < master));
        assert!(sent.is_none_or(|stamp| stamp < first), "sent at {sent:?} to one gone at {first}");
    });
}
