//! The role between two of its steps, played by hand: no control thread runs here.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::reign::Former;
use super::*;
use crate::attach::{self, Attached, Place};
use crate::publisher::{Envelope, Publisher};
use crate::replica::Replica;
use crate::{AttachOptions, MasterMode};

/// A bus of 256 slots whose founder is its only attachment, in a runtime directory of its own.
struct Hand {
    role: Role,
    shared: Arc<Shared>,
    place: Option<Place>,
    directory: PathBuf,
}

impl Hand {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("shm-bus-role-{}-{n}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let options = AttachOptions {
            master: MasterMode::Only,
            log2_slots: 8,
            ring_bytes: 1 << 16,
            headers: 64,
            runtime_directory: Some(directory.clone()),
            ..Default::default()
        };
        let Attached { parted, place } = attach::attach("test", &options).unwrap();
        let role = parted.role.expect("it has founded the bus");
        Hand { role, shared: parted.shared, place: Some(place), directory }
    }

    fn group(&mut self, name: &str) -> Address {
        self.role.open(FIRST_CLIENT, 0, vec![name.into()]);
        assert!(self.role.tick().is_ok());
        self.role.directory.group_named(name).unwrap()
    }

    fn join(&mut self, group: Address) {
        let policy = WirePolicy::Block { deadline: 10_000 };
        self.role.join(FIRST_CLIENT, self.shared.member, 0, vec![group.0], policy);
    }

    /// The first half of what the role does for the record that is next.
    fn count(&mut self) {
        let (record, mut then) = self.role.queue.pop_front().unwrap();
        assert!(self.role.prepare(&mut then).is_none());
        self.role.queue.push_front((record, then));
    }

    fn word(&self) -> MemberWord {
        self.role.word(self.shared.member)
    }

    /// What a publisher does that is killed right behind its swap.
    fn evict_in_silence(&self) {
        let word = self.word();
        let evicted = word.with_reader(ReaderState::Evicted).with_eviction();
        self.shared.sequencer.members().exchange(self.shared.owner().id, word, evicted).unwrap();
    }

    /// A second member without a process of its own, whose attach record is in the order.
    fn ghost(&mut self) -> MemberId {
        let member = MemberId { id: 5, generation: 1 };
        self.store_word(member, AttachState::Live);
        let credentials = Credentials { pid: 0, start_time: 0, uid: 0, gid: 0 };
        self.role.enqueue(Record::Attached { member, address: 5, credentials }, Then::Nothing);
        assert!(self.role.tick().is_ok());
        member
    }

    fn store_word(&self, member: MemberId, state: AttachState) {
        let (members, id) = (self.shared.sequencer.members(), AttachmentId(member.id));
        members.cover(id);
        let word = MemberWord::new(member.generation, state, ReaderState::None, Policy::Block, 0);
        members.exchange(id, members.word(id), word).unwrap();
    }

    /// Another takes the role over, knowing what the directory says.
    fn succeed(&mut self) {
        let replica = Replica::new(&self.shared).unwrap();
        let record = Record::Master { member: self.shared.member };
        let stamp = self.role.put_in_order(&record).unwrap_or_else(|_| panic!("it has the term"));
        let former = Former { id: self.shared.owner().id, has_hung_up: false };
        assert!(self.role.succeed(&replica, stamp, &record, former).is_ok());
    }

    /// The records that wait for the order, by name.
    fn waiting(&self) -> Vec<&'static str> {
        let name = |record: &Record| match record {
            Record::Evicted { .. } => "evicted",
            Record::Joined { .. } => "joined",
            Record::Departed { .. } => "departed",
            _ => "other",
        };
        self.role.queued().map(name).collect()
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            place.clear_if_last();
        }
        if !std::thread::panicking() {
            std::fs::remove_dir(&self.directory).expect("nothing is left behind");
        }
    }
}

#[test]
fn a_join_record_is_not_held_up_by_the_floor_of_its_reader() {
    let mut hand = Hand::new();
    let (g, other) = (hand.group("g"), hand.group("other"));
    let mut publisher = Publisher::new(hand.shared.clone()).unwrap();
    hand.join(g);
    hand.count();
    let floor = hand.shared.sequencer.members().read(hand.shared.owner().id).floor;
    // The role stands between floor and record for as long as others take to fill the ring.
    while publisher.publish(&[other], b"x", Envelope::default()).is_ok() {}
    assert_eq!(hand.shared.sequencer.find().unwrap().stamp, floor + 256);
    assert!(hand.role.tick().is_ok());
    assert!(hand.waiting().is_empty(), "the record is in the order");
    assert!(hand.word().counts(), "its reader has its place");
    publisher.publish(&[other], b"x", Envelope::default()).unwrap();
}

