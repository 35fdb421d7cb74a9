//! An attachment to a bus.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shm_bus_os::{Access, Mapping, OsError};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{Address, AttachmentId, BucketSet, Geometry, Ordering, SleepKind};

use crate::attach::{self, AttachOptions, Attached, Parted, Place};
use crate::control::Control;
use crate::directory::Directory;
use crate::error::{BusError, Result};
use crate::publisher::Publisher;
use crate::record::MemberId;
use crate::role::PATIENCE;
use crate::shared::{Shared, lock};
use crate::subscription::{SubscribeOptions, Subscription, open_groups};

/// Counters of an attachment, since it attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Messages published.
    pub published: u64,
    /// Payload bytes published.
    pub published_bytes: u64,
    /// Publishes that found no room.
    pub would_block: u64,
    /// Messages delivered.
    pub delivered: u64,
    /// Frames that failed the reader's checks.
    pub violations: u64,
    /// Stamps that lossy subscriptions have missed.
    pub missed: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
    /// Stamps between its cursor and the tail.
    pub lag: u64,
}

fn start(parted: Parted) -> Result<JoinHandle<()>> {
    let control = Control::new(parted)?;
    let thread = std::thread::Builder::new().name("shm-bus".into()).spawn(move || control.run());
    let thread = thread
        .map_err(|error| OsError::of_std("clone", "starting a thread (its limit is ulimit -u)", &error))?;
    Ok(thread)
}

/// One attachment. Closing it, or dropping it, detaches.
pub struct Bus {
    shared: Arc<Shared>,
    running: Mutex<Option<(JoinHandle<()>, Place)>>,
    publisher: Mutex<bool>,
}

impl Bus {
    /// Attaches to the bus `name`, founding it if there is none and the options allow. Blocks until the master has
    /// answered, at most [`AttachOptions::timeout`].
    ///
    /// # Errors
    /// [`BusError::InvalidName`], [`BusError::InvalidOption`], [`BusError::RuntimeDirectory`],
    /// [`BusError::Unsupported`], [`BusError::NotFound`], [`BusError::Exists`], [`BusError::NoMaster`],
    /// [`BusError::Version`], [`BusError::Refused`], [`BusError::System`]. Nothing is left behind by a failed attach.
    pub fn attach(name: &str, options: &AttachOptions) -> Result<Bus> {
        let Attached { parted, place } = attach::attach(name, options)?;
        let shared = parted.shared.clone();
        match start(parted) {
            Ok(thread) => {
                Ok(Bus { shared, running: Mutex::new(Some((thread, place))), publisher: Mutex::new(false) })
            }
            Err(error) => {
                // The others see the side channel close.
                drop(shared);
                place.clear_if_last();
                Err(error)
            }
        }
    }

    /// The name of the bus.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// This attachment's unicast address.
    pub fn address(&self) -> Address {
        self.shared.address
    }

    /// This attachment's id and generation.
    pub fn member(&self) -> MemberId {
        self.shared.member
    }

    /// The random id of the bus.
    pub fn bus_id(&self) -> u128 {
        self.shared.sequencer.bus_id()
    }

    /// Whether this attachment holds the master's role.
    pub fn is_master(&self) -> bool {
        self.shared.sequencer.term().1.0 == self.shared.member.id
    }

    /// Whether it was closed, by itself or by the bus.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// The publishing end. An attachment has one: the second call is [`BusError::InvalidOption`].
    pub fn publisher(&self) -> Result<Publisher> {
        let mut taken = lock(&self.publisher);
        if std::mem::replace(&mut *taken, true) {
            let why = "an attachment has one publisher; attach once more for another".to_owned();
            return Err(BusError::InvalidOption { option: "publisher", why });
        }
        Publisher::new(self.shared.clone())
    }

    /// Makes a group if there is none of that name, and gives its address.
    pub fn create_group(&self, name: &str, timeout: Duration) -> Result<Address> {
        Ok(open_groups(&self.shared, &[name.to_owned()], timeout)?[0])
    }

    /// Subscribes to groups by name (made if they are missing), and to this attachment's own address.
    pub fn subscribe(
        &self,
        groups: &[String],
        own_address: bool,
        options: SubscribeOptions,
    ) -> Result<Subscription> {
        Subscription::join(self.shared.clone(), groups, own_address, options)
    }

