//! Sleeping on a word that can be cancelled: on two words at once, the second being a private one.
//!
//! `futex_waitv` (Linux 5.16) reports the *last* of its words that was woken. So the private word comes first: where a wake
//! and a cancellation meet, the wake wins and is not lost. It is also why each wait has its own thread: two real words in
//! one call could be woken together and only one of them would be told.

use std::ffi::{c_int, c_long, c_uint};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use shm_bus_os::clock;
use shm_bus_os::futex::{self, Wait};

use super::Outcome;

/// The same number on every architecture.
const SYS_FUTEX_WAITV: c_long = 449;
/// 32-bit words, shared between processes.
const FUTEX2_SIZE_U32: u32 = 2;
const CLOCK_MONOTONIC: c_int = 1;
const EPERM: i32 = 1;
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const ENOSYS: i32 = 38;
const ETIMEDOUT: i32 = 110;

/// How long a wait sleeps at a time where `futex_waitv` is missing: until then it does not see a cancellation.
const SLICE: Duration = Duration::from_millis(20);

/// `struct futex_waitv` of the kernel.
#[repr(C)]
struct Waiter {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Sleeps while the word at `address` holds `value` and `control` is 0, until `deadline` (monotonic nanoseconds).
///
/// The address is the kernel's to check. If its memory is unmapped meanwhile the sleep goes on, or ends as if woken: who
/// waited looks at the word again and meets the error there.
pub fn wait(address: usize, value: u32, control: &AtomicU32, deadline: Option<u64>) -> Outcome {
    let waiter = |address: usize, value: u32| Waiter {
        value: u64::from(value),
        address: address as u64,
        flags: FUTEX2_SIZE_U32,
        reserved: 0,
    };
    let words = [waiter(control.as_ptr().addr(), 0), waiter(address, value)];
    let until = deadline.map(|ns| Timespec {
        seconds: (ns / 1_000_000_000) as i64,
        nanoseconds: (ns % 1_000_000_000) as i64,
    });
    let until = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    loop {
        // SAFETY: two initialised structures and a time that live through the call, which writes to none of them. The
        // words are only loaded, by the kernel, which answers EFAULT for what is not mapped.
        let woken = unsafe {
            syscall(
                SYS_FUTEX_WAITV,
                words.as_ptr(),
                words.len() as c_uint,
                0 as c_uint,
                until,
                CLOCK_MONOTONIC,
            )
        };
        match woken {
            1 => return Outcome::Woken,
            // The control word was woken, or a signal handler ran, or one of the words had another value.
            0 => {}
            _ => match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
                EINTR => {}
                EAGAIN if control.load(Ordering::Acquire) == 0 => return Outcome::Changed,
                EAGAIN => {}
                ETIMEDOUT => return Outcome::TimedOut,
                // A sandbox that does not know the call may say EPERM.
                ENOSYS | EPERM => return wait_in_slices(address, value, control, deadline),
                _ => return Outcome::Woken,
            },
        }
        if control.load(Ordering::Acquire) != 0 {
            return Outcome::Cancelled;
        }
    }
}

/// Sets the control word and wakes its sleeper.
pub fn cancel(control: &AtomicU32) {
    control.store(1, Ordering::Release);
    // SAFETY: a live word of this process. A wake of it cannot fail, and where it did the sleeper is one in slices.
    let _ = unsafe { futex::wake(control.as_ptr(), u32::MAX, futex::ANY) };
}

/// The way before Linux 5.16. A wake that comes between two slices is only seen if the word has changed.
fn wait_in_slices(address: usize, value: u32, control: &AtomicU32, deadline: Option<u64>) -> Outcome {
    loop {
        let left =
            deadline.map_or(SLICE, |at| Duration::from_nanos(at.saturating_sub(clock::monotonic_nanos())));
        let word = std::ptr::with_exposed_provenance::<u32>(address);
        // SAFETY: the array that the address was taken from is kept by the JavaScript side until the wait has ended, and
        // the pointer goes to the kernel only, which answers EFAULT if its buffer was transferred away and unmapped.
        match unsafe { futex::wait(word, value, futex::ANY, Some(left.min(SLICE))) } {
            Ok(Wait::TimedOut | Wait::Interrupted) => {}
            Ok(Wait::Changed) => return Outcome::Changed,
            Ok(Wait::Woken) | Err(_) => return Outcome::Woken,
        }
        if control.load(Ordering::Acquire) != 0 {
            return Outcome::Cancelled;
        }
        if deadline.is_some_and(|at| clock::monotonic_nanos() >= at) {
            return Outcome::TimedOut;
        }
    }
}
