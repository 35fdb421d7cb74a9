//! Whole attachments: processes with control threads, a master, memories handed over; one thread of one of them is
//! stepped.

mod case;
mod founder;
mod leftovers;
mod member;
mod operation;
mod parties;
mod role;
mod survivors;
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
    /// Is the master, and lets somebody in.
    MasterAttach,
    /// Is the master, and lets somebody join groups.
    MasterJoin,
    /// Is the master, and lets somebody leave one.
    MasterLeave,
    /// Is the master of one that closes.
    MasterDetach,
    /// Is the master of one that is killed.
    MasterDeath,
    /// Takes the role of a master that was killed.
    TakeOver,
    /// Takes the role of a master that closes.
    TakeOverClosed,
}

/// Moments at which a master is killed.
pub const MASTER_MOMENTS: usize = 500;

impl Op {
    pub const ALL: [(&str, Op); 20] = [
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
        ("master-attach", Op::MasterAttach),
        ("master-join", Op::MasterJoin),
        ("master-leave", Op::MasterLeave),
        ("master-detach", Op::MasterDetach),
        ("master-death", Op::MasterDeath),
        ("take-over", Op::TakeOver),
        ("take-over-closed", Op::TakeOverClosed),
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
                op if op.is_of_the_role() => 199,
                _ => 7,
            },
        }
    }

    /// Whether it is the control thread that is stepped.
    fn is_of_the_role(self) -> bool {
        self.is_service() || matches!(self, Op::TakeOver | Op::TakeOverClosed)
    }

    fn is_service(self) -> bool {
        matches!(
            self,
            Op::MasterAttach | Op::MasterJoin | Op::MasterLeave | Op::MasterDetach | Op::MasterDeath
        )
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
    match op {
        op if op.is_of_the_role() => role::trace_of(op, report),
        op => case::trace_of(op, report),
    }
}

/// One case.
pub fn case(op: Op, mode: Mode, trace: &Trace, at: usize, report: &Report) -> Outcome<Note> {
    match op {
        Op::Master => founder::case(at, report),
        op if op.is_of_the_role() => role::case(op, mode, trace, at, report),
        op => case::case(op, mode, trace, at, report),
    }
}
