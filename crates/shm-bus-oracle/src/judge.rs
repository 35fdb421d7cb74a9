//! The judge: hears what every process wrote down, in the order of time, and rejects what cannot be.
//!
//! # What is checked
//!
//! **Causality.** Edges go from each line of a process to its next (program order), from a publish to each of its
//! deliveries, and from a token sent through a pipe to its reception. The union of these edges and of the order of stamps
//! must have no cycle. Every edge goes forward in time, and the logs are heard in that order, so a cycle would have to use
//! a step from a stamp to a smaller one. It is found by carrying along the edges the highest stamp that an event knows to
//! be in the order ([`Known`]): a publish must get a stamp above what it knew when it began. (A path between two stamps
//! that uses no step of the order is exactly such knowledge; if each such path goes up, no union of them closes.)
//!
//! **Real time.** What had returned, or had been read by somebody, before something else began has the smaller stamp:
//! checked in the order of stamps, against the latest beginning so far.
//!
//! **One order.** Each subscription sees increasing (stamp, index), and everyone the same at one stamp.
//!
//! **All or none.** Once nothing can change a stamp any more it is *settled*: every subscription that was there must have
//! had what was for it, exactly once. Nothing that was refused is ever seen. What a killed process had begun is in the
//! order or not: then at one stamp that everybody agrees on.
//!
//! **Membership.** The control records, applied in their order, must make sense: each has a cause, each subscription
//! starts behind its own join record, whoever reads is a member at that stamp, whoever sends is attached, an address that
//! a message was sent to was reachable, and whoever looked into the directory saw what the records below said.
//!
//! # Memory
//!
//! A stamp is forgotten once it is settled. It cannot be before the slowest subscription has passed it and every call
//! that was going on has ended, so the window is what the bus itself must keep, and what was logged while a process stood
//! still.

mod calls;
mod hearing;
mod known;
mod members;
mod order;
mod orphans;
mod settling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use self::calls::{Attachment, Process, Publish, Subscription};
use self::known::Known;
use self::members::Members;
use self::order::Order;
use self::orphans::Orphans;
use crate::event::Line;

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The logs themselves make no sense.
    Log,
    /// An effect has a smaller stamp than its cause.
    Causality,
    /// What ended before something else began has a larger stamp.
    RealTime,
    /// Two disagree about what is at a stamp, or one saw stamps out of order.
    Order,
    /// What was read is not what was written.
    Content,
    /// Something is missing, twice, or not for its reader.
    Delivery,
    /// Something was seen that had been refused.
    Refused,
    /// The control records contradict each other, or what the processes did.
    Membership,
    /// A process met an error that should not be.
    Unexpected,
}

/// What the judge rejects, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which promise.
    pub rule: Rule,
    /// In words.
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// A failure of a rule.
pub(crate) fn broken<T>(rule: Rule, text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { rule, text: text.into() })
}

/// How much was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Stamps that were settled.
    pub stamps: u64,
    /// Messages in the order.
    pub messages: u64,
    /// Their deliveries.
    pub deliveries: u64,
    /// Control records in the order.
    pub records: u64,
    /// Edges of causality.
    pub edges: u64,
    /// Tokens that went through a pipe, of these.
    pub tokens: u64,
    /// Messages that were refused, hence must not be seen.
    pub refused: u64,
    /// Processes that were killed.
    pub deaths: u64,
    /// Publishes that a death interrupted.
    pub interrupted: u64,
    /// Changes of the master's role.
    pub takeovers: u64,
    /// Subscriptions that lost their place.
    pub evictions: u64,
    /// Gaps of lossy subscriptions.
    pub gaps: u64,
    /// Stamps in these gaps.
    pub missed: u64,
    /// Looks into the directory.
    pub snapshots: u64,
}

impl Counts {
    /// Names and numbers, for tables.
    pub fn rows(&self) -> [(&'static str, u64); 14] {
        [
            ("stamps", self.stamps),
            ("messages", self.messages),
            ("deliveries", self.deliveries),
            ("records", self.records),
            ("edges", self.edges),
            ("tokens", self.tokens),
            ("refused", self.refused),
            ("deaths", self.deaths),
            ("interrupted", self.interrupted),
            ("takeovers", self.takeovers),
            ("evictions", self.evictions),
            ("gaps", self.gaps),
            ("missed", self.missed),
            ("snapshots", self.snapshots),
        ]
    }

    /// Counts what another run has checked.
    pub fn add(&mut self, other: &Counts) {
        self.stamps += other.stamps;
        self.messages += other.messages;
        self.deliveries += other.deliveries;
        self.records += other.records;
        self.edges += other.edges;
        self.tokens += other.tokens;
        self.refused += other.refused;
        self.deaths += other.deaths;
        self.interrupted += other.interrupted;
        self.takeovers += other.takeovers;
        self.evictions += other.evictions;
        self.gaps += other.gaps;
        self.missed += other.missed;
        self.snapshots += other.snapshots;
    }
}

/// Everything the judge knows.
#[derive(Default)]
pub struct Judge {
    counts: Counts,
    /// Time of the last line.
    time: u64,
    processes: BTreeMap<u32, Process>,
    /// Those that have ended lately.
    gone: BTreeMap<u32, Process>,
    /// By address.
    attachments: HashMap<u64, Attachment>,
    subscriptions: BTreeMap<(u32, u32), Subscription>,
    publishes: HashMap<u64, Publish>,
    next_publish: u64,
    /// Publish and index of each message that may be seen.
    parts: HashMap<u64, (u64, u16)>,
    /// Messages that were refused lately, and the highest stamp at that time.
    refused: HashMap<u64, u64>,
    /// Tokens on their way.
    tokens: HashMap<u64, (u64, Known)>,
    order: Order,
    members: Members,
    orphans: Orphans,
}

impl Judge {
    /// Everything has been heard, and every process is gone.
    pub fn finish(&mut self) -> Result<Counts, Failure> {
        if let Some(number) = self.processes.keys().next() {
            return broken(Rule::Log, format!("process {number} is not gone yet"));
        }
        self.settle_below(self.order.latest() + 1)?;
        self.members.finish()?;
        Ok(self.counts)
    }

    /// All of a finished run: sorts the lines by time, those of one process keeping their order.
    pub fn judge(mut lines: Vec<(u32, Line)>) -> Result<Counts, Failure> {
        lines.sort_by_key(|(_, line)| line.time);
        let mut judge = Judge::default();
        for (process, line) in &lines {
            judge.hear(*process, line)?;
        }
        judge.finish()
    }
}
