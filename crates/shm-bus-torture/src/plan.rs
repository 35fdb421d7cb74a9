//! What is run: each operation's way is recorded once, and the places on it become cases.

use std::fs::File;

use crate::bus;
use crate::memory;
use crate::mode::Mode;
use crate::options::Options;
use crate::ring::operation::Op;
use crate::ring::pair::Pair;
use crate::ring::scene::STARTS;
use crate::trace::steps::{Grain, Matters, Trace};
use crate::{Outcome, bus::MASTER_MOMENTS};

/// An operation.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Of the ring alone.
    Ring(Op),
    /// Two of the ring, against each other.
    Pair(Pair),
    /// Of a whole attachment.
    Bus(bus::Op),
}

impl Unit {
    pub fn modes(self) -> &'static [Mode] {
        match self {
            Unit::Ring(op) => op.modes(),
            Unit::Pair(_) => &[Mode::Pair],
            Unit::Bus(op) => op.modes(),
        }
    }

    /// What is visited, or, in a bounded run, chosen from.
    fn grain(self, options: &Options) -> Grain {
        match self {
            _ if options.every => Grain::Every,
            _ if options.cases.is_some() => Grain::Accesses { stride: 0 },
            Unit::Pair(_) => Grain::Accesses { stride: 0 },
            Unit::Ring(_) => Grain::Every,
            Unit::Bus(op) => op.grain(),
        }
    }

    /// About how many milliseconds one case keeps a processor busy, and how many it takes in all.
    fn cost(self) -> (f64, f64) {
        match self {
            Unit::Ring(_) => (3.0, 3.0),
            Unit::Pair(_) => (7.0, 7.0),
            Unit::Bus(_) => (25.0, 130.0),
        }
    }
}

/// Everything that can be run, by name.
pub fn units() -> Vec<(&'static str, Unit)> {
    let ring = Op::ALONE.iter().map(|(name, op)| (*name, Unit::Ring(*op)));
    let pairs = Pair::ALL.iter().map(|(name, pair)| (*name, Unit::Pair(*pair)));
    let bus = bus::Op::ALL.iter().map(|(name, op)| (*name, Unit::Bus(*op)));
    ring.chain(pairs).chain(bus).collect()
}

/// One operation from one place in the order.
pub struct Sequence {
    pub name: &'static str,
    pub unit: Unit,
    /// Name of the place; `-` where there is none to choose.
    pub start: &'static str,
    pub stamp: u64,
    /// Where its way is written down.
    pub file: File,
    /// Its way, once it has been read.
    pub trace: Trace,
    /// For a pair: places on the second's way.
    pub columns: usize,
}

/// Longer ways than this (in steps) are not recorded.
const LONGEST: u64 = 1 << 23;

/// The chosen sequences, their ways not recorded yet.
pub fn sequences(options: &Options) -> Outcome<Vec<Sequence>> {
    let all = units();
    if let Some(name) = options.only.iter().find(|o| all.iter().all(|(n, _)| n != o)) {
        return Err(format!("no operation {name}; --list prints them"));
    }
    let mut chosen = Vec::new();
    for (name, unit) in all {
        if !options.only.is_empty() && !options.only.iter().any(|o| o == name)
            || options.mutation.is_some() && matches!(unit, Unit::Bus(_))
            || options.mode.is_some_and(|mode| !unit.modes().contains(&mode))
        {
            continue;
        }
        for (start, stamp) in starts(name, unit, options) {
            let file = memory::sparse_file(16 + 8 * LONGEST)?;
            chosen.push(Sequence { name, unit, start, stamp, file, trace: Trace::default(), columns: 0 });
        }
    }
    Ok(chosen)
}

