//! Who is woken although nothing came for it, and why it has to be.

mod common;

use std::time::Duration;

use common::{LONG, Scratch, patient, publish};
use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Overload, SubscribeOptions, Subscription, WaitStrategy,
};
use shm_bus_os::{Interest, Poller};
use shm_bus_ring::Bucket;

/// Whether its event loop has been woken by now.
fn is_rung(bus: &Bus) -> bool {
    let poller = Poller::new().unwrap();
    poller.add(bus.bell(), 0, Interest::READ).unwrap();
    let mut events = Vec::new();
    poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
    !events.is_empty()
}

/// A bus of 256 slots with a reader asleep for a group that nobody writes to, and a group that does not concern it.
struct Asleep {
    rare: Subscription,
    other: Address,
    a: Bus,
    b: Bus,
    /// Last: it has to be empty by then.
    _scratch: Scratch,
}

impl Asleep {
    fn new() -> Self {
        let scratch = Scratch::new();
        let small = AttachOptions { log2_slots: 8, ..scratch.options() };
        let (a, b) = (Bus::attach("test", &small).unwrap(), scratch.attach());
        let pinned = SubscribeOptions { overload: Some(Overload::Pinned), ..patient() };
        let rare = b.subscribe(&["rare".into()], false, pinned).unwrap();
        let other = (0..)
            .map(|n| a.create_group(&format!("other {n}"), LONG).unwrap())
            .find(|g| !rare.buckets().contains(Bucket::of(*g)))
            .unwrap();
        let mut asleep = Asleep { rare, other, a, b, _scratch: scratch };
        // Everything that was recorded so far has been passed.
        while asleep.rare.poll(64, |_| {}).unwrap() > 0 {}
        asleep.sleep();
        asleep
    }

    fn sleep(&self) {
        self.b.disarm(self.rare.buckets());
        self.b.arm(self.rare.buckets());
        assert!(!is_rung(&self.b));
    }
}

#[test]
fn whoever_sleeps_for_a_rare_group_is_woken_four_times_a_lap() {
    let asleep = Asleep::new();
    let mut publisher = asleep.a.publisher().unwrap();
    let mut woken = 0;
    for _ in 0..128 {
        publish(&mut publisher, asleep.other, b"x");
        if is_rung(&asleep.b) {
            woken += 1;
            asleep.sleep();
        }
    }
    assert_eq!(woken, 2, "in half a lap");
}

/// The publisher that should have woken it was killed before it did.
#[test]
fn whoever_finds_the_order_full_wakes_everyone() {
    let asleep = Asleep::new();
    let mut publisher = asleep.a.publisher().unwrap();
    let refused = loop {
        let published = publisher.publish(&[asleep.other], b"x", Envelope::default());
        if published.is_err() {
            break published;
        }
        // As if it had not been woken.
        if is_rung(&asleep.b) {
            asleep.sleep();
        }
    };
    assert!(matches!(refused, Err(BusError::WouldBlock { .. })), "{refused:?}");
    assert!(is_rung(&asleep.b), "it holds the order in its sleep");
}

/// The sleeping thread has to take the new group on.
#[test]
fn a_subscription_wakes_the_attachment_s_own_sleeper() {
    let asleep = Asleep::new();
    let more = asleep.b.subscribe(&["another".into()], false, SubscribeOptions::default()).unwrap();
    assert!(is_rung(&asleep.b));
    drop(more);
}

/// Also where nobody wakes it: a worker thread has to be terminable.
#[test]
fn a_blocking_wait_comes_back_to_its_caller() {
    let scratch = Scratch::new();
    let bus = scratch.attach();
    let mut idle = bus.subscribe(&["g".into()], false, patient()).unwrap();
    while idle.poll(64, |_| {}).unwrap() > 0 {}
    for strategy in [WaitStrategy::Park, WaitStrategy::SpinThenPark, WaitStrategy::Spin] {
        assert!(!idle.wait(strategy, Duration::MAX).unwrap());
    }
}
