//! Interleavings of an id that is given to another with its former owner, who was stopped somewhere.
#![cfg(loom)]

mod loom_common;

use std::collections::BTreeMap;

use loom::sync::{Arc, Mutex};
use loom::thread;
use loom_common::{Bus, GENERATION, Pages, bucket, model, set};
use shm_bus_ring::{
    AttachState, AttachmentId, Gate, Kind, LaneKind, Ordering, Owner, PublishError, Reader, ReaderState,
    Sender, Senders, SleepKind, SlotWord, Stamp, Step,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

const MASTER: u16 = 0;
const ID: u16 = 1;

/// The role's steps for an id: the state first, the record second.
fn set_state(bus: &Bus, state: AttachState) {
    let members = bus.sequencer.members();
    let word = members.word(AttachmentId(ID));
    members.exchange(AttachmentId(ID), word, word.with_attach(state)).unwrap();
}

fn record(bus: &Bus, lane: &mut shm_bus_ring::Lane) -> u64 {
    bus.publish(lane, MASTER, Kind::Control, 0).unwrap().stamp.0
}

/// The next owner of a free id, with its memory in the place of the former one's.
fn admit(bus: &Bus, lane: &mut shm_bus_ring::Lane) -> Owner {
    let (members, id) = (bus.sequencer.members(), AttachmentId(ID));
    let word = members.word(id);
    let next = shm_bus_ring::MemberWord::new(
        word.generation() + 1,
        AttachState::Joining,
        ReaderState::None,
        shm_bus_ring::Policy::Block,
        0,
    );
    members.exchange(id, word, next).unwrap();
    record(bus, lane);
    set_state(bus, AttachState::Live);
    Owner { id, generation: next.generation() }
}

/// The former owner is stopped anywhere in a publish while its id departs and is given to another.
fn publish(by_generation: bool) {
    model(Some(2), move || {
        let bus = Bus::new(3, 2, &[NONE, NONE]);
        let there = bus.clone();
        let former = thread::spawn(move || {
            if by_generation {
                let mut lane = there.lane(ID, LaneKind::Data);
                match there.publish(&mut lane, ID, Kind::Message, 10) {
                    Ok(published) => Some(published.stamp.0),
                    Err(PublishError::Detached) => None,
                    Err(e) => panic!("{e:?}"),
                }
            } else {
                // Takes "somebody of this id is live" for "I am live".
                let found = there.sequencer.find().unwrap();
                let word = there.sequencer.members().word(AttachmentId(ID));
                (word.attach() == AttachState::Live
                    && there.swap(ID, found.stamp, SlotWord(0), Ordering::SeqCst))
                .then_some(found.stamp)
            }
        });
        let mut lane = bus.lane(MASTER, LaneKind::Control);
        set_state(&bus, AttachState::Departed);
        let departed = record(&bus, &mut lane);
        set_state(&bus, AttachState::Free);
        admit(&bus, &mut lane);
        if let Some(stamp) = former.join().unwrap() {
            assert!(stamp < departed, "the former owner published in the name of the next");
        }
    });
}

#[test]
fn a_former_owner_publishes_nothing_in_the_name_of_the_next() {
    publish(true);
}

#[test]
#[should_panic = "the former owner published in the name of the next"]
fn an_id_without_its_generation_lets_a_former_owner_publish() {
    publish(false);
}

#[derive(Clone, Copy, PartialEq)]
enum Bits {
    /// As an attachment does it: under a lock that its departure takes too, and only while it is a member.
    Kept,
    /// Looks whether it is a member without the lock.
    Unlocked,
    /// Does not look.
    Unchecked,
}

/// Another thread of an attachment that closes is stopped anywhere in taking back its announcement of a sleep. Then the id
/// is another's, who sleeps.
fn wake_up(rule: Bits) {
    model(Some(3), move || {
        let bus = Bus::new(4, 2, &[NONE, NONE]);
        let sleeping = Arc::new(Mutex::new(()));
        let id = AttachmentId(ID);
        bus.sequencer.sleepers().fall_asleep(&bus.own[usize::from(ID)], id, &set(), SleepKind::Poll);
        let (there, lock) = (bus.clone(), sleeping.clone());
        let other_thread = thread::spawn(move || {
            let is_member = || {
                let word = there.sequencer.members().word(id);
                word.generation() == GENERATION && word.attach() == AttachState::Live
            };
            let leave = || there.sequencer.sleepers().leave(id, &set(), &[]);
            match rule {
                Bits::Kept => {
                    let _sleeping = lock.lock().unwrap();
                    if is_member() {
                        leave();
                    }
                }
                Bits::Unlocked => {
                    if is_member() {
                        leave();
                    }
                }
                Bits::Unchecked => leave(),
            }
        });
        // The departure takes the bits; then, all of it acknowledged, the id is free.
        let mut lane = bus.lane(MASTER, LaneKind::Control);
        {
            let _sleeping = sleeping.lock().unwrap();
            set_state(&bus, AttachState::Departed);
            bus.sequencer.sleepers().leave(id, &set(), &[]);
        }
        record(&bus, &mut lane);
        set_state(&bus, AttachState::Free);
        admit(&bus, &mut lane);
        let next = bus.sequencer.sleepers();
        next.fall_asleep(&bus.own[usize::from(ID)], id, &set(), SleepKind::Poll);
        other_thread.join().unwrap();
        assert!(next.any(bucket()), "the former owner took the bits of the next");
    });
}

#[test]
fn a_former_owner_leaves_the_next_one_s_bits_alone() {
    wake_up(Bits::Kept);
}

#[test]
#[should_panic = "the former owner took the bits of the next"]
fn a_look_at_the_member_word_without_the_lock_lets_a_former_owner_take_bits() {
    wake_up(Bits::Unlocked);
}

#[test]
#[should_panic = "the former owner took the bits of the next"]
fn bits_taken_without_a_look_are_the_next_owner_s() {
    wake_up(Bits::Unchecked);
}

/// Who is who for a reader: the master, and the owners of the id by generation, as far as they can be mapped.
struct Roster {
    master: Pages,
    owners: BTreeMap<u32, Pages>,
    now: u32,
}

impl Senders for Roster {
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>> {
        let pages = if id.0 == ID { self.owners.get_mut(&self.now) } else { Some(&mut self.master) };
        pages?.sender(id)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    /// As it is: by the records that the reader has passed.
    Records,
    /// By the member table as it is now.
    Table,
    /// By the records; but the id is given away before every reader has passed the departure.
    Early,
}

/// A message of the former owner, its departure, the admission of the next and its message. A reader that counts holds
/// the id until it has passed the departure, for the memory of the former owner goes with it. One that does not count
/// has that memory mapped already.
fn read(rule: Rule, counts: bool) {
    model(Some(2), move || {
        let state = if counts { FIRST } else { NONE };
        let bus = Bus::new(3, 2, &[NONE, NONE, state]);
        let next = Bus { sequencer: bus.sequencer.clone(), ..Bus::new(3, 2, &[NONE, NONE, state]) };
        let mut former = bus.lane(ID, LaneKind::Data);
        bus.publish(&mut former, ID, Kind::Message, 10).unwrap();
        let kept = Arc::new(Mutex::new(true));
        let (there, late, gone) = (bus.clone(), next.clone(), kept.clone());
        let role = thread::spawn(move || {
            let mut lane = there.lane(MASTER, LaneKind::Control);
            set_state(&there, AttachState::Departed);
            let departed = record(&there, &mut lane);
            let mut gate = Gate::default();
            let found = there.sequencer.find().unwrap();
            gate.scan(&there.sequencer, found.stamp, &mut there.pages.clone());
            if departed >= gate.cached() && rule != Rule::Early {
                return;
            }
            if counts {
                *gone.lock().unwrap() = false;
            }
            set_state(&there, AttachState::Free);
            let owner = admit(&there, &mut lane);
            let mut lane = late.lane(ID, LaneKind::Data);
            late.publish_as(&mut lane, owner, 20).unwrap();
        });
        let mut reader = Reader::new(Stamp(1), set());
        let mut records = 0;
        for _ in 0..4 {
            let mut owners = BTreeMap::from([(GENERATION + 1, next.pages.clone())]);
            if *kept.lock().unwrap() {
                owners.insert(GENERATION, bus.pages.clone());
            }
            let now = match rule {
                Rule::Table => bus.sequencer.members().word(AttachmentId(ID)).generation(),
                _ => GENERATION + u32::from(records == 2),
            };
            let mut roster = Roster { master: bus.pages.clone(), owners, now };
            match reader.next(&bus.sequencer, &mut roster) {
                Step::Empty => break,
                Step::Frame(frame) if frame.header.kind == Kind::Control => records += 1,
                Step::Frame(frame) => assert_eq!(frame.header.topic, if records == 0 { 10 } else { 20 }),
                step => panic!("a message was lost: {step:?}"),
            }
            bus.sequencer.store_cursor(&bus.own[2], reader.position());
        }
        role.join().unwrap();
    });
}

#[test]
fn a_message_is_read_from_whoever_had_the_id_at_its_stamp() {
    read(Rule::Records, true);
    read(Rule::Records, false);
}

#[test]
#[should_panic = "a message was lost"]
fn a_reader_that_goes_by_the_member_table_looks_into_the_wrong_memory() {
    read(Rule::Table, false);
}

#[test]
#[should_panic = "a message was lost"]
fn an_id_given_away_before_the_departure_was_passed_takes_a_message_with_it() {
    read(Rule::Early, true);
}
