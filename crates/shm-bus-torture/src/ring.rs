//! The ring alone: one operation of a process that is stepped, and what the others see of it.

use shm_bus_ring::layout::payload;
use shm_bus_ring::{AttachmentId, Bucket, Ordering, Policy, ReaderState, SleepKind, Step};

use crate::Outcome;
use crate::report::{Ended, Seen};
use crate::tracee::{self, Reached, Trace, Tracee};
use crate::world::{
    Event, Item, PUBLISHER, READERS, SECOND, SLOTS, SLOW, Sent, VICTIM, World, check, framed, group,
    other_group, owner, seen, sender_of,
};

/// What the stepped process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Publishes 64 bytes.
    Publish,
    /// Publishes 4 KiB.
    PublishRing,
    /// Takes two loans and publishes the second before the first.
    Loan,
    /// Publishes three messages as one event.
    Batch,
    /// Publishes one message to two destinations.
    Transaction,
    /// Publishes to somebody asleep.
    Wake,
    /// Takes the place of a reader that holds the full order.
    Evict,
    /// Publishes until its own loans have to be freed.
    Reclaim,
    /// Publishes until it is told that there is no room.
    Fill,
    /// Announces that it waits for room, and waits.
    Space,
    /// Reads what is there and lets go of it.
    Poll,
    /// Announces that it sleeps, and sleeps.
    Wait,
}

impl Op {
    pub const ALL: [(&str, Op); 12] = [
        ("publish", Op::Publish),
        ("publish-ring", Op::PublishRing),
        ("loan", Op::Loan),
        ("batch", Op::Batch),
        ("transaction", Op::Transaction),
        ("wake", Op::Wake),
        ("evict", Op::Evict),
        ("reclaim", Op::Reclaim),
        ("fill", Op::Fill),
        ("space", Op::Space),
        ("poll", Op::Poll),
        ("wait", Op::Wait),
    ];

    pub fn sleeps(self) -> bool {
        matches!(self, Op::Space | Op::Wait)
    }

    /// How far apart the instructions are that a full run takes.
    pub fn stride(self) -> usize {
        match self {
            // The same thing 36 times.
            Op::Fill => 23,
            _ => 1,
        }
    }

    fn reads(self) -> bool {
        matches!(self, Op::Poll | Op::Wait)
    }

    /// The modes that make sense.
    pub fn modes(self) -> &'static [Mode] {
        match self {
            Op::Publish | Op::PublishRing | Op::Loan | Op::Batch | Op::Transaction => {
                &[Mode::Kill, Mode::Stop, Mode::Depart]
            }
            _ => &[Mode::Kill, Mode::Stop],
        }
    }
}

/// What happens to the stepped process at its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is killed.
    Kill,
    /// It stands still for three laps and goes on.
    Stop,
    /// It stands still, is taken for dead, and goes on.
    Depart,
}

impl Mode {
    pub const ALL: [(&str, Mode); 3] = [("kill", Mode::Kill), ("stop", Mode::Stop), ("depart", Mode::Depart)];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, m)| *m == self).map_or("", |(n, _)| n)
    }
}

/// Where in the order an operation begins.
pub const STARTS: [(&str, u64); 4] = [
    // Nothing special.
    ("mid", 150),
    // The hint is raised.
    ("hint", 151),
    // The last slot of a lap.
    ("edge", 191),
    // The first of the next: everyone is woken.
    ("lap", 192),
];

const LAPS: u64 = 3 * SLOTS;

