//! Bytes that one writer replaces again and again and others copy out, whole and without waiting: two copies and an
//! index word that names one of them.
//!
//! The writer fills the copy that is not named and names it by one store; a reader copies the named one and looks whether
//! the name still holds. A writer that stops halfway leaves the other copy good.

use alloc::vec;
use alloc::vec::Vec;

use crate::atomic::{Ordering, fence};
use crate::layout::PAGE;
use crate::memory::{Region, View};

/// Counts the writes; its parity names the copy that is whole.
const INDEX: u64 = 0;
/// The first copy; the second follows. Each is a length word and the bytes.
const COPIES: u64 = PAGE;
const COPY_BYTES: u64 = 64 * PAGE;
/// Bytes of the memory.
pub const BYTES: u64 = COPIES + 2 * COPY_BYTES;
/// The most bytes of one write.
pub const MAX_BYTES: u64 = COPY_BYTES - 8;

fn copy_at(index: u64) -> u64 {
    COPIES + (index & 1) * COPY_BYTES
}

/// Replaces the bytes, at most [`MAX_BYTES`]; more panic.
pub fn write(own: &Region, bytes: &[u8]) {
    assert!(bytes.len() as u64 <= MAX_BYTES, "more bytes than a copy holds");
    let next = own.load(INDEX, Ordering::Relaxed) + 1;
    let copy = copy_at(next);
    // SYNC directory: whoever reads the new bytes of this copy finds the index changed.
    fence(Ordering::Release);
    own.store(copy, bytes.len() as u64, Ordering::Relaxed);
    own.copy_in(copy + 8, bytes);
    own.store(INDEX, next, Ordering::Release);
}

/// The bytes as they were at some moment of this call; none if each of `rounds` looks was overtaken by two writes.
pub fn read(view: &View, rounds: usize) -> Option<Vec<u8>> {
    for _ in 0..rounds {
        let index = view.load(INDEX, Ordering::Acquire);
        let copy = copy_at(index);
        let length = view.load(copy, Ordering::Relaxed).min(MAX_BYTES);
        let mut bytes = vec![0; length as usize];
        view.copy_out(copy + 8, &mut bytes);
        fence(Ordering::Acquire);
        if view.load(INDEX, Ordering::Relaxed) == index {
            return Some(bytes);
        }
    }
    None
}
