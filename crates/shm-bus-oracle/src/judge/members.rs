//! Who is a member at the stamp that is being settled: the control records so far.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shm_bus::{Address, MemberId, Record};

use super::calls::Attachment;
use super::{Failure, Rule, broken};
use crate::event::Snapshot;

type Outcome = Result<(), Failure>;

/// Former states that a look into the directory may still show.
const HISTORY: usize = 512;

struct Member {
    generation: u32,
    address: u64,
    /// What it takes: in subscriptions that count, and in lossy ones.
    joined: [BTreeSet<u64>; 2],
    evictions: u8,
}

/// Everything that the records say, and when the order last began something.
#[derive(Default)]
pub struct Members {
    by_id: BTreeMap<u16, Member>,
    ids: BTreeMap<u64, u16>,
    groups: BTreeMap<u64, String>,
    /// Addresses are given in ascending order and never again.
    last_address: Option<u64>,
    /// Attachments whose eviction was noticed and not recorded yet: the stamp that they lost first, and the highest in
    /// the order when they noticed.
    evicted: BTreeMap<u64, (u64, u64)>,
    /// Attachments that nobody waits for any more, having been evicted three times.
    worn: BTreeSet<u64>,
    /// States by the stamp behind the record that made them.
    history: VecDeque<Snapshot>,
    /// What was seen in the directory and is not settled yet.
    unsettled: Vec<(u32, Snapshot)>,
    /// The latest beginning of what has a smaller stamp than the one that is being settled.
    began: (u64, u64),
}

impl Members {
    /// At the first join record: the founder is attached, and there is the group of everyone.
    pub fn begin(&mut self, start: u64, founder: Option<&Attachment>, address: u64) {
        self.groups.insert(Address::EVERYONE.0, "*".to_owned());
        if let Some(founder) = founder {
            self.insert(founder.member, address);
        }
        self.remember(start);
    }

    fn insert(&mut self, member: MemberId, address: u64) {
        let joined = Default::default();
        let new = Member { generation: member.generation, address, joined, evictions: 0 };
        self.by_id.insert(member.id, new);
        self.ids.insert(address, member.id);
        self.last_address = self.last_address.max(Some(address));
    }

    fn get(&mut self, member: MemberId) -> Option<&mut Member> {
        self.by_id.get_mut(&member.id).filter(|m| m.generation == member.generation)
    }

    /// Whether somebody with that address is attached.
    pub fn is_attached(&self, address: u64) -> bool {
        self.ids.contains_key(&address)
    }

    /// Whether a message may be sent there.
    pub fn is_reachable(&self, address: u64) -> bool {
        if Address(address).is_group() {
            return self.groups.contains_key(&address);
        }
        let member = self.ids.get(&address).and_then(|id| self.by_id.get(id));
        member.is_some_and(|m| m.joined.iter().any(|joined| joined.contains(&address)))
    }

    /// Whoever reads a message to `to` is a member there.
    pub fn must_be_in(&self, stamp: u64, address: u64, lossy: bool, to: u64) -> Outcome {
        let member = self.ids.get(&address).and_then(|id| self.by_id.get(id));
        if member.is_some_and(|m| m.joined[usize::from(lossy)].contains(&to)) {
            return Ok(());
        }
        let text = format!(
            "at stamp {stamp} {} reads messages to {}, and has not joined it",
            Address(address),
            Address(to)
        );
        broken(Rule::Membership, text)
    }

    /// What is at a stamp was over before something with a smaller stamp began?
    pub fn in_real_time(&mut self, stamp: u64, began: u64, ended: u64) -> Outcome {
        let (latest, at) = self.began;
        if ended < latest {
            let text = format!(
                "what has stamp {stamp} was in the order at {ended}, and what has the smaller stamp {at} began at {latest}"
            );
            return broken(Rule::RealTime, text);
        }
        if began > latest {
            self.began = (began, stamp);
        }
        Ok(())
    }

    /// A subscription was told that `stamp` and what follows is lost: a record must say so. `latest` was in the order.
    pub fn evicted(&mut self, address: u64, stamp: u64, latest: u64) {
        self.evicted.entry(address).or_insert((stamp, latest));
    }

    /// It was refused a subscription for having been evicted too often.
    pub fn worn(&mut self, address: u64) {
        self.worn.insert(address);
    }

