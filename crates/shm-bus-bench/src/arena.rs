//! A page of shared memory for the processes of one measurement: words far enough apart, and a barrier.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shm_bus_os::{Access, Mapping, Word, memfd};
use shm_bus_ring::Region;

use crate::Outcome;

/// Between words: two cache lines, because processors fetch them in pairs.
const STRIDE: u64 = 256;
const BYTES: u64 = 4096;
const ARRIVED: u64 = 0;
const TURN: u64 = 15;

/// The words of a measurement, numbered 1 to 14.
pub struct Arena {
    mapping: Arc<Mapping>,
    region: Region,
}

impl Arena {
    /// The memory of a new measurement.
    pub fn create() -> Outcome<OwnedFd> {
        let fd = memfd::create("shm-bus-bench", BYTES)?;
        memfd::allocate(fd.as_fd(), BYTES)?;
        Ok(fd)
    }

    /// A process's map of it.
    pub fn open(fd: BorrowedFd<'_>) -> Outcome<Self> {
        let mapping = Arc::new(Mapping::shared(fd, BYTES as usize, Access::ReadWrite)?);
        let region = mapping.region()?;
        Ok(Arena { mapping, region })
    }

    #[inline(always)]
    pub fn load(&self, word: u64) -> u64 {
        self.region.load(word * STRIDE, Ordering::Acquire)
    }

    #[inline(always)]
    pub fn store(&self, word: u64, value: u64) {
        self.region.store(word * STRIDE, value, Ordering::Release);
    }

    /// Gives the value as it was.
    #[inline(always)]
    pub fn add(&self, word: u64) -> u64 {
        self.region.fetch_add(word * STRIDE, 1, Ordering::AcqRel)
    }

    /// The low half of a word, to sleep on.
    pub fn futex(&self, word: u64) -> Outcome<Word> {
        Ok(Word::new(self.mapping.clone(), (word * STRIDE) as usize)?)
    }

    /// Does `work` when those with smaller numbers have done theirs.
    pub fn by_turns<T>(&self, index: usize, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        while self.load(TURN) < index as u64 {
            std::thread::sleep(Duration::from_micros(100));
        }
        let done = work()?;
        self.add(TURN);
        Ok(done)
    }

    /// Waits until all `size` processes are here, for the `nth` time from 1. Not part of any measurement.
    pub fn meet(&self, size: usize, nth: u64) {
        self.add(ARRIVED);
        while self.load(ARRIVED) < size as u64 * nth {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
