//! Interleavings of whom a publisher chooses to wake, and how, with sleeps that begin and end.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::kernel::{Bell, Futex};
use loom_common::{Bus, bucket, model, set};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    AttachmentId, Bucket, Kind, LaneKind, Reader, ReaderState, SleepKind, Sleeper, Stamp, Step, View, Waker,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const SLEEPER: u16 = 0;
const FIRST: u16 = 1;
const SECOND: u16 = 2;

/// Where the sleeper is woken.
#[derive(Clone)]
struct Bed {
    page: View,
    futex: Futex,
    bell: Bell,
}

impl Sleeper for Bed {
    fn page(&self) -> &View {
        &self.page
    }

    fn signal(&self) {
        self.bell.ring();
    }
}

impl Bed {
    fn of(bus: &Bus) -> Bed {
        let page = bus.own[usize::from(SLEEPER)].view();
        Bed { page, futex: Futex::new(), bell: Bell::new() }
    }

    fn wake(&self, bus: &Bus, waker: &mut Waker, bucket: Bucket, tail: u64) {
        if waker.wake(&bus.sequencer, bucket, tail, |_, _| Some(self.clone())) {
            self.futex.wake();
        }
    }

    fn is_asleep(&self, kind: SleepKind) -> bool {
        match kind {
            SleepKind::Futex => self.futex.sleeps_on(),
            SleepKind::Poll => !self.bell.is_rung(),
        }
    }

