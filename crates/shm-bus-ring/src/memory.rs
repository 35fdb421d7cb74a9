//! Access to memory that other processes may write at any moment.
//!
//! The two laws of such memory: never a Rust reference into it (`&T` and `&[u8]` promise that nobody else writes), and
//! every word is read once into a local, checked, then used. So all access goes through [`View`] and [`Region`]: atomic
//! loads and stores of aligned 64-bit words at bounds-checked offsets, and copies of payload bytes through raw
//! pointers. A [`View`] can only load, because a read-modify-write faults on a page that is mapped read-only.

use alloc::sync::Arc;
#[cfg(not(loom))]
use core::any::Any;
use core::ops::Deref;

use crate::atomic::Ordering;

/// Bytes of a header entry.
#[cfg(not(loom))]
const ENTRY: usize = crate::layout::payload::ENTRY_BYTES as usize;

#[cfg(not(loom))]
mod words {
    use super::{Any, Arc, ENTRY};
    use core::marker::PhantomData;
    use core::ptr::NonNull;
    use core::sync::atomic::AtomicU64;

    /// A mapping, kept alive by whoever owns it.
    #[derive(Clone)]
    pub struct Words {
        base: NonNull<u8>,
        len: u64,
        _owner: Arc<dyn Any + Send + Sync>,
    }

    // SAFETY: the pointer is only used for atomic access and raw copies, and the owner that keeps it mapped is Send.
    unsafe impl Send for Words {}
    // SAFETY: as above; atomics may be used from several threads at once.
    unsafe impl Sync for Words {}

    impl Words {
        /// # Safety
        /// `base..base + len` stays mapped while `owner` lives, is aligned to 8 (checked, as is `len`) and readable.
        pub unsafe fn new(base: NonNull<u8>, len: u64, owner: Arc<dyn Any + Send + Sync>) -> Self {
            assert!(base.addr().get().is_multiple_of(8) && len.is_multiple_of(8));
            Words { base, len, _owner: owner }
        }

        pub fn len(&self) -> u64 {
            self.len
        }

        #[inline(always)]
        pub fn word(&self, offset: u64) -> &AtomicU64 {
            assert!(offset.is_multiple_of(8) && offset < self.len, "offset out of bounds");
            // SAFETY: the assertion keeps the word inside the mapping, whose length is a multiple of 8, and aligned
            // (I-MAP: mapped while the owner lives). An atomic may be written by others at any time.
            unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset as usize).cast()) }
        }

        #[inline(always)]
        fn bytes(&self, offset: u64, len: usize) -> *mut u8 {
            assert!(offset <= self.len && self.len - offset >= len as u64, "bytes out of bounds");
            // SAFETY: in bounds by the assertion (I-MAP).
            unsafe { self.base.as_ptr().add(offset as usize) }
        }

        #[inline(always)]
        pub fn copy_out(&self, offset: u64, target: &mut [u8]) {
            let from = self.bytes(offset, target.len());
            // SAFETY: in bounds; the target is ours and cannot overlap a mapping that no reference points into. The
            // bytes may change meanwhile: the caller validates afterwards (I-LEASE) or holds the gate (I-GATE).
            unsafe { core::ptr::copy_nonoverlapping(from.cast_const(), target.as_mut_ptr(), target.len()) }
        }

        #[inline(always)]
        pub fn copy_in(&self, offset: u64, source: &[u8]) {
            let to = self.bytes(offset, source.len());
            // SAFETY: in bounds; `copy` because a caller may publish bytes that it received in place.
            unsafe { core::ptr::copy(source.as_ptr(), to, source.len()) }
        }

        pub fn pointer(&self, offset: u64, len: usize) -> NonNull<u8> {
            NonNull::new(self.bytes(offset, len)).expect("a mapping is never at address 0")
        }

        #[inline(always)]
        pub fn entry(&self, offset: u64) -> Entry<'_> {
            let bytes = self.bytes(offset, ENTRY);
            assert!(offset.is_multiple_of(8), "entry out of place");
            Entry { bytes, words: PhantomData }
        }
    }

    /// The words of one header entry: bounds and alignment were checked once.
    pub struct Entry<'a> {
        bytes: *mut u8,
        words: PhantomData<&'a Words>,
    }

    impl Entry<'_> {
        #[inline(always)]
        pub fn word(&self, at: u64) -> &AtomicU64 {
            assert!(at.is_multiple_of(8) && at <= ENTRY as u64 - 8, "word outside its entry");
            // SAFETY: inside the entry, which was inside the mapping (I-MAP), and aligned as the entry is.
            unsafe { AtomicU64::from_ptr(self.bytes.add(at as usize).cast()) }
        }
    }
}