/// A world in which the operation is about to happen, and what it will publish.
pub fn stage(world: &mut World, op: Op) -> Outcome<()> {
    let tail = |world: &World| world.sequencer.find().map_or(0, |f| f.stamp);
    match op {
        Op::Wait | Op::Poll => {
            world.count_reader(VICTIM);
            if op == Op::Poll {
                for (id, lengths) in [
                    (PUBLISHER, &[40][..]),
                    (SECOND, &[2000]),
                    (SECOND, &[64, 700, 3]),
                    (PUBLISHER, &[64]),
                    (PUBLISHER, &[900, 800]),
                ] {
                    let event = world.event(id, lengths);
                    send(world, id, &event)?;
                }
                world.follow()?;
                let from = world.start;
                world.polled = world.members[READERS[0]].seen.clone();
                world.polled.retain(|s| s.stamp >= from);
            }
        }
        Op::Wake => world.count_reader(SLOW),
        Op::Evict | Op::Space => {
            world.count_reader(SLOW);
            let from = tail(world);
            let members = world.sequencer.members();
            let me = AttachmentId(SLOW as u16);
            let word = members.word(me);
            if op == Op::Space {
                let _ = members.exchange(me, word, word.with_policy(Policy::Pinned));
            }
            while tail(world) < from + SLOTS {
                let event = world.event(PUBLISHER, &[20]);
                send(world, PUBLISHER, &event)?;
                world.follow()?;
            }
        }
        _ => {}
    }
    for id in READERS {
        world.members[id].seen.clear();
    }
    world.start = tail(world);
    world.keep();
    Ok(())
}

fn send(world: &mut World, id: usize, event: &Event) -> Outcome<u64> {
    match world.send(id, event) {
        Sent::At(stamp) => Ok(stamp),
        other => Err(format!("{id} publishes: {other:?}")),
    }
}

fn events(world: &mut World, op: Op, id: usize) -> Vec<Event> {
    match op {
        Op::Publish | Op::Wake | Op::Evict | Op::Space => vec![world.event(id, &[64])],
        Op::PublishRing => vec![world.event(id, &[4096])],
        Op::Loan => vec![world.event(id, &[100]), world.event(id, &[64])],
        Op::Batch => vec![world.event(id, &[64, 300, 20])],
        Op::Transaction => {
            let mut event = world.event(id, &[200]);
            event.0[0].destinations = vec![group(), other_group()];
            vec![event]
        }
        Op::Reclaim => [40, 64, 500, 64, 1000, 10].iter().map(|length| world.event(id, &[*length])).collect(),
        Op::Fill => (0..36).map(|_| world.event(id, &[1900])).collect(),
        Op::Poll | Op::Wait => Vec::new(),
    }
}

/// The stepped process, from its start to its end.
fn act(world: &mut World, op: Op, id: usize) {
    let events = events(world, op, id);
    let mut ended = Vec::with_capacity(events.len());
    let mut read: Vec<(shm_bus_ring::Frame, Vec<u8>)> = Vec::with_capacity(64);
    tracee::begin();
    match op {
        Op::Loan => ended.extend(publish_out_of_order(world, id, &events)),
        Op::Evict => loop {
            match world.send(id, &events[0]) {
                Sent::Full(full) => {
                    if let Some((holder, _)) = full.holder {
                        world.evict(holder);
                    }
                }
                sent => {
                    ended.push(sent.ended());
                    break;
                }
            }
        },
        Op::Space => {
            world.sequencer.wait_for_space(owner(id).id, true);
            loop {
                let seen = world.space.load();
                match world.send(id, &events[0]) {
                    Sent::Full(_) => {
                        let _ = world.space.wait(seen, u32::MAX, None);
                    }
                    sent => {
                        ended.push(sent.ended());
                        break;
                    }
                }
            }
            world.sequencer.wait_for_space(owner(id).id, false);
        }
        Op::Poll => ended.push(poll(world, id, 7, &mut read)),
        Op::Wait => {
            wait(world, id);
            ended.push(poll(world, id, 1, &mut read));
        }
        _ => {
            for event in &events {
                let sent = world.send(id, event);
                ended.push(sent.ended());
                if !matches!(sent, Sent::At(_)) {
                    break;
                }
            }
        }
    }
    tracee::end();
    let whole = read.iter().all(|(frame, bytes)| check(frame, bytes).is_ok());
    if !whole {
        ended.push(Ended::Broken);
    }
    let read: Vec<Seen> = read.iter().map(|(frame, _)| seen(frame)).collect();
    world.report.say(id, &ended, &read);
}

