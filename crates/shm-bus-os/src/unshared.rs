//! Descriptors that end with the process that made them.
//!
//! Close-on-exec says nothing of a child that is forked and runs no other program: it holds a copy of everything, and
//! with that it keeps sockets connected and locks taken whose owner is gone. What is held here is therefore taken away
//! in such a child, by a `pthread_atfork` handler: `/dev/null` stands in its place, so that nothing else gets the number.
//! A child made by a bare `clone` keeps its copies.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// 64 descriptors a word, up to the kernel's usual limit of 2^20; higher ones are like any other.
const WORDS: usize = (1 << 20) / 64;

/// A bit a descriptor. Memory that nobody has touched takes none.
static HELD: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// Words that were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// A descriptor that a forked child does not keep. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Unshared(ManuallyDrop<OwnedFd>);

impl Unshared {
    pub fn new(fd: OwnedFd) -> Self {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: the handler does what a child of a process with threads may do: it calls system calls.
            // It can fail for want of memory only; then children are as they were before.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(let_go)) };
        });
        let (word, bit) = place(fd.as_raw_fd());
        if word < WORDS {
            USED.fetch_max(word + 1, Ordering::SeqCst);
            HELD[word].fetch_or(bit, Ordering::SeqCst);
        }
        Unshared(ManuallyDrop::new(fd))
    }
}

impl AsFd for Unshared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Unshared {
    fn drop(&mut self) {
        let (word, bit) = place(self.0.as_raw_fd());
        if word < WORDS {
            // Before it is closed: afterwards the number may be anybody's.
            HELD[word].fetch_and(!bit, Ordering::SeqCst);
        }
        // SAFETY: dropped here and never used again.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

fn place(fd: RawFd) -> (usize, u64) {
    (fd as usize / 64, 1 << (fd % 64))
}

/// In the child, before `fork` returns there.
extern "C" fn let_go() {
    // SAFETY: system calls on descriptors that are this child's own copies; nothing in it may use them any more, as
    // their owners' threads were not copied.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for (word, held) in HELD.iter().take(USED.load(Ordering::SeqCst)).enumerate() {
            let mut bits = held.load(Ordering::SeqCst);
            while bits != 0 {
                let fd = (64 * word) as RawFd + bits.trailing_zeros() as RawFd;
                bits &= bits - 1;
                if null < 0 || libc::dup3(null, fd, libc::O_CLOEXEC) < 0 {
                    libc::close(fd);
                }
            }
        }
        if null >= 0 {
            libc::close(null);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::channel::{Channel, Received};
    use crate::lock::LockFile;
    use crate::scratch::Scratch;

    /// A forked child that waits. It ends with this.
    struct Forked(libc::pid_t);

    impl Drop for Forked {
        fn drop(&mut self) {
            // SAFETY: a child of this test, not reaped yet.
            unsafe {
                libc::kill(self.0, libc::SIGKILL);
                libc::waitpid(self.0, std::ptr::null_mut(), 0);
            }
        }
    }

    /// Forks; returns when the child runs.
    fn fork() -> Forked {
        let (mut runs, tell) = std::io::pipe().unwrap();
        // SAFETY: the child calls nothing but system calls.
        let child = unsafe {
            match libc::fork() {
                0 => loop {
                    libc::write(tell.as_raw_fd(), [1u8].as_ptr().cast(), 1);
                    libc::pause();
                },
                pid => pid,
            }
        };
        assert!(child > 0);
        let child = Forked(child);
        assert_eq!(runs.read(&mut [0; 1]).unwrap(), 1);
        child
    }

    #[test]
    fn a_forked_child_keeps_no_channel_and_no_lock() {
        let _quiet = crate::forks::none();
        let scratch = Scratch::new("unshared");
        let path = scratch.path().join("lock");
        let lock = LockFile::open(&path).unwrap();
        assert!(lock.try_exclusive().unwrap());
        let (one, other) = Channel::pair().unwrap();
        // Any other descriptor it keeps.
        let (mut reader, writer) = std::io::pipe().unwrap();
        let child = fork();
        drop((one, lock, writer));
        while !matches!(other.recv(&mut [0; 8]).unwrap(), Received::Closed) {
            std::thread::yield_now();
        }
        assert!(LockFile::open(&path).unwrap().try_exclusive().unwrap());
        drop(child);
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
    }

    /// A number that no other test uses.
    fn high(fd: BorrowedFd<'_>) -> OwnedFd {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 900).unwrap();
        assert_eq!(fd.as_raw_fd(), 900);
        fd
    }

    #[test]
    fn a_number_that_was_closed_is_like_any_other() {
        let _quiet = crate::forks::none();
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).unwrap();
        drop(Unshared::new(high(writer.as_fd())));
        let again = high(writer.as_fd());
        let child = fork();
        drop((writer, again));
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
        drop(child);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(0));
    }
}
