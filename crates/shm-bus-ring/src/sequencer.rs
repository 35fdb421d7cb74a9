//! The sequencer ring: the one shared array whose slot numbers are the stamps.
//!
//! Filling a slot is one compare-and-swap from the word of the previous lap to a complete new word: the linearization
//! point of a publish. A slot is tried only after the one before it was seen filled, so the order has no holes and
//! respects real time. The idea of a lap tag in each cell follows Vyukov's bounded queue; that a cell is filled by a
//! single swap with nothing claimed before is what makes a death at any instruction harmless.

use core::fmt;

use crate::atomic::{AcquireRelease, Ordering, fence_after_rmw};
use crate::layout::{LAYOUT_VERSION, SEQUENCER_MAGIC, sequencer as at, sequencer_bytes};
use crate::member::{Members, Policy};
use crate::memory::Region;
use crate::names::AttachmentId;
use crate::sleep::Sleepers;
use crate::slot::SlotWord;

/// A bus's sequencer memory.
#[derive(Clone)]
pub struct Sequencer {
    region: Region,
    log2_slots: u32,
}

/// The first free slot, as [`Sequencer::find`] saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The stamp that a publish would get.
    pub stamp: u64,
    /// The word that stands there.
    pub(crate) word: SlotWord,
}

/// How often the tail is looked for before the order is given up. A walk may be stopped for as long as others need to
/// publish a lap.
const WALKS: u32 = 4;

/// Why a sequencer memory cannot be used, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spoiled {
    /// Not a sequencer memory.
    Magic(u64),
    /// Another layout version.
    Version(u64),
    /// The slot count is not a power of two in range, or does not fit the memory.
    SlotCount(u64),
    /// No free slot within a lap of any stamp that the hint gives: somebody has scribbled over the order.
    NoTail {
        /// Where the search gave up.
        at: u64,
    },
}

impl fmt::Display for Spoiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Magic(word) => write!(f, "not a sequencer memory: magic {word:#018x}"),
            Self::Version(version) => write!(f, "layout version {version}, this build has {LAYOUT_VERSION}"),
            Self::SlotCount(n) => write!(f, "a slot count of {n} does not fit the memory"),
            Self::NoTail { at } => write!(f, "the order was overwritten around stamp {at}"),
        }
    }
}

impl core::error::Error for Spoiled {}

impl Sequencer {
    /// Fewest and most slots, as powers of two.
    pub const LOG2_SLOTS: core::ops::RangeInclusive<u32> = 6..=24;
    /// Slots of a bus unless its creator says otherwise: 2^18, a lap of 26 ms at 10 million messages a second.
    pub const DEFAULT_LOG2_SLOTS: u32 = 18;

    /// Makes a sequencer of zeroed memory. Slot 0 is filled here and never read, so that stamp 0 means "none".
    pub fn create(region: Region, log2_slots: u32, bus_id: u128) -> Result<Self, Spoiled> {
        if !Self::LOG2_SLOTS.contains(&log2_slots) || region.len() != sequencer_bytes(log2_slots) {
            return Err(Spoiled::SlotCount(1u64.checked_shl(log2_slots).unwrap_or(0)));
        }
        let sequencer = Sequencer { region, log2_slots };
        let region = &sequencer.region;
        region.store(at::VERSION, LAYOUT_VERSION, Ordering::Relaxed);
        region.store(at::SLOT_COUNT, sequencer.slot_count(), Ordering::Relaxed);
        region.store(at::BUS_ID_LOW, bus_id as u64, Ordering::Relaxed);
        region.store(at::BUS_ID_HIGH, (bus_id >> 64) as u64, Ordering::Relaxed);
        let genesis = SlotWord::new(0, log2_slots, AttachmentId(0), 0, crate::Bucket::CONTROL);
        region.store(at::SLOTS, genesis.0, Ordering::Relaxed);
        region.store(at::HINT, 1, Ordering::Relaxed);
        region.store(at::MAGIC, SEQUENCER_MAGIC, Ordering::Release);
        Ok(sequencer)
    }

