//! What happens to a stepped process at its instruction.

use crate::trace::steps::Matters;

/// What happens to the stepped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// It is killed.
    Kill,
    /// It stands still for three laps and goes on.
    Stop,
    /// It stands still, is taken for dead, and goes on.
    Depart,
    /// It stands still while another is taken to each of its own instructions; then both go on.
    Pair,
}

impl Mode {
    pub const ALL: [(&str, Mode); 4] =
        [("kill", Mode::Kill), ("stop", Mode::Stop), ("depart", Mode::Depart), ("pair", Mode::Pair)];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, m)| *m == self).map_or("", |(n, _)| n)
    }

    /// What makes two instructions different ones to be at.
    pub fn matters(self) -> Matters {
        match self {
            Mode::Kill => Matters::Stores,
            _ => Matters::Loads,
        }
    }
}
