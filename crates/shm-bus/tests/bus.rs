//! Attachments of one process, each with its own memories and threads: everything but the process boundary is real.

mod common;

use std::time::Duration;

use common::Scratch;
use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Event, MasterMode, Overload, SubscribeOptions,
    Subscription, WaitStrategy,
};

fn read(subscription: &mut Subscription, want: usize) -> Vec<(u64, Address, Vec<u8>)> {
    let mut got = Vec::new();
    while got.len() < want {
        subscription.wait(WaitStrategy::default(), Duration::from_secs(1)).unwrap();
        subscription
            .poll(16, |event| {
                if let Event::Message(m) = event {
                    got.push((m.frame.place.stamp.0, m.sender, m.to_vec()));
                }
            })
            .unwrap();
    }
    got
}

#[test]
fn two_subscribers_see_what_two_publishers_sent_in_one_order() {
    let scratch = Scratch::new();
    let roomy = AttachOptions { ring_bytes: 1 << 20, ..scratch.options() };
    let (a, b) = (Bus::attach("test", &roomy).unwrap(), Bus::attach("test", &roomy).unwrap());
    assert_eq!((a.address(), b.address()), (Address::MASTER, Address::unicast(1)));
    let groups = ["cpu".to_owned()];
    let mut at_a = a.subscribe(&groups, false, SubscribeOptions::default()).unwrap();
    let mut at_b = b.subscribe(&groups, false, SubscribeOptions::default()).unwrap();
    let (mut from_a, mut from_b) = (a.publisher().unwrap(), b.publisher().unwrap());
    let cpu = from_a.resolve("cpu").unwrap();
    assert_eq!(from_b.resolve("cpu").unwrap(), cpu);
    let big = vec![7u8; 10_000];
    let mut sent = Vec::new();
    for i in 0..10u8 {
        sent.push((from_a.publish(&[cpu], &[i], Envelope::default()).unwrap().0, a.address(), vec![i]));
        sent.push((from_b.publish(&[cpu], &big, Envelope::default()).unwrap().0, b.address(), big.clone()));
        assert_eq!(read(&mut at_a, 2), sent[sent.len() - 2..]);
    }
    assert_eq!(read(&mut at_b, 20), sent);
    assert!(sent.is_sorted());
}

#[test]
fn a_master_that_leaves_is_followed_by_another_and_traffic_goes_on() {
    let scratch = Scratch::new();
    let master = scratch.attach();
    let (b, c) = (scratch.attach(), scratch.attach());
    let mut at_c = c.subscribe(&["g".into()], true, SubscribeOptions::default()).unwrap();
    let mut from_b = b.publisher().unwrap();
    let g = from_b.resolve("g").unwrap();
    from_b.publish(&[g], b"1", Envelope::default()).unwrap();
    master.close();
    from_b.publish(&[g], b"2", Envelope::default()).unwrap();
    let d = scratch.attach();
    assert_eq!(d.address(), Address::unicast(3), "addresses are not reused");
    let mut at_d = d.subscribe(&["g".into()], false, SubscribeOptions::default()).unwrap();
    from_b.publish(&[g], b"3", Envelope::default()).unwrap();
    let texts = |got: Vec<(u64, Address, Vec<u8>)>| got.into_iter().map(|g| g.2).collect::<Vec<_>>();
    assert_eq!(texts(read(&mut at_c, 3)), [b"1", b"2", b"3"]);
    assert_eq!(texts(read(&mut at_d, 1)), [b"3"]);
    assert!(b.is_master() || c.is_master());
    assert!(matches!(
        from_b.publish(&[Address::MASTER], b"", Envelope::default()),
        Err(BusError::UnknownAddress { .. })
    ));
}

#[test]
fn a_slow_reader_is_waited_for_and_then_loses_its_place() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let options = SubscribeOptions {
        overload: Some(Overload::Block { deadline: Duration::from_millis(50) }),
        ..Default::default()
    };
    let mut slow = b.subscribe(&["g".into()], false, options).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    for i in 0..64u8 {
        publisher.publish(&[g], &[i], Envelope::default()).unwrap();
    }
    let refused = publisher.publish(&[g], b"x", Envelope::default());
    assert!(matches!(refused, Err(BusError::WouldBlock { holder: Some((_, _)), .. })), "{refused:?}");
    assert!(publisher.wait_writable(Duration::from_secs(5)).unwrap());
    publisher.publish(&[g], b"y", Envelope::default()).unwrap();
    assert!(matches!(slow.poll(1, |_| {}), Err(BusError::Evicted { .. })));
}

