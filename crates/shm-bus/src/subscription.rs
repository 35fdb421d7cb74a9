//! Reading: one position in the order, the addresses it wants, and the lease on what it was given last.

mod lossy;
mod options;
mod roster;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    Address, Bucket, BucketSet, Frame, Kind, Ordering, Reader, ReaderState, Stamp, Step, Violation, intact,
};

use self::lossy::Lossy;
pub(crate) use self::options::DEFAULT_DEADLINE;
pub use self::options::{MAX_DEADLINE, Overload, SubscribeOptions};
use self::roster::{Lease, Roster};
pub use self::wait::{SLICE, SPIN, WaitStrategy};
use crate::error::{BusError, Result};
use crate::payload_memory::PeerMemory;
use crate::record::{Record, Stamped};
use crate::shared::{Shared, lock};
use crate::wire::{MAX_NAMES, Reply, Request, WirePolicy};

/// How long a sender's memory may be missing: it is handed over before its first message can be published.
const MISSING: Duration = Duration::from_secs(1);
/// Frames of others that are passed over before the position is stored, and lost ones before a poll returns.
const SKIP: u64 = 4096;

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
    /// The payload, if the subscription is lossy: its sender may overwrite its own at any time.
    pub copy: Option<&'a [u8]>,
}

impl Delivery<'_> {
    /// A copy of the payload.
    pub fn to_vec(&self) -> Vec<u8> {
        if let Some(copy) = self.copy {
            return copy.to_vec();
        }
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
    /// What a lossy subscription has missed: the stamps from `from` up to `to`, without `to`. Gaps come before the
    /// messages of their poll.
    Gap {
        /// The first stamp that it missed.
        from: Stamp,
        /// The first that it did not.
        to: Stamp,
    },
}

/// A control record was overwritten before it was read, or the one that makes it credible.
struct Overwritten;

