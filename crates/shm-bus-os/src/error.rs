//! The one error type of this crate: what failed, with its numbers, and what to do about it.

use std::path::PathBuf;

use rustix::io::Errno;

/// `Result` with [`OsError`].
pub type Result<T> = std::result::Result<T, OsError>;

/// Why a call into the kernel, or a check of what another process handed over, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OsError {
    /// A system call failed.
    #[error("{what}: {call}: {errno}")]
    Syscall {
        /// The C name of the call, e.g. `memfd_create`.
        call: &'static str,
        /// The error number it returned.
        errno: Errno,
        /// What was being done, with its argument, for a person to read.
        what: String,
    },
    /// A memfd lacks seals, so its owner could still change its size or others could write it.
    #[error(
        "the memfd has the seals {have:#x} but needs {want:#x}; it was not made by shm-bus, or not sealed yet"
    )]
    Unsealed {
        /// The `F_SEAL_*` bits that are set (0 if the file cannot be sealed at all).
        have: u32,
        /// The `F_SEAL_*` bits that must all be set.
        want: u32,
    },
    /// A file that claims to be a memfd does not live on tmpfs (a huge-page memfd for example, where a hole is `SIGBUS`).
    #[error("the file is on a file system of type {kind:#x}, not on tmpfs; only plain memfds are accepted")]
    NotTmpfs {
        /// The `f_type` that `fstatfs` reported.
        kind: i64,
    },
    /// A file is too small or too large.
    #[error("the file has {have} bytes, outside of {min}..={max}")]
    WrongSize {
        /// Its size in bytes.
        have: u64,
        /// The fewest bytes accepted.
        min: u64,
        /// The most bytes accepted.
        max: u64,
    },
    /// A length or an offset is not a multiple of its unit, or is zero where it may not be.
    #[error("{what} is {have}, which is not a positive multiple of {unit}")]
    Misaligned {
        /// Which value.
        what: &'static str,
        /// The value, in bytes.
        have: u64,
        /// What it must be a multiple of, in bytes.
        unit: u64,
    },
    /// A position lies outside of a mapping.
    #[error("offset {offset} with {size} bytes lies outside of a mapping of {len} bytes")]
    OutOfBounds {
        /// Offset in bytes.
        offset: u64,
        /// Bytes needed there.
        size: u64,
        /// Length of the mapping in bytes.
        len: u64,
    },
    /// More memory was asked for than can be had.
    #[error(
        "{want} bytes were asked for but only {have} are available ({limit}); ask for less, e.g. a smaller ringBytes"
    )]
    TooLittleMemory {
        /// Bytes asked for.
        want: u64,
        /// Bytes that could be had when this was checked.
        have: u64,
        /// Which limit said so, e.g. `MemAvailable`.
        limit: &'static str,
    },
    /// A received message did not fit, or fds of it could not be installed (often `RLIMIT_NOFILE`). All its fds are closed.
    #[error(
        "a message was cut off (data: {data}, fds: {control}); {len} bytes are in the buffer, its fds are closed"
    )]
    Truncated {
        /// The buffer was too small for the data.
        data: bool,
        /// Control data was cut off: more fds than room, or this process may not open more.
        control: bool,
        /// Bytes of data that did arrive in the buffer; the whole message if `data` is false.
        len: usize,
    },
    /// A received fd is not of the kind that was announced.
    #[error("the file descriptor is not {want}")]
    WrongKind {
        /// What it should be, with its article, e.g. `a writable mapping`.
        want: &'static str,
    },
    /// A directory or file is not private to this user.
    #[error("{} is not private: {why}", path.display())]
    NotPrivate {
        /// The path.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A socket name is longer than the kernel takes.
    #[error(
        "the socket name {name:?} has {have} bytes, the kernel takes {max}; choose a shorter directory or bus name"
    )]
    NameTooLong {
        /// The name.
        name: String,
        /// Its length in bytes.
        have: usize,
        /// The most bytes a name of its kind can have.
        max: usize,
    },
    /// The kernel, or a sandbox around this process, lacks something shm-bus cannot do without.
    #[error("shm-bus needs {feature}: {why}")]
    Missing {
        /// The feature, e.g. `memfd_create(2)`.
        feature: &'static str,
        /// What was seen and its likely cause.
        why: String,
    },
}

impl OsError {
    /// Makes a constructor for `map_err`: `.map_err(OsError::at("bind", || "..."))`.
    pub(crate) fn at<W: Into<String>>(
        call: &'static str,
        what: impl FnOnce() -> W,
    ) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Syscall { call, errno, what: what().into() }
    }

    /// What a call of std reported, as an error of this crate.
    pub fn of_std(call: &'static str, what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::at(call, || what)(errno_of(error))
    }

    /// The error number as C knows it (`EAGAIN` is 11), if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Syscall { errno, .. } => Some(errno.raw_os_error()),
            _ => None,
        }
    }

    /// The name of the system call that failed, if one did.
    pub fn syscall(&self) -> Option<&'static str> {
        match self {
            Self::Syscall { call, .. } => Some(call),
            _ => None,
        }
    }

    /// Whether the other end of a [`Channel`](crate::channel::Channel) is gone.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Self::Syscall { errno: Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN, .. })
    }
}

/// The errno that the last failed libc call of this thread left.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// The errno inside an error of `std::io`; those made by std itself have none and become `EIO`.
pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syscall_error_keeps_call_number_and_purpose() {
        let error = OsError::at("bind", || "binding x")(Errno::ADDRINUSE);
        assert_eq!(error.errno(), Some(98));
        assert_eq!(error.syscall(), Some("bind"));
        assert!(!error.is_disconnected());
        assert!(error.to_string().starts_with("binding x: bind: "), "{error}");
    }

    #[test]
    fn other_errors_have_no_errno() {
        let error = OsError::Unsealed { have: 1, want: 7 };
        assert_eq!((error.errno(), error.syscall()), (None, None));
        assert!(OsError::at("sendmsg", || "x")(Errno::PIPE).is_disconnected());
    }
}
