//! Real processes of the real build, killed and stopped at every instruction of what they do.
//!
//! A child runs one operation and is taken to its *k*th instruction by its tracer. There it is killed; or it stands still
//! while others run three laps, and then goes on; or another process is taken to each of its own instructions meanwhile.
//! What the others see must be what the protocol promises: no hole, nothing torn, each message at most once and exactly
//! once if its publish returned, one order for everyone, nobody waits for the dead, and nobody holds what they left.
//!
//! Three kinds of operations:
//!
//! * `ring`: publish, read, sleep, make room, evict, join, leave, in a world of six attachments without a master;
//! * pairs of these, against each other;
//! * `bus`: whole attachments with control threads. Either their main thread is stepped (publish, subscribe, attach,
//!   close, ...), or the control thread of the master or of its successor.
//!
//! First each operation's way is recorded, then its places are visited: every instruction of the ring's operations; of
//! the others those in front of an access to shared memory or a system call, which is all that anybody else can tell
//! apart ([`trace::access`] says why), and every so manieth besides. `--only OP --start S --mode M --at K` of a printed
//! failure repeats it.

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
