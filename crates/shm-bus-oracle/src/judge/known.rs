//! What an event knows to be in the order.

use std::fmt;

/// The highest stamp that an event's causes have seen in the order, and how it came to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Everything up to here was in the order before the event.
    pub stamp: u64,
    how: How,
    /// The process that learnt it from the bus.
    of: u32,
    /// The last token that carried it to another process, and who sent it.
    through: Option<(u64, u32)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum How {
    #[default]
    Nothing,
    Published,
    Read(u32),
    Joined(u32),
}

impl Known {
    fn raise(&mut self, stamp: u64, how: How, of: u32) {
        if stamp > self.stamp {
            *self = Known { stamp, how, of, through: None };
        }
    }

    /// Its own publish returned.
    pub fn published(&mut self, stamp: u64, process: u32) {
        self.raise(stamp, How::Published, process);
    }

    /// One of its subscriptions has read a stamp, or passed it.
    pub fn read(&mut self, stamp: u64, process: u32, subscription: u32) {
        self.raise(stamp, How::Read(subscription), process);
    }

    /// It has subscribed.
    pub fn joined(&mut self, stamp: u64, process: u32, subscription: u32) {
        self.raise(stamp, How::Joined(subscription), process);
    }

    /// It has read a token of somebody who knew `other`.
    pub fn told(&mut self, other: Known, token: u64, sender: u32) {
        if other.stamp > self.stamp {
            *self = Known { through: Some((token, sender)), ..other };
        }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stamp, of) = (self.stamp, self.of);
        match self.how {
            How::Nothing => write!(f, "nothing"),
            How::Published => write!(f, "stamp {stamp}, which process {of} had published"),
            How::Read(sub) => {
                write!(f, "stamp {stamp}, which process {of} had read or passed in subscription {sub}")
            }
            How::Joined(sub) => {
                write!(f, "stamp {stamp}, the join record of subscription {sub} of process {of}")
            }
        }?;
        match self.through {
            Some((token, sender)) => write!(f, ", told by process {sender} with token {token:#x}"),
            None => Ok(()),
        }
    }
}
