//! A lane: one publishing thread's part of its attachment's payload memory, from loan to reclaim.
//!
//! An attachment has two, so that its bus traffic and the records of the master's role never wait for each other: the
//! *data lane* (the payload ring and all headers but the last 64) and the *control lane* (those 64, with a fixed cell of
//! 512 bytes each). Every loan takes one header: loan `n` of a lane uses entry `n mod headers`.
//!
//! Reclaim happens in loan order, when every counting reader that may read a frame has passed it. The owner stores
//! `reclaimed`, fences, zeroes the header's stamp and only then overwrites; so a reader that lost its place finds out
//! by the serial, whenever it looks ([`crate::intact`]).

use core::fmt;

use crate::atomic::{Ordering, fence};
use crate::bucket::Bucket;
use crate::gate::{Gate, Peers};
use crate::geometry::Geometry;
use crate::header::{Header, Kind};
use crate::layout::{header as at, payload};
use crate::member::AttachState;
use crate::memory::Region;
use crate::names::{Address, AttachmentId, LaneKind, Stamp};
use crate::sequencer::{Sequencer, Spoiled};
use crate::slot::SlotWord;

/// Who publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub id: AttachmentId,
    /// The generation of the id that is its own.
    pub generation: u32,
}

/// Space for one frame. Publish it or [`Lane::abandon`] it: while it is held nothing behind it is freed.
#[derive(Debug, PartialEq, Eq)]
pub struct Loan {
    serial: u64,
    /// Offset of its header.
    entry: u64,
    offset: u64,
    capacity: u64,
    /// Where its bytes start in the ring, and how many it holds there.
    position: u64,
    span: u64,
}

impl Loan {
    /// Offset of its bytes in the owner's mapping.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes it may hold.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Its serial.
    pub fn serial(&self) -> u64 {
        self.serial
    }
}

/// What a publisher says of a message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it goes, at least one address.
    pub destinations: &'a [Address],
    /// The sender's own word.
    pub topic: u64,
    /// How many file descriptors travel with it.
    pub descriptors: u8,
    /// Monotonic nanoseconds.
    pub time: u64,
}

/// What there was not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Slots of the order: a reader is a whole lap behind.
    Slots,
    /// Headers of the publisher's own array.
    Headers,
    /// Bytes of the publisher's own payload ring.
    Bytes,
}

/// No room now. Nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Of what.
    pub shortage: Shortage,
    /// The first free slot when it was found.
    pub stamp: u64,
    /// The reader that holds it, and its cursor; none if the publisher's own loans do.
    pub holder: Option<(AttachmentId, u64)>,
}

/// Why a publish did not happen. In every case nobody sees anything of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError<E> {
    /// No room now.
    Full(Full),
    /// The frame can never fit.
    TooBig {
        /// Bytes wanted.
        length: u64,
        /// The largest frame of this ring.
        max: u64,
    },
    /// The attachment is no longer a live member: closed, departed or its id given to another.
    Detached,
    /// The order is unusable.
    Spoiled(Spoiled),
    /// The caller's own check at the found slot failed.
    Refused(E),
}

impl<E> From<Spoiled> for PublishError<E> {
    fn from(spoiled: Spoiled) -> Self {
        PublishError::Spoiled(spoiled)
    }
}

impl<E: fmt::Display> fmt::Display for PublishError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(full) => match full.holder {
                Some((id, cursor)) => {
                    write!(f, "no {:?} left: reader {} is at stamp {cursor}", full.shortage, id.0)
                }
                None => write!(f, "no {:?} left: loans that are still held take them all", full.shortage),
            },
            Self::TooBig { length, max } => write!(f, "{length} bytes do not fit a frame of at most {max}"),
            Self::Detached => write!(f, "the attachment is no longer a member of the bus"),
            Self::Spoiled(spoiled) => spoiled.fmt(f),
            Self::Refused(e) => e.fmt(f),
        }
    }
}

/// A publish that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its place in the order.
    pub stamp: Stamp,
    /// Whom to wake now; [`Sequencer::raise_hint`] past the stamp comes first.
    pub wake: Option<Bucket>,
    /// Whether it is time to look for readers that are further behind than they want to be: [`Lane::scan`].
    pub laggards: bool,
}

