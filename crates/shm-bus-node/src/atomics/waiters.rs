//! Waits for the event loop: each sleeps on a thread of its own and reports through one threadsafe function.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use napi::bindgen_prelude::{FnArgs, Function, Unknown};
use napi::threadsafe_function::{ThreadsafeCallContext, ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi::{Env, Status};
use napi_derive::napi;
use shm_bus_os::clock;

use super::{Outcome, Result, element, error, waitv};

/// A waiter thread makes one system call and one call into Node-API.
const STACK_BYTES: usize = 256 << 10;

/// The arguments of the callback: the wait's number and its outcome.
type Ended = FnArgs<(u32, u32)>;
/// Weak: it does not keep the event loop, and so the process, alive.
type Report = ThreadsafeFunction<(u32, Outcome), (), Ended, Status, false, true>;

struct Waiter {
    control: Arc<AtomicU32>,
    thread: JoinHandle<Outcome>,
}

/// The threads of one environment.
#[derive(Default)]
struct Threads {
    waiters: Mutex<HashMap<u32, Waiter>>,
}

impl Threads {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a thread that has reported or was cancelled: it ends at once.
    fn join(&self, number: u32, cancel: bool) -> Option<Outcome> {
        let waiter = self.lock().remove(&number)?;
        if cancel {
            waitv::cancel(&waiter.control);
        }
        Some(waiter.thread.join().unwrap_or(Outcome::Cancelled))
    }

    /// Ends every wait without a report.
    fn stop(&self) {
        let waiters: Vec<Waiter> = self.lock().drain().map(|(_, waiter)| waiter).collect();
        waiters.iter().for_each(|waiter| waitv::cancel(&waiter.control));
        for waiter in waiters {
            // A thread that panicked has ended too.
            let _ = waiter.thread.join();
        }
    }
}

/// The asynchronous waits of one environment.
#[napi]
pub struct AtomicsWaiters {
    threads: Arc<Threads>,
    report: Arc<Report>,
    last: u32,
}

#[napi]
impl AtomicsWaiters {
    /// `ended` is called with the number and the outcome of each wait that was not cancelled.
    #[napi(constructor)]
    pub fn new(
        env: &Env,
        #[napi(ts_arg_type = "(number: number, outcome: number) => void")] ended: Function<'_, Ended, ()>,
    ) -> napi::Result<Self> {
        let threads = Arc::new(Threads::default());
        let reported: Weak<Threads> = Arc::downgrade(&threads);
        let report = ended.build_threadsafe_function::<(u32, Outcome)>().weak::<true>().build_callback(
            move |context: ThreadsafeCallContext<(u32, Outcome)>| {
                let (number, outcome) = context.value;
                if let Some(threads) = reported.upgrade() {
                    threads.join(number, false);
                }
                Ok(FnArgs::from((number, outcome as u32)))
            },
        )?;
        // A worker that is terminated, or a process that exits: hooks run before any memory of the environment goes.
        let ending = threads.clone();
        env.add_env_cleanup_hook(ending, |threads| threads.stop())?;
        Ok(AtomicsWaiters { threads, report: Arc::new(report), last: 0 })
    }

    /// Begins to wait while an element holds `value`; gives the wait's number. The caller keeps the view.
    #[napi]
    pub fn start(
        &mut self,
        env: &Env,
        #[napi(ts_arg_type = "Int32Array")] view: Unknown<'_>,
        index: f64,
        value: i32,
        timeout_ms: f64,
    ) -> Result<u32> {
        let address = element(env, &view, index)?.expose_provenance();
        let nanoseconds = timeout_ms.max(0.0) * 1e6;
        // From about 292 years on it is for ever.
        let deadline = (nanoseconds < i64::MAX as f64)
            .then(|| clock::monotonic_nanos().saturating_add(nanoseconds as u64))
            .filter(|at| *at < i64::MAX as u64);
        let mut waiters = self.threads.lock();
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        let control = Arc::new(AtomicU32::new(0));
        let (own, report) = (control.clone(), self.report.clone());
        let thread = Builder::new().name("atomics-wait".into()).stack_size(STACK_BYTES).spawn(move || {
            let outcome = waitv::wait(address, value as u32, &own, deadline);
            if outcome != Outcome::Cancelled {
                // Fails only when the environment is ending: nobody is left to hear of it.
                report.call((number, outcome), ThreadsafeFunctionCallMode::NonBlocking);
            }
            outcome
        });
        let thread = thread.map_err(|e| {
            error("ERR_ATOMICS_WAIT_SYSTEM", format!("a thread to wait on cannot be started: {e}"))
        })?;
        waiters.insert(number, Waiter { control, thread });
        Ok(number)
    }

    /// Ends a wait and gives its outcome: 4, or 0 to 2 if it had ended by itself. Then nothing is reported any more, or the
    /// report is on its way already.
    #[napi]
    pub fn cancel(&self, number: u32) -> Option<u32> {
        self.threads.join(number, true).map(|outcome| outcome as u32)
    }
}

impl Drop for AtomicsWaiters {
    fn drop(&mut self) {
        self.threads.stop();
    }
}
