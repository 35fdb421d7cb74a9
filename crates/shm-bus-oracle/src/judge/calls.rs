//! What processes are doing or have done: calls with a beginning and an end.

use std::collections::VecDeque;

use super::known::Known;
use crate::event::Part;

/// A process of the run.
#[derive(Default)]
pub struct Process {
    pub pid: u32,
    pub known: Known,
    /// The publish that has not returned.
    pub publishing: Option<u64>,
    /// When the attach began that has not returned.
    pub attaching: Option<u64>,
    pub subscribing: Option<Subscribing>,
    /// When it was about to be killed.
    pub killed: Option<u64>,
}

/// A subscribe that has not returned.
pub struct Subscribing {
    pub number: u32,
    /// Of which attachment.
    pub address: u64,
    pub began: u64,
    /// What its process knew when it began.
    pub known: Known,
    /// The highest stamp in the order by then: its join record is above.
    pub above: u64,
}

/// An attachment that somebody was given.
pub struct Attachment {
    pub process: u32,
    pub member: shm_bus::MemberId,
    pub began: u64,
    pub returned: u64,
    /// When it began to detach.
    pub leaving: Option<u64>,
    /// Whether one of its subscriptions has ended, so that it may leave what it joined.
    pub closed: bool,
}

/// A subscription that somebody was given.
pub struct Subscription {
    /// Of which attachment.
    pub address: u64,
    pub began: u64,
    pub returned: u64,
    pub start: u64,
    pub addresses: Vec<u64>,
    /// Whether its control records are in the log.
    pub records: bool,
    /// Whether it may have gaps.
    pub lossy: bool,
    /// What it said it has missed, in its order: from the first stamp up to the second.
    pub gaps: VecDeque<(u64, u64)>,
    /// The place of the last delivery.
    pub last: Option<(u64, u16)>,
    /// Everything below was delivered, and its lease ended well.
    pub released: u64,
    /// Nothing from here on is owed to it: it was closed, evicted or killed.
    pub end: Option<u64>,
    /// Messages that were not what was written, if their lease ends well.
    pub doubts: Vec<(u64, String)>,
}

impl Subscription {
    /// Whether it owes the log an account of that stamp.
    pub fn covers(&self, stamp: u64) -> bool {
        let missed = self.gaps.iter().any(|(from, to)| (*from..*to).contains(&stamp));
        self.start <= stamp && self.end.is_none_or(|end| stamp < end) && !missed
    }

    /// Which of its addresses a message counts as sent to: the first of the destinations that it takes.
    pub fn wanted(&self, to: &[u64]) -> Option<u64> {
        to.iter().copied().find(|to| self.addresses.contains(to))
    }
}

/// A publish.
pub struct Publish {
    pub process: u32,
    /// The sender's address.
    pub from: u64,
    pub parts: Vec<Part>,
    pub began: u64,
    pub returned: Option<u64>,
    /// Its place, once somebody has told it.
    pub stamp: Option<u64>,
    /// What its process knew when it began.
    pub known: Known,
    /// The highest stamp in the order by then.
    pub above: u64,
}