/// One lane of an attachment's own payload memory.
pub struct Lane {
    own: Region,
    geometry: Geometry,
    kind: LaneKind,
    /// Index of its first header, and how many it has less one: a power of two less one.
    first: u64,
    mask: u64,
    gate: Gate,
    /// Serial of the next loan.
    next: u64,
    /// Every loan below is freed.
    freed: u64,
    /// Ring positions, counted without wrapping: where the next payload goes, and up to where the ring is free again.
    head: u64,
    tail: u64,
    /// Where the order's tail is likely to be: behind this lane's last message. The slot before was seen filled.
    guess: u64,
    /// The stamp of the last look at every cursor.
    scanned: u64,
}

const INLINE: u64 = payload::INLINE_BYTES;

impl Lane {
    /// The lane `kind` of fresh payload memory.
    pub fn new(own: Region, geometry: Geometry, kind: LaneKind) -> Self {
        let (first, count) = geometry.lane(kind);
        Lane {
            own,
            geometry,
            kind,
            first,
            mask: count - 1,
            gate: Gate::default(),
            next: 0,
            freed: 0,
            head: 0,
            tail: 0,
            guess: 1,
            scanned: 0,
        }
    }

    /// The largest payload of a frame.
    pub fn max_frame(&self) -> u64 {
        match self.kind {
            LaneKind::Data => self.geometry.max_frame(),
            LaneKind::Control => payload::CELL_BYTES,
        }
    }

    /// The publisher's knowledge of the readers, as of its last scan.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    #[inline(always)]
    fn index_of(&self, serial: u64) -> u16 {
        (self.first + (serial & self.mask)) as u16
    }

    #[inline(always)]
    fn entry_of(&self, serial: u64) -> u64 {
        payload::HEADERS + (self.first + (serial & self.mask)) * payload::ENTRY_BYTES
    }

    /// Reserves `length` bytes.
    pub fn loan<E>(
        &mut self,
        sequencer: &Sequencer,
        peers: &mut impl Peers,
        length: u64,
    ) -> Result<Loan, PublishError<E>> {
        if length > self.max_frame() {
            return Err(PublishError::TooBig { length, max: self.max_frame() });
        }
        let headers = self.mask + 1;
        let in_ring = self.kind == LaneKind::Data && length > INLINE;
        let span = if in_ring { length.next_multiple_of(payload::ALIGNMENT) } else { 0 };
        let lacks = |lane: &Self| {
            if lane.next - lane.freed >= headers {
                Some(Shortage::Headers)
            } else if lane.head + span - lane.tail > lane.geometry.ring_bytes() {
                Some(Shortage::Bytes)
            } else {
                None
            }
        };
        if lacks(self).is_some() {
            self.reclaim();
            if lacks(self).is_some() {
                let stamp = sequencer.find()?.stamp;
                self.gate.scan(sequencer, stamp, peers);
                self.reclaim();
                if let Some(shortage) = lacks(self) {
                    return Err(PublishError::Full(Full {
                        shortage,
                        stamp,
                        holder: self.holder_of_oldest(),
                    }));
                }
            }
        }
        let (serial, position) = (self.next, self.head);
        let entry = self.entry_of(serial);
        let header = self.own.entry_mut(entry);
        // I-RECLAIM: `reclaimed` was stored and fenced (in `reclaim`) before this header is touched.
        header.store(at::STAMP, 0, Ordering::Relaxed);
        fence(Ordering::Release);
        header.store(at::SHAPE, (Kind::Loaned as u64) << 48, Ordering::Relaxed);
        header.store(at::BATCH, (span / payload::ALIGNMENT) << 32, Ordering::Relaxed);
        let offset = match self.kind {
            LaneKind::Control => self.geometry.cell(serial),
            LaneKind::Data if in_ring => self.geometry.ring_offset(position),
            LaneKind::Data => entry + at::BYTES,
        };
        self.next += 1;
        self.head += span;
        Ok(Loan { serial, entry, offset, capacity: length, position, span })
    }

    /// Headers that the next loans get without waiting: the index of the first (they follow one another and wrap inside
    /// the lane), and how many. Tries to have `wanted` of them.
    pub fn free_headers<E>(
        &mut self,
        sequencer: &Sequencer,
        peers: &mut impl Peers,
        wanted: u64,
    ) -> Result<(u16, u64), PublishError<E>> {
        let headers = self.mask + 1;
        let room = |lane: &Self| headers - (lane.next - lane.freed);
        if room(self) < wanted {
            self.reclaim();
        }
        if room(self) < wanted {
            let stamp = sequencer.find()?.stamp;
            self.gate.scan(sequencer, stamp, peers);
            self.reclaim();
        }
        Ok((self.index_of(self.next), room(self)))
    }

