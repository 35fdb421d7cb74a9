//! A child process that runs one operation between two markers, and is taken to any instruction of it.

use std::arch::asm;
use std::collections::HashSet;
use std::ffi::c_void;
use std::mem::offset_of;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};
use shm_bus_ring::{Ordering, Region};

/// Nobody in a case waits longer than this, on whatever machine: who does, hangs.
pub const HANG: Duration = Duration::from_secs(30);
/// A child that unwound ends with this.
const PANICKED: i32 = 101;

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
pub fn spawn_worker(work: impl FnOnce()) -> nix::Result<Pid> {
    spawn(|| {
        alarm::cancel();
        work();
    })
}

/// Waits for a child's end; says what went wrong if it did not end well.
pub fn reap(pid: Pid, who: &str) -> Result<(), String> {
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
pub fn until(what: &str, mut reached: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !reached() {
        if start.elapsed() > HANG {
            return Err(format!("waited for longer than {} s: {what}", HANG.as_secs()));
        }
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// The state letter of a process (of its main thread).
pub fn state(pid: Pid) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The instructions of one run of an operation.
#[derive(Default)]
pub struct Trace {
    addresses: Vec<u64>,
    first: Vec<bool>,
    /// Whether the next thing it does is to sleep until somebody wakes it.
    pub sleeps: bool,
}

impl Trace {
    fn push(&mut self, address: u64, seen: &mut HashSet<u64>) {
        self.addresses.push(address);
        self.first.push(seen.insert(address));
    }

    /// Writes it down for another process.
    pub fn store(&self, target: &Region) {
        let words = self.addresses.iter().take((target.len() / 8 - 2) as usize);
        target.store(8, u64::from(self.sleeps), Ordering::SeqCst);
        for (i, address) in words.clone().enumerate() {
            target.store(16 + 8 * i as u64, *address, Ordering::SeqCst);
        }
        target.store(0, words.len() as u64, Ordering::SeqCst);
    }

    /// Reads what another process wrote down.
    pub fn load(source: &Region) -> Self {
        let (mut trace, mut seen) = (Trace::default(), HashSet::new());
        for i in 0..source.load(0, Ordering::SeqCst) {
            trace.push(source.load(16 + 8 * i, Ordering::SeqCst), &mut seen);
        }
        trace.sleeps = source.load(8, Ordering::SeqCst) != 0;
        trace
    }

    /// Single steps from marker to marker.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Instructions: the repetitions of a string instruction are one.
    pub fn instructions(&self) -> usize {
        1 + self.addresses.windows(2).filter(|w| w[0] != w[1]).count()
    }

    /// Every `stride`th instruction, from 0 steps to all of them, beginning at the `offset`th. With
    /// `inside`, also every 512th repetition of each string instruction.
    pub fn points(&self, stride: usize, offset: usize, inside: bool) -> Vec<usize> {
        let mut points = Vec::new();
        let (mut instruction, mut repetition) = (0, 0);
        for (step, address) in self.addresses.iter().enumerate() {
            if step > 0 && self.addresses[step - 1] == *address {
                repetition += 1;
                if inside && repetition % 512 == 256 {
                    points.push(step);
                }
                continue;
            }
            repetition = 0;
            instruction += usize::from(step > 0);
            if instruction % stride == offset % stride {
                points.push(step);
            }
        }
        points.push(self.len());
        points
    }

    /// The last step up to `step` whose address was never reached before.
    fn anchor(&self, step: usize) -> Option<(usize, u64)> {
        let last = step.min(self.len().saturating_sub(1));
        (1..=last).rev().find(|i| self.first[*i]).map(|i| (i, self.addresses[i]))
    }
}

/// How far a traced process got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It stands where it was wanted.
    There,
    /// It returned before.
    Returned,
}

/// A traced process. Killed if it is still there at the end.
pub struct Tracee {
    pid: Pid,
    /// How its end was taken notice of.
    reaped: bool,
}

type Outcome<T> = Result<T, String>;

fn said<T>(what: &str, result: nix::Result<T>) -> Outcome<T> {
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
        Ok(Tracee { pid: said("fork", child)?, reaped: false })
    }

    /// Waits until it is at its [`begin`].
    pub fn arrive(&mut self) -> Outcome<()> {
        match self.wait()? {
            Some(Signal::SIGTRAP) => {}
            other => return Err(format!("the process did not come to its operation: {other:?}")),
        }
        said("PTRACE_SETOPTIONS", ptrace::setoptions(self.pid, Options::PTRACE_O_EXITKILL))
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        !self.reaped && !matches!(state(self.pid), Some('Z' | 'X') | None)
    }

    /// Waits until it stops; with which signal. None if it ended well.
    fn wait(&mut self) -> Outcome<Option<Signal>> {
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                // Stopped and continued as a whole meanwhile: no concern of this thread.
                Ok(WaitStatus::Stopped(_, Signal::SIGSTOP | Signal::SIGCONT)) => {
                    said("PTRACE_CONT", ptrace::cont(self.pid, None))?;
                }
                Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => return Ok(Some(Signal::SIGTRAP)),
                Ok(WaitStatus::Stopped(_, signal)) => {
                    let _ = self.kill();
                    return Err(match signal {
                        Signal::SIGALRM => format!("the process waited for longer than {} s", HANG.as_secs()),
                        other => format!("the process got {other}"),
                    });
                }
                Ok(WaitStatus::Exited(_, 0)) => {
                    self.reaped = true;
                    return Ok(None);
                }
                Ok(ended @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => {
                    self.reaped = true;
                    return Err(format!("the process ended: {ended:?}"));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(format!("waitpid: {error}")),
            }
        }
    }

    fn address(&self) -> Outcome<u64> {
        Ok(said("PTRACE_GETREGS", ptrace::getregs(self.pid))?.rip)
    }

    /// Whether its next instruction blocks it on a futex.
    fn about_to_sleep(&self) -> Outcome<bool> {
        const SYSCALL: i64 = 0x050F;
        let regs = said("PTRACE_GETREGS", ptrace::getregs(self.pid))?;
        if regs.rax as i64 != libc::SYS_futex || !matches!(regs.rsi & 0x7F, 0 | 9) {
            return Ok(false);
        }
        let bytes = said("PTRACE_PEEK", ptrace::read(self.pid, regs.rip as *mut c_void))?;
        Ok(bytes & 0xFFFF == SYSCALL)
    }

    /// One instruction; `false` if the process ended.
    fn step(&mut self) -> Outcome<bool> {
        said("PTRACE_SINGLESTEP", ptrace::step(self.pid, None))?;
        Ok(self.wait()?.is_some())
    }

    /// Runs the whole operation, instruction by instruction, up to where it returns, or falls asleep for good (asked for
    /// with `sleeps`).
    pub fn trace(&mut self, sleeps: bool) -> Outcome<Trace> {
        let (mut trace, mut seen) = (Trace::default(), HashSet::new());
        loop {
            let address = self.address()?;
            if address == end_address() {
                return Ok(trace);
            }
            if sleeps && self.about_to_sleep()? {
                trace.sleeps = true;
                return Ok(trace);
            }
            trace.push(address, &mut seen);
            if !self.step()? {
                return Err("the process ended inside its operation".to_owned());
            }
        }
    }

    /// Takes it `steps` single steps into its operation, as `trace` had it: by a breakpoint register to the last
    /// address that was new there, then by steps.
    pub fn go_to(&mut self, trace: &Trace, steps: usize) -> Outcome<Reached> {
        let mut at = 0;
        if let Some((anchor, address)) = trace.anchor(steps)
            && self.set_breakpoint(Some(address)).is_ok()
        {
            said("PTRACE_CONT", ptrace::cont(self.pid, None))?;
            if self.wait()?.is_none() {
                return Err("the process ended inside its operation".to_owned());
            }
            let here = self.address()?;
            said("PTRACE_POKEUSER", self.set_breakpoint(None))?;
            if here != address {
                // Behind the end marker's instruction: it took another way than the trace.
                return Ok(Reached::Returned);
            }
            at = anchor;
        }
        while at < steps {
            if !self.step()? {
                return Ok(Reached::Returned);
            }
            at += 1;
        }
        Ok(Reached::There)
    }

    /// Whether it stands where the trace stood after that many steps.
    pub fn is_at(&self, trace: &Trace, steps: usize) -> Outcome<bool> {
        let here = self.address()?;
        Ok(match trace.addresses.get(steps) {
            Some(address) => *address == here,
            None => trace.sleeps || here == end_address(),
        })
    }

    /// A breakpoint in a debug register of this thread: what other threads execute is left alone.
    fn set_breakpoint(&self, address: Option<u64>) -> nix::Result<()> {
        let register = |n: usize| (offset_of!(libc::user, u_debugreg) + 8 * n) as *mut c_void;
        match address {
            Some(address) => {
                ptrace::write_user(self.pid, register(0), address as i64)?;
                // Enabled for this thread, on execution, one byte.
                ptrace::write_user(self.pid, register(7), 1)
            }
            None => ptrace::write_user(self.pid, register(7), 0),
        }
    }

    /// Lets it run on from here, without waiting for it.
    pub fn run(&self) -> Outcome<()> {
        said("PTRACE_CONT", ptrace::cont(self.pid, None))
    }

    /// Waits until it is blocked in the kernel (or back from its operation).
    pub fn until_asleep(&self) -> Outcome<()> {
        until("the process sleeps", || matches!(state(self.pid), Some('S' | 't' | 'Z') | None))
    }

    /// Waits for a process that runs, through the end of its operation to its own end.
    pub fn join(&mut self) -> Outcome<()> {
        while self.wait()?.is_some() {
            said("PTRACE_CONT", ptrace::cont(self.pid, None))?;
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
        said("SIGSTOP", kill(self.pid, Signal::SIGSTOP))
    }

    /// Takes that back.
    pub fn thaw(&self) -> Outcome<()> {
        said("SIGCONT", kill(self.pid, Signal::SIGCONT))
    }

    /// Kills it, and returns when it is gone.
    pub fn kill(&mut self) -> Outcome<()> {
        if std::mem::replace(&mut self.reaped, true) {
            return Ok(());
        }
        said("SIGKILL", kill(self.pid, Signal::SIGKILL))?;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(format!("waitpid: {error}")),
            }
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Whether a process may trace its child here, and why not.
pub fn permitted() -> Result<(), String> {
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
