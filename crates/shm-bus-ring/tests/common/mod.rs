//! What the tests of the algorithms share: maps of everyone's memory, and payloads that tell who wrote them.
#![allow(dead_code)]

use shm_bus_ring::layout::{payload, sequencer_bytes};
use shm_bus_ring::{
    AttachState, AttachmentId, Geometry, MemberWord, Ordering, Owner, Peers, Policy, ReaderState, Region,
    Sender, Senders, Sequencer, View,
};

/// Every id of these tests is of this generation.
pub const GENERATION: u32 = 1;

/// Everyone's payload memory by id, as each of them has it mapped.
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

/// A sequencer with `attachments` live members that read nothing yet, and their memory.
pub fn bus(log2_slots: u32, attachments: u16, geometry: Geometry) -> (Sequencer, Vec<Region>, Pages) {
    let region = Region::zeroed(sequencer_bytes(log2_slots));
    let sequencer = Sequencer::create(region, log2_slots, 7).unwrap();
    let mut regions = Vec::new();
    let mut pages = Pages::default();
    for id in (0..attachments).map(AttachmentId) {
        let own = Region::zeroed(geometry.mapped_bytes());
        geometry.store(&own);
        pages.0.push((own.view(), geometry));
        regions.push(own);
        let live = MemberWord::new(GENERATION, AttachState::Live, ReaderState::None, Policy::Block, 0);
        sequencer.members().exchange(id, MemberWord(0), live).unwrap();
        sequencer.members().cover(id);
    }
    (sequencer, regions, pages)
}

pub fn owner(id: u16) -> Owner {
    Owner { id: AttachmentId(id), generation: GENERATION }
}

/// Changes the reader state of a member.
pub fn set_reader_state(sequencer: &Sequencer, id: u16, state: ReaderState) {
    let members = sequencer.members();
    let word = members.word(AttachmentId(id));
    members.exchange(AttachmentId(id), word, word.with_reader(state)).unwrap();
}

/// Stores the cursor as a reader does: what it read happened before.
pub fn store_cursor(own: &Region, cursor: u64) {
    own.store(payload::CURSOR, cursor, Ordering::Release);
}

/// `length` bytes that no other seed gives.
pub fn pattern(seed: u64, length: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Bytes of a view, copied.
pub fn bytes(view: &View, offset: u64, length: u64) -> Vec<u8> {
    let mut copy = vec![0; length as usize];
    view.copy_out(offset, &mut copy);
    copy
}
