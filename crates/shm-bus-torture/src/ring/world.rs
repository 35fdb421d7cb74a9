//! A bus reduced to its ring: the order, the attachments' memories, a membership without a master.

use std::os::fd::AsFd;

use shm_bus_os::{Access, Mapping, Word};
use shm_bus_ring::layout::{payload, sequencer_bytes};
use shm_bus_ring::{
    AttachState, AttachmentId, Frame, Full, Geometry, Kind, Lane, LaneKind, Loan, MemberWord, Message,
    Ordering, Owner, Peers, Policy, PublishError, Published, Reader, ReaderState, Region, Sender, Senders,
    Sequencer, Sleeper, Stamp, View, Waker,
};

use super::message::{Event, Item, buckets, topic};
use super::mutant::{Mini, Mutation};
use crate::Outcome;
use crate::memory;
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

/// Somebody asleep on the futex; nobody here has an event loop.
struct Asleep<'a>(&'a View);

impl Sleeper for Asleep<'_> {
    fn page(&self) -> &View {
        self.0
    }

    fn signal(&self) {}
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
    pub waker: Waker,
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
    pub waiting: Vec<Seen>,
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
            waiting: Vec::new(),
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
                waker: Waker::default(),
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
                Item::new(topic)
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
            let prefix = item.prefix();
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
        self.sent(id, published)
    }

    pub fn sent(&mut self, id: usize, published: Result<Published, PublishError<()>>) -> Sent {
        match published {
            Ok(published) => {
                if let Some(bucket) = published.wake {
                    let World { members, pages, sequencer, .. } = self;
                    let find = |id: AttachmentId, _| pages.0.get(id.index()).map(|(view, _)| Asleep(view));
                    if members[id].waker.wake(sequencer, bucket, published.stamp.0 + 1, find) {
                        let _ = self.hint.wake(u32::MAX, bucket.futex_bits());
                    }
                }
                Sent::At(published.stamp.0)
            }
            Err(PublishError::Full(full)) => Sent::Full(full),
            Err(PublishError::Detached) => Sent::Detached,
            Err(_) => Sent::Broken,
        }
    }
}

/// A loan with what is said of it.
pub fn framed(loan: Loan, item: &Item, length: u64) -> (Loan, Kind, Message<'_>, u64) {
    let message = Message { destinations: &item.destinations, topic: item.topic, descriptors: 0, time: 0 };
    (loan, item.kind(), message, length)
}
