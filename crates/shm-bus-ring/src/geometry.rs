//! The sizes of a payload memfd: checked by name before anything is computed from them.

use core::fmt;

use crate::atomic::Ordering;
use crate::layout::{LAYOUT_VERSION, MAX_ATTACHMENTS, PAGE, PAYLOAD_MAGIC, payload};
use crate::memory::{Region, View};
use crate::names::LaneKind;

/// How one attachment's payload memory is divided. A value of this type is always sound: powers of two in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    header_count: u64,
    ring_bytes: u64,
}

/// Why sizes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GeometryError {
    /// Not a power of two, or out of range.
    HeaderCount(u64),
    /// Not a power of two, or out of range.
    RingBytes(u64),
    /// The memory is not a payload memory.
    Magic(u64),
    /// The memory has another layout version.
    Version(u64),
    /// The memory's size does not fit its geometry.
    Size {
        /// What the geometry needs.
        want: u64,
        /// What there is.
        have: u64,
    },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HeaderCount(n) => write!(
                f,
                "must be a power of two from {} to {}, not {n}",
                Geometry::MIN_HEADERS,
                Geometry::MAX_HEADERS
            ),
            Self::RingBytes(n) => write!(
                f,
                "must be a power of two from {} to {}, not {n}",
                Geometry::MIN_RING_BYTES,
                Geometry::MAX_RING_BYTES
            ),
            Self::Magic(word) => write!(f, "not a payload memory: magic {word:#018x}"),
            Self::Version(version) => write!(f, "layout version {version}, this build has {LAYOUT_VERSION}"),
            Self::Size { want, have } => write!(f, "a memory of {have} bytes where {want} are needed"),
        }
    }
}

impl core::error::Error for GeometryError {}

impl Geometry {
    /// Fewest headers.
    pub const MIN_HEADERS: u64 = 64;
    /// Most headers: with the control lane's the index has to fit 16 bits.
    pub const MAX_HEADERS: u64 = 1 << 15;
    /// Smallest payload ring.
    pub const MIN_RING_BYTES: u64 = 1 << 16;
    /// Largest payload ring: a frame's length has 32 bits and is at most a quarter of the ring.
    pub const MAX_RING_BYTES: u64 = 1 << 33;

    /// Checks the sizes.
    pub fn new(header_count: u64, ring_bytes: u64) -> Result<Self, GeometryError> {
        if !header_count.is_power_of_two() || !(Self::MIN_HEADERS..=Self::MAX_HEADERS).contains(&header_count)
        {
            return Err(GeometryError::HeaderCount(header_count));
        }
        if !ring_bytes.is_power_of_two()
            || !(Self::MIN_RING_BYTES..=Self::MAX_RING_BYTES).contains(&ring_bytes)
        {
            return Err(GeometryError::RingBytes(ring_bytes));
        }
        Ok(Geometry { header_count, ring_bytes })
    }

    /// For the model checker, which cannot afford the sizes of real life.
    #[cfg(any(test, loom))]
    pub fn tiny(header_count: u64, ring_bytes: u64) -> Self {
        assert!(header_count.is_power_of_two() && ring_bytes.is_power_of_two());
        Geometry { header_count, ring_bytes }
    }

    /// Writes magic, version and sizes into a fresh payload memory.
    pub fn store(&self, own: &Region) {
        own.store(payload::VERSION, LAYOUT_VERSION, Ordering::Relaxed);
        own.store(payload::HEADER_COUNT, self.header_count, Ordering::Relaxed);
        own.store(payload::RING_BYTES, self.ring_bytes, Ordering::Relaxed);
        own.store(payload::MAGIC, PAYLOAD_MAGIC, Ordering::Release);
    }

    /// Reads and checks what a payload memory of `bytes` bytes says of itself. Each word is read once.
    pub fn load(page: &View, bytes: u64) -> Result<Self, GeometryError> {
        let magic = page.load(payload::MAGIC, Ordering::Acquire);
        if magic != PAYLOAD_MAGIC {
            return Err(GeometryError::Magic(magic));
        }
        let version = page.load(payload::VERSION, Ordering::Relaxed);
        if version != LAYOUT_VERSION {
            return Err(GeometryError::Version(version));
        }
        let geometry = Geometry::new(
            page.load(payload::HEADER_COUNT, Ordering::Relaxed),
            page.load(payload::RING_BYTES, Ordering::Relaxed),
        )?;
        if geometry.memfd_bytes() != bytes {
            return Err(GeometryError::Size { want: geometry.memfd_bytes(), have: bytes });
        }
        Ok(geometry)
    }

    /// Headers of the data lane.
    pub fn header_count(&self) -> u64 {
        self.header_count
    }

