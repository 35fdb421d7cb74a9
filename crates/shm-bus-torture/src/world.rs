//! A bus reduced to its ring: the order, the attachments' memories, a membership without a master.

use std::os::fd::AsFd;

use shm_bus_os::{Access, Mapping, Word};
use shm_bus_ring::layout::{payload, sequencer_bytes};
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Frame, Full, Geometry, Kind, Lane, LaneKind,
    MemberWord, Message, Ordering, Owner, Peers, Policy, PublishError, Reader, ReaderState, Region, Sender,
    Senders, Sequencer, Stamp, Step, View, intact,
};

use crate::Outcome;
use crate::memory;
use crate::mini::{Mini, Mutation};
use crate::report::{Ended, Report, Seen};

const LOG2_SLOTS: u32 = 6;
/// Slots of the order.
pub const SLOTS: u64 = 1 << LOG2_SLOTS;
const HEADERS: u64 = 64;
const RING: u64 = 1 << 16;
const GENERATION: u32 = 1;

/// The processes that are stepped.
pub const VICTIM: usize = 0;
pub const SECOND: usize = 1;
/// The publisher and the readers that live.
pub const PUBLISHER: usize = 2;
pub const READERS: [usize; 2] = [3, 4];
/// A reader that some cases put in.
pub const SLOW: usize = 5;
const MEMBERS: usize = 6;

/// Where everything goes, and a second destination for transactions.
pub fn group() -> Address {
    Address::group(1)
}

pub fn other_group() -> Address {
    Address::group(2)
}

fn buckets() -> BucketSet {
    let mut set = BucketSet::control();
    set.insert(Bucket::of(group()));
    set.insert(Bucket::of(other_group()));
    set
}

/// `id 8 | length 24 | number 32`: from it follows what a message must hold.
pub fn topic(id: usize, length: u64, number: u64) -> u64 {
    (id as u64) << 56 | length << 32 | number
}

pub fn sender_of(topic: u64) -> usize {
    (topic >> 56) as usize
}

/// Bytes that no other topic gives.
pub fn body(topic: u64) -> Vec<u8> {
    let mut state = topic.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..topic >> 32 & 0xFF_FFFF)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Everyone's payload memory, mapped for reading.
#[derive(Clone, Default)]
pub struct Pages(pub Vec<(View, Geometry)>);

impl Peers for Pages {
    fn page(&mut self, id: AttachmentId, generation: u32) -> Option<View> {
        let (view, _) = self.0.get(id.index())?;
        (generation == GENERATION).then(|| view.clone())
    }
}

impl Senders for Pages {
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>> {
        self.0.get(id.index()).map(|(view, geometry)| Sender { view, geometry: *geometry })
    }
}

/// A message to be published, its bytes ready.
pub struct Item {
    pub topic: u64,
    pub destinations: Vec<Address>,
    pub bytes: Vec<u8>,
}

/// What becomes one slot.
pub struct Event(pub Vec<Item>);

impl Event {
    pub fn topics(&self) -> Vec<u64> {
        self.0.iter().map(|item| item.topic).collect()
    }
}

/// How a publish ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    At(u64),
    Full(Full),
    Detached,
    Broken,
}

impl Sent {
    pub fn ended(self) -> Ended {
        match self {
            Sent::At(stamp) => Ended::Published(stamp),
            Sent::Full(_) => Ended::Full,
            Sent::Detached => Ended::Detached,
            Sent::Broken => Ended::Broken,
        }
    }
}

pub struct Attachment {
    pub own: Region,
    pub lane: Lane,
    /// Publishes in the place of the lane, if it is there.
    pub mini: Option<Mini>,
    pub reader: Reader,
    pub seen: Vec<Seen>,
    numbers: u64,
}

pub struct World {
    pub sequencer: Sequencer,
    pub hint: Word,
    pub space: Word,
    pub pages: Pages,
    pub members: Vec<Attachment>,
    pub report: Report,
    /// Frames of the victim that somebody who lost its place still looks at.
    pub leases: Vec<Frame>,
    /// The first stamp after the preparation.
    pub start: u64,
    /// What stands in front of a stepped reader.
    pub polled: Vec<Seen>,
    memories: Vec<(Region, u64)>,
    template: Vec<Vec<u8>>,
}

pub fn owner(id: usize) -> Owner {
    Owner { id: AttachmentId(id as u16), generation: GENERATION }
}

fn text<T, E: ToString>(result: Result<T, E>) -> Outcome<T> {
    result.map_err(|e| e.to_string())
}