    /// Opens a sequencer that somebody else made. Each word of its description is read once and checked.
    pub fn open(region: Region) -> Result<Self, Spoiled> {
        if region.len() < at::SLOTS {
            return Err(Spoiled::SlotCount(0));
        }
        let magic = region.load(at::MAGIC, Ordering::Acquire);
        if magic != SEQUENCER_MAGIC {
            return Err(Spoiled::Magic(magic));
        }
        let version = region.load(at::VERSION, Ordering::Relaxed);
        if version != LAYOUT_VERSION {
            return Err(Spoiled::Version(version));
        }
        let count = region.load(at::SLOT_COUNT, Ordering::Relaxed);
        let log2_slots = count.trailing_zeros();
        if !count.is_power_of_two()
            || !Self::LOG2_SLOTS.contains(&log2_slots)
            || region.len() != sequencer_bytes(log2_slots)
        {
            return Err(Spoiled::SlotCount(count));
        }
        Ok(Sequencer { region, log2_slots })
    }

    /// A sequencer for the model checker, over words that it lists.
    #[cfg(loom)]
    pub fn model(region: Region, log2_slots: u32) -> Self {
        Sequencer { region, log2_slots }
    }

    /// The random id of this bus.
    pub fn bus_id(&self) -> u128 {
        u128::from(self.region.load(at::BUS_ID_LOW, Ordering::Relaxed))
            | u128::from(self.region.load(at::BUS_ID_HIGH, Ordering::Relaxed)) << 64
    }

    /// Number of slots N.
    #[inline(always)]
    pub fn slot_count(&self) -> u64 {
        1 << self.log2_slots
    }

    /// log2 of the number of slots.
    #[inline(always)]
    pub fn log2_slots(&self) -> u32 {
        self.log2_slots
    }

