//! Payload memories: this attachment's own, and those of the others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use shm_bus_os::{Access, Bell, Guarded, Mapping, OsError, Ringer, Sealing, memfd, memory};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{Geometry, Ordering, Region, View};

use crate::error::{BusError, Result, duplicate_failed};
use crate::record::MemberId;

/// This attachment's own payload memory, mapped for writing.
pub(crate) struct OwnMemory {
    pub fd: OwnedFd,
    pub mapping: Arc<Mapping>,
    pub region: Region,
    pub geometry: Geometry,
    pub bell: Bell,
}

impl OwnMemory {
    /// Makes, takes, maps and seals it, in this order: after sealing nobody maps it for writing again.
    pub fn create(geometry: Geometry) -> Result<Self> {
        let bytes = geometry.memfd_bytes();
        memory::check(bytes).map_err(|error| match error {
            OsError::TooLittleMemory { .. } => {
                BusError::InvalidOption { option: "ringBytes", why: error.to_string() }
            }
            other => other.into(),
        })?;
        let fd = memfd::create("shm-bus-payload", bytes)?;
        memfd::allocate(fd.as_fd(), bytes)?;
        let mapping = Arc::new(Mapping::mirrored(
            fd.as_fd(),
            geometry.head_bytes() as usize,
            geometry.ring_bytes() as usize,
            Access::ReadWrite,
        )?);
        let region = mapping.region()?;
        geometry.store(&region);
        memfd::seal(fd.as_fd(), Sealing::Owned)?;
        Ok(OwnMemory { fd, mapping, region, geometry, bell: Bell::new()? })
    }
}

/// Says of an own memory that its owner gave it up before it was welcome: whoever was given it may let it go.
pub(crate) fn withdraw(own: &Region) {
    own.store(payload::MAGIC, 0, Ordering::Release);
}

/// Another attachment's payload memory (or this one's, as the others see it), mapped for reading.
pub struct PeerMemory {
    member: MemberId,
    fd: OwnedFd,
    ringer: Ringer,
    mapping: Arc<Mapping>,
    view: View,
    geometry: Geometry,
}

impl PeerMemory {
    /// Verifies seals, file system, size and description of a received memfd before anything in it is used.
    pub(crate) fn open(member: MemberId, fd: OwnedFd, bell: OwnedFd) -> Result<Self> {
        let bytes = memfd::verify(fd.as_fd(), Sealing::Owned, Geometry::MAX_RING_BYTES * 2)?;
        let page =
            Arc::new(Mapping::shared(fd.as_fd(), shm_bus_ring::layout::PAGE as usize, Access::ReadOnly)?);
        let geometry = Geometry::load(&page.view(), bytes)?;
        let mapping = Arc::new(Self::map(fd.as_fd(), geometry)?);
        let view = mapping.view();
        Ok(PeerMemory { member, fd, ringer: Ringer::from_fd(bell)?, mapping, view, geometry })
    }

    fn map(fd: BorrowedFd<'_>, geometry: Geometry) -> Result<Mapping> {
        let (head, ring) = (geometry.head_bytes() as usize, geometry.ring_bytes() as usize);
        Ok(Mapping::mirrored(fd, head, ring, Access::ReadOnly)?)
    }

    /// A second map of the same bytes, for views that are handed out to a program that may store into them.
    pub fn view_map(&self) -> Result<Guarded> {
        let mapping = Arc::new(Self::map(self.fd.as_fd(), self.geometry)?);
        let fd = self.fd.try_clone().map_err(|e| duplicate_failed(&e))?;
        Ok(Guarded::new(mapping, fd, self.geometry.ring_bytes() as usize)?)
    }

    /// Whose it is.
    pub fn member(&self) -> MemberId {
        self.member
    }

    /// Which file it is: device and inode.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        memfd::identity(self.fd.as_fd()).ok()
    }

    /// Whether its owner gave it up before it was welcome.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.view.load(payload::MAGIC, Ordering::Acquire) == 0
    }

    /// Its bytes.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// How it is divided.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its memfd, to be given to somebody else together with [`Ringer::to_give`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn ringer(&self) -> &Ringer {
        &self.ringer
    }

    /// Bytes of address space that its map takes.
    pub fn mapped_bytes(&self) -> usize {
        self.mapping.len()
    }
}
