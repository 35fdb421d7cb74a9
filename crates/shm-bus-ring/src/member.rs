//! The member table: one entry an id in the sequencer memory, where a reader's fate is kept out of its own reach.

use crate::atomic::Ordering;
use crate::layout::{MAX_ATTACHMENTS, sequencer as at};
use crate::memory::Region;
use crate::names::AttachmentId;

/// Whether an id is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AttachState {
    /// Nobody has it.
    Free = 0,
    /// Being admitted: its attach record is not in the order yet.
    Joining = 1,
    /// Attached.
    Live = 2,
    /// Gone: its `departed` record may still be on its way.
    Departed = 3,
}

/// Whether the id's cursor counts for the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReaderState {
    /// It has no counting subscription.
    None = 0,
    /// It counts by its floor alone: its join record is not in the order yet.
    Joining = 1,
    /// It counts.
    Live = 2,
    /// It lost its place.
    Evicted = 3,
}

/// What happens when the ring is full because of this reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// Publishers wait, until the deadline; then it loses its place.
    Block = 0,
    /// Publishers wait without a deadline.
    Pinned = 1,
    /// It never counts.
    Lossy = 2,
    /// It loses its place at a set lag.
    Evict = 3,
}

/// `generation 32 | attach state 8 | reader state 8 | policy 8 | evictions 8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberWord(pub u64);

impl MemberWord {
    /// Puts a word together.
    pub fn new(
        generation: u32,
        attach: AttachState,
        reader: ReaderState,
        policy: Policy,
        evictions: u8,
    ) -> Self {
        MemberWord(
            u64::from(generation) << 32
                | (attach as u64) << 24
                | (reader as u64) << 16
                | (policy as u64) << 8
                | u64::from(evictions),
        )
    }

    /// Counts the owners of the id.
    #[inline(always)]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Attach state; bytes that mean nothing read as [`AttachState::Departed`].
    #[inline(always)]
    pub fn attach(self) -> AttachState {
        match (self.0 >> 24) as u8 {
            0 => AttachState::Free,
            1 => AttachState::Joining,
            2 => AttachState::Live,
            _ => AttachState::Departed,
        }
    }

    /// Reader state; bytes that mean nothing read as [`ReaderState::Evicted`].
    #[inline(always)]
    pub fn reader(self) -> ReaderState {
        match (self.0 >> 16) as u8 {
            0 => ReaderState::None,
            1 => ReaderState::Joining,
            2 => ReaderState::Live,
            _ => ReaderState::Evicted,
        }
    }

    /// Policy; bytes that mean nothing read as [`Policy::Block`], which has a deadline.
    #[inline(always)]
    pub fn policy(self) -> Policy {
        match (self.0 >> 8) as u8 {
            1 => Policy::Pinned,
            2 => Policy::Lossy,
            3 => Policy::Evict,
            _ => Policy::Block,
        }
    }

    /// How often this owner was evicted.
    #[inline(always)]
    pub fn evictions(self) -> u8 {
        self.0 as u8
    }

    /// Whether its cursor or its floor holds the gate.
    #[inline(always)]
    pub fn counts(self) -> bool {
        matches!(self.reader(), ReaderState::Joining | ReaderState::Live)
    }

    /// The word with another attach state.
    pub fn with_attach(self, attach: AttachState) -> Self {
        MemberWord(self.0 & !(0xFF << 24) | (attach as u64) << 24)
    }

    /// The word with another reader state.
    pub fn with_reader(self, reader: ReaderState) -> Self {
        MemberWord(self.0 & !(0xFF << 16) | (reader as u64) << 16)
    }

    /// The word with another policy.
    pub fn with_policy(self, policy: Policy) -> Self {
        MemberWord(self.0 & !(0xFF << 8) | (policy as u64) << 8)
    }

    /// The word with one more eviction.
    pub fn with_eviction(self) -> Self {
        MemberWord(self.0 & !0xFF | u64::from(self.evictions().saturating_add(1)))
    }
}

/// One entry, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The state word.
    pub word: MemberWord,
    /// Stamp below which its cursor never counts.
    pub floor: u64,
    /// Milliseconds that a full ring waits for it.
    pub deadline: u64,
    /// The lag at which it is evicted, in slots; 0 for none.
    pub max_lag: u64,
    /// Its unicast address.
    pub address: u64,
}

