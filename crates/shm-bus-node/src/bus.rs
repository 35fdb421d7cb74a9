//! An attachment as JavaScript drives it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use napi::bindgen_prelude::{AsyncTask, ClassInstance, Function, Unknown};
use napi::{Env, Error, Result};
use napi_derive::napi;
use shm_bus::{Address, BucketSet, Bus, BusError, BusLoan, Envelope, Publisher};
use shm_bus_os::Mapping;
use shm_bus_ring::layout::PAGE;

use crate::batch::BatchTable;
use crate::error::{named, to_js};
use crate::external;
use crate::hot;
use crate::loop_waker::LoopWaker;
use crate::options::{
    NativeAttachOptions, NativeSubscribeOptions, milliseconds, options_of, subscribe_options_of, whole,
};
use crate::subscription::NativeSubscription;
use crate::tasks::{AttachTask, CloseTask, GroupTask, SubscribeTask};
use crate::views::ViewTable;

/// One attachment in the directory.
#[napi(object)]
pub struct NativePeer {
    pub id: u32,
    pub generation: u32,
    pub address: String,
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<String>,
    pub master: bool,
    pub lag: f64,
    pub published: f64,
    pub delivered: f64,
}

/// Attaches on libuv's pool.
#[napi]
pub fn attach(name: String, options: NativeAttachOptions) -> Result<AsyncTask<AttachTask>> {
    Ok(AsyncTask::new(AttachTask { name, options: options_of(options)? }))
}

/// Whether an ArrayBuffer is detached.
#[napi]
pub fn is_detached(env: Env, buffer: Unknown<'_>) -> bool {
    external::is_detached(&env, &buffer)
}

/// `Address` of a text such as `3:*` or `0:7`.
fn parse_address(text: &str) -> Option<Address> {
    let (prefix, suffix) = text.split_once(':')?;
    let prefix: u16 = prefix.parse().ok()?;
    if suffix == "*" {
        return Some(Address::group(prefix));
    }
    let suffix: u64 = suffix.parse().ok()?;
    (suffix < (1 << 48) - 1).then_some(Address(u64::from(prefix) << 48 | suffix))
}

/// The publishing end with its numbered destinations and loans.
struct Output {
    publisher: Publisher,
    destinations: Vec<Vec<Address>>,
    loans: HashMap<u32, BusLoan>,
    next_loan: u32,
}

/// What an open attachment holds; all of it is let go by `close`, without waiting for the garbage collector.
struct Live {
    bus: Arc<Bus>,
    output: Output,
}

/// All methods take `&self`: napi-rs counts a method whose task is still running as a borrow.
#[napi]
pub struct NativeBus {
    live: Rc<RefCell<Option<Live>>>,
    address: String,
    bus_id: String,
    max_message_bytes: f64,
    views: Arc<ViewTable>,
    waker: RefCell<Option<LoopWaker>>,
    armed: Cell<Option<BucketSet>>,
    batch: Arc<BatchTable>,
}

fn closed() -> Error {
    to_js(&BusError::Closed)
}

fn with_output<R>(live: &RefCell<Option<Live>>, act: impl FnOnce(&mut Output) -> Result<R>) -> Result<R> {
    live.borrow_mut().as_mut().map_or_else(|| Err(closed()), |live| act(&mut live.output))
}

impl NativeBus {
    pub fn new(bus: Bus) -> Result<Self> {
        let publisher = bus.publisher().map_err(|e| to_js(&e))?;
        Ok(NativeBus {
            address: bus.address().to_string(),
            bus_id: format!("{:032x}", bus.bus_id()),
            max_message_bytes: publisher.max_frame() as f64,
            live: Rc::new(RefCell::new(Some(Live {
                bus: Arc::new(bus),
                output: Output { publisher, destinations: Vec::new(), loans: HashMap::new(), next_loan: 0 },
            }))),
            views: Arc::new(ViewTable::default()),
            waker: RefCell::new(None),
            armed: Cell::new(None),
            batch: Arc::new(BatchTable::new()),
        })
    }

    fn bus(&self) -> Result<Arc<Bus>> {
        self.live.borrow().as_ref().map(|live| live.bus.clone()).ok_or_else(closed)
    }

    fn with<R>(&self, act: impl FnOnce(&mut Output) -> Result<R>) -> Result<R> {
        with_output(&self.live, act)
    }
}

impl Drop for NativeBus {
    fn drop(&mut self) {
        if let Ok(bus) = self.bus() {
            // JavaScript runs no more, or has lost this object: no call of `fall_asleep` is about to be taken back.
            bus.end_waits();
            bus.close();
        }
    }
}

