//! The directory memfd: the master's present directory, where anyone can read it without asking.
//!
//! Two copies and an index word. The role-holder writes the copy that is not named and names it by one store; a reader
//! copies the named one and looks whether the name still holds. Nobody waits: a master that stops halfway leaves the
//! other copy good. Layout, in 64-bit words: `index` (a count; its parity names the copy), then for each copy at its
//! page `length` and the bytes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use shm_bus_os::{Access, Mapping, Sealing, memfd};
use shm_bus_ring::layout::PAGE;
use shm_bus_ring::{Ordering, Region, View, fence};

use crate::directory::Directory;
use crate::error::{BusError, Result};

const INDEX: u64 = 0;
/// Bytes of one copy with its length word.
const COPY: u64 = 64 * PAGE;
/// The largest encoded directory.
pub(crate) const MAX_ENCODED: u64 = COPY - 8;
const BYTES: u64 = PAGE + 2 * COPY;

fn copy_at(index: u64) -> u64 {
    PAGE + (index & 1) * COPY
}

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
        let next = self.region.load(INDEX, Ordering::Relaxed) + 1;
        let at = copy_at(next);
        // SYNC directory: whoever reads the old bytes of this copy finds the index changed.
        fence(Ordering::Release);
        self.region.store(at, bytes.len() as u64, Ordering::Relaxed);
        self.region.copy_in(at + 8, &bytes);
        self.region.store(INDEX, next, Ordering::Release);
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
        for _ in 0..1000 {
            let index = self.view.load(INDEX, Ordering::Acquire);
            let at = copy_at(index);
            let length = self.view.load(at, Ordering::Relaxed).min(MAX_ENCODED);
            let mut bytes = vec![0; length as usize];
            self.view.copy_out(at + 8, &mut bytes);
            fence(Ordering::Acquire);
            if self.view.load(INDEX, Ordering::Relaxed) == index {
                return Directory::decode(&bytes)
                    .ok_or_else(|| BusError::Protocol { why: "an unreadable directory".into() });
            }
        }
        Err(BusError::Protocol { why: "a directory that never rests".into() })
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
