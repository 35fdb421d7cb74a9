//! Publishing: what is about to be published is written down before, what came of it after.

use std::time::Duration;

use shm_bus::{Address, BusError, Envelope, Result as BusResult, Stamp};
use shm_bus_os::clock;

use super::{Outcome, Participant};
use crate::event::{Event, Part};

/// Messages of a burst: enough to go around the smallest order.
const BURST: u64 = 120;
/// How often a message that found no room is tried again.
const TRIES: u32 = 4;
/// How long a publisher waits for room before it looks after its own subscriptions.
const PATIENCE: Duration = Duration::from_millis(2);

impl Participant {
    fn groups(&self) -> &[u64] {
        self.attachment.as_ref().map_or(&[], |a| &a.groups)
    }

    fn group(&mut self) -> u64 {
        let groups = self.groups().to_vec();
        self.dice.pick(&groups).copied().unwrap_or(Address::EVERYONE.0)
    }

    /// To a group.
    pub(super) fn multicast(&mut self) -> Outcome<()> {
        let to = self.group();
        self.send(&[to])
    }

    /// To somebody who may be there, and may take it.
    pub(super) fn unicast(&mut self) -> Outcome<()> {
        let peers = self.peers.clone();
        match self.dice.pick(&peers).copied() {
            Some(to) => self.send(&[to]),
            None => Ok(()),
        }
    }

    /// Groups and addresses, each once.
    fn several(&mut self) -> Vec<u64> {
        let mut to: Vec<u64> = Vec::new();
        let (groups, peers) = (self.groups().to_vec(), self.peers.clone());
        for _ in 0..self.dice.between(2, 5) {
            let of = if self.dice.chance(75) { &groups } else { &peers };
            if let Some(address) = self.dice.pick(of)
                && !to.contains(address)
            {
                to.push(*address);
            }
        }
        to
    }

    /// To several as one event.
    pub(super) fn transaction(&mut self) -> Outcome<()> {
        let to = self.several();
        if to.is_empty() { Ok(()) } else { self.send(&to) }
    }

    /// Many small ones, so that the order goes around.
    pub(super) fn burst(&mut self) -> Outcome<()> {
        let to = self.group();
        for i in 0..self.dice.between(BURST / 4, BURST) {
            self.send(&[to])?;
            if i % 16 == 15 {
                self.read(24)?;
            }
        }
        Ok(())
    }

    fn length(&mut self) -> usize {
        let most = match self.dice.roll(100) {
            0..50 => 64,
            50..90 => 1000,
            _ => 12_000,
        };
        self.dice.roll(most + 1) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut word = self.dice.next();
        let next = |_| {
            word = word.rotate_left(9).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (word >> 32) as u8
        };
        (0..length).map(next).collect()
    }

    fn part(&mut self, to: &[u64], bytes: &[u8]) -> Part {
        let id = u64::from(self.role.number) << 32 | self.next_message;
        self.next_message += 1;
        Part { id, to: to.to_vec(), len: bytes.len() as u32, crc: crc32fast::hash(bytes) }
    }

    /// Publishes one message. One that finds no room is another message the next time: the first must never be seen.
    pub(super) fn send(&mut self, to: &[u64]) -> Outcome<()> {
        let length = self.length();
        let bytes = self.bytes(length);
        let addresses: Vec<Address> = to.iter().map(|a| Address(*a)).collect();
        for _ in 0..TRIES {
            let part = self.part(to, &bytes);
            let envelope = Envelope { topic: part.id };
            let Some(attachment) = &mut self.attachment else { return Ok(()) };
            self.diary.write(Event::Publish { from: attachment.address, parts: vec![part] });
            let began = clock::monotonic_nanos();
            let published = attachment.publisher.publish(&addresses, &bytes, envelope);
            if !self.is_full(published, began)? {
                break;
            }
        }
        Ok(())
    }

    /// Writes down what came of it. `true` if trying again makes sense.
    fn is_full(&mut self, published: BusResult<Stamp>, began: u64) -> Outcome<bool> {
        match published {
            Ok(stamp) => {
                self.diary.write(Event::Published { stamp: stamp.0, began });
                if self.dice.chance(15) {
                    self.send_token();
                }
                Ok(false)
            }
            Err(error) => {
                self.diary.write(Event::Refused { code: error.code().to_owned() });
                match error {
                    // Its own loans take all the room: nobody else can make any.
                    BusError::WouldBlock { holder: None, .. } => {
                        if let Some(attachment) = &mut self.attachment {
                            attachment.give_up_loans();
                        }
                        Ok(true)
                    }
                    BusError::WouldBlock { .. } => {
                        self.wait_for_room()?;
                        Ok(true)
                    }
                    BusError::UnknownAddress { .. }
                    | BusError::Unreachable { .. }
                    | BusError::NoMaster { .. }
                    | BusError::TooBig { .. }
                    | BusError::DuplicateDestination { .. } => Ok(false),
                    error => Err(self.unexpected("publishing", &error)),
                }
            }
        }
    }

