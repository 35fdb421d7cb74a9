//! What a slow, sleeping or stopped reader costs the others, and what it learns, under each overload policy.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Child, Dice, LONG, Scratch, until};
use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Event, Overload, Publisher, SubscribeOptions,
    Subscription, WaitStrategy,
};
use shm_bus_ring::Bucket;

fn with(overload: Overload) -> SubscribeOptions {
    SubscribeOptions { overload: Some(overload), timeout: LONG, ..Default::default() }
}

fn subscribe(bus: &Bus, group: &str, overload: Overload) -> Subscription {
    bus.subscribe(&[group.into()], false, with(overload)).unwrap()
}

const BLOCK: Overload = Overload::Block { deadline: Duration::from_millis(50) };
const EVICT: Overload = Overload::Evict { max_lag: None };

/// Publishes a number; `false` if there is no room.
fn put(publisher: &mut Publisher, to: Address, number: u64) -> bool {
    match publisher.publish(&[to], &number.to_le_bytes(), Envelope::default()) {
        Ok(_) => true,
        Err(BusError::WouldBlock { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// What a reader has seen: every stamp from its start to its position exactly once, as a message or in a gap.
#[derive(Default)]
struct Account {
    next: u64,
    delivered: u64,
    missed: u64,
    numbers: Vec<u64>,
}

impl Account {
    fn from(subscription: &Subscription) -> Self {
        Account { next: subscription.position().0, ..Account::default() }
    }

    /// One poll. Everything on the bus is for this reader, so no stamp is passed over in silence.
    fn poll(&mut self, subscription: &mut Subscription) -> Result<usize, BusError> {
        subscription.poll(16, |event| match event {
            Event::Message(m) => {
                assert_eq!(m.frame.place.stamp.0, self.next, "a stamp is missing or comes twice");
                self.next += 1;
                self.delivered += 1;
                self.numbers.push(u64::from_le_bytes(m.to_vec().try_into().unwrap()));
            }
            Event::Gap { from, to } => {
                assert_eq!(from.0, self.next, "a gap begins behind the last message");
                assert!(to > from);
                self.missed += to.0 - from.0;
                self.next = to.0;
            }
            Event::Record(stamp, _) => {
                assert_eq!(stamp.0, self.next);
                self.next += 1;
            }
        })
    }
}

#[test]
fn a_reader_of_one_group_never_holds_the_payload_of_another() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let _asleep = subscribe(&b, "a", Overload::Pinned);
    let mut publisher = a.publisher().unwrap();
    let first = publisher.resolve("a").unwrap();
    let other = (0..)
        .map(|n| a.create_group(&format!("other {n}"), LONG).unwrap())
        .find(|g| Bucket::of(*g) != Bucket::of(first))
        .unwrap();
    for n in 0..10 * a.geometry().header_count() {
        assert!(put(&mut publisher, other, n), "message {n} found no room");
    }
    let held = (0..).take_while(|n| put(&mut publisher, first, *n)).count() as u64;
    assert!(held <= a.geometry().header_count(), "its own group is held by it");
}

#[test]
fn one_that_is_pinned_is_waited_for() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut slow = subscribe(&b, "g", Overload::Pinned);
    let mut account = Account::from(&slow);
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    let sent = (0..).take_while(|n| put(&mut publisher, g, *n)).count() as u64;
    assert!(!publisher.wait_writable(Duration::from_millis(300)).unwrap());
    while account.poll(&mut slow).unwrap() > 0 {}
    slow.release().unwrap();
    assert!(publisher.wait_writable(LONG).unwrap());
    assert_eq!(account.numbers, (0..sent).collect::<Vec<_>>());
}

#[test]
fn one_to_be_evicted_is_never_waited_for() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut slow = subscribe(&b, "g", EVICT);
    let start = slow.position().0;
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    for n in 0..1000 {
        assert!(put(&mut publisher, g, n), "message {n} found no room");
    }
    assert!(
        matches!(slow.poll(1, |_| {}), Err(BusError::Evicted { stamp }) if stamp == start),
        "it lost everything from its first message on"
    );
}

#[test]
fn one_with_a_largest_lag_is_evicted_there() {
    let scratch = Scratch::new();
    let a = Bus::attach("test", &AttachOptions { headers: 4096, ..scratch.options() }).unwrap();
    let b = scratch.attach();
    let mut reader = subscribe(&b, "g", Overload::Evict { max_lag: Some(400) });
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    for n in 0..400 {
        assert!(put(&mut publisher, g, n));
    }
    let mut got = 0;
    while reader.poll(16, |_| got += 1).unwrap() > 0 {}
    assert_eq!(got, 400, "not more than that behind");
    reader.release().unwrap();
    for n in 0..=(400 + 100 + 8) {
        assert!(put(&mut publisher, g, n));
    }
    assert!(matches!(reader.poll(1, |_| {}), Err(BusError::Evicted { .. })));
    // With nobody left who wants it, nobody looks.
    let mut patient = subscribe(&b, "g", Overload::Pinned);
    for n in 0..2000 {
        assert!(put(&mut publisher, g, n));
    }
    assert_eq!(patient.poll(1, |_| {}).unwrap(), 1);
}

#[test]
fn a_lossy_one_gets_or_misses_every_stamp_exactly_once() {
    let scratch = Scratch::new();
    // A lap is short, and the ring shorter: frames are lost in both ways.
    let founder = AttachOptions { log2_slots: 8, ..scratch.options() };
    let (a, b) = (Bus::attach("test", &founder).unwrap(), scratch.attach());
    let mut reader = subscribe(&b, "g", Overload::Lossy);
    let mut account = Account::from(&reader);
    let done = AtomicBool::new(false);
    let count = 300_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = a.publisher().unwrap();
            let g = publisher.resolve("g").unwrap();
            for n in 0..count {
                assert!(put(&mut publisher, g, n), "nobody waits for it");
            }
            done.store(true, Ordering::Release);
        });
        let mut dice = Dice(7);
        loop {
            let over = done.load(Ordering::Acquire);
            let polled = account.poll(&mut reader).unwrap();
            if dice.roll(40) == 0 {
                std::thread::sleep(Duration::from_micros(dice.roll(300)));
            }
            if over && polled == 0 && reader.lag() == 0 {
                break;
            }
        }
    });
    assert_eq!(account.delivered + account.missed, count);
    assert_eq!(reader.missed(), account.missed);
    assert!(account.missed > 0, "this test has to lose something");
    assert!(account.delivered > 0 && account.numbers.last() == Some(&(count - 1)));
    assert!(account.numbers.is_sorted_by(|a, b| a < b));
    assert_eq!(b.statistics(None).unwrap().missed, account.missed);
}

