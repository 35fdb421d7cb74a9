//! What went wrong once: exactness, eviction, subscriptions of one attachment, sleeping and waking, limits.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use common::{LONG, Scratch, Task, read, until};
use shm_bus::{
    Address, AttachOptions, BucketSet, Bus, BusError, Envelope, Event, MAX_DEADLINE, MAX_DESTINATIONS,
    Overload, SubscribeOptions, Subscription, WaitStrategy,
};
use shm_bus_os::futex::Wait;
use shm_bus_os::{Channel, Interest, Name, Poller, Word};
use shm_bus_ring::Bucket;
use shm_bus_ring::layout::{header, payload, sequencer};

fn impatient() -> SubscribeOptions {
    SubscribeOptions {
        overload: Some(Overload::Block { deadline: Duration::from_millis(20) }),
        timeout: LONG,
        ..Default::default()
    }
}

fn patient() -> SubscribeOptions {
    SubscribeOptions {
        overload: Some(Overload::Block { deadline: MAX_DEADLINE }),
        timeout: LONG,
        ..Default::default()
    }
}

/// The numbers of the messages that one poll gives, and what it says.
fn poll(subscription: &mut Subscription, limit: usize, got: &mut Vec<u64>) -> Result<usize, BusError> {
    subscription.poll(limit, |event| {
        if let Event::Message(m) = event {
            got.push(u64::from_le_bytes(m.to_vec().try_into().unwrap()));
        }
    })
}

#[track_caller]
fn evicted_at(outcome: Result<usize, BusError>) -> u64 {
    match outcome {
        Err(BusError::Evicted { stamp }) => stamp,
        other => panic!("not evicted: {other:?}"),
    }
}

/// Whether the attachment's bell has been rung, or is soon.
#[track_caller]
fn is_signalled(bus: &Bus) -> bool {
    let poller = Poller::new().unwrap();
    poller.add(bus.bell(), 0, Interest::READ).unwrap();
    let mut events = Vec::new();
    poller.wait(&mut events, Some(LONG)).unwrap();
    !events.is_empty()
}

#[test]
fn a_publisher_that_was_idle_for_laps_knows_who_has_left() {
    let scratch = Scratch::new();
    let small = AttachOptions { log2_slots: 8, ..scratch.options() };
    let attach = || Bus::attach("test", &small).unwrap();
    let (master, idle, busy, leaver) = (attach(), attach(), attach(), attach());
    let gone = leaver.address();
    let own = leaver.subscribe(&[], true, patient()).unwrap();
    let mut publisher = idle.publisher().unwrap();
    publisher.publish(&[gone], b"x", Envelope::default()).unwrap();
    drop(own);
    leaver.close();
    until("the departure is known", || busy.directory().unwrap().member_at(gone).is_none());
    let g = busy.create_group("g", LONG).unwrap();
    let mut other = busy.publisher().unwrap();
    for round in 0..2 {
        for _ in 0..300 {
            other.publish(&[g], b"x", Envelope::default()).unwrap();
        }
        let refused = publisher.publish(&[gone], b"x", Envelope::default());
        assert!(matches!(refused, Err(BusError::UnknownAddress { .. })), "{round}: {refused:?}");
        master.close();
        // The successor has settled when it answers.
        other.publish(&[g], b"x", Envelope::default()).unwrap();
        idle.create_group("after", LONG).unwrap();
        busy.create_group("after", LONG).unwrap();
    }
}

/// A reader with 64 unread messages of a publisher that has no room for more.
fn full(scratch: &Scratch) -> (Bus, Bus, shm_bus::Publisher, Subscription, Vec<u64>, Address) {
    let (a, b) = (scratch.attach(), scratch.attach());
    let slow = b.subscribe(&["g".into()], false, impatient()).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    let publish = |i: u64| publisher.publish(&[g], &i.to_le_bytes(), Envelope::default()).unwrap().0;
    let stamps = (0..64).map(publish).collect();
    (a, b, publisher, slow, stamps, g)
}

/// Takes the place of the slow reader and overwrites `n` of the messages it has not read.
fn overtake(publisher: &mut shm_bus::Publisher, g: Address, n: u64) {
    assert!(publisher.wait_writable(LONG).unwrap());
    for i in 0..n {
        publisher.publish(&[g], &(1000 + i).to_le_bytes(), Envelope::default()).unwrap();
    }
}

