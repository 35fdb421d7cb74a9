//! ArrayBuffers over memory that JavaScript does not own.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use napi::bindgen_prelude::{FromNapiValue, Unknown};
use napi::{Env, Result, sys};

use crate::error::named;

/// An ArrayBuffer over `length` bytes at `base`, which stay valid while `owner` lives. One is made for each mapping and
/// environment, never one for each message.
///
/// # Safety
/// The bytes are readable (and writable, if JavaScript is to write them) as long as the owner lives.
pub unsafe fn array_buffer<T: Send + Sync + 'static>(
    env: &Env,
    base: NonNull<u8>,
    length: usize,
    owner: Arc<T>,
) -> Result<Unknown<'static>> {
    /// The finalizer: lets the owner go.
    unsafe extern "C" fn release<T>(_env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
        // SAFETY: the hint is the pointer that `Arc::into_raw` gave below, and the finalizer runs once.
        drop(unsafe { Arc::from_raw(hint.cast::<T>()) });
    }
    let hint = Arc::into_raw(owner);
    let mut value = ptr::null_mut();
    // SAFETY: the environment is the calling one; `release` frees the hint exactly once.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(
            env.raw(),
            base.as_ptr().cast(),
            length,
            Some(release::<T>),
            hint.cast_mut().cast(),
            &mut value,
        )
    };
    if status != sys::Status::napi_ok {
        // SAFETY: the call failed, so the finalizer will not run.
        drop(unsafe { Arc::from_raw(hint) });
        return Err(named(
            "ERR_SHM_BUS_EXTERNAL_MEMORY",
            "this JavaScript engine does not allow buffers over foreign memory; use a Node.js without the V8 memory cage",
        ));
    }
    // SAFETY: the value was just made in this environment's current scope.
    unsafe { Unknown::from_napi_value(env.raw(), value) }
}

/// Detaches an ArrayBuffer: it and every view on it have length 0 from here on.
pub fn detach(env: &Env, buffer: &Unknown<'_>) -> Result<()> {
    use napi::JsValue;
    // SAFETY: a value of this environment, in scope while the caller's argument is.
    let status = unsafe { sys::napi_detach_arraybuffer(env.raw(), buffer.raw()) };
    if status == sys::Status::napi_ok {
        Ok(())
    } else {
        Err(named("ERR_SHM_BUS_INTERNAL", "a buffer cannot be detached"))
    }
}

/// Whether an ArrayBuffer is detached.
pub fn is_detached(env: &Env, buffer: &Unknown<'_>) -> bool {
    use napi::JsValue;
    let mut detached = false;
    // SAFETY: as above; anything that is no ArrayBuffer is reported as not detached.
    unsafe { sys::napi_is_detached_arraybuffer(env.raw(), buffer.raw(), &mut detached) };
    detached
}
