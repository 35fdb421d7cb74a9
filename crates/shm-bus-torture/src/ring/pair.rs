//! Two processes stepped against each other.
//!
//! The first is taken to one of its instructions, then the second to one of its own, then the first goes on to its end,
//! then the second. With the second's last place this covers the other order of going on as well: whoever has nothing
//! left to do meets nobody.

use std::time::Instant;

use shm_bus_ring::layout::payload;
use shm_bus_ring::{Ordering, Policy, ReaderState};

use super::case::held_by;
use super::judge::{self, one_order};
use super::operation::{GO_ON, Op};
use super::scene::Scene;
use super::world::{READERS, SECOND, SLOTS, SLOW, VICTIM, World, owner};
use crate::Outcome;
use crate::report::{Ended, Note};
use crate::trace::process::HANG;
use crate::trace::steps::Trace;
use crate::trace::tracee::{Reached, Tracee};

/// Two operations against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Two publishers.
    PublishPublish,
    /// A publisher that wakes, a reader that falls asleep.
    PublishWait,
    /// A publisher that looks where the readers are, a reader that is let in.
    PublishJoin,
    /// A publisher, and the departure of its attachment.
    PublishRetire,
    /// A publisher, and one that frees what it has published.
    PublishReclaim,
    /// A publisher that needs room of its own, and the reader that holds it.
    ReclaimAdvance,
    /// A publisher that overwrites, and a reader that has lost its place.
    ReclaimLost,
    /// A publisher that takes a reader's place, and that reader.
    EvictAdvance,
    /// Two publishers that take the same reader's place.
    EvictEvict,
    /// A reader that lets go, and a publisher that falls asleep for want of room.
    AdvanceSpace,
}

impl Pair {
    pub const ALL: [(&str, Pair); 10] = [
        ("publish+publish", Pair::PublishPublish),
        ("publish+wait", Pair::PublishWait),
        ("publish+join", Pair::PublishJoin),
        ("publish+retire", Pair::PublishRetire),
        ("publish+reclaim", Pair::PublishReclaim),
        ("reclaim+advance", Pair::ReclaimAdvance),
        ("reclaim+lost", Pair::ReclaimLost),
        ("evict+advance", Pair::EvictAdvance),
        ("evict+evict", Pair::EvictEvict),
        ("advance+space", Pair::AdvanceSpace),
    ];

    /// Who does what. Whoever falls asleep is the second.
    fn sides(self) -> [(Op, usize); 2] {
        match self {
            Pair::PublishPublish => [(Op::Publish, VICTIM), (Op::Publish, SECOND)],
            Pair::PublishWait => [(Op::Wake, VICTIM), (Op::Wait, SECOND)],
            Pair::PublishJoin => [(Op::Burst, VICTIM), (Op::Join, SECOND)],
            Pair::PublishRetire => [(Op::Publish, VICTIM), (Op::Retire, SECOND)],
            Pair::PublishReclaim => [(Op::Publish, SECOND), (Op::Reclaim, VICTIM)],
            Pair::ReclaimAdvance | Pair::ReclaimLost => [(Op::Renew, VICTIM), (Op::Poll, SECOND)],
            Pair::EvictAdvance => [(Op::Evict, VICTIM), (Op::Poll, SLOW)],
            Pair::EvictEvict => [(Op::Evict, VICTIM), (Op::Evict, SECOND)],
            Pair::AdvanceSpace => [(Op::Poll, SLOW), (Op::Space, VICTIM)],
        }
    }

    pub fn scene(self) -> Scene {
        match self {
            Pair::PublishWait => Scene::Reader(SECOND),
            Pair::PublishJoin => Scene::Unheld,
            Pair::ReclaimAdvance => Scene::Held,
            Pair::ReclaimLost => Scene::Lost,
            Pair::EvictAdvance | Pair::EvictEvict => Scene::Full(Policy::Block),
            Pair::AdvanceSpace => Scene::Full(Policy::Pinned),
            _ => Scene::Plain,
        }
    }

    /// A reader that may be in the way afterwards, and then loses its place.
    fn evictable(self) -> Option<usize> {
        match self {
            Pair::PublishWait | Pair::ReclaimAdvance => Some(SECOND),
            Pair::EvictAdvance | Pair::EvictEvict | Pair::AdvanceSpace => Some(SLOW),
            _ => None,
        }
    }

    /// What a side may be told besides that all is well.
    fn may_be_told(self, op: Op, ended: Ended) -> bool {
        match ended {
            Ended::Published(_) | Ended::Done => true,
            Ended::Full => self == Pair::ReclaimAdvance && op == Op::Renew,
            Ended::Evicted => matches!(self, Pair::ReclaimLost | Pair::EvictAdvance) && op == Op::Poll,
            Ended::Detached => self == Pair::PublishRetire && op == Op::Publish,
            Ended::Broken => false,
        }
    }
}

