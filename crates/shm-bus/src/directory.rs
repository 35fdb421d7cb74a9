//! The directory: who is attached, which groups there are and who is in them, as of a stamp.
//!
//! It is a function of the control records alone: whoever applies the same records has the same directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shm_bus_ring::Address;

use crate::record::{Credentials, MemberId, Record};

/// One attachment in the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Which owner of its id.
    pub generation: u32,
    /// Its unicast address.
    pub address: u64,
    /// Who it is.
    pub credentials: Credentials,
    /// How often it has lost its place as a reader.
    pub evictions: u8,
}

/// Which kinds of subscriptions of one attachment take an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Taking {
    counting: bool,
    lossy: bool,
}

impl Taking {
    fn kind(&mut self, lossy: bool) -> &mut bool {
        if lossy { &mut self.lossy } else { &mut self.counting }
    }

    fn has(self, lossy: bool) -> bool {
        if lossy { self.lossy } else { self.counting }
    }

    fn is_over(self) -> bool {
        !self.counting && !self.lossy
    }
}

/// Everything that is known of the members as of a stamp.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Every control record below this stamp has been applied.
    pub as_of: u64,
    /// Term of the present master.
    pub term: u64,
    /// The attachment that holds the role.
    pub master: Option<MemberId>,
    members: BTreeMap<u16, MemberEntry>,
    names: BTreeMap<String, u64>,
    groups: BTreeMap<u64, String>,
    joined: BTreeMap<u64, BTreeMap<u16, Taking>>,
    next_suffix: u64,
    next_prefix: u16,
}

impl Directory {
    /// The directory of a new bus: nobody, and the group of everyone, named `*`.
    pub fn new() -> Self {
        let mut directory = Directory { next_prefix: 1, ..Directory::default() };
        directory.name_group(Address::EVERYONE.0, "*");
        directory
    }

    fn name_group(&mut self, address: u64, name: &str) {
        self.names.insert(name.to_owned(), address);
        self.groups.insert(address, name.to_owned());
    }

    /// Whether a record that `sender` published is the master's word: its own, in its own term, or a new master's first.
    pub fn trusts(&self, sender: u16, term: u64, record: &Record) -> bool {
        match record {
            Record::Master { member } => member.id == sender && term > self.term,
            _ => term == self.term && self.master.is_some_and(|m| m.id == sender),
        }
    }

    /// Applies the record at `stamp`. Records that were applied before, or that a stale master published, change
    /// nothing.
    pub fn apply(&mut self, stamp: u64, term: u64, record: &Record) {
        if stamp < self.as_of || term < self.term {
            return;
        }
        self.as_of = stamp + 1;
        match record {
            Record::Master { member } => {
                self.term = term;
                self.master = Some(*member);
            }
            Record::Attached { member, address, credentials } => {
                let entry = MemberEntry {
                    generation: member.generation,
                    address: *address,
                    credentials: credentials.clone(),
                    evictions: 0,
                };
                self.next_suffix = self.next_suffix.max(Address(*address).suffix() + 1);
                self.members.insert(member.id, entry);
            }
            Record::Departed { member, .. } => {
                if self.has(*member) {
                    self.members.remove(&member.id);
                    self.leave(None, member.id, &[false, true]);
                }
            }
            Record::Evicted { member, count } => {
                if self.has(*member) {
                    self.leave(None, member.id, &[false]);
                    if let Some(entry) = self.members.get_mut(&member.id) {
                        entry.evictions = *count;
                    }
                }
            }
            Record::Group { address, name } => {
                self.next_prefix = self.next_prefix.max(Address(*address).prefix().saturating_add(1));
                self.name_group(*address, name);
            }
            Record::Joined { member, addresses, lossy } => {
                if self.has(*member) {
                    for address in addresses {
                        let taking = self.joined.entry(*address).or_default().entry(member.id).or_default();
                        *taking.kind(*lossy) = true;
                    }
                }
            }
            Record::Left { member, addresses, lossy, kept } => {
                if self.has(*member) {
                    for address in addresses.iter().chain(kept) {
                        self.leave(Some(*address), member.id, &[*lossy]);
                    }
                }
            }
        }
    }

    /// Ends memberships of some kinds, at one address or at all.
    fn leave(&mut self, address: Option<u64>, id: u16, lossy: &[bool]) {
        for (_, takers) in self.joined.iter_mut().filter(|(at, _)| address.is_none_or(|a| a == **at)) {
            if let Some(taking) = takers.get_mut(&id) {
                lossy.iter().for_each(|lossy| *taking.kind(*lossy) = false);
                if taking.is_over() {
                    takers.remove(&id);
                }
            }
        }
        self.joined.retain(|_, takers| !takers.is_empty());
    }