fn publish_out_of_order(world: &mut World, id: usize, events: &[Event]) -> Vec<Ended> {
    let items: Vec<&Item> = events.iter().map(|e| &e.0[0]).collect();
    let mut ended = Vec::with_capacity(2);
    let mut loans = Vec::with_capacity(2);
    for item in &items {
        let lane = &mut world.members[id].lane;
        match lane.loan::<()>(&world.sequencer, &mut world.pages, item.bytes.len() as u64) {
            Ok(loan) => {
                let (front, back) = item.bytes.split_at(item.bytes.len() / 2);
                lane.write(&loan, front.len() as u64, back);
                lane.write(&loan, 0, front);
                loans.push(loan);
            }
            Err(_) => return vec![Ended::Broken],
        }
    }
    for (loan, item) in loans.into_iter().zip(&items).rev() {
        let frames = [framed(loan, item, item.bytes.len() as u64)];
        let lane = &mut world.members[id].lane;
        let published =
            lane.publish::<()>(&world.sequencer, &mut world.pages, owner(id), &frames, |_| Ok(()));
        ended.push(world.sent(published).ended());
    }
    ended
}

/// Reads up to `most` messages; each is taken only if it was whole when its bytes had been copied.
fn poll(world: &mut World, id: usize, most: usize, read: &mut Vec<(shm_bus_ring::Frame, Vec<u8>)>) -> Ended {
    let evicted = |world: &World| world.sequencer.members().word(owner(id).id).reader() != ReaderState::Live;
    while read.len() < most {
        match world.read(id) {
            Ok((frame, bytes)) => {
                if !world.intact(&frame) {
                    return if evicted(world) { Ended::Evicted } else { Ended::Broken };
                }
                read.push((frame, bytes));
            }
            Err(Step::Empty) => break,
            // An evicted reader's frames look like anything.
            Err(_) if evicted(world) => return Ended::Evicted,
            Err(_) => return Ended::Broken,
        }
    }
    world.store_cursor(id);
    if evicted(world) { Ended::Evicted } else { Ended::Done }
}

/// Sleeps until something comes: the handshake, and no timeout that would hide a lost wake.
fn wait(world: &mut World, id: usize) {
    let set = *world.members[id].reader.buckets();
    while !world.members[id].reader.ready(&world.sequencer) {
        world.sequencer.sleepers().enter(owner(id).id, &set, SleepKind::Futex);
        let seen = world.sequencer.hint() as u32;
        if !world.members[id].reader.ready(&world.sequencer) {
            let _ = world.hint.wait(seen, set.futex_bits(), None);
        }
        world.sequencer.sleepers().leave(owner(id).id, &set, &[]);
    }
}