    /// Who is on the bus, as the master that this attachment knows last wrote it down.
    pub fn directory(&self) -> Result<Directory> {
        self.shared.notice_term(self.shared.sequencer.term().0);
        self.shared.directory.read().unwrap_or_else(PoisonError::into_inner).read()
    }

    /// The counters of an attachment, if its memory is mapped here; without an id, this one's.
    pub fn statistics(&self, member: Option<MemberId>) -> Option<Statistics> {
        let member = member.unwrap_or(self.shared.member);
        let memory = self.shared.peers.get(member)?;
        let page = memory.view();
        let count = |offset| page.load(offset, Ordering::Relaxed);
        let word = self.shared.sequencer.members().word(AttachmentId(member.id));
        let lag = if word.counts() { self.shared.tail().saturating_sub(count(payload::CURSOR)) } else { 0 };
        Some(Statistics {
            published: count(payload::PUBLISHED),
            published_bytes: count(payload::PUBLISHED_BYTES),
            would_block: count(payload::WOULD_BLOCK),
            delivered: count(payload::DELIVERED),
            violations: count(payload::VIOLATIONS),
            missed: count(payload::MISSED),
            sleeps: count(payload::SLEEP_EPOCH),
            lag,
        })
    }

    /// This attachment's own mapping: loans are filled there.
    pub fn own_mapping(&self) -> &Arc<Mapping> {
        &self.shared.own.mapping
    }

    /// How this attachment's memory is divided.
    pub fn geometry(&self) -> Geometry {
        self.shared.own.geometry
    }

    /// The bell that rings when something comes for an attachment asleep in an event loop: readable until drained.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.shared.own.bell.as_fd()
    }

    /// Goes to sleep in an event loop, for frames of `buckets`. Look once more afterwards, and [`Bus::disarm`] if
    /// there is something.
    pub fn arm(&self, buckets: &BucketSet) {
        self.shared.fall_asleep(buckets, SleepKind::Poll);
    }

    /// Wakes up: takes the announcement back and drains the bell.
    pub fn disarm(&self, buckets: &BucketSet) {
        self.shared.wake_up(buckets, SleepKind::Poll);
        self.drain_wakes();
    }

    /// Rings the attachment's own bell, as a publisher does.
    pub fn nudge(&self) {
        let _ = self.shared.own.bell.ring();
    }

    /// Drains the bell.
    pub fn drain_wakes(&self) {
        self.shared.own.bell.drain();
    }

    /// Announces a blocking sleep for frames of `buckets`, on the futex in the low half of the hint (see
    /// [`Bus::order_page`]); gives the value to sleep on. Look once more before sleeping, and [`Bus::wake_up`] after.
    pub fn fall_asleep(&self, buckets: &BucketSet) -> u32 {
        self.shared.fall_asleep(buckets, SleepKind::Futex)
    }

    /// Takes the announcement of a blocking sleep back.
    pub fn wake_up(&self, buckets: &BucketSet) {
        self.shared.wake_up(buckets, SleepKind::Futex);
    }

    /// Takes back every announcement of a blocking sleep, for threads that were stopped in the middle of one and never
    /// come to [`Bus::wake_up`]. Without it [`Bus::close`] gives them half a second to do so.
    pub fn end_waits(&self) {
        self.shared.end_waits();
    }

    /// A read-only map of the sequencer memory's first page, where the futex words are.
    pub fn order_page(&self) -> Result<Arc<Mapping>> {
        let page = shm_bus_ring::layout::PAGE as usize;
        Ok(Arc::new(Mapping::shared(self.shared.sequencer_fd.as_fd(), page, Access::ReadOnly)?))
    }

    /// Detaches. What was published stays readable for those it was sent to. Blocks until the departure is in the
    /// order, half a second at most.
    pub fn close(&self) {
        self.shared.close();
        let running = lock(&self.running).take();
        if let Some((thread, place)) = running {
            let _ = thread.join();
            self.shared.wait_for_dying(PATIENCE);
            place.clear_if_last();
        }
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.close();
    }
}
