//! What wakes an event loop: a pipe. Its owner polls it; whoever is to ring has it open for itself.
//!
//! Not an eventfd: whoever holds one can make its description blocking and its counter full, and from then on everyone
//! else's write sleeps. An eventfd cannot be opened anew, a pipe can (`/proc/self/fd`), and whether a call on it waits is
//! said by the caller's own description. It costs what an eventfd costs; a datagram socket, whose calls say for
//! themselves that they do not wait, costs half as much again for each wake.
//!
//! Everyone has it open for reading and writing, so a bell whose owner is gone is rung without an error or a signal.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstatfs, open};
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{OsError, Result};

/// `PIPEFS_MAGIC` of linux/magic.h.
const PIPEFS: u64 = 0x5049_5045;
/// What one call of [`Bell::drain`] reads at most: more than a pipe holds, less than for ever.
const MAX_READS: usize = 32;

/// The same pipe, by a description of our own.
fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .map_err(OsError::at("open", || "opening a bell by /proc/self/fd"))
}

/// Rings: 1 byte without meaning. One that is full is rung already.
fn ring(fd: BorrowedFd<'_>) -> Result<()> {
    loop {
        match write(fd, &[1]) {
            Ok(_) | Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(OsError::at("write", || "ringing a bell")(errno)),
        }
    }
}

/// The owner's bell: readable while it has been rung and not drained. Close-on-exec; no call on it waits.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
}

impl Bell {
    /// A new one: `pipe2`, and a description that nobody else ever has.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EMFILE`, `ENFILE`, or `ENOENT` where procfs is not mounted.
    pub fn new() -> Result<Self> {
        let (end, _) = pipe_with(PipeFlags::CLOEXEC).map_err(OsError::at("pipe2", || "making a bell"))?;
        Ok(Self { fd: reopen(end.as_fd())? })
    }

    /// A descriptor to be given away: [`Ringer::from_fd`] takes it.
    ///
    /// # Errors
    /// As [`Bell::new`].
    pub fn to_give(&self) -> Result<OwnedFd> {
        reopen(self.fd.as_fd())
    }

    /// Rings it.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `write` gives it.
    pub fn ring(&self) -> Result<()> {
        ring(self.fd.as_fd())
    }

    /// Takes the rings that are waiting; `true` if there were any.
    pub fn drain(&self) -> bool {
        let mut rung = false;
        let mut bytes = [0; 4096];
        for _ in 0..MAX_READS {
            match read(&self.fd, &mut bytes) {
                Err(Errno::INTR) => {}
                Ok(4096) => rung = true,
                Ok(count) => return rung || count > 0,
                Err(_) => break,
            }
        }
        rung
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Another attachment's bell.
#[derive(Debug)]
pub struct Ringer {
    fd: OwnedFd,
}

impl Ringer {
    /// Takes an fd that another process sent, after seeing that it is a pipe (`fstatfs`), and opens it anew: what its
    /// sender, or anyone else, does to its own description changes nothing here.
    ///
    /// # Errors
    /// [`OsError::WrongKind`], or as [`Bell::new`]; the fd is closed.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let system = fstatfs(&fd).map_err(OsError::at("fstatfs", || "looking at a received fd"))?;
        if system.f_type as u64 != PIPEFS {
            return Err(OsError::WrongKind { want: "a bell, which is a pipe" });
        }
        Ok(Self { fd: reopen(fd.as_fd())? })
    }

    /// A descriptor to be given away: as [`Bell::to_give`].
    ///
    /// # Errors
    /// As [`Bell::new`].
    pub fn to_give(&self) -> Result<OwnedFd> {
        reopen(self.fd.as_fd())
    }

    /// Rings it. Nothing happens if its owner is gone.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `write` gives it.
    pub fn ring(&self) -> Result<()> {
        ring(self.fd.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{fcntl_getfl, fcntl_setfl};

    use super::*;

    fn copy(bell: &Bell) -> Ringer {
        Ringer::from_fd(bell.to_give().unwrap()).unwrap()
    }

    fn events(bell: &Bell) -> PollFlags {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        fds[0].revents()
    }

    #[test]
    fn it_is_readable_from_the_first_ring_until_it_is_drained() {
        let bell = Bell::new().unwrap();
        assert_eq!((bell.drain(), events(&bell)), (false, PollFlags::empty()));
        copy(&bell).ring().unwrap();
        bell.ring().unwrap();
        assert_eq!((events(&bell), bell.drain()), (PollFlags::IN, true));
        assert_eq!((bell.drain(), events(&bell)), (false, PollFlags::empty()));
        let ringer = copy(&bell);
        drop(bell);
        ringer.ring().unwrap();
    }

    #[test]
    fn nothing_that_a_holder_does_to_it_makes_a_call_wait() {
        let bell = Bell::new().unwrap();
        let (given, honest) = (bell.to_give().unwrap(), copy(&bell));
        let flags = fcntl_getfl(&given).unwrap();
        // From here on a write to it sleeps when it is full: by this description.
        let fill = |fd: &OwnedFd| while write(fd, &[1; 1024]).is_ok() {};
        fill(&given);
        fcntl_setfl(&given, flags - OFlags::NONBLOCK).unwrap();
        let forwarded = Ringer::from_fd(given.try_clone().unwrap()).unwrap();
        for _ in 0..10 {
            forwarded.ring().unwrap();
            honest.ring().unwrap();
            bell.ring().unwrap();
        }
        assert!(bell.drain());
        assert_eq!((bell.drain(), events(&bell)), (false, PollFlags::empty()));
    }

    #[test]
    fn a_drain_ends_while_others_ring() {
        let bell = Bell::new().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let hostile = bell.to_give().unwrap();
                while !done.load(Ordering::Relaxed) {
                    let _ = write(&hostile, &[1; 4096]);
                }
            });
            for _ in 0..100 {
                bell.drain();
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn other_descriptors_are_refused() {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let directory = crate::scratch::Scratch::new("bell");
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let named = open(&path, OFlags::RDWR, Mode::empty()).unwrap();
        let memory = crate::memfd::create("bell", 4096).unwrap();
        let counter: OwnedFd = crate::EventFd::new().unwrap().into();
        for fd in [stream.into(), named, memory, counter] {
            assert!(matches!(Ringer::from_fd(fd), Err(OsError::WrongKind { .. })));
        }
    }
}
