//! The gate: the smallest counting cursor. Nothing at or above it is overwritten.
//!
//! `gate = min(s, every counting cursor)`, where `s` was found before the first cursor is read. Without `s` a reader
//! that joins during the scan is missed by it and overrun later. A gate once computed stays true (cursors only rise, and
//! who joins starts above `s`), so it is cached and never falls.

use alloc::vec::Vec;

use crate::atomic::Ordering;
use crate::bucket::{Bucket, BucketSet};
use crate::layout::payload;
use crate::member::{Member, ReaderState};
use crate::memory::View;
use crate::names::AttachmentId;
use crate::sequencer::Sequencer;

/// Where a publisher finds the pages of the attachments it has mapped.
pub trait Peers {
    /// The payload memory of `id`, if it is mapped for that generation.
    fn page(&mut self, id: AttachmentId, generation: u32) -> Option<View>;
}

/// One counting reader, as the last scan saw it.
#[derive(Clone, Copy, Debug)]
struct Counting {
    id: AttachmentId,
    cursor: u64,
    buckets: BucketSet,
}

/// A publisher's knowledge of the readers.
#[derive(Default)]
pub struct Gate {
    cached: u64,
    readers: Vec<Counting>,
    scanned_at: u64,
}

impl Gate {
    /// The gate as last computed.
    #[inline(always)]
    pub fn cached(&self) -> u64 {
        self.cached
    }

    /// Reads every counting cursor. `stamp` is the first free slot, found before.
    pub fn scan(&mut self, sequencer: &Sequencer, stamp: u64, peers: &mut impl Peers) {
        self.readers.clear();
        self.scanned_at = stamp;
        let mut gate = stamp;
        let members = sequencer.members();
        for id in (0..members.high() as u16).map(AttachmentId) {
            let member = members.read(id);
            if !member.word.counts() {
                continue;
            }
            let (cursor, buckets) = counting_value(&member, stamp, peers.page(id, member.word.generation()));
            gate = gate.min(cursor);
            self.readers.push(Counting { id, cursor, buckets });
        }
        self.cached = self.cached.max(gate);
    }

    /// Whether every counting reader that may read a frame of `bucket` had passed `stamp` at the last scan.
    #[inline]
    pub fn has_passed(&self, stamp: u64, bucket: Bucket) -> bool {
        stamp < self.cached
            || stamp < self.scanned_at
                && self.readers.iter().all(|r| r.cursor > stamp || !r.buckets.contains(bucket))
    }

    /// The reader that holds the order ring: the one with the smallest cursor at the last scan.
    pub fn slowest(&self) -> Option<(AttachmentId, u64)> {
        self.readers.iter().min_by_key(|r| r.cursor).map(|r| (r.id, r.cursor))
    }

    /// The reader that holds a frame of `bucket` published at `stamp`.
    pub fn holder(&self, stamp: u64, bucket: Bucket) -> Option<(AttachmentId, u64)> {
        self.readers
            .iter()
            .filter(|r| r.cursor <= stamp && r.buckets.contains(bucket))
            .min_by_key(|r| r.cursor)
            .map(|r| (r.id, r.cursor))
    }

    /// The readers that counted at the last scan, with their cursors.
    pub fn readers(&self) -> impl Iterator<Item = (AttachmentId, u64)> + '_ {
        self.readers.iter().map(|r| (r.id, r.cursor))
    }
}

/// What a reader's cursor counts as: clamped between its floor and `stamp`, so that neither a forged value nor one from
/// before its join does harm; its floor alone while its page is not mapped, or it is joining.
fn counting_value(member: &Member, stamp: u64, page: Option<View>) -> (u64, BucketSet) {
    match page {
        Some(page) if member.word.reader() == ReaderState::Live => {
            // SYNC release: what the reader did with the frames below its cursor happened before they are overwritten.
            let cursor = page.load(payload::CURSOR, Ordering::Acquire);
            let mut set = BucketSet::default();
            for (i, word) in set.0.iter_mut().enumerate() {
                *word = page.load(payload::BUCKETS + 8 * i as u64, Ordering::Acquire);
            }
            (cursor.max(member.floor).min(stamp), set.union(&BucketSet::control()))
        }
        _ => (member.floor.min(stamp), BucketSet([u64::MAX; 4])),
    }
}