    /// Frees loans in loan order as far as the gate of the last scan allows.
    fn reclaim(&mut self) {
        let before = self.freed;
        while self.freed < self.next {
            let entry = self.entry_of(self.freed);
            let Some(header) = Header::load(&self.own.entry(entry)) else {
                break;
            };
            let count = match header.kind {
                Kind::Loaned => break,
                Kind::Padding => 1,
                _ => {
                    let stamp = self.own.load(entry + at::STAMP, Ordering::Relaxed);
                    if stamp == 0 || !self.gate.has_passed(stamp, header.bucket) {
                        break;
                    }
                    header.batch_count.max(1)
                }
            };
            for serial in self.freed..self.freed + u64::from(count) {
                let batch = self.own.load(self.entry_of(serial) + at::BATCH, Ordering::Relaxed);
                self.tail += (batch >> 32) * payload::ALIGNMENT;
            }
            self.freed += u64::from(count);
        }
        if self.freed != before {
            self.own.store(self.kind.reclaimed_offset(), self.freed, Ordering::Relaxed);
            // SYNC reclaim: the watermark before any overwriting store.
            fence(Ordering::Release);
        }
    }

    fn holder_of_oldest(&self) -> Option<(AttachmentId, u64)> {
        let entry = self.entry_of(self.freed);
        let header = Header::load(&self.own.entry(entry))?;
        let stamp = self.own.load(entry + at::STAMP, Ordering::Relaxed);
        if stamp == 0 { None } else { self.gate.holder(stamp, header.bucket) }
    }

    /// Writes bytes into a loan, `at` bytes from its start. Panics if they do not fit the loan.
    #[inline]
    pub fn write(&self, loan: &Loan, at: u64, bytes: &[u8]) {
        assert!(at <= loan.capacity && bytes.len() as u64 <= loan.capacity - at, "write outside the loan");
        self.own.copy_in(loan.offset + at, bytes);
    }

    /// Gives a loan up.
    pub fn abandon(&mut self, loan: Loan) {
        if loan.serial + 1 == self.next {
            self.next -= 1;
            self.head -= loan.span;
        } else {
            self.own.store(loan.entry + at::SHAPE, (Kind::Padding as u64) << 48, Ordering::Relaxed);
        }
    }

    /// Completes a loan's header, but for its stamp: `length` bytes of it are the payload (with the destinations in
    /// front of them for a transaction). `batch` is `(index, count)`.
    #[inline]
    fn complete(
        &self,
        loan: &Loan,
        kind: Kind,
        message: &Message<'_>,
        length: u64,
        batch: (u16, u16),
        bucket: Bucket,
    ) {
        assert!(length <= loan.capacity, "a payload longer than its loan");
        let inline = self.kind == LaneKind::Data && loan.span == 0;
        Header {
            serial: loan.serial,
            position: loan.position,
            length: length as u32,
            descriptors: message.descriptors,
            bucket,
            kind,
            flags: if inline { at::INLINE } else { 0 },
            destination: match kind {
                Kind::Transaction => message.destinations.len() as u64,
                _ => message.destinations.first().map_or(0, |d| d.0),
            },
            time: message.time,
            topic: message.topic,
            batch_count: batch.1,
            batch_index: batch.0,
            span: (loan.span / payload::ALIGNMENT) as u32,
        }
        .store(&self.own.entry_mut(loan.entry));
    }

