//! A subscription as JavaScript drives it: `poll` fills a table of numbers, one row a message.

use std::cell::{RefCell, UnsafeCell};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::{AsyncTask, Uint8Array, Unknown};
use napi::{Env, Result};
use napi_derive::napi;
use shm_bus::{BucketSet, BusError, Delivery, Event, Record, Subscription};

use crate::error::to_js;
use crate::external;
use crate::hot;
use crate::records::{self, NativeRecord};
use crate::tasks::LeaveTask;
use crate::views::{ViewMap, ViewTable};

/// Rows of the table: the most messages of one poll.
const ROWS: usize = 512;
/// Columns: stamp, index in batch, number of the sender's buffer, offset, length, sender's suffix, index of the
/// destination among the subscription's addresses, time in microseconds, topic (low and high half).
const COLUMNS: usize = 10;

/// Flags beside the number of rows that a poll gives: a sender's memory has gone; a view was stored into; a lossy
/// subscription has missed something.
const RETIRED: u32 = 1 << 16;
const STORED: u32 = 1 << 17;
const GAPS: u32 = 1 << 18;

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
        unsafe { self.base().as_ptr().add(row * COLUMNS).cast::<[f64; COLUMNS]>().write(values) };
    }
}

/// What the functions of the hot path work on.
struct Inner {
    subscription: Option<Subscription>,
    views: Arc<ViewTable>,
    table: Arc<Table>,
    wants_records: bool,
    records: Vec<NativeRecord>,
    /// Whether the last poll's messages are leased.
    leased: bool,
    /// The map of the sender seen last.
    last: Option<ViewMap>,
    /// [`ViewTable::forgotten`] when it was seen.
    last_as_of: u32,
    /// Payloads of messages that touch a private page, or that a lossy subscription was given, by number.
    copies: Vec<Vec<u8>>,
    /// What was missed since it was last told: stamps from the first up to the second.
    gaps: Vec<(u64, u64)>,
}

impl Inner {
    fn poll(&mut self, limit: u32) -> Result<u32> {
        self.end_lease()?;
        let forgotten = self.views.forgotten();
        if self.last_as_of != forgotten {
            (self.last, self.last_as_of) = (None, forgotten);
        }
        let Inner { subscription, views, table, wants_records, records, last, copies, gaps, .. } = self;
        let subscription = subscription.as_mut().ok_or_else(closed)?;
        let mut rows = 0;
        let mut failed = None;
        subscription
            .poll((limit as usize).clamp(1, ROWS), |event| match event {
                Event::Message(message) => {
                    let place = place_of(&message, views, last, copies).unwrap_or_else(|error| {
                        failed = Some(error);
                        -1.0
                    });
                    let header = &message.frame.header;
                    table.write(
                        rows,
                        [
                            message.frame.place.stamp.0 as f64,
                            f64::from(message.frame.place.index),
                            place,
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
                Event::Gap { from, to } => match gaps.last_mut() {
                    Some((_, end)) if *end == from.0 => *end = to.0,
                    _ => gaps.push((from.0, to.0)),
                },
                Event::Record(stamp, record) => {
                    if let Record::Departed { member, .. } = record {
                        views.retire(*member);
                        *last = None;
                    }
                    if *wants_records {
                        records.push(records::to_js(stamp.0, record));
                    }
                }
            })
            .map_err(|e| to_js(&e))?;
        if let Some(error) = failed {
            return Err(to_js(&error));
        }
        if rows > 0 {
            self.leased = true;
            self.views.lease();
        }
        let retired = if self.views.has_retired() { RETIRED } else { 0 };
        let stored = if self.views.take_stored() { STORED } else { 0 };
        let missed = if self.gaps.is_empty() { 0 } else { GAPS };
        Ok(rows as u32 | retired | stored | missed)
    }

    /// The views of the last poll are no longer looked at.
    fn end_lease(&mut self) -> Result<()> {
        if std::mem::take(&mut self.leased) {
            self.copies.clear();
            self.views.end_lease().map_err(|e| to_js(&e))?;
        }
        Ok(())
    }

    fn is_ready(&mut self) -> bool {
        self.subscription.as_mut().is_none_or(Subscription::advance_to_ready)
    }
}

/// Where JavaScript finds a payload: the number of the sender's buffer, or `-1 - n` for copy `n`.
#[inline]
fn place_of(
    message: &Delivery<'_>,
    views: &ViewTable,
    last: &mut Option<ViewMap>,
    copies: &mut Vec<Vec<u8>>,
) -> core::result::Result<f64, BusError> {
    if let Some(copy) = message.copy {
        copies.push(copy.to_vec());
        return Ok(-(copies.len() as f64));
    }
    let view = match last {
        Some(view) if view.member == message.memory.member() => view,
        _ => last.insert(views.map_of(message.memory)?),
    };
    if view.map.has_private() && view.map.is_private(message.offset as usize, message.length as usize) {
        copies.push(message.to_vec());
        return Ok(-(copies.len() as f64));
    }
    Ok(f64::from(view.number))
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
            leased: false,
            last: None,
            last_as_of: 0,
            copies: Vec::new(),
            gaps: Vec::new(),
        };
        NativeSubscription { inner: Rc::new(RefCell::new(inner)), addresses }
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

    /// The function `(limit) => rows | flags` that releases what the last poll gave and fills the table with what there is.
    /// Records are kept for `takeRecords`.
    #[napi]
    pub fn poll_function(&self, env: Env) -> Result<Unknown<'static>> {
        let inner = self.inner.clone();
        hot::function(&env, move |arguments| inner.borrow_mut().poll(arguments.u32(0)).map(f64::from))
    }

    /// The function `() => 0 | 1`: whether a poll would find something, after passing over what is for others.
    #[napi]
    pub fn ready_function(&self, env: Env) -> Result<Unknown<'static>> {
        let inner = self.inner.clone();
        hot::function(&env, move |_| Ok(if inner.borrow_mut().is_ready() { 1.0 } else { 0.0 }))
    }

    /// Ends the lease on what the last poll gave.
    #[napi]
    pub fn release(&self) -> Result<()> {
        self.inner.borrow_mut().end_lease()?;
        self.with(Ok(()), |s| s.release().map_err(|e| to_js(&e)))
    }

    /// Stamps that it has missed, in all.
    #[napi(getter)]
    pub fn missed(&self) -> f64 {
        self.with(0.0, |s| s.missed() as f64)
    }

    /// What polls have missed since the last call: pairs of stamps, the second not missed any more.
    #[napi]
    pub fn take_gaps(&self) -> Vec<f64> {
        let gaps = std::mem::take(&mut self.inner.borrow_mut().gaps);
        gaps.into_iter().flat_map(|(from, to)| [from as f64, to as f64]).collect()
    }

    /// Copy `n` of the last poll: a message of a lossy subscription, or one that touches a page which the program has
    /// stored into.
    #[napi]
    pub fn copy_of(&self, n: u32) -> Option<Uint8Array> {
        self.inner.borrow().copies.get(n as usize).map(|bytes| Uint8Array::from(bytes.as_slice()))
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
        let mut inner = self.inner.borrow_mut();
        // Pages that cannot be shared again now go with their map.
        let _ = inner.end_lease();
        let subscription = inner.subscription.take();
        drop(inner);
        AsyncTask::new(LeaveTask {
            subscription,
            timeout: Duration::from_secs_f64(timeout_ms.max(0.0) / 1000.0),
        })
    }
}