/// One case: the operation is taken to `at` and stopped or killed there; the others go on, look, and say what is wrong.
/// Gives a note if the process took another way than the trace.
pub fn case(world: &mut World, op: Op, mode: Mode, trace: &Trace, at: usize) -> Outcome<String> {
    // The same numbers as in the process itself.
    let planned = plan(world, op, VICTIM);
    let sleeper = match op {
        Op::Wake => Some(sleeper(world)?),
        _ => None,
    };
    let mut victim = Tracee::start(|| act(world, op, VICTIM))?;
    let returned = at > trace.len();
    let mut note = String::new();
    if !returned {
        if victim.go_to(trace, at)? == Reached::Returned || !victim.is_at(trace, at)? {
            note = "another way than the trace".to_owned();
        } else if trace.sleeps && at == trace.len() {
            victim.run()?;
            victim.until_asleep()?;
        }
    }
    match mode {
        Mode::Kill => {
            if returned {
                victim.finish()?;
            }
            victim.kill()?;
            after_kill(world, op)?;
        }
        Mode::Stop => {
            while_stopped(world, op)?;
            if trace.sleeps && at == trace.len() {
                victim.join()?;
            } else {
                victim.finish()?;
            }
        }
        Mode::Depart => {
            world.bury(VICTIM);
            let record = world.event(PUBLISHER, &[1]);
            let stamp = send(world, PUBLISHER, &record)?;
            world.go_on(LAPS, None)?;
            victim.finish()?;
            departed(world, stamp)?;
        }
    }
    world.go_on(10, Some(VICTIM).filter(|_| op.reads()))?;
    if let Some(pid) = sleeper {
        let bye = world.event(PUBLISHER, &[7]);
        send(world, PUBLISHER, &bye)?;
        world.follow()?;
        tracee::reap(pid, "the sleeper")?;
        let (_, read) = world.report.heard(1).ok_or("the sleeper said nothing")?;
        if read != world.members[READERS[0]].seen {
            return Err("the sleeper saw something else than the readers".to_owned());
        }
    }
    judge(world, op, mode, &planned)?;
    Ok(note)
}

/// The topics that an operation publishes, in the order in which it does. Leaves the world's counts as they are.
fn plan(world: &mut World, op: Op, id: usize) -> Vec<Vec<u64>> {
    let mut planned: Vec<Vec<u64>> =
        world.rehearse(id, |world| events(world, op, id).iter().map(Event::topics).collect());
    if op == Op::Loan {
        planned.reverse();
    }
    planned
}

/// A process that sleeps until messages come and reads them, up to one of 7 bytes. Returns when it sleeps.
fn sleeper(world: &mut World) -> Outcome<nix::unistd::Pid> {
    let pid = tracee::spawn(|| {
        let mut read: Vec<Seen> = Vec::new();
        while read.last().is_none_or(|last| last.topic >> 32 & 0xFF_FFFF != 7) {
            wait(world, SLOW);
            let mut some = Vec::new();
            let ended = poll(world, SLOW, 1, &mut some);
            assert_eq!(ended, Ended::Done, "a sleeper is in nobody's way");
            for (frame, bytes) in &some {
                check(frame, bytes).expect("whole");
                read.push(seen(frame));
            }
        }
        world.report.say(1, &[Ended::Done], &read);
    })
    .map_err(|e| e.to_string())?;
    tracee::until("the sleeper sleeps", || {
        tracee::state(pid) == Some('S') && world.sequencer.sleepers().any(Bucket::MIXED)
    })?;
    Ok(pid)
}

/// The first thing that the others do: a message that somebody asleep must hear of.
fn after_kill(world: &mut World, op: Op) -> Outcome<()> {
    match op {
        Op::Poll => held_by_the_dead(world)?,
        Op::Space => {
            let_go(world)?;
            world.bury(SLOW);
        }
        _ => {}
    }
    if op == Op::Wake {
        return wait_for_sleeper(world);
    }
    if op == Op::Evict {
        // The slow one may still be in its place, and then it loses it now.
        world.go_on(LAPS, Some(SLOW))?;
    }
    world.bury(VICTIM);
    if world.sequencer.sleepers().concerned(Bucket::MIXED, 0) & 1 != 0
        || world.sequencer.space_waiters(0) & 1 != 0
    {
        return Err("the dead one still sleeps".to_owned());
    }
    world.go_on(LAPS, None)
}

fn while_stopped(world: &mut World, op: Op) -> Outcome<()> {
    match op {
        Op::Poll => {
            held_by_the_dead(world)?;
            world.go_on(LAPS, Some(VICTIM))
        }
        // Not a lap: nobody is to lose its place. The first message is what it must be woken by.
        Op::Wait => world.go_on(1, None),
        Op::Wake => wait_for_sleeper(world),
        Op::Space => {
            let_go(world)?;
            if world.sequencer.space_waiters(0) & 1 == 0 {
                world.bury(SLOW);
                world.go_on(LAPS, None)?;
            }
            Ok(())
        }
        Op::Evict => world.go_on(LAPS, Some(SLOW)),
        _ => world.go_on(LAPS, None),
    }
}

