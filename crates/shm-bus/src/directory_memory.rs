//! The directory memfd: the master's present directory, where anyone can read it without asking.
//!
//! It is a [`snapshot`], so nobody waits for a master that stops in the middle of a change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use shm_bus_os::{Access, Mapping, Sealing, memfd};
use shm_bus_ring::snapshot::{self, BYTES};
use shm_bus_ring::{Region, View};

use crate::directory::Directory;
use crate::error::{BusError, Result};

/// The largest encoded directory.
pub(crate) const MAX_ENCODED: u64 = snapshot::MAX_BYTES;

/// The role-holder's end.
pub(crate) struct DirectoryWriter {
    fd: OwnedFd,
    region: Region,
}

impl DirectoryWriter {
    pub fn create() -> Result<Self> {
        let fd = memfd::create("shm-bus-directory", BYTES)?;
        let mapping = Arc::new(Mapping::shared(fd.as_fd(), BYTES as usize, Access::ReadWrite)?);
        memfd::seal(fd.as_fd(), Sealing::Owned)?;
        Ok(DirectoryWriter { fd, region: mapping.region()? })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn write(&self, directory: &Directory) -> Result<()> {
        let bytes = directory.encode();
        if bytes.len() as u64 > MAX_ENCODED {
            return Err(BusError::Limit { what: "directory entries", limit: MAX_ENCODED });
        }
        snapshot::write(&self.region, &bytes);
        Ok(())
    }
}

/// Everyone else's end.
pub(crate) struct DirectoryReader {
    view: View,
}

impl DirectoryReader {
    pub fn open(fd: BorrowedFd<'_>) -> Result<Self> {
        let bytes = memfd::verify(fd, Sealing::Owned, BYTES)?;
        if bytes != BYTES {
            return Err(BusError::Protocol { why: format!("a directory memory of {bytes} bytes") });
        }
        let mapping = Arc::new(Mapping::shared(fd, BYTES as usize, Access::ReadOnly)?);
        Ok(DirectoryReader { view: mapping.view() })
    }

    pub fn read(&self) -> Result<Directory> {
        // Each round that fails has seen a newer directory: the bound only stops a hostile writer.
        let bytes = snapshot::read(&self.view, 1000)
            .ok_or_else(|| BusError::Protocol { why: "a directory that never rests".into() })?;
        Directory::decode(&bytes).ok_or_else(|| BusError::Protocol { why: "an unreadable directory".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read() {
        let writer = DirectoryWriter::create().unwrap();
        let reader = DirectoryReader::open(writer.fd()).unwrap();
        let mut directory = Directory::new();
        for as_of in 1..5 {
            directory.as_of = as_of;
            writer.write(&directory).unwrap();
            assert_eq!(reader.read().unwrap(), directory);
        }
    }
}
