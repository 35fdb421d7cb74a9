//! The slot word: all that a publish puts into the shared order, in one 64-bit word.

use crate::bucket::Bucket;
use crate::names::AttachmentId;

/// `lap tag 30 | sender id 10 | header index 16 | bucket 8`.
///
/// The tag of lap `l` is `(l + 1) mod 2^30`, so a slot that was never written (0) carries the tag of the lap before
/// the first. With 2^18 slots and 10 million messages a second a tag comes round after 326 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotWord(pub u64);

const TAG_BITS: u32 = 30;
const TAG_SHIFT: u32 = 64 - TAG_BITS;

impl SlotWord {
    /// The word that names header `index` of `sender` in slot `stamp` of a ring of `1 << log2_slots` slots.
    #[inline(always)]
    pub fn new(stamp: u64, log2_slots: u32, sender: AttachmentId, index: u16, bucket: Bucket) -> Self {
        let tag = (stamp >> log2_slots).wrapping_add(1);
        SlotWord(
            tag << TAG_SHIFT
                | u64::from(sender.0 & 0x3FF) << 24
                | u64::from(index) << 8
                | u64::from(bucket.0),
        )
    }

    /// How many laps this word is ahead of the lap of `stamp`: 0 when the slot is filled for `stamp`, -1 when it still
    /// holds the previous lap, positive when the slot has moved on. The tags are compared as 30-bit signed numbers.
    #[inline(always)]
    pub fn laps_ahead(self, stamp: u64, log2_slots: u32) -> i64 {
        let want = (stamp >> log2_slots).wrapping_add(1) << TAG_SHIFT;
        ((self.0 & !((1 << TAG_SHIFT) - 1)).wrapping_sub(want) as i64) >> TAG_SHIFT
    }

    /// The sender's id.
    #[inline(always)]
    pub fn sender(self) -> AttachmentId {
        AttachmentId((self.0 >> 24 & 0x3FF) as u16)
    }

    /// The index of the frame's (first) header in the sender's header array.
    #[inline(always)]
    pub fn index(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Whom the frame may concern.
    #[inline(always)]
    pub fn bucket(self) -> Bucket {
        Bucket(self.0 as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        let word = SlotWord::new(5 << 18 | 77, 18, AttachmentId(1023), 0xBEEF, Bucket(254));
        assert_eq!((word.sender(), word.index(), word.bucket()), (AttachmentId(1023), 0xBEEF, Bucket(254)));
        assert_eq!(word.laps_ahead(5 << 18 | 77, 18), 0);
        assert_eq!(word.laps_ahead(6 << 18 | 77, 18), -1);
        assert_eq!(word.laps_ahead(3 << 18 | 77, 18), 2);
    }

    #[test]
    fn an_unwritten_slot_is_the_lap_before_the_first() {
        assert_eq!(SlotWord(0).laps_ahead(3, 2), -1);
    }

    #[test]
    fn laps_compare_across_the_wrap_of_the_tag() {
        let last = (1u64 << 30) - 2; // its tag is 2^30 - 1, the next lap's is 0
        let word = SlotWord::new(last << 4, 4, AttachmentId(0), 0, Bucket(1));
        assert_eq!(word.laps_ahead((last + 1) << 4, 4), -1);
        let next = SlotWord::new((last + 1) << 4, 4, AttachmentId(0), 0, Bucket(1));
        assert_eq!(next.laps_ahead(last << 4, 4), 1);
    }
}
