//! Newtypes for the numbers that travel through the bus, so that one cannot pass for another.

use core::fmt;

use crate::layout::payload;

/// A message's place in the one order of its bus: the number of its sequencer slot, counted from the bus's creation.
/// Stamp 0 is the bus's own creation record; every message that a reader sees has a stamp of at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

/// An attachment's index in the member table, 0 to 1023. Internal: an id is used again after its owner is gone,
/// an [`Address`] never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u16);

impl AttachmentId {
    /// The index as a `usize`.
    #[inline(always)]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where a message goes: a 16-bit prefix (0 for one attachment, otherwise a group) and a 48-bit suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    const SUFFIX: u64 = (1 << 48) - 1;
    /// The master's own address, `0:0`.
    pub const MASTER: Address = Address(0);
    /// The group that every attachment may join: prefix 0 with all suffix bits set.
    pub const EVERYONE: Address = Address(Self::SUFFIX);

    /// The address of one attachment; only the low 48 bits of `suffix` count.
    pub fn unicast(suffix: u64) -> Self {
        Address(suffix & Self::SUFFIX)
    }

    /// The multicast address of a prefix: all suffix bits set.
    pub fn group(prefix: u16) -> Self {
        Address((u64::from(prefix) << 48) | Self::SUFFIX)
    }

    /// The 16-bit prefix.
    pub fn prefix(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// The 48-bit suffix.
    pub fn suffix(self) -> u64 {
        self.0 & Self::SUFFIX
    }

    /// Whether this names a group rather than one attachment.
    pub fn is_group(self) -> bool {
        self.suffix() == Self::SUFFIX
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_group() {
            write!(f, "{}:*", self.prefix())
        } else {
            write!(f, "{}:{}", self.prefix(), self.suffix())
        }
    }
}

/// Which part of an attachment's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneKind {
    /// Messages.
    Data,
    /// Records of the master's role.
    Control,
}

impl LaneKind {
    /// Where the lane's `reclaimed` word stands in the page.
    #[inline(always)]
    pub fn reclaimed_offset(self) -> u64 {
        match self {
            LaneKind::Data => payload::RECLAIMED,
            LaneKind::Control => payload::RECLAIMED_CONTROL,
        }
    }
}
