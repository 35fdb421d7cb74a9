//! A bell polled by libuv: one kernel wake enters the event loop and calls one JavaScript function.
//!
//! libuv's symbols come from the Node.js executable. The handle lives from [`LoopWaker::start`] until libuv has closed
//! it; an asynchronous clean-up hook keeps an environment that ends until then.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use napi::bindgen_prelude::FunctionRef;
use napi::{Env, JsValue, Result, sys};
use shm_bus::Bus;

use crate::error::named;

#[repr(C)]
struct UvPoll {
    _opaque: [u8; 0],
}

type PollCallback = unsafe extern "C" fn(*mut UvPoll, c_int, c_int);
type CloseCallback = unsafe extern "C" fn(*mut UvPoll);

unsafe extern "C" {
    fn uv_handle_size(kind: c_int) -> usize;
    fn uv_poll_init(uv_loop: *mut c_void, handle: *mut UvPoll, fd: c_int) -> c_int;
    fn uv_poll_start(handle: *mut UvPoll, events: c_int, callback: PollCallback) -> c_int;
    fn uv_close(handle: *mut UvPoll, callback: CloseCallback);
    fn uv_ref(handle: *mut UvPoll);
    fn uv_unref(handle: *mut UvPoll);
    fn uv_handle_set_data(handle: *mut UvPoll, data: *mut c_void);
    fn uv_handle_get_data(handle: *const UvPoll) -> *mut c_void;
}

/// `UV_POLL` of `uv_handle_type`, `UV_READABLE` of `uv_poll_event`.
const UV_POLL: c_int = 8;
const UV_READABLE: c_int = 1;

/// What the libuv handle points to. Freed by the close callback.
struct State {
    env: sys::napi_env,
    callback: Option<FunctionRef<(), ()>>,
    bus: Arc<Bus>,
    hook: sys::napi_async_cleanup_hook_handle,
    /// Storage of the `uv_poll_t`.
    handle: Vec<u64>,
    closing: bool,
    alive: Rc<Cell<bool>>,
}

impl State {
    fn handle(&mut self) -> *mut UvPoll {
        self.handle.as_mut_ptr().cast()
    }

    /// Closes the handle once; the close callback frees the state.
    fn close(&mut self) {
        if !std::mem::replace(&mut self.closing, true) {
            self.alive.set(false);
            self.callback = None;
            let handle = self.handle();
            // SAFETY: an initialised handle that is not closing yet, on its own loop's thread.
            unsafe { uv_close(handle, on_closed) };
        }
    }
}

/// The running waker of one attachment.
pub struct LoopWaker {
    state: *mut State,
    /// Cleared when the handle begins to close: from then on the state is libuv's.
    alive: Rc<Cell<bool>>,
}

impl LoopWaker {
    /// Starts polling the bell of `bus` and calls `callback` on the loop's thread when it is readable.
    pub fn start(env: &Env, bus: Arc<Bus>, callback: FunctionRef<(), ()>) -> Result<LoopWaker> {
        let fd = bus.bell().as_raw_fd();
        let uv_loop = env.get_uv_event_loop()?;
        // SAFETY: a pure query.
        let bytes = unsafe { uv_handle_size(UV_POLL) };
        let alive = Rc::new(Cell::new(true));
        let state = Box::into_raw(Box::new(State {
            env: env.raw(),
            callback: Some(callback),
            bus,
            hook: ptr::null_mut(),
            handle: vec![0; bytes.div_ceil(8)],
            closing: false,
            alive: alive.clone(),
        }));
        // SAFETY: just allocated, not shared yet.
        let handle = unsafe { (*state).handle() };
        // SAFETY: the storage has the size libuv asked for and stays until the close callback.
        let status = unsafe { uv_poll_init(uv_loop.cast(), handle, fd) };
        if status != 0 {
            // SAFETY: libuv has not kept the handle.
            drop(unsafe { Box::from_raw(state) });
            return Err(named(
                "ERR_SHM_BUS_SYSTEM",
                &format!("the event loop cannot poll a pipe: error {status}"),
            ));
        }
        // SAFETY: an initialised handle; the hook is removed by the close callback, which ends the state.
        unsafe {
            uv_handle_set_data(handle, state.cast());
            uv_poll_start(handle, UV_READABLE, on_readable);
            sys::napi_add_async_cleanup_hook(
                env.raw(),
                Some(on_environment_end),
                state.cast(),
                &mut (*state).hook,
            );
        }
        Ok(LoopWaker { state, alive })
    }

