//! The judge must be able to say no: right logs are believed, each kind of doctored log is not.

mod faithful;

use shm_bus::{Departure, MemberId, Record};

use self::faithful::{Bus, GREEN, RED};
use super::{Counts, Failure, Judge, Rule};
use crate::dice::Dice;
use crate::event::{Event, Item, Line};

type Lines = Vec<(u32, Line)>;

/// Lines of which the doctor may choose: their index, and that of an item in them.
fn items(lines: &Lines, of: impl Fn(&Item) -> bool) -> Vec<(usize, usize)> {
    let in_line = |(i, (_, line)): (usize, &(u32, Line))| match &line.event {
        Event::Got { items, .. } => {
            let fits = items.iter().enumerate().filter(|(_, item)| of(item));
            fits.map(|(j, _)| (i, j)).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    lines.iter().enumerate().flat_map(in_line).collect()
}

fn items_of(lines: &mut Lines, line: usize) -> &mut Vec<Item> {
    match &mut lines[line].1.event {
        Event::Got { items, .. } => items,
        other => panic!("{other:?}"),
    }
}

fn is_message(item: &Item) -> bool {
    matches!(item, Item::Message { .. })
}

/// Changes a random delivery of random traffic, and expects one of these rules to be broken, in each of many seeds.
fn doctored(rules: &[Rule], of: impl Fn(&Item) -> bool, change: impl Fn(&mut Vec<Item>, usize)) {
    for seed in 0..50 {
        let mut lines = Bus::random(seed);
        let (line, item) = *Dice::new(seed, 1).pick(&items(&lines, &of)).expect("there is one");
        change(items_of(&mut lines, line), item);
        rejected(rules, lines);
    }
}

#[track_caller]
fn rejected(rules: &[Rule], lines: Lines) -> String {
    match Judge::judge(lines) {
        Err(Failure { rule, text }) if rules.contains(&rule) => text,
        other => panic!("expected one of {rules:?}, not {other:?}"),
    }
}

#[test]
fn what_a_right_bus_does_is_believed() {
    let mut sum = Counts::default();
    for seed in 0..100 {
        let lines = Bus::random(seed);
        let counts = Judge::judge(lines.clone());
        match counts {
            Ok(counts) => sum.add(&counts),
            Err(failure) => {
                lines.iter().for_each(|(p, line)| println!("{p} {line:?}"));
                panic!("seed {seed}: {failure}");
            }
        }
    }
    let elsewhere = ["takeovers", "gaps", "missed"];
    for (what, count) in sum.rows().iter().filter(|(what, _)| !elsewhere.contains(what)) {
        assert!(*count >= 20, "only {count} {what}");
    }
}

#[test]
fn a_lost_delivery_is_noticed() {
    doctored(&[Rule::Delivery], is_message, |items, at| drop(items.remove(at)));
}

#[test]
fn a_lost_record_is_noticed() {
    // A founder's first records aside, everyone has to see each.
    doctored(
        &[Rule::Delivery, Rule::Membership],
        |item| !is_message(item),
        |items, at| drop(items.remove(at)),
    );
}

#[test]
fn a_delivery_that_comes_twice_is_noticed() {
    doctored(&[Rule::Order], is_message, |items, at| items.insert(at, items[at].clone()));
    // Once more at the end, where it would be in place by its stamp alone in another poll.
    doctored(&[Rule::Order, Rule::Delivery], is_message, |items, at| items.push(items[at].clone()));
}

#[test]
fn a_changed_payload_is_noticed() {
    doctored(&[Rule::Content], is_message, |items, at| {
        if let Item::Message { crc, .. } = &mut items[at] {
            *crc ^= 0x100;
        }
    });
    doctored(&[Rule::Content], is_message, |items, at| {
        if let Item::Message { len, .. } = &mut items[at] {
            *len -= 1;
        }
    });
}

#[test]
fn a_wrong_sender_or_destination_is_noticed() {
    doctored(&[Rule::Content], is_message, |items, at| {
        if let Item::Message { sender, .. } = &mut items[at] {
            *sender += 1;
        }
    });
    doctored(&[Rule::Delivery], is_message, |items, at| {
        if let Item::Message { to, .. } = &mut items[at] {
            *to += 1;
        }
    });
}

#[test]
fn a_message_that_nobody_sent_is_noticed() {
    doctored(&[Rule::Content], is_message, |items, at| {
        if let Item::Message { id, .. } = &mut items[at] {
            *id += 1 << 40;
        }
    });
}

#[test]
fn another_stamp_for_one_reader_is_noticed() {
    doctored(
        &[Rule::Order, Rule::Delivery, Rule::Causality, Rule::RealTime, Rule::Membership],
        is_message,
        |items, at| {
            if let Item::Message { stamp, .. } = &mut items[at] {
                *stamp += 1;
            }
        },
    );
}

#[test]
fn a_record_that_one_reader_sees_otherwise_is_noticed() {
    // If nobody else was there to see it, it must make sense at least.
    doctored(
        &[Rule::Order, Rule::Membership],
        |item| !is_message(item),
        |items, at| {
            if let Item::Record { record, .. } = &mut items[at] {
                *record = Record::Left {
                    member: MemberId { id: 77, generation: 1 },
                    addresses: Vec::new(),
                    lossy: false,
                    kept: Vec::new(),
                };
            }
        },
    );
}

#[test]
fn a_batch_in_another_order_is_noticed() {
    let next = |items: &[Item], at: usize| match (&items[at], items.get(at + 1)) {
        (Item::Message { stamp: a, .. }, Some(Item::Message { stamp: b, .. })) => a == b,
        _ => false,
    };
    for seed in 0..50 {
        let mut lines = Bus::random(seed);
        let batches =
            items(&lines, is_message).into_iter().filter(|(line, item)| match &lines[*line].1.event {
                Event::Got { items, .. } => next(items, *item),
                _ => false,
            });
        let batches: Vec<_> = batches.collect();
        let (line, at) = *Dice::new(seed, 1).pick(&batches).expect("there is one");
        let mut reversed = lines.clone();
        items_of(&mut reversed, line).swap(at, at + 1);
        rejected(&[Rule::Order], reversed);
        // The same, with indices that look right.
        let items = items_of(&mut lines, line);
        let (Item::Message { id: a, crc: x, .. }, Item::Message { id: b, crc: y, .. }) =
            (items[at].clone(), items[at + 1].clone())
        else {
            panic!("both are messages")
        };
        for (item, (new_id, new_crc)) in items[at..].iter_mut().zip([(b, y), (a, x)]) {
            if let Item::Message { id, crc, .. } = item {
                (*id, *crc) = (new_id, new_crc);
            }
        }
        rejected(&[Rule::Order], lines);
    }
}

/// Exchanges two stamps wherever they occur, and puts every delivery back in order: nobody could tell by looking at the
/// deliveries alone.
fn exchange(lines: &mut Lines, a: u64, b: u64) {
    let other = |stamp: &mut u64| {
        if *stamp == a {
            *stamp = b;
        } else if *stamp == b {
            *stamp = a;
        }
    };
    for (_, line) in lines {
        match &mut line.event {
            Event::Published { stamp, .. } => other(stamp),
            Event::Got { items, .. } => {
                for item in items.iter_mut() {
                    match item {
                        Item::Message { stamp, .. } | Item::Record { stamp, .. } => other(stamp),
                        Item::Gap { .. } => {}
                    }
                }
                items.sort_by_key(|item| match item {
                    Item::Message { stamp, index, .. } => (*stamp, *index),
                    Item::Record { stamp, .. } | Item::Gap { from: stamp, .. } => (*stamp, 0),
                });
            }
            _ => {}
        }
    }
}

#[test]
fn exchanged_stamps_are_noticed_by_publishers_alone() {
    for seed in 0..50 {
        let mut lines = Bus::random(seed);
        let published: Vec<usize> =
            (0..lines.len()).filter(|i| matches!(lines[*i].1.event, Event::Published { .. })).collect();
        let at = Dice::new(seed, 1).roll(published.len() as u64 - 1) as usize;
        let stamp_at = |lines: &mut Lines, i: usize| match &mut lines[published[i]].1.event {
            Event::Published { stamp, .. } => *stamp,
            _ => unreachable!(),
        };
        let (a, b) = (stamp_at(&mut lines, at), stamp_at(&mut lines, at + 1));
        for (i, new) in [(at, b), (at + 1, a)] {
            if let Event::Published { stamp, .. } = &mut lines[published[i]].1.event {
                *stamp = new;
            }
        }
        rejected(&[Rule::Order, Rule::Causality, Rule::RealTime], lines);
    }
}

/// Two processes that publish one after the other; what joins them is `between`.
fn one_after_the_other(between: impl Fn(&mut Bus)) -> (Lines, u64, u64) {
    let mut bus = Bus::new();
    for number in 1..=3 {
        bus.start(number);
    }
    bus.subscribe(3, &[RED, GREEN]);
    (0..=3).for_each(|number| bus.read(number));
    let first = bus.publish(1, &[RED]);
    between(&mut bus);
    let second = bus.publish(2, &[GREEN]);
    (bus.finish(), first, second)
}

#[test]
fn a_cause_told_by_a_pipe_has_the_smaller_stamp() {
    let by_pipe = |bus: &mut Bus| {
        bus.send_token(1, 2);
        bus.receive_tokens(2);
    };
    let (mut lines, first, second) = one_after_the_other(by_pipe);
    assert!(Judge::judge(lines.clone()).is_ok());
    exchange(&mut lines, first, second);
    let text = rejected(&[Rule::Causality], lines);
    assert!(text.contains("token"), "{text}");
    // Told through a third, who knows nothing of it otherwise.
    let by_another = |bus: &mut Bus| {
        bus.send_token(1, 3);
        bus.receive_tokens(3);
        bus.send_token(3, 2);
        bus.receive_tokens(2);
    };
    let (mut lines, first, second) = one_after_the_other(by_another);
    exchange(&mut lines, first, second);
    let text = rejected(&[Rule::Causality], lines);
    assert!(text.contains("token"), "{text}");
}

#[test]
fn what_had_returned_before_has_the_smaller_stamp() {
    let (mut lines, first, second) = one_after_the_other(|_| {});
    assert!(Judge::judge(lines.clone()).is_ok());
    exchange(&mut lines, first, second);
    rejected(&[Rule::RealTime], lines);
}

#[test]
fn what_was_read_before_has_the_smaller_stamp() {
    // The first publisher does not return before the end: only its reader knows that it is in the order.
    let mut bus = Bus::new();
    for number in 1..=3 {
        bus.start(number);
    }
    bus.subscribe(3, &[RED, GREEN]);
    let part = bus.part(&[RED]);
    bus.begin(1, vec![part]);
    let first = bus.swap(1);
    bus.read(3);
    let second = bus.publish(2, &[GREEN]);
    bus.end(1);
    let mut lines = bus.finish();
    assert!(Judge::judge(lines.clone()).is_ok());
    // As if the second had come first, and what was released had been one less.
    exchange(&mut lines, first, second);
    for (_, line) in &mut lines {
        if let Event::Released { next, .. } = &mut line.event
            && *next == second
        {
            *next = first;
        }
    }
    rejected(&[Rule::RealTime, Rule::Order], lines);
}

#[test]
fn a_token_before_it_was_sent_is_noticed() {
    let (mut lines, ..) = one_after_the_other(|bus| {
        bus.send_token(1, 2);
        bus.receive_tokens(2);
    });
    let at =
        |lines: &Lines, what: fn(&Event) -> bool| lines.iter().position(|(_, l)| what(&l.event)).unwrap();
    let sent = at(&lines, |e| matches!(e, Event::Sent { .. }));
    let received = at(&lines, |e| matches!(e, Event::Received { .. }));
    let time = lines[sent].1.time;
    lines[sent].1.time = lines[received].1.time;
    lines[received].1.time = time;
    rejected(&[Rule::Causality], lines);
}

#[test]
fn what_was_refused_must_not_be_seen() {
    let mut bus = Bus::new();
    bus.start(1);
    bus.start(2);
    bus.subscribe(2, &[RED]);
    let part = bus.part(&[RED]);
    bus.begin(1, vec![part]);
    bus.swap(1);
    bus.read(2);
    bus.end(1);
    let mut seen_before = bus.finish();
    let published = seen_before.iter_mut().find(|(_, l)| matches!(l.event, Event::Published { .. }));
    published.unwrap().1.event = Event::Refused { code: "ERR_SHM_BUS_WOULD_BLOCK".into() };
    rejected(&[Rule::Refused], seen_before);
    for seed in 0..50 {
        let mut lines = Bus::random(seed);
        let published: Vec<usize> =
            (0..lines.len()).filter(|i| matches!(lines[*i].1.event, Event::Published { .. })).collect();
        let at = *Dice::new(seed, 1).pick(&published).unwrap();
        lines[at].1.event = Event::Refused { code: "ERR_SHM_BUS_WOULD_BLOCK".into() };
        // Nobody may have been there to see it: then a stamp is left that nobody explains.
        rejected(&[Rule::Refused, Rule::Delivery], lines);
    }
}

/// One that dies in its publish, which two others have to see or not.
fn interrupted(swapped: bool) -> Lines {
    let mut bus = Bus::new();
    for number in 1..=3 {
        bus.start(number);
    }
    bus.subscribe(2, &[RED]);
    bus.subscribe(3, &[RED]);
    let part = bus.part(&[RED]);
    bus.begin(1, vec![part]);
    if swapped {
        bus.swap(1);
    }
    bus.kill(1);
    bus.publish(2, &[RED]);
    bus.finish()
}

#[test]
fn one_that_dies_in_its_publish_has_published_to_all_or_to_none() {
    assert_eq!(Judge::judge(interrupted(false)).map(|c| (c.interrupted, c.messages)), Ok((1, 1)));
    assert_eq!(Judge::judge(interrupted(true)).map(|c| (c.interrupted, c.messages)), Ok((1, 2)));
    let lines = interrupted(true);
    let first = |item: &Item| matches!(item, Item::Message { id: 1, .. });
    let seen = items(&lines, first);
    assert_eq!(seen.len(), 2);
    for (line, item) in seen {
        let mut to_one = lines.clone();
        items_of(&mut to_one, line).remove(item);
        rejected(&[Rule::Delivery], to_one);
    }
    // To none, although its stamp is taken and others were to read it.
    let mut to_none = lines;
    for (line, item) in items(&to_none, first) {
        items_of(&mut to_none, line).remove(item);
    }
    rejected(&[Rule::Delivery], to_none);
}

#[test]
fn a_stamp_without_an_owner_needs_a_death() {
    let build = |deaths: u32, stamps: u64| {
        let mut bus = Bus::new();
        for number in 1..=3 {
            bus.start(number);
        }
        bus.subscribe(3, &[RED]);
        for number in 1..=deaths {
            let part = bus.part(&[GREEN]);
            bus.begin(number, vec![part]);
        }
        // Nobody takes green: whoever swapped, no reader tells.
        for _ in 0..stamps {
            bus.hole();
        }
        (1..=2).for_each(|number| bus.kill(number));
        bus.finish()
    };
    for deaths in 0..=2 {
        for stamps in 0..=2 {
            let lines = build(deaths, stamps);
            if stamps <= u64::from(deaths) {
                assert_eq!(Judge::judge(lines).map(|c| c.interrupted), Ok(u64::from(deaths)));
            } else {
                rejected(&[Rule::Delivery], lines);
            }
        }
    }
}

#[test]
fn the_dead_do_not_publish_and_the_living_do_not_depart() {
    let mut bus = Bus::new();
    bus.start(1);
    bus.start(2);
    let member = MemberId { id: 2, generation: 1 };
    bus.subscribe(1, &[RED]);
    bus.record(Record::Departed { member, address: 2, departure: Departure::Died });
    let lines = bus.finish();
    let text = rejected(&[Rule::Membership], lines);
    assert!(text.contains("lived"), "{text}");

    let mut bus = Bus::new();
    bus.start(1);
    bus.start(2);
    bus.subscribe(2, &[RED]);
    let part = bus.part(&[RED]);
    bus.begin(1, vec![part]);
    bus.say(1, Event::Killed);
    bus.record(Record::Departed {
        member: MemberId { id: 1, generation: 1 },
        address: 1,
        departure: Departure::Died,
    });
    bus.swap(1);
    bus.end(1);
    bus.say(1, Event::Gone);
    bus.forget(1);
    let text = rejected(&[Rule::Membership], bus.finish());
    assert!(text.contains("not attached"), "{text}");
}

#[test]
fn a_message_to_one_that_takes_none_is_noticed() {
    let mut bus = Bus::new();
    bus.start(1);
    bus.start(2);
    bus.subscribe(2, &[RED]);
    bus.publish(1, &[2]);
    let text = rejected(&[Rule::Membership], bus.finish());
    assert!(text.contains("takes no messages"), "{text}");
}

#[test]
fn whoever_reads_is_a_member() {
    let member = MemberId { id: 2, generation: 1 };
    for record in [
        Record::Left { member, addresses: vec![RED], lossy: false, kept: Vec::new() },
        Record::Evicted { member, count: 1 },
    ] {
        let mut bus = Bus::new();
        bus.start(1);
        bus.start(2);
        bus.subscribe(2, &[RED]);
        let spare = bus.subscribe(2, &[GREEN]);
        bus.say(2, Event::Close { sub: spare });
        bus.drop_reader(2, spare);
        bus.record(record);
        bus.publish(1, &[RED]);
        rejected(&[Rule::Membership], bus.finish());
    }
}

#[test]
fn who_is_evicted_is_told_what_it_lost_and_a_record_says_so_before_it_joins_again() {
    let build = |told: u64, recorded: Option<u8>| {
        let mut bus = Bus::new();
        bus.start(1);
        bus.start(2);
        let sub = bus.subscribe(2, &[RED]);
        let first = bus.publish(1, &[RED]);
        bus.read(2);
        bus.publish(1, &[RED]);
        bus.drop_reader(2, sub);
        bus.say(2, Event::Evicted { sub, stamp: first + told });
        if let Some(count) = recorded {
            bus.record(Record::Evicted { member: MemberId { id: 2, generation: 1 }, count });
        }
        bus.publish(1, &[RED]);
        bus.subscribe(2, &[RED]);
        bus.publish(1, &[RED]);
        Judge::judge(bus.finish())
    };
    assert_eq!(build(1, Some(1)).map(|counts| counts.evictions), Ok(1));
    for (told, recorded, rule, why) in [
        (0, Some(1), Rule::Delivery, "it had released that one"),
        (2, Some(1), Rule::Delivery, "it never had the one in between"),
        (1, None, Rule::Membership, "nobody else knows"),
        (1, Some(2), Rule::Membership, "it was the first time"),
        (1, Some(0), Rule::Membership, "that was told before"),
    ] {
        assert_eq!(build(told, recorded).map_err(|f| f.rule), Err(rule), "{why}");
    }
}

#[test]
fn gaps_are_exact() {
    let build = |lossy: bool, gap: std::ops::Range<u64>, rest: std::ops::Range<u64>| {
        let mut bus = Bus::new();
        bus.start(1);
        bus.start(2);
        let sub = bus.subscribe_as(2, &[RED], lossy);
        let first = bus.publish(1, &[RED]);
        for _ in 1..5 {
            bus.publish(1, &[RED]);
        }
        bus.drop_reader(2, sub);
        let mut items = Vec::new();
        if !gap.is_empty() {
            items.push(Item::Gap { from: first + gap.start, to: first + gap.end });
        }
        for (index, id) in rest.clone().map(|i| (i, i + 1)) {
            let (stamp, crc) = (first + index, id as u32 * 17);
            items.push(Item::Message { stamp, index: 0, sender: 1, to: RED, id, len: 8, crc });
        }
        bus.say(2, Event::Got { sub, items });
        bus.say(2, Event::Released { sub, next: first + 5 });
        Judge::judge(bus.finish()).map(|counts| (counts.gaps, counts.missed)).map_err(|f| f.rule)
    };
    assert_eq!(build(true, 0..3, 3..5), Ok((1, 3)));
    assert_eq!(build(true, 0..5, 5..5), Ok((1, 5)));
    assert_eq!(build(false, 0..3, 3..5), Err(Rule::Delivery), "it is to have everything");
    assert_eq!(build(true, 0..2, 3..5), Err(Rule::Delivery), "one is neither missed nor there");
    assert_eq!(build(true, 0..4, 3..5), Err(Rule::Order), "one is missed and there");
    assert_eq!(build(true, 0..0, 1..5), Err(Rule::Delivery), "what is missed is told");
}

#[test]
fn a_directory_that_says_something_else_is_noticed() {
    for seed in 0..50 {
        let mut lines = Bus::random(seed);
        let looks: Vec<usize> =
            (0..lines.len()).filter(|i| matches!(lines[*i].1.event, Event::Directory(_))).collect();
        let Some(at) = Dice::new(seed, 1).pick(&looks).copied() else { continue };
        let Event::Directory(snapshot) = &mut lines[at].1.event else { unreachable!() };
        match seed % 3 {
            0 => snapshot.as_of -= 1,
            1 => drop(snapshot.members.pop()),
            _ => snapshot.groups[0].1.push('x'),
        }
        rejected(&[Rule::Membership], lines);
    }
}

#[test]
fn a_log_that_makes_no_sense_is_no_proof() {
    let mut bus = Bus::new();
    bus.say(9, Event::Done);
    rejected(&[Rule::Log], bus.finish());
    let mut lines = Bus::random(1);
    lines.pop();
    rejected(&[Rule::Log], lines);
    let mut bus = Bus::new();
    bus.start(1);
    bus.say(1, Event::Refused { code: "ERR_SHM_BUS_CLOSED".into() });
    rejected(&[Rule::Log], bus.finish());
    let mut bus = Bus::new();
    bus.start(1);
    let part = bus.part(&[RED]);
    bus.begin(1, vec![part]);
    bus.say(1, Event::Refused { code: "ERR_SHM_BUS_SPOILED".into() });
    rejected(&[Rule::Unexpected], bus.finish());
}
