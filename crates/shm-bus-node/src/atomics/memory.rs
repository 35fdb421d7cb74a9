//! Memory that processes can share: a sealed memfd and an ArrayBuffer over it.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::Unknown;
use napi_derive::napi;
use shm_bus_os::mapping::page_size;
use shm_bus_os::{Access, Mapping, Sealing, memfd};

use super::{Result, error, system};
use crate::external;

/// New memory and the descriptor to share it by.
#[napi(object, object_from_js = false)]
pub struct AtomicsMemory<'a> {
    #[napi(ts_type = "ArrayBuffer")]
    pub buffer: Unknown<'a>,
    /// To be closed by the caller; the buffer does not need it.
    pub fd: i32,
}

/// Bytes of the whole pages that hold `bytes`.
fn pages(bytes: f64) -> Result<usize> {
    if bytes.fract() != 0.0 || !(1.0..=9_007_199_254_740_991.0).contains(&bytes) {
        return Err(error("ERR_OUT_OF_RANGE", format!("{bytes} is no number of bytes")));
    }
    Ok((bytes as usize).next_multiple_of(page_size()))
}

fn buffer(env: &Env, mapping: Mapping, bytes: f64) -> Result<Unknown<'static>> {
    let mapping = Arc::new(mapping);
    // SAFETY: `bytes` of the mapping's whole pages, mapped until the finalizer lets the Arc go. Read-only memory must not
    // be written: a store faults, as the documentation says.
    let buffer = unsafe { external::array_buffer(env, mapping.base(), bytes as usize, mapping.clone()) };
    buffer.map_err(|_| {
        error(
            "ERR_ATOMICS_WAIT_EXTERNAL_MEMORY",
            "this JavaScript engine does not allow buffers over memory of its embedder (Electron and other builds with \
             V8's memory cage); use Node.js",
        )
    })
}

/// Makes `bytes` zeros of shared memory, sealed against any change of their number.
#[napi]
pub fn atomics_create_memory(env: &Env, bytes: f64) -> Result<AtomicsMemory<'static>> {
    let length = pages(bytes)?;
    let fd = memfd::create("atomics-wait", length as u64).map_err(system)?;
    memfd::allocate(fd.as_fd(), length as u64).map_err(system)?;
    let mapping = Mapping::shared(fd.as_fd(), length, Access::ReadWrite).map_err(system)?;
    memfd::seal(fd.as_fd(), Sealing::Shared).map_err(system)?;
    Ok(AtomicsMemory { buffer: buffer(env, mapping, bytes)?, fd: fd.into_raw_fd() })
}

/// Maps the first `bytes` bytes of memory that was received or inherited. Memory whose size could still change is
/// refused: a page taken from under a mapping kills the process that touches it.
#[napi(ts_return_type = "ArrayBuffer")]
pub fn atomics_map_memory(env: &Env, fd: i32, bytes: f64, read_only: bool) -> Result<Unknown<'static>> {
    let length = pages(bytes)?;
    if fd < 0 {
        return Err(error("ERR_OUT_OF_RANGE", format!("{fd} is no file descriptor")));
    }
    // SAFETY: not negative, used for this call only. One that is not open, or is something else, fails the verification.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    memfd::verify(fd, Sealing::Shared, u64::MAX).map_err(system)?;
    let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
    let mapping = Mapping::shared(fd, length, access).map_err(system)?;
    buffer(env, mapping, bytes)
}