    /// The sleep is over, one way or the other.
    fn leave(&self, bus: &Bus) {
        bus.sequencer.sleepers().leave(AttachmentId(SLEEPER), &set(), &[]);
        self.futex.leave();
        self.bell.drain();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Kept,
    /// The sleep is counted after the last look.
    CountLast,
    /// The sleep is counted before it is said how it is woken.
    CountFirst,
    /// The hint is loaded behind the count and the bits.
    HintLater,
    /// The sleeper says how it is woken after its last look.
    KindLast,
}

/// Announces a sleep; gives the hint to sleep on.
fn announce(bus: &Bus, kind: SleepKind, rule: Rule) -> u64 {
    let (s, own, id) = (&bus.sequencer, &bus.own[usize::from(SLEEPER)], AttachmentId(SLEEPER));
    let sleepers = s.sleepers();
    match rule {
        Rule::CountLast => sleepers.enter(id, &set(), kind),
        Rule::CountFirst | Rule::HintLater => {
            own.count(payload::SLEEP_EPOCH, 1);
            sleepers.enter(id, &set(), kind);
        }
        Rule::KindLast => return sleepers.fall_asleep(own, id, &set(), other(kind)),
        Rule::Kept => return sleepers.fall_asleep(own, id, &set(), kind),
    }
    s.hint()
}

fn other(kind: SleepKind) -> SleepKind {
    if kind == SleepKind::Futex { SleepKind::Poll } else { SleepKind::Futex }
}

/// The last look, and the sleep; `true` if the look found something.
fn look(bus: &Bus, bed: &Bed, reader: &Reader, kind: SleepKind, hint: u64, rule: Rule) -> bool {
    let (s, own, id) = (&bus.sequencer, &bus.own[usize::from(SLEEPER)], AttachmentId(SLEEPER));
    let found = reader.ready(s);
    match rule {
        Rule::CountLast => own.count(payload::SLEEP_EPOCH, 1),
        Rule::KindLast => s.sleepers().enter(id, &set(), kind),
        _ => {}
    }
    if !found && kind == SleepKind::Futex {
        bed.futex.wait(|| s.hint(), hint);
    }
    found
}

/// Two sleeps in turn, and one publisher who publishes twice and remembers what it has woken. The first message is in the
/// order, and its publisher saw the first sleep; the sleeper's last look found it. Then both go on.
fn two_sleeps(first: SleepKind, second: SleepKind, rule: Rule) {
    model(Some(3), move || {
        let bus = Bus::new(4, 2, &[NONE, NONE]);
        let bed = Bed::of(&bus);
        announce(&bus, first, if rule == Rule::CountFirst { Rule::CountFirst } else { Rule::Kept });
        let (mut lane, mut waker) = (bus.lane(FIRST, LaneKind::Data), Waker::default());
        let published = bus.publish(&mut lane, FIRST, Kind::Message, 10).unwrap();
        assert_eq!(published.wake, Some(bucket()));
        let (there, door) = (bus.clone(), bed.clone());
        let publisher = thread::spawn(move || {
            door.wake(&there, &mut waker, bucket(), 2);
            let published = there.publish(&mut lane, FIRST, Kind::Message, 10).unwrap();
            if let Some(bucket) = published.wake {
                door.wake(&there, &mut waker, bucket, 3);
            }
        });
        bed.leave(&bus);
        let mut reader = Reader::new(Stamp(1), set());
        assert!(matches!(reader.next(&bus.sequencer, &mut bus.pages.clone()), Step::Frame(_)));
        let hint = announce(&bus, second, rule);
        let found = look(&bus, &bed, &reader, second, hint, rule);
        publisher.join().unwrap();
        assert!(found || !bed.is_asleep(second), "a wake was lost");
    });
}

#[test]
fn a_publisher_that_remembers_a_wake_wakes_the_next_sleep() {
    two_sleeps(SleepKind::Futex, SleepKind::Futex, Rule::Kept);
    two_sleeps(SleepKind::Poll, SleepKind::Poll, Rule::Kept);
}

#[test]
fn whoever_sleeps_in_two_ways_in_turn_is_woken_in_the_right_one() {
    two_sleeps(SleepKind::Poll, SleepKind::Futex, Rule::Kept);
    two_sleeps(SleepKind::Futex, SleepKind::Poll, Rule::Kept);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_sleep_that_is_counted_after_the_last_look_loses_a_wake() {
    two_sleeps(SleepKind::Poll, SleepKind::Poll, Rule::CountLast);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_sleep_that_is_counted_before_its_kind_is_told_loses_a_wake() {
    two_sleeps(SleepKind::Poll, SleepKind::Futex, Rule::CountFirst);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_hint_loaded_behind_the_count_loses_a_wake() {
    two_sleeps(SleepKind::Futex, SleepKind::Futex, Rule::HintLater);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_sleeper_that_tells_how_it_sleeps_after_its_last_look_loses_a_wake() {
    two_sleeps(SleepKind::Futex, SleepKind::Poll, Rule::KindLast);
}

/// A publisher wakes everyone, because it found a ring full, say; then it publishes.
fn everyone_first(kind: SleepKind, rule: Rule) {
    model(Some(3), move || {
        let bus = Bus::new(4, 2, &[NONE, NONE]);
        let bed = Bed::of(&bus);
        let (there, door) = (bus.clone(), bed.clone());
        let publisher = thread::spawn(move || {
            let (mut lane, mut waker) = (there.lane(FIRST, LaneKind::Data), Waker::default());
            door.wake(&there, &mut waker, Bucket::MIXED, 1);
            let published = there.publish(&mut lane, FIRST, Kind::Message, 10).unwrap();
            if let Some(bucket) = published.wake {
                door.wake(&there, &mut waker, bucket, 2);
            }
        });
        let hint = announce(&bus, kind, rule);
        let found = look(&bus, &bed, &Reader::new(Stamp(1), set()), kind, hint, rule);
        publisher.join().unwrap();
        assert!(found || !bed.is_asleep(kind), "a wake was lost");
    });
}

#[test]
fn a_wake_without_a_message_takes_no_other_s_place() {
    everyone_first(SleepKind::Futex, Rule::Kept);
    everyone_first(SleepKind::Poll, Rule::Kept);
}

/// One publisher is killed before it wakes anybody; another publishes as well.
fn killed_waker(takes_the_bits: bool) {
    model(Some(2), move || {
        let bus = Bus::new(4, 1, &[NONE, NONE, NONE]);
        let bed = Bed::of(&bus);
        let there = bus.clone();
        let killed = thread::spawn(move || {
            let mut lane = there.lane(FIRST, LaneKind::Data);
            let published = there.publish(&mut lane, FIRST, Kind::Message, 10).unwrap();
            let nowhere = Bed::of(&there);
            if published.wake.is_some() {
                if takes_the_bits {
                    there.sequencer.sleepers().leave(AttachmentId(SLEEPER), &set(), &[]);
                }
                nowhere.wake(&there, &mut Waker::default(), bucket(), published.stamp.0 + 1);
            }
        });
        let (there, door) = (bus.clone(), bed.clone());
        let publisher = thread::spawn(move || {
            let mut lane = there.lane(SECOND, LaneKind::Data);
            let published = there.publish(&mut lane, SECOND, Kind::Message, 10).unwrap();
            if published.wake.is_some() {
                door.wake(&there, &mut Waker::default(), bucket(), published.stamp.0 + 1);
            }
            published.stamp.0
        });
        let reader = Reader::new(Stamp(1), set());
        let (kind, rule) = (SleepKind::Poll, Rule::Kept);
        let hint = announce(&bus, kind, rule);
        let found = look(&bus, &bed, &reader, kind, hint, rule);
        killed.join().unwrap();
        publisher.join().unwrap();
        assert!(found || !bed.is_asleep(kind), "a killed publisher stranded another's message");
    });
}

#[test]
fn a_publisher_killed_before_its_wake_strands_its_own_message_only() {
    killed_waker(false);
}

#[test]
#[should_panic = "a killed publisher stranded another's message"]
fn a_waker_that_takes_the_sleeper_s_bits_strands_the_message_of_another() {
    killed_waker(true);
}
