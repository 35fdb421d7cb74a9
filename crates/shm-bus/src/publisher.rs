//! Publishing: the data lane of an attachment, with the checks that make a send exact.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_bus_os::clock;
use shm_bus_ring::layout::payload::INLINE_BYTES;
use shm_bus_ring::{Address, Bucket, Full, Kind, Lane, LaneKind, Loan, Message, PublishError, Stamp, Waker};

use crate::error::{BusError, Result};
use crate::overload::{Stall, evict_laggards};
use crate::replica::Replica;
use crate::shared::{MappedPeers, Shared};

/// The most destinations of one transaction.
pub const MAX_DESTINATIONS: usize = shm_bus_ring::MAX_DESTINATIONS as usize;
/// The most messages of one batch.
pub const MAX_BATCH: usize = 1024;

/// What goes with a message besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envelope {
    /// A word of the sender's own.
    pub topic: u64,
}

/// The publishing end of an attachment. There is one, and it is used by one thread at a time.
pub struct Publisher {
    shared: Arc<Shared>,
    lane: Lane,
    replica: Replica,
    waker: Waker,
    stall: Stall,
    /// Destinations that the replica has vouched for since it last changed.
    checked: Vec<Address>,
    batch: Option<Batch>,
    /// An empty one, for its memory.
    spare: Batch,
    /// Bytes that the last refused publish wanted: what [`Publisher::wait_writable`] waits for.
    wanted: u64,
}

/// Messages written and not yet published.
#[derive(Default)]
struct Batch {
    prepared: Vec<Prepared>,
    /// The destinations of all of them, one after the other.
    destinations: Vec<Address>,
}

struct Prepared {
    loan: Loan,
    /// How many of the batch's destinations are this message's.
    destinations: usize,
    envelope: Envelope,
    length: u64,
}

impl Batch {
    fn push(&mut self, loan: Loan, destinations: &[Address], envelope: Envelope, length: u64) {
        self.destinations.extend_from_slice(destinations);
        self.prepared.push(Prepared { loan, destinations: destinations.len(), envelope, length });
    }
}

/// Space in the publisher's own ring, to be filled in place.
pub struct BusLoan {
    loan: Loan,
    destinations: Vec<Address>,
    /// Bytes in front of the payload: the destinations of a transaction.
    prefix: u64,
}

impl BusLoan {
    /// Offset of the payload in the attachment's own mapping.
    pub fn offset(&self) -> u64 {
        self.loan.offset() + self.prefix
    }

    /// Bytes of payload it can hold.
    pub fn capacity(&self) -> u64 {
        self.loan.capacity() - self.prefix
    }
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self> {
        let lane = Lane::new(shared.own.region.clone(), shared.own.geometry, LaneKind::Data);
        let replica = Replica::new(&shared)?;
        Ok(Publisher {
            lane,
            replica,
            waker: Waker::default(),
            stall: Stall::default(),
            checked: Vec::new(),
            batch: None,
            spare: Batch::default(),
            wanted: 0,
            shared,
        })
    }

    /// The address of the group `name`.
    pub fn resolve(&mut self, name: &str) -> Result<Address> {
        self.open()?;
        let mut behind = None;
        if !self.replica.is_current(&self.shared.sequencer) {
            let tail = self.shared.sequencer.find()?.stamp;
            behind = self.replica.catch_up(&self.shared, tail).err();
        }
        match (self.replica.directory().group_named(name), behind) {
            // Groups stay once they are made, whatever the master has left half done.
            (Some(address), None | Some(BusError::NoMaster { .. })) => Ok(address),
            (_, Some(error)) => Err(error),
            (None, None) => Err(BusError::UnknownGroup { name: name.to_owned() }),
        }
    }

    fn open(&self) -> Result<()> {
        if self.shared.is_closed() { Err(BusError::Closed) } else { Ok(()) }
    }

    /// Publishes `bytes` to one address, or to several as one event with one stamp. In a batch the message is only
    /// written; its stamp is the batch's.
    ///
    /// # Errors
    /// Nothing is published in any of these cases: [`BusError::WouldBlock`], [`BusError::TooBig`],
    /// [`BusError::UnknownAddress`], [`BusError::Unreachable`], [`BusError::DuplicateDestination`],
    /// [`BusError::Closed`], [`BusError::Spoiled`].
    pub fn publish(&mut self, destinations: &[Address], bytes: &[u8], envelope: Envelope) -> Result<Stamp> {
        let loan = self.reserve(destinations, bytes.len() as u64)?;
        self.lane.write(&loan, prefix_of(destinations), bytes);
        self.send(loan, destinations, bytes.len() as u64, envelope)
    }

