//! Whom to wake: the publisher's half of the handshake that `sleep.rs` describes.
//!
//! A publisher wakes each sleep once. The sleeper counts its sleeps in its own page before it sets its bits, so a count
//! that was woken before belongs to a sleep whose last look has seen the frame (SYNC sleep).

use alloc::vec::Vec;

use crate::atomic::{Ordering, fence};
use crate::bucket::Bucket;
use crate::layout::payload;
use crate::memory::View;
use crate::names::AttachmentId;
use crate::sequencer::Sequencer;

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
}

#[derive(Clone, Copy, Default)]
struct Woken {
    generation: u32,
    epoch: u64,
    /// The futex bits that were woken; all of them by a bell.
    bits: u32,
}

impl Waker {
    fn is_new(&mut self, id: AttachmentId, generation: u32, epoch: u64, bits: u32) -> bool {
        if self.last.len() <= id.index() {
            self.last.resize(id.index() + 1, Woken::default());
        }
        let woken = &mut self.last[id.index()];
        if (woken.generation, woken.epoch) != (generation, epoch) {
            *woken = Woken { generation, epoch, bits: 0 };
        }
        let new = bits & !woken.bits != 0;
        woken.bits |= bits;
        new
    }

    /// Wakes the event loops that a frame of `bucket` concerns, and gives whether the futex has to be woken as well: a
    /// thread may be blocked there, or somebody sleeps whom `find` cannot reach. Only after the frame's slot was filled
    /// and the hint raised past it.
    pub fn wake<S: Sleeper>(
        &mut self,
        sequencer: &Sequencer,
        bucket: Bucket,
        mut find: impl FnMut(AttachmentId, u32) -> Option<S>,
    ) -> bool {
        let (members, sleepers) = (sequencer.members(), sequencer.sleepers());
        let futex_bits = bucket.futex_bits();
        let mut blocked = false;
        for word in 0..members.high().div_ceil(64) {
            let mut bits = sleepers.concerned(bucket, word);
            if bits == 0 {
                continue;
            }
            // SYNC kind: a sleeper says how it sleeps before it says that it does, so the kind is looked at after.
            fence(Ordering::Acquire);
            let pollers = sleepers.pollers(word);
            while bits != 0 {
                let bit = bits.trailing_zeros();
                bits &= bits - 1;
                let id = AttachmentId((word * 64) as u16 + bit as u16);
                let generation = members.word(id).generation();
                let Some(sleeper) = find(id, generation) else {
                    blocked = true;
                    continue;
                };
                let by_bell = pollers >> bit & 1 != 0;
                // A futex wake reaches those whose bitset has this bucket's bit, and only that bit is remembered.
                let epoch = sleeper.page().load(payload::SLEEP_EPOCH, Ordering::Acquire);
                if self.is_new(id, generation, epoch, if by_bell { u32::MAX } else { futex_bits }) {
                    if by_bell {
                        sleeper.signal();
                    } else {
                        blocked = true;
                    }
                }
            }
        }
        blocked
    }
}
