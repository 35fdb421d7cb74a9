//! Who sleeps, and for what.
//!
//! The handshake (Dekker's, with each side's store before its load):
//!
//! ```text
//! reader                                   publisher
//! v = hint                                 fill the slot (compare-and-swap), fence
//! say how; count the sleep                 load the rows of the bucket
//! set own bits (fetch_or), fence           somebody there: load the count, then the kind
//! look once more                           raise the hint past the stamp, then wake
//! sleep while hint == v
//! ```
//!
//! Either the reader's last look sees the slot, or the publisher sees the bits (SYNC sleep). A bit is set and cleared
//! by its sleeper alone, or by the master's role after its death: a publisher that is killed or stopped between slot and
//! wake then delays its own message and nobody else's.

use crate::atomic::{Ordering, fence_after_rmw};
use crate::bucket::{Bucket, BucketSet};
use crate::layout::{ID_WORDS, MAX_ATTACHMENTS, payload, sequencer as at};
use crate::member::Members;
use crate::memory::Region;
use crate::names::AttachmentId;

/// How a sleeper is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SleepKind {
    /// Blocked in a futex call on the hint.
    Futex,
    /// In an event loop that polls its bell.
    Poll,
}

/// The row of those who have more buckets than they care to list.
const ANY: u8 = 0;
/// The row of everyone asleep.
const EVERYONE: u8 = 255;
/// A sleeper with more buckets than this uses the row [`ANY`].
const LISTED: u32 = 16;

/// The sleeper rows of a sequencer memory.
#[derive(Clone, Copy)]
pub struct Sleepers<'a> {
    region: &'a Region,
}

impl<'a> Sleepers<'a> {
    pub(crate) fn new(region: &'a Region) -> Self {
        Sleepers { region }
    }

    #[inline(always)]
    fn offset(row: u8, word: usize) -> u64 {
        at::SLEEPERS + u64::from(row) * at::SLEEPER_ROW + 8 * word as u64
    }

    fn for_each_row(set: &BucketSet, mut act: impl FnMut(u8)) {
        if set.len() > LISTED {
            act(ANY);
        } else {
            set.iter().filter(|b| !b.concerns_all()).for_each(|b| act(b.0));
        }
        act(EVERYONE);
    }

    fn bit(id: AttachmentId) -> (usize, u64) {
        (id.index() % MAX_ATTACHMENTS / 64, 1 << (id.0 % 64))
    }

    /// Goes to sleep for frames of `set`: counts the sleep in the sleeper's own page, sets its bits, and gives the hint
    /// to sleep on. The sleeper looks once more and only then sleeps.
    pub fn fall_asleep(&self, own: &Region, id: AttachmentId, set: &BucketSet, kind: SleepKind) -> u64 {
        // SYNC epoch: hint and kind before the count. Who has seen the count and then raises the hint ends this sleep
        // for certain, and knows how it is woken.
        let hint = self.region.load(at::HINT, Ordering::SeqCst);
        self.say_how(id, kind);
        let epoch = own.load(payload::SLEEP_EPOCH, Ordering::Relaxed).wrapping_add(1);
        own.store(payload::SLEEP_EPOCH, epoch, Ordering::Release);
        self.set_bits(id, set);
        hint
    }

    /// Announces that `id` sleeps for frames of `set`, in a sleep that was counted before.
    pub fn enter(&self, id: AttachmentId, set: &BucketSet, kind: SleepKind) {
        self.say_how(id, kind);
        self.set_bits(id, set);
    }

    fn say_how(&self, id: AttachmentId, kind: SleepKind) {
        let (word, bit) = Self::bit(id);
        let pollers = at::POLLERS + 8 * word as u64;
        match kind {
            SleepKind::Poll => self.region.fetch_or(pollers, bit, Ordering::SeqCst),
            SleepKind::Futex => self.region.fetch_and(pollers, !bit, Ordering::SeqCst),
        };
    }

    fn set_bits(&self, id: AttachmentId, set: &BucketSet) {
        let (word, bit) = Self::bit(id);
        Self::for_each_row(set, |row| {
            self.region.fetch_or(Self::offset(row, word), bit, Ordering::SeqCst);
        });
        // SYNC sleep: the bits before the last look.
        fence_after_rmw();
    }