/// The places in the order from which an operation is begun: in a bounded run one within a lap and one at its end.
fn starts(name: &str, unit: Unit, options: &Options) -> Vec<(&'static str, u64)> {
    if matches!(unit, Unit::Bus(_)) {
        return vec![("-", 0)];
    }
    match (&options.start, options.cases) {
        (Some(start), _) => STARTS.iter().filter(|(name, _)| start == name).copied().collect(),
        (None, None) => STARTS.to_vec(),
        (None, Some(_)) => STARTS
            .chunks(2)
            .flat_map(|two| options.thin(two.to_vec(), Some(1), &format!("{name} {}", two[0].0)))
            .collect(),
    }
}

/// One place on one way; for a pair, a row of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    pub sequence: usize,
    pub mode: Mode,
    pub at: usize,
}

/// What is to be done, in the order in which it is.
pub struct Plan {
    pub sequences: Vec<Sequence>,
    pub jobs: Vec<Job>,
}

/// A big run goes over everything this often, each time over other places: whoever ends it early has seen some of
/// everything, and how long it takes is known soon.
const ROUNDS: usize = 8;
/// Jobs of a run that goes over everything once.
const SMALL: usize = 4000;

impl Plan {
    /// The cases of sequences whose ways are recorded.
    pub fn new(sequences: Vec<Sequence>, options: &Options) -> Self {
        let mut plan = Plan { sequences, jobs: Vec::new() };
        for (number, sequence) in plan.sequences.iter().enumerate() {
            for mode in sequence.unit.modes() {
                if options.mode.is_some_and(|m| m != *mode) {
                    continue;
                }
                for at in plan.places(sequence, *mode, options) {
                    plan.jobs.push(Job { sequence: number, mode: *mode, at });
                }
            }
        }
        if plan.jobs.len() > SMALL {
            let mut rounds: Vec<Vec<Job>> = vec![Vec::new(); ROUNDS];
            for (n, job) in plan.jobs.iter().enumerate() {
                rounds[n % ROUNDS].push(*job);
            }
            plan.jobs = rounds.concat();
        }
        plan
    }

    fn places(&self, sequence: &Sequence, mode: Mode, options: &Options) -> Vec<usize> {
        if let Some(at) = &options.at {
            return vec![at[0]];
        }
        let salt = format!("{} {} {}", sequence.name, sequence.start, mode.name());
        let Sequence { unit, trace, .. } = sequence;
        if let Unit::Bus(bus::Op::Master) = unit {
            return options.thin((0..MASTER_MOMENTS).collect(), options.cases, &salt);
        }
        let mut places = trace.points(unit.grain(options), mode.matters());
        let limit = if mode == Mode::Pair { options.side() } else { options.cases };
        if let Some(end) = places.pop() {
            places = options.thin(places, limit, &salt);
            places.push(end);
        }
        if mode == Mode::Kill && !trace.sleeps {
            // It has returned.
            places.push(trace.len() + 1);
        }
        places
    }

    /// The places on the second's way that stand against one of the first's.
    pub fn columns(options: &Options, sequence: &Sequence, second: &Trace, row: usize) -> Vec<usize> {
        if let Some(at) = &options.at {
            return vec![at.get(1).copied().unwrap_or(0)];
        }
        let mut places = second.points(sequence.unit.grain(options), Matters::Loads);
        let end = places.pop();
        let salt = format!("{} {} {row}", sequence.name, sequence.start);
        let mut places = options.thin(places, options.side(), &salt);
        places.extend(end);
        places
    }

    /// Cases of a job, as far as is known before it is done.
    pub fn cases(&self, job: &Job, options: &Options) -> usize {
        let sequence = &self.sequences[job.sequence];
        match (job.mode, &options.at) {
            (Mode::Pair, None) => options.side().map_or(sequence.columns, |side| side.min(sequence.columns)),
            _ => 1,
        }
    }

    /// About how long a job takes, in milliseconds, where `workers` share `processors`.
    pub fn cost(&self, job: &Job, options: &Options) -> f64 {
        let (busy, whole) = self.sequences[job.sequence].unit.cost();
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get()) as f64;
        self.cases(job, options) as f64 * (busy / processors).max(whole / options.workers as f64)
    }
}
