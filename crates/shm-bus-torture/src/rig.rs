//! Starts the workers, hears them, and prints what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{Signal, kill};

use crate::Outcome;
use crate::bus;
use crate::mode::Mode;
use crate::options::{Options, USAGE};
use crate::plan::{Plan, Sequence, sequences, units};
use crate::report::Note;
use crate::ring::mutant::Mutation;
use crate::table::{self, Row};
use crate::trace::{process, tracee};
use crate::worker::{Counter, Worker};

const FAILED: i32 = 1;
const WRONG_ARGUMENTS: i32 = 2;
const NOT_HERE: i32 = 77;
/// Failures that are printed of each row.
const PRINTED: usize = 5;

pub fn main() -> i32 {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("shm-bus-torture: {error}\n\n{USAGE}");
            return WRONG_ARGUMENTS;
        }
    };
    if options.help {
        println!("{USAGE}");
        return 0;
    }
    if options.list {
        units().iter().for_each(|(name, _)| println!("{name}"));
        Mutation::ALL.iter().for_each(|(name, _)| println!("mutant {name}"));
        return 0;
    }
    let chosen = match sequences(&options) {
        Ok(chosen) => chosen,
        Err(why) => {
            eprintln!("shm-bus-torture: {why}");
            return WRONG_ARGUMENTS;
        }
    };
    if let Err(why) = tracee::permitted() {
        eprintln!("shm-bus-torture: a process may not trace its child here: {why}");
        return NOT_HERE;
    }
    bus::clear_after_the_dead();
    let start = Instant::now();
    match run(&options, chosen, start) {
        Ok(rows) => print(&options, &rows, start.elapsed().as_secs_f64()),
        Err(why) => {
            eprintln!("shm-bus-torture: {why}");
            FAILED
        }
    }
}

fn print(options: &Options, rows: &[Row], seconds: f64) -> i32 {
    if options.json {
        println!("{}", table::json(rows, options.seed, seconds));
    } else {
        let all = table::total(rows);
        let (planned, tried, failures) = (all.planned, all.tried, all.failures.len());
        println!("{}\n{tried} of {planned} cases in {seconds:.1} s, {failures} failures", table::text(rows));
    }
    for row in rows {
        for failure in row.failures.iter().take(PRINTED) {
            eprintln!("{failure}");
        }
        if row.failures.len() > PRINTED {
            eprintln!("... and {} more of {}", row.failures.len() - PRINTED, row.name);
        }
    }
    if rows.iter().any(|row| !row.failures.is_empty()) { FAILED } else { 0 }
}

/// This process stays one of a single thread: it forks twice as many workers as there are, one crew after the other.
fn run(options: &Options, mut chosen: Vec<Sequence>, start: Instant) -> Outcome<Vec<Row>> {
    let counter = Counter::new()?;
    let mut lost = Vec::new();
    let mut columns = vec![0; chosen.len()];
    crew(
        options,
        &counter,
        chosen.len(),
        |worker| worker.record(&chosen),
        |line| match line.word {
            "columns" => columns[line.sequence] = line.rest.parse().unwrap_or(0),
            _ => lost.push((line.sequence, line.rest.to_owned())),
        },
    )?;
    for (number, sequence) in chosen.iter_mut().enumerate() {
        sequence.columns = columns[number];
        if let Some(trace) = crate::trace::steps::Trace::read(&sequence.file).map_err(|e| e.to_string())? {
            sequence.trace = trace;
        }
    }
    let plan = Plan::new(chosen, options);
    let mut rows = Rows::of(&plan, options);
    for (sequence, failure) in lost {
        rows.row(sequence, Mode::Kill).failures.push(failure);
    }
    let estimate: f64 = plan.jobs.iter().map(|job| plan.cost(job, options)).sum();
    let planned = rows.planned();
    eprintln!(
        "{planned} cases, about {:.1} minutes on an idle machine, seed {}",
        estimate / 60e3,
        options.seed
    );
    if options.plan {
        return Ok(rows.into_vec());
    }
    counter.restart();
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {percent} %, {eta} to go, {msg}");
    let bar = ProgressBar::new(estimate as u64).with_style(style.map_err(|e| e.to_string())?);
    let (mut spent, mut tried, mut failed) = (0.0, 0usize, 0usize);
    crew(
        options,
        &counter,
        plan.jobs.len(),
        |worker| worker.run(&plan, start),
        |line| {
            let row = rows.row(line.sequence, line.mode);
            match line.word {
                "case" => {
                    tried += 1;
                    row.note(&Note::parse(line.rest));
                }
                "fail" => {
                    tried += 1;
                    failed += 1;
                    bar.suspend(|| eprintln!("{}", line.rest));
                    row.tried += 1;
                    row.failures.push(line.rest.to_owned());
                }
                _ => {
                    let job = line.rest.parse().ok().and_then(|n: usize| plan.jobs.get(n));
                    spent += job.map_or(0.0, |job| plan.cost(job, options));
                    bar.set_position(spent as u64);
                }
            }
            bar.set_message(format!("{tried} cases, {failed} failures, {}", row.name));
        },
    )?;
    bar.finish_and_clear();
    Ok(rows.into_vec())
}