#[test]
fn a_reader_that_counts_already_keeps_its_floor() {
    let mut hand = Hand::new();
    let (g, other) = (hand.group("g"), hand.group("other"));
    let mut publisher = Publisher::new(hand.shared.clone()).unwrap();
    hand.join(g);
    assert!(hand.role.tick().is_ok());
    let floor = hand.shared.sequencer.members().read(hand.shared.owner().id).floor;
    hand.join(other);
    while publisher.publish(&[other], b"x", Envelope::default()).is_ok() {}
    assert!(hand.role.tick().is_ok());
    assert_eq!(hand.waiting(), ["joined"]);
    assert_eq!(hand.shared.sequencer.members().read(hand.shared.owner().id).floor, floor);
}

#[test]
fn an_eviction_that_nobody_reported_is_recorded_before_its_reader_joins_again() {
    let mut hand = Hand::new();
    let g = hand.group("g");
    hand.join(g);
    assert!(hand.role.tick().is_ok());
    for _ in 0..2 {
        hand.evict_in_silence();
        hand.join(g);
        assert_eq!(hand.waiting(), ["evicted", "joined"]);
        assert!(hand.role.tick().is_ok());
        assert!(hand.word().counts());
    }
}

#[test]
fn an_eviction_is_recorded_once_whoever_looks() {
    let mut hand = Hand::new();
    let g = hand.group("g");
    hand.join(g);
    assert!(hand.role.tick().is_ok());
    hand.evict_in_silence();
    for _ in 0..2 {
        hand.role.record_eviction(hand.shared.member.id);
        assert_eq!(hand.waiting(), ["evicted"]);
    }
    assert!(hand.role.tick().is_ok());
    // Nor does a successor find anything to say.
    assert_eq!((hand.word().reader(), hand.word().evictions()), (ReaderState::None, 1));
    hand.role.record_eviction(hand.shared.member.id);
    assert!(hand.waiting().is_empty());
}

#[test]
fn a_member_is_gone_in_its_word_before_its_record_is_in_the_order() {
    let mut hand = Hand::new();
    let ghost = hand.ghost();
    hand.role.retire(ghost, None, Departure::Died, false);
    assert_eq!(hand.waiting(), ["departed"]);
    assert_eq!(hand.role.word(ghost).attach(), AttachState::Departed);
}

#[test]
fn an_id_is_free_once_its_departure_is_passed_and_its_owner_gone() {
    let mut hand = Hand::new();
    let (g, ghost) = (hand.group("g"), hand.ghost());
    hand.join(g);
    assert!(hand.role.tick().is_ok());
    hand.role.retire(ghost, None, Departure::Died, false);
    assert!(hand.role.tick().is_ok());
    // The reader is where it joined, and the process (this one, say) lives.
    hand.role.retired[0].pidfd = Some(process::pidfd_open(process::pid()).unwrap());
    let free = |hand: &mut Hand| {
        hand.role.reuse();
        hand.role.word(ghost).attach() == AttachState::Free
    };
    assert!(!free(&mut hand));
    hand.role.retired[0].acknowledged = true;
    assert!(!free(&mut hand), "a reader has yet to pass it");
    hand.role.retired[0].acknowledged = false;
    let tail = hand.shared.sequencer.find().unwrap().stamp;
    hand.shared.sequencer.store_cursor(&hand.shared.own.region, tail);
    assert!(!free(&mut hand), "its owner is still there");
    hand.role.retired[0].acknowledged = true;
    assert!(free(&mut hand));
}

#[test]
fn a_successor_records_a_departure_that_its_predecessor_had_begun_and_no_other() {
    let mut hand = Hand::new();
    let ghost = hand.ghost();
    hand.store_word(ghost, AttachState::Departed);
    hand.succeed();
    assert_eq!(hand.waiting(), ["departed"], "word first: the record was missing");
    assert!(hand.role.tick().is_ok());
    hand.role.retired.clear();
    hand.succeed();
    assert!(hand.waiting().is_empty(), "it departs once");
    assert!(hand.role.retired.iter().any(|r| r.member == ghost), "and its id becomes free");
}

#[test]
fn a_successor_lets_go_of_whoever_was_half_admitted() {
    let mut hand = Hand::new();
    let ghost = MemberId { id: 7, generation: 3 };
    hand.store_word(ghost, AttachState::Joining);
    hand.succeed();
    assert_eq!(hand.role.word(ghost).attach(), AttachState::Free);
    assert!(hand.waiting().is_empty(), "nobody but its owner knows of it");
}