/// A message for the one asleep; it must come out of its sleep for it.
fn wait_for_sleeper(world: &mut World) -> Outcome<()> {
    let event = world.event(PUBLISHER, &[24]);
    let stamp = send(world, PUBLISHER, &event)?;
    world.follow()?;
    tracee::until("the sleeper hears of a message", || {
        world.members[SLOW].own.load(payload::CURSOR, Ordering::SeqCst) > stamp
    })
}

/// The slow reader reads everything.
fn let_go(world: &mut World) -> Outcome<()> {
    world.take(SLOW)
}

/// The order can be filled up to a lap from where the victim reads, and no further.
fn held_by_the_dead(world: &mut World) -> Outcome<()> {
    let cursor = world.members[VICTIM].own.load(payload::CURSOR, Ordering::SeqCst);
    loop {
        let event = world.event(PUBLISHER, &[24]);
        match world.send(PUBLISHER, &event) {
            Sent::At(stamp) if stamp >= cursor + SLOTS => {
                return Err(format!("stamp {stamp} overran a reader at {cursor}"));
            }
            Sent::At(_) => world.follow()?,
            Sent::Full(full) if full.holder == Some((owner(VICTIM).id, cursor)) => {
                world.withdraw(PUBLISHER);
                return Ok(());
            }
            other => return Err(format!("a reader at {cursor} holds the order: {other:?}")),
        }
    }
}

fn departed(world: &World, record: u64) -> Outcome<()> {
    let late =
        world.members[READERS[0]].seen.iter().find(|s| sender_of(s.topic) == VICTIM && s.stamp > record);
    if let Some(late) = late {
        return Err(format!("{late:?} is behind its sender's departure at {record}"));
    }
    let (ended, _) = world.report.heard(VICTIM).ok_or("it did not return")?;
    for ended in ended {
        match ended {
            Ended::Detached => {}
            Ended::Published(stamp) if stamp < record => {}
            other => return Err(format!("told {other:?} after its departure at {record}")),
        }
    }
    Ok(())
}

/// What must be true whatever happened.
fn judge(world: &mut World, op: Op, mode: Mode, planned: &[Vec<u64>]) -> Outcome<()> {
    whole_order(world)?;
    let heard = world.report.heard(VICTIM);
    if mode == Mode::Stop && heard.is_none() {
        return Err("it did not return".to_owned());
    }
    published(world, VICTIM, planned, heard.as_ref().map(|h| &h.0[..]))?;
    if let Some((ended, read)) = &heard {
        if ended.contains(&Ended::Broken) {
            return Err(format!("it said {ended:?}"));
        }
        if mode == Mode::Stop {
            let expected = |e: &Ended| match e {
                Ended::Published(_) | Ended::Done => true,
                Ended::Evicted => op == Op::Poll,
                Ended::Full => op == Op::Fill,
                _ => false,
            };
            if let Some(other) = ended.iter().find(|e| !expected(e)) {
                return Err(format!("it was told {other:?}"));
            }
        }
        if op == Op::Wait {
            let all = &world.members[READERS[0]].seen;
            if read.len() != 1 || read[0] != all[0] {
                return Err(format!("it read {read:?}, first came {:?}", all.first()));
            }
        }
        if op == Op::Poll {
            polled(world, ended, read)?;
        }
    }
    if op == Op::Evict {
        let word = world.sequencer.members().word(owner(SLOW).id);
        if word.evictions() != 1 || word.reader() != ReaderState::Evicted {
            return Err(format!("the slow reader was evicted {} times", word.evictions()));
        }
        loop {
            match world.read(SLOW) {
                Ok((frame, bytes)) if world.intact(&frame) => check(&frame, &bytes)?,
                Ok(_) | Err(Step::Violation(..)) => {}
                Err(_) => break,
            }
        }
    }
    world.check_leases()
}

