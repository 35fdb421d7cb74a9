//! A bus small enough to try its interleavings: a ring of two to eight slots and one or two headers a sender.
//!
//! loom finds the places where another thread should have come first by the last access to each object alone. A thread
//! that loads a word and then swaps it hides in this way what another did before the load, and whole schedules are never
//! tried. So every access to a word that several threads use is preceded by a [`clock::Clock::tick`]: an access to one object
//! that all ticks depend on, and that orders nothing in the memory model.
#![allow(dead_code)]

mod clock;
pub mod kernel;

use clock::Clock;
use shm_bus_ring::layout::{header, payload, sequencer};
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Geometry, Kind, Lane, LaneKind, MemberWord,
    Message, Ordering, Owner, Peers, Policy, PublishError, Published, ReaderState, Region, Sender, Senders,
    Sequencer, SlotWord, View,
};

pub const GENERATION: u32 = 1;

#[derive(Clone)]
pub struct Pages(pub Vec<(View, Geometry)>);

impl Peers for Pages {
    fn page(&mut self, id: AttachmentId, _generation: u32) -> Option<View> {
        self.0.get(id.index()).map(|(view, _)| view.clone())
    }
}

impl Senders for Pages {
    fn sender(&mut self, id: AttachmentId) -> Option<Sender<'_>> {
        self.0.get(id.index()).map(|(view, geometry)| Sender { view, geometry: *geometry })
    }
}

#[derive(Clone)]
pub struct Bus {
    pub sequencer: Sequencer,
    pub own: Vec<Region>,
    pub pages: Pages,
    pub geometry: Geometry,
}

pub fn group() -> Address {
    Address::group(1)
}

/// A group whose frames do not concern the readers of [`group`].
pub fn other_group() -> Address {
    Address::group(2)
}

pub fn bucket() -> Bucket {
    Bucket::of(group())
}

pub fn set() -> BucketSet {
    let mut set = BucketSet::control();
    set.insert(bucket());
    set
}

pub fn live(reader: ReaderState) -> MemberWord {
    MemberWord::new(GENERATION, AttachState::Live, reader, Policy::Block, 0)
}

pub fn owner(id: u16) -> Owner {
    Owner { id: AttachmentId(id), generation: GENERATION }
}

pub fn slot_offset(sequencer: &Sequencer, stamp: u64) -> u64 {
    sequencer::SLOTS + 8 * (stamp % sequencer.slot_count())
}

impl Bus {
    /// `readers[id]` is the reader state and the floor of attachment `id`; its cursor is its floor.
    pub fn new(log2_slots: u32, headers: u64, readers: &[(ReaderState, u64)]) -> Bus {
        Bus::with(log2_slots, headers, readers, |_| false)
    }

    /// A bus in which a frame is overwritten while others look at it: its stamp and its bytes count as shared words.
    pub fn with_frames_reused(log2_slots: u32, readers: &[(ReaderState, u64)]) -> Bus {
        Bus::with_headers_reused(log2_slots, 1, readers)
    }

    /// The same with several headers.
    pub fn with_headers_reused(log2_slots: u32, headers: u64, readers: &[(ReaderState, u64)]) -> Bus {
        Bus::with(log2_slots, headers, readers, |offset| {
            let frame = matches!(offset % payload::ENTRY_BYTES, header::STAMP | header::BYTES);
            frame && offset >= payload::HEADERS
        })
    }

    /// `shared` says which words behind the page of a payload memory others read while they change.
    fn with(
        log2_slots: u32,
        headers: u64,
        readers: &[(ReaderState, u64)],
        shared: impl Fn(u64) -> bool + Clone + Send + Sync + 'static,
    ) -> Bus {
        let geometry = Geometry::tiny(headers, 64);
        let clock = Clock::new();
        let ticks = |shared: Box<dyn Fn(u64) -> bool + Send + Sync>| {
            let clock = clock.clone();
            std::sync::Arc::new(move |offset| {
                if shared(offset) {
                    clock.tick();
                }
            })
        };
        let own: Vec<Region> = readers
            .iter()
            .map(|(_, floor)| {
                let words = payload_words(&geometry, *floor);
                let shared = shared.clone();
                let read = move |at| (payload::CURSOR..payload::PUBLISHED).contains(&at) || shared(at);
                Region::sparse(1 << 30, words, ticks(Box::new(read)))
            })
            .collect();
        // Words that never change in a model need no tick.
        let members = sequencer::MEMBERS..sequencer::SLOTS;
        let changes = move |offset: u64| {
            offset != sequencer::HIGH && (!members.contains(&offset) || offset % sequencer::MEMBER_BYTES < 16)
        };
        let words = sequencer_words(log2_slots, readers);
        Bus {
            sequencer: Sequencer::model(Region::sparse(1 << 30, words, ticks(Box::new(changes))), log2_slots),
            pages: Pages(own.iter().map(|own| (own.view(), geometry)).collect()),
            own,
            geometry,
        }
    }

    pub fn lane(&self, id: u16, kind: LaneKind) -> Lane {
        Lane::new(self.own[usize::from(id)].clone(), self.geometry, kind)
    }

    pub fn set_reader_state(&self, id: u16, state: ReaderState) {
        let members = self.sequencer.members();
        let word = members.word(AttachmentId(id));
        members.exchange(AttachmentId(id), word, word.with_reader(state)).unwrap();
    }

