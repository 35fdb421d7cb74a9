//! Whole attachments.

/// What the stepped process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {}

impl Op {
    pub const ALL: [(&str, Op); 0] = [];
}
