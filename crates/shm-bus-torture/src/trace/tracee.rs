//! One thread of a child process, stepped: from a marker in its own code on, or from wherever it waits.

use std::arch::asm;
use std::ffi::c_void;
use std::mem::offset_of;

use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::access::Watch;
use super::process::{HANG, reap, spawn, state, until};
use super::steps::Trace;
use crate::Outcome;

/// Where an operation begins. Stops the traced process behind the marker.
#[inline(never)]
pub fn begin() {
    // SAFETY: a breakpoint instruction; the tracer takes the signal.
    unsafe { asm!("int3") }
}

/// Where it ends: a traced process that gets here has returned from its operation.
#[inline(never)]
pub fn end() {
    // SAFETY: as above; the `nop` keeps the linker from folding the two markers into one.
    unsafe { asm!("int3", "nop") }
}

fn end_address() -> u64 {
    end as fn() as usize as u64
}

/// How far a traced process got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It stands where it was wanted.
    There,
    /// It came to the end of its operation before.
    Over,
}

/// A traced thread of a child process. The process is killed if it is still there at the end.
pub struct Tracee {
    pub(super) process: Pid,
    pub(super) thread: Pid,
    /// How its end was taken notice of.
    reaped: bool,
}

pub(super) fn said<T>(what: &str, result: nix::Result<T>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl Tracee {
    /// Starts a child that runs `work`, up to its [`begin`].
    pub fn start(work: impl FnOnce()) -> Outcome<Self> {
        let mut tracee = Self::start_later(work)?;
        tracee.arrive()?;
        Ok(tracee)
    }

    /// Starts a child that runs `work`, and does not wait for it.
    pub fn start_later(work: impl FnOnce()) -> Outcome<Self> {
        let child = spawn(|| {
            if ptrace::traceme().is_ok() {
                work();
            }
        });
        let process = said("fork", child)?;
        Ok(Self::of(process, process))
    }

    pub(super) fn of(process: Pid, thread: Pid) -> Self {
        Tracee { process, thread, reaped: false }
    }

    /// Waits until it is at its [`begin`].
    pub fn arrive(&mut self) -> Outcome<()> {
        match self.wait()? {
            Some(Signal::SIGTRAP) => {}
            other => return Err(format!("the process did not come to its operation: {other:?}")),
        }
        said("PTRACE_SETOPTIONS", ptrace::setoptions(self.thread, Options::PTRACE_O_EXITKILL))
    }

    /// Whether the process has not ended.
    pub fn is_alive(&self) -> bool {
        !self.reaped && !matches!(state(self.process), Some('Z' | 'X') | None)
    }

    /// Waits until it stops; with which signal. None if it ended well.
    pub(super) fn wait(&mut self) -> Outcome<Option<Signal>> {
        loop {
            match waitpid(self.thread, Some(WaitPidFlag::__WALL)) {
                Ok(status) => {
                    if let Some(signal) = self.understand(status)? {
                        return Ok(signal);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(format!("waitpid: {error}")),
            }
        }
    }

    /// What a status means: nothing to be told of, a stop with a signal, or a good end.
    pub(super) fn understand(&mut self, status: WaitStatus) -> Outcome<Option<Option<Signal>>> {
        match status {
            // Stopped and continued as a whole meanwhile: no concern of this thread.
            WaitStatus::Stopped(_, Signal::SIGSTOP | Signal::SIGCONT) => {
                said("PTRACE_CONT", ptrace::cont(self.thread, None))?;
                Ok(None)
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceEvent(..) => {
                Ok(Some(Some(Signal::SIGTRAP)))
            }
            WaitStatus::Stopped(_, signal) => {
                let _ = self.kill();
                Err(match signal {
                    Signal::SIGALRM => format!("the process waited for longer than {} s", HANG.as_secs()),
                    other => format!("the process got {other}"),
                })
            }
            WaitStatus::Exited(_, 0) => {
                self.reaped = self.thread == self.process;
                Ok(Some(None))
            }
            ended @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                self.reaped = self.thread == self.process;
                Err(format!("the process ended: {ended:?}"))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn registers(&self) -> Outcome<user_regs_struct> {
        said("PTRACE_GETREGS", ptrace::getregs(self.thread))
    }

    /// The address of its next instruction.
    pub fn address(&self) -> Outcome<u64> {
        Ok(self.registers()?.rip)
    }

    /// Whether its next instruction is a system call.
    pub(super) fn is_at_call(&self, regs: &user_regs_struct) -> Outcome<bool> {
        const SYSCALL: i64 = 0x050F;
        let bytes = said("PTRACE_PEEK", ptrace::read(self.thread, regs.rip as *mut c_void))?;
        Ok(bytes & 0xFFFF == SYSCALL)
    }

    /// Whether its next instruction blocks it on a futex.
    fn about_to_sleep(&self, regs: &user_regs_struct) -> Outcome<bool> {
        let waits = regs.rax as i64 == libc::SYS_futex && matches!(regs.rsi & 0x7F, 0 | 9);
        Ok(waits && self.is_at_call(regs)?)
    }

    /// One instruction; `false` if the process ended.
    fn step(&mut self) -> Outcome<bool> {
        said("PTRACE_SINGLESTEP", ptrace::step(self.thread, None))?;
        Ok(self.wait()?.is_some())
    }

    /// Runs the whole operation, instruction by instruction, up to where it returns, or falls asleep for good (asked for
    /// with `sleeps`).
    pub fn trace(&mut self, sleeps: bool) -> Outcome<Trace> {
        let mut trace = Trace::default();
        let mut watch = Watch::new(self.process)?;
        loop {
            let regs = self.registers()?;
            if regs.rip == end_address() {
                return Ok(trace);
            }
            if sleeps && self.about_to_sleep(&regs)? {
                trace.sleeps = true;
                return Ok(trace);
            }
            trace.push(regs.rip, watch.effect(&regs)?);
            if !self.step()? {
                return Err("the process ended inside its operation".to_owned());
            }
        }
    }

    /// Takes it `steps` single steps into its operation, as `trace` had it.
    pub fn go_to(&mut self, trace: &Trace, steps: usize) -> Outcome<Reached> {
        let route = trace.route(steps);
        for (address, times) in route.arrivals {
            said("PTRACE_POKEUSER", self.set_breakpoint(Some(address)))?;
            for _ in 0..times {
                // A breakpoint that has just stopped it here does not do so again; any other would, without a step.
                said("PTRACE_CONT", ptrace::cont(self.thread, None))?;
                if self.wait()?.is_none() {
                    return Err("the process ended inside its operation".to_owned());
                }
                if self.address()? != address {
                    // Behind the end marker's instruction: it took another way than the trace.
                    said("PTRACE_POKEUSER", self.set_breakpoint(None))?;
                    return Ok(Reached::Over);
                }
            }
        }
        said("PTRACE_POKEUSER", self.set_breakpoint(None))?;
        for _ in 0..route.steps {
            if self.address()? == end_address() || !self.step()? {
                return Ok(Reached::Over);
            }
        }
        Ok(Reached::There)
    }

    /// Whether it stands where the trace stood after that many steps.
    pub fn is_at(&self, trace: &Trace, steps: usize) -> Outcome<bool> {
        let here = self.address()?;
        Ok(match trace.address(steps) {
            Some(address) => address == here,
            None => trace.sleeps || here == end_address(),
        })
    }

    /// A breakpoint in a debug register of this thread: what other threads execute is left alone.
    pub(super) fn set_breakpoint(&self, address: Option<u64>) -> nix::Result<()> {
        let register = |n: usize| (offset_of!(libc::user, u_debugreg) + 8 * n) as *mut c_void;
        match address {
            Some(address) => {
                // A register in use cannot be given another address.
                ptrace::write_user(self.thread, register(7), 0)?;
                ptrace::write_user(self.thread, register(0), address as i64)?;
                // Enabled for this thread, on execution, one byte.
                ptrace::write_user(self.thread, register(7), 1)
            }
            None => ptrace::write_user(self.thread, register(7), 0),
        }
    }

    /// Lets it run on from here, without waiting for it.
    pub fn run(&self) -> Outcome<()> {
        said("PTRACE_CONT", ptrace::cont(self.thread, None))
    }

    /// Waits until it is blocked in the kernel (or back from its operation).
    pub fn until_asleep(&self) -> Outcome<()> {
        until("the process sleeps", || matches!(state(self.thread), Some('S' | 't' | 'Z') | None))
    }

    /// Waits for a process that runs, through the end of its operation to its own end.
    pub fn join(&mut self) -> Outcome<()> {
        while self.wait()?.is_some() {
            said("PTRACE_CONT", ptrace::cont(self.thread, None))?;
        }
        Ok(())
    }

    /// From where it stands to its end.
    pub fn finish(&mut self) -> Outcome<()> {
        if self.reaped {
            return Ok(());
        }
        self.run()?;
        self.join()
    }

    /// Lets it run behind the end of its operation, and on.
    pub fn pass_end(&mut self) -> Outcome<()> {
        self.run()?;
        if self.wait()?.is_some() {
            self.run()?;
        }
        Ok(())
    }

    /// Stops all its threads, also those that are not traced.
    pub fn freeze(&self) -> Outcome<()> {
        said("SIGSTOP", kill(self.process, Signal::SIGSTOP))
    }

    /// Takes that back.
    pub fn thaw(&self) -> Outcome<()> {
        said("SIGCONT", kill(self.process, Signal::SIGCONT))
    }

    /// Waits for the good end of a process of which no thread is traced any more.
    pub fn reap(&mut self) -> Outcome<()> {
        self.reaped = true;
        reap(self.process, "the process")
    }

    /// Kills it, and returns when it is gone.
    pub fn kill(&mut self) -> Outcome<()> {
        if std::mem::replace(&mut self.reaped, true) {
            return Ok(());
        }
        said("SIGKILL", kill(self.process, Signal::SIGKILL))?;
        // A traced thread first: until its end is taken notice of, the process does not end.
        for pid in [self.thread, self.process] {
            loop {
                match waitpid(pid, Some(WaitPidFlag::__WALL)) {
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => break,
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(format!("waitpid: {error}")),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Whether a process may trace its child here, and why not.
pub fn permitted() -> Outcome<()> {
    let mut tracee = Tracee::start(|| {
        begin();
        std::hint::black_box(1);
        end();
    })?;
    let trace = tracee.trace(false)?;
    if trace.len() == 0 {
        return Err("no single steps".to_owned());
    }
    Ok(())
}
