//! Whole attachments: processes with control threads, a master, memories handed over; one thread of one of them is
//! stepped.

mod case;
mod founder;
mod leftovers;
mod member;
mod operation;
mod verdict;

pub use leftovers::{clear_after_the_dead, clear_away};

use crate::Outcome;
use crate::mode::Mode;
use crate::report::{Note, Report};
use crate::trace::steps::{Grain, Trace};

/// What the stepped process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Publishes 64 bytes.
    Publish,
    /// Publishes 4 KiB.
    PublishRing,
    /// Takes a loan and publishes it.
    Loan,
    /// Publishes three messages as one event.
    Batch,
    /// Publishes one message to two groups.
    Transaction,
    /// Finds the order full past a reader's deadline.
    Evict,
    /// Reads what is there and lets go of it.
    Poll,
    /// Sleeps until a message comes.
    Wait,
    /// Subscribes.
    Subscribe,
    /// Ends a subscription.
    Unsubscribe,
    /// Attaches.
    Attach,
    /// Detaches.
    Close,
    /// Is the master, and dies while others attach.
    Master,
}

/// Moments at which a master is killed.
pub const MASTER_MOMENTS: usize = 500;

impl Op {
    pub const ALL: [(&str, Op); 13] = [
        ("bus-publish", Op::Publish),
        ("bus-publish-ring", Op::PublishRing),
        ("bus-loan", Op::Loan),
        ("bus-batch", Op::Batch),
        ("bus-transaction", Op::Transaction),
        ("bus-evict", Op::Evict),
        ("bus-poll", Op::Poll),
        ("bus-wait", Op::Wait),
        ("bus-subscribe", Op::Subscribe),
        ("bus-unsubscribe", Op::Unsubscribe),
        ("bus-attach", Op::Attach),
        ("bus-close", Op::Close),
        ("bus-master", Op::Master),
    ];

    pub fn modes(self) -> &'static [Mode] {
        match self {
            Op::Master => &[Mode::Kill],
            _ => &[Mode::Kill, Mode::Stop],
        }
    }

    /// What a full run visits: each place in front of an access, and some of the instructions between, to be sure.
    pub fn grain(self) -> Grain {
        Grain::Accesses {
            stride: match self {
                Op::Attach => 997,
                Op::Poll => 49,
                _ => 7,
            },
        }
    }

    fn publishes(self) -> bool {
        matches!(self, Op::Publish | Op::PublishRing | Op::Loan | Op::Batch | Op::Transaction | Op::Evict)
    }

    fn reads(self) -> bool {
        matches!(self, Op::Poll | Op::Wait)
    }
}

/// The way of an undisturbed run.
pub fn trace_of(op: Op, report: &Report) -> Outcome<Trace> {
    case::trace_of(op, report)
}

/// One case.
pub fn case(op: Op, mode: Mode, trace: &Trace, at: usize, report: &Report) -> Outcome<Note> {
    match op {
        Op::Master => founder::case(at, report),
        _ => case::case(op, mode, trace, at, report),
    }
}