#[test]
fn an_eviction_in_the_middle_of_a_poll_leaves_no_silent_hole() {
    for overwritten in [1, 36, 64] {
        let scratch = Scratch::new();
        let (_a, _b, mut publisher, mut slow, stamps, g) = full(&scratch);
        let mut got = Vec::new();
        let mut first = true;
        let outcome = slow.poll(1000, |event| {
            let Event::Message(m) = event else { return };
            got.push(u64::from_le_bytes(m.to_vec().try_into().unwrap()));
            if std::mem::take(&mut first) {
                overtake(&mut publisher, g, overwritten);
            }
        });
        assert!(!got.is_empty());
        let numbers = (0..64).chain(1000..).take(got.len());
        assert!(got.iter().copied().eq(numbers), "a hole in {got:?}");
        // What was leased when it was overwritten counts as lost.
        let stamp = match outcome {
            Ok(_) => evicted_at(slow.poll(1000, |_| panic!("delivered behind a loss"))),
            error => evicted_at(error),
        };
        assert_eq!(stamp, stamps[0]);
        assert!(slow.violations().is_empty());
    }
}

#[test]
fn an_eviction_names_the_first_stamp_that_was_not_delivered() {
    let scratch = Scratch::new();
    let (_a, b, mut publisher, mut slow, stamps, g) = full(&scratch);
    let mut sibling = b.subscribe(&["g".into()], false, impatient()).unwrap();
    let mut got = Vec::new();
    assert_eq!(poll(&mut slow, 10, &mut got).unwrap(), 10);
    slow.release().unwrap();
    // Ten are free now; then the rest is in the way.
    overtake(&mut publisher, g, 10);
    overtake(&mut publisher, g, 30);
    assert_eq!(evicted_at(poll(&mut slow, 10, &mut got)), stamps[10]);
    assert_eq!(got.len(), 10);
    // The place was the attachment's: its other subscription has lost it too, also after a third has taken a new one.
    let mut again = b.subscribe(&["g".into()], false, patient()).unwrap();
    for _ in 0..2 {
        evicted_at(poll(&mut sibling, 10, &mut got));
    }
    evicted_at(poll(&mut slow, 10, &mut got));
    drop((sibling, slow));
    publisher.publish(&[g], &7u64.to_le_bytes(), Envelope::default()).unwrap();
    assert_eq!(read(&mut again, 1)[0].1, 7u64.to_le_bytes());
    assert!(again.violations().is_empty());
}

#[test]
fn two_first_subscriptions_at_once_miss_nothing() {
    let scratch = Scratch::new();
    let a = scratch.attach();
    let g = a.create_group("g", LONG).unwrap();
    let mut publisher = a.publisher().unwrap();
    for _ in 0..60 {
        let b = scratch.attach();
        let done = AtomicBool::new(false);
        let published = Mutex::new(BTreeMap::new());
        let start = Barrier::new(3);
        let seen: Vec<_> = std::thread::scope(|scope| {
            let reader = || {
                start.wait();
                let mut subscription = b.subscribe(&["g".into()], false, patient()).unwrap();
                let from = subscription.position().0;
                let mut got = Vec::new();
                loop {
                    let last = done.load(Ordering::SeqCst);
                    let n = subscription.poll(64, |event| {
                        if let Event::Message(m) = event {
                            got.push((m.frame.place.stamp.0, m.to_vec()));
                        }
                    });
                    if n.unwrap() == 0 && last {
                        break;
                    }
                }
                assert!(subscription.violations().is_empty());
                (from, got)
            };
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            start.wait();
            for i in 0..400u32 {
                let bytes = i.to_le_bytes().to_vec();
                if let Ok(stamp) = publisher.publish(&[g], &bytes, Envelope::default()) {
                    published.lock().unwrap().insert(stamp.0, bytes);
                }
            }
            done.store(true, Ordering::SeqCst);
            readers.into_iter().map(|r| r.join().unwrap()).collect()
        });
        let published = published.into_inner().unwrap();
        for (from, got) in seen {
            let due: Vec<_> = published.range(from..).map(|(s, b)| (*s, b.clone())).collect();
            assert_eq!(got, due);
        }
        b.close();
    }
}

