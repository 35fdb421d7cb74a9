//! The processes of a case in which a control thread is stepped, and how they wait for each other.
//!
//! The members that live are in a process of their own. While a thread is recorded they stand still whenever it does not
//! wait for them: else they would take it for silent, and rob it of its role.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_bus::Bus;

use super::Op;
use super::leftovers::{NAME, Scratch, said};
use super::survivors::survive;
use crate::Outcome;
use crate::report::Report;
use crate::trace::process::{reap, spawn, spawn_patient, state, thread_named, until};
use crate::trace::tracee::Tracee;

/// What the processes tell each other: one report's parts, and then another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The founder is there.
    Founded,
    /// The one that will be stepped is there.
    Attached,
    /// The one that will be killed is there.
    Doomed,
    /// The members are there.
    Members,
    /// The guest is to ask.
    Ask,
    /// It has what it asked for; or the successor has the role.
    Done,
    /// The thread is where it is wanted: the others go on.
    Go,
    /// They have, for three laps.
    Laps,
    /// The thread goes on, or is gone.
    Resumed,
    /// The members agree on who is there.
    Agreed,
    /// Whoever is left closes.
    Close,
    /// The stepped one has closed.
    Closed,
}

/// Where words are said and heard.
#[derive(Clone)]
pub struct Words([Report; 2]);

/// Parts of a report that words may use.
const PARTS: usize = 6;

impl Words {
    fn new(first: &Report) -> Outcome<Self> {
        let words = Words([first.clone(), Report::new()?]);
        words.0.iter().for_each(Report::clear);
        Ok(words)
    }

    pub fn say(&self, word: Word) {
        self.0[word as usize / PARTS].say(word as usize % PARTS, &[], &[]);
    }

    pub fn said(&self, word: Word) -> bool {
        self.0[word as usize / PARTS].heard(word as usize % PARTS).is_some()
    }

    pub fn wait_for(&self, word: Word) -> Outcome<()> {
        until(&format!("the word {word:?}"), || self.said(word))
    }

    /// The report in which the members leave their verdict.
    pub fn verdict(&self) -> &Report {
        &self.0[1]
    }

    /// As [`Words::wait_for`], unless the members have come to their verdict before.
    pub fn wait_for_members(&self, word: Word) -> Outcome<()> {
        until(&format!("the members' word {word:?}"), || self.said(word) || self.verdict().read().is_some())
    }
}

/// A name that control threads have.
const CONTROL: &str = "shm-bus";

pub struct Parties {
    pub words: Words,
    /// The founder, if it is not the one that is stepped.
    pub master: Option<Pid>,
    /// The control thread that is stepped.
    pub stepped: Tracee,
    pub members: Pid,
    _scratch: Scratch,
}

impl Parties {
    /// Everyone is there, and the control thread waits for what comes. `patient` ones have time; `lives` says whether the
    /// stepped process will see the end.
    pub fn gather(op: Op, report: &Report, patient: bool, lives: bool) -> Outcome<Self> {
        let scratch = Scratch::new()?;
        let words = Words::new(report)?;
        let fork = |work: &dyn Fn()| said("fork", if patient { spawn_patient(work) } else { spawn(work) });
        let attach = || Bus::attach(NAME, &scratch.options()).expect("attach");
        let master = match op.is_service() {
            true => None,
            false => Some(fork(&|| {
                let bus = attach();
                words.say(Word::Founded);
                // One that is to be killed hears it too late.
                wait_long(|| words.said(Word::Ask) && op == Op::TakeOverClosed);
                bus.close();
            })?),
        };
        if master.is_some() {
            words.wait_for(Word::Founded)?;
        }
        let stepped = fork(&|| {
            let bus = attach();
            words.say(Word::Attached);
            wait_long(|| {
                let listed = bus.directory().map_or(0, |d| d.members().count());
                // The founder is not among them any more, so the first records of the reign are in the order.
                if !op.is_service() && words.said(Word::Ask) && bus.is_master() && listed == 3 {
                    words.say(Word::Done);
                }
                words.said(Word::Close)
            });
            bus.close();
            words.say(Word::Closed);
        })?;
        words.wait_for(Word::Attached)?;
        let doomed = match op {
            Op::MasterDeath => Some(fork(&|| {
                let _bus = attach();
                words.say(Word::Doomed);
                wait_long(|| false);
            })?),
            _ => None,
        };
        if doomed.is_some() {
            words.wait_for(Word::Doomed)?;
        }
        let members = fork(&|| {
            let outcome = survive(op, &scratch, &words, doomed, lives);
            words.verdict().write(outcome.is_ok(), &outcome.map_or_else(|why| why, |note| note.to_string()));
        })?;
        words.wait_for_members(Word::Members)?;
        if let Some(Err(why)) = words.verdict().read() {
            return Err(why);
        }
        let thread = thread_named(stepped, CONTROL).ok_or("it has no control thread")?;
        let stepped = Tracee::seize(stepped, thread)?;
        Ok(Parties { words, master, stepped, members, _scratch: scratch })
    }

    /// What the thread is to deal with happens. A successor's rivals stand still from here on.
    pub fn begin(&self, op: Op) -> Outcome<()> {
        match (op, self.master) {
            (Op::TakeOver, Some(master)) => {
                freeze(self.members)?;
                self.words.say(Word::Ask);
                said("SIGKILL", kill(master, Signal::SIGKILL))?;
                let _ = reap(master, "the master");
            }
            (Op::TakeOverClosed, _) => {
                freeze(self.members)?;
                self.words.say(Word::Ask);
            }
            _ => self.words.say(Word::Ask),
        }
        Ok(())
    }
}

/// In a process that is one of several: until it is told, or killed.
fn wait_long(mut told: impl FnMut() -> bool) {
    while !told() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Stops a process, and returns when it stands still.
pub fn freeze(process: Pid) -> Outcome<()> {
    said("SIGSTOP", kill(process, Signal::SIGSTOP))?;
    until("the process stands still", || matches!(state(process), Some('T' | 'Z') | None))
}

/// Takes that back.
pub fn thaw(process: Pid) -> Outcome<()> {
    said("SIGCONT", kill(process, Signal::SIGCONT))
}