#[test]
fn a_lossy_one_knows_whom_it_hears_after_a_gap() {
    let scratch = Scratch::new();
    let founder = AttachOptions { log2_slots: 8, ..scratch.options() };
    let (a, b) = (Bus::attach("test", &founder).unwrap(), scratch.attach());
    let mut reader = b.subscribe(&["g".into()], true, with(Overload::Lossy)).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    // More control records than the master keeps, and more than a lap of messages.
    for _ in 0..50 {
        scratch.attach().close();
    }
    let c = scratch.attach();
    for n in 0..1000 {
        assert!(put(&mut publisher, g, n));
    }
    let mut from_c = c.publisher().unwrap();
    from_c.publish(&[b.address()], b"to you", Envelope::default()).unwrap();
    let (mut gaps, mut last) = (0, None);
    until("the message of the newcomer comes", || {
        let event = |event: Event<'_>| match event {
            Event::Gap { .. } => gaps += 1,
            Event::Message(m) if m.destination == b.address() => last = Some((m.sender, m.to_vec())),
            _ => {}
        };
        reader.poll(16, event).unwrap();
        last.is_some()
    });
    assert_eq!(last.unwrap(), (c.address(), b"to you".to_vec()));
    assert!(gaps > 0);
    assert_eq!(reader.violations().len(), 0);
}

#[test]
fn subscriptions_of_one_attachment_share_a_fate() {
    let scratch = Scratch::new();
    let bus = scratch.attach();
    let pinned = subscribe(&bus, "a", Overload::Pinned);
    let refused = bus.subscribe(&["b".into()], false, with(EVICT));
    assert!(matches!(refused, Err(BusError::InvalidOption { option: "overload", .. })));
    let _same = subscribe(&bus, "b", Overload::Pinned);
    let _lossy = subscribe(&bus, "c", Overload::Lossy);
    let silent = bus.subscribe(&["d".into()], false, SubscribeOptions::default()).unwrap();
    drop((pinned, _same));
    // Nobody has asked for anything any more.
    let _other = subscribe(&bus, "b", EVICT);
    drop(silent);
    for max_lag in [0, (1 << 18) + 1] {
        let refused = bus.subscribe(&[], true, with(Overload::Evict { max_lag: Some(max_lag) }));
        assert!(matches!(refused, Err(BusError::InvalidOption { option: "maxLag", .. })), "{max_lag}");
    }
}

