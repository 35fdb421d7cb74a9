//! The master's role changes hands: nothing is lost, there is one successor, and everything works on.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use common::{Child, Dice, LONG, Scratch, read, until};
use shm_bus::{
    AttachOptions, Bus, BusError, Envelope, Event, MAX_DEADLINE, Overload, SubscribeOptions, Subscription,
    WaitStrategy,
};

fn patient() -> SubscribeOptions {
    SubscribeOptions {
        overload: Some(Overload::Block { deadline: MAX_DEADLINE }),
        timeout: LONG,
        ..Default::default()
    }
}

/// Everyone agrees on who is there.
#[track_caller]
fn agree(buses: &[&Bus]) {
    until("the directory lists the live ones only", || {
        buses.iter().all(|b| {
            let directory = b.directory().unwrap();
            directory.members().count() == buses.len() && buses.iter().all(|o| directory.has(o.member()))
        })
    });
}

fn publish(publisher: &mut shm_bus::Publisher, to: shm_bus::Address, bytes: &[u8]) {
    loop {
        match publisher.publish(&[to], bytes, Envelope::default()) {
            Ok(_) => return,
            Err(BusError::WouldBlock { .. }) => drop(publisher.wait_writable(LONG).unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the processes do that the tests start.
#[test]
fn child() {
    let Some((role, options)) = Child::role() else {
        return;
    };
    let bus = Bus::attach("test", &options).unwrap();
    match role.as_str() {
        // Reads until it is told to end, and has missed nothing then.
        "reader" => {
            let mut subscription = bus.subscribe(&["g".into()], true, patient()).unwrap();
            let mut got: Vec<Vec<u8>> = Vec::new();
            while got.last().is_none_or(|last| last != b"end") {
                got.extend(read(&mut subscription, 1).into_iter().map(|m| m.1));
            }
            let wanted: Vec<_> = (0..got.len() as u8 - 1).map(|i| vec![i]).collect();
            assert_eq!(got[..got.len() - 1], wanted);
            assert!(subscription.violations().is_empty());
        }
        "master" => {
            bus.create_group("g", LONG).unwrap();
            std::thread::sleep(LONG);
        }
        // Has no descriptor left from the moment it is reachable until it is told so.
        "full" => {
            let mut inbox = bus.subscribe(&["release".into()], false, patient()).unwrap();
            let mut held = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
            }
            let mut publisher = bus.publisher().unwrap();
            let full = publisher.resolve("full").unwrap();
            publish(&mut publisher, full, b"");
            read(&mut inbox, 1);
            drop(held);
            // What it could not receive meanwhile, it gets now.
            let mut subscription = bus.subscribe(&["g".into()], true, patient()).unwrap();
            read(&mut subscription, 1);
        }
        // Is there until somebody makes the group that says otherwise.
        "idle" => until("told to end", || bus.directory().unwrap().group_named("end").is_some()),
        "many" => many(&options, bus),
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_newcomer_is_heard_by_a_member_that_has_not_presented_itself_to_the_successor() {
    let scratch = Scratch::new();
    let (master, other) = (scratch.attach(), scratch.attach());
    let reader = Child::start(&scratch, "reader", None);
    until("the reader is there", || {
        let directory = other.directory().unwrap();
        directory.is_joined(shm_bus::Address::unicast(2))
    });
    reader.stop();
    master.close();
    // More rings than one, in several reigns, before the reader runs again.
    let mut kept = Vec::new();
    for i in 0..4 {
        let newcomer = scratch.attach();
        let mut publisher = newcomer.publisher().unwrap();
        let g = publisher.resolve("g").unwrap();
        publish(&mut publisher, g, &[i]);
        kept.push((newcomer, publisher));
        if i == 1 {
            other.close();
        }
    }
    reader.signal("CONT");
    let (last, mut publisher) = kept.pop().unwrap();
    let g = publisher.resolve("g").unwrap();
    publish(&mut publisher, g, b"end");
    reader.finish();
    drop((publisher, kept));
    last.close();
}

/// The sender is gone, and the master that had its memory too, before the reader has ever seen that memory.
#[test]
fn a_message_of_a_dead_sender_outlives_the_master_that_admitted_it() {
    let scratch = Scratch::new();
    let (master, other) = (scratch.attach(), scratch.attach());
    let reader = Child::start(&scratch, "reader", None);
    until("the reader is there", || {
        let directory = other.directory().unwrap();
        directory.is_joined(shm_bus::Address::unicast(2))
    });
    reader.stop();
    let sender = scratch.attach();
    let mut publisher = sender.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    publish(&mut publisher, g, &[0]);
    drop(publisher);
    sender.close();
    until("it is departed", || !other.directory().unwrap().has(sender.member()));
    master.close();
    until("another has followed", || other.is_master());
    reader.signal("CONT");
    let mut publisher = other.publisher().unwrap();
    publish(&mut publisher, g, b"end");
    reader.finish();
}

#[test]
fn after_each_of_many_masters_there_is_one_successor_that_serves_everyone() {
    let scratch = Scratch::new();
    let mut buses: Vec<Bus> = (0..5).map(|_| scratch.attach()).collect();
    for round in 0..15 {
        until("somebody is master", || buses.iter().any(Bus::is_master));
        let index = buses.iter().position(Bus::is_master).unwrap();
        let master = buses.remove(index);
        // A record that the former master may or may not have got into the order before it left.
        let name = format!("late {round}");
        let (late, newcomer) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| buses[0].create_group(&name, LONG).unwrap());
            master.close();
            let newcomer = scratch.attach();
            (asked.join().unwrap(), newcomer)
        });
        buses.push(newcomer);
        for bus in &buses {
            bus.create_group(&format!("{round} of {}", bus.member().id), LONG).unwrap();
            assert_eq!(bus.create_group(&name, LONG).unwrap(), late);
        }
        assert_eq!(buses.iter().filter(|b| b.is_master()).count(), 1);
        assert!(buses.iter().all(|b| !b.is_closed()));
    }
    agree(&buses.iter().collect::<Vec<_>>());
}

#[test]
fn a_killed_master_is_followed() {
    let scratch = Scratch::new();
    let mut master = Child::start(&scratch, "master", None);
    let never = AttachOptions { master: shm_bus::MasterMode::Never, ..scratch.options() };
    let mut first = Bus::attach("test", &never);
    until("the master is there", || {
        if matches!(first, Err(BusError::NotFound { .. })) {
            first = Bus::attach("test", &never);
        }
        first.is_ok()
    });
    let (first, second) = (first.unwrap(), scratch.attach());
    let g = first.create_group("g", LONG).unwrap();
    master.kill();
    assert_eq!(second.create_group("g", LONG).unwrap(), g);
    let third = scratch.attach();
    agree(&[&first, &second, &third]);
}

/// Says stop when it goes out of scope, also in a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The socket's file is taken away again and again, so that those who look for the master find none and take its role:
/// masters are fenced, and reign again.
fn fence_masters(scratch: &Scratch, records: usize) -> bool {
    let (founder, b, c) = (scratch.attach(), scratch.attach(), scratch.attach());
    let with_records = SubscribeOptions { records: true, ..patient() };
    let mut subscription = c.subscribe(&["g".into()], false, with_records).unwrap();
    let stop = AtomicBool::new(false);
    let mut reigns: Vec<u16> = Vec::new();
    let mut names = Vec::new();
    std::thread::scope(|scope| {
        let (stop, socket) = (Stop(&stop), scratch.0.join("test.sock"));
        let stopped = stop.0;
        scope.spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let _ = std::fs::remove_file(&socket);
            }
        });
        founder.close();
        let start = Instant::now();
        // It may end sooner than wished: somebody found the socket in between.
        while reigns.len() < 5 && start.elapsed() < Duration::from_millis(1500) {
            for bus in [&b, &c] {
                if bus.is_master() && reigns.last() != Some(&bus.member().id) {
                    reigns.push(bus.member().id);
                    for i in 0..records {
                        let name = format!("{} {i}", reigns.len());
                        match bus.create_group(&name, Duration::from_millis(20)) {
                            Ok(address) => names.push((name, address)),
                            Err(BusError::NoMaster { .. }) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
            subscription.poll(1000, |_| {}).unwrap();
        }
    });
    let d = scratch.attach();
    let mut publisher = d.publisher().unwrap();
    for (name, address) in &names {
        assert_eq!(publisher.resolve(name).unwrap(), *address, "{name}");
        for bus in [&b, &c] {
            assert_eq!(bus.create_group(name, LONG).unwrap(), *address, "{name}");
        }
    }
    assert_eq!([&b, &c, &d].iter().filter(|b| b.is_master()).count(), 1);
    let g = publisher.resolve("g").unwrap();
    publish(&mut publisher, g, b"x");
    let mut got = 0;
    until("the message comes", || {
        let count = |e: Event<'_>| got += usize::from(matches!(e, Event::Message(_)));
        subscription.poll(1000, count).unwrap();
        got == 1
    });
    assert!(subscription.violations().is_empty());
    agree(&[&b, &c, &d]);
    reigns.len() >= 3
}

#[test]
fn masters_that_are_fenced_notice_and_may_reign_again() {
    // A control lane has 64 headers: a second reign uses them again, in the third game already the first.
    for records in [5, 40, 80] {
        let twice = fence_masters(&Scratch::new(), records);
        println!("{records} records a reign: one reigned twice: {twice}");
    }
}

#[test]
fn a_master_is_followed_after_more_than_a_lap_of_traffic_without_a_record() {
    for (before, after) in [(100, 200), (200, 0), (300, 300), (1000, 600)] {
        let scratch = Scratch::new();
        let small = AttachOptions { log2_slots: 8, ..scratch.options() };
        let attach = || Bus::attach("test", &small).unwrap();
        let (master, successor) = (attach(), attach());
        let g = master.create_group("g", LONG).unwrap();
        let mut idle = successor.publisher().unwrap();
        let mut publisher = master.publisher().unwrap();
        for _ in 0..before {
            publish(&mut publisher, g, b"x");
        }
        drop(publisher);
        master.close();
        let other = attach();
        assert!(successor.is_master());
        let later = other.create_group("later", LONG).unwrap();
        let mut publisher = other.publisher().unwrap();
        for _ in 0..after {
            publish(&mut publisher, g, b"x");
        }
        // The successor's own attachment knows what its own role has done.
        assert_eq!(idle.resolve("later").unwrap(), later);
        assert_eq!(idle.resolve("g").unwrap(), g);
        assert_eq!(successor.directory().unwrap().group_named("later"), Some(later));
        publish(&mut idle, later, b"x");
        agree(&[&successor, &other]);
    }
}

#[test]
fn a_reign_that_nobody_has_heard_of_is_followed() {
    let scratch = Scratch::new();
    let small = AttachOptions { log2_slots: 8, ..scratch.options() };
    let attach = || Bus::attach("test", &small).unwrap();
    let (master, successor) = (attach(), attach());
    let g = master.create_group("g", LONG).unwrap();
    let others = ["idle"; 2].map(|role| Child::start(&scratch, role, None));
    until("everyone is there", || master.directory().unwrap().members().count() == 4);
    others.iter().for_each(Child::stop);
    master.close();
    until("the role has passed on", || successor.is_master());
    successor.create_group("later", LONG).unwrap();
    // Whoever did not read the records of this reign in time finds them nowhere.
    let mut publisher = successor.publisher().unwrap();
    for _ in 0..300 {
        publish(&mut publisher, g, b"x");
    }
    drop(publisher);
    successor.close();
    others.iter().for_each(|other| other.signal("CONT"));
    let newcomer = attach();
    assert_eq!(newcomer.publisher().unwrap().resolve("g").unwrap(), g);
    until("the others know", || newcomer.directory().unwrap().members().count() == 3);
    newcomer.create_group("end", LONG).unwrap();
    others.into_iter().for_each(Child::finish);
    newcomer.close();
}

#[test]
fn a_member_without_descriptors_takes_no_role_and_breaks_nothing() {
    for master_leaves in [false, true] {
        let scratch = Scratch::new();
        let (master, other) = (scratch.attach(), scratch.attach());
        let mut told = other.subscribe(&["full".into()], false, patient()).unwrap();
        let full = Child::start(&scratch, "full", Some(48));
        read(&mut told, 1);
        // Each sends it two descriptors that it cannot take.
        for i in 0..8 {
            let newcomer = scratch.attach();
            newcomer.create_group(&format!("{i}"), LONG).unwrap();
            newcomer.close();
        }
        assert!(master.is_master());
        if master_leaves {
            master.close();
        }
        let last = scratch.attach();
        let g = other.create_group("g", LONG).unwrap();
        assert_eq!(last.create_group("g", LONG).unwrap(), g);
        assert_eq!(master.is_master(), !master_leaves);
        let mut publisher = other.publisher().unwrap();
        let release = publisher.resolve("release").unwrap();
        publish(&mut publisher, release, b"");
        let mut late = last.publisher().unwrap();
        until("it subscribes again", || {
            late.publish(&[shm_bus::Address::unicast(2)], b"x", Envelope::default()).is_ok()
        });
        full.finish();
    }
}

#[test]
fn one_that_closes_together_with_the_master_is_no_member_any_more() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let (master, second, third) = (scratch.attach(), scratch.attach(), scratch.attach());
        let kept = second.subscribe(&["g".into()], true, patient()).unwrap();
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            for bus in [&master, &second] {
                scope.spawn(|| {
                    start.wait();
                    bus.close();
                });
            }
        });
        agree(&[&third]);
        let mut publisher = third.publisher().unwrap();
        let gone = publisher.publish(&[second.address()], b"", Envelope::default());
        assert!(matches!(gone, Err(BusError::UnknownAddress { .. })), "{gone:?}");
        drop(kept);
    }
}

