//! Reading: one position in the order, the addresses it wants, and the lease on what it was given last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shm_bus_os::clock;
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    Address, AttachmentId, Bucket, BucketSet, Frame, Kind, LaneKind, Ordering, Reader, ReaderState, Sender,
    Senders, SleepKind, Stamp, Step, Violation, intact,
};

use crate::error::{BusError, Result};
use crate::payload_memory::PeerMemory;
use crate::record::{MemberId, Record, Stamped};
use crate::shared::{Shared, lock};
use crate::wire::{MAX_NAMES, Reply, Request, WirePolicy};

/// How a reader that finds nothing waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitStrategy {
    /// Looks again and again: lowest latency, a whole processor.
    Spin,
    /// Looks for [`SPIN`], then sleeps.
    #[default]
    SpinThenPark,
    /// Sleeps at once.
    Park,
}

/// How long [`WaitStrategy::SpinThenPark`] looks before it sleeps: about what being woken costs.
pub const SPIN: Duration = Duration::from_micros(20);
/// A blocking wait returns to its caller at least this often.
pub const SLICE: Duration = Duration::from_millis(50);
/// A sleeper looks by itself this often, in case a publisher was stopped between its slot and its wake.
const SAFETY: Duration = Duration::from_secs(1);
/// The longest time for which one reader may hold a full ring.
pub const MAX_DEADLINE: Duration = Duration::from_secs(10);
/// How long a sender's memory may be missing: it is handed over before its first message can be published.
const MISSING: Duration = Duration::from_secs(1);
/// Frames of others that are passed over before the position is stored.
const SKIP: u64 = 4096;

/// How to subscribe.
#[derive(Clone, Copy, Debug)]
pub struct SubscribeOptions {
    /// How long a full ring waits for this reader before it loses its place.
    pub deadline: Duration,
    /// How long to wait for the master's answer.
    pub timeout: Duration,
    /// Whether control records count as something that was handed over.
    pub records: bool,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        SubscribeOptions {
            deadline: Duration::from_millis(100),
            timeout: Duration::from_secs(5),
            records: false,
        }
    }
}

/// One message, as long as the lease lasts: until the next call of [`Subscription::poll`] or [`Subscription::release`].
pub struct Delivery<'a> {
    /// Its checked header and place.
    pub frame: &'a Frame,
    /// Where it was sent: for a transaction, the first of this subscription's addresses among its destinations.
    pub destination: Address,
    /// Its index among [`Subscription::addresses`].
    pub destination_index: usize,
    /// Its sender's unicast address.
    pub sender: Address,
    /// Its sender's memory.
    pub memory: &'a Arc<PeerMemory>,
    /// Offset of its payload in that memory's mapping.
    pub offset: u64,
    /// Bytes of payload.
    pub length: u64,
}

impl Delivery<'_> {
    /// A copy of the payload.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length as usize];
        self.memory.view().copy_out(self.offset, &mut bytes);
        bytes
    }
}

