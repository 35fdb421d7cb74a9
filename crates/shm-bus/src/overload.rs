//! What a publisher does about a full ring: wake, wait out the deadline of the reader that holds it, take its place.

use shm_bus_ring::{AttachmentId, Full, Gate, Policy, ReaderState, Shortage};

use crate::shared::Shared;

/// One publisher's memory of who has been in its way, and since when.
#[derive(Default)]
pub(crate) struct Stall {
    /// Holder, its cursor, and the monotonic milliseconds when it was first found there.
    seen: Option<(AttachmentId, u64, u64)>,
}

impl Stall {
    /// Evicts whoever has held the ring for longer than its policy allows. `true` if somebody lost its place: trying
    /// again makes sense.
    pub fn relieve(&mut self, shared: &Shared, full: &Full, gate: &Gate) -> bool {
        let Some((holder, cursor)) = full.holder else {
            return false;
        };
        let now = shared.now_ms();
        let mine = match self.seen {
            Some((id, at, since)) if id == holder && at == cursor => now.saturating_sub(since),
            _ => {
                self.seen = Some((holder, cursor, now));
                0
            }
        };
        // The order ring is everyone's: its count is shared, so that many publishers wait one deadline, not one each.
        let waited = match full.shortage {
            Shortage::Slots => mine.max(shared.sequencer.full_for(full.stamp, now)),
            Shortage::Headers | Shortage::Bytes => mine,
        };
        let lap = shared.sequencer.slot_count();
        let mut relieved = false;
        for (id, at) in gate.readers() {
            let in_the_way = match full.shortage {
                Shortage::Slots => full.stamp - at >= lap,
                Shortage::Headers | Shortage::Bytes => id == holder,
            };
            if !in_the_way {
                continue;
            }
            let member = shared.sequencer.members().read(id);
            let due = match (member.word.reader(), member.word.policy()) {
                (ReaderState::Joining, _) | (_, Policy::Evict) => true,
                (_, Policy::Pinned) => false,
                _ => waited >= member.deadline,
            };
            relieved |= due && shared.evict(id, member.word);
        }
        relieved
    }
}

/// Evicts whoever was found further behind `stamp` than it asked for at the last scan of `gate`.
pub(crate) fn evict_laggards(shared: &Shared, gate: &Gate, stamp: u64) {
    for (id, at) in gate.readers() {
        let member = shared.sequencer.members().read(id);
        if member.word.policy() == Policy::Evict && stamp.saturating_sub(at) > member.max_lag {
            shared.evict(id, member.word);
        }
    }
}
