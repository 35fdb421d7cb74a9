//! What the package `atomics-wait` is made of: futex waits and wakes on an element of an Int32Array, waits on a thread
//! for the event loop, and memory that processes can share.

mod memory;
mod waiters;
mod waitv;

use std::ptr;
use std::time::Duration;

use napi::bindgen_prelude::Unknown;
use napi::{Env, JsValue, sys};
use napi_derive::napi;
use shm_bus_os::OsError;
use shm_bus_os::futex::{self, Wait};

/// An error whose first part becomes `code` in JavaScript.
type Error = napi::Error<String>;
type Result<T> = std::result::Result<T, Error>;

fn error(code: &str, message: impl ToString) -> Error {
    Error::new(code.to_owned(), message.to_string())
}

fn system(failed: OsError) -> Error {
    error("ERR_ATOMICS_WAIT_SYSTEM", failed)
}

/// How a wait ended, as a number for JavaScript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Outcome {
    Woken = 0,
    Changed = 1,
    TimedOut = 2,
    Interrupted = 3,
    Cancelled = 4,
}

impl From<Wait> for Outcome {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Woken => Outcome::Woken,
            Wait::Changed => Outcome::Changed,
            Wait::TimedOut => Outcome::TimedOut,
            Wait::Interrupted => Outcome::Interrupted,
        }
    }
}

/// The address of element `index` of an Int32Array. Good until JavaScript runs again: only then can it be detached.
fn element(env: &Env, view: &Unknown<'_>, index: f64) -> Result<*const u32> {
    let mut kind = 0;
    let (mut length, mut offset) = (0, 0);
    let (mut data, mut buffer) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: a value of this environment that is in scope, and places for every answer; what is no typed array is an
    // error status.
    let status = unsafe {
        sys::napi_get_typedarray_info(
            env.raw(),
            view.raw(),
            &mut kind,
            &mut length,
            &mut data,
            &mut buffer,
            &mut offset,
        )
    };
    if status != sys::Status::napi_ok || kind != sys::TypedarrayType::int32_array {
        return Err(error("ERR_INVALID_ARG_TYPE", "view must be an Int32Array"));
    }
    // A detached array has length 0.
    if index.fract() != 0.0 || !(0.0..length as f64).contains(&index) || data.is_null() {
        return Err(error(
            "ERR_OUT_OF_RANGE",
            format!("index {index} is not in an array of {length} elements"),
        ));
    }
    Ok(data.cast::<u32>().wrapping_add(index as usize).cast_const())
}

/// `None` for ever.
fn duration(milliseconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(milliseconds.max(0.0) / 1e3).ok()
}

/// Sleeps on an element while it holds `value`, at most `timeoutMs`: the calling thread runs no JavaScript meanwhile and
/// cannot be terminated. Gives 0 woken, 1 another value, 2 timed out, 3 interrupted by a signal.
#[napi]
pub fn atomics_wait(
    env: &Env,
    #[napi(ts_arg_type = "Int32Array")] view: Unknown<'_>,
    index: f64,
    value: i32,
    timeout_ms: f64,
) -> Result<u32> {
    let word = element(env, &view, index)?;
    // SAFETY: inside the array, whose elements are aligned to 4. Its memory stays: the argument keeps the buffer alive and
    // only JavaScript on this very thread could detach it.
    let wait = unsafe { futex::wait(word, value as u32, futex::ANY, duration(timeout_ms)) };
    Ok(Outcome::from(wait.map_err(system)?) as u32)
}

/// Wakes up to `count` sleepers of an element, in any process; gives how many.
#[napi]
pub fn atomics_notify(
    env: &Env,
    #[napi(ts_arg_type = "Int32Array")] view: Unknown<'_>,
    index: f64,
    count: f64,
) -> Result<u32> {
    let word = element(env, &view, index)?;
    // SAFETY: as for `atomics_wait`.
    unsafe { futex::wake(word, count.clamp(0.0, f64::from(u32::MAX)) as u32, futex::ANY) }.map_err(system)
}