    /// The member table.
    #[inline(always)]
    pub fn members(&self) -> Members<'_> {
        Members::new(&self.region)
    }

    /// Who sleeps.
    #[inline(always)]
    pub fn sleepers(&self) -> Sleepers<'_> {
        Sleepers::new(&self.region)
    }

    #[inline(always)]
    fn slot_offset(&self, stamp: u64) -> u64 {
        at::SLOTS + (stamp & (self.slot_count() - 1)) * 8
    }

    /// The word in the slot of `stamp`. Acquire: what its sender wrote before the swap is visible (SYNC publish).
    #[inline(always)]
    pub fn slot(&self, stamp: u64) -> SlotWord {
        SlotWord(self.region.load(self.slot_offset(stamp), Ordering::Acquire))
    }

    /// Whether the slot of `stamp` is filled, in its lap or a later one.
    #[inline(always)]
    pub fn is_filled(&self, stamp: u64) -> bool {
        self.slot(stamp).laps_ahead(stamp, self.log2_slots) >= 0
    }

    /// Finds the first free slot, starting from the tail hint: a slot that holds the previous lap's word while the
    /// slot before it was seen filled. A hint that lags costs steps, one that is ahead makes the walk step back. A walk
    /// gives up after one lap of steps; because others may have overtaken it meanwhile it is begun again at the hint,
    /// up to [`WALKS`] in all, before the order is given up as [`Spoiled::NoTail`].
    pub fn find(&self) -> Result<Found, Spoiled> {
        self.find_from(self.region.load(at::HINT, Ordering::Acquire))
    }

    /// [`Sequencer::find`] from a stamp of the caller's choice.
    #[inline(never)]
    pub fn find_from(&self, hint: u64) -> Result<Found, Spoiled> {
        let mut walk = self.walk(hint);
        for _ in 1..WALKS {
            if walk.is_ok() {
                break;
            }
            walk = self.walk(self.region.load(at::HINT, Ordering::Acquire));
        }
        walk
    }

    /// [`Sequencer::find`] from a stamp whose neighbour below the caller has seen filled (I-TAIL): one load where nobody
    /// else has published since.
    #[inline(always)]
    pub(crate) fn find_behind(&self, seen: u64) -> Result<Found, Spoiled> {
        let word = self.slot(seen);
        match word.laps_ahead(seen, self.log2_slots) {
            -1 => Ok(Found { stamp: seen, word }),
            laps if laps < 0 => self.find_from(seen),
            _ => self.find_from(self.hint().max(seen)),
        }
    }

    fn walk(&self, hint: u64) -> Result<Found, Spoiled> {
        let mut stamp = hint.max(1);
        let mut seen_before = false;
        let mut steps = 0;
        loop {
            // Stamp 0, or one that no bus lives to see: arithmetic on it could overflow.
            if stamp.wrapping_sub(1) >= 1 << 62 {
                return Err(Spoiled::NoTail { at: stamp });
            }
            let word = self.slot(stamp);
            match word.laps_ahead(stamp, self.log2_slots) {
                -1 if seen_before || self.slot(stamp - 1).laps_ahead(stamp - 1, self.log2_slots) >= 0 => {
                    return Ok(Found { stamp, word });
                }
                // The slot is free but so is its neighbour, or it holds an older lap: the hint is ahead of the tail.
                laps if laps < 0 => {
                    seen_before = false;
                    stamp = stamp.saturating_sub(1);
                }
                0 => {
                    seen_before = true;
                    stamp += 1;
                }
                // The slot is laps ahead: everything up to there is filled, so the walk jumps.
                laps => {
                    seen_before = false;
                    stamp = stamp.wrapping_add((laps as u64) << self.log2_slots);
                }
            }
            steps += 1;
            if steps > self.slot_count() + 2 {
                return Err(Spoiled::NoTail { at: stamp });
            }
        }
    }

    /// Swaps `new` into a found slot: the publish. Fails with the word that got there first.
    #[inline(always)]
    pub(crate) fn fill(&self, found: Found, new: SlotWord) -> Result<(), SlotWord> {
        // SYNC publish: releases the frame to every reader that acquires this slot.
        let swapped = self.region.compare_exchange(
            self.slot_offset(found.stamp),
            found.word.0,
            new.0,
            AcquireRelease::SUCCESS,
            AcquireRelease::FAILURE,
        );
        fence_after_rmw();
        swapped.map(|_| ()).map_err(SlotWord)
    }

    /// The tail hint: how many slots are filled at least, while nobody scribbles.
    #[inline(always)]
    pub fn hint(&self) -> u64 {
        self.region.load(at::HINT, Ordering::SeqCst)
    }

    /// Raises the hint to `tail`; `false` if it was there already. Never lowers it, so a publisher that was stopped
    /// cannot drag it back by laps.
    #[inline]
    pub fn raise_hint(&self, tail: u64) -> bool {
        self.region.raise(at::HINT, tail, Ordering::SeqCst)
    }

    /// Offset of the futex word that readers sleep on: the low half of the hint.
    pub fn hint_futex_offset(&self) -> u64 {
        at::HINT
    }

    /// The smallest lag, in slots, at which a reader wants to lose its place; 0 if none does. A hint: what counts is in
    /// its member entry.
    #[inline(always)]
    pub fn eviction_lag(&self) -> u64 {
        self.region.load(at::EVICTION_LAG, Ordering::Relaxed)
    }

    /// Computes [`Sequencer::eviction_lag`] from the member table. Only the master's role does this.
    pub fn refresh_eviction_lag(&self) {
        let members = self.members();
        let lags = (0..members.high() as u16).filter_map(|id| {
            let member = members.read(AttachmentId(id));
            (member.word.counts() && member.word.policy() == Policy::Evict).then_some(member.max_lag)
        });
        self.region.store(at::EVICTION_LAG, lags.min().unwrap_or(0), Ordering::Relaxed);
    }

    /// How long the ring has been full at `stamp`, in milliseconds, `now` being the monotonic clock in milliseconds.
    /// The first who finds it full at that stamp starts the count.
    pub fn full_for(&self, stamp: u64, now: u64) -> u64 {
        const STAMP_BITS: u64 = (1 << 24) - 1;
        const TIME_BITS: u64 = (1 << 40) - 1;
        let mine = (now & TIME_BITS) << 24 | stamp & STAMP_BITS;
        let word = self.region.load(at::FULL_SINCE, Ordering::Acquire);
        if word != 0 && word & STAMP_BITS == stamp & STAMP_BITS {
            return (now & TIME_BITS).saturating_sub(word >> 24);
        }
        match self.region.compare_exchange(at::FULL_SINCE, word, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => 0,
            Err(other) if other & STAMP_BITS == stamp & STAMP_BITS => {
                (now & TIME_BITS).saturating_sub(other >> 24)
            }
            Err(_) => 0,
        }
    }

    /// The memory itself, for futex calls on it.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Bucket;

    fn sequencer() -> Sequencer {
        Sequencer::create(Region::zeroed(sequencer_bytes(6)), 6, 7).unwrap()
    }

    fn fill(s: &Sequencer) -> u64 {
        let found = s.find().unwrap();
        s.fill(found, SlotWord::new(found.stamp, 6, AttachmentId(1), 0, Bucket(1))).unwrap();
        found.stamp
    }

    #[test]
    fn stamps_count_up_without_a_hole_whatever_the_hint() {
        let s = sequencer();
        for want in 1..1000 {
            assert_eq!(fill(&s), want);
            if want % 7 == 0 {
                s.raise_hint(want + 1);
            }
            // A hint from the future costs steps, no order. (Forged: the real one only rises to what is filled.)
            if want % 50 == 0 {
                s.region.store(at::HINT, want + 40, Ordering::Relaxed);
                assert_eq!(s.find().unwrap().stamp, want + 1);
                s.region.store(at::HINT, want.saturating_sub(300).max(1), Ordering::Relaxed);
                assert_eq!(s.find().unwrap().stamp, want + 1);
            }
        }
    }

    #[test]
    fn a_publisher_that_was_stopped_for_laps_does_not_drag_the_hint_back() {
        let s = sequencer();
        for _ in 0..300 {
            fill(&s);
        }
        assert!(s.raise_hint(301));
        assert!(!s.raise_hint(9));
        assert_eq!(s.hint(), 301);
    }

    #[test]
    fn a_scribbled_order_is_given_up_within_a_lap() {
        let s = sequencer();
        for stamp in 0..64 {
            s.region.store(at::SLOTS + 8 * stamp, u64::MAX ^ stamp << 40, Ordering::Relaxed);
        }
        assert!(matches!(s.find(), Err(Spoiled::NoTail { .. })));
        s.region.store(at::HINT, u64::MAX, Ordering::Relaxed);
        assert!(matches!(s.find(), Err(Spoiled::NoTail { .. })));
    }

    #[test]
    fn what_is_opened_is_checked() {
        let region = Region::zeroed(sequencer_bytes(6));
        assert_eq!(Sequencer::open(region.clone()).err(), Some(Spoiled::Magic(0)));
        Sequencer::create(region.clone(), 6, 1).unwrap();
        assert_eq!(Sequencer::open(region.clone()).unwrap().bus_id(), 1);
        region.store(at::SLOT_COUNT, 1 << 12, Ordering::Relaxed);
        assert_eq!(Sequencer::open(region.clone()).err(), Some(Spoiled::SlotCount(4096)));
        region.store(at::VERSION, 2, Ordering::Relaxed);
        assert_eq!(Sequencer::open(region).err(), Some(Spoiled::Version(2)));
    }

    #[test]
    fn full_counts_from_the_first_who_found_it() {
        let s = sequencer();
        assert_eq!(s.full_for(10, 1000), 0);
        assert_eq!(s.full_for(10, 1060), 60);
        assert_eq!(s.full_for(11, 1070), 0);
        assert_eq!(s.full_for(11, 1071), 1);
    }
}
