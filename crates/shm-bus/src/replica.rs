//! A publisher's copy of the directory, kept up by reading the control records in the order.
//!
//! A publisher holds no cursor, so records may be overwritten before it reads them: then it starts again from the
//! directory memory. A publish is *exact* because it first applies every control record below the slot it aims at.

use std::sync::PoisonError;

use shm_bus_ring::{
    AttachmentId, Bucket, BucketSet, Control, Proof, Reader, Senders, Sequencer, Stamp, Step, intact,
};

use crate::directory::Directory;
use crate::error::{BusError, Result};
use crate::payload_memory::PeerMemory;
use crate::record::{MemberId, Stamped};
use crate::shared::Shared;
use std::sync::Arc;

pub(crate) struct Replica {
    directory: Directory,
    /// Every slot below has been looked at.
    applied: u64,
    /// That every control record below the slot found last is applied.
    proof: Proof,
}

/// The role-holders' memories: the only ones a control record can come from.
struct Masters<'a> {
    shared: &'a Shared,
    found: Option<Arc<PeerMemory>>,
}

impl Senders for Masters<'_> {
    fn sender(&mut self, id: AttachmentId) -> Option<shm_bus_ring::Sender<'_>> {
        if self.found.as_ref().is_none_or(|m| m.member().id != id.0) {
            let generation = self.shared.sequencer.members().word(id).generation();
            self.found = self.shared.memory_of(MemberId { id: id.0, generation });
        }
        self.found.as_ref().map(|m| shm_bus_ring::Sender { view: m.view(), geometry: m.geometry() })
    }
}

impl Replica {
    pub fn new(shared: &Shared) -> Result<Self> {
        let mut replica = Replica { directory: Directory::new(), applied: 1, proof: Proof::default() };
        replica.reload(shared)?;
        Ok(replica)
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    fn reload(&mut self, shared: &Shared) -> Result<()> {
        self.directory = shared.directory.read().unwrap_or_else(PoisonError::into_inner).read()?;
        self.applied = self.directory.as_of.max(1);
        Ok(())
    }

    /// Whether nothing has changed since the last [`Replica::catch_up`]: one load.
    #[inline(always)]
    pub fn is_current(&self, sequencer: &Sequencer) -> bool {
        self.proof.holds(sequencer)
    }

    /// Applies every control record below `stamp`, all of whose slots are filled.
    pub fn catch_up(&mut self, shared: &Shared, stamp: u64) -> Result<()> {
        let mut proof = self.proof;
        let outcome =
            proof.renew(&shared.sequencer, stamp, |control| self.apply_below(shared, stamp, control));
        self.proof = proof;
        outcome
    }

    fn apply_below(&mut self, shared: &Shared, stamp: u64, control: Control) -> Result<()> {
        let half = shared.sequencer.slot_count() / 2;
        for _ in 0..100 {
            if stamp.saturating_sub(self.applied) >= half {
                self.reload(shared)?;
                if stamp.saturating_sub(self.applied) >= half {
                    // The directory is written before the control word is settled: settled in the directory's term,
                    // nothing is in the order that is not in the directory. Else only its master can tell.
                    if control.is_busy() || !control.is_of(self.directory.term) {
                        break;
                    }
                    self.applied = stamp;
                }
            }
            if self.read_records(shared, stamp) {
                self.applied = self.applied.max(stamp);
                return Ok(());
            }
            self.reload(shared)?;
        }
        Err(BusError::NoMaster { name: shared.name.clone(), waited: 0 })
    }

    /// Everything below `stamp`, for the successor of a master that is gone; `control` is the control word from before
    /// the successor announced anything. `false` if something may be missing.
    ///
    /// A master writes its directory behind each record, so nothing but its last record can be missing there. If even
    /// that one was overwritten meanwhile, nobody has been answered on it, and whoever asked for it asks the successor.
    /// A directory of an earlier term than the last announced record's is made good by the order alone.
    pub fn inherit(&mut self, shared: &Shared, stamp: u64, control: Control) -> Result<bool> {
        self.reload(shared)?;
        let last = control.is_of(self.directory.term);
        let oldest = (stamp + 1).saturating_sub(shared.sequencer.slot_count());
        let mut complete = self.applied >= oldest;
        let mut senders = Masters { shared, found: None };
        for at in self.applied.max(oldest)..stamp {
            complete &= self.read_record(shared, at, &mut senders);
        }
        self.applied = stamp;
        Ok(complete || last)
    }

    /// `false` if a record was overwritten before it could be read.
    fn read_records(&mut self, shared: &Shared, stamp: u64) -> bool {
        let mut senders = Masters { shared, found: None };
        (self.applied..stamp).all(|at| self.read_record(shared, at, &mut senders))
    }

    /// Applies what is at one stamp, if that is a record; `false` if it cannot be read.
    fn read_record(&mut self, shared: &Shared, at: u64, senders: &mut Masters<'_>) -> bool {
        let sequencer = &shared.sequencer;
        let word = sequencer.slot(at);
        match word.laps_ahead(at, sequencer.log2_slots()) {
            0 if word.bucket() == Bucket::CONTROL => {}
            0 => return true,
            _ => return false,
        }
        let mut reader = Reader::new(Stamp(at), BucketSet::control());
        let Step::Frame(frame) = reader.next(sequencer, senders) else {
            return false;
        };
        let Some(memory) = &senders.found else {
            return false;
        };
        let mut bytes = vec![0; frame.header.length as usize];
        memory.view().copy_out(frame.offset, &mut bytes);
        if !intact(memory.view(), frame.lane, frame.header.serial) {
            return false;
        }
        if let Some(Stamped { term, record }) = Stamped::decode(&bytes)
            && self.directory.trusts(frame.sender.0, term, &record)
        {
            self.directory.apply(at, term, &record);
            shared.notice_term(term);
        }
        true
    }
}
