//! Waiting for many fds at once.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::error::{OsError, Result};

/// What to wait for on an fd. Hang-ups and errors are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Something can be read, or a listener has a connection, or a pidfd's process ended.
    pub readable: bool,
    /// Something can be written.
    pub writable: bool,
    /// Reports one event and is then silent until [`Poller::modify`] asks again.
    pub once: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Self = Self { readable: true, writable: false, once: false };
    /// Writing only.
    pub const WRITE: Self = Self { readable: false, writable: true, once: false };
    /// Both.
    pub const BOTH: Self = Self { readable: true, writable: true, once: false };
    /// Reading, reported once.
    pub const READ_ONCE: Self = Self { readable: true, writable: false, once: true };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, self.readable);
        flags.set(EventFlags::OUT, self.writable);
        flags.set(EventFlags::ONESHOT, self.once);
        flags
    }
}

/// One fd that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What the fd was added with.
    pub token: u64,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// The other side is closed (`EPOLLHUP`), or the fd is in error (`EPOLLERR`). There may still be something to read.
    pub hangup: bool,
}

/// An epoll instance, level-triggered: an fd is reported as long as it is ready.
#[derive(Debug)]
pub struct Poller {
    fd: OwnedFd,
}

impl Poller {
    /// `epoll_create1(EPOLL_CLOEXEC)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> Result<Self> {
        let fd = epoll::create(CreateFlags::CLOEXEC);
        Ok(Self { fd: fd.map_err(OsError::at("epoll_create1", || "making an epoll instance"))? })
    }

    /// Adds an fd: `epoll_ctl(EPOLL_CTL_ADD)`. [Remove](Poller::remove) it before closing it: while a copy of it is open
    /// elsewhere it would go on being reported.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EEXIST`, `EPERM` (a plain file), `ENOSPC` (the user's limit of watches).
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> Result<()> {
        epoll::add(&self.fd, fd, EventData::new_u64(token), interest.flags())
            .map_err(OsError::at("epoll_ctl(EPOLL_CTL_ADD)", || format!("watching fd for token {token}")))
    }

    /// Changes token and interest of an fd: `epoll_ctl(EPOLL_CTL_MOD)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ENOENT` if it was not added.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> Result<()> {
        epoll::modify(&self.fd, fd, EventData::new_u64(token), interest.flags())
            .map_err(OsError::at("epoll_ctl(EPOLL_CTL_MOD)", || {
                format!("changing the watch for token {token}")
            }))
    }

    /// Takes an fd out: `epoll_ctl(EPOLL_CTL_DEL)`. Events for it that were already fetched are not taken back.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ENOENT` if it was not added.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> Result<()> {
        epoll::delete(&self.fd, fd).map_err(OsError::at("epoll_ctl(EPOLL_CTL_DEL)", || "removing a watch"))
    }

    /// Waits until an fd is ready or the time is up (`None`: for ever; rounded up to milliseconds, and at most 24 days),
    /// and puts up to 64 events in place of what `events` held: `epoll_wait`. A signal does not end the wait.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `epoll_wait` gives it.
    pub fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<()> {
        events.clear();
        // An instant past the end of the clock is for ever.
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut ready = [MaybeUninit::uninit(); 64];
        loop {
            let left = end.map(|end| milliseconds(end.saturating_duration_since(Instant::now())));
            match epoll::wait(&self.fd, &mut ready, left.as_ref()) {
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(OsError::at("epoll_wait", || "waiting for file descriptors")(errno));
                }
                Ok((found, _)) => {
                    events.extend(found.iter().map(from_kernel));
                    return Ok(());
                }
            }
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn from_kernel(found: &epoll::Event) -> Event {
    let flags = found.flags;
    Event {
        token: found.data.u64(),
        readable: flags.contains(EventFlags::IN),
        writable: flags.contains(EventFlags::OUT),
        hangup: flags.intersects(EventFlags::HUP | EventFlags::ERR),
    }
}

/// Whole milliseconds, rounded up so that a wait is never too short. Finer ones would need a call newer than Linux 5.10.
fn milliseconds(left: Duration) -> Timespec {
    let millis = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i64;
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::eventfd::EventFd;

    #[test]
    fn events_carry_their_token() {
        let poller = Poller::new().unwrap();
        let (one, two) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        poller.add(one.as_fd(), 1, Interest::READ).unwrap();
        poller.add(two.as_fd(), u64::MAX, Interest::READ).unwrap();
        let mut events = Vec::new();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
        two.signal().unwrap();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events, [Event { token: u64::MAX, readable: true, writable: false, hangup: false }]);
        poller.modify(two.as_fd(), 2, Interest::BOTH).unwrap();
        poller.wait(&mut events, None).unwrap();
        assert_eq!(events, [Event { token: 2, readable: true, writable: true, hangup: false }]);
        poller.remove(two.as_fd()).unwrap();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events, []);
        assert_eq!(poller.remove(two.as_fd()).unwrap_err().errno(), Some(libc::ENOENT));
        assert_eq!(poller.add(one.as_fd(), 1, Interest::READ).unwrap_err().errno(), Some(libc::EEXIST));
    }

    #[test]
    fn once_is_once_until_it_is_asked_again() {
        let poller = Poller::new().unwrap();
        let one = EventFd::new().unwrap();
        poller.add(one.as_fd(), 1, Interest::READ_ONCE).unwrap();
        one.signal().unwrap();
        let mut events = Vec::new();
        for wanted in [1, 0, 0] {
            poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
            assert_eq!(events.len(), wanted);
        }
        poller.modify(one.as_fd(), 1, Interest::READ_ONCE).unwrap();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.len(), 1);
    }

    #[test]
    fn a_hang_up_is_reported_without_interest() {
        let _quiet = crate::forks::none();
        let poller = Poller::new().unwrap();
        let (one, other) = Channel::pair().unwrap();
        poller.add(one.as_fd(), 9, Interest::default()).unwrap();
        drop(other);
        let mut events = Vec::new();
        poller.wait(&mut events, None).unwrap();
        assert!(events.len() == 1 && events[0].hangup && events[0].token == 9, "{events:?}");
    }

    #[test]
    fn timeouts_are_not_cut_short() {
        let poller = Poller::new().unwrap();
        let mut events = Vec::new();
        for timeout in [Duration::from_micros(300), Duration::from_millis(5)] {
            let begun = Instant::now();
            poller.wait(&mut events, Some(timeout)).unwrap();
            assert!(begun.elapsed() >= timeout);
        }
    }

    #[test]
    fn milliseconds_round_up_and_are_bounded() {
        let of = |duration| {
            let spec = milliseconds(duration);
            (spec.tv_sec, spec.tv_nsec)
        };
        assert_eq!(of(Duration::ZERO), (0, 0));
        assert_eq!(of(Duration::from_nanos(1)), (0, 1_000_000));
        assert_eq!(of(Duration::from_micros(1_000_001)), (1, 1_000_000));
        assert_eq!(of(Duration::MAX), (2_147_483, 647_000_000));
    }
}
