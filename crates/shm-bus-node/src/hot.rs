//! Functions of the hot path, made with plain Node-API: a method of a napi-rs class costs 300 ns more a call.

use std::ffi::c_void;
use std::ptr;

use napi::bindgen_prelude::{FromNapiValue, Unknown};
use napi::{Env, Error, Result, sys};

/// The arguments of one call: at most four.
pub struct Arguments {
    env: sys::napi_env,
    values: [sys::napi_value; 4],
}

impl Arguments {
    /// Argument `n` as an unsigned number; 0 if it is none.
    #[inline]
    pub fn u32(&self, n: usize) -> u32 {
        let mut value = 0;
        // SAFETY: a value of this call's scope; on a wrong type `value` stays 0.
        unsafe { sys::napi_get_value_uint32(self.env, self.values[n], &mut value) };
        value
    }

    /// Lends the bytes of argument `n`, a `Uint8Array`, to `act`; none if it is something else.
    #[inline]
    pub fn with_bytes<R>(&self, n: usize, act: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (mut kind, mut length, mut data) = (0, 0, ptr::null_mut());
        // SAFETY: a value of this call's scope; the out pointers that are null are not wanted.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                self.env,
                self.values[n],
                &mut kind,
                &mut length,
                &mut data,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        if status != sys::Status::napi_ok || kind != sys::TypedarrayType::uint8_array {
            return None;
        }
        if length == 0 || data.is_null() {
            return Some(act(&[]));
        }
        // SAFETY: JavaScript does not run while `act` does, so the array neither moves nor is detached. Another thread
        // may write a SharedArrayBuffer meanwhile: then the bytes published are some mixture, as with any copy of one.
        Some(act(unsafe { std::slice::from_raw_parts(data.cast(), length) }))
    }
}

/// What the function does with its arguments; the number is its result.
type Body = dyn Fn(&Arguments) -> Result<f64>;

/// A JavaScript function that calls `body`. The function keeps the body alive.
pub fn function(env: &Env, body: impl Fn(&Arguments) -> Result<f64> + 'static) -> Result<Unknown<'static>> {
    unsafe extern "C" fn release(_env: sys::napi_env, data: *mut c_void, _hint: *mut c_void) {
        // SAFETY: the pointer that `Box::into_raw` gave below; the finalizer runs once.
        drop(unsafe { Box::from_raw(data.cast::<Box<Body>>()) });
    }
    let data: *mut Box<Body> = Box::into_raw(Box::new(Box::new(body)));
    let mut value = ptr::null_mut();
    // SAFETY: `call` has the signature of a callback, and its data lives until the function's finalizer.
    let status =
        unsafe { sys::napi_create_function(env.raw(), ptr::null(), 0, Some(call), data.cast(), &mut value) };
    let finalized = status == sys::Status::napi_ok && {
        // SAFETY: the function just made; `release` gets its data when it is collected or the environment ends.
        let status = unsafe {
            sys::napi_add_finalizer(
                env.raw(),
                value,
                data.cast(),
                Some(release),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        status == sys::Status::napi_ok
    };
    if !finalized {
        // SAFETY: no finalizer was added, and a function without one is not handed out.
        drop(unsafe { Box::from_raw(data) });
        return Err(Error::from_reason("a function cannot be made"));
    }
    // SAFETY: the value was just made in this environment's current scope.
    unsafe { Unknown::from_napi_value(env.raw(), value) }
}

unsafe extern "C" fn call(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let mut values = [ptr::null_mut(); 4];
    let mut count = values.len();
    let mut data = ptr::null_mut();
    // SAFETY: as many places as `count` says; missing arguments are set to undefined.
    unsafe {
        sys::napi_get_cb_info(env, info, &mut count, values.as_mut_ptr(), ptr::null_mut(), &mut data);
    }
    // SAFETY: the data of `function`, alive while the function is, and it is being called.
    let body = unsafe { &*data.cast::<Box<Body>>() };
    let mut result = ptr::null_mut();
    match body(&Arguments { env, values }) {
        // SAFETY: plain calls in this call's scope.
        Ok(number) => unsafe {
            sys::napi_create_double(env, number, &mut result);
        },
        Err(error) => {
            let message = std::ffi::CString::new(error.reason.replace('\0', " ")).unwrap_or_default();
            // SAFETY: a terminated string.
            unsafe { sys::napi_throw_error(env, ptr::null(), message.as_ptr()) };
        }
    }
    result
}
