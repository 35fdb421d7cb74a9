//! What this kernel, and the sandbox around this process, allows. Each feature is tried for real, once, harmlessly.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::futex;

use crate::channel::peer_pidfd_option;
use crate::error::{OsError, Result};

/// Whether a feature is there, and if not, what the kernel answered.
pub type Status = std::result::Result<(), Errno>;

/// What [`probe`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// `memfd_create(2)`, Linux 3.17. Mandatory.
    pub memfd: Status,
    /// The seals `SHRINK`, `GROW` and `SEAL`, Linux 3.17. Mandatory.
    pub sealing: Status,
    /// The seal `FUTURE_WRITE`, Linux 5.1. Mandatory.
    pub future_write: Status,
    /// `futex(2)` with `FUTEX_WAIT_BITSET` and `FUTEX_WAKE_BITSET`, Linux 2.6.25. Mandatory.
    pub futex: Status,
    /// `pidfd_open(2)`, Linux 5.3. Mandatory.
    pub pidfd: Status,
    /// `eventfd2(2)`, Linux 2.6.27. Mandatory.
    pub eventfd: Status,
    /// `SO_PEERPIDFD`, Linux 6.5. Optional: [`Channel::peer_pidfd`](crate::channel::Channel::peer_pidfd) does without.
    pub peer_pidfd: Status,
}

impl Support {
    /// The first mandatory feature that is missing, as an error.
    ///
    /// # Errors
    /// [`OsError::Missing`].
    pub fn require(&self) -> Result<()> {
        let mandatory = [
            ("memfd_create(2)", self.memfd),
            ("memfd seals (F_ADD_SEALS)", self.sealing),
            ("the memfd seal F_SEAL_FUTURE_WRITE", self.future_write),
            ("futex(2) with FUTEX_WAIT_BITSET", self.futex),
            ("pidfd_open(2)", self.pidfd),
            ("eventfd2(2)", self.eventfd),
        ];
        for (feature, status) in mandatory {
            status.map_err(|errno| OsError::Missing { feature, why: explain(errno) })?;
        }
        Ok(())
    }
}

