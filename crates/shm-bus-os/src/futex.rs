//! Sleeping until a 32-bit word of shared memory changes.
//!
//! The word may lie in a read-only mapping and be woken from another process: calls are the shared kind (no
//! `FUTEX_PRIVATE_FLAG`), the key is the file and the offset in it, so two addresses of one mirrored byte are one word.
//! Each sleeper names a bitset; a wake reaches the sleepers whose bitset meets its own.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{Flags, wait_bitset, wake_bitset};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::error::{OsError, Result};
use crate::mapping::Mapping;

/// The bitset that meets every other.
pub const ANY: u32 = u32::MAX;

/// How a wait ended. None of them says that the word changed for good: look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Somebody woke this bitset, or the kernel woke spuriously.
    Woken,
    /// The word did not hold the expected value; nothing slept.
    Changed,
    /// The time was up.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `*word == expected`, at most `timeout` (`None`: for ever): `futex(word, FUTEX_WAIT_BITSET, expected,
/// deadline, NULL, bitset)`. The deadline is absolute on `CLOCK_MONOTONIC`; a timeout past its range is for ever.
///
/// # Errors
/// [`OsError::Syscall`]: `EINVAL` if `bitset` is 0 or `word` is not 4-aligned, `EFAULT` if it is not mapped, `ENOSYS` or
/// `EPERM` in a sandbox.
///
/// # Safety
/// `word` must be aligned to 4 and stay mapped, readable, until the call returns. Others may write it meanwhile.
pub unsafe fn wait(word: *const u32, expected: u32, bitset: u32, timeout: Option<Duration>) -> Result<Wait> {
    let deadline = timeout.and_then(deadline);
    // SAFETY: the caller vouches for alignment and mapping. Atomics may be shared with writers anywhere; on a read-only
    // page the reference is sound as it is never stored through (the kernel only loads it).
    let word = unsafe { &*word.cast::<AtomicU32>() };
    match wait_bitset(word, Flags::empty(), expected, deadline.as_ref(), bits("FUTEX_WAIT_BITSET", bitset)?) {
        Ok(()) => Ok(Wait::Woken),
        Err(Errno::AGAIN) => Ok(Wait::Changed),
        Err(Errno::TIMEDOUT) => Ok(Wait::TimedOut),
        Err(Errno::INTR) => Ok(Wait::Interrupted),
        Err(errno) => Err(OsError::at("futex", || "waiting on a shared word (FUTEX_WAIT_BITSET)")(errno)),
    }
}

/// Wakes up to `count` sleepers on the word whose bitset meets `bitset` and says how many: `futex(word,
/// FUTEX_WAKE_BITSET, count, NULL, NULL, bitset)`. On a word that hostile processes can wait on, a count below "all" can
/// be eaten by them.
///
/// # Errors
/// As for [`wait`].
///
/// # Safety
/// As for [`wait`].
pub unsafe fn wake(word: *const u32, count: u32, bitset: u32) -> Result<u32> {
    // The kernel's count is signed; a negative one would wake a single sleeper.
    let count = count.min(i32::MAX as u32);
    if count == 0 {
        // The kernel would wake one.
        return Ok(0);
    }
    // SAFETY: as in `wait`; a wake does not touch the word at all.
    let word = unsafe { &*word.cast::<AtomicU32>() };
    wake_bitset(word, Flags::empty(), count, bits("FUTEX_WAKE_BITSET", bitset)?)
        .map(|woken| woken as u32)
        .map_err(OsError::at("futex", || "waking a shared word (FUTEX_WAKE_BITSET)"))
}

/// A 32-bit word inside a [`Mapping`] that it keeps alive, so that its use is safe.
#[derive(Debug, Clone)]
pub struct Word {
    mapping: Arc<Mapping>,
    offset: usize,
}

impl Word {
    /// The word `offset` bytes into the mapping.
    ///
    /// # Errors
    /// [`OsError::Misaligned`] unless `offset` is a multiple of 4, [`OsError::OutOfBounds`] if the word does not lie in
    /// the mapping.
    pub fn new(mapping: Arc<Mapping>, offset: usize) -> Result<Self> {
        if !offset.is_multiple_of(4) {
            return Err(OsError::Misaligned {
                what: "the offset of a futex word",
                have: offset as u64,
                unit: 4,
            });
        }
        if offset.checked_add(4).is_none_or(|end| end > mapping.len()) {
            return Err(OsError::OutOfBounds { offset: offset as u64, size: 4, len: mapping.len() as u64 });
        }
        Ok(Self { mapping, offset })
    }

    /// The word's value now (acquire).
    pub fn load(&self) -> u32 {
        // SAFETY: `new` checked bounds and alignment and the mapping lives as long as `self`. Relaxed loads of a word
        // are sound on read-only memory too; the fence makes it an acquire load.
        let value = unsafe { &*self.pointer().cast::<AtomicU32>() }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        value
    }

    /// Sleeps while the word is `expected`; see the function [`wait`].
    ///
    /// # Errors
    /// As for the function [`wait`].
    pub fn wait(&self, expected: u32, bitset: u32, timeout: Option<Duration>) -> Result<Wait> {
        // SAFETY: `new` checked bounds and alignment, and `self` is borrowed, hence mapped, for the whole call.
        unsafe { wait(self.pointer(), expected, bitset, timeout) }
    }

    /// Wakes up to `count` sleepers; see the function [`wake`].
    ///
    /// # Errors
    /// As for the function [`wake`].
    pub fn wake(&self, count: u32, bitset: u32) -> Result<u32> {
        // SAFETY: as in `Word::wait`.
        unsafe { wake(self.pointer(), count, bitset) }
    }

