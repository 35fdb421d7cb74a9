//! A subscription as JavaScript drives it: `poll` fills a table of numbers, one row a message.

use std::cell::{RefCell, UnsafeCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::{AsyncTask, Unknown};
use napi::{Env, Result};
use napi_derive::napi;
use shm_bus::{BucketSet, BusError, Event, Record, Subscription};

use crate::error::to_js;
use crate::external;
use crate::hot;
use crate::records::{self, NativeRecord};
use crate::tasks::LeaveTask;
use crate::views::ViewTable;

/// Rows of the table: the most messages of one poll.
const ROWS: usize = 512;
/// Columns: stamp, index in batch, number of the sender's buffer, offset, length, sender's suffix, index of the
/// destination among the subscription's addresses, time in microseconds, topic (low and high half).
const COLUMNS: usize = 10;

/// Written by native code during a poll, read by JavaScript between polls, both on one thread.
struct Table(UnsafeCell<Box<[f64]>>);

// SAFETY: only the environment's thread writes it, and JavaScript of that thread reads it; the finalizer that drops it
// may run elsewhere, after the last use.
unsafe impl Sync for Table {}

impl Table {
    fn base(&self) -> NonNull<f64> {
        // SAFETY: the box is never replaced; only the pointer is taken.
        let slice: *mut [f64] = unsafe { &raw mut **self.0.get() };
        NonNull::new(slice.cast()).expect("a box is never at address 0")
    }

    fn write(&self, row: usize, values: [f64; COLUMNS]) {
        assert!(row < ROWS);
        // SAFETY: in bounds; raw because JavaScript holds a view of the same memory.
        unsafe {
            self.base()
                .as_ptr()
                .add(row * COLUMNS)
                .cast::<[f64; COLUMNS]>()
                .write(values)
        };
    }
}

/// What the functions of the hot path work on.
struct Inner {
    subscription: Option<Subscription>,
    views: Arc<ViewTable>,
    table: Arc<Table>,
    wants_records: bool,
    records: Vec<NativeRecord>,
}

impl Inner {
    fn poll(&mut self, limit: u32) -> Result<u32> {
        let Inner {
            subscription,
            views,
            table,
            wants_records,
            records,
        } = self;
        let subscription = subscription.as_mut().ok_or_else(closed)?;
        let mut rows = 0;
        let mut failed = None;
        subscription
            .poll((limit as usize).clamp(1, ROWS), |event| match event {
                Event::Message(message) => {
                    let header = &message.frame.header;
                    let number = views.number_of(message.memory).unwrap_or_else(|error| {
                        failed = Some(error);
                        u32::MAX
                    });
                    table.write(
                        rows,
                        [
                            message.frame.place.stamp.0 as f64,
                            f64::from(message.frame.place.index),
                            f64::from(number),
                            message.offset as f64,
                            message.length as f64,
                            message.sender.suffix() as f64,
                            message.destination_index as f64,
                            header.time as f64 / 1000.0,
                            f64::from(header.topic as u32),
                            f64::from((header.topic >> 32) as u32),
                        ],
                    );
                    rows += 1;
                }
                Event::Record(stamp, record) => {
                    if let Record::Departed { member, .. } = record {
                        views.retire(*member);
                    }
                    if *wants_records {
                        records.push(records::to_js(stamp.0, record));
                    }
                }
            })
            .map_err(|e| to_js(&e))?;
        match failed {
            Some(error) => Err(to_js(&error)),
            None => Ok(rows as u32),
        }
    }

    fn is_ready(&mut self) -> bool {
        self.subscription
            .as_mut()
            .is_none_or(Subscription::advance_to_ready)
    }
}

/// All methods take `&self`: napi-rs counts a method whose task is still running as a borrow.
#[napi]
pub struct NativeSubscription {
    inner: Rc<RefCell<Inner>>,
    addresses: Vec<shm_bus::Address>,
}

impl NativeSubscription {
    pub fn new(subscription: Subscription, views: Arc<ViewTable>, wants_records: bool) -> Self {
        let addresses = subscription.addresses().to_vec();
        let table = Arc::new(Table(UnsafeCell::new(vec![0.0; ROWS * COLUMNS].into())));
        let inner = Inner {
            subscription: Some(subscription),
            views,
            table,
            wants_records,
            records: Vec::new(),
        };
        NativeSubscription {
            inner: Rc::new(RefCell::new(inner)),
            addresses,
        }
    }

    fn with<R>(&self, default: R, act: impl FnOnce(&mut Subscription) -> R) -> R {
        match &mut self.inner.borrow_mut().subscription {
            Some(subscription) => act(subscription),
            None => default,
        }
    }

    /// The buckets to wake for; none once it is closed.
    pub fn buckets(&self) -> Option<BucketSet> {
        self.with(None, |s| Some(*s.buckets()))
    }

    /// Whether a poll would find something.
    pub fn is_ready(&self) -> bool {
        self.inner.borrow_mut().is_ready()
    }
}

fn closed() -> napi::Error {
    to_js(&BusError::Closed)
}

#[napi]
impl NativeSubscription {
    /// Rows of the table.
    #[napi(getter)]
    pub fn rows(&self) -> u32 {
        ROWS as u32
    }

    /// The table's memory. To be asked for once.
    #[napi]
    pub fn table(&self, env: Env) -> Result<Unknown<'static>> {
        let table = self.inner.borrow().table.clone();
        // SAFETY: the box lives as long as the table, and is plain memory.
        unsafe { external::array_buffer(&env, table.base().cast(), ROWS * COLUMNS * 8, table.clone()) }
    }

    /// The addresses it takes, in the order of the destination index.
    #[napi(getter)]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// Stamp of the next message it looks at.
    #[napi(getter)]
    pub fn position(&self) -> f64 {
        self.with(0.0, |s| s.position().0 as f64)
    }

    /// Stamps it has yet to look at.
    #[napi(getter)]
    pub fn lag(&self) -> f64 {
        self.with(0.0, |s| s.lag() as f64)
    }

    /// The function `(limit) => rows` that releases what the last poll gave and fills the table with what there is.
    /// Records are kept for `takeRecords`.
    #[napi]
    pub fn poll_function(&self, env: Env) -> Result<Unknown<'static>> {
        let inner = self.inner.clone();
        hot::function(&env, move |arguments| {
            inner.borrow_mut().poll(arguments.u32(0)).map(f64::from)
        })
    }

    /// The function `() => 0 | 1`: whether a poll would find something, after passing over what is for others.
    #[napi]
    pub fn ready_function(&self, env: Env) -> Result<Unknown<'static>> {
        let inner = self.inner.clone();
        hot::function(&env, move |_| {
            Ok(if inner.borrow_mut().is_ready() { 1.0 } else { 0.0 })
        })
    }

    /// Ends the lease on what the last poll gave.
    #[napi]
    pub fn release(&self) -> Result<()> {
        self.with(Ok(()), |s| s.release().map_err(|e| to_js(&e)))
    }

    /// The records that polls have passed since the last call.
    #[napi]
    pub fn take_records(&self) -> Vec<NativeRecord> {
        std::mem::take(&mut self.inner.borrow_mut().records)
    }

    /// Frames that failed the reader's checks, in all.
    #[napi(getter)]
    pub fn violations(&self) -> f64 {
        self.with(0.0, |s| s.violations().values().sum::<u64>() as f64)
    }

    /// Leaves.
    #[napi]
    pub fn close(&self, timeout_ms: f64) -> AsyncTask<LeaveTask> {
        let subscription = self.inner.borrow_mut().subscription.take();
        AsyncTask::new(LeaveTask {
            subscription,
            timeout: Duration::from_secs_f64(timeout_ms.max(0.0) / 1000.0),
        })
    }
}
