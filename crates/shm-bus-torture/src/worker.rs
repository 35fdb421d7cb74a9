//! A worker: a process that records ways, or takes one case after the other and runs it in a child of its own.

use std::io::{PipeWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::Mapping;
use shm_bus_ring::{Ordering, Region};

use crate::Outcome;
use crate::bus;
use crate::memory;
use crate::mode::Mode;
use crate::options::Options;
use crate::plan::{Job, Plan, Sequence, Unit};
use crate::report::{Note, Report};
use crate::ring::world::World;
use crate::ring::{case, pair};
use crate::trace::process;
use crate::trace::steps::{Grain, Matters, Trace};

/// Hands out the numbers of a range, each to one process.
pub struct Counter {
    region: Region,
    _mapping: Arc<Mapping>,
}

impl Counter {
    pub fn new() -> Outcome<Self> {
        let mapping = memory::shared(4096)?;
        Ok(Counter { region: mapping.region().map_err(|e| e.to_string())?, _mapping: mapping })
    }

    /// The next number, if there is one.
    fn next(&self, end: usize) -> Option<usize> {
        let number = self.region.fetch_add(0, 1, Ordering::SeqCst) as usize;
        (number < end).then_some(number)
    }

    pub fn restart(&self) {
        self.region.store(0, 0, Ordering::SeqCst);
    }
}

/// The most that a worker says in one line.
const LINE: usize = 3500;

/// What a worker says, a line each: a word, the number of the sequence, a mode, the rest; tabs between.
pub struct Worker<'a> {
    pub options: &'a Options,
    pub counter: &'a Counter,
    pub output: PipeWriter,
}

impl Worker<'_> {
    fn say(&mut self, word: &str, sequence: usize, mode: Mode, rest: &str) {
        // One write, shorter than what a pipe takes whole: the workers share it.
        let rest: String = rest.chars().filter(|c| c.is_ascii()).take(LINE).collect();
        let line = format!("{word}\t{sequence}\t{}\t{}\n", mode.name(), rest.replace(['\n', '\t'], " "));
        let _ = self.output.write_all(line.as_bytes());
    }

    /// Records ways until there are no more.
    pub fn record(&mut self, sequences: &[Sequence]) {
        while let Some(number) = self.counter.next(sequences.len()) {
            match record(&sequences[number], self.options) {
                Ok(columns) => self.say("columns", number, Mode::Kill, &columns.to_string()),
                Err(why) => {
                    let name = sequences[number].name;
                    self.say("fail", number, Mode::Kill, &format!("--only {name}: the first run: {why}"));
                }
            }
        }
    }

    /// Runs cases until there are no more, or the time is up.
    pub fn run(&mut self, plan: &Plan, start: Instant) {
        let report = match Report::new() {
            Ok(report) => report,
            Err(why) => return self.say("fail", 0, Mode::Kill, &format!("the rig: {why}")),
        };
        let limit = self.options.minutes.map(|minutes| Duration::from_secs_f64(60.0 * minutes));
        let mut world: Option<(usize, World)> = None;
        while limit.is_none_or(|limit| start.elapsed() < limit) {
            let Some(number) = self.counter.next(plan.jobs.len()) else { return };
            let job = plan.jobs[number];
            if world.as_ref().is_some_and(|(of, _)| *of != job.sequence) {
                world = None;
            }
            if let Err(why) = self.job(plan, job, &mut world, &report) {
                let name = plan.sequences[job.sequence].name;
                self.say("fail", job.sequence, job.mode, &format!("--only {name}: the rig: {why}"));
            }
            self.say("done", job.sequence, job.mode, &number.to_string());
        }
    }

    fn job(
        &mut self,
        plan: &Plan,
        job: Job,
        kept: &mut Option<(usize, World)>,
        report: &Report,
    ) -> Outcome<()> {
        let sequence = &plan.sequences[job.sequence];
        let Sequence { name, unit, start, stamp, trace, .. } = sequence;
        let (mode, at) = (job.mode, job.at);
        if let Unit::Bus(op) = unit {
            let replay = format!("--only {name} --mode {} --at {at}", mode.name());
            report.clear();
            self.case(job, &replay, report, || bus::case(*op, mode, trace, at, report));
            return Ok(());
        }
        if kept.is_none() {
            *kept = Some((job.sequence, world_of(*unit, *stamp, self.options)?));
        }
        let Some((_, world)) = kept else { return Ok(()) };
        let report = world.report.clone();
        match unit {
            Unit::Ring(op) => {
                let replay = format!("--only {name} --start {start} --mode {} --at {at}", mode.name());
                world.restore();
                self.case(job, &replay, &report, || case::case(world, *op, mode, trace, at));
            }
            Unit::Pair(pair) => {
                let second = pair::trace_second(world, *pair, trace, at)?;
                for column in Plan::columns(self.options, sequence, &second, at) {
                    let replay = format!("--only {name} --start {start} --at {at},{column}");
                    world.restore();
                    self.case(job, &replay, &report, || {
                        pair::pair_case(world, *pair, [trace, &second], [at, column])
                    });
                }
            }
            Unit::Bus(_) => {}
        }
        Ok(())
    }

    /// Runs one case in a child, and says how it went.
    fn case(&mut self, job: Job, replay: &str, report: &Report, work: impl FnOnce() -> Outcome<Note>) {
        let ended = process::spawn(|| match work() {
            Ok(note) => report.write(true, &note.to_string()),
            Err(why) => report.write(false, &why),
        })
        .map_err(|e| format!("fork: {e}"))
        .and_then(|pid| {
            let ended = process::reap(pid, "the case");
            bus::clear_away(pid);
            ended
        });
        let outcome = match (report.read(), ended) {
            (Some(outcome), Ok(())) => outcome,
            (Some(Err(why)), Err(_)) | (_, Err(why)) => Err(why),
            (None, Ok(())) => Err("the case said nothing".to_owned()),
        };
        match outcome {
            Ok(note) => self.say("case", job.sequence, job.mode, &note),
            Err(why) => self.say("fail", job.sequence, job.mode, &format!("{replay}: {why}")),
        }
    }
}

