//! Messages that say in their topic what they must hold, so that whoever reads one can tell whether it is whole.

use shm_bus_ring::{Address, Bucket, BucketSet, Frame, Kind};

use crate::Outcome;
use crate::report::Seen;

/// Where everything goes.
pub fn group() -> Address {
    Address::group(1)
}

/// A second destination, for transactions.
pub fn other_group() -> Address {
    Address::group(2)
}

/// What every reader reads.
pub fn buckets() -> BucketSet {
    let mut set = BucketSet::control();
    set.insert(Bucket::of(group()));
    set.insert(Bucket::of(other_group()));
    set
}

/// `id 8 | length 24 | number 32`: from it follows what a message must hold.
pub fn topic(id: usize, length: u64, number: u64) -> u64 {
    (id as u64) << 56 | length << 32 | number
}

pub fn sender_of(topic: u64) -> usize {
    (topic >> 56) as usize
}

pub fn length_of(topic: u64) -> u64 {
    topic >> 32 & 0xFF_FFFF
}

/// Bytes that no other topic gives.
pub fn body(topic: u64) -> Vec<u8> {
    let length = length_of(topic) as usize;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
    // Steele and others' SplitMix64.
    let mut state = topic;
    while bytes.len() < length {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend_from_slice(&(word ^ word >> 31).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A message to be published, its bytes ready.
pub struct Item {
    pub topic: u64,
    pub destinations: Vec<Address>,
    pub bytes: Vec<u8>,
}

impl Item {
    /// One to the group.
    pub fn new(topic: u64) -> Self {
        Item { topic, destinations: vec![group()], bytes: body(topic) }
    }

    /// Bytes in front of its payload: the destinations of a transaction.
    pub fn prefix(&self) -> u64 {
        match self.destinations.len() {
            1 => 0,
            n => 8 * n as u64,
        }
    }

    pub fn kind(&self) -> Kind {
        match self.destinations.len() {
            1 => Kind::Message,
            _ => Kind::Transaction,
        }
    }
}

/// What becomes one slot.
pub struct Event(pub Vec<Item>);

impl Event {
    pub fn topics(&self) -> Vec<u64> {
        self.0.iter().map(|item| item.topic).collect()
    }
}

pub fn seen(frame: &Frame) -> Seen {
    Seen { stamp: frame.place.stamp.0, index: u64::from(frame.place.index), topic: frame.header.topic }
}

/// Whether a frame is what its topic says.
pub fn check(frame: &Frame, bytes: &[u8]) -> Outcome<()> {
    let topic = frame.header.topic;
    let prefix = match frame.header.kind {
        Kind::Transaction => 8 * frame.header.destination as usize,
        _ => 0,
    };
    let destinations: Vec<u8> = [group(), other_group()].iter().flat_map(|d| d.0.to_le_bytes()).collect();
    if sender_of(topic) != frame.sender.index()
        || bytes.get(..prefix) != destinations.get(..prefix)
        || bytes[prefix..] != body(topic)
    {
        return Err(format!("torn: {frame:?}"));
    }
    Ok(())
}
