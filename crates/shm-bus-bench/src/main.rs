//! The native half of the benchmark: the floors of this machine and the figures of the Rust core.
//!
//! Each measurement starts the processes it needs from this same program (never threads), lets them meet at a barrier
//! in shared memory, and prints one JSON object in one line. The driver that repeats, interleaves and compares them is
//! written in TypeScript (`packages/examples/src/bench`).
#![forbid(unsafe_code)]

mod arena;
mod core_paths;
mod cpu;
mod crew;
mod floors;
mod options;
mod overload;
mod round_trip;
mod single;
mod throughput;

use std::error::Error;
use std::process::ExitCode;

use options::{Command, Options};

/// Whatever went wrong: it is printed and the program ends.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match options::parse().and_then(|(command, options)| run(&command, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm-bus-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command, options: &Options) -> Outcome<()> {
    let line = match command {
        Command::Help => {
            print!("{}", options::HELP);
            return Ok(());
        }
        Command::Pinned { place, of, program } => return Err(cpu::run_pinned(*place, *of, program)),
        Command::Cpus => serde_json::json!({ "cpus": cpu::chosen()? }),
        Command::CacheLine => floors::cache_line(options)?,
        Command::FetchAdd => floors::fetch_add(options)?,
        Command::FutexWake => floors::futex_wake(options)?,
        Command::RoundTrip => round_trip::run(options)?,
        Command::Throughput => throughput::run(options)?,
        Command::Overload => overload::run(options)?,
        Command::Core => {
            core_paths::run(options.messages);
            serde_json::json!({ "figure": "core", "messages": options.messages })
        }
        Command::Single => single::run(options)?,
    };
    println!("{line}");
    Ok(())
}
