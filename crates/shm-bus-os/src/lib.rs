//! Every system call of shm-bus, and nothing else.
//!
//! The bus itself (`shm-bus`) forbids `unsafe` code; what it needs from the kernel it gets here, one small module a
//! kernel facility. The rules of this crate:
//!
//! 1. **Thin.** One function does one thing the kernel does; its documentation names the C call. No policy, no thread,
//!    no retry that a caller could not foresee (`EINTR` of a call that cannot block is retried, nothing else).
//! 2. **Honest.** An error carries the call, the errno and what was being done ([`OsError`]). Nothing falls back to a
//!    slower or weaker way in silence; where there is a fallback, the documentation of the function says so.
//! 3. **Safe where it can be.** A [`mapping::Mapping`] owns its range, a [`futex::Word`] keeps its mapping alive, every fd
//!    is an `OwnedFd`. Memory that other processes write is never lent as `&T` or `&[u8]`: a mapping gives a raw pointer.
//! 4. **Close-on-exec.** Every fd made or received here is; sockets and eventfds are non-blocking as well.
//! 5. **Foreign input is checked here**: a received memfd by [`memfd::verify`], a received bell by
//!    [`bell::Ringer::from_fd`], a truncated message by [`channel::Channel::recv`].
//!
//! ```
//! use std::os::fd::AsFd;
//! use std::sync::Arc;
//! use shm_bus_os::{futex::Word, mapping::{Access, Mapping, page_size}, memfd::{self, Sealing}};
//!
//! # fn main() -> shm_bus_os::Result<()> {
//! shm_bus_os::probe::require()?;
//! // The owner: make it, take the memory, map it for writing, and only then seal it.
//! let page = page_size();
//! let fd = memfd::create("ring", 2 * page as u64)?;
//! memfd::allocate(fd.as_fd(), 2 * page as u64)?;
//! let _owner = Mapping::mirrored(fd.as_fd(), page, page, Access::ReadWrite)?;
//! memfd::seal(fd.as_fd(), Sealing::Owned)?;
//! // Whoever receives the fd: check, then map for reading.
//! let size = memfd::verify(fd.as_fd(), Sealing::Owned, 1 << 30)?;
//! assert_eq!(size, 2 * page as u64);
//! let reader = Mapping::mirrored(fd.as_fd(), page, page, Access::ReadOnly)?;
//! assert_eq!(Word::new(Arc::new(reader), 0)?.load(), 0);
//! # Ok(())
//! # }
//! ```
//!
//! Linux 5.10 or newer on a 64-bit machine; [`probe::require`] tells at run time what is missing.

#![warn(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("shm-bus runs on 64-bit Linux only");

pub mod bell;
pub mod channel;
pub mod clock;
pub mod error;
pub mod eventfd;
pub mod futex;
pub mod guard;
pub mod lock;
pub mod mapping;
pub mod memfd;
pub mod memory;
pub mod poller;
pub mod probe;
pub mod process;
pub mod random;
pub mod runtime;

mod control;
#[cfg(test)]
mod forks;
#[cfg(test)]
mod scratch;
mod unshared;
mod words;

pub use bell::{Bell, Ringer};
pub use channel::{Channel, Listener, Name, Received, Sent};
pub use error::{OsError, Result};
pub use eventfd::EventFd;
pub use futex::Word;
pub use guard::Guarded;
pub use lock::LockFile;
pub use mapping::{Access, Mapping};
pub use memfd::Sealing;
pub use poller::{Event, Interest, Poller};
pub use runtime::RuntimeDir;