    fn wait_for_room(&mut self) -> Outcome<()> {
        if self.dice.chance(50)
            && let Some(attachment) = &mut self.attachment
            && let Err(error) = attachment.publisher.wait_writable(PATIENCE)
        {
            return Err(self.unexpected("waiting for room", &error));
        }
        self.read(24)
    }

    /// Several messages as one event, in every tenth case given up.
    pub(super) fn batch(&mut self) -> Outcome<()> {
        let count = self.dice.between(1, 10);
        let mut prepared = Vec::new();
        for _ in 0..count {
            let to = if self.dice.chance(30) { self.several() } else { vec![self.group()] };
            let length = self.length() / 4;
            prepared.push((to, self.bytes(length)));
        }
        let mut parts = Vec::new();
        for (to, bytes) in &prepared {
            parts.push(self.part(to, bytes));
        }
        let give_up = self.dice.chance(10);
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        if attachment.publisher.begin_batch().is_err() {
            return Err("a batch cannot begin".into());
        }
        let mut within = Vec::new();
        for ((to, bytes), part) in prepared.iter().zip(parts) {
            let addresses: Vec<Address> = to.iter().map(|a| Address(*a)).collect();
            let envelope = Envelope { topic: part.id };
            // Whatever found no room is not in the batch; what was written before it is.
            match attachment.publisher.publish(&addresses, bytes, envelope) {
                Ok(_) => within.push(part),
                Err(BusError::WouldBlock { .. } | BusError::InvalidOption { .. }) => {}
                Err(error) => return Err(self.unexpected("filling a batch", &error)),
            }
        }
        if give_up {
            attachment.publisher.abandon_batch();
            return Ok(());
        }
        if within.is_empty() {
            return match attachment.publisher.end_batch() {
                Ok(None) => Ok(()),
                other => Err(format!("an empty batch gave {other:?}")),
            };
        }
        self.diary.write(Event::Publish { from: attachment.address, parts: within });
        let began = clock::monotonic_nanos();
        let published = attachment.publisher.end_batch();
        let published = published.map(|stamp| stamp.expect("it was not empty"));
        self.is_full(published, began).map(drop)
    }

    /// Takes space and fills it, or publishes or gives up what was filled before: not in the order of the loans.
    pub(super) fn lend(&mut self) -> Outcome<()> {
        let waiting = self.attachment.as_ref().map_or(0, |a| a.loans.len());
        if waiting > 2 || (waiting > 0 && self.dice.chance(60)) {
            return self.publish_loan();
        }
        let to = if self.dice.chance(30) { self.several() } else { vec![self.group()] };
        let length = self.length();
        let bytes = self.bytes(length);
        let addresses: Vec<Address> = to.iter().map(|a| Address(*a)).collect();
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        match attachment.publisher.loan(&addresses, bytes.len() as u64) {
            Ok(loan) => {
                let region = attachment.bus.own_mapping().region().map_err(|e| e.to_string())?;
                region.copy_in(loan.offset(), &bytes);
                attachment.loans.push((loan, addresses, bytes));
                Ok(())
            }
            Err(BusError::WouldBlock { .. } | BusError::InvalidOption { .. }) => Ok(()),
            Err(error) => Err(self.unexpected("taking a loan", &error)),
        }
    }

    fn publish_loan(&mut self) -> Outcome<()> {
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        let index = self.dice.roll(attachment.loans.len() as u64) as usize;
        let (loan, addresses, mut bytes) = attachment.loans.swap_remove(index);
        if self.dice.chance(15) {
            attachment.publisher.abandon(loan);
            return Ok(());
        }
        // Sometimes less than was asked for.
        if self.dice.chance(30) {
            bytes.truncate(bytes.len() / 2);
        }
        let to: Vec<u64> = addresses.iter().map(|a| a.0).collect();
        let part = self.part(&to, &bytes);
        let envelope = Envelope { topic: part.id };
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        self.diary.write(Event::Publish { from: attachment.address, parts: vec![part] });
        let began = clock::monotonic_nanos();
        let published = attachment.publisher.publish_loan(loan, bytes.len() as u64, envelope);
        self.is_full(published, began).map(drop)
    }

    /// To nobody, to the same twice, too much: refused, and never seen.
    pub(super) fn send_what_cannot_be(&mut self) -> Outcome<()> {
        let group = self.group();
        let (to, length) = match self.dice.roll(4) {
            0 => (vec![Address::unicast(1 << 40).0], 8),
            1 => (vec![Address::group(60_000).0], 8),
            2 => (vec![group, group], 8),
            _ => (vec![group], self.habits.ring_bytes as usize / 4 + 1),
        };
        let bytes = self.bytes(length);
        let part = self.part(&to, &bytes);
        let (id, addresses): (u64, Vec<Address>) = (part.id, to.iter().map(|a| Address(*a)).collect());
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        self.diary.write(Event::Publish { from: attachment.address, parts: vec![part] });
        let began = clock::monotonic_nanos();
        let published = attachment.publisher.publish(&addresses, &bytes, Envelope { topic: id });
        self.is_full(published, began).map(drop)
    }
}
