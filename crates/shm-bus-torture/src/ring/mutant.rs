//! A publisher written by hand after the protocol, and wrong ones: what the rig must find.

use std::collections::VecDeque;

use shm_bus_ring::layout::{header as at, payload, sequencer as order};
use shm_bus_ring::{
    AttachState, Bucket, Full, Gate, Geometry, Kind, Ordering, Owner, Region, Sequencer, Shortage, SlotWord,
    fence,
};

use super::message::Item;
use super::world::{Pages, SLOTS, Sent};

/// One deviation from the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// None: what is found with this one is the fault of the hand-written publisher.
    Faithful,
    /// The header gets its stamp after the slot was swapped.
    StampAfterSwap,
    /// The payload is written after the slot was swapped.
    PayloadAfterSwap,
    /// A slot is claimed by a ticket and filled later.
    Ticket,
    /// The slot is stored, not swapped.
    StoreInsteadOfSwap,
    /// The own member word is not looked at.
    NoMemberCheck,
    /// The watermark follows the overwriting stores.
    ReclaimedLate,
    /// A frame is freed that one reader has yet to read.
    FreedEarly,
}

impl Mutation {
    pub const ALL: [(&str, Mutation); 8] = [
        ("faithful", Mutation::Faithful),
        ("stamp-after-swap", Mutation::StampAfterSwap),
        ("payload-after-swap", Mutation::PayloadAfterSwap),
        ("ticket", Mutation::Ticket),
        ("store-instead-of-swap", Mutation::StoreInsteadOfSwap),
        ("no-member-check", Mutation::NoMemberCheck),
        ("reclaimed-late", Mutation::ReclaimedLate),
        ("freed-early", Mutation::FreedEarly),
    ];

    pub fn named(name: &str) -> Option<Mutation> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, m)| *m)
    }
}

/// Unused by the layout: where the tickets are counted.
const TICKETS: u64 = order::SLEEPERS - 128;

/// A data lane for one message an event.
pub struct Mini {
    own: Region,
    geometry: Geometry,
    mutation: Mutation,
    gate: Gate,
    next: u64,
    freed: u64,
    head: u64,
    tail: u64,
    /// Stamp and span of what is not freed.
    loans: VecDeque<(u64, u64)>,
}

impl Mini {
    pub fn new(own: Region, geometry: Geometry, mutation: Mutation) -> Self {
        Mini {
            own,
            geometry,
            mutation,
            gate: Gate::default(),
            next: 0,
            freed: 0,
            head: 0,
            tail: 0,
            loans: VecDeque::new(),
        }
    }

    fn store(&self, offset: u64, value: u64) {
        self.own.store(offset, value, Ordering::Release);
    }

    fn lacks(&self, span: u64) -> Option<Shortage> {
        if self.next - self.freed >= self.geometry.header_count() {
            Some(Shortage::Headers)
        } else if self.head + span - self.tail > self.geometry.ring_bytes() {
            Some(Shortage::Bytes)
        } else {
            None
        }
    }

    /// Frees what is passed; gives whether there is room now.
    fn make_room(&mut self, sequencer: &Sequencer, pages: &mut Pages, span: u64) -> Result<(), Sent> {
        let Some(shortage) = self.lacks(span) else {
            return Ok(());
        };
        let stamp = sequencer.find().map_err(|_| Sent::Broken)?.stamp;
        self.gate.scan(sequencer, stamp, pages);
        let early = u64::from(self.mutation == Mutation::FreedEarly);
        while let Some((stamp, span)) = self.loans.front().copied() {
            if stamp >= self.gate.cached() + early {
                break;
            }
            self.loans.pop_front();
            self.freed += 1;
            self.tail += span;
        }
        if self.mutation != Mutation::ReclaimedLate {
            self.store(payload::RECLAIMED, self.freed);
            fence(Ordering::Release);
        }
        match self.lacks(span) {
            None => Ok(()),
            Some(_) => Err(Sent::Full(Full { shortage, stamp, holder: self.gate.slowest() })),
        }
    }

