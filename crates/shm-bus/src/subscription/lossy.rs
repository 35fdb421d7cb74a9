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
    /// Whether records may have been missed that the directory did not tell either.
    uncertain: bool,
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
        let uncertain = self.lossy.as_ref().is_some_and(|lossy| lossy.uncertain);
        let mut to = stamp + 1;
        let known = if word.laps_ahead(stamp, sequencer.log2_slots()) == 0 {
            word.bucket() != Bucket::CONTROL && !uncertain && self.roster.knows(word.sender())
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
        let complete = match replica.catch_up(&shared, stamp) {
            // This attachment has not found the present master yet: as much as the order itself still tells. What comes
            // from somebody unknown after that, or from another master, is lost in its turn, and then the directory is
            // asked again.
            Err(BusError::NoMaster { .. }) => replica.inherit(&shared, stamp, control)?,
            other => other.map(|()| true)?,
        };
        if let Some(lossy) = &mut self.lossy {
            lossy.uncertain = !complete;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::directory_memory::{DirectoryReader, DirectoryWriter};
    use crate::record::Record;
    use crate::{AttachOptions, Bus, Envelope, Event, Overload, SubscribeOptions};

    const LONG: Duration = Duration::from_secs(60);

    /// Every stamp that is accounted for, and the groups that were made.
    fn take(subscription: &mut Subscription) -> (BTreeSet<u64>, Vec<String>) {
        let (mut stamps, mut made) = (BTreeSet::new(), Vec::new());
        let note = |event: Event<'_>| match event {
            Event::Message(message) => drop(stamps.insert(message.frame.place.stamp.0)),
            Event::Gap { from, to } => stamps.extend(from.0..to.0),
            Event::Record(stamp, record) => {
                stamps.insert(stamp.0);
                if let Record::Group { name, .. } = record {
                    made.push(name.clone());
                }
            }
        };
        let mut note = note;
        while subscription.poll(1000, &mut note).unwrap() > 0 || subscription.lag() > 0 {}
        (stamps, made)
    }

    #[test]
    fn one_that_has_missed_a_change_of_masters_takes_their_records_for_missed_and_not_for_forged() {
        let directory = std::env::temp_dir().join(format!("shm-bus-lossy-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&directory, private).unwrap();
        let options = AttachOptions {
            runtime_directory: Some(directory.clone()),
            ring_bytes: 1 << 16,
            headers: 64,
            log2_slots: 8,
            timeout: LONG,
            ..AttachOptions::default()
        };
        let attach = || Bus::attach("test", &options).unwrap();
        let start = Instant::now();
        // Whoever takes the role, it is not the reader that has missed it.
        let (reading, mut subscription, former, others) = loop {
            assert!(start.elapsed() < LONG, "the reader takes every role");
            let master = attach();
            let (reading, others) = (attach(), [attach(), attach(), attach()]);
            let lossy = Some(Overload::Lossy);
            let subscribe = SubscribeOptions { overload: lossy, timeout: LONG, records: true };
            let mut subscription = reading.subscribe(&["g".into()], false, subscribe).unwrap();
            take(&mut subscription);
            let former = reading.directory().unwrap();
            master.close();
            others[0].create_group("after", LONG).unwrap();
            reading.create_group("after", LONG).unwrap();
            if !reading.is_master() {
                break (reading, subscription, former, others);
            }
        };
        let shared = subscription.shared.clone();
        while shared.known_term() != shared.sequencer.term().0 {
            assert!(start.elapsed() < LONG, "it never follows the new master");
            std::thread::sleep(Duration::from_millis(1));
        }
        // As if the new master's directory were still on its way.
        let memory = DirectoryWriter::create().unwrap();
        memory.write(&former).unwrap();
        let stale = DirectoryReader::open(memory.fd()).unwrap();
        let present = std::mem::replace(&mut *shared.directory.write().unwrap(), stale);
        let mut publisher = others[0].publisher().unwrap();
        let g = publisher.resolve("g").unwrap();
        let first = subscription.position().0;
        for _ in 0..600 {
            publisher.publish(&[g], b"x", Envelope::default()).unwrap();
        }
        others[1].create_group("unseen", LONG).unwrap();
        let tail = publisher.publish(&[g], b"x", Envelope::default()).unwrap().0;
        let (stamps, made) = take(&mut subscription);
        assert_eq!(
            (first..=tail).find(|stamp| !stamps.contains(stamp)),
            None,
            "a stamp that nobody tells of"
        );
        assert_eq!(made, [""; 0], "nobody could say that it was the master's");
        *shared.directory.write().unwrap() = present;
        for (name, is_seen) in [("unseen, too", false), ("seen", true)] {
            others[1].create_group(name, LONG).unwrap();
            let (stamps, made) = take(&mut subscription);
            assert_eq!((stamps.len(), made.concat() == name), (1, is_seen));
        }
        assert!(subscription.violations().is_empty(), "{:?}", subscription.violations());
        drop((subscription, publisher, shared));
        reading.close();
        others.iter().for_each(Bus::close);
        std::fs::remove_dir(&directory).unwrap();
    }
}
