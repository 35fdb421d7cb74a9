//! Where everything stands, in bytes. Normative: `docs/protocol.md` prints this table, the TypeScript reader is checked
//! against it, and any change of it is a new [`LAYOUT_VERSION`].
//!
//! All words are 64-bit little-endian and 8-byte aligned. Lines that different processes write are 128 bytes apart,
//! because processors fetch cache lines in pairs.

/// The version of everything in this module. Two builds attach to one bus only if theirs are equal.
pub const LAYOUT_VERSION: u64 = 1;
/// The first word of a sequencer memfd: "SHMBUSSQ" read as little-endian bytes.
pub const SEQUENCER_MAGIC: u64 = u64::from_le_bytes(*b"SHMBUSSQ");
/// The first word of a payload memfd: "SHMBUSPL".
pub const PAYLOAD_MAGIC: u64 = u64::from_le_bytes(*b"SHMBUSPL");
/// A page: memfds and the parts that are mapped twice are multiples of it.
pub const PAGE: u64 = 4096;
/// Distance between words that different processes write often.
pub const LINE: u64 = 128;
/// How many attachments a bus can have at once: the sender id has 10 bits.
pub const MAX_ATTACHMENTS: usize = 1024;
/// Words in a bitmap with one bit an attachment.
pub const ID_WORDS: usize = MAX_ATTACHMENTS / 64;

/// Offsets in the sequencer memfd.
pub mod sequencer {
    use super::{ID_WORDS, LINE, MAX_ATTACHMENTS, PAGE};

    /// [`super::SEQUENCER_MAGIC`].
    pub const MAGIC: u64 = 0;
    /// [`super::LAYOUT_VERSION`].
    pub const VERSION: u64 = 8;
    /// Number of slots N, a power of two.
    pub const SLOT_COUNT: u64 = 16;
    /// Random 128-bit id of this bus, low word.
    pub const BUS_ID_LOW: u64 = 24;
    /// Random 128-bit id of this bus, high word.
    pub const BUS_ID_HIGH: u64 = 32;
    /// Tail hint: at most the number of filled slots while nobody scribbles. Its low half is the futex that readers
    /// sleep on.
    pub const HINT: u64 = LINE;
    /// `term 48 | id 16`: the reign of the present master and the id that holds the role.
    pub const TERM: u64 = 2 * LINE;
    /// `term 24 | publishes 32 | busy 8`: says whether a control record may have entered the order since last seen.
    pub const CONTROL: u64 = 2 * LINE + 8;
    /// One more than the highest id ever used: how far scans of the member table go.
    pub const HIGH: u64 = 2 * LINE + 16;
    /// The smallest lag, in slots, at which a reader wants to lose its place; 0 if none does.
    pub const EVICTION_LAG: u64 = 2 * LINE + 24;
    /// `monotonic milliseconds 40 | stamp mod 2^24`: since when the ring has been full at that stamp; 0 if it is not.
    pub const FULL_SINCE: u64 = 3 * LINE;
    /// Counts releases of space. Its low half is the futex that publishers waiting for space sleep on.
    pub const SPACE: u64 = 4 * LINE;
    /// One bit an id: a publisher of that attachment waits for space.
    pub const SPACE_WAITERS: u64 = 5 * LINE;
    /// One bit an id: that attachment sleeps in an event loop, until its bell rings, and not on the futex.
    pub const POLLERS: u64 = 6 * LINE;
    /// Sleeper rows: row `b` has one bit an id for those asleep that a frame of bucket `b` concerns. Row 0: those with
    /// too many buckets to list. Row 255: everyone asleep.
    pub const SLEEPERS: u64 = PAGE;
    /// Bytes of one sleeper row.
    pub const SLEEPER_ROW: u64 = ID_WORDS as u64 * 8;
    /// The member table, one entry of [`MEMBER_BYTES`] an id.
    pub const MEMBERS: u64 = SLEEPERS + 256 * SLEEPER_ROW;
    /// Bytes of one member entry.
    pub const MEMBER_BYTES: u64 = 64;
    /// In an entry: the member word.
    pub const MEMBER_WORD: u64 = 0;
    /// In an entry: the stamp below which the reader's cursor never counts, stored by the master's role.
    pub const MEMBER_FLOOR: u64 = 8;
    /// In an entry: milliseconds that a full ring waits for this reader.
    pub const MEMBER_DEADLINE: u64 = 16;
    /// In an entry: the lag in slots at which a reader with the policy `evict` loses its place.
    pub const MEMBER_MAX_LAG: u64 = 24;
    /// In an entry: its unicast address.
    pub const MEMBER_ADDRESS: u64 = 32;
    /// The slots.
    pub const SLOTS: u64 = MEMBERS + MAX_ATTACHMENTS as u64 * MEMBER_BYTES;

