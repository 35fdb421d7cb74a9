//! What those who live do: read, publish on, take the places of the slow and bury the dead.

use shm_bus_ring::layout::payload;
use shm_bus_ring::{AttachState, AttachmentId, Frame, Ordering, Reader, ReaderState, Stamp, Step, intact};

use super::message::{buckets, check, seen};
use super::world::{PUBLISHER, READERS, Sent, VICTIM, World};
use crate::Outcome;

impl World {
    /// The next free slot.
    pub fn tail(&self) -> u64 {
        self.sequencer.find().map_or(0, |found| found.stamp)
    }

    /// Changes the reader half of a member word.
    pub fn set_reading(&self, id: usize, state: ReaderState) {
        let members = self.sequencer.members();
        let me = AttachmentId(id as u16);
        let word = members.word(me);
        let _ = members.exchange(me, word, word.with_reader(state));
    }

    /// Keeps in mind what stands in front of a reader that begins at `stamp`.
    pub fn remember_from(&mut self, stamp: u64) -> Outcome<()> {
        self.follow()?;
        self.waiting = self.members[READERS[0]].seen.clone();
        self.waiting.retain(|s| s.stamp >= stamp);
        Ok(())
    }

    /// Lets `id` count as a reader from here on.
    pub fn count_reader(&mut self, id: usize) {
        let me = AttachmentId(id as u16);
        let tail = self.tail();
        self.members[id].own.store(payload::CURSOR, tail, Ordering::SeqCst);
        self.members[id].reader = Reader::new(Stamp(tail), buckets());
        let members = self.sequencer.members();
        members.set_reader(me, tail, 100, 0);
        self.set_reading(id, ReaderState::Live);
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
        self.sequencer.raise_hint(self.tail());
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