#[cfg(loom)]
mod words {
    use super::Arc;
    use loom::sync::atomic::{AtomicU64, Ordering};
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// Called with the offset before each access.
    pub type Watch = Arc<dyn Fn(u64) + Send + Sync>;

    /// Under the model checker memory is a sparse set of words: only those listed at creation exist.
    #[derive(Clone)]
    pub struct Words {
        words: Arc<BTreeMap<u64, AtomicU64>>,
        len: u64,
        watch: Watch,
    }

    impl Words {
        pub fn sparse(len: u64, used: impl IntoIterator<Item = (u64, u64)>, watch: Watch) -> Self {
            let words = used.into_iter().map(|(offset, value)| (offset, AtomicU64::new(value))).collect();
            Words { words: Arc::new(words), len, watch }
        }

        pub fn len(&self) -> u64 {
            self.len
        }

        pub fn word(&self, offset: u64) -> &AtomicU64 {
            (self.watch)(offset);
            self.words.get(&offset).unwrap_or_else(|| panic!("word {offset} is not part of this model"))
        }

        pub fn entry(&self, offset: u64) -> Entry<'_> {
            Entry { words: self, offset }
        }

        pub fn copy_out(&self, offset: u64, target: &mut [u8]) {
            for (i, chunk) in target.chunks_mut(8).enumerate() {
                let word = self.word(offset + 8 * i as u64).load(Ordering::Relaxed);
                chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
            }
        }

        pub fn copy_in(&self, offset: u64, source: &[u8]) {
            for (i, chunk) in source.chunks(8).enumerate() {
                let mut word: Vec<u8> = chunk.to_vec();
                word.resize(8, 0);
                let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
                self.word(offset + 8 * i as u64).store(word, Ordering::Relaxed);
            }
        }
    }

    /// The words of one header entry.
    pub struct Entry<'a> {
        words: &'a Words,
        offset: u64,
    }

    impl Entry<'_> {
        pub fn word(&self, at: u64) -> &AtomicU64 {
            self.words.word(self.offset + at)
        }
    }
}

/// Foreign memory: loads only.
#[derive(Clone)]
pub struct View {
    words: words::Words,
}

impl View {
    /// A view of `len` bytes at `base`.
    ///
    /// # Safety
    /// The bytes are mapped readable, 8-byte aligned, and stay so while `owner` lives; they never shrink under the
    /// mapping (sealed memory).
    #[cfg(not(loom))]
    pub unsafe fn new(base: core::ptr::NonNull<u8>, len: u64, owner: Arc<dyn Any + Send + Sync>) -> Self {
        // SAFETY: the caller's promise is the callee's.
        let words = unsafe { words::Words::new(base, len, owner) };
        View { words }
    }

    /// Bytes in view.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.words.len()
    }

    /// Loads the word at `offset` (a multiple of 8 inside the view; anything else panics).
    #[inline(always)]
    pub fn load(&self, offset: u64, order: Ordering) -> u64 {
        self.words.word(offset).load(order)
    }

    /// The header entry at `offset`, checked once for all its words.
    #[inline(always)]
    pub(crate) fn entry(&self, offset: u64) -> EntryView<'_> {
        EntryView(self.words.entry(offset))
    }

    /// Copies bytes out. They may be torn: validate afterwards or hold the gate.
    #[inline(always)]
    pub fn copy_out(&self, offset: u64, target: &mut [u8]) {
        self.words.copy_out(offset, target);
    }

    /// The address of `len` bytes at `offset`, for a futex call or a JavaScript view; never to be made a reference.
    #[cfg(not(loom))]
    pub fn pointer(&self, offset: u64, len: usize) -> core::ptr::NonNull<u8> {
        self.words.pointer(offset, len)
    }
}

/// Memory that this attachment may write: its own, or the sequencer's.
#[derive(Clone)]
pub struct Region(View);

impl Deref for Region {
    type Target = View;
    fn deref(&self) -> &View {
        &self.0
    }
}