#[test]
fn what_a_leaving_master_was_told_it_published_is_read() {
    for _ in 0..15 {
        let scratch = Scratch::new();
        let roomy = AttachOptions { headers: 4096, ..scratch.options() };
        let (master, reader) = (Bus::attach("test", &roomy).unwrap(), scratch.attach());
        let mut subscription = reader.subscribe(&["g".into()], false, patient()).unwrap();
        let mut publisher = master.publisher().unwrap();
        let g = publisher.resolve("g").unwrap();
        let loans: Vec<_> = (0..3000).map(|_| publisher.loan(&[g], 8).unwrap()).collect();
        let last = publisher.loan(&[g], 8).unwrap();
        let start = Barrier::new(2);
        let stamps = std::thread::scope(|scope| {
            let stamps = scope.spawn(|| {
                start.wait();
                let mut stamps = Vec::new();
                for loan in loans {
                    match publisher.publish_loan(loan, 8, Envelope::default()) {
                        Ok(stamp) => stamps.push(stamp.0),
                        Err(error) => assert!(matches!(error, BusError::Closed), "{error}"),
                    }
                }
                stamps
            });
            start.wait();
            master.close();
            stamps.join().unwrap()
        });
        let refused = publisher.publish_loan(last, 8, Envelope::default());
        assert!(matches!(refused, Err(BusError::Closed)));
        let newcomer = scratch.attach();
        publish(&mut newcomer.publisher().unwrap(), g, b"end");
        let got = read(&mut subscription, stamps.len() + 1);
        assert_eq!(got.last().unwrap().1, b"end");
        assert!(got.iter().map(|m| m.0).take(stamps.len()).eq(stamps));
        assert!(subscription.violations().is_empty());
    }
}

