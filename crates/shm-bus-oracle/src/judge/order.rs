//! The stamps that are not settled yet, and what everybody says is there.

use std::collections::VecDeque;

use shm_bus::Record;

use super::{Failure, Rule, broken};

/// Further than any run gets ahead of its slowest reader.
const FAR: u64 = 1 << 24;

/// What is at a stamp.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum What {
    /// Nobody has said.
    #[default]
    Unknown,
    /// That publish.
    Message(u64),
    /// That control record.
    Record(Record),
}

/// One stamp.
#[derive(Default)]
pub struct Slot {
    pub what: What,
    /// When somebody had first read it.
    pub seen: Option<u64>,
    /// Who has read which part of it; [`RECORD`] for a control record.
    pub readers: Vec<((u32, u32), u16)>,
}

/// Stands for a control record among the parts of a slot.
pub const RECORD: u16 = u16::MAX;

/// The part of the order that is not settled.
#[derive(Default)]
pub struct Order {
    base: u64,
    slots: VecDeque<Slot>,
    latest: u64,
}

impl Order {
    /// Everything below is settled.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Begins at the first stamp that anybody reads.
    pub fn begin(&mut self, stamp: u64) {
        self.base = stamp;
        self.latest = self.latest.max(stamp - 1);
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.base > 0
    }

    /// The highest stamp that is known to be in the order.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// Everything up to that stamp is in the order.
    pub fn reached(&mut self, stamp: u64) {
        self.latest = self.latest.max(stamp);
    }

    /// A stamp that somebody says something of.
    pub fn slot(&mut self, stamp: u64) -> Result<&mut Slot, Failure> {
        let Some(index) = stamp.checked_sub(self.base).filter(|_| self.base > 0) else {
            let base = self.base;
            return broken(
                Rule::RealTime,
                format!(
                    "stamp {stamp} gets something new, and everything below {base} was in the order before"
                ),
            );
        };
        if index >= FAR {
            return broken(Rule::Order, format!("stamp {stamp} is far beyond {}", self.latest));
        }
        let index = index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        self.reached(stamp);
        Ok(&mut self.slots[index])
    }

    /// Says what is at a stamp. `false` if that was known.
    pub fn put(&mut self, stamp: u64, what: What) -> Result<bool, Failure> {
        let slot = self.slot(stamp)?;
        if slot.what == What::Unknown {
            slot.what = what;
            return Ok(true);
        }
        if slot.what != what {
            return broken(Rule::Order, format!("stamp {stamp} is both {:?} and {what:?}", slot.what));
        }
        Ok(false)
    }

    /// The oldest stamp that is not settled, which is settled now.
    pub fn pass(&mut self) -> Slot {
        self.base += 1;
        self.slots.pop_front().unwrap_or_default()
    }
}
