//! The memory layout and the lock-free algorithms of shm-bus.
//!
//! Nothing here makes a system call. The crate works on two kinds of shared memory, handed to it as [`Region`]s
//! (own memory, read and written) and [`View`]s (foreign memory, loads only):
//!
//! * the **sequencer ring** ([`Sequencer`]): one array of 64-bit slots shared by every attachment of a bus. A slot's
//!   number is the *stamp* of the message it names; filling a slot with one compare-and-swap publishes that message.
//! * the **payload memory** ([`Lane`]) of each attachment: its cursor page, its header array and its payload ring.
//!   Only its owner can write it, so a header that carries the stamp of the slot that names it was put there by its
//!   owner: the MMU authenticates the sender.
//!
//! The order of events in a publish: the frame is complete in its sender's memory, the stamp it aims at is stored in
//! its header, the slot is swapped. There is no claimed but uncommitted state, so a process that dies at any
//! instruction leaves nothing to repair.
//!
//! `docs/protocol.md` argues each rule and names each synchronises-with edge; the comments here cite those names.
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;
#[cfg(any(test, loom))]
extern crate std;

mod atomic;
mod bucket;
mod gate;
mod geometry;
mod header;
mod lane;
pub mod layout;
mod member;
mod memory;
mod names;
mod reader;
mod sequencer;
mod sleep;
mod slot;
pub mod snapshot;
mod space;
mod term;
mod wake;

pub use atomic::{AcquireRelease, Ordering, fence};
pub use bucket::{Bucket, BucketSet};
pub use gate::{Gate, Peers};
pub use geometry::{Geometry, GeometryError};
pub use header::{Header, Kind};
pub use lane::{Full, Lane, Loan, Message, Owner, PublishError, Published, Shortage};
pub use member::{AttachState, Member, MemberWord, Members, Policy, ReaderState};
pub use memory::{Region, View};
pub use names::{Address, AttachmentId, LaneKind, Stamp};
pub use reader::{Frame, MAX_DESTINATIONS, Place, Reader, Sender, Senders, Step, Violation, intact};
pub use sequencer::{Found, Sequencer, Spoiled};
pub use sleep::{SleepKind, Sleepers};
pub use slot::SlotWord;
pub use term::{Control, Fenced, Proof};
pub use wake::{Sleeper, Waker};