#[test]
fn closing_the_last_subscription_while_another_opens_leaves_that_one_reachable_and_counting() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut publisher = a.publisher().unwrap();
    let small = 64;
    for round in 0..150 {
        let mut first = b.subscribe(&["g".into()], true, patient()).unwrap();
        let mut second = std::thread::scope(|scope| {
            scope.spawn(|| {
                if round % 2 == 0 {
                    first.close(LONG).unwrap();
                } else {
                    drop(first);
                }
            });
            b.subscribe(&["g".into()], true, patient()).unwrap()
        });
        let sent = (0..small).map(|i: u64| {
            publisher.publish(&[b.address()], &i.to_le_bytes(), Envelope::default()).unwrap();
        });
        assert_eq!(sent.count(), 64);
        // It counts: there is no room for one more.
        let refused = publisher.publish(&[b.address()], b"", Envelope::default());
        assert!(matches!(refused, Err(BusError::WouldBlock { .. })), "{refused:?}");
        assert_eq!(read(&mut second, 64).len(), 64);
        second.release().unwrap();
    }
}

#[test]
fn a_closed_subscription_holds_nothing() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut closed = b.subscribe(&["g".into()], false, impatient()).unwrap();
    let mut open = b.subscribe(&["g".into()], false, impatient()).unwrap();
    closed.close(LONG).unwrap();
    let _ = closed.release();
    closed.advance_to_ready();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    for i in 0..500u64 {
        publisher.publish(&[g], &i.to_le_bytes(), Envelope::default()).unwrap();
        read(&mut open, 1);
        open.release().unwrap();
    }
}

#[test]
fn a_reader_that_goes_to_sleep_lets_go_of_what_it_has_passed_over() {
    let scratch = Scratch::new();
    let small = AttachOptions { log2_slots: 8, ..scratch.options() };
    let attach = || Bus::attach("test", &small).unwrap();
    let (a, b) = (attach(), attach());
    let mut rare = b.subscribe(&["rare".into()], false, patient()).unwrap();
    let busy = a.create_group("busy", LONG).unwrap();
    let mut publisher = a.publisher().unwrap();
    rare.poll(1, |_| ()).unwrap();
    // Whoever sleeps is woken now; the reader does not yet.
    while publisher.publish(&[busy], b"x", Envelope::default()).is_ok() {}
    publisher.want_space(true);
    assert!(!publisher.is_writable().unwrap());
    a.drain_wakes();
    b.arm(rare.buckets());
    assert!(!rare.advance_to_ready());
    assert!(is_signalled(&a) && publisher.is_writable().unwrap());
    b.disarm(rare.buckets());
    publisher.want_space(false);
}

#[test]
fn whoever_waits_for_space_wakes_who_may_hold_it() {
    let scratch = Scratch::new();
    let small = AttachOptions { log2_slots: 8, ..scratch.options() };
    let attach = || Bus::attach("test", &small).unwrap();
    let (a, b, c) = (attach(), attach(), attach());
    let rare = b.subscribe(&["rare".into()], false, patient()).unwrap();
    let busy = a.create_group("busy", LONG).unwrap();
    let mut waiting = c.publisher().unwrap();
    b.arm(rare.buckets());
    let mut publisher = a.publisher().unwrap();
    while publisher.publish(&[busy], b"x", Envelope::default()).is_ok() {}
    // As if every publisher so far had been killed between its slot and its wake.
    b.drain_wakes();
    assert!(!waiting.is_writable().unwrap());
    assert!(is_signalled(&b));
    b.disarm(rare.buckets());
}

#[test]
fn a_closed_attachment_leaves_the_bits_of_its_ids_next_owner_alone() {
    let scratch = Scratch::new();
    let (a, blocker) = (scratch.attach(), scratch.attach());
    let g = a.create_group("g", LONG).unwrap();
    let mut publisher = a.publisher().unwrap();
    for _ in 0..5 {
        let former = scratch.attach();
        let mut zombie = former.subscribe(&["g".into()], false, patient()).unwrap();
        let mut ghost = former.publisher().unwrap();
        let buckets = *zombie.buckets();
        let next = std::thread::scope(|scope| {
            scope.spawn(|| while zombie.wait(WaitStrategy::Park, LONG).is_ok() {});
            former.close();
            let mut next = scratch.attach();
            until("the id is free again", || {
                if next.member().id != former.member().id {
                    next.close();
                    next = scratch.attach();
                }
                next.member().id == former.member().id
            });
            let subscription = next.subscribe(&["g".into()], false, patient()).unwrap();
            next.arm(subscription.buckets());
            (next, subscription)
        });
        // Whatever the former owner does now.
        former.fall_asleep(&buckets);
        former.wake_up(&buckets);
        former.arm(&buckets);
        former.disarm(&buckets);
        let (next, mut subscription) = next;
        next.drain_wakes();
        publisher.publish(&[g], b"x", Envelope::default()).unwrap();
        assert!(is_signalled(&next));
        next.disarm(subscription.buckets());
        read(&mut subscription, 1);
        drop(subscription);
        // The same of those who wait for space.
        let mut slow = blocker.subscribe(&["h".into()], false, patient()).unwrap();
        let mut waiting = next.publisher().unwrap();
        let h = waiting.resolve("h").unwrap();
        while waiting.publish(&[h], b"x", Envelope::default()).is_ok() {}
        next.drain_wakes();
        waiting.want_space(true);
        assert!(!waiting.is_writable().unwrap());
        ghost.want_space(true);
        ghost.want_space(false);
        assert!(ghost.wait_writable(Duration::ZERO).is_err());
        read(&mut slow, 64);
        slow.release().unwrap();
        assert!(is_signalled(&next));
        waiting.want_space(false);
        drop(slow);
        next.close();
    }
}

