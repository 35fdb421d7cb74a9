//! What wakes an event loop: two datagram sockets, one polled by its owner, the other in the hands of whoever is to ring.
//!
//! No eventfd, though that costs less: whoever holds one can make its description blocking and its counter full, and
//! from then on a write sleeps, and so does the owner's read behind a foreign one. A call on a socket says for itself
//! that it does not wait, and the end that is given away can neither close nor drain the one that is kept.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
    sockopt,
};

use crate::error::{OsError, Result};

/// Rings that [`Bell::drain`] takes at once: more than the queue holds, fewer than for ever.
const MAX_DRAINED: u64 = 1024;

/// The owner's end: readable while it has been rung and not drained. Close-on-exec; no call on it waits.
#[derive(Debug)]
pub struct Bell {
    fd: OwnedFd,
    ringer: Ringer,
}

impl Bell {
    /// A new one: `socketpair(AF_UNIX, SOCK_DGRAM)`, the owner's end for reading only.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EMFILE`, `ENFILE`.
    pub fn new() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (fd, ringer) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
            .map_err(OsError::at("socketpair", || "making a bell"))?;
        // Nothing is ever sent the other way: what nobody reads could not even be an error.
        shutdown(&fd, Shutdown::Write).map_err(OsError::at("shutdown", || "making a bell"))?;
        Ok(Self { fd, ringer: Ringer { fd: ringer } })
    }

    /// The end that is given away.
    pub fn ringer(&self) -> &Ringer {
        &self.ringer
    }

    /// Takes the rings that are waiting and gives their number, 0 if nobody rang, at most 1024: `recv(MSG_DONTWAIT)`.
    pub fn drain(&self) -> u64 {
        let mut rings = 0;
        while rings < MAX_DRAINED {
            match recv(&self.fd, &mut [0u8], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // An error of the socket is reported once, and is a reason to look like any other.
                _ => rings += 1,
            }
        }
        rings
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The end that rings. Everyone may have a copy.
#[derive(Debug)]
pub struct Ringer {
    fd: OwnedFd,
}

impl Ringer {
    /// Takes an fd that another process sent, after seeing that it is a Unix datagram socket: `getsockopt(SO_DOMAIN)`,
    /// `getsockopt(SO_TYPE)`. Where it leads to is its sender's affair: one byte without meaning goes there.
    ///
    /// # Errors
    /// [`OsError::WrongKind`]; the fd is closed.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let unix = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX);
        if unix && sockopt::socket_type(&fd) == Ok(SocketType::DGRAM) {
            Ok(Self { fd })
        } else {
            Err(OsError::WrongKind { want: "the ringing end of a bell" })
        }
    }

    /// Rings: `send(MSG_DONTWAIT|MSG_NOSIGNAL)` of one byte. Where enough rings are waiting already, its `EAGAIN` is
    /// success.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `ECONNREFUSED` (the owner is gone), or whatever a holder of a copy has made of the socket.
    pub fn ring(&self) -> Result<()> {
        loop {
            match send(&self.fd, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(OsError::at("send", || "ringing a bell")(errno)),
            }
        }
    }
}

impl AsFd for Ringer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;

    fn copy(bell: &Bell) -> Ringer {
        Ringer::from_fd(bell.ringer().as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    fn events(bell: &Bell) -> PollFlags {
        let mut fds = [PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        fds[0].revents()
    }

    #[test]
    fn it_is_readable_from_the_first_ring_until_it_is_drained() {
        let bell = Bell::new().unwrap();
        assert_eq!((bell.drain(), events(&bell)), (0, PollFlags::empty()));
        copy(&bell).ring().unwrap();
        bell.ringer().ring().unwrap();
        assert_eq!((events(&bell), bell.drain()), (PollFlags::IN, 2));
        assert_eq!((bell.drain(), events(&bell)), (0, PollFlags::empty()));
    }

    #[test]
    fn nothing_that_a_holder_does_to_it_makes_a_call_wait() {
        let bell = Bell::new().unwrap();
        let hostile = copy(&bell);
        for fd in [hostile.as_fd(), bell.as_fd()] {
            let flags = fcntl_getfl(fd).unwrap();
            fcntl_setfl(fd, flags - OFlags::NONBLOCK).unwrap();
        }
        // Each of these calls would sleep for ever, were it the description that says whether it may.
        assert_eq!(bell.drain(), 0);
        (0..10_000).for_each(|_| hostile.ring().unwrap());
        bell.ringer().ring().unwrap();
        while bell.drain() > 0 {}
        assert_eq!(events(&bell), PollFlags::empty());
    }

    #[test]
    fn a_drain_ends_while_others_ring() {
        let bell = Bell::new().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let hostile = copy(&bell);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    hostile.ring().unwrap();
                }
            });
            for _ in 0..100 {
                assert!(bell.drain() <= MAX_DRAINED);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn the_owner_sees_no_end_whatever_becomes_of_the_other_end() {
        for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
            let bell = Bell::new().unwrap();
            let hostile = copy(&bell);
            shutdown(&hostile, how).unwrap();
            let _ = bell.ringer().ring();
            bell.drain();
            assert_eq!((bell.drain(), events(&bell)), (0, PollFlags::empty()), "{how:?}");
        }
        let bell = Bell::new().unwrap();
        let hostile = UnixDatagram::from(bell.ringer().as_fd().try_clone_to_owned().unwrap());
        // A file's descriptor and a large message: taken as one ring, and closed.
        hostile.send(&[7; 100_000]).unwrap();
        assert_eq!((bell.drain(), bell.drain()), (1, 0));
        // Led elsewhere: this bell falls silent, and no more than that.
        let directory = crate::scratch::Scratch::new("bell");
        let elsewhere = UnixDatagram::bind(directory.path().join("s")).unwrap();
        hostile.connect(directory.path().join("s")).unwrap();
        bell.ringer().ring().unwrap();
        drop(elsewhere);
        assert!(bell.ringer().ring().is_err());
        assert_eq!((bell.drain(), events(&bell)), (0, PollFlags::empty()));
    }

    #[test]
    fn other_descriptors_are_refused() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let internet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let memory = crate::memfd::create("bell", 4096).unwrap();
        let counter: OwnedFd = crate::EventFd::new().unwrap().into();
        for fd in [stream.into(), internet.into(), memory, counter] {
            assert!(matches!(Ringer::from_fd(fd), Err(OsError::WrongKind { .. })));
        }
    }
}
