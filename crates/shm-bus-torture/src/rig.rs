//! Starts the workers, hears them, and prints what came of it.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Outcome;
use crate::bus;
use crate::mini::Mutation;
use crate::options::{Options, USAGE};
use crate::table::{self, Row};
use crate::tracee;
use crate::work::{Unit, Worker, units};

const FAILED: i32 = 1;
const WRONG_ARGUMENTS: i32 = 2;
const NOT_HERE: i32 = 77;
/// Failures that are printed of each operation.
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
    let chosen = match choose(&options) {
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
    let rows = match run(&options, &chosen) {
        Ok(rows) => rows,
        Err(why) => {
            eprintln!("shm-bus-torture: {why}");
            return FAILED;
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    if options.json {
        println!("{}", table::json(&rows, seconds));
    } else {
        let cases: usize = rows.iter().map(|r| r.kills + r.stops + r.departs + r.failures.len()).sum();
        println!("{}\n{cases} cases in {seconds:.1} s", table::text(&rows));
    }
    for row in &rows {
        for failure in row.failures.iter().take(PRINTED) {
            eprintln!("{failure}");
        }
        if row.failures.len() > PRINTED {
            eprintln!("... and {} more of {}", row.failures.len() - PRINTED, row.name);
        }
    }
    if rows.iter().any(|row| !row.failures.is_empty()) { FAILED } else { 0 }
}

type Chosen = Vec<(usize, &'static str, Unit)>;

fn choose(options: &Options) -> Outcome<Chosen> {
    let all = units();
    if let Some(name) = options.only.iter().find(|o| all.iter().all(|(n, _)| n != o)) {
        return Err(format!("no operation {name}; --list prints them"));
    }
    let wanted =
        all.into_iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|o| o == name));
    Ok(wanted.enumerate().map(|(i, (name, unit))| (i, name, unit)).collect())
}

fn run(options: &Options, chosen: &Chosen) -> Outcome<Vec<Row>> {
    let mut workers: Vec<(Pid, PipeReader)> = Vec::new();
    // All of them before the first thread of this process.
    for index in 0..options.workers {
        let (input, output) = pipe().map_err(|e| e.to_string())?;
        let mut worker = Some(Worker { options, index, output, next: 0 });
        let pid = tracee::spawn_worker(|| {
            if let Some(mut worker) = worker.take() {
                worker.run(chosen);
            }
        })
        .map_err(|e| e.to_string())?;
        drop(worker);
        workers.push((pid, input));
    }
    let mut rows: Vec<Row> = chosen.iter().map(|(_, name, _)| Row { name, ..Row::default() }).collect();
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}");
    let bar = ProgressBar::new(0).with_style(style.map_err(|e| e.to_string())?);
    let (sender, lines) = channel();
    let pids: Vec<Pid> = workers.iter().map(|w| w.0).collect();
    for (index, (_, input)) in workers.into_iter().enumerate() {
        let sender = sender.clone();
        std::thread::spawn(move || forward(index, input, &sender));
    }
    drop(sender);
    for (worker, line) in lines {
        hear(&mut rows, &bar, worker, &line);
    }
    bar.finish_and_clear();
    for pid in pids {
        if let Err(why) = tracee::reap(pid, "a worker") {
            let _ = kill(pid, Signal::SIGKILL);
            return Err(why);
        }
    }
    Ok(rows)
}

fn forward(worker: usize, input: PipeReader, lines: &Sender<(usize, String)>) {
    for line in BufReader::new(input).lines().map_while(Result::ok) {
        if lines.send((worker, line)).is_err() {
            return;
        }
    }
}

fn hear(rows: &mut [Row], bar: &ProgressBar, worker: usize, line: &str) {
    let mut parts = line.splitn(3, '\t');
    let (Some(kind), Some(unit), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let Some(row) = unit.parse::<usize>().ok().and_then(|unit| rows.get_mut(unit)) else {
        return;
    };
    let number = rest.parse::<usize>().unwrap_or(0);
    match kind {
        // All workers plan the same.
        "plan" if worker == 0 => bar.inc_length(number as u64),
        "more" => bar.inc_length(number as u64),
        "size" => row.instructions = row.instructions.max(number),
        "note" => row.other_ways += 1,
        "kill" => row.kills += 1,
        "stop" => row.stops += 1,
        "depart" => row.departs += 1,
        "fail" => {
            let text = rest.to_owned();
            bar.suspend(|| eprintln!("{text}"));
            row.failures.push(text);
        }
        _ => {}
    }
    if matches!(kind, "kill" | "stop" | "depart" | "fail") {
        bar.set_message(row.name);
        bar.inc(1);
    }
}
