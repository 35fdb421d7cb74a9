//! Coming and going: attach, subscribe, and back.

use shm_bus::{
    Address, Bus, BusError, BusLoan, Directory, Overload, Publisher, SubscribeOptions, Subscription,
};

use super::{Outcome, Participant};
use crate::event::{Event, Snapshot};
use crate::plan::{BUS, GROUPS, LONG};

/// Subscriptions that one attachment has at once.
const READERS: usize = 4;

/// One attachment, and what belongs to it.
pub struct Attachment {
    pub bus: Bus,
    pub publisher: Publisher,
    pub address: u64,
    pub readers: Vec<Reader>,
    /// Space that is filled and not published yet.
    pub loans: Vec<(BusLoan, Vec<Address>, Vec<u8>)>,
    /// Addresses of groups that are known to be there.
    pub groups: Vec<u64>,
    /// Whether it was evicted so often that nobody waits for it any more.
    pub worn: bool,
}

/// A subscription and its number.
pub struct Reader {
    pub number: u32,
    pub subscription: Subscription,
    /// Everything below was said to be released.
    pub released: u64,
    /// Whether it may miss something, and how much it has said it did.
    pub lossy: bool,
    pub missed: u64,
}

impl Attachment {
    pub fn learn(&mut self, group: u64) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    pub fn give_up_loans(&mut self) {
        for (loan, ..) in self.loans.drain(..).rev() {
            self.publisher.abandon(loan);
        }
    }
}

/// What of a directory can be compared with what somebody else knows.
pub fn snapshot(directory: &Directory) -> Snapshot {
    let joined = |id| directory.joined_by(id).map(|a| a.0).collect();
    Snapshot {
        as_of: directory.as_of,
        members: directory.members().map(|(m, entry)| (m, entry.address, joined(m.id))).collect(),
        groups: directory.groups().map(|(a, name)| (a.0, name.to_owned())).collect(),
    }
}

impl Participant {
    pub(super) fn attach(&mut self) -> Outcome<()> {
        let options = self.role.place.options(&self.habits);
        self.diary.write(Event::Attach);
        let attached = Bus::attach(BUS, &options).and_then(|bus| Ok((bus.publisher()?, bus)));
        match attached {
            Ok((publisher, bus)) => {
                let address = bus.address().0;
                self.diary.write(Event::Attached { member: bus.member(), address });
                self.heard_of(address);
                let (readers, loans) = (Vec::new(), Vec::new());
                let groups = vec![Address::EVERYONE.0];
                let worn = false;
                self.attachment = Some(Attachment { bus, publisher, address, readers, loans, groups, worn });
                Ok(())
            }
            Err(error) => {
                self.diary.write(Event::NotAttached { code: error.code().to_owned() });
                Err(self.unexpected("attaching", &error))
            }
        }
    }

    /// With or without closing its subscriptions first.
    pub(super) fn detach(&mut self) -> Outcome<()> {
        if self.dice.chance(50) {
            while self.attachment.as_ref().is_some_and(|a| !a.readers.is_empty()) {
                self.unsubscribe()?;
            }
        }
        if let Some(mut attachment) = self.attachment.take() {
            if self.dice.chance(50) {
                attachment.give_up_loans();
            }
            let address = attachment.address;
            self.diary.write(Event::Detach { address });
            attachment.bus.close();
            drop(attachment);
            self.diary.write(Event::Detached { address });
        }
        Ok(())
    }

    /// To some groups, and in half of the cases to its own address.
    pub(super) fn subscribe(&mut self) -> Outcome<()> {
        let mut groups: Vec<String> = Vec::new();
        for name in GROUPS {
            if self.dice.chance(30) {
                groups.push(name.to_owned());
            }
        }
        let own_address = self.dice.chance(50);
        let mut lossy = self.dice.chance(self.habits.lossy);
        if self.attachment.as_ref().is_some_and(|a| a.worn) {
            lossy = true;
        }
        let options = SubscribeOptions {
            overload: Some(if lossy { Overload::Lossy } else { self.habits.overload }),
            timeout: LONG,
            records: self.dice.chance(50),
        };
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        if attachment.readers.len() >= READERS {
            return Ok(());
        }
        let number = self.next_subscription;
        self.next_subscription += 1;
        self.diary.write(Event::Subscribe { sub: number, address: attachment.address });
        match attachment.bus.subscribe(&groups, own_address, options) {
            Ok(subscription) => {
                let start = subscription.position().0;
                let addresses: Vec<u64> = subscription.addresses().iter().map(|a| a.0).collect();
                let groups = addresses.iter().copied().filter(|a| Address(*a).is_group());
                groups.for_each(|group| attachment.learn(group));
                attachment.readers.push(Reader { number, subscription, released: start, lossy, missed: 0 });
                let records = true;
                self.diary.write(Event::Subscribed { sub: number, start, addresses, records, lossy });
                Ok(())
            }
            // It was evicted too often to be waited for.
            Err(error @ BusError::Refused { .. }) => {
                attachment.worn = true;
                self.diary.write(Event::NotSubscribed { sub: number, code: error.code().to_owned() });
                Ok(())
            }
            Err(error) => {
                self.diary.write(Event::NotSubscribed { sub: number, code: error.code().to_owned() });
                Err(self.unexpected("subscribing", &error))
            }
        }
    }

    /// Closes a subscription, in every fourth case by dropping it.
    pub(super) fn unsubscribe(&mut self) -> Outcome<()> {
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        if attachment.readers.is_empty() {
            return Ok(());
        }
        let index = self.dice.roll(attachment.readers.len() as u64) as usize;
        let mut reader = attachment.readers.swap_remove(index);
        self.diary.write(Event::Close { sub: reader.number });
        let closed = if self.dice.chance(25) { Ok(()) } else { reader.subscription.close(LONG) };
        drop(reader.subscription);
        self.diary.write(Event::Closed { sub: reader.number });
        match closed {
            Ok(()) => Ok(()),
            Err(error @ BusError::NoMaster { .. }) | Err(error) => Err(self.unexpected("closing", &error)),
        }
    }
}
