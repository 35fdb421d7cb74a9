//! Control records: what the master's role puts into the order.
//!
//! They travel as frames of bucket 254 from the role-holder's control lane, encoded with postcard
//! (<https://postcard.jamesmunns.com/wire-format>), at most 512 bytes each.

use serde::{Deserialize, Serialize};
use shm_bus_ring::layout::payload::CELL_BYTES;

/// An attachment, so named that a reused id is not mistaken for its former owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId {
    /// Index in the member table.
    pub id: u16,
    /// Which owner of that id.
    pub generation: u32,
}

/// Why an attachment is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// It detached, or was let go.
    Closed,
    /// It went without a word: its process died.
    Died,
}

/// A change of who is on the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The role has a new holder.
    Master {
        /// Who.
        member: MemberId,
    },
    /// An attachment was admitted.
    Attached {
        /// Who.
        member: MemberId,
        /// Its unicast address.
        address: u64,
        /// What the kernel says of it.
        credentials: Credentials,
    },
    /// An attachment is gone: nothing of it follows this record.
    Departed {
        /// Who.
        member: MemberId,
        /// Its unicast address.
        address: u64,
        /// Why.
        departure: Departure,
    },
    /// A group has a name.
    Group {
        /// Its address.
        address: u64,
        /// Its name.
        name: String,
    },
    /// An attachment receives what is sent to these addresses, from the next stamp on.
    Joined {
        /// Who.
        member: MemberId,
        /// At most [`MAX_ADDRESSES`].
        addresses: Vec<u64>,
        /// For a lossy subscription: this membership outlasts an eviction.
        lossy: bool,
    },
    /// An attachment no longer receives what is sent to these addresses.
    Left {
        /// Who.
        member: MemberId,
        /// At most [`MAX_ADDRESSES`], with those that it goes on taking.
        addresses: Vec<u64>,
        /// Whether it was lossy subscriptions that took them, or others.
        lossy: bool,
        /// Addresses that its subscriptions of the other kind go on taking.
        kept: Vec<u64>,
    },
    /// A reader lost its place: what is left are its lossy subscriptions.
    Evicted {
        /// Who.
        member: MemberId,
        /// How often it has lost its place by now: there is one record of each time.
        count: u8,
    },
}

/// Who an attachment is, as the kernel told the master when it attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id in the master's namespace.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot: with the pid, a process that cannot be mistaken.
    pub start_time: u64,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Addresses in one record: more take several records.
pub const MAX_ADDRESSES: usize = 40;
/// Bytes of a group's name.
pub const MAX_GROUP_NAME: usize = 200;

const _: () = assert!(MAX_ADDRESSES * 10 + 40 <= CELL_BYTES as usize);
const _: () = assert!(MAX_GROUP_NAME + 40 <= CELL_BYTES as usize);

/// A record with the term of the role that published it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The publisher's term.
    pub term: u64,
    /// What it says.
    pub record: Record,
}

impl Stamped {
    /// The bytes of its frame.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("encoding into a growing vector cannot fail")
    }

    /// Reads a frame's bytes; nothing if they are no record.
    pub fn decode(bytes: &[u8]) -> Option<Stamped> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_records_fit_a_cell_and_come_back() {
        let member = MemberId { id: u16::MAX, generation: u32::MAX };
        for record in [
            Record::Joined { member, addresses: vec![u64::MAX; MAX_ADDRESSES], lossy: true },
            Record::Left {
                member,
                addresses: vec![u64::MAX; MAX_ADDRESSES / 2],
                lossy: true,
                kept: vec![u64::MAX; MAX_ADDRESSES / 2],
            },
            Record::Group { address: u64::MAX, name: "x".repeat(MAX_GROUP_NAME) },
            Record::Attached {
                member,
                address: u64::MAX,
                credentials: Credentials {
                    pid: u32::MAX,
                    start_time: u64::MAX,
                    uid: u32::MAX,
                    gid: u32::MAX,
                },
            },
        ] {
            let stamped = Stamped { term: u64::MAX, record };
            let bytes = stamped.encode();
            assert!(bytes.len() <= CELL_BYTES as usize);
            assert_eq!(Stamped::decode(&bytes), Some(stamped));
        }
    }

    #[test]
    fn other_bytes_are_no_record() {
        assert_eq!(Stamped::decode(&[]), None);
        assert_eq!(Stamped::decode(&[1, 200, 3]), None);
    }
}
