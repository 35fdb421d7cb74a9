//! One process, taken to one instruction, and killed or stopped there.

use shm_bus_ring::{Bucket, Ordering, ReaderState, layout::payload};

use super::judge::{self, one_order};
use super::message::{length_of, seen};
use super::operation::{Op, poll, wait};
use super::scene::publish;
use super::world::{PUBLISHER, READERS, SLOTS, SLOW, Sent, VICTIM, World, owner};
use crate::Outcome;
use crate::mode::Mode;
use crate::report::{Ended, Note, Seen};
use crate::trace::process::{reap, spawn, state, until};
use crate::trace::steps::Trace;
use crate::trace::tracee::{Reached, Tracee};

const LAPS: u64 = 3 * SLOTS;
/// The length of the message that ends the one who sleeps.
const GOODBYE: u64 = 7;
/// The part of the report that is the sleeper's.
const SLEEPER: usize = SLOW;

/// The way of an operation that nobody disturbs.
pub fn trace_of(world: &mut World, op: Op) -> Outcome<Trace> {
    world.restore();
    // What a case does before, so that the heap looks alike.
    op.planned(world, VICTIM);
    let sleeper = match op {
        Op::Wake => Some(sleeper(world)?),
        _ => None,
    };
    let trace = Tracee::start(|| op.act(world, VICTIM))?.trace(op.sleeps());
    if let Some(pid) = sleeper {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = reap(pid, "the sleeper");
    }
    world.restore();
    trace
}

