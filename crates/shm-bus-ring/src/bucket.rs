//! Buckets: eight bits of the slot word that say whom a frame may concern, and sets of them.

use crate::names::Address;

/// A hash of a frame's destination. A reader decides by it alone whether it must look at the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bucket(pub u8);

impl Bucket {
    /// Control records (attach, join, leave, ...): they concern everyone.
    pub const CONTROL: Bucket = Bucket(254);
    /// Frames for everyone, and frames whose destinations fall into different buckets.
    pub const MIXED: Bucket = Bucket(255);

    /// The bucket of one destination: 1 to 253, or [`Bucket::MIXED`] for the group of everyone. Never 0, so that a
    /// slot word that was ever written is never 0.
    #[inline]
    pub fn of(destination: Address) -> Bucket {
        if destination == Address::EVERYONE {
            return Bucket::MIXED;
        }
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4): prefixes and suffixes that count up spread over the range.
        let hash = destination.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        Bucket(1 + (hash % 253) as u8)
    }

    /// The bucket of a frame with several destinations: theirs if they share one.
    pub fn of_all(destinations: &[Address]) -> Bucket {
        let mut buckets = destinations.iter().map(|d| Bucket::of(*d));
        let first = buckets.next().unwrap_or(Bucket::MIXED);
        if buckets.all(|b| b == first) { first } else { Bucket::MIXED }
    }

    /// Whether every reader has to look at a frame of this bucket.
    #[inline(always)]
    pub fn concerns_all(self) -> bool {
        self.0 >= Self::CONTROL.0
    }

    /// The bit of the futex bitset that stands for this bucket: 0 to 30 by `bucket mod 31`, 31 for those that concern
    /// everyone.
    #[inline]
    pub fn futex_bits(self) -> u32 {
        if self.concerns_all() { u32::MAX } else { 1 << (self.0 % 31) }
    }
}

/// A set of buckets: 256 bits in four words, the form in which it stands in an attachment's page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketSet(pub [u64; 4]);

impl BucketSet {
    /// The set of a reader that has no destination of its own: control records and frames for everyone.
    pub fn control() -> Self {
        let mut set = Self::default();
        set.insert(Bucket::CONTROL);
        set.insert(Bucket::MIXED);
        set
    }

    /// Adds a bucket.
    pub fn insert(&mut self, bucket: Bucket) {
        self.0[usize::from(bucket.0 >> 6)] |= 1 << (bucket.0 & 63);
    }

    /// Whether the bucket is in the set.
    #[inline(always)]
    pub fn contains(&self, bucket: Bucket) -> bool {
        self.0[usize::from(bucket.0 >> 6)] >> (bucket.0 & 63) & 1 != 0
    }

    /// Every bucket of both sets.
    pub fn union(mut self, other: &BucketSet) -> Self {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        self
    }

    /// The buckets in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Bucket> + '_ {
        (0..=255u8).map(Bucket).filter(|b| self.contains(*b))
    }

    /// How many buckets are in the set.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }

    /// Whether no bucket is in the set.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The futex bitset of a sleeper with this set. Bit 31 is always in it: control records wake everyone.
    pub fn futex_bits(&self) -> u32 {
        self.iter().filter(|b| !b.concerns_all()).fold(1 << 31, |bits, b| bits | b.futex_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_never_zero_and_groups_never_fall_into_the_reserved_ones() {
        for prefix in 1..=u16::MAX {
            let bucket = Bucket::of(Address::group(prefix));
            assert!((1..=253).contains(&bucket.0));
        }
    }

    #[test]
    fn destinations_of_one_bucket_keep_it_and_others_mix() {
        let a = Address::group(1);
        let other = (2..).map(Address::group).find(|g| Bucket::of(*g) != Bucket::of(a)).unwrap();
        assert_eq!(Bucket::of_all(&[a, a]), Bucket::of(a));
        assert_eq!(Bucket::of_all(&[a, other]), Bucket::MIXED);
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set = BucketSet::control();
        set.insert(Bucket(7));
        assert_eq!(set.iter().collect::<alloc::vec::Vec<_>>(), [Bucket(7), Bucket::CONTROL, Bucket::MIXED]);
        assert_eq!(set.len(), 3);
        assert_ne!(set.futex_bits() & Bucket(7).futex_bits(), 0);
    }
}
