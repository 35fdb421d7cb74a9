//! The side channel's messages: SEQPACKET datagrams between an attachment and the master's role.
//!
//! The first datagram each way starts with [`Greeting`] in a form that never changes, so that builds of different
//! layout versions can tell each other so. Everything else is postcard.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use shm_bus_ring::layout::LAYOUT_VERSION;

use crate::record::{MAX_ADDRESSES, MAX_GROUP_NAME, MemberId};

/// `shmbus` and two zero bytes, then the layout version, little-endian.
pub(crate) const GREETING_BYTES: usize = 16;

pub(crate) fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = *b"shmbus\0\0\0\0\0\0\0\0\0\0";
    bytes[8..].copy_from_slice(&LAYOUT_VERSION.to_le_bytes());
    bytes
}

/// The layout version of a greeting; nothing if it is none.
pub(crate) fn greeted_version(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; GREETING_BYTES] = bytes.get(..GREETING_BYTES)?.try_into().ok()?;
    (bytes[..8] == *b"shmbus\0\0").then(|| u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes")))
}

/// How a reader wants to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WirePolicy {
    /// As it has been, or as a reader is treated that does not say.
    AsBefore,
    /// Publishers wait for it, this many milliseconds at most.
    Block { deadline: u64 },
    /// Publishers wait for it.
    Pinned,
    /// It does not count.
    Lossy,
    /// It loses its place as soon as it is in the way, or this many slots behind.
    Evict { lag: u64 },
}

impl fmt::Display for WirePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsBefore => write!(f, "as before"),
            Self::Block { deadline } => write!(f, "'block' with a deadline of {deadline} ms"),
            Self::Pinned => write!(f, "'pinned'"),
            Self::Lossy => write!(f, "'lossy'"),
            Self::Evict { lag } => write!(f, "'evict' with a maxLag of {lag}"),
        }
    }
}

/// From an attachment to the master's role.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Let me in. Behind a greeting, with the payload memfd and the bell.
    Hello { protocol: u32 },
    /// I am still here: to a new master, with the payload memfd and the bell.
    Again { member: MemberId },
    /// Give me the addresses of these groups, make those that are missing.
    Open { request: u64, names: Vec<String> },
    /// I want what is sent to these addresses.
    Join { request: u64, addresses: Vec<u64>, policy: WirePolicy },
    /// No subscription that counts, or none that is lossy, wants this any more; `last` when none is left that counts.
    Leave { request: u64, addresses: Vec<u64>, lossy: bool, last: bool },
    /// I miss this ring.
    Ring { member: MemberId },
    /// I evicted this reader: its record is due.
    Evicted { id: u16 },
    /// Let me go.
    Detach,
    /// Are you there?
    Ping,
    /// I miss what you handed over when your reign began.
    Reign,
}

/// From the master's role to an attachment.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// You are in. Behind a greeting, with the sequencer memfd and the directory memfd.
    Welcome { member: MemberId, address: u64, term: u64 },
    /// You are not. Behind a greeting.
    Refused { why: String },
    /// Somebody's payload memfd and bell.
    Ring { member: MemberId },
    /// That ring is of no more use.
    Forget { member: MemberId },
    /// The directory memfd of this term.
    Directory { term: u64 },
    /// Answer to `Open`.
    Opened { request: u64, addresses: Vec<u64> },
    /// Answer to `Join`: the stamp of the record, how often the reader had been evicted, and who was master and who
    /// attached as of it.
    Joined { request: u64, stamp: u64, evictions: u8, term: u64, master: u16, attached: Vec<(MemberId, u64)> },
    /// Answer to `Leave`.
    Left { request: u64 },
    /// Answer to any of them.
    Failed { request: u64, failure: Failure },
    /// Answer to `Detach`.
    Goodbye,
    /// Answer to `Ping`, at once, whatever else waits.
    Pong,
    /// The master's process and the bus's listening socket, with the number of its file: after every welcome and
    /// directory.
    Reign { term: u64, inode: u64 },
}

/// Why the master's role did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// A table is full.
    Limit { what: String, limit: u64 },
    /// That address is not the asker's, or no group.
    NotYours { address: u64 },
    /// The name cannot be used.
    Name { name: String },
    /// It has held the others up too often.
    Worn { evictions: u8 },
}

/// The longest datagram: a `Joined` with every attachment in it.
pub(crate) const MAX_DATAGRAM: usize = 1024 * 20 + 1024;
/// Groups in one request.
pub(crate) const MAX_NAMES: usize = MAX_ADDRESSES;

const _: () = assert!(MAX_NAMES * (MAX_GROUP_NAME + 4) + 64 <= MAX_DATAGRAM);

pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("encoding into a growing vector cannot fail")
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

pub(crate) fn with_greeting<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = greeting().to_vec();
    bytes.extend(encode(message));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_tells_its_version_and_nothing_else_is_one() {
        assert_eq!(greeted_version(&with_greeting(&Request::Hello { protocol: 0 })), Some(LAYOUT_VERSION));
        assert_eq!(greeted_version(b"shmbus"), None);
        assert_eq!(greeted_version(b"GET / HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn the_longest_answer_fits_a_datagram() {
        let member = MemberId { id: u16::MAX, generation: u32::MAX };
        let reply = Reply::Joined {
            request: u64::MAX,
            stamp: u64::MAX,
            evictions: u8::MAX,
            term: u64::MAX,
            master: u16::MAX,
            attached: vec![(member, u64::MAX); 1024],
        };
        assert!(encode(&reply).len() <= MAX_DATAGRAM);
    }
}
