//! What the records say of joins, leaves and evictions, and who reads what because of them.

mod common;

use std::time::Duration;

use common::{Child, LONG, Scratch, Task, read, until};
use shm_bus::{
    Address, AttachOptions, Bus, BusError, Envelope, Event, MAX_DEADLINE, MasterMode, Overload, Publisher,
    Record, SubscribeOptions,
};

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

#[track_caller]
fn evicted_at(outcome: Result<usize, BusError>) -> u64 {
    match outcome {
        Err(BusError::Evicted { stamp }) => stamp,
        other => panic!("not evicted: {other:?}"),
    }
}

/// What the process does that a test starts.
#[test]
fn child() {
    let Some((role, options)) = Child::role() else {
        return;
    };
    assert_eq!(role, "master");
    let _bus = Bus::attach("test", &AttachOptions { log2_slots: 8, ..options }).unwrap();
    std::thread::sleep(LONG);
}

/// A bus whose master is another process, and the first attachment of this one.
fn start_master(scratch: &Scratch) -> (Child, Bus) {
    let never = AttachOptions { master: MasterMode::Never, ..scratch.options() };
    let master = Child::start(scratch, "master", None);
    let mut first = Bus::attach("test", &never);
    until("the master is there", || {
        if matches!(first, Err(BusError::NotFound { .. })) {
            first = Bus::attach("test", &never);
        }
        first.is_ok()
    });
    (master, first.unwrap())
}

/// Fills an attachment's way to a master that stands still, with requests for groups.
fn fill_channel(bus: &Bus) {
    for i in 0..400 {
        let asked = bus.create_group(&format!("{i}"), Duration::ZERO);
        assert!(matches!(asked, Err(BusError::NoMaster { .. })), "{asked:?}");
    }
}

#[test]
fn one_that_joins_does_not_hold_up_the_records_in_front_of_its_own() {
    let scratch = Scratch::new();
    let (mut master, asking) = start_master(&scratch);
    let joining = scratch.attach();
    master.stop();
    fill_channel(&asking);
    let pinned = SubscribeOptions { overload: Some(Overload::Pinned), timeout: LONG, ..Default::default() };
    let task = Task::default();
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| {
            task.begin();
            joining.subscribe(&[], true, pinned).map(drop)
        });
        until("it has asked", || task.sleeps());
        master.signal("CONT");
        joined.join().unwrap().unwrap();
    });
    master.kill();
    drop((asking, joining));
}

#[test]
fn an_eviction_that_nobody_could_tell_the_master_of_is_recorded_before_its_reader_joins_again() {
    let scratch = Scratch::new();
    let (mut master, publishing) = start_master(&scratch);
    let (reading, watching) = (scratch.attach(), scratch.attach());
    let mut watcher = watching.subscribe(&[], false, patient()).unwrap();
    let mut slow = reading.subscribe(&["old".into()], false, impatient()).unwrap();
    let mut publisher = publishing.publisher().unwrap();
    let old = publisher.resolve("old").unwrap();
    master.stop();
    // That it evicts somebody does not fit any more.
    fill_channel(&publishing);
    fill_until_evicted(&mut publisher, old, || {
        watcher.poll(1000, |_| {}).unwrap();
    });
    evicted_at(slow.poll(1, |_| {}));
    let (mut told, task) = (Vec::new(), Task::default());
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| {
            task.begin();
            reading.subscribe(&[], true, patient()).unwrap()
        });
        until("it has asked", || task.sleeps());
        master.signal("CONT");
        until("it has joined again", || {
            let note = |event: Event<'_>| match event {
                Event::Record(_, Record::Evicted { member, count: 1 }) if *member == reading.member() => {
                    told.push("evicted");
                }
                Event::Record(_, Record::Joined { member, .. }) if *member == reading.member() => {
                    told.push("joined");
                }
                _ => {}
            };
            watcher.poll(1000, note).unwrap();
            told.contains(&"joined")
        });
        joining.join().unwrap()
    });
    assert_eq!(told, ["evicted", "joined"]);
    let directory = watching.directory().unwrap();
    assert_eq!(directory.joined_by(reading.member().id).count(), 1, "what it had joined before is over");
    drop((slow, watcher, publisher));
    master.kill();
    drop((publishing, reading, watching));
}

