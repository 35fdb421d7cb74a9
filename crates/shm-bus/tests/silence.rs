//! A master that is stopped and not dead: the role passes on, newcomers come in, and when it runs again it is an
//! attachment like any other that has missed nothing.

mod common;

use std::time::Duration;

use common::{Child, Dice, LONG, Scratch, patient, publish, read, until};
use shm_bus::{Address, AttachOptions, Bus, BusError, MasterMode};

/// What each of the slow processes asks.
const QUESTIONS: usize = 40;

/// What the processes do that the tests start.
#[test]
fn child() {
    let Some((role, options)) = Child::role() else {
        return;
    };
    match role.as_str() {
        // Founds the bus and answers each message of the group `questions` by the same in the group `answers`, until
        // it is asked to end.
        "master" => echo(&Bus::attach("test", &options).unwrap()),
        "abstract" => echo(&Bus::attach("@test", &options).unwrap()),
        "busy" => {
            let bus = Bus::attach("test", &options).unwrap();
            let here = bus.create_group(&format!("here {}", bus.member().id), LONG).unwrap();
            until("all are there", || bus.directory().unwrap().group_named("go").is_some());
            for _ in 0..QUESTIONS {
                bus.subscribe(&["g".into()], false, patient()).unwrap().close(LONG).unwrap();
                // So that it takes many of its turns.
                std::thread::sleep(Duration::from_millis(5));
            }
            let directory = bus.directory().unwrap();
            assert!(directory.name_of(here).is_some());
            // Five that leave make five terms, and at the beginning one or two may be too quick.
            assert!(directory.term < 12, "{} terms", directory.term);
        }
        other => panic!("no role {other}"),
    }
}

fn echo(bus: &Bus) {
    assert!(bus.is_master());
    let mut publisher = bus.publisher().unwrap();
    let answers = bus.create_group("answers", LONG).unwrap();
    let mut questions = bus.subscribe(&["questions".into()], false, patient()).unwrap();
    loop {
        for (_, text) in read(&mut questions, 1) {
            publish(&mut publisher, answers, &text);
            if text == b"end" {
                assert!(questions.violations().is_empty());
                return;
            }
        }
    }
}

/// Attaches once the other process has founded the bus, and waits until it answers.
fn follow(name: &str, scratch: &Scratch) -> Bus {
    let never = AttachOptions { master: MasterMode::Never, ..scratch.options() };
    let mut bus = Bus::attach(name, &never);
    until("the master is there", || {
        if matches!(bus, Err(BusError::NotFound { .. })) {
            bus = Bus::attach(name, &never);
        }
        bus.is_ok()
    });
    let bus = bus.unwrap();
    until("the master reads", || {
        let directory = bus.directory().unwrap();
        directory.group_named("questions").is_some_and(|g| directory.is_joined(g))
    });
    bus
}

/// Master stopped, then: `ask` by one that is attached already, while the others' traffic goes on, and a newcomer, and
/// the former master again.
fn stop_and_go(name: &str, role: &str, ask: impl Fn(&Bus)) {
    let scratch = Scratch::new();
    let master = Child::start(&scratch, role, None);
    let first = follow(name, &scratch);
    let second = Bus::attach(name, &scratch.options()).unwrap();
    let mut answers = second.subscribe(&["answers".into()], false, patient()).unwrap();
    let mut publisher = first.publisher().unwrap();
    let questions = publisher.resolve("questions").unwrap();
    let texts: Vec<Vec<u8>> = (0..20u8).map(|i| vec![i]).collect();
    for text in &texts[..5] {
        publish(&mut publisher, questions, text);
    }
    read(&mut answers, 5);
    master.stop();
    for text in &texts[5..10] {
        publish(&mut publisher, questions, text);
    }
    ask(&first);
    let third = Bus::attach(name, &scratch.options()).unwrap();
    assert!(first.is_master() || second.is_master(), "the role has passed on");
    let mut late = third.publisher().unwrap();
    for text in &texts[10..15] {
        publish(&mut late, questions, text);
    }
    until("the newcomer is known, and the one that is stopped is not dead", || {
        let directory = second.directory().unwrap();
        directory.has(third.member()) && directory.members().count() == 4
    });
    master.signal("CONT");
    for text in &texts[15..] {
        publish(&mut publisher, questions, text);
    }
    let got: Vec<Vec<u8>> = read(&mut answers, 15).into_iter().map(|(_, text)| text).collect();
    assert_eq!(got, texts[5..]);
    // It follows its successor: what that one admits it hears of.
    let fourth = Bus::attach(name, &scratch.options()).unwrap();
    publish(&mut fourth.publisher().unwrap(), questions, b"end");
    assert_eq!(read(&mut answers, 1)[0].1, b"end");
    master.finish();
    until("its departure is known", || second.directory().unwrap().members().count() == 4);
    assert!(answers.violations().is_empty());
}