impl World {
    /// A world whose next free slot is `start`, at least 130. The victim's next loans come to the end of its headers and
    /// of its payload ring.
    pub fn new(start: u64, mutation: Option<Mutation>) -> Outcome<World> {
        let geometry = text(Geometry::new(HEADERS, RING))?;
        let bytes = sequencer_bytes(LOG2_SLOTS);
        let order = memory::shared(bytes)?;
        let region = text(order.region())?;
        let sequencer = text(Sequencer::create(region.clone(), LOG2_SLOTS, 7))?;
        let mut world = World {
            hint: text(Word::new(order.clone(), sequencer.hint_futex_offset() as usize))?,
            space: text(Word::new(order, sequencer.space_futex_offset() as usize))?,
            sequencer,
            pages: Pages::default(),
            members: Vec::new(),
            report: Report::new()?,
            leases: Vec::new(),
            start,
            polled: Vec::new(),
            memories: vec![(region, bytes)],
            template: Vec::new(),
        };
        for id in 0..MEMBERS {
            let fd = memory::file(geometry.memfd_bytes())?;
            let (head, ring) = (geometry.head_bytes() as usize, RING as usize);
            let own = text(Mapping::mirrored(fd.as_fd(), head, ring, Access::ReadWrite))?;
            let own = text(memory::inherited(own)?.region())?;
            let seen =
                std::sync::Arc::new(text(Mapping::mirrored(fd.as_fd(), head, ring, Access::ReadOnly))?);
            geometry.store(&own);
            for (i, word) in buckets().0.into_iter().enumerate() {
                own.store(payload::BUCKETS + 8 * i as u64, word, Ordering::SeqCst);
            }
            world.pages.0.push((seen.view(), geometry));
            world.memories.push((own.clone(), geometry.memfd_bytes()));
            world.members.push(Attachment {
                lane: Lane::new(own.clone(), geometry, LaneKind::Data),
                mini: mutation
                    .filter(|_| matches!(id, VICTIM | SECOND | PUBLISHER))
                    .map(|m| Mini::new(own.clone(), geometry, m)),
                own,
                reader: Reader::new(Stamp(1), buckets()),
                seen: Vec::new(),
                numbers: 0,
            });
            let live = MemberWord::new(GENERATION, AttachState::Live, ReaderState::None, Policy::Block, 0);
            let me = AttachmentId(id as u16);
            let members = world.sequencer.members();
            members.exchange(me, MemberWord(0), live).map_err(|_| "a fresh memory")?;
            members.cover(me);
        }
        for id in READERS {
            world.count_reader(id);
        }
        world.prepare(start)?;
        Ok(world)
    }

    fn prepare(&mut self, start: u64) -> Outcome<()> {
        let total = start - 1;
        let (mut first, mut second) = (62, 20);
        for i in 0..total {
            let (id, length) = match i % 2 {
                0 if first > 0 => {
                    first -= 1;
                    // Fifteen of them take 62400 of the 65536 bytes of the ring.
                    (VICTIM, if first % 4 == 0 && first < 60 { 4100 } else { 40 })
                }
                _ if second > 0 => {
                    second -= 1;
                    (SECOND, 60)
                }
                _ if i % 5 == 0 => (PUBLISHER, 900),
                _ => (PUBLISHER, 24),
            };
            let event = self.event(id, &[length]);
            match self.send(id, &event) {
                Sent::At(stamp) if stamp == i + 1 => {}
                other => return Err(format!("preparing message {i}: {other:?}")),
            }
            if i % 8 == 7 || i + 1 == total {
                self.follow()?;
            }
        }
        for id in READERS {
            self.members[id].seen.clear();
        }
        Ok(())
    }

    /// Remembers the memories as they are.
    pub fn keep(&mut self) {
        self.template = self
            .memories
            .iter()
            .map(|(region, bytes)| {
                let mut copy = vec![0; *bytes as usize];
                region.copy_out(0, &mut copy);
                copy
            })
            .collect();
    }

    /// Brings them back to that.
    pub fn restore(&self) {
        for ((region, _), bytes) in self.memories.iter().zip(&self.template) {
            region.copy_in(0, bytes);
        }
        self.report.clear();
    }

    /// An event of `id`: one message for each length, to the group.
    pub fn event(&mut self, id: usize, lengths: &[u64]) -> Event {
        let items = lengths
            .iter()
            .map(|length| {
                self.members[id].numbers += 1;
                let topic = topic(id, *length, self.members[id].numbers);
                Item { topic, destinations: vec![group()], bytes: body(topic) }
            })
            .collect();
        Event(items)
    }

    /// What `work` gives, with the numbers of `id` as they were before.
    pub fn rehearse<T>(&mut self, id: usize, work: impl FnOnce(&mut World) -> T) -> T {
        let before = self.members[id].numbers;
        let given = work(self);
        self.members[id].numbers = before;
        given
    }

