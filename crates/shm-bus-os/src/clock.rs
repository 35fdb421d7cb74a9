//! The clock that all processes of one machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some fixed point before boot; never goes back, stands still while the machine is suspended.
///
/// `clock_gettime(CLOCK_MONOTONIC)`, usually without entering the kernel. Comparable between processes of one time
/// namespace, meaningless after a reboot. Wraps after 584 years.
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let mut last = monotonic_nanos();
        for _ in 0..10_000 {
            let now = monotonic_nanos();
            assert!(now >= last);
            last = now;
        }
    }
}
