//! One attachment, its main thread taken to one instruction, killed or stopped there.

use shm_bus::{Bus, BusError, Envelope, Subscription};

use super::Op;
use super::leftovers::{Held, Scratch};
use super::member::{HASTY, LAPS, Member, SLOTS, go_on, subscribe};
use super::operation::{self, FIRST, PREPARED, PRESENT, READY, SECOND, VICTIM};
use super::verdict;
use crate::Outcome;
use crate::mode::Mode;
use crate::report::{Note, Report};
use crate::ring::message::{body, topic};
use crate::trace::process::until;
use crate::trace::steps::Trace;
use crate::trace::tracee::{Reached, Tracee};

/// A bus with two living attachments and the process that will be stepped, standing at its begin.
pub struct Stage {
    pub scratch: Scratch,
    pub report: Report,
    /// Dropped before the members: a process that is stopped has to be gone when they close.
    pub victim: Tracee,
    pub members: Vec<Member>,
    /// A reader that holds the order, for a group of its own.
    pub slow: Option<(Subscription, Bus)>,
    /// What the stepped process may read.
    pub before: usize,
    /// What this process held before the bus was, and when only the members were there.
    pub at_first: Held,
    pub held: Held,
}

impl Stage {
    /// The child is forked while this process has one thread; then the others attach, then the child.
    fn set(op: Op, report: &Report, hurried: bool) -> Outcome<Stage> {
        let scratch = Scratch::new()?;
        let at_first = Held::now()?;
        let options = scratch.options();
        report.clear();
        let child = Tracee::start_later(|| {
            if !hurried {
                nix::unistd::alarm::cancel();
            }
            until("the others are there", || report.heard(PRESENT).is_some()).expect("others");
            operation::act(op, &options, report);
        })?;
        let mut members = vec![Member::new(&scratch, FIRST)?, Member::new(&scratch, SECOND)?];
        // Each has the other's memory from here on.
        go_on(&mut members, 2)?;
        let held = Held::now()?;
        report.say(PRESENT, &[], &[]);
        let (report, victim) = (report.clone(), child);
        let mut stage = Stage { scratch, report, victim, members, slow: None, before: 0, at_first, held };
        let report = stage.report.clone();
        if op.reads() || op.publishes() {
            until("the process is attached", || report.heard(READY).is_some() || !stage.victim.is_alive())?;
            stage.prepare(op)?;
            report.say(PREPARED, &[], &[]);
        }
        stage.victim.arrive()?;
        Ok(stage)
    }

    /// What the operation is to find.
    fn prepare(&mut self, op: Op) -> Outcome<()> {
        match op {
            Op::Poll => {
                go_on(&mut self.members, operation::WAITING as u64)?;
                self.before = self.members[0].seen.len() - operation::WAITING;
            }
            Op::Wait => self.before = self.members[0].seen.len(),
            Op::Evict => self.fill_the_order()?,
            _ => {
                go_on(&mut self.members, 20)?;
            }
        }
        Ok(())
    }

    /// The slow one holds the order, and nobody's headers.
    fn fill_the_order(&mut self) -> Outcome<()> {
        let bus = self.scratch.attach()?;
        self.slow = Some((subscribe(&bus, &["s"], HASTY)?, bus));
        let from = self.members[1].subscription.position().0;
        let g = self.members[1].group("g")?;
        loop {
            let member = &mut self.members[1];
            let topic = topic(SECOND, 16, member.count + 1);
            match member.publisher.publish(&[g], &body(topic), Envelope { topic }) {
                Ok(stamp) if stamp.0 < from + 2 * SLOTS => member.count += 1,
                Err(BusError::WouldBlock { .. }) => return Ok(()),
                other => return Err(format!("filling the order: {other:?}")),
            }
            self.members.iter_mut().try_for_each(Member::take_all)?;
        }
    }
}

/// The way of an undisturbed run.
pub fn trace_of(op: Op, report: &Report) -> Outcome<Trace> {
    // With nothing in front of it, whoever waits sleeps.
    Stage::set(op, report, false)?.victim.trace(op == Op::Wait)
}

/// One case.
pub fn case(op: Op, mode: Mode, trace: &Trace, at: usize, report: &Report) -> Outcome<Note> {
    let mut stage = Stage::set(op, report, true)?;
    let mut note = Note::default();
    let returned = at > trace.len();
    let asleep = trace.sleeps && at == trace.len();
    if !returned {
        match stage.victim.go_to(trace, at)? {
            Reached::There if stage.victim.is_at(trace, at)? => {}
            _ => note.other_way = true,
        }
        if asleep {
            stage.victim.run()?;
            stage.victim.until_asleep()?;
        }
    }
    let wait = match mode {
        Mode::Kill => {
            if returned {
                stage.victim.pass_end()?;
                until("it returns", || stage.report.heard(VICTIM).is_some() || !stage.victim.is_alive())?;
            }
            stage.victim.kill()?;
            go_on(&mut stage.members, LAPS)?
        }
        Mode::Stop | Mode::Depart | Mode::Pair => {
            let wait = if op == Op::Wait {
                go_on(&mut stage.members, 1)?
            } else {
                stage.victim.freeze()?;
                let wait = go_on(&mut stage.members, LAPS)?;
                stage.victim.thaw()?;
                wait
            };
            if asleep {
                stage.victim.join()?;
            } else {
                stage.victim.finish()?;
            }
            wait
        }
    };
    note.longest_wait = wait.as_millis() as u64;
    go_on(&mut stage.members, 10)?;
    verdict::judge(stage, op, mode)?;
    Ok(note)
}