#[test]
fn ids_are_reused_when_their_owner_is_gone_and_memory_does_not_pile_up() {
    let scratch = Scratch::new();
    let master = scratch.attach();
    let mut seen = std::collections::BTreeSet::new();
    for n in 1..40 {
        let bus = scratch.attach();
        assert_eq!(bus.address(), Address::unicast(n));
        seen.insert(bus.member().id);
        bus.close();
        assert!(matches!(bus.subscribe(&[], true, SubscribeOptions::default()), Err(BusError::Closed)));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(seen.len() < 39, "{seen:?}");
    assert_eq!(master.directory().unwrap().members().count(), 1);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let scratch = Scratch::new();
    for name in ["", "@", "a/b", "..", "x\0y", &"n".repeat(65)] {
        let refused = Bus::attach(name, &scratch.options());
        assert!(matches!(refused, Err(BusError::InvalidName { .. })), "{name:?}");
    }
    let never = AttachOptions { master: MasterMode::Never, ..scratch.options() };
    assert!(matches!(Bus::attach("test", &never), Err(BusError::NotFound { .. })));
    for ring_bytes in [0, 3, 65537, 1 << 34] {
        let refused = Bus::attach("test", &AttachOptions { ring_bytes, ..scratch.options() });
        assert!(matches!(refused, Err(BusError::InvalidOption { option: "ringBytes", .. })), "{ring_bytes}");
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
    let bus = scratch.attach();
    let only = AttachOptions { master: MasterMode::Only, ..scratch.options() };
    assert!(matches!(Bus::attach("test", &only), Err(BusError::Exists { .. })));
    let mut publisher = bus.publisher().unwrap();
    assert!(matches!(publisher.resolve("none"), Err(BusError::UnknownGroup { .. })));
    let own = [bus.address()];
    assert!(matches!(publisher.publish(&own, b"", Envelope::default()), Err(BusError::Unreachable { .. })));
    let unknown = [Address::unicast(99)];
    assert!(matches!(
        publisher.publish(&unknown, b"", Envelope::default()),
        Err(BusError::UnknownAddress { .. })
    ));
    let big = vec![0; (1 << 14) + 1];
    let everyone = [Address::EVERYONE];
    assert!(matches!(publisher.publish(&everyone, &big, Envelope::default()), Err(BusError::TooBig { .. })));
    let twice = [everyone[0], everyone[0]];
    assert!(matches!(
        publisher.publish(&twice, b"", Envelope::default()),
        Err(BusError::DuplicateDestination { .. })
    ));
}

#[test]
fn batches_and_transactions_have_one_stamp() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut inbox = b.subscribe(&["g".into()], true, SubscribeOptions::default()).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    publisher.begin_batch().unwrap();
    for i in 0..5u8 {
        publisher
            .publish(&[if i % 2 == 0 { g } else { b.address() }], &[i; 100], Envelope::default())
            .unwrap();
    }
    let stamp = publisher.end_batch().unwrap().unwrap();
    let got = read(&mut inbox, 5);
    assert!(got.iter().enumerate().all(|(i, g)| g.0 == stamp.0 && g.2 == [i as u8; 100]));
    let both = publisher.publish(&[g, b.address()], b"both", Envelope::default()).unwrap();
    assert_eq!(
        read(&mut inbox, 1),
        [(both.0, a.address(), b"both".to_vec())],
        "one copy, without the destinations"
    );
    publisher.begin_batch().unwrap();
    publisher.publish(&[g], b"kept back", Envelope::default()).unwrap();
    publisher.abandon_batch();
    publisher.publish(&[g], b"after", Envelope::default()).unwrap();
    assert_eq!(read(&mut inbox, 1)[0].2, b"after");
}