/// Tries every feature once. Costs some microseconds and leaves nothing open.
pub fn probe() -> Support {
    let memory = memfd_create("shm-bus-probe", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let seal = |seals| memory.as_ref().map_err(|errno| *errno).and_then(|fd| fcntl_add_seals(fd, seals));
    // In this order: after SEAL no other seal could be added.
    let size = seal(SealFlags::SHRINK | SealFlags::GROW);
    let future_write = seal(SealFlags::FUTURE_WRITE);
    let sealing = size.and_then(|()| seal(SealFlags::SEAL));
    Support {
        memfd: memory.as_ref().map(drop).map_err(|errno| *errno),
        sealing,
        future_write,
        futex: probe_futex(),
        pidfd: pidfd_open(getpid(), PidfdFlags::empty()).map(drop),
        eventfd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(drop),
        peer_pidfd: probe_peer_pidfd(),
    }
}

/// [`probe`] and [`Support::require`] in one: one clear error if this machine cannot run a bus.
///
/// # Errors
/// [`OsError::Missing`] for the first mandatory feature that is not there.
pub fn require() -> Result<()> {
    probe().require()
}

fn probe_futex() -> Status {
    let word = AtomicU32::new(1);
    let flags = futex::Flags::empty();
    let all = std::num::NonZeroU32::MAX;
    futex::wake_bitset(&word, flags, 1, all)?;
    // The word does not hold 0, so a kernel that knows the call answers at once that there is nothing to wait for.
    match futex::wait_bitset(&word, flags, 0, None, all) {
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn probe_peer_pidfd() -> Status {
    let (one, _other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    peer_pidfd_option(one.as_fd()).map(drop)
}

/// The likely cause of an errno, in words.
fn explain(errno: Errno) -> String {
    let cause = match errno {
        Errno::PERM | Errno::ACCESS => {
            "a seccomp filter (of a container or sandbox) or a security module most likely forbids it; allow it there"
        }
        Errno::NOSYS | Errno::INVAL | Errno::NOPROTOOPT => {
            "the kernel is older than Linux 5.10, or a seccomp filter (of a container or sandbox) hides it; update the \
             kernel or allow it there"
        }
        Errno::MFILE | Errno::NFILE => {
            "this process, or the machine, has too many files open; raise the limit"
        }
        Errno::NOMEM => "the kernel is out of memory",
        _ => "the kernel refused it",
    };
    format!("{cause} (it answered: {errno})")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn this_kernel_will_do() {
        require().unwrap();
        // It stays so, and nothing is left open.
        let first = probe();
        for _ in 0..2000 {
            assert_eq!(probe(), first);
        }
    }

    /// One instruction of a filter program.
    fn instruction(code: u32, operand: u32, if_true: u8, if_false: u8) -> libc::sock_filter {
        libc::sock_filter { code: code as u16, jt: if_true, jf: if_false, k: operand }
    }

    /// From here on, in this thread only, system call `number` fails with `errno`; with `Some(operation)` only if its
    /// second argument is that.
    fn forbid(number: libc::c_long, operation: Option<u32>, errno: i32) {
        use libc::c_ulong;
        use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
        let load = |offset| instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
        let allow = instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0);
        let refuse = instruction(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0);
        let equals = |value| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
        // struct seccomp_data: the number is at byte 0, the low half of the second argument at byte 24.
        let mut program = vec![load(0), equals(number as u32), allow];
        if let Some(operation) = operation {
            program.extend([load(24), equals(operation), allow]);
        }
        program.push(refuse);
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // The variable arguments of prctl are longs; an int would leave half of each undefined.
        let (zero, one, mode): (c_ulong, c_ulong, c_ulong) = (0, 1, c_ulong::from(libc::SECCOMP_MODE_FILTER));
        // SAFETY: both calls read their arguments only; `filter` points at `program`, which is alive. The filter can only
        // make calls of this thread fail.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, one, zero, zero, zero), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter), 0);
        }
    }

    /// What `require` says in a thread where that call is forbidden. Filters end with their thread.
    fn without(number: libc::c_long, operation: Option<u32>, errno: i32) -> String {
        let result = thread::spawn(move || {
            forbid(number, operation, errno);
            require()
        });
        result.join().unwrap().unwrap_err().to_string()
    }

    #[test]
    fn a_forbidden_memfd_create_is_named() {
        for (errno, cause) in [(libc::ENOSYS, "older than Linux 5.10"), (libc::EPERM, "forbids it")] {
            let message = without(libc::SYS_memfd_create, None, errno);
            assert!(message.starts_with("shm-bus needs memfd_create(2): "), "{message}");
            assert!(message.contains("seccomp") && message.contains(cause), "{message}");
        }
    }

    #[test]
    fn a_forbidden_futex_operation_is_named() {
        for errno in [libc::ENOSYS, libc::EPERM] {
            // The shared kind only, as std itself uses the private one.
            let message = without(libc::SYS_futex, Some(libc::FUTEX_WAIT_BITSET as u32), errno);
            assert!(message.contains("FUTEX_WAIT_BITSET") && message.contains("seccomp"), "{message}");
        }
    }

    #[test]
    fn other_forbidden_calls_are_named() {
        let seals = Some(libc::F_ADD_SEALS as u32);
        assert!(without(libc::SYS_fcntl, seals, libc::EPERM).contains("seals"));
        assert!(without(libc::SYS_pidfd_open, None, libc::ENOSYS).contains("pidfd_open"));
        assert!(without(libc::SYS_eventfd2, None, libc::ENOSYS).contains("eventfd2"));
    }

    #[test]
    fn the_calls_themselves_fail_cleanly_too() {
        let errno = thread::spawn(|| {
            forbid(libc::SYS_memfd_create, None, libc::ENOSYS);
            crate::memfd::create("x", 4096).unwrap_err().errno()
        });
        assert_eq!(errno.join().unwrap(), Some(libc::ENOSYS));
    }

    #[test]
    fn an_optional_feature_may_be_missing() {
        let mut support = probe();
        support.peer_pidfd = Err(Errno::NOPROTOOPT);
        support.require().unwrap();
    }
}
