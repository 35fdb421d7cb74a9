//! Processors: which ones to use, staying on one, and time spent on them.

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::Outcome;

/// The processors that this process may use, whole cores first: two processes on two threads of one core would share
/// its cache, and the floor would be another.
pub fn chosen() -> Outcome<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    let mut seen = BTreeSet::new();
    let (cores, threads): (Vec<_>, Vec<_>) =
        (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).partition(|cpu| seen.insert(core_of(*cpu)));
    Ok([cores, threads].concat())
}

/// Package and core of a processor; where that is not known each is its own core.
fn core_of(cpu: usize) -> (String, String) {
    let read = |file| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{file}")).unwrap_or_default()
    };
    let core = read("core_id");
    if core.is_empty() { (String::new(), cpu.to_string()) } else { (read("physical_package_id"), core) }
}

/// Whether `count` spinning processes have a processor each.
pub fn suffice(count: usize) -> Outcome<bool> {
    Ok(chosen()?.len() >= count)
}

/// Keeps this process on the `place`-th of its processors, if there is one for each of `of` processes. Otherwise the
/// scheduler shares them out.
pub fn pin(place: usize, of: usize) -> Outcome<()> {
    let cpus = chosen()?;
    if place < of && of <= cpus.len() {
        let mut set = CpuSet::new();
        set.set(cpus[place]);
        sched_setaffinity(None, &set)?;
    }
    Ok(())
}

/// Becomes `program`, pinned. Returns only if that fails.
pub fn run_pinned(place: usize, of: usize, program: &[OsString]) -> Box<dyn Error> {
    if let Err(error) = pin(place, of) {
        return error;
    }
    let error = Command::new(&program[0]).args(&program[1..]).exec();
    format!("{}: {error}", program[0].to_string_lossy()).into()
}

/// Processor time of this process so far, all threads, in seconds.
pub fn seconds_used() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