#[test]
fn a_newcomer_comes_in_although_the_master_is_stopped() {
    stop_and_go("test", "master", |_| {});
}

#[test]
fn a_join_is_answered_although_the_master_is_stopped() {
    stop_and_go("test", "master", |bus| {
        bus.create_group("more", LONG).unwrap();
    });
}

#[test]
fn the_same_without_a_socket_file() {
    stop_and_go("@test", "abstract", |_| {});
}

#[test]
fn a_newcomer_that_waits_long_for_a_master_alone_is_admitted_once() {
    let scratch = Scratch::new();
    let master = Child::start(&scratch, "master", None);
    let first = follow("test", &scratch);
    first.close();
    // Nobody is left who could take the role.
    master.stop();
    let second = std::thread::scope(|scope| {
        let second = scope.spawn(|| scratch.attach());
        // Longer than until the second knock, and the third.
        std::thread::sleep(Duration::from_millis(800));
        master.signal("CONT");
        second.join().unwrap()
    });
    assert_eq!(second.address(), Address::unicast(2));
    let third = scratch.attach();
    assert_eq!(third.address(), Address::unicast(3), "each was admitted once");
    let mut publisher = second.publisher().unwrap();
    let questions = publisher.resolve("questions").unwrap();
    publish(&mut publisher, questions, b"end");
    master.finish();
}

#[test]
fn with_nobody_to_take_the_role_an_attach_says_that_the_master_does_not_answer() {
    let scratch = Scratch::new();
    let mut master = Child::start(&scratch, "master", None);
    follow("test", &scratch).close();
    master.stop();
    let impatient = AttachOptions { timeout: Duration::from_millis(500), ..scratch.options() };
    let refused = Bus::attach("test", &impatient);
    assert!(matches!(refused, Err(BusError::NoMaster { waited: 500, .. })), "{:?}", refused.err());
    master.kill();
    // With the last one the bus is gone, and this founds another.
    scratch.attach();
}

/// Processes that run a tenth of the time, each at its own: much more than the patience may pass before the master runs
/// again and answers. They count what they have slept through themselves.
#[test]
fn slow_processes_do_not_rob_each_other_for_ever() {
    let scratch = Scratch::new();
    let watcher = scratch.attach();
    let children: Vec<Child> = (0..5).map(|_| Child::start(&scratch, "busy", None)).collect();
    let is_here = |name: &str| name.starts_with("here ");
    until("everyone is there", || {
        watcher.directory().unwrap().groups().filter(|(_, name)| is_here(name)).count() == 5
    });
    watcher.create_group("go", LONG).unwrap();
    watcher.close();
    std::thread::scope(|scope| {
        for (i, mut child) in children.into_iter().enumerate() {
            scope.spawn(move || {
                let mut dice = Dice(i as u64 + 1);
                while child.is_running() {
                    child.signal("STOP");
                    std::thread::sleep(Duration::from_millis(50 + dice.roll(400)));
                    child.signal("CONT");
                    std::thread::sleep(Duration::from_millis(30));
                }
                child.finish();
            });
        }
    });
}