#[test]
fn a_blocking_wait_and_an_armed_event_loop_do_not_lose_each_others_wakes() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut publisher = a.publisher().unwrap();
    let mut armed = b.subscribe(&["armed".into()], false, patient()).unwrap();
    let mut blocked = b.subscribe(&["blocked".into()], false, patient()).unwrap();
    let to_armed = publisher.resolve("armed").unwrap();
    let to_blocked = publisher.resolve("blocked").unwrap();
    // A look that blocks for a moment while the loop is asleep.
    b.arm(armed.buckets());
    blocked.wait(WaitStrategy::Park, Duration::from_millis(1)).unwrap();
    b.drain_wakes();
    publisher.publish(&[to_armed], b"1", Envelope::default()).unwrap();
    assert!(is_signalled(&b));
    b.disarm(armed.buckets());
    read(&mut armed, 1);
    // Both asleep, whoever was first, woken in either order.
    for round in 0..8 {
        let asleep = Barrier::new(2);
        std::thread::scope(|scope| {
            if round % 2 == 0 {
                b.arm(armed.buckets());
            }
            scope.spawn(|| {
                asleep.wait();
                read(&mut blocked, 1);
            });
            asleep.wait();
            if round % 2 == 1 {
                b.arm(armed.buckets());
            }
            b.drain_wakes();
            let both = [to_armed, to_blocked];
            for to in if round % 4 < 2 { both } else { [both[1], both[0]] } {
                publisher.publish(&[to], b"2", Envelope::default()).unwrap();
            }
            assert!(is_signalled(&b));
        });
        b.disarm(armed.buckets());
        read(&mut armed, 1);
    }
}

/// A thread that sleeps as a subscriber does, but with nothing that wakes it but a wake.
#[test]
fn a_sleeper_with_many_groups_is_woken_by_each_of_them_after_others_traffic() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let groups: Vec<String> = (0..20).map(|i| format!("g{i}")).collect();
    let mut subscription = b.subscribe(&groups, false, patient()).unwrap();
    let buckets: BucketSet = *subscription.buckets();
    let mut publisher = a.publisher().unwrap();
    // One whose traffic has nothing to do with the sleeper, nor wakes it by chance.
    let foreign = (0..200)
        .map(|i| a.create_group(&format!("o{i}"), LONG).unwrap())
        .find(|o| Bucket::of(*o).futex_bits() & buckets.futex_bits() == 0);
    let foreign = foreign.expect("31 bits, 20 of them taken at most");
    let page = b.order_page().unwrap();
    for name in &groups {
        let mine = publisher.resolve(name).unwrap();
        let seen = b.fall_asleep(&buckets);
        let task = Task::default();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let word = Word::new(page.clone(), sequencer::HINT as usize).unwrap();
                task.begin();
                word.wait(seen, buckets.futex_bits(), Some(LONG)).unwrap()
            });
            until("it sleeps", || task.sleeps());
            publisher.publish(&[foreign], b"o", Envelope::default()).unwrap();
            publisher.publish(&[mine], b"m", Envelope::default()).unwrap();
            assert!(!matches!(sleeper.join().unwrap(), Wait::TimedOut), "{name}");
        });
        b.wake_up(&buckets);
        assert_eq!(read(&mut subscription, 1)[0].1, b"m");
    }
}

#[test]
fn a_deadline_has_a_limit() {
    let scratch = Scratch::new();
    let bus = scratch.attach();
    let options = SubscribeOptions {
        overload: Some(Overload::Block { deadline: MAX_DEADLINE + Duration::from_millis(1) }),
        ..Default::default()
    };
    let refused = bus.subscribe(&["g".into()], false, options).map(drop);
    assert!(matches!(refused, Err(BusError::InvalidOption { option: "deadline", .. })));
    bus.subscribe(&["g".into()], false, patient()).unwrap();
}