#[napi]
impl NativeBus {
    #[napi(getter)]
    pub fn address(&self) -> &str {
        &self.address
    }

    #[napi(getter)]
    pub fn bus_id(&self) -> &str {
        &self.bus_id
    }

    #[napi(getter)]
    pub fn is_master(&self) -> bool {
        self.bus().is_ok_and(|bus| bus.is_master())
    }

    #[napi(getter)]
    pub fn is_closed(&self) -> bool {
        self.bus().map_or(true, |bus| bus.is_closed())
    }

    /// The largest payload of a message to one address.
    #[napi(getter)]
    pub fn max_message_bytes(&self) -> f64 {
        self.max_message_bytes
    }

    /// A number for a list of destinations (addresses, or names of groups), for `publish` and `loan`.
    #[napi]
    pub fn destination(&self, names: Vec<String>) -> Result<u32> {
        self.with(|output| {
            let mut addresses = Vec::with_capacity(names.len());
            for name in &names {
                addresses.push(match parse_address(name) {
                    Some(address) => address,
                    None => output.publisher.resolve(name).map_err(|e| to_js(&e))?,
                });
            }
            if let Some(known) = output.destinations.iter().position(|d| *d == addresses) {
                return Ok(known as u32);
            }
            output.destinations.push(addresses);
            Ok(output.destinations.len() as u32 - 1)
        })
    }

