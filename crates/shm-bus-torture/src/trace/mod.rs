//! A process that is taken to any instruction of what it does.

pub mod access;
pub mod process;
pub mod steps;
pub mod tracee;
