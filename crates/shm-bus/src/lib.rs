//! A message bus for the processes of one Linux machine.
//!
//! Processes [attach](Bus::attach) to a named bus, publish to groups and addresses, and subscribe. Every message is
//! written once, into memory that its sender owns, gets one place in one global order (its *stamp*), and is read in
//! place by everyone it is for.
//!
//! ```
//! use shm_bus::{AttachOptions, Bus, Envelope, Event, SubscribeOptions, WaitStrategy};
//! use std::time::Duration;
//!
//! let directory = std::env::temp_dir().join(format!("shm-bus-doc-{}", std::process::id()));
//! std::fs::create_dir_all(&directory)?;
//! # std::os::unix::fs::PermissionsExt::set_mode(&mut std::fs::metadata(&directory)?.permissions(), 0o700);
//! # std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
//! let options = AttachOptions { runtime_directory: Some(directory.clone()), ..AttachOptions::default() };
//! let bus = Bus::attach("example", &options)?;
//! let mut subscription = bus.subscribe(&["cpu".into()], false, SubscribeOptions::default())?;
//! let mut publisher = bus.publisher()?;
//! let cpu = publisher.resolve("cpu")?;
//! let stamp = publisher.publish(&[cpu], b"42", Envelope::default())?;
//! assert!(subscription.wait(WaitStrategy::default(), Duration::from_secs(1))?);
//! subscription.poll(16, |event| {
//!     if let Event::Message(message) = event {
//!         assert_eq!((message.frame.place.stamp, message.to_vec()), (stamp, b"42".to_vec()));
//!     }
//! })?;
//! drop((subscription, publisher));
//! bus.close();
//! # std::fs::remove_dir(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod attach;
mod bus;
mod client;
mod control;
mod directory;
mod directory_memory;
mod error;
mod newcomer;
mod overload;
mod payload_memory;
mod peers;
mod publisher;
mod record;
mod replica;
mod role;
mod shared;
mod silence;
mod socket;
mod subscription;
mod succession;
mod watch;
mod wire;

pub use attach::{AttachOptions, MAX_BUS_NAME, MasterMode};
pub use bus::{Bus, Statistics};
pub use directory::{Directory, MemberEntry};
pub use error::{BusError, Result};
pub use payload_memory::PeerMemory;
pub use publisher::{BusLoan, Envelope, MAX_BATCH, MAX_DESTINATIONS, Publisher};
pub use record::{Credentials, Departure, MAX_GROUP_NAME, MemberId, Record};
pub use shm_bus_ring::{Address, BucketSet, Stamp};
pub use subscription::{
    Delivery, Event, MAX_DEADLINE, Overload, SLICE, SPIN, SubscribeOptions, Subscription, WaitStrategy,
};
