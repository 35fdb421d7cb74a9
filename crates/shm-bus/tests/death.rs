//! Every part, every way to die, and children that live on with what they hold: the departure is in the order, nothing
//! of the dead follows it, its memory is free again, and the others' traffic goes on unbroken.

mod common;

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Child, LONG, Scratch, patient, publish, read, until};
use shm_bus::{
    AttachOptions, Bus, BusError, Departure, Envelope, Event, MasterMode, MemberId, Record, SubscribeOptions,
    Subscription, WaitStrategy,
};

const PARTS: [&str; 3] = ["publisher", "reader", "master"];
/// A panic runs destructors, so that one says goodbye.
const WAYS: [&str; 4] = ["kill", "exit", "panic", "exec"];
/// What lives on: nothing; a program that was started; a copy of the process; a copy that the C library knows nothing of.
const HEIRS: [&str; 4] = ["none", "spawned", "forked", "cloned"];

/// What the processes do that the tests start.
#[test]
fn child() {
    let Some((role, options)) = Child::role() else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    let bus = Bus::attach("test", &options).unwrap();
    let mut publisher = bus.publisher().unwrap();
    let [numbers, heir] = ["numbers", "heir"].map(|g| bus.create_group(g, LONG).unwrap());
    // Never read: it holds what is sent to it.
    let held = (words[0] == "reader").then(|| bus.subscribe(&["traffic".into()], false, patient()).unwrap());
    let mut orders = bus.subscribe(&["orders".into()], false, patient()).unwrap();
    let mut ordered = false;
    for number in 0u64.. {
        if words[0] != "reader" {
            publish(&mut publisher, numbers, &number.to_le_bytes());
        } else {
            std::thread::sleep(Duration::from_millis(1));
        }
        orders.poll(16, |event| ordered |= matches!(event, Event::Message(_))).unwrap();
        if ordered {
            break;
        }
    }
    let pid = leave_an_heir(words[2]);
    publish(&mut publisher, heir, &pid.to_le_bytes());
    match words[1] {
        // SAFETY: a signal to this process.
        "kill" => drop(unsafe { libc::raise(libc::SIGKILL) }),
        "exit" => std::process::exit(3),
        "panic" => panic!("as it was told"),
        "exec" => panic!("{}", Command::new("sleep").arg("1000").exec()),
        other => panic!("no way {other}"),
    }
    drop(held);
}

/// Starts what lives on; its pid, or 0.
fn leave_an_heir(kind: &str) -> i32 {
    let wait_for_ever = || loop {
        // SAFETY: a system call, which is all that a copy of one thread of many may do.
        unsafe { libc::pause() };
    };
    match kind {
        "none" => 0,
        "spawned" => Command::new("sleep").arg("1000").spawn().unwrap().id() as i32,
        // SAFETY: the child waits.
        "forked" => match unsafe { libc::fork() } {
            0 => wait_for_ever(),
            pid => pid,
        },
        // SAFETY: the child has a stack of its own, as with fork, and waits.
        "cloned" => match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
            0 => wait_for_ever(),
            pid => pid as i32,
        },
        other => panic!("no heir {other}"),
    }
}

/// A process that is to be there still, and is killed then.
struct Heir(i32);

impl Heir {
    fn assert_alive(&self) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it is there");
        assert!(!stat.rsplit_once(')').unwrap().1.starts_with(" Z"), "{stat}");
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: a signal to a process that was started for this test.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
            // Whoever reaps it, it holds nothing once it is a zombie.
            until("it is gone", || {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
                stat.rsplit_once(')').is_none_or(|(_, rest)| rest.starts_with(" Z"))
            });
        }
    }
}

/// Attaches once the victim has founded the bus.
fn follow(scratch: &Scratch) -> Bus {
    let never = AttachOptions { master: MasterMode::Never, ..scratch.options() };
    let mut bus = Bus::attach("test", &never);
    until("the master is there", || {
        if matches!(bus, Err(BusError::NotFound { .. })) {
            bus = Bus::attach("test", &never);
        }
        bus.is_ok()
    });
    bus.unwrap()
}

/// What the witness sees.
#[derive(Default)]
struct Seen {
    numbers: Vec<(u64, u64)>,
    traffic: Vec<(u64, u64)>,
    departed: Vec<(u64, Departure)>,
    evicted: BTreeSet<MemberId>,
    heir: Option<Heir>,
}

impl Seen {
    fn take(&mut self, subscription: &mut Subscription, victim: MemberId) {
        subscription.wait(WaitStrategy::Park, Duration::from_millis(50)).unwrap();
        let groups = subscription.addresses().to_vec();
        let take = |event: Event<'_>| match event {
            Event::Message(m) => {
                let (stamp, bytes) = (m.frame.place.stamp.0, m.to_vec());
                let number = || u64::from_le_bytes(bytes[..].try_into().unwrap());
                match groups.iter().position(|g| *g == m.destination) {
                    Some(0) => self.numbers.push((stamp, number())),
                    Some(1) => self.traffic.push((stamp, number())),
                    _ => self.heir = Some(Heir(i32::from_le_bytes(bytes[..].try_into().unwrap()))),
                }
            }
            Event::Record(stamp, Record::Departed { member, departure, .. }) if *member == victim => {
                self.departed.push((stamp.0, *departure));
            }
            Event::Record(_, Record::Evicted { member, .. }) => drop(self.evicted.insert(*member)),
            Event::Record(..) => {}
            Event::Gap { .. } => panic!("a reader that is waited for misses nothing"),
        };
        subscription.poll(64, take).unwrap();
    }
}