impl Region {
    /// A region of `len` bytes at `base`.
    ///
    /// # Safety
    /// As for [`View::new`], and the bytes are mapped writable.
    #[cfg(not(loom))]
    pub unsafe fn new(base: core::ptr::NonNull<u8>, len: u64, owner: Arc<dyn Any + Send + Sync>) -> Self {
        // SAFETY: the caller's promise is the callee's.
        Region(unsafe { View::new(base, len, owner) })
    }

    /// A region for the model checker: only the listed `(offset, value)` words exist, and `watch` is called with the
    /// offset before each access.
    #[cfg(loom)]
    pub fn sparse(
        len: u64,
        used: impl IntoIterator<Item = (u64, u64)>,
        watch: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Self {
        Region(View { words: words::Words::sparse(len, used, watch) })
    }

    /// Zeroed memory of this process, for tests and models of the algorithms.
    #[cfg(not(loom))]
    pub fn zeroed(len: u64) -> Self {
        use core::sync::atomic::AtomicU64;
        let words: Arc<[AtomicU64]> = (0..len.div_ceil(8)).map(|_| AtomicU64::new(0)).collect();
        let base = core::ptr::NonNull::from(&*words).cast::<u8>();
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(words);
        // SAFETY: the owner keeps the words alive; `AtomicU64` is 8-byte aligned and may be written through a shared
        // pointer.
        unsafe { Region::new(base, len, owner) }
    }

    /// The own header entry at `offset`, checked once for all its words.
    #[inline(always)]
    pub(crate) fn entry_mut(&self, offset: u64) -> EntryRegion<'_> {
        EntryRegion(EntryView(self.words.entry(offset)))
    }

    /// The same memory with the right to write given up.
    pub fn view(&self) -> View {
        self.0.clone()
    }

    /// Stores a word.
    #[inline(always)]
    pub fn store(&self, offset: u64, value: u64, order: Ordering) {
        self.words.word(offset).store(value, order);
    }

    /// Swaps `new` in if the word is `current`; otherwise gives what it is.
    #[inline(always)]
    pub fn compare_exchange(
        &self,
        offset: u64,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.words.word(offset).compare_exchange(current, new, success, failure)
    }

    /// Sets bits, gives the word as it was.
    #[inline(always)]
    pub fn fetch_or(&self, offset: u64, bits: u64, order: Ordering) -> u64 {
        self.words.word(offset).fetch_or(bits, order)
    }

    /// Keeps only `bits`, gives the word as it was.
    #[inline(always)]
    pub fn fetch_and(&self, offset: u64, bits: u64, order: Ordering) -> u64 {
        self.words.word(offset).fetch_and(bits, order)
    }

    /// Adds, wrapping; gives the word as it was.
    #[inline(always)]
    pub fn fetch_add(&self, offset: u64, value: u64, order: Ordering) -> u64 {
        self.words.word(offset).fetch_add(value, order)
    }

    /// Raises the word to `value` if it is smaller (signed distance, so that it also works across a wrap); `false` if it
    /// was not.
    #[inline]
    pub fn raise(&self, offset: u64, value: u64, success: Ordering) -> bool {
        let word = self.words.word(offset);
        let mut current = word.load(Ordering::Relaxed);
        while (value.wrapping_sub(current) as i64) > 0 {
            match word.compare_exchange(current, value, success, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(newer) => current = newer,
            }
        }
        false
    }

    /// Adds to a counter that only this thread writes.
    #[inline(always)]
    pub fn count(&self, offset: u64, more: u64) {
        let word = self.words.word(offset);
        word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Copies bytes in.
    #[inline(always)]
    pub fn copy_in(&self, offset: u64, source: &[u8]) {
        self.words.copy_in(offset, source);
    }
}

/// One header entry: loads only. Offsets are from its start.
pub(crate) struct EntryView<'a>(words::Entry<'a>);

impl EntryView<'_> {
    #[inline(always)]
    pub fn load(&self, at: u64, order: Ordering) -> u64 {
        self.0.word(at).load(order)
    }
}

/// One header entry of one's own.
pub(crate) struct EntryRegion<'a>(EntryView<'a>);

impl<'a> Deref for EntryRegion<'a> {
    type Target = EntryView<'a>;
    fn deref(&self) -> &EntryView<'a> {
        &self.0
    }
}

impl EntryRegion<'_> {
    #[inline(always)]
    pub fn store(&self, at: u64, value: u64, order: Ordering) {
        self.0.0.word(at).store(value, order);
    }
}
