//! The ring alone: processes that publish, read, sleep and make room in shared memory, without a master.

pub mod case;
mod judge;
pub mod message;
pub mod mutant;
pub mod operation;
pub mod pair;
pub mod scene;
mod survivors;
pub mod world;