    /// Reserves space for a message of up to `length` bytes.
    ///
    /// # Errors
    /// As for [`Publisher::publish`].
    pub fn loan(&mut self, destinations: &[Address], length: u64) -> Result<BusLoan> {
        let loan = self.reserve(destinations, length)?;
        Ok(BusLoan { loan, destinations: destinations.to_vec(), prefix: prefix_of(destinations) })
    }

    /// Publishes the first `length` bytes of a loan. On an error the loan is given up.
    pub fn publish_loan(&mut self, loan: BusLoan, length: u64, envelope: Envelope) -> Result<Stamp> {
        if length > loan.capacity() {
            let max = loan.capacity();
            self.lane.abandon(loan.loan);
            return Err(BusError::TooBig { length, max });
        }
        if let Err(error) = self.open() {
            self.lane.abandon(loan.loan);
            return Err(error);
        }
        let BusLoan { loan, destinations, .. } = loan;
        self.send(loan, &destinations, length, envelope)
    }

    /// Gives a loan up.
    pub fn abandon(&mut self, loan: BusLoan) {
        self.lane.abandon(loan.loan);
    }

    fn reserve(&mut self, destinations: &[Address], length: u64) -> Result<Loan> {
        self.open()?;
        check_destinations(destinations)?;
        if self.batch.as_ref().is_some_and(|b| b.prepared.len() == MAX_BATCH) {
            return Err(BusError::Limit { what: "messages in a batch", limit: MAX_BATCH as u64 });
        }
        let prefix = prefix_of(destinations);
        let total = prefix + length;
        let mut loan = self.lane.loan(&self.shared.sequencer, &mut MappedPeers(&self.shared), total);
        if let Err(PublishError::Full(full)) = loan
            && self.relieve(&full)
        {
            loan = self.lane.loan(&self.shared.sequencer, &mut MappedPeers(&self.shared), total);
        }
        let loan = loan.map_err(|error: PublishError<BusError>| self.refuse(error, total))?;
        for (i, destination) in destinations.iter().enumerate().take((prefix / 8) as usize) {
            self.lane.write(&loan, 8 * i as u64, &destination.0.to_le_bytes());
        }
        Ok(loan)
    }

    fn relieve(&mut self, full: &Full) -> bool {
        // Whoever sleeps may be the one that holds the ring, for a group that nobody writes to.
        self.shared.wake(Bucket::MIXED, full.stamp, &mut self.waker);
        self.stall.relieve(&self.shared, full, self.lane.gate())
    }

    fn refuse(&mut self, error: PublishError<BusError>, wanted: u64) -> BusError {
        match error {
            PublishError::Full(full) => {
                self.wanted = wanted;
                self.lane.count_would_block();
                BusError::WouldBlock { shortage: full.shortage, holder: full.holder }
            }
            PublishError::TooBig { length, max } => BusError::TooBig { length, max },
            PublishError::Detached => BusError::Closed,
            PublishError::Spoiled(spoiled) => spoiled.into(),
            PublishError::Refused(error) => error,
            _ => BusError::Closed,
        }
    }

    fn send(
        &mut self,
        loan: Loan,
        destinations: &[Address],
        length: u64,
        envelope: Envelope,
    ) -> Result<Stamp> {
        if let Some(batch) = &mut self.batch {
            // One slot names the first header; the others are found behind it.
            if batch.prepared.last().is_some_and(|last| last.loan.serial() + 1 != loan.serial()) {
                self.lane.abandon(loan);
                let why = "takes messages in the order of their loans; a loan from before it is published by itself";
                return Err(BusError::InvalidOption { option: "batch", why: why.into() });
            }
            batch.push(loan, destinations, envelope, length);
            return Ok(Stamp(0));
        }
        let time = clock::monotonic_nanos();
        let frame = [frame(loan, destinations, envelope, length, time)];
        let published = self.commit(&frame);
        if published.is_err() {
            let [(loan, ..)] = frame;
            self.lane.abandon(loan);
        }
        published
    }