    /// Whether a pending wake keeps the process alive.
    pub fn keep_alive(&self, yes: bool) {
        if !self.alive.get() {
            return;
        }
        // SAFETY: alive, so the close callback has not run.
        unsafe {
            let handle = (*self.state).handle();
            if yes { uv_ref(handle) } else { uv_unref(handle) }
        }
    }
}

impl Drop for LoopWaker {
    /// Stops polling.
    fn drop(&mut self) {
        if self.alive.get() {
            // SAFETY: as above.
            unsafe { (*self.state).close() };
        }
    }
}

unsafe extern "C" fn on_readable(handle: *mut UvPoll, _status: c_int, _events: c_int) {
    // SAFETY: the data was set at the start and lives as long as the handle.
    let state = unsafe { &*uv_handle_get_data(handle).cast::<State>() };
    let env = Env::from_raw(state.env);
    let mut scope = ptr::null_mut();
    // SAFETY: on the environment's own thread, outside any other scope.
    if unsafe { sys::napi_open_handle_scope(state.env, &mut scope) } != sys::Status::napi_ok {
        return;
    }
    if let Some(callback) = &state.callback
        && let Ok(function) = callback.borrow_back(&env)
    {
        let mut receiver = ptr::null_mut();
        let mut context = ptr::null_mut();
        let mut result = ptr::null_mut();
        // SAFETY: values of this environment in this scope. `napi_make_callback` runs next ticks and microtasks after
        // the call; what the function throws becomes an uncaught exception, as in any other callback of the loop.
        unsafe {
            sys::napi_get_global(state.env, &mut receiver);
            sys::napi_async_init(state.env, ptr::null_mut(), name(state.env), &mut context);
            let status = sys::napi_make_callback(
                state.env,
                context,
                receiver,
                function.raw(),
                0,
                ptr::null(),
                &mut result,
            );
            if status == sys::Status::napi_pending_exception {
                let mut exception = ptr::null_mut();
                sys::napi_get_and_clear_last_exception(state.env, &mut exception);
                sys::napi_fatal_exception(state.env, exception);
            }
            sys::napi_async_destroy(state.env, context);
        }
    }
    // SAFETY: the scope opened above.
    unsafe { sys::napi_close_handle_scope(state.env, scope) };
}

fn name(env: sys::napi_env) -> sys::napi_value {
    let mut value = ptr::null_mut();
    // SAFETY: a static string of the given length.
    unsafe { sys::napi_create_string_utf8(env, c"shm-bus".as_ptr(), 7, &mut value) };
    value
}

unsafe extern "C" fn on_closed(handle: *mut UvPoll) {
    // SAFETY: libuv is done with the handle: the state ends here, and with it the storage.
    let state = unsafe { Box::from_raw(uv_handle_get_data(handle).cast::<State>()) };
    if !state.hook.is_null() {
        // SAFETY: the hook of this state, removed once.
        unsafe { sys::napi_remove_async_cleanup_hook(state.hook) };
    }
}

/// The environment ends: a worker was terminated, or the process exits.
unsafe extern "C" fn on_environment_end(_hook: sys::napi_async_cleanup_hook_handle, data: *mut c_void) {
    // SAFETY: the state lives until the close callback, which removes this hook.
    let state = unsafe { &mut *data.cast::<State>() };
    // A worker that is terminated in a wait has no chance to take its announcement back.
    state.bus.end_waits();
    state.bus.close();
    state.close();
}
