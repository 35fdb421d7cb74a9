//! What to run.

use std::path::PathBuf;

use lexopt::prelude::*;

use crate::participant::Role;
use crate::plan::Place;

pub const USAGE: &str = "\
Random traffic of many processes over one bus: every process writes down what it does and sees, and a judge merges all
of it and rejects what cannot be.

Usage: shm-bus-oracle [options]
       shm-bus-oracle judge FILE    judges a log that --keep has kept

      --seeds N        how many runs, one a seed (500)
      --first S        the first of their seeds (1)
      --seed S         one run; the schedule is the machine's, so that it may have to be repeated
      --processes N    processes of each run besides the observer (chosen by the seed: 3 to 8)
      --jobs N         runs at a time (the number of processors)
      --keep DIR       keeps the logs of failed runs there; with --seed also of one that passed
      --json           the counts as one line of JSON
  -h, --help           this text

Ends with 0 if all is well, 1 after a failure, 2 for wrong arguments.";

/// What this process is.
pub enum Task {
    /// Runs seeds.
    Seeds(Seeds),
    /// Judges a kept log.
    Judge(PathBuf),
    /// Takes part in a run.
    Participant(Role),
    /// Watches a run.
    Observer(Place, u64),
    /// Says how it is used.
    Help,
}

/// Which seeds, and how.
pub struct Seeds {
    pub seeds: Vec<u64>,
    pub processes: Option<u32>,
    pub jobs: usize,
    pub keep: Option<PathBuf>,
    /// Keep the log of a run that passed, too.
    pub keep_all: bool,
    pub json: bool,
}

impl Task {
    pub fn parse() -> Result<Self, lexopt::Error> {
        let mut parser = lexopt::Parser::from_env();
        let Some(first) = parser.next()? else { return seeds(lexopt::Parser::from_iter([""; 1])) };
        match first {
            Value(word) if word == "judge" => {
                let file = parser.value()?.into();
                nothing_more(&mut parser).map(|()| Task::Judge(file))
            }
            Value(word) if word == "participant" => member(&mut parser, true),
            Value(word) if word == "observer" => member(&mut parser, false),
            Value(word) => Err(Value(word).unexpected()),
            _ => seeds(lexopt::Parser::from_env()),
        }
    }
}

fn nothing_more(parser: &mut lexopt::Parser) -> Result<(), lexopt::Error> {
    match parser.next()? {
        Some(argument) => Err(argument.unexpected()),
        None => Ok(()),
    }
}

fn seeds(mut parser: lexopt::Parser) -> Result<Task, lexopt::Error> {
    let processors = std::thread::available_parallelism().map_or(2, |n| n.get());
    let (mut count, mut first, mut one) = (500u64, 1u64, None);
    let (mut processes, mut jobs, mut keep, mut json) = (None, processors, None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => count = parser.value()?.parse()?,
            Long("first") => first = parser.value()?.parse()?,
            Long("seed") => one = Some(parser.value()?.parse()?),
            Long("processes") => {
                let number: u32 = parser.value()?.parse()?;
                if !(1..=64).contains(&number) {
                    return Err(format!("--processes {number}: must be 1 to 64").into());
                }
                processes = Some(number);
            }
            Long("jobs") => jobs = parser.value()?.parse::<usize>()?.max(1),
            Long("keep") => keep = Some(PathBuf::from(parser.value()?)),
            Long("json") => json = true,
            Short('h') | Long("help") => return Ok(Task::Help),
            _ => return Err(argument.unexpected()),
        }
    }
    let seeds = one.map_or_else(|| (first..first.saturating_add(count)).collect(), |seed| vec![seed]);
    Ok(Task::Seeds(Seeds { seeds, processes, jobs, keep, keep_all: one.is_some(), json }))
}

/// How the driver starts the processes of a run.
fn member(parser: &mut lexopt::Parser, takes_part: bool) -> Result<Task, lexopt::Error> {
    let mut place = Place { directory: PathBuf::new(), seed: 0, log2_slots: 0 };
    let (mut number, mut others, mut steps, mut relays) = (0, 0, None, 0);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("place") => place.directory = parser.value()?.into(),
            Long("seed") => place.seed = parser.value()?.parse()?,
            Long("slots") => place.log2_slots = parser.value()?.parse()?,
            Long("number") => number = parser.value()?.parse()?,
            Long("others") => others = parser.value()?.parse()?,
            Long("steps") => steps = Some(parser.value()?.parse()?),
            Long("relays") => relays = parser.value()?.parse()?,
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(match takes_part {
        true => Task::Participant(Role { number, place, steps, others }),
        false => Task::Observer(place, relays),
    })
}