    pub fn send(&mut self, sequencer: &Sequencer, pages: &mut Pages, owner: Owner, item: &Item) -> Sent {
        let length = item.bytes.len() as u64;
        let inline = length <= payload::INLINE_BYTES;
        let span = if inline { 0 } else { length.next_multiple_of(payload::ALIGNMENT) };
        if let Err(full) = self.make_room(sequencer, pages, span) {
            return full;
        }
        let index = self.next % self.geometry.header_count();
        let entry = payload::HEADERS + index * payload::ENTRY_BYTES;
        let offset = if inline { entry + at::BYTES } else { self.geometry.ring_offset(self.head) };
        let bucket = Bucket::of(item.destinations[0]);
        self.store(entry + at::STAMP, 0);
        fence(Ordering::Release);
        self.store(entry + at::SERIAL, self.next);
        self.store(entry + at::POSITION, self.head);
        let flags = if inline { u64::from(at::INLINE) } else { 0 };
        let shape = length | u64::from(bucket.0) << 40 | (Kind::Message as u64) << 48 | flags << 56;
        self.store(entry + at::SHAPE, shape);
        self.store(entry + at::DESTINATION, item.destinations[0].0);
        self.store(entry + at::TOPIC, item.topic);
        self.store(entry + at::BATCH, 1 | (span / payload::ALIGNMENT) << 32);
        if self.mutation != Mutation::PayloadAfterSwap {
            self.own.copy_in(offset, &item.bytes);
        }
        if self.mutation == Mutation::ReclaimedLate {
            self.store(payload::RECLAIMED, self.freed);
        }
        let sent = self.commit(sequencer, pages, owner, entry, index as u16, bucket);
        if let Sent::At(stamp) = sent {
            if self.mutation == Mutation::PayloadAfterSwap {
                self.own.copy_in(offset, &item.bytes);
            }
            self.loans.push_back((stamp, span));
            self.next += 1;
            self.head += span;
            if stamp % 8 == 7 {
                sequencer.raise_hint(stamp + 1);
            }
        }
        sent
    }

    fn commit(
        &mut self,
        sequencer: &Sequencer,
        pages: &mut Pages,
        owner: Owner,
        entry: u64,
        index: u16,
        bucket: Bucket,
    ) -> Sent {
        let region = sequencer.region();
        loop {
            let Ok(found) = sequencer.find() else {
                return Sent::Broken;
            };
            let mut stamp = found.stamp;
            let before = sequencer.slot(stamp);
            if stamp - self.gate.cached() >= SLOTS {
                self.gate.scan(sequencer, stamp, pages);
                if stamp - self.gate.cached() >= SLOTS {
                    return Sent::Full(Full {
                        shortage: Shortage::Slots,
                        stamp,
                        holder: self.gate.slowest(),
                    });
                }
            }
            if self.mutation == Mutation::Ticket {
                stamp = 1 + region.fetch_add(TICKETS, 1, Ordering::SeqCst);
            }
            let member = sequencer.members().word(owner.id);
            if self.mutation != Mutation::NoMemberCheck
                && (member.attach() != AttachState::Live || member.generation() != owner.generation)
            {
                return Sent::Detached;
            }
            if self.mutation != Mutation::StampAfterSwap {
                self.store(entry + at::STAMP, stamp);
            }
            let word = SlotWord::new(stamp, sequencer.log2_slots(), owner.id, index, bucket);
            let slot = order::SLOTS + (stamp & (SLOTS - 1)) * 8;
            let filled = if matches!(self.mutation, Mutation::Ticket | Mutation::StoreInsteadOfSwap) {
                region.store(slot, word.0, Ordering::SeqCst);
                true
            } else {
                // What was found may have been filled since: then it is no word of the lap before.
                before.laps_ahead(stamp, sequencer.log2_slots()) == -1
                    && region
                        .compare_exchange(slot, before.0, word.0, Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
            };
            if filled {
                if self.mutation == Mutation::StampAfterSwap {
                    self.store(entry + at::STAMP, stamp);
                }
                return Sent::At(stamp);
            }
        }
    }
}
