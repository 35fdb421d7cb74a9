//! The side channel: Unix `SOCK_SEQPACKET` sockets that carry the attach handshake, fds and credentials.
//!
//! A message arrives whole or not at all, with its fds and the kernel's word on who sent it. Everything here is
//! non-blocking and close-on-exec. An empty message cannot be told from end of file, so none can be sent.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, chmod, fchmod, lstat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, accept_with, bind, connect, listen, sendmsg, socket_with, socketpair, sockopt,
};

use crate::control;
use crate::error::{OsError, Result};
use crate::unshared::Unshared;

mod peer;

pub use peer::Credentials;
pub(crate) use peer::peer_pidfd_option;

/// The most fds one message can carry.
pub const MAX_FDS: usize = control::MAX_FDS;

/// The longest socket path in bytes: `sun_path` less its terminating zero.
pub const MAX_PATH: usize = 107;

/// The longest abstract name in bytes: `sun_path` less its leading zero.
pub const MAX_ABSTRACT: usize = 107;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Where a listener can be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// A socket file; its directory decides who can reach it. At most [`MAX_PATH`] bytes.
    Path(PathBuf),
    /// A name of this network namespace, without file and without permissions: the listener must check credentials
    /// itself. Given without the leading zero byte; at most [`MAX_ABSTRACT`] bytes.
    Abstract(String),
}

impl Name {
    fn address(&self) -> Result<SocketAddrUnix> {
        let (have, max) = match self {
            Self::Path(path) => (path.as_os_str().len(), MAX_PATH),
            Self::Abstract(name) => (name.len(), MAX_ABSTRACT),
        };
        if have > max {
            return Err(OsError::NameTooLong { name: self.to_string(), have, max });
        }
        let address = match self {
            // The kernel would take it for "any name".
            _ if have == 0 => Err(Errno::INVAL),
            Self::Path(path) => SocketAddrUnix::new(path.as_path()),
            Self::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        };
        address
            .map_err(OsError::at("bind", || format!("using {:?} as the name of a socket", self.to_string())))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// What became of a message given to [`Channel::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Sent {
    /// It is in the peer's queue, with its fds.
    Done,
    /// The peer's queue is full; nothing was sent. Wait until the channel is writable.
    Full,
}

/// What [`Channel::recv`] found.
#[derive(Debug)]
#[must_use]
pub enum Received {
    /// One whole message.
    Message {
        /// Its length in bytes, at least 1, at the start of the buffer.
        len: usize,
        /// The fds that came with it, in the sender's order, close-on-exec.
        fds: Vec<OwnedFd>,
        /// Who sent it. `None` only if it was sent before the receiver asked for credentials.
        credentials: Option<Credentials>,
    },
    /// Nothing is waiting.
    Empty,
    /// End of file: every copy of the peer's end is closed, or it sent an empty message.
    Closed,
}

/// A socket that waits for others to connect. Dropping it closes the fd and leaves a socket file where it is.
#[derive(Debug)]
pub struct Listener {
    fd: Unshared,
}

impl Listener {
    /// `socket`, `bind` and `listen`. A socket file gets mode 0600. Nothing is removed first: a stale file is
    /// `EADDRINUSE`, and only who holds the bus's [lock](crate::lock) can know that it is stale.
    ///
    /// # Errors
    /// [`OsError::NameTooLong`]; [`OsError::Syscall`]: `EADDRINUSE`, `ENOENT` (no such directory), `EACCES`, `EMFILE`.
    pub fn bind(name: &Name) -> Result<Self> {
        let address = name.address()?;
        let fd = new_socket()?;
        if matches!(name, Name::Path(_)) {
            // The file inherits the mode of the socket (and the umask takes from it), so it is never open to others.
            let _ = fchmod(&fd, Mode::RUSR | Mode::WUSR);
        }
        bind(&fd, &address).map_err(OsError::at("bind", || format!("making the socket {name}")))?;
        if let Name::Path(path) = name {
            restrict(path)?;
        }
        listen(&fd, 1024).map_err(OsError::at("listen", || format!("listening on {name}")))?;
        Ok(Self { fd: Unshared::new(fd) })
    }