    /// The next record.
    pub fn apply(&mut self, stamp: u64, record: &Record) -> Outcome {
        let absurd = |why: &str| broken(Rule::Membership, format!("stamp {stamp}: {record:?}, {why}"));
        match record {
            Record::Master { member } => {
                if self.get(*member).is_none() {
                    return absurd("and it is not attached");
                }
            }
            Record::Attached { member, address, .. } => {
                if self.by_id.contains_key(&member.id) {
                    return absurd("and that id belongs to somebody");
                }
                if self.last_address >= Some(*address) {
                    return absurd("and that address was given before");
                }
                self.insert(*member, *address);
            }
            Record::Departed { member, address, .. } => {
                let Some(evictions) =
                    self.get(*member).filter(|m| m.address == *address).map(|m| m.evictions)
                else {
                    return absurd("and it was not attached");
                };
                // The record of the last one may not have come before it went.
                if self.worn.remove(address) && evictions < 2 {
                    return absurd(&format!("and it was said to be evicted three times, not {evictions}"));
                }
                self.by_id.remove(&member.id);
                self.ids.remove(address);
                self.evicted.remove(address);
            }
            Record::Group { address, name } => {
                if self.groups.values().any(|other| other == name) {
                    return absurd("and there is a group of that name");
                }
                if self.groups.insert(*address, name.clone()).is_some() {
                    return absurd("and there is a group with that address");
                }
            }
            Record::Joined { member, addresses, lossy } => {
                let Some(m) = self.get(*member) else { return absurd("and it is not attached") };
                m.joined[usize::from(*lossy)].extend(addresses);
                let address = m.address;
                if let Some((lost, latest)) = self.evicted.get(&address)
                    && stamp > *latest
                {
                    return absurd(&format!("and the record is missing that it was evicted, at {lost}"));
                }
            }
            Record::Left { member, addresses, lossy, kept } => {
                let Some(m) = self.get(*member) else { return absurd("and it is not attached") };
                let other = &m.joined[usize::from(!*lossy)];
                if addresses.iter().any(|a| other.contains(a)) || !kept.iter().all(|a| other.contains(a)) {
                    return absurd("and what it keeps is not what it takes otherwise");
                }
                m.joined[usize::from(*lossy)].retain(|a| !addresses.contains(a) && !kept.contains(a));
            }
            Record::Evicted { member, count } => {
                let Some(m) = self.get(*member) else { return absurd("and it is not attached") };
                if *count != m.evictions + 1 {
                    return absurd(&format!("and it was evicted {} times before", m.evictions));
                }
                m.evictions = *count;
                m.joined[0].clear();
                let address = m.address;
                if self.evicted.get(&address).is_some_and(|(lost, _)| *lost <= stamp + 1) {
                    self.evicted.remove(&address);
                }
            }
        }
        self.remember(stamp + 1);
        self.compare_waiting()
    }

    fn remember(&mut self, as_of: u64) {
        let member = |(id, m): (&u16, &Member)| {
            let joined = m.joined[0].union(&m.joined[1]).copied().collect();
            (MemberId { id: *id, generation: m.generation }, m.address, joined)
        };
        self.history.push_back(Snapshot {
            as_of,
            members: self.by_id.iter().map(member).collect(),
            groups: self.groups.iter().map(|(a, n)| (*a, n.clone())).collect(),
        });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// Compares what was seen in the directory and can be judged by now.
    fn compare_waiting(&mut self) -> Outcome {
        let newest = self.history.back().map_or(0, |s| s.as_of);
        let (due, rest) =
            std::mem::take(&mut self.unsettled).into_iter().partition(|(_, s)| s.as_of <= newest);
        self.unsettled = rest;
        let due: Vec<(u32, Snapshot)> = due;
        due.iter().try_for_each(|(process, snapshot)| self.compare(*process, snapshot))
    }

    /// Somebody has looked into the directory.
    pub fn compare(&mut self, process: u32, snapshot: &Snapshot) -> Outcome {
        let newest = self.history.back().map_or(0, |s| s.as_of);
        if snapshot.as_of > newest {
            self.unsettled.push((process, snapshot.clone()));
            return Ok(());
        }
        match self.history.iter().find(|state| state.as_of == snapshot.as_of) {
            Some(state) if state == snapshot => Ok(()),
            Some(state) => {
                let text =
                    format!("process {process} saw in the directory {snapshot:?}; the records say {state:?}");
                broken(Rule::Membership, text)
            }
            // Older than what is remembered.
            None if self.history.front().is_some_and(|oldest| snapshot.as_of < oldest.as_of) => Ok(()),
            None => {
                let text = format!(
                    "process {process} saw the directory as of {}, which is not behind a record",
                    snapshot.as_of
                );
                broken(Rule::Membership, text)
            }
        }
    }

    /// Everything is settled.
    pub fn finish(&mut self) -> Outcome {
        if let Some((address, (stamp, _))) = self.evicted.first_key_value() {
            let text = format!("{} lost its place at {stamp}, and no record says so", Address(*address));
            return broken(Rule::Membership, text);
        }
        match self.unsettled.first() {
            None => Ok(()),
            Some((process, snapshot)) => {
                let text = format!(
                    "process {process} saw the directory as of {}, which is not behind a record",
                    snapshot.as_of
                );
                broken(Rule::Membership, text)
            }
        }
    }
}
