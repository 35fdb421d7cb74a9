//! The paths of a message through the core, in one process on ordinary memory: what they cost in instructions, and what
//! Criterion times. Nothing here makes a system call, so a simulator counts the same each time.

use std::hint::black_box;

use shm_bus_ring::layout::{payload, sequencer_bytes};
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Geometry, Kind, Lane, LaneKind, Loan, MemberWord,
    Message, Ordering, Owner, Peers, Policy, Reader, ReaderState, Region, Sender, Senders, Sequencer, Stamp,
    Step, View,
};

const LOG2_SLOTS: u32 = 12;
const GENERATION: u32 = 1;
const PUBLISHER: AttachmentId = AttachmentId(0);
/// Messages of a batch.
pub const BATCH: usize = 32;
/// Messages between two looks of the reader.
pub const TURN: u64 = 256;

/// Everyone's memory by id, as each of them has it mapped.
struct Pages(Vec<(View, Geometry)>);

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

/// One publisher and one counting reader.
pub struct World {
    sequencer: Sequencer,
    pages: Pages,
    lane: Lane,
    reader: Reader,
    readers_page: Region,
    to: Address,
    /// Messages published and not read yet.
    ahead: u64,
}

impl World {
    /// `wanted`: whether what is published is for the reader.
    pub fn new(wanted: bool) -> World {
        let geometry = Geometry::new(1 << 10, 1 << 16).expect("powers of two in range");
        let memory = Region::zeroed(sequencer_bytes(LOG2_SLOTS));
        let sequencer = Sequencer::create(memory, LOG2_SLOTS, 1).expect("the size is right");
        let own: Vec<Region> = (0..2)
            .map(|id| {
                let region = Region::zeroed(geometry.mapped_bytes());
                geometry.store(&region);
                let reader = if id == 0 { ReaderState::None } else { ReaderState::Live };
                let word = MemberWord::new(GENERATION, AttachState::Live, reader, Policy::Block, 0);
                let id = AttachmentId(id);
                sequencer.members().exchange(id, MemberWord(0), word).expect("nobody else is here");
                sequencer.members().cover(id);
                region
            })
            .collect();
        let to = Address::group(1);
        let mut buckets = BucketSet::control();
        if wanted {
            buckets.insert(Bucket::of(to));
        }
        for (i, word) in buckets.0.iter().enumerate() {
            own[1].store(payload::BUCKETS + 8 * i as u64, *word, Ordering::Relaxed);
        }
        own[1].store(payload::CURSOR, 1, Ordering::Relaxed);
        World {
            pages: Pages(own.iter().map(|region| (region.view(), geometry)).collect()),
            lane: Lane::new(own[0].clone(), geometry, LaneKind::Data),
            reader: Reader::new(Stamp(1), buckets),
            readers_page: own[1].clone(),
            sequencer,
            to,
            ahead: 0,
        }
    }

    /// One message of 64 bytes.
    #[inline(never)]
    pub fn publish(&mut self) {
        let to = [self.to];
        let frame = [self.frame(&to)];
        self.publish_all(&frame);
    }

    /// Messages of 64 bytes with one stamp.
    #[inline(never)]
    pub fn publish_batch(&mut self) {
        let to = [self.to];
        let frames: [_; BATCH] = std::array::from_fn(|_| self.frame(&to));
        self.publish_all(&frames);
    }

    #[inline(always)]
    fn frame<'a>(&mut self, to: &'a [Address]) -> (Loan, Kind, Message<'a>, u64) {
        let bytes = black_box([7; 64]);
        let loan = self.lane.loan::<()>(&self.sequencer, &mut self.pages, 64).expect("there is room");
        self.lane.write(&loan, 0, &bytes);
        (loan, Kind::Message, Message { destinations: to, topic: 0, descriptors: 0, time: 0 }, 64)
    }

    #[inline(always)]
    fn publish_all(&mut self, frames: &[(Loan, Kind, Message<'_>, u64)]) {
        let owner = Owner { id: PUBLISHER, generation: GENERATION };
        let published = self.lane.publish::<()>(&self.sequencer, &mut self.pages, owner, frames, |_| Ok(()));
        black_box(published.expect("there is room"));
        self.ahead += frames.len() as u64;
    }

    /// Finds, checks and looks into every message that is there, and lets go of them.
    #[inline(never)]
    pub fn receive(&mut self) {
        while self.ahead > 0 {
            match self.reader.next(&self.sequencer, &mut self.pages) {
                Step::Frame(frame) => {
                    let (view, _) = &self.pages.0[frame.sender.index()];
                    let mut head = [0; 8];
                    view.copy_out(frame.offset, &mut head);
                    black_box(head);
                    self.ahead -= 1;
                }
                other => panic!("{other:?}"),
            }
        }
        self.readers_page.store(payload::CURSOR, self.reader.position(), Ordering::Release);
    }

    /// Passes over every message that is there: none is for this reader.
    #[inline(never)]
    pub fn pass(&mut self) {
        let passed = self.reader.skip(&self.sequencer, u64::MAX);
        assert_eq!(black_box(passed), self.ahead);
        self.ahead = 0;
        self.readers_page.store(payload::CURSOR, self.reader.position(), Ordering::Release);
    }
}

/// Sends `messages` (rounded to whole turns) along each path: for a simulator that counts what happens inside of one of
/// the functions above.
pub fn run(messages: u64) {
    let (mut wanted, mut unwanted) = (World::new(true), World::new(false));
    for _ in 0..messages.div_ceil(TURN) {
        (0..TURN).for_each(|_| wanted.publish());
        wanted.receive();
        (0..TURN as usize / BATCH).for_each(|_| wanted.publish_batch());
        wanted.receive();
        (0..TURN).for_each(|_| unwanted.publish());
        unwanted.pass();
    }
}
