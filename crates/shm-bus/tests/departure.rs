//! Whoever goes, in whatever way, holds nobody up, and everyone hears of it.

mod common;

use std::os::unix::process::CommandExt;
use std::process::Command;

use common::{Child, LONG, Scratch, patient, publish, read, until};
use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Event, MemberId, Overload, Publisher, Record,
    SubscribeOptions, Subscription, WaitStrategy,
};
use shm_bus_os::{Interest, Poller};

fn pinned() -> SubscribeOptions {
    SubscribeOptions { overload: Some(Overload::Pinned), timeout: LONG, ..Default::default() }
}

/// A subscription that is told who comes and goes.
fn observe(bus: &Bus) -> Subscription {
    bus.subscribe(&[], true, SubscribeOptions { records: true, ..patient() }).unwrap()
}

/// How often `member` departs, and whether it is evicted, up to and with its first departure.
fn watch(observer: &mut Subscription, member: MemberId) -> (u32, u32) {
    let (mut departed, mut evicted) = (0, 0);
    until("it is departed", || {
        observer.wait(WaitStrategy::Park, LONG).unwrap();
        let count = |event: Event<'_>| match event {
            Event::Record(_, Record::Departed { member: other, .. }) => {
                departed += u32::from(*other == member)
            }
            Event::Record(_, Record::Evicted { member: other, .. }) => evicted += u32::from(*other == member),
            _ => {}
        };
        observer.poll(64, count).unwrap();
        departed > 0
    });
    (departed, evicted)
}

/// The process of the tests.
#[test]
fn child() {
    let Some((role, options)) = Child::role() else { return };
    let bus = Bus::attach("test", &options).unwrap();
    match role.as_str() {
        // Holds whatever it can hold, until it is killed.
        "pinned" => {
            let _reader = bus.subscribe(&["held".into()], true, pinned()).unwrap();
            std::thread::sleep(2 * LONG);
        }
        // Becomes another program, in the same process, when it is told to.
        "exec" => {
            let mut reader = bus.subscribe(&["held".into()], true, pinned()).unwrap();
            until("it is told to", || {
                reader.wait(WaitStrategy::Park, LONG).unwrap();
                reader.poll(1, |_| {}).unwrap() > 0
            });
            let error = Command::new("sleep").arg("120").exec();
            panic!("{error}");
        }
        other => panic!("no role {other}"),
    }
}

/// A child that has subscribed, and who it is.
fn start(scratch: &Scratch, bus: &Bus, role: &str) -> (Child, MemberId) {
    let held = bus.create_group("held", LONG).unwrap();
    let before: Vec<MemberId> = bus.directory().unwrap().members().map(|(member, _)| member).collect();
    let child = Child::start(scratch, role, None);
    until("it has subscribed", || bus.directory().unwrap().is_joined(held));
    let directory = bus.directory().unwrap();
    let member = directory.members().map(|(member, _)| member).find(|m| !before.contains(m));
    (child, member.unwrap())
}

/// Publishes until there is no room.
fn fill(publisher: &mut Publisher, to: Address) {
    loop {
        match publisher.publish(&[to], b"x", Envelope::default()) {
            Ok(_) => {}
            Err(BusError::WouldBlock { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[track_caller]
fn assert_rung(bus: &Bus) {
    let poller = Poller::new().unwrap();
    poller.add(bus.bell(), 0, Interest::READ).unwrap();
    let mut events = Vec::new();
    poller.wait(&mut events, Some(LONG)).unwrap();
    assert!(!events.is_empty(), "nobody rang");
}

/// Nobody may take its place, and its departure record needs a slot.
#[test]
fn a_dead_reader_that_was_waited_for_is_departed_though_the_order_is_full() {
    let scratch = Scratch::new();
    let small = AttachOptions { log2_slots: 8, ..scratch.options() };
    let bus = Bus::attach("test", &small).unwrap();
    let mut observer = observe(&bus);
    let (mut child, member) = start(&scratch, &bus, "pinned");
    let mut publisher = bus.publisher().unwrap();
    let other = bus.create_group("other", LONG).unwrap();
    while observer.poll(64, |_| {}).unwrap() > 0 {}
    fill(&mut publisher, other);
    observer.poll(64, |_| {}).unwrap();
    observer.release().unwrap();
    child.kill();
    assert!(publisher.wait_writable(LONG).unwrap());
    publish(&mut publisher, other, b"x");
    assert_eq!(watch(&mut observer, member), (1, 0));
}

#[test]
fn whoever_waits_for_room_hears_of_a_departure() {
    let scratch = Scratch::new();
    let (master, bus) = (scratch.attach(), scratch.attach());
    let (mut child, _) = start(&scratch, &master, "pinned");
    let mut publisher = bus.publisher().unwrap();
    let held = publisher.resolve("held").unwrap();
    fill(&mut publisher, held);
    publisher.want_space(true);
    assert!(!publisher.is_writable().unwrap());
    bus.drain_wakes();
    child.kill();
    assert_rung(&bus);
    until("there is room", || publisher.is_writable().unwrap());
    publisher.want_space(false);
}

#[test]
fn everyone_asleep_hears_of_a_departure() {
    let scratch = Scratch::new();
    let (master, bus) = (scratch.attach(), scratch.attach());
    let (mut child, member) = start(&scratch, &master, "pinned");
    let mut asleep = observe(&bus);
    while asleep.poll(64, |_| {}).unwrap() > 0 {}
    bus.arm(asleep.buckets());
    assert!(!asleep.advance_to_ready());
    bus.drain_wakes();
    child.kill();
    assert_rung(&bus);
    bus.disarm(asleep.buckets());
    assert_eq!(watch(&mut asleep, member), (1, 0));
}

/// Its mappings are gone and its process lives on: only the end of its side channel tells.
#[test]
fn a_process_that_becomes_another_program_is_departed() {
    let scratch = Scratch::new();
    let bus = scratch.attach();
    let mut observer = observe(&bus);
    let (mut child, member) = start(&scratch, &bus, "exec");
    let mut publisher = bus.publisher().unwrap();
    let held = publisher.resolve("held").unwrap();
    publish(&mut publisher, held, b"now");
    assert_eq!(watch(&mut observer, member), (1, 0));
    assert!(child.is_running(), "it is another program now");
    // It holds nothing any more.
    for _ in 0..1000 {
        publish(&mut publisher, held, b"x");
        observer.poll(64, |_| {}).unwrap();
    }
    child.kill();
}

/// The memory of one that is gone is everyone's who has yet to read it, also of those who never looked at it.
#[test]
fn what_a_member_left_behind_is_read_after_its_id_could_be_another_s() {
    let scratch = Scratch::new();
    let (bus, sender) = (scratch.attach(), scratch.attach());
    let mut late = bus.subscribe(&["g".into()], true, pinned()).unwrap();
    let mut publisher = sender.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    publish(&mut publisher, g, b"left behind");
    let gone = sender.member();
    drop(publisher);
    sender.close();
    until("it is departed", || !bus.directory().unwrap().has(gone));
    // As many as there are ids to be given away meanwhile.
    let others: Vec<Bus> = (0..8).map(|_| scratch.attach()).collect();
    assert!(others.iter().all(|other| other.member().id != gone.id), "somebody has its id");
    assert_eq!(read(&mut late, 1)[0].1, b"left behind");
    late.release().unwrap();
    let mut kept = others;
    until("its id is free", || {
        late.poll(64, |_| {}).unwrap();
        kept.push(scratch.attach());
        kept.last().unwrap().member().id == gone.id
    });
}