    /// Publishes loans as one event: a single one is a message, several are a batch (adjacent in the order, one
    /// stamp). They must be consecutive and in loan order. `exact` is asked before each attempt, with the stamp that
    /// it aims at: everything below that stamp is in the order by then.
    ///
    /// On an error the loans are as before and nothing was published.
    pub fn publish<E>(
        &mut self,
        sequencer: &Sequencer,
        peers: &mut impl Peers,
        owner: Owner,
        frames: &[(Loan, Kind, Message<'_>, u64)],
        exact: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Published, PublishError<E>> {
        let (first, count) = (frames[0].0.serial, frames.len() as u16);
        let bucket = if self.kind == LaneKind::Control {
            Bucket::CONTROL
        } else {
            let mut buckets = frames.iter().map(|(_, _, m, _)| Bucket::of_all(m.destinations));
            let bucket = buckets.next().unwrap_or(Bucket::MIXED);
            if buckets.all(|b| b == bucket) { bucket } else { Bucket::MIXED }
        };
        for (i, (loan, kind, message, length)) in frames.iter().enumerate() {
            assert!(loan.serial == first + i as u64, "the loans of a batch are consecutive");
            self.complete(loan, *kind, message, *length, (i as u16, if i == 0 { count } else { 0 }), bucket);
        }
        let published = self.commit(sequencer, peers, owner, first, bucket, exact);
        match &published {
            Ok(_) if self.kind == LaneKind::Data => {
                self.own.count(payload::PUBLISHED, u64::from(count));
                self.own.count(payload::PUBLISHED_BYTES, frames.iter().map(|f| f.3).sum());
            }
            Ok(_) => {}
            Err(_) => {
                for (loan, ..) in frames {
                    let entry = self.entry_of(loan.serial);
                    self.own.store(entry + at::STAMP, 0, Ordering::Relaxed);
                    self.own.store(entry + at::SHAPE, (Kind::Loaned as u64) << 48, Ordering::Relaxed);
                }
            }
        }
        published
    }

    /// Gives the frame whose first header is loan `first` its place in the order.
    fn commit<E>(
        &mut self,
        sequencer: &Sequencer,
        peers: &mut impl Peers,
        owner: Owner,
        first: u64,
        bucket: Bucket,
        mut exact: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<Published, PublishError<E>> {
        let stamp_offset = self.entry_of(first) + at::STAMP;
        let index = self.index_of(first);
        let slots = sequencer.slot_count();
        let mut found = sequencer.find_behind(self.guess)?;
        loop {
            let stamp = found.stamp;
            if stamp.saturating_sub(self.gate.cached()) >= slots {
                self.gate.scan(sequencer, stamp, peers);
                if stamp.saturating_sub(self.gate.cached()) >= slots {
                    return Err(PublishError::Full(Full {
                        shortage: Shortage::Slots,
                        stamp,
                        holder: self.gate.slowest(),
                    }));
                }
            }
            // I-FENCE: after the slot was found and before each swap, or a publisher that was stopped in between could
            // publish behind its own `departed` record.
            let word = sequencer.members().word(owner.id);
            if word.attach() != AttachState::Live || word.generation() != owner.generation {
                return Err(PublishError::Detached);
            }
            exact(stamp).map_err(PublishError::Refused)?;
            self.own.store(stamp_offset, stamp, Ordering::Relaxed);
            let word = SlotWord::new(stamp, sequencer.log2_slots(), owner.id, index, bucket);
            match sequencer.fill(found, word) {
                Ok(()) => return Ok(self.after(sequencer, stamp, bucket)),
                Err(_) => found = sequencer.find_from(stamp)?,
            }
        }
    }

    /// What a publisher does once its message is in the order: raise the hint now and then, and see who sleeps.
    #[inline]
    fn after(&mut self, sequencer: &Sequencer, stamp: u64, bucket: Bucket) -> Published {
        self.guess = stamp + 1;
        let mut laggards = false;
        if stamp % 8 == 7 {
            sequencer.raise_hint(stamp + 1);
            let lag = sequencer.eviction_lag();
            laggards =
                lag != 0 && stamp - self.gate.cached().min(stamp) > lag && stamp - self.scanned >= lag / 4;
        }
        // Four times a lap everyone is woken, so that those asleep for a rare group do not hold the gate.
        let quarter = stamp & (sequencer.slot_count() / 4).saturating_sub(1) == 0;
        let whom = if quarter { Bucket::MIXED } else { bucket };
        Published { stamp: Stamp(stamp), wake: sequencer.sleepers().any(whom).then_some(whom), laggards }
    }

    /// Looks at every cursor, `stamp` being filled by this lane; gives what was seen.
    pub fn scan(&mut self, sequencer: &Sequencer, stamp: u64, peers: &mut impl Peers) -> &Gate {
        self.scanned = stamp;
        self.gate.scan(sequencer, stamp, peers);
        &self.gate
    }

    /// Counts a publish that found no room.
    pub fn count_would_block(&self) {
        self.own.count(payload::WOULD_BLOCK, 1);
    }

    /// Loans that are not freed yet.
    pub fn held(&self) -> u64 {
        self.next - self.freed
    }

    /// Bytes of the payload ring that are not free.
    pub fn held_bytes(&self) -> u64 {
        self.head - self.tail
    }
}