/// Says stop when it goes out of scope, also in a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All numbers from 0 on, each once, in the order of the stamps.
#[track_caller]
fn assert_unbroken(what: &str, got: &[(u64, u64)]) {
    assert!(got.iter().map(|g| g.1).eq(0..got.len() as u64), "{what} is lost or repeated: {got:?}");
    assert!(got.is_sorted_by_key(|g| g.0), "{what} is not in order");
}

fn die(part: &str, way: &str, heir: &str) {
    let scratch = Scratch::new();
    let role = format!("{part} {way} {heir}");
    let founder = (part != "master").then(|| scratch.attach());
    let mut victim = Child::start(&scratch, &role, None);
    let witness = follow(&scratch);
    let sender = scratch.attach();
    let with_records = SubscribeOptions { records: true, ..patient() };
    let groups = ["numbers", "traffic", "heir"].map(String::from);
    let mut subscription = witness.subscribe(&groups, false, with_records).unwrap();
    let mut publisher = sender.publisher().unwrap();
    let [traffic, orders] = ["traffic", "orders"].map(|g| witness.create_group(g, LONG).unwrap());
    until("the victim listens", || witness.directory().unwrap().is_joined(orders));
    let known = [witness.member(), sender.member()];
    let is_known = |m: MemberId| known.contains(&m) || founder.as_ref().is_some_and(|f| f.member() == m);
    let victims: Vec<MemberId> =
        witness.directory().unwrap().members().map(|(m, _)| m).filter(|m| !is_known(*m)).collect();
    let [member] = victims[..] else { panic!("{victims:?}") };
    let mut seen = Seen::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = Stop(&stop);
        let ended = stop.0;
        scope.spawn(move || {
            publish(&mut publisher, orders, b"");
            for number in 0u64.. {
                let sent = loop {
                    match publisher.publish(&[traffic], &number.to_le_bytes(), Envelope::default()) {
                        Ok(_) => break true,
                        Err(BusError::WouldBlock { .. }) if ended.load(Ordering::Relaxed) => break false,
                        Err(BusError::WouldBlock { .. }) => {
                            publisher.wait_writable(Duration::from_millis(20)).unwrap();
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                if !sent || ended.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let (start, mut after) = (Instant::now(), 0);
        // More than one ring full of others' messages behind the departure: what the dead held is free again.
        while after < 200 {
            assert!(start.elapsed() < LONG, "{role}: departed {:?}, {after} behind", seen.departed);
            seen.take(&mut subscription, member);
            after = match seen.departed.first() {
                Some((stamp, _)) => seen.traffic.iter().filter(|(s, _)| s > stamp).count(),
                None => 0,
            };
        }
    });
    let [(stamp, departure)] = seen.departed[..] else { panic!("{role}: {:?}", seen.departed) };
    assert_eq!(departure, if way == "panic" { Departure::Closed } else { Departure::Died }, "{role}");
    assert!(seen.numbers.iter().all(|(s, _)| *s < stamp), "{role}: a frame above its sender's departure");
    if let Some((_, first)) = seen.numbers.first().copied() {
        // The witness came in the middle.
        let numbers: Vec<_> = seen.numbers.iter().map(|(s, n)| (*s, n - first)).collect();
        assert_unbroken("what the dead sent", &numbers);
    }
    assert_unbroken("the others' traffic", &seen.traffic);
    assert!(!seen.evicted.contains(&member), "{role}: it was a death and not a deadline");
    assert!(subscription.violations().is_empty(), "{role}: {:?}", subscription.violations());
    let heir = seen.heir.expect("it was said before the death");
    if heir.0 > 0 {
        heir.assert_alive();
    }
    // The bus is whole: somebody is master, and a newcomer is heard.
    let newcomer = scratch.attach();
    let mut inbox = newcomer.subscribe(&["more".into()], true, patient()).unwrap();
    let mut publisher = witness.publisher().unwrap();
    publish(&mut publisher, newcomer.address(), b"hello");
    assert_eq!(read(&mut inbox, 1)[0].1, b"hello");
    until("the directory knows", || !witness.directory().unwrap().has(member));
    // What was started by exec.
    victim.kill();
}

fn die_in_every_way(part: &str) {
    for way in WAYS {
        for heir in HEIRS {
            // A process that lives on as another program, and a copy of it that nobody can know of: only its end tells.
            if (way, heir) != ("exec", "cloned") {
                die(part, way, heir);
            }
        }
    }
}

#[test]
fn a_publisher_dies() {
    die_in_every_way(PARTS[0]);
}

#[test]
fn a_reader_dies() {
    die_in_every_way(PARTS[1]);
}

#[test]
fn a_master_dies() {
    die_in_every_way(PARTS[2]);
}

#[test]
fn a_bus_whose_last_process_left_a_forked_child_can_be_founded_anew() {
    for heir in ["spawned", "forked"] {
        let scratch = Scratch::new();
        let mut victim = Child::start(&scratch, &format!("master kill {heir}"), None);
        let last = follow(&scratch);
        let mut heirs = last.subscribe(&["heir".into()], false, patient()).unwrap();
        let orders = last.create_group("orders", LONG).unwrap();
        until("the victim listens", || last.directory().unwrap().is_joined(orders));
        publish(&mut last.publisher().unwrap(), orders, b"");
        let pid = i32::from_le_bytes(read(&mut heirs, 1)[0].1[..].try_into().unwrap());
        let heir = Heir(pid);
        let id = last.bus_id();
        drop((heirs, last));
        victim.kill();
        heir.assert_alive();
        assert_ne!(scratch.attach().bus_id(), id);
    }
}
