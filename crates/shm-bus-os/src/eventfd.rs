//! A counter in the kernel that wakes an event loop.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, read, write};

use crate::error::{OsError, Result, errno_of};

/// An eventfd, non-blocking and close-on-exec. Readable while its count is not 0.
///
/// Everyone who holds a copy can ring it, drain it and change whether its description blocks; so give one only to the
/// party that is to ring it.
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

    /// Takes an fd that another process sent, after seeing in procfs (`fdinfo`) that it is an eventfd and counts, rather
    /// than being a semaphore; sets `O_NONBLOCK` if it is not set.
    ///
    /// # Errors
    /// [`OsError::WrongKind`] (the fd is closed); [`OsError::Syscall`] with `ENOENT` where procfs is not mounted.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
        let info = info
            .map_err(|error| OsError::at("open", || "looking up a received fd in /proc")(errno_of(&error)))?;
        // Linux 6.4 and newer say which of the two it is.
        let semaphore = field(&info, "eventfd-semaphore:").is_some_and(|value| value != "0");
        if field(&info, "eventfd-count:").is_none() || semaphore {
            return Err(OsError::WrongKind { want: "an eventfd" });
        }
        let flags =
            fcntl_getfl(&fd).map_err(OsError::at("fcntl(F_GETFL)", || "reading the flags of an eventfd"))?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
                .map_err(OsError::at("fcntl(F_SETFL)", || "making an eventfd non-blocking"))?;
        }
        Ok(Self { fd })
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

/// The value of a line `NAME VALUE` of fdinfo.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
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

    #[test]
    fn received_fds_are_checked() {
        let blocking = eventfd(5, EventfdFlags::CLOEXEC).unwrap();
        let event = EventFd::from_fd(blocking).unwrap();
        assert_eq!(event.drain().unwrap(), 5);
        assert_eq!(event.drain().unwrap(), 0);
        let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        assert_eq!(EventFd::from_fd(file).unwrap_err(), OsError::WrongKind { want: "an eventfd" });
        let memory = crate::memfd::create("eventfd-count:", 4096).unwrap();
        assert!(matches!(EventFd::from_fd(memory), Err(OsError::WrongKind { .. })));
    }

    #[test]
    fn a_semaphore_is_refused_where_the_kernel_tells() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE).unwrap();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        assert_eq!(EventFd::from_fd(fd).is_err(), info.contains("eventfd-semaphore: 1"));
    }
}