    pub fn store_cursor(&self, id: u16, cursor: u64) {
        self.own[usize::from(id)].store(payload::CURSOR, cursor, Ordering::Release);
    }

    /// Publishes eight bytes to the group, or a control record without any.
    pub fn publish(
        &self,
        lane: &mut Lane,
        id: u16,
        kind: Kind,
        body: u64,
    ) -> Result<Published, PublishError<()>> {
        self.publish_if(lane, id, kind, body, |_| Ok(()))
    }

    pub fn publish_if(
        &self,
        lane: &mut Lane,
        id: u16,
        kind: Kind,
        body: u64,
        exact: impl FnMut(u64) -> Result<(), ()>,
    ) -> Result<Published, PublishError<()>> {
        self.send(lane, owner(id), kind, body, exact)
    }

    /// A message by an owner of any generation.
    pub fn publish_as(
        &self,
        lane: &mut Lane,
        owner: Owner,
        body: u64,
    ) -> Result<Published, PublishError<()>> {
        self.send(lane, owner, Kind::Message, body, |_| Ok(()))
    }

    fn send(
        &self,
        lane: &mut Lane,
        owner: Owner,
        kind: Kind,
        body: u64,
        exact: impl FnMut(u64) -> Result<(), ()>,
    ) -> Result<Published, PublishError<()>> {
        let mut peers = self.pages.clone();
        let length = if kind == Kind::Control { 0 } else { 8 };
        let loan = lane.loan(&self.sequencer, &mut peers, length)?;
        if length > 0 {
            lane.write(&loan, 0, &body.to_le_bytes());
        }
        let message = Message { destinations: &[group()], topic: body, descriptors: 0, time: 0 };
        let frames = [(loan, kind, message, length)];
        let result = lane.publish(&self.sequencer, &mut peers, owner, &frames, exact);
        if result.is_err() {
            let [(loan, ..)] = frames;
            lane.abandon(loan);
        }
        result
    }

    /// What a rule-breaking publisher of these tests does last: swap a word into the slot of `stamp`.
    pub fn swap(&self, id: u16, stamp: u64, old: SlotWord, order: Ordering) -> bool {
        let word = SlotWord::new(stamp, self.sequencer.log2_slots(), AttachmentId(id), 0, bucket());
        let offset = slot_offset(&self.sequencer, stamp);
        self.sequencer.region().compare_exchange(offset, old.0, word.0, order, Ordering::Relaxed).is_ok()
    }
}

/// Memory of its own, all of whose words are shared.
pub fn memory(words: Vec<(u64, u64)>) -> Region {
    let clock = Clock::new();
    Region::sparse(1 << 30, words, std::sync::Arc::new(move |_| clock.tick()))
}

fn sequencer_words(log2_slots: u32, readers: &[(ReaderState, u64)]) -> Vec<(u64, u64)> {
    let mut words = vec![
        (sequencer::HINT, 1),
        (sequencer::TERM, 0),
        (sequencer::CONTROL, 0),
        (sequencer::HIGH, readers.len() as u64),
        (sequencer::SPACE, 0),
        (sequencer::SPACE_WAITERS, 0),
        (sequencer::POLLERS, 0),
    ];
    for row in [0, u64::from(bucket().0), u64::from(Bucket::of(other_group()).0), 255] {
        words.push((sequencer::SLEEPERS + row * sequencer::SLEEPER_ROW, 0));
    }
    for (id, (state, floor)) in readers.iter().enumerate() {
        let entry = sequencer::MEMBERS + id as u64 * sequencer::MEMBER_BYTES;
        words.push((entry + sequencer::MEMBER_WORD, live(*state).0));
        words.push((entry + sequencer::MEMBER_FLOOR, *floor));
        words.push((entry + sequencer::MEMBER_DEADLINE, 0));
        words.push((entry + sequencer::MEMBER_MAX_LAG, 0));
        words.push((entry + sequencer::MEMBER_ADDRESS, 0));
    }
    let genesis = SlotWord::new(0, log2_slots, AttachmentId(0), 0, Bucket::CONTROL);
    for slot in 0..1u64 << log2_slots {
        let word = if slot == 0 { genesis.0 } else { 0 };
        words.push((sequencer::SLOTS + 8 * slot, word));
    }
    words
}

fn payload_words(geometry: &Geometry, cursor: u64) -> Vec<(u64, u64)> {
    let mut words = vec![
        (payload::CURSOR, cursor),
        (payload::SLEEP_EPOCH, 0),
        (payload::RECLAIMED, 0),
        (payload::RECLAIMED_CONTROL, 0),
        (payload::PUBLISHED, 0),
        (payload::PUBLISHED_BYTES, 0),
    ];
    for (i, word) in set().0.into_iter().enumerate() {
        words.push((payload::BUCKETS + 8 * i as u64, word));
    }
    // Of the control lane two entries are enough.
    for index in 0..geometry.header_count() + 2 {
        let entry = payload::HEADERS + index * payload::ENTRY_BYTES;
        for word in 0..(header::BYTES + 8) / 8 {
            words.push((entry + 8 * word, 0));
        }
    }
    words
}

/// A model with at most `preemptions` forced switches in a schedule; `None` for any number.
pub fn model(preemptions: Option<usize>, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 100_000;
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = count.clone();
    let start = std::time::Instant::now();
    builder.check(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        body();
    });
    let schedules = count.load(std::sync::atomic::Ordering::Relaxed);
    std::println!("{schedules} schedules, bound {preemptions:?}, {:?}", start.elapsed());
}