#[test]
fn a_subscription_that_is_made_while_the_others_lose_their_place_keeps_its_own() {
    let scratch = Scratch::new();
    let (mut master, publishing) = start_master(&scratch);
    let reading = scratch.attach();
    let mut slow = reading.subscribe(&["old".into()], false, impatient()).unwrap();
    let mut publisher = publishing.publisher().unwrap();
    let old = publisher.resolve("old").unwrap();
    master.stop();
    let task = Task::default();
    let mut fresh = std::thread::scope(|scope| {
        let joining = scope.spawn(|| {
            task.begin();
            reading.subscribe(&[], true, impatient()).unwrap()
        });
        until("it has asked", || task.sleeps());
        fill_until_evicted(&mut publisher, old, || {});
        master.signal("CONT");
        joining.join().unwrap()
    });
    evicted_at(slow.poll(1, |_| {}));
    slow.close(LONG).unwrap();
    publisher.publish(&[reading.address()], b"for it", Envelope::default()).unwrap();
    assert_eq!(read(&mut fresh, 1)[0].1, b"for it");
    drop((slow, fresh, publisher));
    master.kill();
    drop((publishing, reading));
}

#[test]
fn a_lossy_subscription_stays_a_member_when_the_others_lose_their_place() {
    let scratch = Scratch::new();
    let (publishing, reading, watching) = (scratch.attach(), scratch.attach(), scratch.attach());
    let mut slow = reading.subscribe(&["g".into(), "h".into()], true, impatient()).unwrap();
    let lossy = SubscribeOptions { overload: Some(Overload::Lossy), ..impatient() };
    let mut quick = reading.subscribe(&["g".into()], true, lossy).unwrap();
    let mut also = reading.subscribe(&["h".into()], false, lossy).unwrap();
    // As long as others of the attachment take it, nothing changes when one of a kind goes.
    let taken = || reading_groups(&watching, &reading);
    also.close(LONG).unwrap();
    assert_eq!(taken(), ["*own", "g", "h"]);
    let mut publisher = publishing.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    fill_until_evicted(&mut publisher, g, || {
        quick.poll(1000, |_| {}).unwrap();
    });
    until("the eviction is recorded", || taken() == ["*own", "g"]);
    evicted_at(slow.poll(1, |_| {}));
    slow.close(LONG).unwrap();
    assert_eq!(taken(), ["*own", "g"]);
    quick.poll(1000, |_| {}).unwrap();
    publisher.publish(&[reading.address()], b"for it", Envelope::default()).unwrap();
    assert_eq!(read(&mut quick, 1)[0].1, b"for it");
    quick.close(LONG).unwrap();
    assert_eq!(taken(), [""; 0]);
}

#[test]
fn one_that_loses_its_place_while_it_reads_reads_no_further_than_the_record_of_it() {
    let scratch = Scratch::new();
    let (publishing, reading, watching) = (scratch.attach(), scratch.attach(), scratch.attach());
    let overload = Some(Overload::Evict { max_lag: Some(16) });
    let mut subscription =
        reading.subscribe(&["g".into()], false, SubscribeOptions { overload, ..patient() }).unwrap();
    let mut watcher = watching.subscribe(&[], false, patient()).unwrap();
    let mut publisher = publishing.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    let mut put = move || publisher.publish(&[g], b"x", Envelope::default()).unwrap().0;
    let mut sent = vec![put()];
    let (mut got, mut record) = (Vec::new(), 0);
    let read_one = |event: Event<'_>| {
        let Event::Message(message) = event else { return };
        got.push(message.frame.place.stamp.0);
        if got.len() > 1 {
            return;
        }
        // No frame that it has not read yet is overwritten: there are headers for all of them.
        sent.extend((0..40).map(|_| put()));
        until("the eviction is recorded", || {
            let note = |event: Event<'_>| {
                if let Event::Record(stamp, Record::Evicted { .. }) = event {
                    record = stamp.0;
                }
            };
            watcher.poll(1000, note).unwrap();
            record > 0
        });
        sent.extend((0..3).map(|_| put()));
    };
    subscription.poll(1000, read_one).unwrap();
    // The record may stand among them.
    sent.retain(|stamp| *stamp < record);
    assert_eq!(got, sent);
    assert_eq!(evicted_at(subscription.poll(1000, |_| {})), record + 1);
}

/// The names of what an attachment takes, as another sees it.
fn reading_groups(by: &Bus, of: &Bus) -> Vec<String> {
    let directory = by.directory().unwrap();
    let name = |address| directory.name_of(address).unwrap_or("*own").to_owned();
    let mut names: Vec<String> = directory.joined_by(of.member().id).map(name).collect();
    names.sort_unstable();
    names
}

/// Publishes until somebody who does not read has lost its place.
fn fill_until_evicted(publisher: &mut Publisher, to: Address, mut meanwhile: impl FnMut()) {
    let (mut was_full, mut is_free) = (false, false);
    until("the reader has lost its place", || {
        match publisher.publish(&[to], b"x", Envelope::default()) {
            Ok(_) => is_free = was_full,
            Err(BusError::WouldBlock { .. }) => was_full = true,
            Err(error) => panic!("{error}"),
        }
        meanwhile();
        is_free
    });
}
