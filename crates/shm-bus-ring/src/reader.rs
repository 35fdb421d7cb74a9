//! Reading the order: one function that checks a slot and the frame it names, in one fixed sequence, each shared word
//! read once.

use core::fmt;

use crate::atomic::{Ordering, fence};
use crate::bucket::{Bucket, BucketSet};
use crate::geometry::Geometry;
use crate::header::{Header, Kind};
use crate::layout::{header as at, payload};
use crate::memory::View;
use crate::names::{AttachmentId, LaneKind, Stamp};
use crate::sequencer::Sequencer;
use crate::slot::SlotWord;

/// The most destinations of one transaction.
pub const MAX_DESTINATIONS: u64 = 256;

/// A sender's payload memory, as a reader has it mapped.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    /// Its memory.
    pub view: &'a View,
    /// Its geometry, checked when it was mapped.
    pub geometry: Geometry,
}

/// Who is attached as of a reader's position.
pub trait Senders {
    /// The memory of `id`, if an attach record at or below the reader's position gave it that id.
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>>;
}

/// A message's place: its stamp, and its index when it was published in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The slot.
    pub stamp: Stamp,
    /// Place in the batch, 0 for a single message.
    pub index: u16,
}

/// A frame that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it stands in the order.
    pub place: Place,
    /// Who sent it, authenticated by the MMU.
    pub sender: AttachmentId,
    /// Its header, copied.
    pub header: Header,
    /// Lane of its sender.
    pub lane: LaneKind,
    /// Offset of its payload in the sender's mapping.
    pub offset: u64,
}

/// A slot that no sender can have filled by the rules. It is skipped and reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// The sender id is not attached.
    UnknownSender(AttachmentId),
    /// There is no header with that index.
    Index(AttachmentId, u16),
    /// The header does not carry the stamp of the slot: the sender never put a frame there.
    Stamp(AttachmentId, u64),
    /// The header says something impossible.
    Header(AttachmentId),
}

impl Violation {
    /// The id that the slot names. For [`Violation::Stamp`] it is the victim, not the culprit.
    pub fn sender(self) -> AttachmentId {
        match self {
            Self::UnknownSender(id) | Self::Index(id, _) | Self::Stamp(id, _) | Self::Header(id) => id,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSender(id) => write!(f, "the slot names attachment {} which is not attached", id.0),
            Self::Index(id, index) => write!(f, "attachment {} has no header {index}", id.0),
            Self::Stamp(id, stamp) => write!(f, "the header of attachment {} carries stamp {stamp}", id.0),
            Self::Header(id) => write!(f, "attachment {} published an impossible header", id.0),
        }
    }
}

/// What a reader found at its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Empty,
    /// A frame that may concern this reader. The position has moved past it.
    Frame(Frame),
    /// A bad slot, skipped.
    Violation(Stamp, Violation),
    /// The order has moved on by at least a lap: the reader has lost its place.
    Overrun,
}

/// A position in the order.
#[derive(Clone, Debug)]
pub struct Reader {
    position: u64,
    buckets: BucketSet,
    /// The batch being read: its slot word, the next index and the count.
    batch: Option<(SlotWord, u16, u16)>,
}

impl Reader {
    /// A reader that starts at `position` and looks at frames of `buckets`.
    pub fn new(position: Stamp, buckets: BucketSet) -> Self {
        Reader { position: position.0, buckets: buckets.union(&BucketSet::control()), batch: None }
    }

    /// The oldest stamp not yet read to its end.
    #[inline(always)]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the next message is another one of a batch already begun.
    pub fn in_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// The buckets it looks at.
    pub fn buckets(&self) -> &BucketSet {
        &self.buckets
    }

    /// Looks at more buckets from here on.
    pub fn watch(&mut self, bucket: Bucket) {
        self.buckets.insert(bucket);
    }

    /// Continues at another stamp: after a gap.
    pub fn resume(&mut self, stamp: Stamp) {
        self.position = stamp.0;
        self.batch = None;
    }

    /// Whether something may be waiting at the position: the last look before sleep.
    #[inline]
    pub fn ready(&self, sequencer: &Sequencer) -> bool {
        self.batch.is_some() || sequencer.is_filled(self.position)
    }

    /// Moves over frames that cannot concern this reader, at most `limit` of them, without touching their senders'
    /// memory. Gives how many.
    #[inline]
    pub fn skip(&mut self, sequencer: &Sequencer, limit: u64) -> u64 {
        if self.batch.is_some() {
            return 0;
        }
        let start = self.position;
        while self.position - start < limit {
            let word = sequencer.slot(self.position);
            if word.laps_ahead(self.position, sequencer.log2_slots()) != 0
                || self.buckets.contains(word.bucket())
            {
                break;
            }
            self.position += 1;
        }
        self.position - start
    }

