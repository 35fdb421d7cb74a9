//! The table through which JavaScript hands over the small messages of a batch: it writes their bytes into the headers
//! itself, and one call takes them all.
//!
//! 32-bit words: the index of the first free header; how many are free; then four a message: the number of its
//! destination, its length, the low and the high half of its topic.

use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

use napi::bindgen_prelude::Unknown;
use napi::{Env, Result};
use shm_bus::{Address, BusError, Envelope, MAX_BATCH, Publisher};

use crate::error::to_js;
use crate::external;

const HEAD: usize = 2;
const COLUMNS: usize = 4;
const WORDS: usize = HEAD + COLUMNS * MAX_BATCH;

/// Written and read by JavaScript and by native code called from it, all on one thread.
pub struct BatchTable(UnsafeCell<Box<[u32]>>);

// SAFETY: only the environment's thread touches the words; the finalizer that drops them may run elsewhere, after the
// last use.
unsafe impl Send for BatchTable {}
// SAFETY: as above.
unsafe impl Sync for BatchTable {}

impl BatchTable {
    pub fn new() -> Self {
        BatchTable(UnsafeCell::new(vec![0; WORDS].into()))
    }

    fn base(&self) -> NonNull<u32> {
        // SAFETY: the box is never replaced; only the pointer is taken.
        let slice: *mut [u32] = unsafe { &raw mut **self.0.get() };
        NonNull::new(slice.cast()).expect("a box is never at address 0")
    }

    fn word(&self, n: usize) -> u32 {
        assert!(n < WORDS);
        // SAFETY: in bounds; raw because JavaScript holds a view of the same memory.
        unsafe { self.base().as_ptr().add(n).read() }
    }

    fn set(&self, n: usize, value: u32) {
        assert!(n < WORDS);
        // SAFETY: as above.
        unsafe { self.base().as_ptr().add(n).write(value) }
    }

    pub fn array_buffer(self: &Arc<Self>, env: &Env) -> Result<Unknown<'static>> {
        // SAFETY: the box lives as long as the table, and is plain memory.
        unsafe { external::array_buffer(env, self.base().cast(), 4 * WORDS, self.clone()) }
    }

    /// Writes what room there is for further messages.
    pub fn tell_room(&self, publisher: &mut Publisher) -> Result<f64> {
        let (first, room) = publisher.inline_room().map_err(|e| to_js(&e))?;
        self.set(0, first.into());
        self.set(1, room.min(MAX_BATCH as u64) as u32);
        Ok(0.0)
    }

    /// Takes the first `count` rows into the publisher's batch.
    pub fn take(&self, count: u32, publisher: &mut Publisher, destinations: &[Vec<Address>]) -> Result<()> {
        for row in 0..(count as usize).min(MAX_BATCH) {
            let [destination, length, low, high] =
                std::array::from_fn(|column| self.word(HEAD + COLUMNS * row + column));
            let envelope = Envelope { topic: u64::from(low) | u64::from(high) << 32 };
            let taken = match destinations.get(destination as usize).map(Vec::as_slice) {
                Some(&[address]) => publisher.take_inline(address, length.into(), envelope),
                _ => Err(BusError::Protocol { why: "a batch table of another version".into() }),
            };
            taken.map_err(|e| to_js(&e))?;
        }
        Ok(())
    }
}