/// What a poll hands over.
pub enum Event<'a> {
    /// A message for this subscription.
    Message(Delivery<'a>),
    /// A change of who is on the bus.
    Record(Stamp, &'a Record),
}

struct Attached {
    member: MemberId,
    address: Address,
    memory: Option<Arc<PeerMemory>>,
}

/// Everyone attached as of the reader's position.
struct Roster {
    shared: Arc<Shared>,
    by_id: Vec<Option<Attached>>,
    /// Set when somebody attached was looked for whose memory has not arrived.
    missing: bool,
}

impl Roster {
    fn set(&mut self, member: MemberId, address: Address) {
        let index = usize::from(member.id);
        if self.by_id.len() <= index {
            self.by_id.resize_with(index + 1, || None);
        }
        self.by_id[index] = Some(Attached { member, address, memory: None });
    }
}

impl Senders for Roster {
    #[inline]
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>> {
        let attached = self.by_id.get_mut(id.index())?.as_mut()?;
        if attached.memory.is_none() {
            attached.memory = self.shared.memory_of(attached.member);
            self.missing = attached.memory.is_none();
        }
        attached.memory.as_ref().map(|m| Sender { view: m.view(), geometry: m.geometry() })
    }
}

/// The oldest loan of each sender among what is leased now.
#[derive(Default)]
struct Lease {
    oldest: Vec<(u16, LaneKind, u64, u64)>,
}

impl Lease {
    #[inline]
    fn add(&mut self, frame: &Frame) {
        let id = frame.sender.0;
        match self.oldest.iter_mut().find(|o| o.0 == id && o.1 == frame.lane) {
            // Loans may be published out of loan order.
            Some(oldest) => oldest.2 = oldest.2.min(frame.header.serial),
            None => self.oldest.push((id, frame.lane, frame.header.serial, frame.place.stamp.0)),
        }
    }
}

/// A reader of the order.
pub struct Subscription {
    shared: Arc<Shared>,
    number: u32,
    /// How often this attachment had been evicted when this subscription joined.
    evictions: u8,
    /// Since when a sender's memory has been missing, in monotonic milliseconds.
    missing_since: Option<u64>,
    /// The position that the cursor was last computed from.
    stored: u64,
    reader: Reader,
    roster: Roster,
    addresses: Vec<Address>,
    records: bool,
    master: (u64, u16),
    lease: Lease,
    violations: HashMap<u16, u64>,
    open: bool,
}

impl Subscription {
    /// Joins groups (made if they are missing) and own addresses, and starts right behind the join record.
    pub(crate) fn join(
        shared: Arc<Shared>,
        groups: &[String],
        own_address: bool,
        options: SubscribeOptions,
    ) -> Result<Self> {
        if options.deadline > MAX_DEADLINE {
            let why = format!("must be at most {} ms", MAX_DEADLINE.as_millis());
            return Err(BusError::InvalidOption { option: "deadline", why });
        }
        let mut addresses = open_groups(&shared, groups, options.timeout)?;
        if own_address {
            addresses.push(shared.address);
        }
        let mut buckets = BucketSet::control();
        for address in &addresses {
            buckets.insert(Bucket::of(*address));
        }
        let order = lock(&shared.joining);
        shared.watch(&buckets);
        let (number, evictions) = shared.reserve_position();
        shared.count_memberships(&addresses);
        let policy = WirePolicy::Block { deadline: options.deadline.as_millis() as u64 };
        let raw: Vec<u64> = addresses.iter().map(|a| a.0).collect();
        let answer =
            shared.ask(options.timeout, |request| Request::Join { request, addresses: raw.clone(), policy });
        let (stamp, term, master, attached) = match answer {
            Ok(Reply::Joined { stamp, term, master, attached, .. }) => (stamp, term, master, attached),
            other => {
                // The request may still be on its way: what it asked for is taken back behind it.
                let addresses = shared.uncount_memberships(&addresses).iter().map(|a| a.0).collect();
                let last = shared.release_position(number);
                shared.tell(&Request::Leave { request: 0, addresses, last });
                return Err(other
                    .err()
                    .unwrap_or(BusError::Protocol { why: "an answer to another question".into() }));
            }
        };
        shared.advance(number, evictions, stamp + 1);
        drop(order);
        let mut roster = Roster { shared: shared.clone(), by_id: Vec::new(), missing: false };
        for (member, address) in attached {
            roster.set(member, Address(address));
        }
        Ok(Subscription {
            number,
            evictions,
            missing_since: None,
            stored: stamp + 1,
            reader: Reader::new(Stamp(stamp + 1), buckets),
            roster,
            addresses,
            records: options.records,
            master: (term, master),
            lease: Lease::default(),
            violations: HashMap::new(),
            open: true,
            shared,
        })
    }

    /// The stamp of the first message it can get.
    pub fn position(&self) -> Stamp {
        Stamp(self.reader.position())
    }

    /// The addresses it takes.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Frames that failed the reader's checks, by the id that their slot names.
    pub fn violations(&self) -> &HashMap<u16, u64> {
        &self.violations
    }

    /// How many stamps it has yet to look at.
    pub fn lag(&self) -> u64 {
        self.shared.tail().saturating_sub(self.reader.position())
    }

    /// Ends the lease on what the last poll gave.
    ///
    /// # Errors
    /// [`BusError::Evicted`] if this reader had lost its place and something of it was overwritten meanwhile.
    pub fn release(&mut self) -> Result<()> {
        for (id, lane, serial, stamp) in self.lease.oldest.drain(..) {
            let memory = self.roster.by_id.get(usize::from(id)).and_then(|a| a.as_ref()?.memory.as_ref());
            if let Some(memory) = memory
                && !intact(memory.view(), lane, serial)
            {
                return Err(BusError::Evicted { stamp });
            }
        }
        self.store_position();
        Ok(())
    }

    /// Hands over what there is, at most `limit` messages, and gives how many. What the last poll gave is released
    /// first; what this one gives is leased until the next.
    ///
    /// # Errors
    /// [`BusError::Closed`]; [`BusError::Evicted`] when this reader has lost its place.
    pub fn poll(&mut self, limit: usize, mut deliver: impl FnMut(Event<'_>)) -> Result<usize> {
        if !self.open || self.shared.is_closed() {
            return Err(BusError::Closed);
        }
        self.release()?;
        self.check_place()?;
        let shared = self.shared.clone();
        let sequencer = &shared.sequencer;
        let (mut count, mut messages, mut skipped) = (0, 0, 0);
        while count < limit {
            skipped += self.reader.skip(sequencer, SKIP);
            if skipped >= SKIP && count == 0 {
                // Far behind others' traffic: let go of what was passed over before going on.
                self.store_position();
                skipped = 0;
            }
            match self.reader.next(sequencer, &mut self.roster) {
                Step::Empty => break,
                Step::Overrun if count > 0 => break,
                Step::Overrun => {
                    self.check_place()?;
                    return Err(BusError::Evicted { stamp: self.reader.position() });
                }
                Step::Violation(stamp, _) if std::mem::take(&mut self.roster.missing) => {
                    self.reader.resume(stamp);
                    self.wait_for_memory(stamp)?;
                    break;
                }
                Step::Violation(stamp, violation) => {
                    // A frame that was overwritten after an eviction looks like a forged one: the member word decides.
                    if let Err(error) = self.check_place() {
                        self.reader.resume(stamp);
                        if count > 0 {
                            break;
                        }
                        return Err(match error {
                            BusError::Evicted { .. } => BusError::Evicted { stamp: stamp.0 },
                            other => other,
                        });
                    }
                    self.count_violation(violation);
                }
                Step::Frame(frame) if frame.header.kind == Kind::Control => {
                    if let Some(record) = self.on_control(&frame)? {
                        deliver(Event::Record(frame.place.stamp, &record));
                        count += usize::from(self.records);
                    }
                }
                Step::Frame(frame) => {
                    let Some((destination_index, prefix)) = self.wanted(&frame) else {
                        // The destinations of a transaction were read from its sender's memory just now.
                        if frame.header.kind == Kind::Transaction && !self.is_intact(&frame) {
                            if count > 0 {
                                self.reader.resume(frame.place.stamp);
                                break;
                            }
                            return Err(BusError::Evicted { stamp: frame.place.stamp.0 });
                        }
                        continue;
                    };
                    let Some(attached) = self.roster.by_id.get(frame.sender.index()).and_then(Option::as_ref)
                    else {
                        continue;
                    };
                    let Some(memory) = &attached.memory else { continue };
                    self.lease.add(&frame);
                    deliver(Event::Message(Delivery {
                        destination: self.addresses[destination_index],
                        destination_index,
                        sender: attached.address,
                        memory,
                        offset: frame.offset + prefix,
                        length: u64::from(frame.header.length) - prefix,
                        frame: &frame,
                    }));
                    count += 1;
                    messages += 1;
                }
            }
        }
        if count > 0 {
            self.missing_since = None;
        }
        if count == 0 {
            self.store_position();
        } else {
            shared.own.region.count(payload::DELIVERED, messages);
        }
        Ok(count)
    }

    /// Lets the cursor follow this subscription's position, if it has moved.
    fn store_position(&mut self) {
        let position = self.reader.position();
        if std::mem::replace(&mut self.stored, position) != position {
            self.shared.advance(self.number, self.evictions, position);
        }
    }

    fn is_intact(&self, frame: &Frame) -> bool {
        let attached = self.roster.by_id.get(frame.sender.index());
        let memory = attached.and_then(|a| a.as_ref()?.memory.as_ref());
        memory.is_some_and(|m| intact(m.view(), frame.lane, frame.header.serial))
    }

    /// Which of this subscription's addresses a frame is for, and how many bytes of its payload are destinations.
    #[inline]
    fn wanted(&self, frame: &Frame) -> Option<(usize, u64)> {
        if frame.header.kind == Kind::Message {
            let address = frame.header.address();
            return self.index_of(address).map(|index| (index, 0));
        }
        let prefix = 8 * frame.header.destination;
        let memory = self.roster.by_id.get(frame.sender.index())?.as_ref()?.memory.as_ref()?;
        let mut bytes = [0; 8];
        (0..frame.header.destination)
            .map(|i| {
                memory.view().copy_out(frame.offset + 8 * i, &mut bytes);
                Address(u64::from_le_bytes(bytes))
            })
            .find_map(|destination| self.index_of(destination))
            .map(|index| (index, prefix))
    }

    #[inline]
    fn index_of(&self, address: Address) -> Option<usize> {
        self.addresses.iter().position(|a| *a == address)
    }

    fn on_control(&mut self, frame: &Frame) -> Result<Option<Record>> {
        let Some(memory) =
            self.roster.by_id.get(frame.sender.index()).and_then(|a| a.as_ref()?.memory.as_ref())
        else {
            return Ok(None);
        };
        let mut bytes = vec![0; frame.header.length as usize];
        memory.view().copy_out(frame.offset, &mut bytes);
        if !intact(memory.view(), frame.lane, frame.header.serial) {
            return Err(BusError::Evicted { stamp: frame.place.stamp.0 });
        }
        let Some(Stamped { term, record }) = Stamped::decode(&bytes) else {
            self.count_violation(Violation::Header(frame.sender));
            return Ok(None);
        };
        let trusted = match &record {
            Record::Master { member } => member.id == frame.sender.0 && term > self.master.0,
            _ => (term, frame.sender.0) == self.master,
        };
        if !trusted {
            self.count_violation(Violation::Header(frame.sender));
            return Ok(None);
        }
        match &record {
            Record::Master { member } => self.master = (term, member.id),
            Record::Attached { member, address, .. } => self.roster.set(*member, Address(*address)),
            Record::Departed { member, .. } => {
                if let Some(slot) = self.roster.by_id.get_mut(usize::from(member.id))
                    && slot.as_ref().is_some_and(|a| a.member == *member)
                {
                    *slot = None;
                }
            }
            _ => {}
        }
        Ok(Some(record))
    }

    fn count_violation(&mut self, violation: Violation) {
        *self.violations.entry(violation.sender().0).or_default() += 1;
        self.shared.own.region.count(payload::VIOLATIONS, 1);
    }

    /// Whether this reader still counts: its own member word says so, where it cannot write it by accident.
    fn check_place(&mut self) -> Result<()> {
        let word = self.shared.own_word().ok_or(BusError::Closed)?;
        if word.reader() == ReaderState::Evicted || word.evictions() != self.evictions {
            return Err(BusError::Evicted { stamp: self.reader.position() });
        }
        Ok(())
    }

    /// A sender is attached and its memory is not here: it must arrive, or this reader gives its place up, for it
    /// never skips a message in silence.
    fn wait_for_memory(&mut self, stamp: Stamp) -> Result<()> {
        // Between two masters nobody can hand it over: the successor does when this attachment has found it.
        if self.shared.known_term() != self.shared.sequencer.term().0 {
            self.missing_since = None;
            return Ok(());
        }
        let now = self.shared.now_ms();
        let since = *self.missing_since.get_or_insert(now);
        if now.saturating_sub(since) < MISSING.as_millis() as u64 {
            return Ok(());
        }
        let word = self.shared.own_word().ok_or(BusError::Closed)?;
        self.shared.evict(self.shared.owner().id, word);
        Err(BusError::Evicted { stamp: stamp.0 })
    }

    /// Whether a poll would find something: one load.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.reader.ready(&self.shared.sequencer)
    }

    /// The buckets it has to be woken for.
    pub fn buckets(&self) -> &BucketSet {
        self.reader.buckets()
    }

    /// Blocks until a poll may find something, at most `timeout` and at most one [`SLICE`]; `false` if nothing came.
    ///
    /// # Errors
    /// [`BusError::Closed`], [`BusError::System`].
    pub fn wait(&mut self, strategy: WaitStrategy, timeout: Duration) -> Result<bool> {
        if !self.open || self.shared.is_closed() {
            return Err(BusError::Closed);
        }
        let slice = timeout.min(SLICE);
        let spin = match strategy {
            WaitStrategy::Spin => slice,
            WaitStrategy::SpinThenPark => SPIN.min(slice),
            WaitStrategy::Park => Duration::ZERO,
        };
        let start = clock::monotonic_nanos();
        while !spin.is_zero() {
            // The clock costs as much as many looks.
            for _ in 0..64 {
                if self.advance_to_ready() {
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            if clock::monotonic_nanos() - start >= spin.as_nanos() as u64 {
                break;
            }
        }
        if strategy == WaitStrategy::Spin {
            return Ok(false);
        }
        let left = slice.saturating_sub(Duration::from_nanos(clock::monotonic_nanos() - start));
        if left.is_zero() {
            return Ok(false);
        }
        let buckets = *self.reader.buckets();
        let seen = self.shared.fall_asleep(&buckets, SleepKind::Futex);
        let outcome = if self.advance_to_ready() {
            Ok(true)
        } else {
            self.shared
                .hint_word
                .wait(seen, buckets.futex_bits(), Some(left.min(SAFETY)))
                .map(|_| self.advance_to_ready())
                .map_err(BusError::from)
        };
        self.shared.wake_up(&buckets, SleepKind::Futex);
        outcome
    }

    /// Passes over what is not for this reader; `true` if something that may be is next.
    pub fn advance_to_ready(&mut self) -> bool {
        if self.lease.oldest.is_empty() {
            while self.reader.skip(&self.shared.sequencer, SKIP) == SKIP {
                self.store_position();
            }
        }
        self.is_ready()
    }

    /// Leaves the addresses that no other subscription of this attachment wants, and the order.
    pub fn close(&mut self, timeout: Duration) -> Result<()> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let _order = lock(&self.shared.joining);
        let gone = self.shared.uncount_memberships(&self.addresses);
        let last = self.shared.release_position(self.number);
        if self.shared.is_closed() {
            return Ok(());
        }
        let addresses: Vec<u64> = gone.iter().map(|a| a.0).collect();
        self.shared
            .ask(timeout, |request| Request::Leave { request, addresses: addresses.clone(), last })
            .map(|_| ())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if std::mem::take(&mut self.open) {
            let _order = lock(&self.shared.joining);
            let addresses = self.shared.uncount_memberships(&self.addresses).iter().map(|a| a.0).collect();
            let last = self.shared.release_position(self.number);
            self.shared.tell(&Request::Leave { request: 0, addresses, last });
        }
    }
}

/// The addresses of groups, made by the master if they are missing.
pub(crate) fn open_groups(shared: &Shared, groups: &[String], timeout: Duration) -> Result<Vec<Address>> {
    let mut addresses = Vec::with_capacity(groups.len());
    for names in groups.chunks(MAX_NAMES) {
        match shared.ask(timeout, |request| Request::Open { request, names: names.to_vec() })? {
            Reply::Opened { addresses: opened, .. } if opened.len() == names.len() => {
                addresses.extend(opened.into_iter().map(Address));
            }
            _ => {
                return Err(BusError::Protocol { why: "an answer to another question".into() });
            }
        }
    }
    if addresses.len() >= MAX_NAMES {
        return Err(BusError::Limit { what: "groups in one subscription", limit: MAX_NAMES as u64 - 1 });
    }
    Ok(addresses)
}

impl Shared {
    /// Adds buckets to the set in this attachment's page, before the join that needs them is asked for.
    pub(crate) fn watch(&self, buckets: &BucketSet) {
        for (i, word) in buckets.0.iter().enumerate() {
            self.own.region.fetch_or(payload::BUCKETS + 8 * i as u64, *word, Ordering::AcqRel);
        }
    }
}