    /// The next frame that may concern this reader. Moves over those that cannot, however many: [`Reader::skip`] does so
    /// in bounded steps.
    #[inline]
    pub fn next(&mut self, sequencer: &Sequencer, senders: &mut impl Senders) -> Step {
        let (word, index) = match self.batch {
            Some((word, index, _)) => (word, index),
            None => loop {
                let word = sequencer.slot(self.position);
                match word.laps_ahead(self.position, sequencer.log2_slots()) {
                    // Its sender holds no frame for readers whose set has not its bucket: never touch it.
                    0 if !self.buckets.contains(word.bucket()) => self.position += 1,
                    0 => break (word, 0),
                    laps if laps < 0 => return Step::Empty,
                    _ => return Step::Overrun,
                }
            },
        };
        let stamp = Stamp(self.position);
        match check(stamp, word, index, senders) {
            Ok(frame) => {
                let count = self.batch.map_or(frame.header.batch_count, |(_, _, count)| count);
                if index + 1 < count {
                    self.batch = Some((word, index + 1, count));
                } else {
                    self.pass();
                }
                Step::Frame(frame)
            }
            // The slot was refilled while its frame was read: not a forgery, the place is lost.
            Err(_) if sequencer.slot(self.position) != word => Step::Overrun,
            Err(violation) => {
                self.pass();
                Step::Violation(stamp, violation)
            }
        }
    }

    fn pass(&mut self) {
        self.batch = None;
        self.position += 1;
    }
}

/// The one place where a foreign frame is judged. In this order: the sender is attached, the header exists, its stamp
/// (before and after the copy) is the slot's, its shape is possible, its payload lies inside its sender's ring.
#[inline]
fn check(
    stamp: Stamp,
    word: SlotWord,
    batch_index: u16,
    senders: &mut impl Senders,
) -> Result<Frame, Violation> {
    let id = word.sender();
    let Sender { view, geometry } = senders.sender(id).ok_or(Violation::UnknownSender(id))?;
    let first = geometry.entry(word.index()).ok_or(Violation::Index(id, word.index()))?;
    let lane = geometry.lane_of(word.index());
    let (base, count) = geometry.lane(lane);
    // Headers of a batch follow one another and wrap inside their lane.
    let nth = base + ((u64::from(word.index()) - base + u64::from(batch_index)) & (count - 1));
    let entry = if batch_index == 0 { first } else { payload::HEADERS + nth * payload::ENTRY_BYTES };
    let before = view.load(first + at::STAMP, Ordering::Acquire);
    if before != stamp.0 {
        return Err(Violation::Stamp(id, before));
    }
    let header = Header::load(&view.entry(entry));
    fence(Ordering::Acquire);
    // Acquire: a reader that finds its frame gone finds in its member word that it was evicted (SYNC evict).
    let after = view.load(first + at::STAMP, Ordering::Acquire);
    if after != stamp.0 {
        return Err(Violation::Stamp(id, after));
    }
    let header = header.ok_or(Violation::Header(id))?;
    let length = u64::from(header.length);
    let possible = match (lane, header.kind) {
        (LaneKind::Control, Kind::Control) => length <= payload::CELL_BYTES,
        (LaneKind::Data, Kind::Message) => true,
        (LaneKind::Data, Kind::Transaction) => {
            (1..=MAX_DESTINATIONS.min(length / 8)).contains(&header.destination)
        }
        _ => false,
    };
    let inline = header.flags & at::INLINE != 0;
    let fits = if inline { length <= payload::INLINE_BYTES } else { length <= geometry.max_frame() };
    let place =
        header.batch_index == batch_index && (batch_index > 0 || u64::from(header.batch_count) <= count);
    if !possible || !fits || !place {
        return Err(Violation::Header(id));
    }
    let offset = match lane {
        LaneKind::Control => geometry.cell(nth - base),
        LaneKind::Data if inline => entry + at::BYTES,
        LaneKind::Data => geometry.ring_offset(header.position),
    };
    Ok(Frame { place: Place { stamp, index: batch_index }, sender: id, header, lane, offset })
}

/// Whether a frame that was just read had not been overwritten: its loan is not below the sender's `reclaimed`.
/// To be asked after the bytes were read. A reader that counts and was not evicted always gets `true`.
#[inline]
pub fn intact(view: &View, lane: LaneKind, serial: u64) -> bool {
    // SYNC reclaim: the bytes before the watermark.
    fence(Ordering::Acquire);
    serial >= view.load(lane.reclaimed_offset(), Ordering::Relaxed)
}

/// Maps of everyone's memory for tests of the algorithms in one process.
#[cfg(any(test, loom))]
impl Senders for alloc::collections::BTreeMap<u16, (View, Geometry)> {
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>> {
        self.get(&id.0).map(|(view, geometry)| Sender { view, geometry: *geometry })
    }
}
