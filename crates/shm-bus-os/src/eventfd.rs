//! A counter in the kernel that wakes another thread of this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};

use crate::error::{OsError, Result, errno_of};

/// An eventfd, non-blocking and close-on-exec. Readable while its count is not 0.
///
/// For the threads of one process. Everyone who holds a copy can drain it, fill it and change whether its description
/// blocks; what other processes ring is a [`Bell`](crate::Bell).
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A new one with count 0: `eventfd(0, EFD_CLOEXEC|EFD_NONBLOCK)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EMFILE`, `ENFILE`, `ENOMEM`, or `ENOSYS` or `EPERM` in a sandbox.
    pub fn new() -> Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { fd: fd.map_err(OsError::at("eventfd2", || "making an eventfd"))? })
    }

    /// Adds 1 to the count: `write`. A saturated counter is readable already, so its `EAGAIN` is success.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `write` gives it.
    pub fn signal(&self) -> Result<()> {
        loop {
            match write(&self.fd, &1u64.to_ne_bytes()) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("write", || "signalling an eventfd")(errno)),
            }
        }
    }

    /// Sets the count to 0 and gives what it was, 0 if nobody signalled: `read`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `read` gives it.
    pub fn drain(&self) -> Result<u64> {
        let mut count = [0u8; 8];
        loop {
            match read(&self.fd, &mut count) {
                Ok(_) => return Ok(u64::from_ne_bytes(count)),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("read", || "draining an eventfd")(errno)),
            }
        }
    }

    /// Another fd of the same counter: `fcntl(F_DUPFD_CLOEXEC)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `EMFILE`.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone();
        let failed =
            |error| OsError::at("fcntl(F_DUPFD_CLOEXEC)", || "duplicating an eventfd")(errno_of(&error));
        Ok(Self { fd: fd.map_err(failed)? })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_until_drained() {
        let event = EventFd::new().unwrap();
        let ringer = event.try_clone().unwrap();
        assert_eq!(event.drain().unwrap(), 0);
        ringer.signal().unwrap();
        ringer.signal().unwrap();
        assert_eq!(event.drain().unwrap(), 2);
        assert_eq!(event.drain().unwrap(), 0);
    }

    #[test]
    fn a_saturated_counter_is_not_an_error() {
        let event = EventFd::new().unwrap();
        write(&event.fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.signal().unwrap();
        assert_eq!(event.drain().unwrap(), u64::MAX - 1);
    }
}