    /// Takes a listener that another process sent, after asking the kernel whether it is one of this kind:
    /// `getsockopt(SO_DOMAIN, SO_TYPE, SO_ACCEPTCONN)`. Whoever holds a copy can accept; a connection goes to one of them.
    ///
    /// # Errors
    /// [`OsError::WrongKind`] (the fd is closed).
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let fits = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&fd) == Ok(SocketType::SEQPACKET)
            && sockopt::socket_acceptconn(&fd) == Ok(true);
        if fits {
            Ok(Self { fd: Unshared::new(fd) })
        } else {
            Err(OsError::WrongKind { want: "a listening SEQPACKET socket" })
        }
    }

    /// Another fd of the same socket: `fcntl(F_DUPFD_CLOEXEC)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `EMFILE`.
    pub fn try_clone_fd(&self) -> Result<OwnedFd> {
        let failed = |error: std::io::Error| {
            OsError::of_std("fcntl(F_DUPFD_CLOEXEC)", "duplicating a listening socket", &error)
        };
        self.fd.as_fd().try_clone_to_owned().map_err(failed)
    }

    /// Whether a connection waits to be accepted: `poll(fd, POLLIN, 0)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `poll` gives it.
    pub fn has_waiting(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&Timespec::default())) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("poll", || "looking who waits at a socket")(errno)),
                Ok(_) => return Ok(fds[0].revents().contains(PollFlags::IN)),
            }
        }
    }

    /// Takes one waiting connection, `None` if there is none: `accept4(fd, NULL, NULL, SOCK_NONBLOCK|SOCK_CLOEXEC)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EMFILE` or `ENFILE` (the connection stays in the queue; the listener stays readable).
    pub fn accept(&self) -> Result<Option<Channel>> {
        loop {
            match accept_with(&self.fd, FLAGS) {
                Ok(fd) => return Channel::with_credentials(fd).map(Some),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(OsError::at("accept4", || "accepting a connection")(errno)),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Channel {
    fd: Unshared,
}

impl Channel {
    /// Connects to a listener, without waiting for it to accept: `socket`, `connect`.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `ENOENT` or `ECONNREFUSED` (nobody listens), `EACCES`, `EAGAIN` (the listener's queue is
    /// full: try again), `EPROTOTYPE` (a socket of another kind); [`OsError::NameTooLong`].
    pub fn connect(name: &Name) -> Result<Self> {
        let address = name.address()?;
        let fd = new_socket()?;
        loop {
            match connect(&fd, &address) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("connect", || format!("connecting to {name}"))(errno)),
                // Asked for only now: before, it would make the kernel give this socket a name of its own.
                Ok(()) => return Self::with_credentials(fd),
            }
        }
    }

    /// Two connected ends: `socketpair`.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EMFILE` or `ENFILE`.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)
            .map_err(OsError::at("socketpair", || "making a pair of sockets"))?;
        Ok((Self::with_credentials(one)?, Self::with_credentials(other)?))
    }

    /// Sends one message with up to [`MAX_FDS`] fds, whole or not at all: `sendmsg(MSG_NOSIGNAL|MSG_DONTWAIT)`. The fds
    /// stay open here; their copies in the queue count against this user's limit until the peer takes them.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EINVAL` (empty, or too many fds), `EMSGSIZE` (longer than the socket's send buffer, 208 KiB
    /// by default), `ETOOMANYREFS` (too many fds of this user in queues), and those for which
    /// [`OsError::is_disconnected`] holds.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Sent> {
        let what = || format!("sending {} bytes and {} fds", bytes.len(), fds.len());
        if bytes.is_empty() || fds.len() > MAX_FDS {
            return Err(OsError::at("sendmsg", what)(Errno::INVAL));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits);
        }
        loop {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(_) => return Ok(Sent::Done),
                Err(Errno::AGAIN) => return Ok(Sent::Full),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("sendmsg", what)(errno)),
            }
        }
    }

    /// Receives one message into `buf`: `recvmsg(MSG_DONTWAIT|MSG_CMSG_CLOEXEC)`. Messages that arrived before the peer
    /// closed are delivered before [`Received::Closed`].
    ///
    /// # Errors
    /// [`OsError::Truncated`] if the message or its fds did not fit; every fd of it is closed, its data that did fit is
    /// in `buf`, the rest is lost. [`OsError::Syscall`] otherwise.
    pub fn recv(&self, buf: &mut [u8]) -> Result<Received> {
        self.recv_with(buf, &mut [MaybeUninit::uninit(); control::WORDS])
    }

    fn recv_with(&self, buf: &mut [u8], control: &mut [MaybeUninit<u64>]) -> Result<Received> {
        loop {
            let arrived = match control::receive(self.fd.as_fd(), buf, control) {
                Ok(arrived) => arrived,
                Err(Errno::AGAIN) => return Ok(Received::Empty),
                // The peer closed without having read everything. The kernel says so once; after that come the messages
                // it sent before, then end of file.
                Err(Errno::INTR | Errno::CONNRESET) => continue,
                Err(errno) => return Err(OsError::at("recvmsg", || "receiving a message")(errno)),
            };
            if arrived.data_cut || arrived.control_cut {
                let (data, control) = (arrived.data_cut, arrived.control_cut);
                return Err(OsError::Truncated { data, control, len: arrived.len });
            }
            if arrived.len == 0 {
                return Ok(Received::Closed);
            }
            return Ok(Received::Message {
                len: arrived.len,
                fds: arrived.fds,
                credentials: arrived.credentials,
            });
        }
    }

    /// Whether every copy of the peer's end is closed: `poll` for `POLLHUP`. Messages may still be waiting.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `poll` gives it.
    pub fn hung_up(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::empty())];
        loop {
            match poll(&mut fds, Some(&Timespec::default())) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("poll", || "looking whether the peer is there")(errno)),
                Ok(_) => return Ok(fds[0].revents().contains(PollFlags::HUP)),
            }
        }
    }

    /// From now on the kernel adds the sender's credentials to each message (`SO_PASSCRED`), those already queued from
    /// before `accept` included.
    fn with_credentials(fd: OwnedFd) -> Result<Self> {
        sockopt::set_socket_passcred(&fd, true)
            .map_err(OsError::at("setsockopt(SO_PASSCRED)", || "asking for credentials with each message"))?;
        Ok(Self { fd: Unshared::new(fd) })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an fd is a Unix socket: `getsockopt(SO_DOMAIN)`. Sending those could make cycles that only the kernel's
/// garbage collection can free.
///
/// # Errors
/// [`OsError::Syscall`] as `getsockopt` gives it; an fd that is no socket is `Ok(false)`.
pub fn is_unix_socket(fd: BorrowedFd<'_>) -> Result<bool> {
    match sockopt::socket_domain(fd) {
        Ok(domain) => Ok(domain == AddressFamily::UNIX),
        Err(Errno::NOTSOCK) => Ok(false),
        Err(errno) => {
            Err(OsError::at("getsockopt(SO_DOMAIN)", || "asking what kind of socket an fd is")(errno))
        }
    }
}

fn new_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)
        .map_err(OsError::at("socket", || "making a Unix socket"))
}

/// Sees to it that a socket file has mode 0600, where `fchmod` before `bind` did not.
fn restrict(path: &Path) -> Result<()> {
    let what = || format!("making the socket {} private", path.display());
    let stat = lstat(path).map_err(OsError::at("lstat", what))?;
    if stat.st_mode & 0o777 != 0o600 {
        chmod(path, Mode::RUSR | Mode::WUSR).map_err(OsError::at("chmod", what))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