/// The first's way, alone.
pub fn trace_first(world: &mut World, pair: Pair) -> Outcome<Trace> {
    world.restore();
    // What a case does before, so that the heap looks alike.
    for (op, id) in pair.sides() {
        op.planned(world, id);
    }
    let (op, id) = pair.sides()[0];
    let trace = Tracee::start(|| op.act(world, id))?.trace(false);
    world.restore();
    trace
}

/// The second's way while the first stands at `first`.
pub fn trace_second(world: &mut World, pair: Pair, trace: &Trace, first: usize) -> Outcome<Trace> {
    world.restore();
    let [(a, first_id), (b, second_id)] = pair.sides();
    for (op, id) in pair.sides() {
        op.planned(world, id);
    }
    let mut one = Tracee::start(|| a.act(world, first_id))?;
    one.go_to(trace, first)?;
    let trace = Tracee::start(|| b.act(world, second_id))?.trace(b.sleeps());
    drop(one);
    world.restore();
    trace
}

/// One pair of instructions. Gives a note if a process took another way than its trace.
pub fn pair_case(world: &mut World, pair: Pair, traces: [&Trace; 2], at: [usize; 2]) -> Outcome<Note> {
    let sides = pair.sides();
    let planned = sides.map(|(op, id)| op.planned(world, id));
    let mut note = Note::default();
    let mut processes = Vec::new();
    for (((op, id), trace), at) in sides.into_iter().zip(traces).zip(at) {
        let mut process = Tracee::start(|| op.act(world, id))?;
        if process.go_to(trace, at)? == Reached::Over || !process.is_at(trace, at)? {
            note.other_way = true;
        }
        processes.push(process);
    }
    let [one, two] = &mut processes[..] else { return Err("two processes".to_owned()) };
    if pair == Pair::PublishJoin {
        go_on_with_the_gate_it_knows(world, one, two)?;
    } else if sides[1].0.sleeps() {
        two.run()?;
        one.finish()?;
        two.join()?;
    } else {
        one.finish()?;
        two.finish()?;
    }
    world.follow()?;
    world.go_on(SLOTS, pair.evictable())?;
    one_order(world)?;
    for ((op, id), planned) in sides.into_iter().zip(&planned) {
        let (ended, read) = world.report.heard(id).ok_or("it did not return")?;
        if let Some(other) = ended.iter().find(|e| !pair.may_be_told(op, **e)) {
            return Err(format!("{id} was told {other:?}"));
        }
        judge::published(world, id, planned, Some(&ended))?;
        match op {
            Op::Wait if read.first() != world.members[READERS[0]].seen.first() => {
                return Err(format!("it read {read:?}"));
            }
            Op::Poll => judge::polled(world, &ended, &read)?,
            Op::Retire => {
                if let Some(Ended::Published(record)) = ended.first() {
                    judge::departed(world, *record)?;
                }
            }
            _ => {}
        }
    }
    match pair {
        Pair::EvictEvict => judge::lost_its_place_once(world, SLOW)?,
        Pair::EvictAdvance => {
            let evictions = world.sequencer.members().word(owner(SLOW).id).evictions();
            if evictions > 1 {
                return Err(format!("the slow reader was evicted {evictions} times"));
            }
        }
        _ => {}
    }
    world.check_leases()?;
    Ok(note)
}

/// Both return; then the first publishes on by the gate that it has computed, up to where the one who joined holds it.
fn go_on_with_the_gate_it_knows(world: &mut World, one: &mut Tracee, two: &mut Tracee) -> Outcome<()> {
    one.pass_end()?;
    two.finish()?;
    world.follow()?;
    for id in READERS {
        world.count_reader(id);
    }
    let (ended, _) = world.report.heard(SECOND).ok_or("it did not return")?;
    let Some(Ended::Published(record)) = ended.first().copied() else {
        return Err(format!("the record: {ended:?}"));
    };
    world.members[SLOW].own.store(payload::CURSOR, record + 1, Ordering::SeqCst);
    world.report.say(GO_ON, &[], &[]);
    let start = Instant::now();
    while world.report.heard(VICTIM).is_none() {
        world.follow()?;
        if start.elapsed() > HANG {
            return Err("the publisher does not come to an end".to_owned());
        }
    }
    one.join()?;
    world.follow()?;
    if world.sequencer.members().word(owner(SLOW).id).reader() == ReaderState::Live {
        held_by(world, SLOW)?;
    }
    judge::joined(world, SLOW, Some(Ended::Published(record)))?;
    world.bury(SLOW);
    Ok(())
}