/// A line of a worker's.
struct Line<'a> {
    word: &'a str,
    sequence: usize,
    mode: Mode,
    rest: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(4, '\t');
        let word = parts.next()?;
        let sequence = parts.next()?.parse().ok()?;
        let mode = parts.next()?;
        let mode = Mode::ALL.iter().find(|(name, _)| *name == mode)?.1;
        Some(Line { word, sequence, mode, rest: parts.next()? })
    }
}

/// Workers that share `count` pieces of work, and what they say.
fn crew(
    options: &Options,
    counter: &Counter,
    count: usize,
    work: impl Fn(&mut Worker<'_>),
    mut hear: impl FnMut(Line<'_>),
) -> Outcome<()> {
    let (input, output) = pipe().map_err(|e| e.to_string())?;
    let mut pids = Vec::new();
    for _ in 0..options.workers.min(count) {
        let output = output.try_clone().map_err(|e| e.to_string())?;
        let mut worker = Worker { options, counter, output };
        pids.push(process::spawn_patient(|| work(&mut worker)).map_err(|e| e.to_string())?);
    }
    drop(output);
    for line in lines(input) {
        if let Some(line) = Line::parse(&line) {
            hear(line);
        }
    }
    for pid in pids {
        if let Err(why) = process::reap(pid, "a worker") {
            let _ = kill(pid, Signal::SIGKILL);
            return Err(why);
        }
    }
    Ok(())
}

fn lines(input: PipeReader) -> impl Iterator<Item = String> {
    BufReader::new(input).lines().map_while(Result::ok)
}

/// The rows of the table, by sequence and mode.
struct Rows {
    rows: Vec<Row>,
    index: BTreeMap<(usize, Mode), usize>,
}

impl Rows {
    fn of(plan: &Plan, options: &Options) -> Self {
        let mut rows = Rows { rows: Vec::new(), index: BTreeMap::new() };
        for (number, sequence) in plan.sequences.iter().enumerate() {
            for mode in sequence.unit.modes().iter().filter(|m| options.mode.is_none_or(|o| o == **m)) {
                rows.index.insert((number, *mode), rows.rows.len());
                rows.rows.push(Row {
                    name: sequence.name,
                    start: sequence.start,
                    mode: Some(*mode),
                    instructions: sequence.trace.instructions(),
                    places: sequence.trace.accesses(),
                    ..Row::default()
                });
            }
        }
        for job in &plan.jobs {
            let cases = plan.cases(job, options);
            rows.row(job.sequence, job.mode).planned += cases;
        }
        rows
    }

    fn row(&mut self, sequence: usize, mode: Mode) -> &mut Row {
        let exact = self.index.get(&(sequence, mode)).copied();
        let any = || self.index.range((sequence, Mode::Kill)..).next().map_or(0, |(_, i)| *i);
        let index = exact.unwrap_or_else(any);
        &mut self.rows[index]
    }

    fn planned(&self) -> usize {
        self.rows.iter().map(|row| row.planned).sum()
    }

    fn into_vec(self) -> Vec<Row> {
        self.rows
    }
}
