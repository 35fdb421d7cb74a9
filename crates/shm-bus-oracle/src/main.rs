//! Many processes do random things over one bus, and a judge says whether what all of them saw can be.
//!
//! Each run has a seed, which decides what every process does; when each of them runs is the machine's choice. A process
//! writes down every publish before and after, every delivery, every change of the membership that it saw, and every
//! token it got through a pipe beside the bus. The [`judge`] merges these logs.
#![forbid(unsafe_code)]

mod crew;
mod diary;
mod dice;
mod event;
mod judge;
mod observer;
mod options;
mod participant;
mod plan;
mod report;
mod run;

use options::{Task, USAGE};

const WRONG_ARGUMENTS: i32 = 2;

fn main() {
    let code = match Task::parse() {
        Ok(Task::Seeds(seeds)) => report::main(&seeds),
        Ok(Task::Judge(file)) => report::judge(&file),
        Ok(Task::Participant(role)) => participant::run(role),
        Ok(Task::Observer(place, relays)) => observer::run(place, relays),
        Ok(Task::Help) => {
            println!("{USAGE}");
            0
        }
        Err(error) => {
            eprintln!("shm-bus-oracle: {error}\n\n{USAGE}");
            WRONG_ARGUMENTS
        }
    };
    std::process::exit(code);
}