    /// Takes back that `id` has a last event.
    pub fn withdraw(&mut self, id: usize) {
        self.members[id].numbers -= 1;
    }

    /// The number of the last message of `id`.
    pub fn number(&self, id: usize) -> u64 {
        self.members[id].numbers
    }

    /// Loan, write, publish, wake: as the bus does it.
    pub fn send(&mut self, id: usize, event: &Event) -> Sent {
        if let Some(mini) = &mut self.members[id].mini {
            return mini.send(&self.sequencer, &mut self.pages, owner(id), &event.0[0]);
        }
        let lane = &mut self.members[id].lane;
        let (sequencer, pages) = (&self.sequencer, &mut self.pages);
        let mut frames = Vec::with_capacity(event.0.len());
        let mut failed = None;
        for item in &event.0 {
            let prefix = prefix(item);
            let length = prefix + item.bytes.len() as u64;
            match lane.loan::<()>(sequencer, pages, length) {
                Ok(loan) => {
                    for (i, destination) in item.destinations.iter().enumerate().take((prefix / 8) as usize) {
                        lane.write(&loan, 8 * i as u64, &destination.0.to_le_bytes());
                    }
                    lane.write(&loan, prefix, &item.bytes);
                    frames.push(framed(loan, item, length));
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let published = match failed {
            Some(error) => Err(error),
            None => lane.publish::<()>(sequencer, pages, owner(id), &frames, |_| Ok(())),
        };
        if published.is_err() {
            for (loan, ..) in frames.into_iter().rev() {
                lane.abandon(loan);
            }
        }
        self.sent(published)
    }

    pub fn sent(&self, published: Result<shm_bus_ring::Published, PublishError<()>>) -> Sent {
        match published {
            Ok(published) => {
                if let Some(bucket) = published.wake {
                    self.sequencer.raise_hint(published.stamp.0 + 1);
                    let _ = self.hint.wake(u32::MAX, bucket.futex_bits());
                }
                Sent::At(published.stamp.0)
            }
            Err(PublishError::Full(full)) => Sent::Full(full),
            Err(PublishError::Detached) => Sent::Detached,
            Err(_) => Sent::Broken,
        }
    }

    /// Lets `id` count as a reader from here on.
    pub fn count_reader(&mut self, id: usize) {
        let me = AttachmentId(id as u16);
        let tail = self.sequencer.find().map_or(1, |f| f.stamp);
        self.members[id].own.store(payload::CURSOR, tail, Ordering::SeqCst);
        self.members[id].reader = Reader::new(Stamp(tail), buckets());
        let members = self.sequencer.members();
        members.set_reader(me, tail, 100, 0);
        let word = members.word(me);
        let _ = members.exchange(me, word, word.with_reader(ReaderState::Live));
    }

    /// Stores the cursor and lets those go on who wait for room.
    pub fn store_cursor(&self, id: usize) {
        let (own, position) = (&self.members[id].own, self.members[id].reader.position());
        if self.sequencer.store_cursor(own, position) {
            self.sequencer.release_space();
            let _ = self.space.wake(u32::MAX, u32::MAX);
        }
    }

    /// The next frame for a reader, its bytes copied; `Err` if there is none, with the reason.
    pub fn read(&mut self, id: usize) -> Result<(Frame, Vec<u8>), Step> {
        match self.members[id].reader.next(&self.sequencer, &mut self.pages) {
            Step::Frame(frame) => {
                let mut bytes = vec![0; frame.header.length as usize];
                self.pages.0[frame.sender.index()].0.copy_out(frame.offset, &mut bytes);
                Ok((frame, bytes))
            }
            step => Err(step),
        }
    }

    /// Whether a frame that was copied had not been overwritten.
    pub fn intact(&self, frame: &Frame) -> bool {
        intact(&self.pages.0[frame.sender.index()].0, frame.lane, frame.header.serial)
    }

    /// Reads everything there is with one of those who live: nothing of it may be anything but whole.
    pub fn take(&mut self, id: usize) -> Outcome<()> {
        loop {
            let position = self.members[id].reader.position();
            match self.read(id) {
                Ok((frame, bytes)) => {
                    if frame.place.stamp.0 != position {
                        return Err(format!("reader {id} went from {position} to {:?}", frame.place));
                    }
                    check(&frame, &bytes)?;
                    if !self.intact(&frame) {
                        return Err(format!(
                            "reader {id} counts and was not evicted: {:?} was overwritten",
                            frame.place
                        ));
                    }
                    if frame.sender.index() == VICTIM && frame.place.stamp.0 < self.start {
                        self.leases.push(frame);
                    }
                    self.members[id].seen.push(seen(&frame));
                }
                Err(Step::Empty) => break,
                Err(step) => return Err(format!("reader {id} at {position}: {step:?}")),
            }
        }
        self.store_cursor(id);
        Ok(())
    }

    /// Those who live read everything there is.
    pub fn follow(&mut self) -> Outcome<()> {
        READERS.into_iter().try_for_each(|id| self.take(id))
    }

    /// Evicts a reader, word first. `false` if somebody else did, or it is none any more.
    pub fn evict(&self, id: AttachmentId) -> bool {
        let members = self.sequencer.members();
        let word = members.word(id);
        if word.reader() != ReaderState::Live {
            return false;
        }
        let evicted = word.with_reader(ReaderState::Evicted).with_eviction();
        let done = members.exchange(id, word, evicted).is_ok();
        if done {
            self.sequencer.release_space();
            let _ = self.space.wake(u32::MAX, u32::MAX);
        }
        done
    }

    /// What the master does for one that is gone.
    pub fn bury(&self, id: usize) {
        let me = AttachmentId(id as u16);
        let members = self.sequencer.members();
        loop {
            let word = members.word(me);
            let gone = word.with_attach(AttachState::Departed).with_reader(ReaderState::None);
            if members.exchange(me, word, gone).is_ok() {
                break;
            }
        }
        self.sequencer.sleepers().forget(me);
        self.sequencer.release_space();
        let _ = self.space.wake(u32::MAX, u32::MAX);
        self.sequencer.raise_hint(self.sequencer.find().map_or(0, |f| f.stamp));
        let _ = self.hint.wake(u32::MAX, u32::MAX);
    }

    /// The one who lives publishes `count` messages, and those who live read them. Nothing but `evictable` may hold them
    /// up, and it loses its place.
    pub fn go_on(&mut self, count: u64, evictable: Option<usize>) -> Outcome<()> {
        for n in 0..count {
            let event = self.event(PUBLISHER, &[if n % 5 == 4 { 1000 } else { 24 }]);
            loop {
                match self.send(PUBLISHER, &event) {
                    Sent::At(_) => break,
                    Sent::Full(full) => match full.holder {
                        Some((id, _)) if READERS.contains(&id.index()) => self.follow()?,
                        Some((id, _)) if Some(id.index()) == evictable => {
                            self.evict(id);
                        }
                        holder => return Err(format!("the publisher is held up by {holder:?}")),
                    },
                    other => return Err(format!("the publisher: {other:?}")),
                }
            }
            if n % 4 == 3 {
                self.follow()?;
            }
        }
        self.follow()
    }

    /// Nobody who lost its place takes bytes for whole that are not.
    pub fn check_leases(&self) -> Outcome<()> {
        for frame in &self.leases {
            let mut bytes = vec![0; frame.header.length as usize];
            self.pages.0[frame.sender.index()].0.copy_out(frame.offset, &mut bytes);
            if self.intact(frame) {
                check(frame, &bytes)
                    .map_err(|why| format!("a lease held too long passes for whole: {why}"))?;
            }
        }
        Ok(())
    }
}

fn prefix(item: &Item) -> u64 {
    match item.destinations.len() {
        1 => 0,
        n => 8 * n as u64,
    }
}

/// A loan with what is said of it.
pub fn framed(
    loan: shm_bus_ring::Loan,
    item: &Item,
    length: u64,
) -> (shm_bus_ring::Loan, Kind, Message<'_>, u64) {
    let kind = match item.destinations.len() {
        1 => Kind::Message,
        _ => Kind::Transaction,
    };
    let message = Message { destinations: &item.destinations, topic: item.topic, descriptors: 0, time: 0 };
    (loan, kind, message, length)
}

pub fn seen(frame: &Frame) -> Seen {
    Seen { stamp: frame.place.stamp.0, index: u64::from(frame.place.index), topic: frame.header.topic }
}

/// Whether a frame is what its topic says.
pub fn check(frame: &Frame, bytes: &[u8]) -> Outcome<()> {
    let topic = frame.header.topic;
    let prefix = match frame.header.kind {
        Kind::Transaction => 8 * frame.header.destination as usize,
        _ => 0,
    };
    let destinations: Vec<u8> = [group(), other_group()].iter().flat_map(|d| d.0.to_le_bytes()).collect();
    if sender_of(topic) != frame.sender.index()
        || bytes.get(..prefix) != destinations.get(..prefix)
        || bytes[prefix..] != body(topic)
    {
        return Err(format!("torn: {frame:?}"));
    }
    Ok(())
}