/// More attachments than there are ids, in a process of its own, so that nobody else's descriptors and maps are counted.
fn many(options: &AttachOptions, first: Bus) {
    let count = |what: &str| match what {
        "maps" => std::fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
        _ => std::fs::read_dir("/proc/self/fd").unwrap().count(),
    };
    let attach = || Bus::attach("test", options).unwrap();
    let mut masters = vec![first, attach()];
    let mut before = None;
    for n in 0..1200 {
        attach().close();
        if n % 200 == 150 {
            masters.remove(0).close();
            masters.push(attach());
        }
        if n == 300 {
            before = Some((count("fd"), count("maps")));
        }
    }
    let (fds, maps) = before.unwrap();
    until("all descriptors are closed again", || count("fd") <= fds);
    // The heap may have grown by a map or two.
    until("all maps are gone again", || count("maps") <= maps + 16);
    let id = masters.iter().map(|m| m.member().id).max();
    assert!(id < Some(64), "ids are not reused: {id:?}");
}

#[test]
fn ids_descriptors_and_maps_are_freed_under_several_masters() {
    let scratch = Scratch::new();
    Child::start(&scratch, "many", None).finish();
}

#[test]
fn the_applications_protocol_is_asked_by_every_master() {
    let scratch = Scratch::new();
    let speaking = |protocol| {
        let options = AttachOptions { protocol, ..scratch.options() };
        Bus::attach("test", &options)
    };
    let (master, second) = (speaking(7).unwrap(), speaking(7).unwrap());
    assert!(matches!(speaking(8), Err(BusError::Refused { .. })));
    master.close();
    assert!(matches!(speaking(8), Err(BusError::Refused { .. })));
    let third = speaking(7).unwrap();
    agree(&[&second, &third]);
}