/// What became of a frame.
enum Outcome {
    Delivered,
    /// It is for others.
    Passed,
    /// It was overwritten before it was read.
    Lost,
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
    /// Of a subscription that nobody waits for.
    lossy: Option<Lossy>,
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
        let policy = match options.overload {
            Some(overload) => overload.to_wire(shared.sequencer.slot_count())?,
            None => WirePolicy::AsBefore,
        };
        let lossy = policy == WirePolicy::Lossy;
        let mut addresses = open_groups(&shared, groups, options.timeout)?;
        if own_address {
            addresses.push(shared.address);
        }
        let mut buckets = BucketSet::control();
        for address in &addresses {
            buckets.insert(Bucket::of(*address));
        }
        let order = lock(&shared.joining);
        let number = shared.number_subscription();
        if !lossy {
            shared.watch(&buckets);
            shared.reserve_position(number, policy)?;
        }
        shared.count_memberships(&addresses, lossy);
        let raw: Vec<u64> = addresses.iter().map(|a| a.0).collect();
        let answer =
            shared.ask(options.timeout, |request| Request::Join { request, addresses: raw.clone(), policy });
        let (stamp, evictions, term, master, attached) = match answer {
            Ok(Reply::Joined { stamp, evictions, term, master, attached, .. }) => {
                (stamp, evictions, term, master, attached)
            }
            other => {
                // The request may still be on its way: what it asked for is taken back behind it.
                let addresses = shared.uncount_memberships(&addresses, lossy);
                let last = shared.release_position(number);
                shared.tell(&Request::Leave { request: 0, addresses, lossy, last });
                return Err(other
                    .err()
                    .unwrap_or(BusError::Protocol { why: "an answer to another question".into() }));
            }
        };
        if !lossy {
            shared.take_position(number, evictions, policy, stamp + 1);
        }
        drop(order);
        let attached = attached.into_iter().map(|(member, address)| (member, Address(address)));
        Ok(Subscription {
            number,
            evictions,
            missing_since: None,
            stored: stamp + 1,
            reader: Reader::new(Stamp(stamp + 1), buckets),
            roster: Roster::new(shared.clone(), attached),
            addresses,
            records: options.records,
            master: (term, master),
            lease: Lease::default(),
            lossy: lossy.then(Lossy::default),
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

    /// How many stamps it has missed in all: the sum of its gaps. Only a lossy subscription has any.
    pub fn missed(&self) -> u64 {
        self.lossy.as_ref().map_or(0, |lossy| lossy.missed)
    }

    /// Ends the lease on what the last poll gave.
    ///
    /// # Errors
    /// [`BusError::Evicted`] if this reader had lost its place and something of it was overwritten meanwhile.
    pub fn release(&mut self) -> Result<()> {
        if let Some(stamp) = self.lease.end() {
            return Err(BusError::Evicted { stamp });
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
        let (mut count, mut messages, mut skipped, mut losses) = (0, 0, 0, 0);
        while count < limit && losses < SKIP {
            skipped += self.reader.skip(sequencer, SKIP);
            if skipped >= SKIP && count == 0 {
                // Far behind others' traffic: let go of what was passed over before going on.
                self.store_position();
                skipped = 0;
            }
            let step = self.reader.next(sequencer, &mut self.roster);
            let lost = match step {
                Step::Empty => break,
                Step::Overrun => self.reader.position(),
                Step::Violation(stamp, _) if std::mem::take(&mut self.roster.missing) => {
                    self.reader.resume(stamp);
                    if !self.is_overdue() {
                        break;
                    }
                    stamp.0
                }
                Step::Violation(stamp, violation) => {
                    if !self.is_lost(violation)? {
                        self.count_violation(violation);
                        continue;
                    }
                    stamp.0
                }
                Step::Frame(frame) if frame.header.kind == Kind::Control => match self.read_record(&frame) {
                    Ok(None) => continue,
                    Ok(Some(record)) => {
                        deliver(Event::Record(frame.place.stamp, &record));
                        count += usize::from(self.records);
                        match self.end_of_place(&record) {
                            None => continue,
                            Some(end) if count == 0 => return Err(end),
                            Some(_) => break,
                        }
                    }
                    Err(Overwritten) => frame.place.stamp.0,
                },
                Step::Frame(frame) => match self.hand_over(&frame, &mut deliver) {
                    Outcome::Delivered => {
                        count += 1;
                        messages += 1;
                        continue;
                    }
                    Outcome::Passed => continue,
                    Outcome::Lost => frame.place.stamp.0,
                },
            };
            // What was handed over before is told first; the next poll comes to this place again.
            if count > 0 {
                self.reader.resume(Stamp(lost));
                break;
            }
            let to = self.lose(lost)?;
            deliver(Event::Gap { from: Stamp(lost), to: Stamp(to) });
            losses += 1;
        }
        if count > 0 {
            self.missing_since = None;
            shared.own.region.count(payload::DELIVERED, messages);
        } else {
            self.store_position();
        }
        Ok(count)
    }

    #[inline]
    fn hand_over(&mut self, frame: &Frame, deliver: &mut impl FnMut(Event<'_>)) -> Outcome {
        let Some((attached, memory)) = self.roster.of(frame) else { return Outcome::Passed };
        let Some((destination_index, prefix)) = wanted(&self.addresses, frame, memory) else {
            // The destinations of a transaction were read from its sender's memory just now.
            let torn = frame.header.kind == Kind::Transaction && !self.roster.is_intact(frame);
            return if torn { Outcome::Lost } else { Outcome::Passed };
        };
        let (offset, length) = (frame.offset + prefix, u64::from(frame.header.length).saturating_sub(prefix));
        let copy = match &mut self.lossy {
            None => {
                self.lease.add(frame, memory);
                None
            }
            Some(lossy) => {
                let copy = lossy.copy(memory, frame, offset, length);
                if copy.is_none() {
                    return Outcome::Lost;
                }
                copy
            }
        };
        deliver(Event::Message(Delivery {
            destination: self.addresses[destination_index],
            destination_index,
            sender: attached.address,
            memory,
            offset,
            length,
            frame,
            copy,
        }));
        Outcome::Delivered
    }

    /// What a frame that cannot be had means to this reader: the end of its place, or a gap up to the stamp given.
    fn lose(&mut self, stamp: u64) -> Result<u64> {
        match self.check_place() {
            Ok(()) if self.lossy.is_some() => self.pass_lost(stamp),
            Err(BusError::Closed) => Err(BusError::Closed),
            _ => Err(BusError::Evicted { stamp }),
        }
    }

    /// Lets the cursor follow this subscription's position, if it has moved.
    fn store_position(&mut self) {
        let position = self.reader.position();
        if std::mem::replace(&mut self.stored, position) != position && self.lossy.is_none() {
            self.shared.advance(self.number, self.evictions, position);
        }
    }

    /// A control record, believed if it is the master's; nothing if it is not.
    fn read_record(&mut self, frame: &Frame) -> core::result::Result<Option<Record>, Overwritten> {
        let Some((_, memory)) = self.roster.of(frame) else { return Ok(None) };
        let mut bytes = vec![0; frame.header.length as usize];
        memory.view().copy_out(frame.offset, &mut bytes);
        if !intact(memory.view(), frame.lane, frame.header.serial) {
            return Err(Overwritten);
        }
        let Some(Stamped { term, record }) = Stamped::decode(&bytes) else {
            self.count_violation(Violation::Header(frame.sender));
            return Ok(None);
        };
        let trusted = match &record {
            Record::Master { member } => member.id == frame.sender.0 && term > self.master.0,
            _ => (term, frame.sender.0) == self.master,
        };
        if !trusted && self.lossy.is_some() && term > self.master.0 {
            // The record of its reign was among what was missed.
            return Err(Overwritten);
        }
        if !trusted {
            self.count_violation(Violation::Header(frame.sender));
            return Ok(None);
        }
        match &record {
            Record::Master { member } => {
                self.master = (term, member.id);
                self.shared.notice_term(term);
            }
            Record::Attached { member, address, .. } => self.roster.set(*member, Address(*address)),
            Record::Departed { member, .. } => self.roster.remove(*member),
            _ => {}
        }
        Ok(Some(record))
    }

    fn count_violation(&mut self, violation: Violation) {
        *self.violations.entry(violation.sender().0).or_default() += 1;
        self.shared.own.region.count(payload::VIOLATIONS, 1);
    }

    /// It is no member behind the record that says that it was evicted, whatever it could still read.
    fn end_of_place(&self, record: &Record) -> Option<BusError> {
        match record {
            Record::Evicted { member, .. } if *member == self.shared.member => self.check_place().err(),
            _ => None,
        }
    }

    /// Whether this reader still counts: its own member word says so, where it cannot write it by accident. A lossy one
    /// has no place to lose.
    fn check_place(&self) -> Result<()> {
        let word = self.shared.own_word().ok_or(BusError::Closed)?;
        let lost = word.reader() == ReaderState::Evicted || word.evictions() != self.evictions;
        if lost && self.lossy.is_none() {
            return Err(BusError::Evicted { stamp: self.reader.position() });
        }
        Ok(())
    }

    /// Whether a frame that failed its checks was overwritten rather than forged. Of one who has lost its place the
    /// member word tells; one that never had any takes what a reclaimed frame looks like for that.
    fn is_lost(&self, violation: Violation) -> Result<bool> {
        match self.check_place() {
            Err(BusError::Evicted { .. }) => Ok(true),
            Err(error) => Err(error),
            Ok(()) => Ok(self.lossy.is_some()
                && matches!(violation, Violation::Stamp(..) | Violation::UnknownSender(_))),
        }
    }

    /// A sender is attached and its memory is not here: it must arrive, or this reader gives its place up, for it
    /// never skips a message in silence. Whether the time for that has come.
    fn is_overdue(&mut self) -> bool {
        // Between two masters nobody can hand it over: the successor does when this attachment has found it.
        if self.shared.known_term() != self.shared.sequencer.term().0 {
            self.missing_since = None;
            return false;
        }
        let now = self.shared.now_ms();
        let since = *self.missing_since.get_or_insert(now);
        if now.saturating_sub(since) < MISSING.as_millis() as u64 {
            return false;
        }
        if self.lossy.is_none()
            && let Some(word) = self.shared.own_word()
        {
            self.shared.evict(self.shared.owner().id, word);
        }
        true
    }

    /// The buckets it has to be woken for.
    pub fn buckets(&self) -> &BucketSet {
        self.reader.buckets()
    }

    /// Leaves the addresses that no other subscription of this attachment wants, and the order.
    pub fn close(&mut self, timeout: Duration) -> Result<()> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let _order = lock(&self.shared.joining);
        let lossy = self.lossy.is_some();
        let addresses = self.shared.uncount_memberships(&self.addresses, lossy);
        let last = self.shared.release_position(self.number);
        if self.shared.is_closed() {
            return Ok(());
        }
        self.shared
            .ask(timeout, |request| Request::Leave { request, addresses: addresses.clone(), lossy, last })
            .map(|_| ())
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if std::mem::take(&mut self.open) {
            let _order = lock(&self.shared.joining);
            let lossy = self.lossy.is_some();
            let addresses = self.shared.uncount_memberships(&self.addresses, lossy);
            let last = self.shared.release_position(self.number);
            self.shared.tell(&Request::Leave { request: 0, addresses, lossy, last });
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

/// Which of `addresses` a frame is for, and how many bytes of its payload are destinations.
#[inline]
fn wanted(addresses: &[Address], frame: &Frame, memory: &PeerMemory) -> Option<(usize, u64)> {
    let index_of = |address: Address| addresses.iter().position(|a| *a == address);
    if frame.header.kind == Kind::Message {
        return index_of(frame.header.address()).map(|index| (index, 0));
    }
    let mut bytes = [0; 8];
    (0..frame.header.destination)
        .map(|i| {
            memory.view().copy_out(frame.offset + 8 * i, &mut bytes);
            Address(u64::from_le_bytes(bytes))
        })
        .find_map(index_of)
        .map(|index| (index, 8 * frame.header.destination))
}
