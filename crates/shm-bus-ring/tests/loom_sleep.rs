//! Interleavings of going to sleep with what should wake.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::kernel::Futex;
use loom_common::{Bus, bucket, model, set};
use shm_bus_ring::layout::sequencer;
use shm_bus_ring::{AttachmentId, Kind, LaneKind, Ordering, Reader, ReaderState, SleepKind, Stamp};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Kept,
    /// The last look comes before the bits.
    LookFirst,
    /// The hint is loaded after the last look.
    HintLast,
    /// No fence between the bits and the last look.
    Unfenced,
    /// The publisher wakes without raising the hint.
    HintNotRaised,
    /// The publisher looks for sleepers before it fills the slot.
    SleepersFirst,
}

fn go_to_sleep(bus: &Bus, id: u16, futex: &Futex, rule: Rule) {
    let s = &bus.sequencer;
    let reader = Reader::new(Stamp(1), set());
    let bits = || s.sleepers().enter(AttachmentId(id), &set(), SleepKind::Futex);
    let (found, hint) = match rule {
        Rule::LookFirst => {
            let found = reader.ready(s);
            bits();
            (found, s.hint())
        }
        Rule::HintLast => {
            bits();
            let found = reader.ready(s);
            (found, s.hint())
        }
        Rule::Unfenced => {
            for row in [u64::from(bucket().0), 255] {
                let row = sequencer::SLEEPERS + row * sequencer::SLEEPER_ROW;
                s.region().fetch_or(row, 1 << id, Ordering::SeqCst);
            }
            let hint = s.hint();
            (reader.ready(s), hint)
        }
        _ => {
            bits();
            let hint = s.hint();
            (reader.ready(s), hint)
        }
    };
    if !found {
        futex.wait(|| s.hint(), hint);
    }
}

fn publish(bus: &Bus, id: u16, futexes: &[Futex], rule: Rule) {
    let mut lane = bus.lane(id, LaneKind::Data);
    let before = bus.sequencer.sleepers().any(bucket());
    let published = bus.publish(&mut lane, id, Kind::Message, 10).unwrap();
    let wake = match rule {
        Rule::SleepersFirst => before,
        _ => published.wake.is_some(),
    };
    if wake {
        if rule != Rule::HintNotRaised {
            bus.sequencer.raise_hint(published.stamp.0 + 1);
        }
        futexes.iter().for_each(Futex::wake);
    }
}

/// The last attachments read and the others publish, each in a thread of its own.
fn sleep(preemptions: Option<usize>, publishers: u16, readers: u16, rule: Rule) {
    model(preemptions, move || {
        let bus = Bus::new(3, 1, &vec![NONE; usize::from(publishers + readers)]);
        let futexes: Vec<Futex> = (0..readers).map(|_| Futex::new()).collect();
        let mut threads = Vec::new();
        for id in 1..publishers {
            let (bus, futexes) = (bus.clone(), futexes.clone());
            threads.push(thread::spawn(move || publish(&bus, id, &futexes, rule)));
        }
        for n in 0..readers {
            let (bus, futex) = (bus.clone(), futexes[usize::from(n)].clone());
            threads.push(thread::spawn(move || go_to_sleep(&bus, publishers + n, &futex, rule)));
        }
        publish(&bus, 0, &futexes, rule);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(!futexes.iter().any(Futex::sleeps_on), "a wake was lost");
    });
}

#[test]
fn a_sleeper_never_misses_a_message() {
    sleep(Some(3), 1, 1, Rule::Kept);
}

#[test]
fn a_sleeper_never_misses_one_of_two_messages() {
    sleep(Some(2), 2, 1, Rule::Kept);
}

#[test]
fn two_sleepers_never_miss_a_message() {
    sleep(Some(3), 1, 2, Rule::Kept);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_last_look_before_the_bits_loses_a_wake() {
    sleep(Some(3), 1, 1, Rule::LookFirst);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_hint_loaded_after_the_last_look_loses_a_wake() {
    sleep(Some(3), 1, 1, Rule::HintLast);
}

#[test]
#[should_panic = "a wake was lost"]
fn bits_without_a_fence_lose_a_wake() {
    sleep(Some(3), 1, 1, Rule::Unfenced);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_hint_that_is_not_raised_loses_a_wake() {
    sleep(Some(3), 1, 1, Rule::HintNotRaised);
}

#[test]
#[should_panic = "a wake was lost"]
fn a_look_for_sleepers_before_the_slot_is_filled_loses_a_wake() {
    sleep(Some(3), 1, 1, Rule::SleepersFirst);
}