/// What one subscription of the game below has seen: everything from `from` on, below `to`.
struct Seen {
    from: u64,
    to: u64,
    got: Vec<(u64, u64)>,
}

/// Reads what there is, until the subscription has ended.
fn take(subscription: &mut Subscription, seen: &mut Seen) -> Result<usize, BusError> {
    let polled = subscription.poll(64, |event| {
        if let Event::Message(m) = event {
            let number = u64::from_le_bytes(m.to_vec().try_into().unwrap());
            seen.got.push((m.frame.place.stamp.0, number));
        }
    });
    seen.to = match &polled {
        Ok(_) => subscription.position().0,
        // What was read before it may count, and what stands there may not.
        Err(BusError::Evicted { stamp }) => *stamp,
        Err(_) => seen.got.last().map_or(seen.from, |last| last.0 + 1),
    };
    polled
}

type Published = Mutex<BTreeMap<u64, u64>>;

fn play(scratch: &Scratch, seed: u64, published: &Published, seen: &Mutex<Vec<Seen>>) {
    let mut dice = Dice(seed);
    let bus = scratch.attach();
    let mut publisher = bus.publisher().unwrap();
    let mut subscriptions: Vec<(Subscription, Seen)> = Vec::new();
    let g = bus.create_group("g", LONG).unwrap();
    for turn in 0..5 + dice.roll(40) {
        match dice.roll(10) {
            0 | 1 if subscriptions.len() < 3 => {
                let subscription = bus.subscribe(&["g".into()], false, patient()).unwrap();
                let from = subscription.position().0;
                let got = Vec::new();
                subscriptions.push((subscription, Seen { from, to: from, got }));
            }
            2 if !subscriptions.is_empty() => {
                let (mut subscription, mut now) = subscriptions.swap_remove(0);
                let _ = take(&mut subscription, &mut now);
                seen.lock().unwrap().push(now);
                if dice.roll(2) == 0 {
                    subscription.close(LONG).unwrap();
                }
            }
            3..=5 => {
                for (subscription, now) in &mut subscriptions {
                    take(subscription, now).expect("nobody evicts anybody here");
                }
            }
            _ => {
                let number = seed << 16 | turn;
                match publisher.publish(&[g], &number.to_le_bytes(), Envelope::default()) {
                    Ok(stamp) => {
                        published.lock().unwrap().insert(stamp.0, number);
                    }
                    Err(BusError::WouldBlock { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    for (mut subscription, mut now) in subscriptions {
        if dice.roll(2) == 0 {
            let _ = take(&mut subscription, &mut now);
        }
        seen.lock().unwrap().push(now);
    }
    bus.close();
}

/// Attachments come, subscribe, publish, leave and inherit the role, in an order that depends on the seed and on the
/// scheduler. Whatever was published while somebody was subscribed, it got, in the order of the stamps.
#[test]
fn nobody_misses_a_message_whoever_comes_and_goes() {
    let first = std::env::var("SHM_BUS_TEST_SEED").map_or(1, |s| s.parse().unwrap());
    for round in first..first + 200 {
        let scratch = Scratch::new();
        let (published, seen) = (Published::default(), Mutex::default());
        // Half of the time it is the founder who leaves in the middle of it.
        let mut founder = Some(scratch.attach());
        let watcher = Arc::new(scratch.attach());
        let mut watching = watcher.subscribe(&["g".into()], false, patient()).unwrap();
        let mut all = Seen { from: watching.position().0, to: 0, got: Vec::new() };
        let players = 3 + round % 4;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..players)
                .map(|player| {
                    let (scratch, published, seen) = (&scratch, &published, &seen);
                    scope.spawn(move || play(scratch, round << 8 | player, published, seen))
                })
                .collect();
            if round % 2 == 0 {
                drop(founder.take());
            }
            while threads.iter().any(|t| !t.is_finished()) {
                watching.wait(WaitStrategy::Park, Duration::from_millis(5)).unwrap();
                take(&mut watching, &mut all).expect("nobody evicts anybody here");
            }
        });
        while watching.advance_to_ready() {
            take(&mut watching, &mut all).expect("nobody evicts anybody here");
        }
        all.to = u64::MAX;
        let mut seen = seen.into_inner().unwrap();
        seen.push(all);
        let published = published.into_inner().unwrap();
        for Seen { from, to, got } in seen {
            let due: Vec<_> = published.range(from..to.max(from)).map(|(s, n)| (*s, *n)).collect();
            assert_eq!(got, due, "seed {round}, from {from} to {to}");
        }
        assert!(watching.violations().is_empty());
        drop(watching);
    }
}
