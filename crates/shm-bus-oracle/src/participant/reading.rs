//! Reading: every delivery is written down, and the end of its lease.

use shm_bus::{BusError, Event as Found, Record};

use super::{Outcome, Participant, REACTIONS};
use crate::diary::Phase;
use crate::event::{Event, Item};

impl Participant {
    /// One poll of each subscription, of at most `limit` messages.
    pub(super) fn read(&mut self, limit: usize) -> Outcome<()> {
        let mut index = 0;
        while let Some(reader) = self.attachment.as_mut().and_then(|a| a.readers.get_mut(index)) {
            let number = reader.number;
            let mut items = Vec::new();
            let polled = reader.subscription.poll(limit, |found| items.push(item(&found)));
            let reached = reader.subscription.position().0;
            if !items.is_empty() {
                self.diary.write(Event::Got { sub: number, items: items.clone() });
            }
            reader.missed += items.iter().map(Item::missed).sum::<u64>();
            if reader.missed != reader.subscription.missed() {
                let counted = reader.subscription.missed();
                return Err(format!(
                    "subscription {number} counts {counted} as missed, not {}",
                    reader.missed
                ));
            }
            if !reader.subscription.violations().is_empty() {
                let by = reader.subscription.violations().clone();
                return Err(format!("subscription {number} accuses those of the slots: {by:?}"));
            }
            let ended = polled.and_then(|_| reader.subscription.release());
            match ended {
                Ok(()) => {
                    if std::mem::replace(&mut reader.released, reached) != reached {
                        self.diary.write(Event::Released { sub: number, next: reached });
                    }
                    self.take_in(&items);
                    index += 1;
                }
                Err(BusError::Evicted { stamp }) => {
                    self.diary.write(Event::Evicted { sub: number, stamp });
                    self.take_in(&items);
                    let attachment = self.attachment.as_mut().expect("it has a reader");
                    drop(attachment.readers.swap_remove(index));
                    let asks = self.dice.chance(60) && !self.must_go_on_reading();
                    if asks && self.diary.phase() == Phase::Act {
                        self.subscribe()?;
                    }
                }
                Err(error) => return Err(self.unexpected("reading", &error)),
            }
        }
        Ok(())
    }

    /// What it learns of what it has read, and what it will answer.
    fn take_in(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Record { record: Record::Attached { address, .. }, .. } => self.heard_of(*address),
                Item::Record { .. } | Item::Gap { .. } => {}
                Item::Message { sender, to, .. } => {
                    if self.reactions.len() < REACTIONS && self.dice.chance(self.habits.reactions) {
                        self.reactions.push(if self.dice.chance(50) { *sender } else { *to });
                    }
                }
            }
        }
    }
}

/// A log's view of what a poll hands over.
pub fn item(found: &Found<'_>) -> Item {
    match found {
        Found::Gap { from, to } => Item::Gap { from: from.0, to: to.0 },
        Found::Record(stamp, record) => Item::Record { stamp: stamp.0, record: (*record).clone() },
        Found::Message(message) => {
            let bytes = message.to_vec();
            Item::Message {
                stamp: message.frame.place.stamp.0,
                index: message.frame.place.index,
                sender: message.sender.0,
                to: message.destination.0,
                id: message.frame.header.topic,
                len: bytes.len() as u32,
                crc: crc32fast::hash(&bytes),
            }
        }
    }
}
