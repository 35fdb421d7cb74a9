//! Child processes: started by a fork, watched through `/proc`, reaped with a sentence.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};

use crate::Outcome;

/// Nobody in a case waits longer than this, on whatever machine: who does, hangs.
pub const HANG: Duration = Duration::from_secs(30);
/// A child that unwound ends with this.
const PANICKED: i32 = 101;

/// Runs `work` in a forked child that ends with it, and whose end ends nobody else. The child dies with this thread,
/// and after [`HANG`].
pub fn spawn(work: impl FnOnce()) -> nix::Result<Pid> {
    // SAFETY: this process has one thread whenever it forks, so the child may do whatever it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = set_pdeathsig(Signal::SIGKILL);
            alarm::set(2 * HANG.as_secs() as u32);
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process without running what its parent registered.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { PANICKED }) }
        }
    }
}

/// As [`spawn`], for a child that may run for long.
pub fn spawn_patient(work: impl FnOnce()) -> nix::Result<Pid> {
    spawn(|| {
        alarm::cancel();
        work();
    })
}

/// Waits for a child's end; says what went wrong if it did not end well.
pub fn reap(pid: Pid, who: &str) -> Outcome<()> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(WaitStatus::Exited(_, PANICKED)) => return Err(format!("{who} panicked")),
            Ok(WaitStatus::Exited(_, code)) => return Err(format!("{who} ended with {code}")),
            Ok(WaitStatus::Signaled(_, Signal::SIGALRM, _)) => {
                return Err(format!("{who} waited for longer than {} s", HANG.as_secs()));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => return Err(format!("{who} was ended by {signal}")),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("waiting for {who}: {error}")),
        }
    }
}

/// Polls for something that another process is about to reach. It has to, within [`HANG`].
pub fn until(what: &str, mut reached: impl FnMut() -> bool) -> Outcome<()> {
    let start = Instant::now();
    while !reached() {
        if start.elapsed() > HANG {
            return Err(format!("waited for longer than {} s: {what}", HANG.as_secs()));
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// The state letter of a thread, or of a process's main thread.
pub fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
/// The thread of a process that bears this name.
pub fn thread_named(pid: Pid, name: &str) -> Option<Pid> {
    std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().find_map(|entry| {
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let thread = entry.file_name().to_str()?.parse().ok()?;
        (comm.trim_end() == name).then(|| Pid::from_raw(thread))
    })
}
