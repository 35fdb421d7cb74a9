//! The master's role in shared memory: whose term it is, and the word by which publishers notice a control record.

use crate::atomic::Ordering;
use crate::gate::Peers;
use crate::header::Kind;
use crate::lane::{Lane, Message, Owner, PublishError, Published};
use crate::layout::sequencer as at;
use crate::names::{Address, AttachmentId};
use crate::sequencer::Sequencer;

/// The term has passed to somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced;

/// The control word, `term 24 | publishes 32 | busy 8`: changed before a control record is swapped into the order, and
/// again when everybody can know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control(u64);

impl Control {
    const TERM: u64 = 0xFF_FFFF;

    fn term(self) -> u64 {
        self.0 >> 40
    }

    /// Whether a control record may be between its announcement and its slot.
    #[inline(always)]
    pub fn is_busy(self) -> bool {
        self.0 & 0xFF != 0
    }

    /// Whether it was last changed in `term`.
    pub fn is_of(self, term: u64) -> bool {
        self.term() == term & Self::TERM
    }
}

/// What a publisher knows of the control records: whether one may have entered the order since it applied them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof(Option<Control>);

impl Proof {
    /// Whether none has: everything below a slot that was found before has been applied (SYNC control). One load.
    #[inline(always)]
    pub fn holds(&self, sequencer: &Sequencer) -> bool {
        self.0 == Some(sequencer.control())
    }

    /// Applies what may be missing below `stamp`, all of whose slots were found filled.
    ///
    /// # Errors
    /// What `apply` says; then nothing is proven.
    pub fn renew<E>(
        &mut self,
        sequencer: &Sequencer,
        stamp: u64,
        apply: impl FnOnce(Control) -> Result<(), E>,
    ) -> Result<(), E> {
        let control = sequencer.control();
        if self.0 != Some(control) {
            self.0 = None;
            apply(control)?;
            // A record that is announced from now on changes the word. Nothing is known of one that was on its way, nor of
            // one that had got into the order at `stamp` or above when the word was loaded: then the slot is filled by now.
            let complete = !control.is_busy() && !sequencer.is_filled(stamp);
            self.0 = complete.then_some(control);
        }
        Ok(())
    }
}

impl Sequencer {
    /// The master's term and the id that holds the role.
    pub fn term(&self) -> (u64, AttachmentId) {
        let word = self.region().load(at::TERM, Ordering::SeqCst);
        (word >> 16, AttachmentId(word as u16))
    }

    /// Takes the role for `id`: the next term, if `seen` is still the present one.
    pub fn take_term(&self, seen: (u64, AttachmentId), id: AttachmentId) -> Result<u64, (u64, AttachmentId)> {
        let word = |(term, id): (u64, AttachmentId)| term << 16 | u64::from(id.0);
        let next = (seen.0 + 1, id);
        self.region()
            .compare_exchange(at::TERM, word(seen), word(next), Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| next.0)
            .map_err(|w| (w >> 16, AttachmentId(w as u16)))
    }

    /// The control word.
    #[inline(always)]
    pub fn control(&self) -> Control {
        Control(self.region().load(at::CONTROL, Ordering::SeqCst))
    }

    /// Announces a control record of `term` before its slot is tried. A word of a later term stays as it is.
    fn announce_control(&self, term: u64) {
        self.step_control(term, |count| (count.wrapping_add(1), 1));
    }

    /// Says that the announced record is where everybody can know of it: in the order, and wherever else publishers look
    /// that have lost it there.
    pub fn settle_control(&self, term: u64) {
        self.step_control(term, |count| (count, 0));
    }

    fn step_control(&self, term: u64, step: impl Fn(u32) -> (u32, u64)) {
        let term = term & Control::TERM;
        let mut word = self.control();
        while word.term() <= term {
            let (count, busy) = step((word.0 >> 8) as u32);
            let next = term << 40 | u64::from(count) << 8 | busy;
            let (before, order) = (word.0, Ordering::SeqCst);
            match self.region().compare_exchange(at::CONTROL, before, next, order, order) {
                Ok(_) => return,
                Err(newer) => word = Control(newer),
            }
        }
    }
}

impl Lane {
    /// Publishes a control record of `term`: announced first, and swapped in only while the term is the present one.
    /// [`Sequencer::settle_control`] follows, whatever came of it.
    pub fn record(
        &mut self,
        sequencer: &Sequencer,
        peers: &mut impl Peers,
        owner: Owner,
        term: u64,
        bytes: &[u8],
        time: u64,
    ) -> Result<Published, PublishError<Fenced>> {
        let length = bytes.len() as u64;
        let loan = self.loan(sequencer, peers, length)?;
        self.write(&loan, 0, bytes);
        let message = Message { destinations: &[Address::EVERYONE], topic: 0, descriptors: 0, time };
        let frames = [(loan, Kind::Control, message, length)];
        sequencer.announce_control(term);
        // I-TERM: after the slot was found and before each swap, or a master that was stopped in between could admit
        // somebody in a term that is not its own.
        let fenced = |_| if sequencer.term().0 == term { Ok(()) } else { Err(Fenced) };
        let published = self.publish(sequencer, peers, owner, &frames, fenced);
        if published.is_err() {
            let [(loan, ..)] = frames;
            self.abandon(loan);
        }
        published
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Region, layout::sequencer_bytes};

    #[test]
    fn the_role_changes_hands_once_a_term() {
        let s = Sequencer::create(Region::zeroed(sequencer_bytes(6)), 6, 7).unwrap();
        assert_eq!(s.take_term((0, AttachmentId(0)), AttachmentId(3)), Ok(1));
        assert_eq!(s.take_term((0, AttachmentId(0)), AttachmentId(4)), Err((1, AttachmentId(3))));
        s.announce_control(1);
        assert!(s.control().is_busy());
        s.settle_control(1);
        let settled = s.control();
        assert!(settled.is_of(1) && !settled.is_busy());
        s.announce_control(0);
        assert_eq!(s.control(), settled, "a stale term moves nothing");
    }
}
