//! Sleeping, waking, and waiting for space, as `docs/protocol.md` §6 has it.

use shm_bus_ring::{Sleeper, Waker};

use super::*;

/// Who of this attachment sleeps, and for what.
#[derive(Default)]
pub(super) struct Sleeping {
    pub blocked: Vec<BucketSet>,
    pub armed: Option<BucketSet>,
}

struct Reached(Arc<PeerMemory>);

impl Sleeper for Reached {
    fn page(&self) -> &View {
        self.0.view()
    }

    fn signal(&self) {
        // Full or closed: it is awake or gone.
        let _ = self.0.ringer().ring();
    }
}

impl Shared {
    /// Wakes whoever sleeps and is concerned; the hint is raised to `tail`, past the stamp, before that.
    pub fn wake(&self, bucket: Bucket, tail: u64, waker: &mut Waker) {
        let blocked = waker.wake(&self.sequencer, bucket, tail, |id, generation| {
            let member = MemberId { id: id.0, generation };
            let peer = self.peers.get(member).or_else(|| {
                // A newcomer publishes before it has everyone's bell: who cannot be woken now is woken when its
                // memory comes.
                self.missed_wakes.store(true, Ordering::Relaxed);
                fence(Memory::SeqCst);
                self.memory_of(member)
            });
            peer.map(Reached)
        });
        if blocked {
            let _ = self.hint_word.wake(u32::MAX, bucket.futex_bits());
        }
    }

    /// Wakes everyone, whatever their bits say. Those whose memory is not here yet are woken when it comes.
    pub fn wake_everyone(&self) {
        self.missed_wakes.store(true, Ordering::Relaxed);
        fence(Memory::SeqCst);
        for peer in self.peers.all() {
            let _ = peer.ringer().ring();
        }
        let _ = self.hint_word.wake(u32::MAX, u32::MAX);
    }

    /// Announces a sleep: counts it, sets the sleeper's bits, and gives the value of the hint to sleep on. The caller
    /// looks once more before it sleeps.
    pub fn fall_asleep(&self, buckets: &BucketSet, kind: SleepKind) -> u32 {
        let mut sleeping = lock(&self.sleeping);
        match kind {
            SleepKind::Futex => sleeping.blocked.push(*buckets),
            SleepKind::Poll => sleeping.armed = Some(*buckets),
        }
        // The id may be another's by now, and then so are its bits. One that is closed was woken before it slept.
        if self.own_word().is_none() {
            let _ = self.own.bell.ring();
            return (self.sequencer.hint() as u32).wrapping_sub(1);
        }
        self.sequencer.sleepers().fall_asleep(&self.own.region, self.owner().id, buckets, kind) as u32
    }

    /// Takes the announcement back. What other threads of this attachment sleep for stays.
    pub fn wake_up(&self, buckets: &BucketSet, kind: SleepKind) {
        let mut sleeping = lock(&self.sleeping);
        match kind {
            SleepKind::Futex => {
                if let Some(index) = sleeping.blocked.iter().position(|b| b == buckets) {
                    sleeping.blocked.swap_remove(index);
                }
            }
            SleepKind::Poll => sleeping.armed = None,
        }
        // The id may be another's by now, and then so are its bits.
        if self.own_word().is_none() {
            return;
        }
        let others: Vec<BucketSet> = sleeping.blocked.iter().chain(&sleeping.armed).copied().collect();
        let sleepers = self.sequencer.sleepers();
        sleepers.leave(self.owner().id, buckets, &others);
        if kind == SleepKind::Futex
            && sleeping.blocked.is_empty()
            && let Some(armed) = sleeping.armed
        {
            // A blocked thread has made this attachment one that is woken by the futex: back to the event loop, which
            // looks once more for what came meanwhile.
            sleepers.enter(self.owner().id, &armed, SleepKind::Poll);
            let _ = self.own.bell.ring();
        }
    }

    /// Takes back what blocked threads have announced that will not do so themselves.
    pub fn end_waits(&self) {
        let blocked = std::mem::take(&mut lock(&self.sleeping).blocked);
        if let Some(buckets) = blocked.into_iter().reduce(|all, more| all.union(&more)) {
            self.wake_up(&buckets, SleepKind::Futex);
        }
    }

    /// Whether a thread of this attachment is blocked in a wait.
    pub fn has_sleepers(&self) -> bool {
        !lock(&self.sleeping).blocked.is_empty()
    }

    /// Announces (or takes back) that this attachment waits for space.
    pub fn want_space(&self, waiting: bool) {
        let _sleeping = lock(&self.sleeping);
        if self.own_word().is_some() {
            self.sequencer.wait_for_space(self.owner().id, waiting);
        }
    }

    /// Wakes every publisher that waits for space.
    pub fn release_space(&self) {
        self.sequencer.release_space();
        let _ = self.space_word.wake(u32::MAX, u32::MAX);
        for word in 0..self.sequencer.members().high().div_ceil(64) {
            let mut bits = self.sequencer.space_waiters(word);
            while bits != 0 {
                let id = (word * 64) as u16 + bits.trailing_zeros() as u16;
                bits &= bits - 1;
                let generation = self.sequencer.members().word(AttachmentId(id)).generation();
                if let Some(peer) = self.memory_of(MemberId { id, generation }) {
                    let _ = peer.ringer().ring();
                }
            }
        }
    }
}