    fn pointer(&self) -> *const u32 {
        self.mapping.base().as_ptr().wrapping_add(self.offset).cast_const().cast()
    }
}

fn bits(operation: &'static str, bitset: u32) -> Result<NonZeroU32> {
    NonZeroU32::new(bitset)
        .ok_or_else(|| OsError::at("futex", || format!("{operation} with an empty bitset"))(Errno::INVAL))
}

/// `timeout` from now as a point on the monotonic clock, or `None` past its end.
fn deadline(timeout: Duration) -> Option<Timespec> {
    let now = clock_gettime(ClockId::Monotonic);
    let nanos = now.tv_nsec as u32 + timeout.subsec_nanos();
    let seconds = now.tv_sec.checked_add(i64::try_from(timeout.as_secs()).ok()?)?;
    let tv_sec = seconds.checked_add(i64::from(nanos / 1_000_000_000))?;
    Some(Timespec { tv_sec, tv_nsec: i64::from(nanos % 1_000_000_000) as _ })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::mapping::{Access, page_size};
    use crate::memfd::{self, Sealing};

    /// One word of a sealed memfd: the owner's mapping and a reader's.
    fn words() -> (Word, Word) {
        let page = page_size();
        let fd = memfd::create("futex", page as u64).unwrap();
        let owner = Mapping::shared(fd.as_fd(), page, Access::ReadWrite).unwrap();
        memfd::seal(fd.as_fd(), Sealing::Owned).unwrap();
        let reader = Mapping::shared(fd.as_fd(), page, Access::ReadOnly).unwrap();
        (Word::new(Arc::new(owner), 64).unwrap(), Word::new(Arc::new(reader), 64).unwrap())
    }

    fn store(word: &Word, value: u32) {
        // SAFETY: the owner's mapping is writable, the word in bounds and aligned.
        unsafe { AtomicU32::from_ptr(word.pointer().cast_mut()) }.store(value, Ordering::SeqCst);
    }

    #[test]
    fn a_read_only_sleeper_is_woken_through_another_mapping() {
        let (owner, reader) = words();
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                while reader.load() == 0 {
                    reader.wait(0, 0b10, Some(Duration::from_secs(10))).unwrap();
                }
                reader.load()
            });
            // Wakes until the sleeper was found asleep once; a wake with another bitset must never find it.
            while owner.wake(u32::MAX, 0b10).unwrap() == 0 {
                assert_eq!(owner.wake(u32::MAX, 0b01).unwrap(), 0);
                thread::yield_now();
            }
            store(&owner, 7);
            owner.wake(u32::MAX, ANY).unwrap();
            assert_eq!(sleeper.join().unwrap(), 7);
        });
    }

    #[test]
    fn another_value_does_not_sleep() {
        let (owner, reader) = words();
        store(&owner, 3);
        assert_eq!(reader.wait(2, ANY, None).unwrap(), Wait::Changed);
        assert_eq!(reader.load(), 3);
    }

    #[test]
    fn a_timeout_is_relative_and_kept() {
        let (_owner, reader) = words();
        let begun = Instant::now();
        assert_eq!(reader.wait(0, ANY, Some(Duration::from_millis(20))).unwrap(), Wait::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!(reader.wait(0, ANY, Some(Duration::ZERO)).unwrap(), Wait::TimedOut);
    }

    #[test]
    fn a_timeout_past_the_clock_is_for_ever() {
        assert!(deadline(Duration::MAX).is_none());
        assert!(deadline(Duration::from_secs(i64::MAX as u64)).is_none());
        let far = deadline(Duration::new(1000, 999_999_999)).unwrap();
        assert!((0..1_000_000_000).contains(&far.tv_nsec));
    }

    #[test]
    fn zero_counts_and_zero_bitsets() {
        let (owner, _reader) = words();
        assert_eq!(owner.wake(0, ANY).unwrap(), 0);
        assert_eq!(owner.wake(1, 0).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!(owner.wait(0, 0, None).unwrap_err().errno(), Some(libc::EINVAL));
    }

    #[test]
    fn words_lie_in_their_mapping() {
        let (owner, _reader) = words();
        let mapping = &owner.mapping;
        assert!(Word::new(mapping.clone(), page_size() - 4).is_ok());
        assert!(matches!(Word::new(mapping.clone(), 2), Err(OsError::Misaligned { .. })));
        assert!(matches!(Word::new(mapping.clone(), page_size()), Err(OsError::OutOfBounds { .. })));
        assert!(matches!(Word::new(mapping.clone(), usize::MAX - 3), Err(OsError::OutOfBounds { .. })));
    }

    #[test]
    fn a_signal_interrupts_a_wait() {
        extern "C" fn nothing(_signal: libc::c_int) {}
        // SAFETY: the handler does nothing; no SA_RESTART, so the wait must end. Nobody else here uses SIGUSR2.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
        }
        let (_owner, reader) = words();
        // SAFETY: pthread_self has no preconditions.
        let waiter = unsafe { libc::pthread_self() } as usize;
        let done = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    // SAFETY: the waiter joins this thread, so it is alive.
                    unsafe { libc::pthread_kill(waiter as libc::pthread_t, libc::SIGUSR2) };
                    thread::yield_now();
                }
            });
            let outcome = reader.wait(0, ANY, Some(Duration::from_secs(10)));
            done.store(true, Ordering::SeqCst);
            assert_eq!(outcome.unwrap(), Wait::Interrupted);
        });
    }
}
