//! How to subscribe.

use std::time::Duration;

use crate::error::{BusError, Result};
use crate::wire::WirePolicy;

/// The longest time for which one reader may hold a full ring.
pub const MAX_DEADLINE: Duration = Duration::from_secs(10);
/// [`Overload::Block`] unless a subscription says otherwise.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_millis(100);

/// What happens when a ring is full because of a reader.
///
/// All subscriptions of an attachment but the lossy ones share one cursor and with it one fate. Who wants another fate
/// beside it attaches once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    /// Publishers wait for it, this long at most ([`MAX_DEADLINE`]); then it loses its place ([`BusError::Evicted`]).
    /// An attachment that was evicted three times is refused it: it has cost the others enough.
    Block {
        /// Whole milliseconds.
        deadline: Duration,
    },
    /// Publishers wait for it without a bound. One that stops holds up everyone who publishes to it, and after a lap of
    /// the order everyone.
    Pinned,
    /// Nobody ever waits for it. What it is given are copies, checked to be whole; what was overwritten before it came
    /// is told exactly, by the stamps it missed ([`crate::Event::Gap`]).
    Lossy,
    /// Nobody waits for it: it loses its place when a ring is full because of it, and when it is found more than
    /// `max_lag` stamps behind. Publishers look each quarter of `max_lag`, or each eight stamps.
    Evict {
        /// 1 to the number of slots of the bus; none stands for that number.
        max_lag: Option<u64>,
    },
}

impl Overload {
    /// As the master is asked for it.
    pub(crate) fn to_wire(self, slots: u64) -> Result<WirePolicy> {
        Ok(match self {
            Overload::Block { deadline } if deadline > MAX_DEADLINE => {
                let why = format!("must be at most {} ms", MAX_DEADLINE.as_millis());
                return Err(BusError::InvalidOption { option: "deadline", why });
            }
            Overload::Block { deadline } => WirePolicy::Block { deadline: deadline.as_millis() as u64 },
            Overload::Pinned => WirePolicy::Pinned,
            Overload::Lossy => WirePolicy::Lossy,
            Overload::Evict { max_lag } => {
                let lag = max_lag.unwrap_or(slots);
                if !(1..=slots).contains(&lag) {
                    let why = format!("must be a whole number from 1 to the {slots} slots of the bus");
                    return Err(BusError::InvalidOption { option: "maxLag", why });
                }
                WirePolicy::Evict { lag }
            }
        })
    }
}

/// How to subscribe.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeOptions {
    /// What happens when a ring is full because of this reader. Without it: as the attachment's other subscriptions
    /// have it, or [`Overload::Block`] with 100 ms if there is none.
    pub overload: Option<Overload>,
    /// How long to wait for the master's answer.
    pub timeout: Duration,
    /// Whether control records count as something that was handed over.
    pub records: bool,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        SubscribeOptions { overload: None, timeout: Duration::from_secs(5), records: false }
    }
}
