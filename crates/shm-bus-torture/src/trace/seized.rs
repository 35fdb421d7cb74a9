//! A thread that is seized where it waits in epoll, and stepped through what it does about what comes.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::access::Watch;
use super::process::state;
use super::steps::Trace;
use super::tracee::{Reached, Tracee, said};
use crate::Outcome;

/// Looks at a thread that is asleep, in a row, before it is taken to have nothing to do any more.
const IDLE: u32 = 20;
const LOOK: Duration = Duration::from_micros(50);

/// What came of letting a thread run.
enum Stopped {
    /// It stands at a breakpoint, or behind a step.
    Here,
    /// Its work was over: it waits, and was interrupted there.
    Over,
}

impl Tracee {
    /// Takes hold of a thread of a child of this process, wherever it is.
    pub fn seize(process: Pid, thread: Pid) -> Outcome<Self> {
        said("PTRACE_SEIZE", ptrace::seize(thread, Options::PTRACE_O_EXITKILL))?;
        let mut tracee = Tracee::of(process, thread);
        said("PTRACE_INTERRUPT", ptrace::interrupt(thread))?;
        match tracee.wait()? {
            Some(_) => Ok(tracee),
            None => Err("the thread ended".to_owned()),
        }
    }

    /// Lets go of it: it runs on, untraced.
    pub fn detach(&self) -> Outcome<()> {
        said("PTRACE_DETACH", ptrace::detach(self.thread, None))
    }

    /// Runs it, instruction by instruction, until its work is `over` and it waits in epoll for more. Before and after each
    /// such wait, something else may be done.
    pub fn trace_until(
        &mut self,
        mut over: impl FnMut() -> bool,
        mut before: impl FnMut() -> Outcome<()>,
        mut after: impl FnMut() -> Outcome<()>,
    ) -> Outcome<Trace> {
        const WAITS: [i64; 3] = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
        let mut trace = Trace::default();
        let mut watch = Watch::new(self.process)?;
        loop {
            let regs = self.registers()?;
            let waits = WAITS.contains(&(regs.rax as i64)) && self.is_at_call(&regs)?;
            if waits {
                if over() {
                    return Ok(trace);
                }
                before()?;
            }
            trace.push(regs.rip, watch.effect(&regs)?);
            said("PTRACE_SINGLESTEP", ptrace::step(self.thread, None))?;
            if self.wait()?.is_none() {
                return Err("the thread ended inside its operation".to_owned());
            }
            if waits {
                after()?;
            }
        }
    }

    /// Takes it `steps` single steps on, as `trace` had it, unless its work is `over` before.
    pub fn go_to_unless(
        &mut self,
        trace: &Trace,
        steps: usize,
        mut over: impl FnMut() -> bool,
    ) -> Outcome<Reached> {
        let route = trace.route(steps);
        for (address, times) in route.arrivals {
            said("PTRACE_POKEUSER", self.set_breakpoint(Some(address)))?;
            for _ in 0..times {
                said("PTRACE_CONT", ptrace::cont(self.thread, None))?;
                if let Stopped::Over = self.wait_or(&mut over)? {
                    said("PTRACE_POKEUSER", self.set_breakpoint(None))?;
                    return Ok(Reached::Over);
                }
            }
        }
        said("PTRACE_POKEUSER", self.set_breakpoint(None))?;
        for _ in 0..route.steps {
            said("PTRACE_SINGLESTEP", ptrace::step(self.thread, None))?;
            if let Stopped::Over = self.wait_or(&mut over)? {
                return Ok(Reached::Over);
            }
        }
        Ok(Reached::There)
    }

    /// Waits until it stops, or until its work is over and it sleeps.
    fn wait_or(&mut self, over: &mut dyn FnMut() -> bool) -> Outcome<Stopped> {
        let mut idle = 0;
        loop {
            match waitpid(self.thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    idle = if over() && state(self.thread) == Some('S') { idle + 1 } else { 0 };
                    if idle > IDLE {
                        said("PTRACE_INTERRUPT", ptrace::interrupt(self.thread))?;
                        self.wait()?;
                        return Ok(Stopped::Over);
                    }
                    std::thread::sleep(LOOK);
                }
                Ok(status) => match self.understand(status)? {
                    Some(Some(Signal::SIGTRAP)) => return Ok(Stopped::Here),
                    Some(other) => return Err(format!("the thread stopped: {other:?}")),
                    None => {}
                },
                Err(Errno::EINTR) => {}
                Err(error) => return Err(format!("waitpid: {error}")),
            }
        }
    }
}
