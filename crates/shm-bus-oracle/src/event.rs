//! What a process writes down of what it does and sees: one line of JSON each, so that a kept log can be read, and so
//! that a participant may be written in any language.

use serde::{Deserialize, Serialize};
use shm_bus::{MemberId, Record};

/// A line of one process's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Nanoseconds of the monotonic clock: before what begins, after what has ended.
    #[serde(rename = "t")]
    pub time: u64,
    /// What happened.
    #[serde(rename = "e")]
    pub event: Event,
}

/// What happened. An attachment is named by its unicast address, which no other ever has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// By the driver: the process was started.
    Started {
        /// As others will see it.
        pid: u32,
    },
    /// It is about to be killed: by the driver, or by a timer of its own.
    Killed,
    /// By the driver: it is gone, and nothing of its log is outstanding.
    Gone,
    /// It begins to attach.
    Attach,
    /// It is attached.
    Attached {
        /// Its id and generation.
        member: MemberId,
        /// Its unicast address.
        address: u64,
    },
    /// It could not attach.
    NotAttached {
        /// Why.
        code: String,
    },
    /// It begins to detach.
    Detach {
        /// Which attachment.
        address: u64,
    },
    /// It has detached.
    Detached {
        /// Which attachment.
        address: u64,
    },
    /// It begins to subscribe.
    Subscribe {
        /// Its number for the new subscription.
        sub: u32,
        /// Of which attachment.
        address: u64,
    },
    /// It has subscribed.
    Subscribed {
        /// Its number.
        sub: u32,
        /// The first stamp that it can get.
        start: u64,
        /// What it takes.
        addresses: Vec<u64>,
        /// Whether the log of this subscription has its control records.
        records: bool,
        /// Whether it may miss something, if it says so.
        lossy: bool,
    },
    /// It could not subscribe.
    NotSubscribed {
        /// Its number.
        sub: u32,
        /// Why.
        code: String,
    },
    /// It begins to close a subscription.
    Close {
        /// Its number.
        sub: u32,
    },
    /// It has closed a subscription.
    Closed {
        /// Its number.
        sub: u32,
    },
    /// A poll gave something, and its lease lasts.
    Got {
        /// The subscription's number.
        sub: u32,
        /// What it gave, in its order.
        items: Vec<Item>,
    },
    /// The lease on all that came so far ended well.
    Released {
        /// The subscription's number.
        sub: u32,
        /// Everything below this stamp was delivered, or not for this subscription.
        next: u64,
    },
    /// It was told that its place is lost.
    Evicted {
        /// The subscription's number.
        sub: u32,
        /// The first stamp that was not delivered intact.
        stamp: u64,
    },
    /// It begins to publish; several parts are a batch.
    Publish {
        /// Of which attachment.
        from: u64,
        /// In the order of the batch.
        parts: Vec<Part>,
    },
    /// What it began to publish is in the order.
    Published {
        /// Where.
        stamp: u64,
        /// A later time at which it had not begun yet.
        began: u64,
    },
    /// What it began to publish must never be seen.
    Refused {
        /// Why.
        code: String,
    },
    /// It sends a token through a pipe beside the bus, or tries to.
    Sent {
        /// No other is like it.
        token: u64,
    },
    /// It has read a token.
    Received {
        /// Which.
        token: u64,
    },
    /// It has looked into the directory.
    Directory(Snapshot),
    /// It does nothing more but read.
    Done,
    /// It has read everything.
    Drained,
    /// For people who read the log.
    Note(String),
    /// It lives, and has no event before this time to tell any more.
    Beat,
}

/// One message, or one message of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// No other message of the bus is like it.
    pub id: u64,
    /// Its destinations.
    pub to: Vec<u64>,
    /// Bytes of payload.
    pub len: u32,
    /// CRC-32 of its payload.
    pub crc: u32,
}

/// What a poll gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A message.
    Message {
        /// Its place.
        stamp: u64,
        /// Its place in the batch.
        index: u16,
        /// Its sender's address, as the bus says.
        sender: u64,
        /// The address of this subscription that it was for.
        to: u64,
        /// Which message, as its topic says.
        id: u64,
        /// Bytes of payload.
        len: u32,
        /// CRC-32 of its payload, as it was read.
        crc: u32,
    },
    /// A control record.
    Record {
        /// Its place.
        stamp: u64,
        /// What it says.
        record: Record,
    },
    /// A lossy subscription has missed something.
    Gap {
        /// The first stamp that it has missed.
        from: u64,
        /// The first that it has not.
        to: u64,
    },
}

/// The directory as one process read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Every record below is in it.
    pub as_of: u64,
    /// Members by id: with their address, and what they have joined, ascending.
    pub members: Vec<(MemberId, u64, Vec<u64>)>,
    /// Groups, by address.
    pub groups: Vec<(u64, String)>,
}

impl Item {
    /// How many stamps were missed.
    pub fn missed(&self) -> u64 {
        match self {
            Item::Gap { from, to } => to - from,
            Item::Message { .. } | Item::Record { .. } => 0,
        }
    }
}