fn world_of(unit: Unit, start: u64, options: &Options) -> Outcome<World> {
    match unit {
        Unit::Ring(op) => op.scene().set(start, options.mutation),
        Unit::Pair(pair) => pair.scene().set(start, options.mutation),
        Unit::Bus(_) => Err("a whole attachment has no world".to_owned()),
    }
}

/// Records one way. For a pair, gives the places on the second's way alone.
fn record(sequence: &Sequence, options: &Options) -> Outcome<usize> {
    let mut columns = 0;
    let trace = match sequence.unit {
        Unit::Ring(op) => {
            let mut world = world_of(sequence.unit, sequence.stamp, options)?;
            case::trace_of(&mut world, op)?
        }
        Unit::Pair(pair) => {
            let mut world = world_of(sequence.unit, sequence.stamp, options)?;
            let first = pair::trace_first(&mut world, pair)?;
            let second = pair::trace_second(&mut world, pair, &first, 0)?;
            columns = second.points(Grain::Accesses { stride: 0 }, Matters::Loads).len();
            first
        }
        Unit::Bus(bus::Op::Master) => Trace::default(),
        Unit::Bus(op) => return record_apart(sequence, op).map(|()| 0),
    };
    trace.write(&sequence.file).map_err(|e| e.to_string())?;
    Ok(columns)
}

/// In a child: whoever attaches has threads, and a worker has to fork.
fn record_apart(sequence: &Sequence, op: bus::Op) -> Outcome<()> {
    let report = Report::new()?;
    let child = process::spawn_patient(|| {
        let written = bus::trace_of(op, &report)
            .and_then(|trace| trace.write(&sequence.file).map_err(|error| error.to_string()));
        match written {
            Ok(()) => report.write(true, ""),
            Err(why) => report.write(false, &why),
        }
    });
    let ended = child.map_err(|e| e.to_string()).and_then(|pid| {
        let ended = process::reap(pid, "the first run");
        bus::clear_away(pid);
        ended
    });
    match report.read() {
        Some(Err(why)) => Err(why),
        _ => ended,
    }
}