/// One case: the operation is taken to `at` and stopped or killed there; the others go on, look, and say what is wrong.
/// Gives a note if the process took another way than the trace.
pub fn case(world: &mut World, op: Op, mode: Mode, trace: &Trace, at: usize) -> Outcome<Note> {
    // The same numbers as in the process itself.
    let planned = op.planned(world, VICTIM);
    let sleeper = match op {
        Op::Wake => Some(sleeper(world)?),
        _ => None,
    };
    let mut victim = Tracee::start(|| op.act(world, VICTIM))?;
    let returned = at > trace.len();
    let asleep = trace.sleeps && at == trace.len();
    let mut note = Note::default();
    if !returned {
        if victim.go_to(trace, at)? == Reached::Over || !victim.is_at(trace, at)? {
            note.other_way = true;
        } else if asleep {
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
        Mode::Stop | Mode::Pair => {
            while_stopped(world, op)?;
            if asleep {
                victim.join()?;
            } else {
                victim.finish()?;
            }
        }
        Mode::Depart => {
            world.bury(VICTIM);
            let record = world.event(PUBLISHER, &[1]);
            let stamp = publish(world, PUBLISHER, &record)?;
            world.go_on(LAPS, None)?;
            victim.finish()?;
            judge::departed(world, stamp)?;
        }
    }
    if op == Op::Join {
        let heard = world.report.heard(VICTIM);
        judge::joined(world, SLOW, heard.as_ref().and_then(|(ended, _)| ended.first().copied()))?;
    }
    world.go_on(10, op.evictable())?;
    if let Some(pid) = sleeper {
        let goodbye = world.event(PUBLISHER, &[GOODBYE]);
        publish(world, PUBLISHER, &goodbye)?;
        world.follow()?;
        reap(pid, "the sleeper")?;
        let (_, read) = world.report.heard(SLEEPER).ok_or("the sleeper said nothing")?;
        if read != world.members[READERS[0]].seen {
            return Err("the sleeper saw something else than the readers".to_owned());
        }
    }
    judge_all(world, op, mode, &planned)?;
    Ok(note)
}

/// A process that sleeps until messages come and reads them, up to the one that says goodbye. Returns when it sleeps.
fn sleeper(world: &mut World) -> Outcome<nix::unistd::Pid> {
    let pid = spawn(|| {
        let mut read: Vec<Seen> = Vec::new();
        while read.last().is_none_or(|last| length_of(last.topic) != GOODBYE) {
            wait(world, SLOW);
            let mut some = Vec::new();
            let ended = poll(world, SLOW, 1, &mut some);
            assert_eq!(ended, Ended::Done, "a sleeper is in nobody's way");
            read.extend(some.iter().map(|(frame, _)| seen(frame)));
        }
        world.report.say(SLEEPER, &[Ended::Done], &read);
    })
    .map_err(|e| e.to_string())?;
    until("the sleeper sleeps", || state(pid) == Some('S') && world.sequencer.sleepers().any(Bucket::MIXED))?;
    Ok(pid)
}

/// What the others do first: a message that somebody asleep must hear of, and three laps.
fn after_kill(world: &mut World, op: Op) -> Outcome<()> {
    match op {
        Op::Poll => held_by(world, VICTIM)?,
        Op::Wake => return wait_for_sleeper(world),
        Op::Space => {
            world.take(SLOW)?;
            world.bury(SLOW);
        }
        // Nobody lets the others read until it is taken for dead.
        Op::Wait => {}
        // Nobody has noticed its death yet.
        _ => world.go_on(LAPS, op.evictable())?,
    }
    world.bury(VICTIM);
    if world.sequencer.sleepers().concerned(Bucket::MIXED, 0) & 1 != 0
        || world.sequencer.space_waiters(0) & 1 != 0
    {
        return Err("the dead one still sleeps".to_owned());
    }
    world.go_on(SLOTS, None)
}

fn while_stopped(world: &mut World, op: Op) -> Outcome<()> {
    match op {
        Op::Poll => {
            held_by(world, VICTIM)?;
            world.go_on(LAPS, op.evictable())
        }
        // Not a lap: nobody is to lose its place. The first message is what it must be woken by.
        Op::Wait => world.go_on(1, None),
        Op::Wake => wait_for_sleeper(world),
        Op::Space => {
            world.take(SLOW)?;
            if world.sequencer.space_waiters(0) & 1 == 0 {
                world.bury(SLOW);
                world.go_on(LAPS, None)?;
            }
            Ok(())
        }
        _ => world.go_on(LAPS, op.evictable()),
    }
}

/// A message for the one asleep; it must come out of its sleep for it.
fn wait_for_sleeper(world: &mut World) -> Outcome<()> {
    let event = world.event(PUBLISHER, &[24]);
    let stamp = publish(world, PUBLISHER, &event)?;
    world.follow()?;
    until("the sleeper hears of a message", || {
        world.members[SLOW].own.load(payload::CURSOR, Ordering::SeqCst) > stamp
    })
}

/// The order can be filled up to a lap from where a reader is, and no further.
pub fn held_by(world: &mut World, reader: usize) -> Outcome<()> {
    let cursor = world.members[reader].own.load(payload::CURSOR, Ordering::SeqCst);
    loop {
        let event = world.event(PUBLISHER, &[24]);
        match world.send(PUBLISHER, &event) {
            Sent::At(stamp) if stamp >= cursor + SLOTS => {
                return Err(format!("stamp {stamp} overran a reader at {cursor}"));
            }
            Sent::At(_) => world.follow()?,
            Sent::Full(full) if full.holder == Some((owner(reader).id, cursor)) => {
                world.withdraw(PUBLISHER);
                return Ok(());
            }
            other => return Err(format!("a reader at {cursor} holds the order: {other:?}")),
        }
    }
}

/// What must be true whatever happened.
fn judge_all(world: &mut World, op: Op, mode: Mode, planned: &[Vec<u64>]) -> Outcome<()> {
    one_order(world)?;
    let heard = world.report.heard(VICTIM);
    if mode == Mode::Stop && heard.is_none() {
        return Err("it did not return".to_owned());
    }
    judge::published(world, VICTIM, planned, heard.as_ref().map(|h| &h.0[..]))?;
    if let Some((ended, read)) = &heard {
        let expected = |e: &Ended| match e {
            Ended::Published(_) | Ended::Done => true,
            Ended::Evicted => op == Op::Poll,
            Ended::Full => op == Op::Fill,
            Ended::Detached => mode == Mode::Depart,
            Ended::Broken => false,
        };
        if let Some(other) = ended.iter().find(|e| !expected(e)) {
            return Err(format!("it was told {other:?}"));
        }
        if op == Op::Wait {
            let all = &world.members[READERS[0]].seen;
            if read.len() != 1 || read[0] != all[0] {
                return Err(format!("it read {read:?}, first came {:?}", all.first()));
            }
        }
        if op == Op::Poll {
            judge::polled(world, ended, read)?;
        }
    }
    match op {
        Op::Evict => judge::lost_its_place_once(world, SLOW)?,
        Op::Leave => {
            let word = world.sequencer.members().word(owner(SLOW).id);
            if word.reader() == ReaderState::Live {
                return Err("the one who left still counts".to_owned());
            }
        }
        _ => {}
    }
    world.check_leases()
}