    /// The function `(destination, bytes, topicLow, topicHigh) => stamp` that publishes: -1 if there is no room now, 0
    /// in a batch.
    #[napi]
    pub fn publish_function(&self, env: Env) -> Result<Unknown<'static>> {
        let live = self.live.clone();
        hot::function(&env, move |arguments| {
            let mut live = live.borrow_mut();
            let Some(Live { output: Output { publisher, destinations, .. }, .. }) = live.as_mut() else {
                return Err(closed());
            };
            let addresses = destinations.get(arguments.u32(0) as usize).map_or(&[][..], |d| d);
            let topic = u64::from(arguments.u32(2)) | u64::from(arguments.u32(3)) << 32;
            let published =
                arguments.with_bytes(1, |bytes| publisher.publish(addresses, bytes, Envelope { topic }));
            match published {
                Some(published) => stamp_or_full(published.map(|stamp| stamp.0)),
                None => Err(named("ERR_SHM_BUS_INVALID_DATA", "data must be a Uint8Array or a Buffer")),
            }
        })
    }

    /// Reserves bytes in the own ring: `[number, offset]`, or nothing if there is no room now.
    #[napi]
    pub fn loan(&self, destination: u32, bytes: f64) -> Result<Option<Vec<f64>>> {
        let length = whole("bytes", bytes)?;
        self.with(|Output { publisher, destinations, loans, next_loan }| {
            let addresses = destinations.get(destination as usize).map_or(&[][..], |d| d);
            match publisher.loan(addresses, length) {
                Ok(loan) => {
                    let number = *next_loan;
                    *next_loan = next_loan.wrapping_add(1);
                    let offset = loan.offset() as f64;
                    loans.insert(number, loan);
                    Ok(Some(vec![f64::from(number), offset]))
                }
                Err(BusError::WouldBlock { .. }) => Ok(None),
                Err(error) => Err(to_js(&error)),
            }
        })
    }

    /// Publishes the first `bytes` of a loan: as `publish`.
    #[napi]
    pub fn publish_loan(&self, number: u32, bytes: f64, topic_low: u32, topic_high: u32) -> Result<f64> {
        let envelope = Envelope { topic: u64::from(topic_low) | u64::from(topic_high) << 32 };
        let length = whole("bytes", bytes)?;
        self.with(|output| {
            let loan = output.loans.remove(&number).ok_or_else(|| {
                named("ERR_SHM_BUS_LOAN_ENDED", "the loan was published or given up already; take a new one")
            })?;
            stamp_or_full(output.publisher.publish_loan(loan, length, envelope).map(|stamp| stamp.0))
        })
    }

    /// Gives a loan up; nothing if it has ended already.
    #[napi]
    pub fn abandon_loan(&self, number: u32) {
        // With the attachment its loans are gone.
        let _ = self.with(|output| {
            if let Some(loan) = output.loans.remove(&number) {
                output.publisher.abandon(loan);
            }
            Ok(())
        });
    }

    /// The memory of the batch table: see [`crate::batch`]. To be asked for once.
    #[napi]
    pub fn batch_table(&self, env: Env) -> Result<Unknown<'static>> {
        self.batch.array_buffer(&env)
    }

    /// The function `() => 0` that begins a batch and says in its table what room there is.
    #[napi]
    pub fn begin_batch_function(&self, env: Env) -> Result<Unknown<'static>> {
        let (live, table) = (self.live.clone(), self.batch.clone());
        hot::function(&env, move |_| {
            with_output(&live, |output| {
                output.publisher.begin_batch().map_err(|e| to_js(&e))?;
                table.tell_room(&mut output.publisher)
            })
        })
    }

    /// The function `(count) => 0` that takes the first rows of the batch table and says anew what room there is.
    #[napi]
    pub fn take_batch_function(&self, env: Env) -> Result<Unknown<'static>> {
        let (live, table) = (self.live.clone(), self.batch.clone());
        hot::function(&env, move |arguments| {
            with_output(&live, |Output { publisher, destinations, .. }| {
                table.take(arguments.u32(0), publisher, destinations)?;
                table.tell_room(publisher)
            })
        })
    }

    /// The function `(count) => stamp` that takes the first rows of the batch table and publishes the batch: -1 if there
    /// is no room now, 0 if it is empty.
    #[napi]
    pub fn end_batch_function(&self, env: Env) -> Result<Unknown<'static>> {
        let (live, table) = (self.live.clone(), self.batch.clone());
        hot::function(&env, move |arguments| {
            with_output(&live, |Output { publisher, destinations, .. }| {
                table.take(arguments.u32(0), publisher, destinations)?;
                stamp_or_full(publisher.end_batch().map(|stamp| stamp.map_or(0, |s| s.0)))
            })
        })
    }

    /// Gives the messages of a batch up.
    #[napi]
    pub fn abandon_batch(&self) {
        // With the attachment its batch is gone.
        let _ = self.with(|output| {
            output.publisher.abandon_batch();
            Ok(())
        });
    }

    /// Whether the message that found no room would find it now.
    #[napi]
    pub fn is_writable(&self) -> Result<bool> {
        self.with(|output| output.publisher.is_writable().map_err(|e| to_js(&e)))
    }

    /// Announces that this publisher waits for space, or that it no longer does.
    #[napi]
    pub fn want_space(&self, waiting: bool) -> Result<()> {
        self.with(|output| {
            output.publisher.want_space(waiting);
            Ok(())
        })
    }

    /// Makes a group unless there is one of that name; its address.
    #[napi]
    pub fn create_group(&self, name: String, timeout_ms: f64) -> Result<AsyncTask<GroupTask>> {
        let timeout = milliseconds("timeout", timeout_ms)?;
        Ok(AsyncTask::new(GroupTask { bus: self.bus()?, name, timeout }))
    }

    /// Subscribes to groups by name, and to the own address.
    #[napi]
    pub fn subscribe(
        &self,
        groups: Vec<String>,
        own_address: bool,
        options: NativeSubscribeOptions,
    ) -> Result<AsyncTask<SubscribeTask>> {
        let options = subscribe_options_of(options)?;
        let (bus, views) = (self.bus()?, self.views.clone());
        Ok(AsyncTask::new(SubscribeTask { bus, views, groups, own_address, options }))
    }

    /// An ArrayBuffer over a sender's memory, by the number that `poll` gave. Each call makes another one.
    #[napi]
    pub fn view_buffer(&self, env: Env, number: u32) -> Result<Option<Unknown<'static>>> {
        self.views.array_buffer(&env, number)
    }

    /// Numbers of buffers whose senders have departed.
    #[napi]
    pub fn take_retired(&self) -> Vec<u32> {
        self.views.take_retired()
    }

    /// An ArrayBuffer over the own memory: page, headers, ring, and the ring once more. Each call makes another one.
    #[napi]
    pub fn own_buffer(&self, env: Env) -> Result<Unknown<'static>> {
        let mapping = self.bus()?.own_mapping().clone();
        // SAFETY: mapped writable while the Arc lives. JavaScript writes where it was given a loan.
        unsafe { external::array_buffer(&env, mapping.base(), mapping.len(), mapping.clone()) }
    }

    /// The ArrayBuffer over the first page of the sequencer memory, read-only: the words to sleep on.
    #[napi]
    pub fn order_buffer(&self, env: Env) -> Result<Unknown<'static>> {
        let mapping = self.bus()?.order_page().map_err(|e| to_js(&e))?;
        // SAFETY: mapped readable while the Arc lives.
        unsafe { external::array_buffer::<Mapping>(&env, mapping.base(), PAGE as usize, mapping.clone()) }
    }

    /// Detaches a buffer that `viewBuffer`, `ownBuffer` or `orderBuffer` gave.
    #[napi]
    pub fn detach_buffer(&self, env: Env, buffer: Unknown<'_>) -> Result<()> {
        external::detach(&env, &buffer)
    }

    /// Calls `wake` on this thread when something comes for an armed attachment.
    #[napi]
    pub fn start(&self, env: Env, wake: Function<'_, (), ()>) -> Result<()> {
        let mut waker = self.waker.borrow_mut();
        if waker.is_none() {
            let callback = wake.create_ref()?;
            let bus = self.bus()?;
            *waker = Some(LoopWaker::start(&env, bus, callback)?);
        }
        Ok(())
    }

    #[napi]
    pub fn keep_alive(&self, yes: bool) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.keep_alive(yes);
        }
    }

    /// Goes to sleep for what these subscriptions want. `false` if one of them has something: nobody sleeps then.
    #[napi]
    pub fn arm(&self, subscriptions: Vec<ClassInstance<'_, NativeSubscription>>) -> bool {
        let mut buckets = BucketSet::default();
        for subscription in &subscriptions {
            match subscription.buckets() {
                Some(more) => buckets = buckets.union(&more),
                None => return false,
            }
        }
        let Ok(bus) = self.bus() else { return false };
        self.disarm();
        bus.arm(&buckets);
        self.armed.set(Some(buckets));
        if subscriptions.iter().any(|s| s.is_ready()) {
            self.disarm();
            return false;
        }
        true
    }

    /// Wakes up.
    #[napi]
    pub fn disarm(&self) {
        if let (Some(buckets), Ok(bus)) = (self.armed.take(), self.bus()) {
            bus.disarm(&buckets);
        }
    }

    /// Rings the own bell: the loop calls `wake` in its next turn.
    #[napi]
    pub fn nudge(&self) {
        if let Ok(bus) = self.bus() {
            bus.nudge();
        }
    }

    /// Drains the bell, so that the loop does not hear an old ring.
    #[napi]
    pub fn drain_wakes(&self) {
        if let Ok(bus) = self.bus() {
            bus.drain_wakes();
        }
    }

    /// Announces a blocking sleep for what a subscription wants; gives the value of the hint to sleep on.
    #[napi]
    pub fn fall_asleep(&self, subscription: &NativeSubscription) -> Result<i32> {
        let buckets = subscription.buckets().ok_or_else(closed)?;
        Ok(self.bus()?.fall_asleep(&buckets) as i32)
    }

    /// Takes the announcement back.
    #[napi]
    pub fn wake_up(&self, subscription: &NativeSubscription) {
        if let (Some(buckets), Ok(bus)) = (subscription.buckets(), self.bus()) {
            bus.wake_up(&buckets);
        }
    }

    /// Who is on the bus.
    #[napi]
    pub fn peers(&self) -> Result<Vec<NativePeer>> {
        let bus = self.bus()?;
        let directory = bus.directory().map_err(|e| to_js(&e))?;
        Ok(directory
            .members()
            .map(|(member, entry)| {
                let statistics = bus.statistics(Some(member)).unwrap_or_default();
                NativePeer {
                    id: u32::from(member.id),
                    generation: member.generation,
                    address: Address(entry.address).to_string(),
                    pid: entry.credentials.pid,
                    uid: entry.credentials.uid,
                    gid: entry.credentials.gid,
                    groups: directory
                        .joined_by(member.id)
                        .map(|a| directory.name_of(a).map_or_else(|| a.to_string(), str::to_owned))
                        .collect(),
                    master: directory.master == Some(member),
                    lag: statistics.lag as f64,
                    published: statistics.published as f64,
                    delivered: statistics.delivered as f64,
                }
            })
            .collect())
    }

    /// Stamps between the own cursor and the tail.
    #[napi(getter)]
    pub fn lag(&self) -> f64 {
        self.bus().ok().and_then(|bus| bus.statistics(None)).map_or(0.0, |s| s.lag as f64)
    }

    /// Detaches, and lets go of every descriptor. The maps that JavaScript sees read as zeros from here on.
    #[napi]
    pub fn close(&self) -> Result<AsyncTask<CloseTask>> {
        self.disarm();
        *self.waker.borrow_mut() = None;
        self.views.blank()?;
        let bus = self.live.borrow_mut().take().map(|live| live.bus);
        Ok(AsyncTask::new(CloseTask { bus }))
    }
}

/// A stamp as JavaScript gets it: -1 where there was no room.
fn stamp_or_full(published: core::result::Result<u64, BusError>) -> Result<f64> {
    match published {
        Ok(stamp) => Ok(stamp as f64),
        Err(BusError::WouldBlock { .. }) => Ok(-1.0),
        Err(error) => Err(to_js(&error)),
    }
}
