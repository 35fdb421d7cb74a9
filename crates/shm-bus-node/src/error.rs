//! Errors on their way to JavaScript: code, message, system call, error number and stamp in one string, taken apart by
//! the TypeScript side. (A failed asynchronous task can carry nothing else.)

use napi::{Error, Status};
use shm_bus::BusError;

const SEPARATOR: char = '\u{1f}';

pub fn to_js(error: &BusError) -> Error {
    let (syscall, errno) =
        error.system().map_or((String::new(), String::new()), |(s, e)| (s.into(), e.to_string()));
    let stamp = match error {
        BusError::Evicted { stamp } => stamp.to_string(),
        _ => String::new(),
    };
    let parts = [error.code(), &error.to_string(), &syscall, &errno, &stamp].map(str::to_owned);
    Error::new(Status::GenericFailure, parts.join(&SEPARATOR.to_string()))
}

/// An error of the addon itself.
pub fn named(code: &str, message: &str) -> Error {
    Error::new(Status::GenericFailure, [code, message, "", "", ""].join(&SEPARATOR.to_string()))
}