    fn commit(&mut self, frames: &[(Loan, Kind, Message<'_>, u64)]) -> Result<Stamp> {
        let mut published = self.try_commit(frames);
        if let Err(PublishError::Full(full)) = published
            && self.relieve(&full)
        {
            published = self.try_commit(frames);
        }
        match published {
            Ok(published) => {
                if let Some(bucket) = published.wake {
                    self.shared.wake(bucket, published.stamp.0 + 1, &mut self.waker);
                }
                if published.laggards {
                    let stamp = published.stamp.0;
                    let gate = self.lane.scan(&self.shared.sequencer, stamp, &mut MappedPeers(&self.shared));
                    evict_laggards(&self.shared, gate, stamp);
                }
                Ok(published.stamp)
            }
            Err(error) => Err(self.refuse(error, 0)),
        }
    }

    fn try_commit(
        &mut self,
        frames: &[(Loan, Kind, Message<'_>, u64)],
    ) -> core::result::Result<shm_bus_ring::Published, PublishError<BusError>> {
        let Publisher { shared, lane, replica, checked, .. } = self;
        let exact = |stamp| {
            if !replica.is_current(&shared.sequencer) {
                match replica.catch_up(shared, stamp) {
                    Ok(()) => checked.clear(),
                    // Groups stay once they are made, whatever the master has left half done. Members do not.
                    Err(error @ BusError::NoMaster { .. }) => {
                        checked.clear();
                        let mut destinations = frames.iter().flat_map(|f| f.2.destinations);
                        if !destinations.all(|d| d.is_group() && reachable(replica, *d).is_ok()) {
                            return Err(error);
                        }
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            for destination in frames.iter().flat_map(|f| f.2.destinations) {
                if !checked.contains(destination) {
                    reachable(replica, *destination)?;
                    if checked.len() < 64 {
                        checked.push(*destination);
                    }
                }
            }
            Ok(())
        };
        lane.publish(&shared.sequencer, &mut MappedPeers(shared), shared.owner(), frames, exact)
    }

    /// Begins a batch: what is published until [`Publisher::end_batch`] becomes one event.
    pub fn begin_batch(&mut self) -> Result<()> {
        self.open()?;
        if self.batch.is_some() {
            return Err(BusError::InvalidOption { option: "batch", why: "batches cannot be nested".into() });
        }
        self.batch = Some(std::mem::take(&mut self.spare));
        Ok(())
    }

    /// Publishes the batch: one stamp, the messages adjacent in the order. Nothing of it is published on an error. An
    /// empty batch has no stamp.
    pub fn end_batch(&mut self) -> Result<Option<Stamp>> {
        let Some(mut batch) = self.batch.take() else { return Ok(None) };
        if batch.prepared.is_empty() {
            self.spare = batch;
            return Ok(None);
        }
        let time = clock::monotonic_nanos();
        let mut destinations = &batch.destinations[..];
        let frames: Vec<_> = batch
            .prepared
            .drain(..)
            .map(|Prepared { loan, destinations: count, envelope, length }| {
                let (own, others) = destinations.split_at(count);
                destinations = others;
                frame(loan, own, envelope, length, time)
            })
            .collect();
        let published = self.commit(&frames);
        if published.is_err() {
            for (loan, ..) in frames.into_iter().rev() {
                self.lane.abandon(loan);
            }
        }
        batch.destinations.clear();
        self.spare = batch;
        published.map(Some)
    }

    /// Headers whose inline bytes may be written before [`Publisher::take_inline`] is called for them, one after the
    /// other: the index of the first in the header array (they wrap inside the data lane), and how many.
    pub fn inline_room(&mut self) -> Result<(u16, u64)> {
        self.open()?;
        let room =
            self.lane.free_headers(&self.shared.sequencer, &mut MappedPeers(&self.shared), MAX_BATCH as u64);
        room.map_err(|error: PublishError<BusError>| self.refuse(error, 0))
    }

    /// In a batch: publishes what the caller has written into the next header's inline bytes to one address, as
    /// [`Publisher::publish`] does with bytes that it copies there.
    pub fn take_inline(&mut self, destination: Address, length: u64, envelope: Envelope) -> Result<()> {
        let length = length.min(INLINE_BYTES);
        let loan = self.reserve(&[destination], length)?;
        self.send(loan, &[destination], length, envelope).map(drop)
    }

    /// Gives the messages of a batch up.
    pub fn abandon_batch(&mut self) {
        let Some(mut batch) = self.batch.take() else { return };
        for prepared in batch.prepared.drain(..).rev() {
            self.lane.abandon(prepared.loan);
        }
        batch.destinations.clear();
        self.spare = batch;
    }

    /// Whether the last refused message would find room now.
    pub fn is_writable(&mut self) -> Result<bool> {
        self.open()?;
        let found = self.shared.sequencer.find()?;
        let mut gate = shm_bus_ring::Gate::default();
        gate.scan(&self.shared.sequencer, found.stamp, &mut MappedPeers(&self.shared));
        if found.stamp - gate.cached() >= self.shared.sequencer.slot_count() {
            // Who sleeps may hold it: those that filled it since may have been killed before they woke anybody.
            self.shared.wake(Bucket::MIXED, found.stamp, &mut self.waker);
            let full =
                Full { shortage: shm_bus_ring::Shortage::Slots, stamp: found.stamp, holder: gate.slowest() };
            return Ok(self.stall.relieve(&self.shared, &full, &gate));
        }
        let wanted = self.wanted;
        let mut loan = self.lane.loan(&self.shared.sequencer, &mut MappedPeers(&self.shared), wanted);
        if let Err(PublishError::Full(full)) = loan
            && self.relieve(&full)
        {
            loan = self.lane.loan(&self.shared.sequencer, &mut MappedPeers(&self.shared), wanted);
        }
        match loan {
            Ok(loan) => {
                self.lane.abandon(loan);
                Ok(true)
            }
            Err(PublishError::Full(_)) => Ok(false),
            Err(error) => Err(self.refuse(error, wanted)),
        }
    }

    /// Announces (or takes back) that this publisher waits for space: from then on whoever frees some wakes it, by the
    /// space futex and by its bell. Look at [`Publisher::is_writable`] once more after announcing.
    pub fn want_space(&self, waiting: bool) {
        self.shared.want_space(waiting);
    }

    /// Blocks until the last refused message would find room; `false` at the timeout.
    pub fn wait_writable(&mut self, timeout: Duration) -> Result<bool> {
        let start = Instant::now();
        self.want_space(true);
        let outcome = loop {
            let seen = self.shared.space_word.load();
            match self.is_writable() {
                Ok(false) => {}
                other => break other,
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                break Ok(false);
            }
            // A slice at a time: deadlines of readers run out without anybody waking us.
            let slice = left.min(Duration::from_millis(10));
            if let Err(error) = self.shared.space_word.wait(seen, u32::MAX, Some(slice)) {
                break Err(error.into());
            }
        };
        self.want_space(false);
        outcome
    }

    /// The largest payload of a message to one address.
    pub fn max_frame(&self) -> u64 {
        self.lane.max_frame()
    }

    /// Messages and ring bytes that readers still hold.
    pub fn in_flight(&self) -> (u64, u64) {
        (self.lane.held(), self.lane.held_bytes())
    }
}

/// Whether the destination takes messages as of the replica's stamp.
fn reachable(replica: &Replica, destination: Address) -> Result<()> {
    let directory = replica.directory();
    if destination.is_group() {
        return match directory.name_of(destination) {
            Some(_) => Ok(()),
            None => Err(BusError::UnknownAddress { address: destination }),
        };
    }
    match directory.member_at(destination) {
        None => Err(BusError::UnknownAddress { address: destination }),
        Some(_) if directory.is_joined(destination) => Ok(()),
        Some(_) => Err(BusError::Unreachable { address: destination }),
    }
}

fn check_destinations(destinations: &[Address]) -> Result<()> {
    if destinations.is_empty() || destinations.len() > MAX_DESTINATIONS {
        return Err(BusError::InvalidOption {
            option: "destination",
            why: format!("a message needs 1 to {MAX_DESTINATIONS} destinations, not {}", destinations.len()),
        });
    }
    match destinations.iter().enumerate().find(|(i, d)| destinations[..*i].contains(d)) {
        Some((_, address)) => Err(BusError::DuplicateDestination { address: *address }),
        None => Ok(()),
    }
}

/// Bytes in front of a transaction's payload.
fn prefix_of(destinations: &[Address]) -> u64 {
    if destinations.len() > 1 { 8 * destinations.len() as u64 } else { 0 }
}

fn frame<'a>(
    loan: Loan,
    destinations: &'a [Address],
    envelope: Envelope,
    length: u64,
    time: u64,
) -> (Loan, Kind, Message<'a>, u64) {
    let kind = if destinations.len() > 1 { Kind::Transaction } else { Kind::Message };
    let message = Message { destinations, topic: envelope.topic, descriptors: 0, time };
    (loan, kind, message, prefix_of(destinations) + length)
}