    /// Bytes of the payload ring.
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// The largest frame: a quarter of the ring, so that one loan never needs all of it.
    pub fn max_frame(&self) -> u64 {
        self.ring_bytes / 4
    }

    /// Bytes in front of the payload ring: page, header array, control cells.
    pub fn head_bytes(&self) -> u64 {
        (self.cells() + payload::CONTROL_HEADERS * payload::CELL_BYTES).next_multiple_of(PAGE)
    }

    /// Bytes of the memfd.
    pub fn memfd_bytes(&self) -> u64 {
        self.head_bytes() + self.ring_bytes
    }

    /// Bytes of address space a mapping takes: the ring stands in it twice.
    pub fn mapped_bytes(&self) -> u64 {
        self.head_bytes() + 2 * self.ring_bytes
    }

    /// Offset of an entry, or nothing if there is no such header.
    #[inline(always)]
    pub fn entry(&self, index: u16) -> Option<u64> {
        (u64::from(index) < self.header_count + payload::CONTROL_HEADERS)
            .then(|| payload::HEADERS + u64::from(index) * payload::ENTRY_BYTES)
    }

    /// The lane that a header index belongs to.
    #[inline(always)]
    pub fn lane_of(&self, index: u16) -> LaneKind {
        if u64::from(index) < self.header_count { LaneKind::Data } else { LaneKind::Control }
    }

    /// First header and number of headers of a lane; the number is a power of two.
    #[inline(always)]
    pub fn lane(&self, kind: LaneKind) -> (u64, u64) {
        match kind {
            LaneKind::Data => (0, self.header_count),
            LaneKind::Control => (self.header_count, payload::CONTROL_HEADERS),
        }
    }

    /// Offset of the cell of control header `n` (0 to 63).
    #[inline]
    pub fn cell(&self, n: u64) -> u64 {
        self.cells() + (n % payload::CONTROL_HEADERS) * payload::CELL_BYTES
    }

    /// Offset of a ring position: masked, hence always inside the first of the two images of the ring.
    #[inline(always)]
    pub fn ring_offset(&self, position: u64) -> u64 {
        self.head_bytes() + (position & (self.ring_bytes - 1))
    }

    fn cells(&self) -> u64 {
        payload::HEADERS + (self.header_count + payload::CONTROL_HEADERS) * payload::ENTRY_BYTES
    }
}

const _: () = {
    assert!(Geometry::MAX_HEADERS + payload::CONTROL_HEADERS <= 1 << 16);
    assert!(Geometry::MAX_RING_BYTES / 4 <= u32::MAX as u64 + 1);
    assert!(MAX_ATTACHMENTS == 1 << 10);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_are_not_powers_of_two_in_range_are_refused() {
        for ring in [0, 1, 65535, 65537, 3 << 20, 1 << 34] {
            assert_eq!(Geometry::new(1024, ring), Err(GeometryError::RingBytes(ring)));
        }
        for headers in [0, 63, 100, 1 << 16] {
            assert_eq!(Geometry::new(headers, 1 << 20), Err(GeometryError::HeaderCount(headers)));
        }
    }

    #[test]
    fn what_was_stored_is_loaded_and_lies_are_refused() {
        let geometry = Geometry::new(64, 1 << 16).unwrap();
        let own = Region::zeroed(PAGE);
        assert_eq!(Geometry::load(&own, geometry.memfd_bytes()), Err(GeometryError::Magic(0)));
        geometry.store(&own);
        assert_eq!(Geometry::load(&own, geometry.memfd_bytes()), Ok(geometry));
        assert!(matches!(Geometry::load(&own, 4096), Err(GeometryError::Size { .. })));
        own.store(payload::RING_BYTES, u64::MAX, Ordering::Relaxed);
        assert_eq!(Geometry::load(&own, geometry.memfd_bytes()), Err(GeometryError::RingBytes(u64::MAX)));
        own.store(payload::VERSION, 99, Ordering::Relaxed);
        assert_eq!(Geometry::load(&own, geometry.memfd_bytes()), Err(GeometryError::Version(99)));
    }

    #[test]
    fn parts_do_not_overlap() {
        let geometry = Geometry::new(1024, 1 << 20).unwrap();
        let last = geometry.entry((1024 + payload::CONTROL_HEADERS - 1) as u16).unwrap();
        assert_eq!(last + payload::ENTRY_BYTES, geometry.cell(0));
        assert!(geometry.cell(63) + payload::CELL_BYTES <= geometry.head_bytes());
        assert_eq!(geometry.entry((1024 + payload::CONTROL_HEADERS) as u16), None);
    }
}
