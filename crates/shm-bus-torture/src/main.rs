//! Real processes of the real build, killed and stopped at every instruction of what they do.
//!
//! A child runs one operation between two markers and is taken to its *k*th instruction by its tracer. There it is
//! killed; or it stands still while others run three laps, and then goes on. What the others see must be what the
//! protocol promises. `--only OP --start S --mode M --at K` of a printed failure repeats it.

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("the markers and breakpoints are those of x86-64: nothing is run here");
    std::process::exit(77);
}

#[cfg(target_arch = "x86_64")]
mod bus;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod mode;
#[cfg(target_arch = "x86_64")]
mod options;
#[cfg(target_arch = "x86_64")]
mod plan;
#[cfg(target_arch = "x86_64")]
mod report;
#[cfg(target_arch = "x86_64")]
mod rig;
#[cfg(target_arch = "x86_64")]
mod ring;
#[cfg(target_arch = "x86_64")]
mod table;
#[cfg(target_arch = "x86_64")]
mod trace;
#[cfg(target_arch = "x86_64")]
mod worker;

/// A sentence says what went wrong.
type Outcome<T> = Result<T, String>;

#[cfg(target_arch = "x86_64")]
fn main() {
    std::process::exit(rig::main());
}
