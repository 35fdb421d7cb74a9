//! Memory that the processes of a case share: made before they are forked.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::mman::{MmapAdvise, madvise};
use shm_bus_os::{Access, Mapping, memfd};

use crate::Outcome;

/// A memfd of that size, its pages taken.
pub fn file(bytes: u64) -> Outcome<OwnedFd> {
    let fd = memfd::create("shm-bus-torture", bytes).map_err(|e| e.to_string())?;
    memfd::allocate(fd.as_fd(), bytes).map_err(|e| e.to_string())?;
    Ok(fd)
}

/// A file that takes memory as it is written.
pub fn sparse_file(bytes: u64) -> Outcome<File> {
    Ok(memfd::create("shm-bus-torture", bytes).map_err(|e| e.to_string())?.into())
}

/// Lets forked children have a map too, which the bus's own maps for writing are kept from.
pub fn inherited(mapping: Mapping) -> Outcome<Arc<Mapping>> {
    let base = mapping.base().cast::<c_void>();
    // SAFETY: the range is the mapping's own; the advice changes what fork(2) copies, nothing in this process.
    unsafe { madvise(base, mapping.len(), MmapAdvise::MADV_DOFORK) }.map_err(|e| format!("madvise: {e}"))?;
    Ok(Arc::new(mapping))
}

/// Plain shared memory.
pub fn shared(bytes: u64) -> Outcome<Arc<Mapping>> {
    let fd = file(bytes)?;
    inherited(Mapping::shared(fd.as_fd(), bytes as usize, Access::ReadWrite).map_err(|e| e.to_string())?)
}