    const _: () = {
        assert!(POLLERS + ID_WORDS as u64 * 8 <= SLEEPERS);
        assert!(SLEEPER_ROW == LINE);
        assert!(MEMBERS.is_multiple_of(LINE));
        assert!(SLOTS.is_multiple_of(PAGE));
    };
}

/// Offsets in the payload memfd of an attachment.
pub mod payload {
    use super::{LINE, PAGE};

    /// [`super::PAYLOAD_MAGIC`].
    pub const MAGIC: u64 = 0;
    /// [`super::LAYOUT_VERSION`].
    pub const VERSION: u64 = 8;
    /// Entries of the header array that the data lane uses, a power of two.
    pub const HEADER_COUNT: u64 = 16;
    /// Bytes of the payload ring, a power of two.
    pub const RING_BYTES: u64 = 24;
    /// The oldest stamp that any counting subscription of this attachment still needs.
    pub const CURSOR: u64 = LINE;
    /// The 256-bit set of buckets whose frames this attachment may read.
    pub const BUCKETS: u64 = 2 * LINE;
    /// Counts how often this attachment went to sleep: a waker wakes each sleep at most once.
    pub const SLEEP_EPOCH: u64 = 3 * LINE;
    /// Loans of the data lane with a smaller serial may be overwritten.
    pub const RECLAIMED: u64 = 4 * LINE;
    /// The same for the control lane.
    pub const RECLAIMED_CONTROL: u64 = 5 * LINE;
    /// Counter: messages published.
    pub const PUBLISHED: u64 = 6 * LINE;
    /// Counter: payload bytes published.
    pub const PUBLISHED_BYTES: u64 = 6 * LINE + 8;
    /// Counter: publishes that found no room.
    pub const WOULD_BLOCK: u64 = 6 * LINE + 16;
    /// Counter: messages delivered.
    pub const DELIVERED: u64 = 7 * LINE;
    /// Counter: frames refused by the reader's checks.
    pub const VIOLATIONS: u64 = 7 * LINE + 8;
    /// Counter: stamps that lossy subscriptions have missed.
    pub const MISSED: u64 = 7 * LINE + 16;
    /// The header array: the data lane's entries, then the control lane's.
    pub const HEADERS: u64 = PAGE;
    /// Bytes of an entry: a 64-byte header, then up to [`INLINE_BYTES`] of payload.
    pub const ENTRY_BYTES: u64 = 128;
    /// Payloads up to this size stand in the entry itself.
    pub const INLINE_BYTES: u64 = 64;
    /// Entries of the control lane.
    pub const CONTROL_HEADERS: u64 = 64;
    /// Bytes that each control record may have: the control lane has one cell an entry and no ring.
    pub const CELL_BYTES: u64 = 512;
    /// Payloads start at multiples of this.
    pub const ALIGNMENT: u64 = 64;

    const _: () = {
        assert!(MISSED + 8 <= HEADERS);
        assert!((CONTROL_HEADERS * (ENTRY_BYTES + CELL_BYTES)).is_multiple_of(PAGE));
    };
}

/// Offsets of the words in a header.
pub mod header {
    /// The stamp of the slot that names this header; 0 while the header is not in use.
    pub const STAMP: u64 = 0;
    /// The loan's serial: counts the loans of its lane.
    pub const SERIAL: u64 = 8;
    /// Where the payload starts in the payload ring, counted without wrapping; unused for inline payloads.
    pub const POSITION: u64 = 16;
    /// `length 32 | file descriptors 8 | bucket 8 | kind 8 | flags 8`, from the low bits up.
    pub const SHAPE: u64 = 24;
    /// The destination address; for a transaction, the number of destinations.
    pub const DESTINATION: u64 = 32;
    /// When the publisher stored the header, in nanoseconds of the monotonic clock.
    pub const TIME: u64 = 40;
    /// A word of the sender's own: topic, bloom bits or cookie.
    pub const TOPIC: u64 = 48;
    /// `batch count 16 | index in batch 16 | span 32`: span is what the loan holds of the ring, in 64-byte units.
    pub const BATCH: u64 = 56;
    /// Bytes of a header.
    pub const BYTES: u64 = 64;

    /// Bit of the flags: the payload stands in the entry, behind the header.
    pub const INLINE: u8 = 1;
}

/// Bytes of a sequencer memfd with `1 << log2_slots` slots.
pub const fn sequencer_bytes(log2_slots: u32) -> u64 {
    (sequencer::SLOTS + (8 << log2_slots)).next_multiple_of(PAGE)
}