#[test]
fn strangers_that_say_nothing_keep_nobody_out_for_long() {
    let scratch = Scratch::new();
    let (master, member) = (scratch.attach(), scratch.attach());
    let strangers: Vec<_> =
        (0..200).map(|_| Channel::connect(&Name::Path(scratch.0.join("test.sock")))).collect();
    assert!(strangers.iter().filter(|s| s.is_ok()).count() >= 64);
    member.create_group("g", LONG).unwrap();
    let newcomer = scratch.attach();
    until("everyone knows it", || master.directory().unwrap().members().count() == 3);
    drop(newcomer);
}

#[test]
fn one_that_fills_the_directory_with_names_shuts_nobody_out() {
    let scratch = Scratch::new();
    let (_master, greedy) = (scratch.attach(), scratch.attach());
    for length in [200, 50, 1] {
        let mut made = 0u32;
        loop {
            match greedy.create_group(&format!("{made:0>length$}"), LONG) {
                Ok(_) => made += 1,
                Err(BusError::Limit { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let newcomer = scratch.attach();
    let mut subscription = newcomer.subscribe(&[format!("{:0>200}", 0)], true, patient()).unwrap();
    let mut publisher = greedy.publisher().unwrap();
    publisher.publish(&[newcomer.address()], b"x", Envelope::default()).unwrap();
    read(&mut subscription, 1);
}

#[test]
fn a_transaction_with_too_many_destinations_is_a_violation() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let groups: Vec<Address> =
        (0..=MAX_DESTINATIONS).map(|i| a.create_group(&format!("{i}"), LONG).unwrap()).collect();
    let mut subscription = b.subscribe(&["g".into()], true, patient()).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    let refused = publisher.publish(&groups, b"", Envelope::default());
    assert!(matches!(refused, Err(BusError::InvalidOption { .. })));
    let mut most = groups[..MAX_DESTINATIONS - 1].to_vec();
    most.push(g);
    publisher.publish(&most, b"most", Envelope::default()).unwrap();
    assert_eq!(read(&mut subscription, 1)[0].1, b"most");
    // One that has written more into its header, in memory that is its own.
    let stamp = publisher.publish(&[groups[0], g], &[0; 4096], Envelope::default()).unwrap();
    let region = a.own_mapping().region().unwrap();
    let relaxed = shm_bus_ring::Ordering::Relaxed;
    let entry = (0..a.geometry().header_count())
        .map(|i| payload::HEADERS + i * payload::ENTRY_BYTES)
        .find(|e| region.load(e + header::STAMP, relaxed) == stamp.0);
    region.store(entry.unwrap() + header::DESTINATION, MAX_DESTINATIONS as u64 + 1, relaxed);
    publisher.publish(&[g], b"next", Envelope::default()).unwrap();
    assert_eq!(read(&mut subscription, 1)[0].1, b"next");
    assert_eq!(subscription.violations().get(&a.member().id), Some(&1));
}

#[test]
fn a_batch_refuses_what_would_part_its_messages() {
    let scratch = Scratch::new();
    let bus = scratch.attach();
    let g = bus.create_group("g", LONG).unwrap();
    let mut reader = bus.subscribe(&["g".into()], false, patient()).unwrap();
    let mut publisher = bus.publisher().unwrap();
    let say = |n: u64| n.to_le_bytes();
    let before = publisher.loan(&[g], 8).unwrap();
    publisher.begin_batch().unwrap();
    publisher.publish(&[g], &say(0), Envelope::default()).unwrap();
    let refused = publisher.publish_loan(before, 8, Envelope::default());
    assert!(matches!(refused, Err(BusError::InvalidOption { option: "batch", .. })), "{refused:?}");
    // Space that is held while another message comes into being.
    let held = publisher.loan(&[g], 8).unwrap();
    let refused = publisher.publish(&[g], &say(9), Envelope::default());
    assert!(matches!(refused, Err(BusError::InvalidOption { option: "batch", .. })), "{refused:?}");
    publisher.abandon(held);
    publisher.publish(&[g], &say(1), Envelope::default()).unwrap();
    publisher.end_batch().unwrap().unwrap();
    publisher.publish(&[g], &say(2), Envelope::default()).unwrap();
    let mut got = Vec::new();
    poll(&mut reader, 10, &mut got).unwrap();
    assert_eq!(got, [0, 1, 2]);
    drop(reader);
    until("everything is let go", || {
        let _ = publisher.publish(&[g], &say(3), Envelope::default());
        publisher.in_flight().0 <= 1
    });
}
