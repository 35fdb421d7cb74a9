//! What an attachment takes of the order that all share: its start, its cursor, its slots.

mod common;

use common::{Child, LONG, Scratch, patient, publish, read, until};
use shm_bus::{AttachOptions, Bus, BusError, Envelope, Event, Overload, Publisher, SubscribeOptions};
use shm_bus_ring::{AttachmentId, Shortage};

#[test]
fn child() {
    let Some((role, options)) = Child::role() else { return };
    let _bus = Bus::attach("test", &options).unwrap();
    assert_eq!(role, "master");
    std::thread::sleep(2 * LONG);
}

/// The hint lags behind the tail by up to seven messages.
#[test]
fn a_subscription_begins_right_behind_its_own_join_record() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut publisher = a.publisher().unwrap();
    let g = a.create_group("g", LONG).unwrap();
    let mut observer = b.subscribe(&[], true, SubscribeOptions { records: true, ..patient() }).unwrap();
    for before in 0..12 {
        for _ in 0..before {
            publish(&mut publisher, g, b"too early");
        }
        let c = scratch.attach();
        let mut subscription = c.subscribe(&["g".into()], false, patient()).unwrap();
        let mut joined = None;
        until("it is known where it joined", || {
            let record = |event: Event<'_>| match event {
                Event::Record(stamp, shm_bus::Record::Joined { member, .. }) if *member == c.member() => {
                    joined = Some(stamp.0);
                }
                _ => {}
            };
            observer.poll(64, record).unwrap();
            joined.is_some()
        });
        assert_eq!(subscription.position().0, joined.unwrap() + 1);
        publish(&mut publisher, g, b"in time");
        assert_eq!(read(&mut subscription, 1)[0].1, b"in time");
        c.close();
    }
}

fn fill(publisher: &mut Publisher, to: shm_bus::Address) -> BusError {
    loop {
        if let Err(error) = publisher.publish(&[to], b"x", Envelope::default()) {
            return error;
        }
    }
}

#[test]
fn whoever_does_not_subscribe_holds_nothing() {
    let scratch = Scratch::new();
    let small = AttachOptions { log2_slots: 8, ..scratch.options() };
    let (a, b) = (Bus::attach("test", &small).unwrap(), scratch.attach());
    let (mut publisher, mut other) = (a.publisher().unwrap(), b.publisher().unwrap());
    let g = a.create_group("g", LONG).unwrap();
    other.publish(&[g], b"x", Envelope::default()).unwrap();
    // Laps of the order and of the publisher's ring.
    for n in 0..2000 {
        let published = publisher.publish(&[g], b"x", Envelope::default());
        assert!(published.is_ok(), "message {n}: {published:?}");
    }
    other.publish(&[g], b"x", Envelope::default()).unwrap();
}

#[test]
fn whoever_is_in_its_own_way_is_told_so() {
    let scratch = Scratch::new();
    let (_master, bus) = (scratch.attach(), scratch.attach());
    let mut own = bus.subscribe(&["g".into()], false, patient()).unwrap();
    let start = own.position().0;
    let mut publisher = bus.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    let refused = fill(&mut publisher, g);
    let me = AttachmentId(bus.member().id);
    assert!(
        matches!(refused, BusError::WouldBlock { shortage: Shortage::Headers, holder: Some((id, at)) }
            if id == me && at == start),
        "{refused:?}"
    );
    read(&mut own, 64);
    own.release().unwrap();
    publisher.publish(&[g], b"x", Envelope::default()).unwrap();
}

#[test]
fn nobody_may_have_more_headers_than_a_quarter_of_the_slots() {
    let scratch = Scratch::new();
    let options = |headers| AttachOptions { log2_slots: 8, headers, ..scratch.options() };
    let refused = Bus::attach("test", &options(128)).err();
    assert!(matches!(refused, Some(BusError::InvalidOption { option: "headers", .. })), "{refused:?}");
    let master = Bus::attach("test", &options(64)).unwrap();
    let refused = Bus::attach("test", &options(128)).err();
    assert!(matches!(&refused, Some(BusError::Refused { why }) if why.contains("at most 64")), "{refused:?}");
    drop(master);
}

/// Whoever publishes takes the place of a reader whose time is up: no master is needed for it.
#[test]
fn a_slow_reader_loses_its_place_while_the_master_is_stopped() {
    let scratch = Scratch::new();
    let mut master = Child::start(&scratch, "master", None);
    let never = AttachOptions { master: shm_bus::MasterMode::Never, ..scratch.options() };
    until("the master is there", || Bus::attach("test", &never).is_ok());
    let (a, b) = (scratch.attach(), scratch.attach());
    let soon = Overload::Block { deadline: std::time::Duration::from_millis(50) };
    let options = SubscribeOptions { overload: Some(soon), ..patient() };
    let mut slow = b.subscribe(&["g".into()], false, options).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    master.stop();
    assert!(matches!(fill(&mut publisher, g), BusError::WouldBlock { .. }));
    assert!(publisher.wait_writable(LONG).unwrap());
    publisher.publish(&[g], b"x", Envelope::default()).unwrap();
    assert!(matches!(slow.poll(1, |_| {}), Err(BusError::Evicted { .. })));
    drop(slow);
    master.kill();
}