/// No hole, one order for everyone, the survivor's messages once each.
fn whole_order(world: &World) -> Outcome<()> {
    let sequencer = &world.sequencer;
    let tail = sequencer.find().map_err(|e| e.to_string())?.stamp;
    for hint in [1, tail - 1, tail + 30, tail.saturating_sub(2 * SLOTS)] {
        match sequencer.find_from(hint) {
            Ok(found) if found.stamp == tail => {}
            other => return Err(format!("the tail is {tail}, but from {hint} it is {other:?}")),
        }
    }
    if sequencer.hint() > tail {
        return Err(format!("the hint {} is past the tail {tail}", sequencer.hint()));
    }
    if let Some(hole) = (tail - SLOTS..tail)
        .find(|stamp| sequencer.slot(*stamp).laps_ahead(*stamp, sequencer.log2_slots()) != 0)
    {
        return Err(format!("slot {hole} is not filled, the tail is {tail}"));
    }
    let [first, second] = READERS.map(|id| &world.members[id].seen);
    if first != second {
        return Err("two readers saw different orders".to_owned());
    }
    let mut stamps: Vec<u64> = first.iter().map(|s| s.stamp).collect();
    stamps.dedup();
    if !stamps.iter().copied().eq(world.start..tail) {
        return Err(format!("the readers saw {} stamps of {}..{tail}", stamps.len(), world.start));
    }
    let numbers = first.iter().filter(|s| sender_of(s.topic) == PUBLISHER).map(|s| s.topic as u32);
    let last = world.number(PUBLISHER);
    let count = numbers.clone().count() as u64;
    if !numbers.map(u64::from).eq(last - count + 1..=last) || count == 0 {
        return Err("a message of the living publisher is lost or twice".to_owned());
    }
    Ok(())
}

/// What a stepped publisher planned is in the order once, whole events in its own order, and all of it that returned.
fn published(world: &World, id: usize, planned: &[Vec<u64>], ended: Option<&[Ended]>) -> Outcome<()> {
    let seen: Vec<Seen> =
        world.members[READERS[0]].seen.iter().filter(|s| sender_of(s.topic) == id).copied().collect();
    let mut rest = &seen[..];
    let mut stamps = Vec::new();
    for topics in planned {
        if rest.is_empty() {
            break;
        }
        let stamp = rest[0].stamp;
        let event: Vec<Seen> =
            topics.iter().zip(0..).map(|(topic, index)| Seen { stamp, index, topic: *topic }).collect();
        if !rest.starts_with(&event) {
            return Err(format!("{seen:?} was read of {planned:?}"));
        }
        rest = &rest[event.len()..];
        stamps.push(stamp);
    }
    if !rest.is_empty() {
        return Err(format!("read {rest:?}, which nobody published, or twice"));
    }
    if let Some(ended) = ended {
        let returned: Vec<u64> = ended
            .iter()
            .filter_map(|e| match e {
                Ended::Published(stamp) => Some(*stamp),
                _ => None,
            })
            .collect();
        if returned != stamps {
            return Err(format!("publishes returned {returned:?}, read were {stamps:?}"));
        }
    }
    Ok(())
}

/// What a stepped reader took for whole is what was there, from its place on.
fn polled(world: &World, ended: &[Ended], read: &[Seen]) -> Outcome<()> {
    let expected = &world.polled[..read.len().min(world.polled.len())];
    if read != expected {
        return Err(format!("it read {read:?} where {:?} was", world.polled));
    }
    if ended == [Ended::Done] && read.len() != 7 {
        return Err(format!("it read {} of 7", read.len()));
    }
    Ok(())
}

/// Two operations against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Two publishers.
    Publishers,
    /// A publisher that wakes, a reader that falls asleep.
    WakeAndWait,
}

