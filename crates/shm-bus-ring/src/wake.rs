//! Whom to wake: the publisher's half of the handshake that `sleep.rs` describes.
//!
//! A publisher wakes each sleep once. It may remember a sleep as woken only if that wake ends it for certain: a bell stays
//! rung; a futex call that comes before its sleeper has queued up finds nobody, so for those the hint has to have changed
//! behind the count of the sleep, which the sleeper stores behind its load of the hint (SYNC epoch).

use alloc::vec::Vec;

use crate::atomic::Ordering;
use crate::bucket::Bucket;
use crate::layout::payload;
use crate::memory::View;
use crate::names::AttachmentId;
use crate::sequencer::Sequencer;
use crate::sleep::SleepKind;

/// Somebody who may be asleep, as a publisher reaches it.
pub trait Sleeper {
    /// Its page.
    fn page(&self) -> &View;
    /// Wakes its event loop.
    fn signal(&self);
}

/// What a publishing thread remembers of its wakes: the last sleep of each attachment that it has ended.
#[derive(Default)]
pub struct Waker {
    last: Vec<Woken>,
    /// Those who are woken by the futex now.
    blocked: Vec<AttachmentId>,
}

#[derive(Clone, Copy, Default)]
struct Woken {
    generation: u32,
    epoch: u64,
    /// The futex bits that were woken; all of them by a bell.
    bits: u32,
}

impl Waker {
    /// The memory of one sleep.
    fn of(&mut self, id: AttachmentId, generation: u32, epoch: u64) -> &mut Woken {
        if self.last.len() <= id.index() {
            self.last.resize(id.index() + 1, Woken::default());
        }
        let woken = &mut self.last[id.index()];
        if (woken.generation, woken.epoch) != (generation, epoch) {
            *woken = Woken { generation, epoch, bits: 0 };
        }
        woken
    }

    /// Wakes the event loops that a frame of `bucket` concerns and raises the hint to `tail`, behind the frame's slot.
    /// Gives whether the futex is to be woken now: a thread may be blocked there, or somebody sleeps whom `find` cannot
    /// reach.
    pub fn wake<S: Sleeper>(
        &mut self,
        sequencer: &Sequencer,
        bucket: Bucket,
        tail: u64,
        mut find: impl FnMut(AttachmentId, u32) -> Option<S>,
    ) -> bool {
        let (members, sleepers) = (sequencer.members(), sequencer.sleepers());
        // A futex wake reaches those whose bitset has this bucket's bit, and only that bit is remembered.
        let futex_bits = bucket.futex_bits();
        let mut unreachable = false;
        self.blocked.clear();
        for word in 0..members.high().div_ceil(64) {
            let mut bits = sleepers.concerned(bucket, word);
            while bits != 0 {
                let id = AttachmentId((word * 64) as u16 + bits.trailing_zeros() as u16);
                bits &= bits - 1;
                let generation = members.word(id).generation();
                let Some(sleeper) = find(id, generation) else {
                    unreachable = true;
                    continue;
                };
                // SYNC epoch: the count before the kind, and before the hint is raised.
                let epoch = sleeper.page().load(payload::SLEEP_EPOCH, Ordering::Acquire);
                let woken = self.of(id, generation, epoch);
                match sleepers.kind(id) {
                    SleepKind::Poll if woken.bits != u32::MAX => {
                        woken.bits = u32::MAX;
                        sleeper.signal();
                    }
                    SleepKind::Futex if futex_bits & !woken.bits != 0 => self.blocked.push(id),
                    _ => {}
                }
            }
        }
        if sequencer.raise_hint(tail) {
            for id in &self.blocked {
                self.last[id.index()].bits |= futex_bits;
            }
        }
        unreachable || !self.blocked.is_empty()
    }
}