    /// Takes the announcement back, but for what `others` of the same attachment still sleep for.
    pub fn leave(&self, id: AttachmentId, set: &BucketSet, others: &[BucketSet]) {
        let (word, bit) = Self::bit(id);
        Self::for_each_row(set, |row| {
            let mut wanted = false;
            for other in others {
                Self::for_each_row(other, |kept| wanted |= kept == row);
            }
            if !wanted {
                self.region.fetch_and(Self::offset(row, word), !bit, Ordering::SeqCst);
            }
        });
    }

    /// Clears every bit of an id whose owner is gone. Only the master's role does this.
    pub fn forget(&self, id: AttachmentId) {
        let (word, bit) = Self::bit(id);
        for row in 0..=255 {
            let offset = Self::offset(row, word);
            if self.region.load(offset, Ordering::Relaxed) & bit != 0 {
                self.region.fetch_and(offset, !bit, Ordering::SeqCst);
            }
        }
        self.region.fetch_and(at::POLLERS + 8 * word as u64, !bit, Ordering::SeqCst);
        self.region.fetch_and(at::SPACE_WAITERS + 8 * word as u64, !bit, Ordering::SeqCst);
    }

    /// Whether a frame of `bucket` concerns somebody who sleeps. Only right after the frame's slot was filled.
    #[inline(always)]
    pub fn any(&self, bucket: Bucket) -> bool {
        let words = Members::new(self.region).high().div_ceil(64);
        (0..words.min(ID_WORDS)).any(|word| self.concerned(bucket, word) != 0)
    }

    /// Those of ids `64 * word..64 * word + 64` that sleep and that a frame of `bucket` concerns.
    #[inline(always)]
    pub fn concerned(&self, bucket: Bucket, word: usize) -> u64 {
        if bucket.concerns_all() {
            self.region.load(Self::offset(EVERYONE, word), Ordering::Relaxed)
        } else {
            self.region.load(Self::offset(bucket.0, word), Ordering::Relaxed)
                | self.region.load(Self::offset(ANY, word), Ordering::Relaxed)
        }
    }

    /// How `id` sleeps, if it does.
    #[inline(always)]
    pub fn kind(&self, id: AttachmentId) -> SleepKind {
        let (word, bit) = Self::bit(id);
        match self.region.load(at::POLLERS + 8 * word as u64, Ordering::Relaxed) & bit {
            0 => SleepKind::Futex,
            _ => SleepKind::Poll,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Sequencer, layout::sequencer_bytes};

    #[test]
    fn only_those_concerned_are_found() {
        let s = Sequencer::create(Region::zeroed(sequencer_bytes(6)), 6, 0).unwrap();
        s.members().cover(AttachmentId(70));
        let mut set = BucketSet::control();
        set.insert(Bucket(9));
        s.sleepers().enter(AttachmentId(70), &set, SleepKind::Poll);
        assert!(s.sleepers().any(Bucket(9)));
        assert!(!s.sleepers().any(Bucket(10)));
        assert!(s.sleepers().any(Bucket::CONTROL) && s.sleepers().any(Bucket::MIXED));
        assert_eq!(s.sleepers().concerned(Bucket(9), 1), 1 << 6);
        assert_eq!(s.sleepers().kind(AttachmentId(70)), SleepKind::Poll);
        s.sleepers().leave(AttachmentId(70), &set, &[]);
        assert!(!s.sleepers().any(Bucket(9)) && !s.sleepers().any(Bucket::MIXED));
    }

    #[test]
    fn one_with_many_buckets_hears_of_all_of_them_and_is_forgotten_whole() {
        let s = Sequencer::create(Region::zeroed(sequencer_bytes(6)), 6, 0).unwrap();
        s.members().cover(AttachmentId(3));
        let mut set = BucketSet::control();
        (1..100).for_each(|b| set.insert(Bucket(b)));
        s.sleepers().enter(AttachmentId(3), &set, SleepKind::Futex);
        assert!(s.sleepers().any(Bucket(99)) && s.sleepers().any(Bucket(200)));
        s.sleepers().forget(AttachmentId(3));
        assert!(!s.sleepers().any(Bucket(99)) && !s.sleepers().any(Bucket::CONTROL));
    }
}