/// The member table.
#[derive(Clone, Copy)]
pub struct Members<'a> {
    region: &'a Region,
}

impl<'a> Members<'a> {
    pub(crate) fn new(region: &'a Region) -> Self {
        Members { region }
    }

    #[inline(always)]
    fn entry(id: AttachmentId) -> u64 {
        at::MEMBERS + (id.0 as u64 % MAX_ATTACHMENTS as u64) * at::MEMBER_BYTES
    }

    /// The state word of `id`. Acquire: pairs with SYNC member.
    #[inline(always)]
    pub fn word(&self, id: AttachmentId) -> MemberWord {
        MemberWord(self.region.load(Self::entry(id) + at::MEMBER_WORD, Ordering::Acquire))
    }

    /// The whole entry, the state word first.
    #[inline]
    pub fn read(&self, id: AttachmentId) -> Member {
        let entry = Self::entry(id);
        Member {
            word: self.word(id),
            floor: self.region.load(entry + at::MEMBER_FLOOR, Ordering::Acquire),
            deadline: self.region.load(entry + at::MEMBER_DEADLINE, Ordering::Relaxed),
            max_lag: self.region.load(entry + at::MEMBER_MAX_LAG, Ordering::Relaxed),
            address: self.region.load(entry + at::MEMBER_ADDRESS, Ordering::Relaxed),
        }
    }

    /// Replaces the state word if it is still `current`. Release, so that floor and deadline stored before are seen
    /// with it (SYNC member).
    pub fn exchange(&self, id: AttachmentId, current: MemberWord, new: MemberWord) -> Result<(), MemberWord> {
        self.region
            .compare_exchange(
                Self::entry(id) + at::MEMBER_WORD,
                current.0,
                new.0,
                Ordering::SeqCst,
                Ordering::Acquire,
            )
            .map(|_| ())
            .map_err(MemberWord)
    }

    /// Takes the place of a reader that was in the way when its word was `seen`. `true` if it did: of several who try, one.
    /// Counted, so that nobody who is late takes the place that the reader has taken since.
    pub fn evict(&self, id: AttachmentId, seen: MemberWord) -> bool {
        seen.reader() == ReaderState::Live
            && seen.policy() != Policy::Pinned
            && self.exchange(id, seen, seen.with_reader(ReaderState::Evicted).with_eviction()).is_ok()
    }

    /// Stores what the master's role decides of a reader before it counts.
    pub fn set_reader(&self, id: AttachmentId, floor: u64, deadline: u64, max_lag: u64) {
        let entry = Self::entry(id);
        self.region.store(entry + at::MEMBER_FLOOR, floor, Ordering::Relaxed);
        self.region.store(entry + at::MEMBER_DEADLINE, deadline, Ordering::Relaxed);
        self.region.store(entry + at::MEMBER_MAX_LAG, max_lag, Ordering::Relaxed);
    }

    /// Stores an entry's address.
    pub fn set_address(&self, id: AttachmentId, address: u64) {
        self.region.store(Self::entry(id) + at::MEMBER_ADDRESS, address, Ordering::Relaxed);
    }

    /// One more than the highest id ever used.
    #[inline(always)]
    pub fn high(&self) -> usize {
        (self.region.load(at::HIGH, Ordering::Acquire) as usize).min(MAX_ATTACHMENTS)
    }

    /// Raises [`Members::high`] to cover `id`.
    pub fn cover(&self, id: AttachmentId) {
        self.region.raise(at::HIGH, u64::from(id.0) + 1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_keeps_its_fields_apart() {
        let word = MemberWord::new(7, AttachState::Live, ReaderState::None, Policy::Evict, 2);
        let word = word.with_reader(ReaderState::Live).with_attach(AttachState::Departed).with_eviction();
        assert_eq!(
            (word.generation(), word.attach(), word.reader(), word.policy(), word.evictions()),
            (7, AttachState::Departed, ReaderState::Live, Policy::Evict, 3)
        );
        assert!(word.counts());
    }

    #[test]
    fn bytes_that_mean_nothing_read_as_the_harmless_state() {
        let word = MemberWord(u64::MAX);
        assert_eq!(word.attach(), AttachState::Departed);
        assert_eq!(word.reader(), ReaderState::Evicted);
        assert_eq!(word.policy(), Policy::Block);
    }
}