impl Pair {
    pub const ALL: [(&str, Pair); 2] =
        [("publish+publish", Pair::Publishers), ("publish+wait", Pair::WakeAndWait)];

    pub fn ops(self) -> [Op; 2] {
        match self {
            Pair::Publishers => [Op::Publish, Op::Publish],
            Pair::WakeAndWait => [Op::Wake, Op::Wait],
        }
    }
}

/// As [`stage`], for a pair.
pub fn stage_pair(world: &mut World, pair: Pair) -> Outcome<()> {
    if pair == Pair::WakeAndWait {
        world.count_reader(SECOND);
    }
    stage(world, Op::Publish)
}

/// The first's way alone.
pub fn trace_of(world: &mut World, op: Op) -> Outcome<Trace> {
    world.restore();
    // What a case does before, so that the heap looks alike.
    plan(world, op, VICTIM);
    let sleeper = match op {
        Op::Wake => Some(sleeper(world)?),
        _ => None,
    };
    let trace = Tracee::start(|| act(world, op, VICTIM))?.trace(op.sleeps());
    if let Some(pid) = sleeper {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = tracee::reap(pid, "the sleeper");
    }
    world.restore();
    trace
}

/// The first's way in a pair.
pub fn trace_first(world: &mut World, pair: Pair) -> Outcome<Trace> {
    world.restore();
    let trace = Tracee::start(|| act(world, pair.ops()[0], VICTIM))?.trace(false);
    world.restore();
    trace
}

/// The second's way while the first stands at `first`.
pub fn trace_second(world: &mut World, pair: Pair, trace: &Trace, first: usize) -> Outcome<Trace> {
    world.restore();
    let [a, b] = pair.ops();
    let mut one = Tracee::start(|| act(world, a, VICTIM))?;
    one.go_to(trace, first)?;
    let trace = Tracee::start(|| act(world, b, SECOND))?.trace(b.sleeps());
    drop(one);
    world.restore();
    trace
}

/// The first stands at one instruction, the second runs to another; then both go on, in the one order or the other.
pub fn pair_case(world: &mut World, pair: Pair, traces: [&Trace; 2], at: [usize; 2]) -> Outcome<String> {
    let [a, b] = pair.ops();
    let planned = [plan(world, a, VICTIM), plan(world, b, SECOND)];
    let mut one = Tracee::start(|| act(world, a, VICTIM))?;
    one.go_to(traces[0], at[0])?;
    let mut two = Tracee::start(|| act(world, b, SECOND))?;
    two.go_to(traces[1], at[1])?;
    let note = if one.is_at(traces[0], at[0])? && two.is_at(traces[1], at[1])? {
        String::new()
    } else {
        "another way than the trace".to_owned()
    };
    if pair == Pair::WakeAndWait {
        two.run()?;
        one.finish()?;
        two.join()?;
    } else if (at[0] + at[1]).is_multiple_of(2) {
        one.finish()?;
        two.finish()?;
    } else {
        two.finish()?;
        one.finish()?;
    }
    world.follow()?;
    let evictable = (pair == Pair::WakeAndWait).then_some(SECOND);
    world.go_on(SLOTS, evictable)?;
    whole_order(world)?;
    for (id, planned) in [VICTIM, SECOND].into_iter().zip(&planned) {
        let (ended, read) = world.report.heard(id).ok_or("it did not return")?;
        let fine = |e: &Ended| matches!(e, Ended::Published(_) | Ended::Done);
        if !ended.iter().all(fine) {
            return Err(format!("{id} was told {ended:?}"));
        }
        published(world, id, planned, Some(&ended))?;
        if pair == Pair::WakeAndWait && id == SECOND && read.first() != world.members[READERS[0]].seen.first()
        {
            return Err(format!("it read {read:?}"));
        }
    }
    world.check_leases()?;
    Ok(note)
}
