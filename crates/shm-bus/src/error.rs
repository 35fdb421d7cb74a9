//! What can go wrong, with a stable code for each.

use shm_bus_os::OsError;
use shm_bus_ring::{Address, AttachmentId, GeometryError, Shortage, Spoiled};

/// The result of everything here.
pub type Result<T> = core::result::Result<T, BusError>;

/// Why an operation did not happen. Each variant has a stable [`BusError::code`], and its message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The name of a bus or a group cannot be used.
    #[error("the {what} name {name:?} cannot be used: {why}")]
    InvalidName {
        /// `bus` or `group`.
        what: &'static str,
        /// As given.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// An option is out of range.
    #[error("{option}: {why}")]
    InvalidOption {
        /// Its name.
        option: &'static str,
        /// What is wrong and what is right.
        why: String,
    },
    /// The runtime directory is missing, or not private to this user.
    #[error("the runtime directory cannot be used: {0}")]
    RuntimeDirectory(#[source] OsError),
    /// The kernel lacks something, or a sandbox forbids it.
    #[error("{0}")]
    Unsupported(#[source] OsError),
    /// A system call failed.
    #[error("{0}")]
    System(#[from] OsError),
    /// No bus of that name is there, and this attachment was not to create it.
    #[error("there is no bus {name:?}; start its master first, or attach with master: 'auto'")]
    NotFound {
        /// The bus.
        name: String,
    },
    /// The bus exists already and this attachment was to create it.
    #[error("the bus {name:?} exists already; attach with master: 'auto' to join it")]
    Exists {
        /// The bus.
        name: String,
    },
    /// The bus has attachments, but nobody answers for its master.
    #[error(
        "the master of bus {name:?} did not answer within {waited} ms; the bus itself runs on, try again"
    )]
    NoMaster {
        /// The bus.
        name: String,
        /// Milliseconds.
        waited: u64,
    },
    /// The bus speaks another layout version.
    #[error(
        "the bus has layout version {theirs}, this build has {ours}; use the same release of shm-bus on both sides"
    )]
    Version {
        /// This build's.
        ours: u64,
        /// The bus's.
        theirs: u64,
    },
    /// The master refused.
    #[error("the master refused: {why}")]
    Refused {
        /// Its reason.
        why: String,
    },
    /// A table of the bus is full.
    #[error("the bus has no room for more {what} (limit {limit})")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many there can be.
        limit: u64,
    },
    /// No group has that name.
    #[error(
        "no group is named {name:?}; create it with createGroup(), or wait until somebody subscribes to it"
    )]
    UnknownGroup {
        /// As given.
        name: String,
    },
    /// Nobody has that address.
    #[error("nobody on the bus has the address {address}")]
    UnknownAddress {
        /// As given.
        address: Address,
    },
    /// The attachment with that address has not subscribed to it.
    #[error(
        "the attachment with address {address} takes no messages: it has not subscribed to its own address"
    )]
    Unreachable {
        /// As given.
        address: Address,
    },
    /// A message cannot go to the same destination twice.
    #[error("the destination {address} is given twice")]
    DuplicateDestination {
        /// The address.
        address: Address,
    },
    /// The frame is larger than a quarter of the publisher's ring.
    #[error("a message of {length} bytes does not fit: the largest is {max} bytes, a quarter of ringBytes")]
    TooBig {
        /// Bytes.
        length: u64,
        /// Bytes.
        max: u64,
    },
    /// There is no room now. Nothing was published.
    #[error("no {shortage:?} left for a message now; wait with writable() and try again{}", holder_text(*holder))]
    WouldBlock {
        /// What there was not enough of.
        shortage: Shortage,
        /// Who holds it, and the stamp it is at.
        holder: Option<(AttachmentId, u64)>,
    },
    /// The attachment was closed, or the bus has declared it gone.
    #[error("the bus is closed")]
    Closed,
    /// This reader was too slow and lost its place.
    #[error(
        "this reader was evicted at stamp {stamp}: it held the others up longer than its overload policy allows; subscribe again"
    )]
    Evicted {
        /// The first stamp that was not delivered intact.
        stamp: u64,
    },
    /// The shared order is unusable.
    #[error("the order of the bus is unusable: {0}")]
    Spoiled(#[from] Spoiled),
    /// A peer sent something that no build of this layout version sends.
    #[error("a peer broke the protocol: {why}")]
    Protocol {
        /// How.
        why: String,
    },
}

fn holder_text(holder: Option<(AttachmentId, u64)>) -> String {
    holder.map_or_else(String::new, |(id, stamp)| format!(" (reader {} is at stamp {stamp})", id.0))
}

impl BusError {
    /// The stable code that JavaScript users see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "ERR_SHM_BUS_INVALID_NAME",
            Self::InvalidOption { .. } => "ERR_SHM_BUS_INVALID_OPTION",
            Self::RuntimeDirectory(_) => "ERR_SHM_BUS_RUNTIME_DIRECTORY",
            Self::Unsupported(_) => "ERR_SHM_BUS_UNSUPPORTED",
            Self::System(_) => "ERR_SHM_BUS_SYSTEM",
            Self::NotFound { .. } => "ERR_SHM_BUS_NOT_FOUND",
            Self::Exists { .. } => "ERR_SHM_BUS_EXISTS",
            Self::NoMaster { .. } => "ERR_SHM_BUS_NO_MASTER",
            Self::Version { .. } => "ERR_SHM_BUS_LAYOUT_VERSION",
            Self::Refused { .. } => "ERR_SHM_BUS_REFUSED",
            Self::Limit { .. } => "ERR_SHM_BUS_LIMIT",
            Self::UnknownGroup { .. } => "ERR_SHM_BUS_UNKNOWN_GROUP",
            Self::UnknownAddress { .. } => "ERR_SHM_BUS_UNKNOWN_ADDRESS",
            Self::Unreachable { .. } => "ERR_SHM_BUS_UNREACHABLE",
            Self::DuplicateDestination { .. } => "ERR_SHM_BUS_DUPLICATE_DESTINATION",
            Self::TooBig { .. } => "ERR_SHM_BUS_TOO_BIG",
            Self::WouldBlock { .. } => "ERR_SHM_BUS_WOULD_BLOCK",
            Self::Closed => "ERR_SHM_BUS_CLOSED",
            Self::Evicted { .. } => "ERR_SHM_BUS_EVICTED",
            Self::Spoiled(_) => "ERR_SHM_BUS_SPOILED",
            Self::Protocol { .. } => "ERR_SHM_BUS_PROTOCOL",
        }
    }

    /// The system's error number and call, where the system said no.
    pub fn system(&self) -> Option<(&'static str, i32)> {
        match self {
            Self::RuntimeDirectory(e) | Self::Unsupported(e) | Self::System(e) => {
                Some((e.syscall()?, e.errno()?))
            }
            _ => None,
        }
    }
}

impl From<GeometryError> for BusError {
    fn from(error: GeometryError) -> Self {
        match error {
            GeometryError::RingBytes(_) => {
                BusError::InvalidOption { option: "ringBytes", why: error.to_string() }
            }
            GeometryError::HeaderCount(_) => {
                BusError::InvalidOption { option: "headers", why: error.to_string() }
            }
            _ => BusError::Protocol { why: error.to_string() },
        }
    }
}

pub(crate) fn duplicate_failed(error: &std::io::Error) -> BusError {
    let what = "duplicating a file descriptor (their limit is ulimit -n)";
    OsError::of_std("fcntl(F_DUPFD_CLOEXEC)", what, error).into()
}