#[test]
fn one_that_was_evicted_three_times_is_not_waited_for_again() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut publisher = a.publisher().unwrap();
    let g = a.create_group("g", LONG).unwrap();
    for _ in 0..3 {
        let mut slow = subscribe(&b, "g", BLOCK);
        while put(&mut publisher, g, 0) {}
        assert!(publisher.wait_writable(LONG).unwrap(), "it loses its place");
        assert!(matches!(slow.poll(1, |_| {}), Err(BusError::Evicted { .. })));
    }
    let refused = b.subscribe(&["g".into()], false, with(BLOCK));
    assert!(
        matches!(&refused, Err(BusError::Refused { why }) if why.contains("3 times")),
        "{:?}",
        refused.err()
    );
    let silent = b.subscribe(&["g".into()], false, SubscribeOptions::default()).unwrap();
    for n in 0..1000 {
        assert!(put(&mut publisher, g, n), "who does not say is not waited for either");
    }
    drop(silent);
    drop(subscribe(&b, "g", Overload::Lossy));
    drop(subscribe(&b, "g", EVICT));
    drop(subscribe(&scratch.attach(), "g", BLOCK));
}

/// The last number: the reader ends when it has seen it, or has lost its place.
const LAST: u64 = u64::MAX;

/// The reader of the next test, in a process of its own.
fn read_to_the_end(options: &AttachOptions, overload: &str) {
    let policy = match overload {
        "block" => BLOCK,
        "pinned" => Overload::Pinned,
        "lossy" => Overload::Lossy,
        _ => EVICT,
    };
    let bus = Bus::attach("test", options).unwrap();
    let mut reader = subscribe(&bus, "g", policy);
    let mut account = Account::from(&reader);
    let start = account.next;
    let outcome = loop {
        reader.wait(WaitStrategy::Park, Duration::from_millis(50)).unwrap();
        match account.poll(&mut reader) {
            Ok(_) if account.numbers.last() == Some(&LAST) => break Ok(()),
            Ok(_) => {}
            Err(BusError::Evicted { stamp }) => break Err(stamp),
            Err(error) => panic!("{error}"),
        }
    };
    let (seen, whole) = (account.numbers.len() as u64, account.next - start);
    match (overload, outcome) {
        ("block" | "evict", Err(stamp)) => {
            // The first stamp that it lost: what was leased when it was stopped may be among that.
            assert!((start..=account.next).contains(&stamp), "{stamp}");
            assert_eq!(account.numbers, (0..seen).collect::<Vec<_>>(), "and none before");
        }
        ("pinned", Ok(())) => assert_eq!((account.missed, account.delivered), (0, whole)),
        ("lossy", Ok(())) => {
            assert!(account.missed > 0);
            assert_eq!(account.delivered + account.missed, whole);
        }
        (_, outcome) => panic!("{overload}: {outcome:?}"),
    }
    drop(reader);
    bus.close();
}

#[test]
fn child() {
    if let Some((role, options)) = Child::role() {
        read_to_the_end(&options, &role);
    }
}

#[test]
fn a_stopped_reader_costs_what_its_policy_says() {
    for overload in ["block", "pinned", "lossy", "evict"] {
        let scratch = Scratch::new();
        let bus = scratch.attach();
        let mut publisher = bus.publisher().unwrap();
        let g = bus.create_group("g", LONG).unwrap();
        let reader = Child::start(&scratch, overload, None);
        until("it has subscribed", || bus.directory().unwrap().is_joined(g));
        for n in 0..10 {
            assert!(put(&mut publisher, g, n));
        }
        reader.stop();
        let mut number = 10;
        let mut blocked = 0;
        // What fills its publisher's ring several times over.
        while number < 1000 {
            if put(&mut publisher, g, number) {
                number += 1;
                continue;
            }
            blocked += 1;
            if overload == "pinned" {
                assert!(!publisher.wait_writable(Duration::from_millis(200)).unwrap());
                break;
            }
            assert!(publisher.wait_writable(LONG).unwrap());
        }
        match overload {
            "lossy" | "evict" => assert_eq!(blocked, 0, "{overload}: nobody waits"),
            _ => assert!(blocked > 0, "{overload}: somebody waits"),
        }
        reader.signal("CONT");
        for n in [number, LAST] {
            while !put(&mut publisher, g, n) {
                assert!(publisher.wait_writable(LONG).unwrap());
            }
        }
        reader.finish();
    }
}
