//! A subscription that nobody waits for: it copies, checks that the copy is whole, and tells what it missed.

use std::sync::Arc;

use shm_bus_ring::layout::payload;
use shm_bus_ring::{Address, Bucket, Frame, Stamp, intact};

use super::Subscription;
use super::roster::Roster;
use crate::error::{BusError, Result};
use crate::payload_memory::PeerMemory;
use crate::replica::Replica;

/// What a lossy subscription has beside its position.
#[derive(Default)]
pub(super) struct Lossy {
    /// The payload of the message that is being handed over.
    copied: Vec<u8>,
    /// How many stamps were missed in all.
    pub missed: u64,
}

impl Lossy {
    /// A copy of a payload, good until the next; nothing if it was overwritten meanwhile.
    pub fn copy(&mut self, memory: &PeerMemory, frame: &Frame, offset: u64, length: u64) -> Option<&[u8]> {
        let length = length as usize;
        if self.copied.len() < length {
            self.copied.resize(length, 0);
        }
        let copy = &mut self.copied[..length];
        memory.view().copy_out(offset, copy);
        intact(memory.view(), frame.lane, frame.header.serial).then_some(copy)
    }
}

impl Subscription {
    /// Passes over what was lost at `stamp`; gives the first stamp behind the gap.
    ///
    /// A frame whose slot is still there was reclaimed by its sender: that is one stamp. Where the slot was filled again
    /// the reader is more than a lap behind and goes on half a lap behind the tail. In both cases control records may be
    /// among what was lost: then it takes over who is attached from the directory, and goes on no earlier than that was
    /// written, so that no later join is applied to an earlier message.
    pub(super) fn pass_lost(&mut self, stamp: u64) -> Result<u64> {
        let sequencer = &self.shared.sequencer;
        let word = sequencer.slot(stamp);
        let mut to = stamp + 1;
        let known = if word.laps_ahead(stamp, sequencer.log2_slots()) == 0 {
            word.bucket() != Bucket::CONTROL && self.roster.knows(word.sender())
        } else {
            to = to.max(sequencer.find()?.stamp.saturating_sub(sequencer.slot_count() / 2));
            false
        };
        if !known {
            to = self.take_stock(to)?;
        }
        self.reader.resume(Stamp(to));
        self.shared.own.region.count(payload::MISSED, to - stamp);
        if let Some(lossy) = &mut self.lossy {
            lossy.missed += to - stamp;
        }
        Ok(to)
    }

    /// Learns who is attached as of `stamp`, or as of a later stamp, which it gives.
    fn take_stock(&mut self, stamp: u64) -> Result<u64> {
        let shared = self.shared.clone();
        let control = shared.sequencer.control();
        let mut replica = Replica::new(&shared)?;
        match replica.catch_up(&shared, stamp) {
            // Between two masters: as much as the order itself still tells. What is sent by somebody unknown after that
            // is lost in its turn, and then the directory is asked again.
            Err(BusError::NoMaster { .. }) => drop(replica.inherit(&shared, stamp, control)?),
            other => other?,
        }
        let directory = replica.directory();
        let members = directory.members().map(|(member, entry)| (member, Address(entry.address)));
        self.roster = Roster::new(Arc::clone(&shared), members);
        if let Some(master) = directory.master {
            self.master = (directory.term, master.id);
        }
        Ok(stamp.max(directory.as_of))
    }
}