    /// Whether that attachment is a member.
    pub fn has(&self, member: MemberId) -> bool {
        self.members.get(&member.id).is_some_and(|m| m.generation == member.generation)
    }

    /// The members, by id.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &MemberEntry)> {
        self.members.iter().map(|(id, m)| (MemberId { id: *id, generation: m.generation }, m))
    }

    /// The member with that unicast address.
    pub fn member_at(&self, address: Address) -> Option<MemberId> {
        self.members().find(|(_, m)| m.address == address.0).map(|(id, _)| id)
    }

    /// The unicast address of a member.
    pub fn address_of(&self, id: u16) -> Option<Address> {
        self.members.get(&id).map(|m| Address(m.address))
    }

    /// How often a member has been evicted as the records say; nothing if it is none.
    pub fn evictions(&self, member: MemberId) -> Option<u8> {
        self.members.get(&member.id).filter(|m| m.generation == member.generation).map(|m| m.evictions)
    }

    /// The group of that name.
    pub fn group_named(&self, name: &str) -> Option<Address> {
        self.names.get(name).copied().map(Address)
    }

    /// The name of that group.
    pub fn name_of(&self, address: Address) -> Option<&str> {
        self.groups.get(&address.0).map(String::as_str)
    }

    /// The groups: address and name.
    pub fn groups(&self) -> impl Iterator<Item = (Address, &str)> {
        self.groups.iter().map(|(a, n)| (Address(*a), n.as_str()))
    }

    /// Whether somebody takes what is sent to that address.
    pub fn is_joined(&self, address: Address) -> bool {
        self.joined.contains_key(&address.0)
    }

    /// Whether lossy subscriptions of a member, or others, take what is sent to an address.
    pub fn takes(&self, member: MemberId, address: Address, lossy: bool) -> bool {
        let takers = self.joined.get(&address.0).filter(|_| self.has(member));
        takers.and_then(|takers| takers.get(&member.id)).is_some_and(|taking| taking.has(lossy))
    }

    /// The groups that a member has joined.
    pub fn joined_by(&self, id: u16) -> impl Iterator<Item = Address> + '_ {
        self.joined.iter().filter(move |(_, takers)| takers.contains_key(&id)).map(|(a, _)| Address(*a))
    }

    /// The next unicast address, never given before.
    pub fn free_address(&self) -> Address {
        Address::unicast(self.next_suffix)
    }

    /// The next group address, never given before; none when all prefixes are used up.
    pub fn free_group(&self) -> Option<Address> {
        (self.next_prefix < u16::MAX).then(|| Address::group(self.next_prefix))
    }

    /// Its bytes, as they stand in the directory memory.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("encoding into a growing vector cannot fail")
    }

    /// Reads bytes; nothing if they are no directory.
    pub fn decode(bytes: &[u8]) -> Option<Directory> {
        postcard::from_bytes(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u16) -> MemberId {
        MemberId { id, generation: 1 }
    }

    fn attached(id: u16) -> Record {
        let credentials = Credentials { pid: 1, start_time: 2, uid: 3, gid: 4 };
        Record::Attached { member: member(id), address: u64::from(id), credentials }
    }

    #[test]
    fn records_make_the_directory_and_it_survives_its_bytes() {
        let mut d = Directory::new();
        let group = d.free_group().unwrap();
        d.apply(1, 1, &Record::Master { member: member(0) });
        d.apply(2, 1, &attached(0));
        d.apply(3, 1, &attached(1));
        d.apply(4, 1, &Record::Group { address: group.0, name: "cpu".into() });
        d.apply(5, 1, &Record::Joined { member: member(1), addresses: vec![group.0, 1], lossy: false });
        assert_eq!(d.group_named("cpu"), Some(group));
        assert_eq!(d.joined_by(1).collect::<Vec<_>>(), [Address(1), group]);
        assert_eq!(d.free_address(), Address::unicast(2));
        let mut evicted = d.clone();
        evicted.apply(6, 1, &Record::Evicted { member: member(1), count: 3 });
        assert_eq!((evicted.evictions(member(1)), evicted.joined_by(1).count()), (Some(3), 0));
        assert_ne!(d.free_group(), Some(group));
        assert_eq!(Directory::decode(&d.encode()), Some(d.clone()));
        d.apply(
            6,
            1,
            &Record::Departed { member: member(1), address: 1, departure: crate::record::Departure::Died },
        );
        assert!(!d.is_joined(group) && d.member_at(Address(1)).is_none());
        assert_eq!(d.free_address(), Address::unicast(2), "addresses are never reused");
    }

    #[test]
    fn old_records_and_stale_masters_change_nothing() {
        let mut d = Directory::new();
        d.apply(5, 2, &Record::Master { member: member(1) });
        let before = d.clone();
        d.apply(4, 2, &attached(3));
        d.apply(9, 1, &attached(3));
        assert_eq!(d, before);
    }
}
