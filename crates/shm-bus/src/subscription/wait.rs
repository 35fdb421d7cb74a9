//! Waiting for something to read.

use std::time::Duration;

use shm_bus_os::clock;
use shm_bus_ring::SleepKind;

use super::{SKIP, Subscription};
use crate::error::{BusError, Result};

/// How a reader that finds nothing waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Looks again and again: lowest latency, a whole processor.
    Spin,
    /// Looks for [`SPIN`], then sleeps.
    #[default]
    SpinThenPark,
    /// Sleeps at once.
    Park,
}

/// How long [`WaitStrategy::SpinThenPark`] looks before it sleeps: about what being woken costs.
pub const SPIN: Duration = Duration::from_micros(20);
/// A blocking wait returns to its caller at least this often.
pub const SLICE: Duration = Duration::from_millis(50);
/// A sleeper looks by itself this often, in case a publisher was stopped between its slot and its wake.
const SAFETY: Duration = Duration::from_secs(1);
impl Subscription {
    /// Whether a poll would find something: one load.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.reader.ready(&self.shared.sequencer)
    }

    /// Blocks until a poll may find something, at most `timeout` and at most one [`SLICE`]; `false` if nothing came.
    ///
    /// # Errors
    /// [`BusError::Closed`], [`BusError::System`].
    pub fn wait(&mut self, strategy: WaitStrategy, timeout: Duration) -> Result<bool> {
        if !self.open || self.shared.is_closed() {
            return Err(BusError::Closed);
        }
        let slice = timeout.min(SLICE);
        let spin = match strategy {
            WaitStrategy::Spin => slice,
            WaitStrategy::SpinThenPark => SPIN.min(slice),
            WaitStrategy::Park => Duration::ZERO,
        };
        let start = clock::monotonic_nanos();
        while !spin.is_zero() {
            // The clock costs as much as many looks.
            for _ in 0..64 {
                if self.advance_to_ready() {
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            if clock::monotonic_nanos() - start >= spin.as_nanos() as u64 {
                break;
            }
        }
        if strategy == WaitStrategy::Spin {
            return Ok(false);
        }
        let left = slice.saturating_sub(Duration::from_nanos(clock::monotonic_nanos() - start));
        if left.is_zero() {
            return Ok(false);
        }
        let buckets = *self.reader.buckets();
        let seen = self.shared.fall_asleep(&buckets, SleepKind::Futex);
        let outcome = if self.advance_to_ready() {
            Ok(true)
        } else {
            self.shared
                .hint_word
                .wait(seen, buckets.futex_bits(), Some(left.min(SAFETY)))
                .map(|_| self.advance_to_ready())
                .map_err(BusError::from)
        };
        self.shared.wake_up(&buckets, SleepKind::Futex);
        outcome
    }

    /// Passes over what is not for this reader; `true` if something that may be is next.
    pub fn advance_to_ready(&mut self) -> bool {
        if self.lease.is_empty() {
            while self.reader.skip(&self.shared.sequencer, SKIP) == SKIP {
                self.store_position();
            }
            if !self.is_ready() {
                // Who sleeps next must not hold what it has passed over: a publisher that found the ring full before
                // has done its waking.
                self.store_position();
            }
        }
        self.is_ready()
    }
}
