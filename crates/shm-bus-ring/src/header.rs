//! The header of a frame, as a value: written whole by its sender, read once into locals by everyone else.

use crate::atomic::Ordering;
use crate::bucket::Bucket;
use crate::layout::header as at;
use crate::memory::{EntryRegion, EntryView};
use crate::names::Address;

/// What a header stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Reserved by its sender and not published.
    Loaned = 0,
    /// A message to one address.
    Message = 1,
    /// A message to several addresses: the payload starts with them, 8 bytes each.
    Transaction = 2,
    /// A record of the bus itself: attach, join, leave, departed, ...
    Control = 3,
    /// A loan that was given up.
    Padding = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Loaned, Kind::Message, Kind::Transaction, Kind::Control, Kind::Padding]
            .get(usize::from(byte))
            .copied()
    }
}

/// A header without its stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts the loans of its lane.
    pub serial: u64,
    /// Start of the payload in the ring, counted without wrapping.
    pub position: u64,
    /// Bytes of payload.
    pub length: u32,
    /// How many file descriptors travel with the message, 0 to 253.
    pub descriptors: u8,
    /// Whom it may concern.
    pub bucket: Bucket,
    /// What it is.
    pub kind: Kind,
    /// Flags, see [`crate::layout::header::INLINE`].
    pub flags: u8,
    /// Destination address, or number of destinations.
    pub destination: u64,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The sender's own word.
    pub topic: u64,
    /// Messages in the batch (in its first header; 1 for a single message).
    pub batch_count: u16,
    /// Place in the batch.
    pub batch_index: u16,
    /// What the loan holds of the ring, in 64-byte units.
    pub span: u32,
}

impl Header {
    /// The destination of a message to one address.
    pub fn address(&self) -> Address {
        Address(self.destination)
    }

    /// Writes everything but the stamp.
    #[inline]
    pub(crate) fn store(&self, entry: &EntryRegion<'_>) {
        let shape = u64::from(self.length)
            | u64::from(self.descriptors) << 32
            | u64::from(self.bucket.0) << 40
            | (self.kind as u64) << 48
            | u64::from(self.flags) << 56;
        let batch =
            u64::from(self.batch_count) | u64::from(self.batch_index) << 16 | u64::from(self.span) << 32;
        entry.store(at::SERIAL, self.serial, Ordering::Relaxed);
        entry.store(at::POSITION, self.position, Ordering::Relaxed);
        entry.store(at::SHAPE, shape, Ordering::Relaxed);
        entry.store(at::DESTINATION, self.destination, Ordering::Relaxed);
        entry.store(at::TIME, self.time, Ordering::Relaxed);
        entry.store(at::TOPIC, self.topic, Ordering::Relaxed);
        entry.store(at::BATCH, batch, Ordering::Relaxed);
    }

    /// Reads everything but the stamp; nothing if the kind is none that exists.
    #[inline]
    pub(crate) fn load(entry: &EntryView<'_>) -> Option<Header> {
        let shape = entry.load(at::SHAPE, Ordering::Relaxed);
        let batch = entry.load(at::BATCH, Ordering::Relaxed);
        Some(Header {
            serial: entry.load(at::SERIAL, Ordering::Relaxed),
            position: entry.load(at::POSITION, Ordering::Relaxed),
            length: shape as u32,
            descriptors: (shape >> 32) as u8,
            bucket: Bucket((shape >> 40) as u8),
            kind: Kind::from_byte((shape >> 48) as u8)?,
            flags: (shape >> 56) as u8,
            destination: entry.load(at::DESTINATION, Ordering::Relaxed),
            time: entry.load(at::TIME, Ordering::Relaxed),
            topic: entry.load(at::TOPIC, Ordering::Relaxed),
            batch_count: batch as u16,
            batch_index: (batch >> 16) as u16,
            span: (batch >> 32) as u32,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::Region;

    #[test]
    fn every_field_comes_back() {
        let header = Header {
            serial: u64::MAX - 1,
            position: 1 << 40,
            length: u32::MAX,
            descriptors: 253,
            bucket: Bucket(77),
            kind: Kind::Transaction,
            flags: at::INLINE,
            destination: 0xFFFF_0123_4567_89AB,
            time: 12,
            topic: 13,
            batch_count: 0xABCD,
            batch_index: 0x1234,
            span: 0xFEDC_BA98,
        };
        let own = Region::zeroed(crate::layout::payload::ENTRY_BYTES);
        header.store(&own.entry_mut(0));
        assert_eq!(Header::load(&own.entry(0)), Some(header));
        own.store(at::SHAPE, 200 << 48, Ordering::Relaxed);
        assert_eq!(Header::load(&own.entry(0)), None);
    }
}
