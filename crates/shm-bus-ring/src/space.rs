//! Waiting for space: the mirror image of sleeping for a message.
//!
//! ```text
//! publisher                                reader
//! set own bit, fence                       store the cursor, fence
//! v = space                                load the bits
//! try once more                            somebody there: add to space, then wake
//! wait while space == v
//! ```
//!
//! Either the publisher's last try sees the cursor, or the reader sees the bit (SYNC space).

use crate::atomic::{Ordering, fence, fence_after_rmw};
use crate::layout::{MAX_ATTACHMENTS, payload, sequencer as at};
use crate::memory::Region;
use crate::names::AttachmentId;
use crate::sequencer::Sequencer;

impl Sequencer {
    /// Offset of the futex word that publishers waiting for space sleep on.
    pub fn space_futex_offset(&self) -> u64 {
        at::SPACE
    }

    /// Stores the cursor of a reader in its own page: everything below it has been read. `true` if a publisher waits for
    /// space: then [`Sequencer::release_space`] comes next.
    #[inline]
    pub fn store_cursor(&self, own: &Region, cursor: u64) -> bool {
        // SYNC release: everything read below the cursor happened before a publisher sees it.
        own.store(payload::CURSOR, cursor, Ordering::Release);
        // SYNC space: the cursor before the look at who waits.
        fence(Ordering::SeqCst);
        self.space_wanted()
    }

    /// Whether a publisher of some attachment waits for space.
    #[inline]
    fn space_wanted(&self) -> bool {
        (0..self.members().high().div_ceil(64)).any(|w| self.space_waiters(w) != 0)
    }

    /// Word `index` (64 ids) of those who wait for space.
    #[inline(always)]
    pub fn space_waiters(&self, index: usize) -> u64 {
        self.region().load(at::SPACE_WAITERS + 8 * index as u64, Ordering::Relaxed)
    }

    /// Sets or clears the bit of a publisher that waits for space. The waiter sets it, loads [`Sequencer::space`], tries
    /// once more and only then waits.
    pub fn wait_for_space(&self, id: AttachmentId, waiting: bool) {
        let offset = at::SPACE_WAITERS + 8 * (id.index() % MAX_ATTACHMENTS / 64) as u64;
        let bit = 1u64 << (id.0 % 64);
        if waiting {
            self.region().fetch_or(offset, bit, Ordering::SeqCst);
            fence_after_rmw();
        } else {
            self.region().fetch_and(offset, !bit, Ordering::SeqCst);
        }
    }

    /// The space word.
    pub fn space(&self) -> u64 {
        self.region().load(at::SPACE, Ordering::SeqCst)
    }

    /// Counts a release of space, before the waiters are woken.
    pub fn release_space(&self) {
        self.region().fetch_add(at::SPACE, 1, Ordering::SeqCst);
    }
}
