//! The founder is killed at some moment of its service, while others attach, join and leave.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use shm_bus::Bus;

use super::leftovers::{Held, NAME, Scratch, said};
use super::member::{LAPS, Member, agree, go_on};
use super::operation::{FIRST, READY, SECOND};
use super::verdict;
use crate::Outcome;
use crate::report::{Note, Report};
use crate::trace::process::{HANG, reap, spawn, until};

/// `at` is the moment, in steps of 20 microseconds: all of them together are as long as an attach may take.
pub fn case(at: usize, report: &Report) -> Outcome<Note> {
    let scratch = Scratch::new()?;
    let before = Held::now()?;
    let options = scratch.options();
    report.clear();
    let pid = said(
        "fork",
        spawn(|| {
            let bus = Bus::attach(NAME, &options).expect("attach");
            bus.create_group("g", HANG).expect("g");
            report.say(READY, &[], &[]);
            std::thread::sleep(2 * HANG);
        }),
    )?;
    until("the master is there", || report.heard(READY).is_some())?;
    let start = Instant::now();
    let moment = Duration::from_micros(20 * at as u64);
    let mut members = std::thread::scope(|scope| {
        let comers: Vec<_> = [FIRST, SECOND]
            .into_iter()
            .map(|who| {
                let scratch = &scratch;
                scope.spawn(move || {
                    let gone = scratch.attach()?;
                    let member = Member::new(scratch, who)?;
                    gone.close();
                    Ok(member)
                })
            })
            .collect();
        while start.elapsed() < moment {
            std::hint::spin_loop();
        }
        let killed = kill(pid, Signal::SIGKILL);
        let members: Outcome<Vec<Member>> = comers
            .into_iter()
            .map(|comer| comer.join().unwrap_or_else(|_| Err("a comer panicked".to_owned())))
            .collect();
        said("SIGKILL", killed)?;
        members
    })?;
    let _ = reap(pid, "the master");
    agree(&members, 0)?;
    let wait = go_on(&mut members, LAPS)?;
    verdict::same_order(&members)?;
    agree(&members, 0)?;
    verdict::end_well(&scratch, &before, members)?;
    Ok(Note { longest_wait: wait.as_millis() as u64, ..Note::default() })
}
