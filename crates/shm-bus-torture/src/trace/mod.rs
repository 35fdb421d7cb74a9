//! A process that is taken to any instruction of what it does.

pub mod access;
pub mod process;
mod seized;
pub mod steps;
pub mod tracee;
