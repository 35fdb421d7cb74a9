//! In the order of stamps: what was there is complete, and everybody who had to has seen it.

use shm_bus::{Address, Record};

use super::order::{RECORD, Slot, What};
use super::{Failure, Judge, Rule, broken};

type Outcome = Result<(), Failure>;

impl Judge {
    /// Settles what can be: every subscription has passed it, and no call is going on that may still get such a stamp.
    pub(super) fn settle(&mut self) -> Outcome {
        let open = self.subscriptions.values().filter(|s| s.end.is_none());
        let Some(mut limit) = open.map(|s| s.released).min() else { return Ok(()) };
        for process in self.processes.values() {
            if let Some(key) = process.publishing {
                limit = limit.min(self.publishes[&key].above + 1);
            }
            if let Some(call) = &process.subscribing {
                limit = limit.min(call.above + 1);
            }
        }
        self.settle_below(limit)
    }

    pub(super) fn settle_below(&mut self, limit: u64) -> Outcome {
        let before = self.order.base();
        while self.order.has_begun() && self.order.base() < limit {
            let stamp = self.order.base();
            let slot = self.order.pass();
            self.settle_one(stamp, slot)?;
            self.counts.stamps += 1;
        }
        let base = self.order.base();
        if base != before {
            self.subscriptions.retain(|_, s| s.end.is_none_or(|end| end > base));
            for subscription in self.subscriptions.values_mut().filter(|s| s.lossy) {
                while subscription.gaps.front().is_some_and(|(_, to)| *to <= base) {
                    subscription.gaps.pop_front();
                }
            }
        }
        Ok(())
    }

    fn settle_one(&mut self, stamp: u64, slot: Slot) -> Outcome {
        self.check_start(stamp, &slot.what)?;
        match &slot.what {
            What::Unknown => self.settle_unknown(stamp),
            What::Message(key) => self.settle_message(stamp, *key, &slot),
            What::Record(record) => self.settle_record(stamp, record, &slot),
        }
    }

    /// A subscription starts behind its own join record.
    fn check_start(&mut self, stamp: u64, what: &What) -> Outcome {
        for ((number, sub), subscription) in self.subscriptions.iter().filter(|(_, s)| s.start == stamp + 1) {
            let member = self.attachments.get(&subscription.address).map(|a| a.member);
            let joined = match what {
                What::Record(Record::Joined { member: joined, addresses, lossy }) => {
                    Some(*joined) == member
                        && *addresses == subscription.addresses
                        && *lossy == subscription.lossy
                }
                _ => false,
            };
            if !joined {
                let text = format!(
                    "subscription {sub} of process {number} starts behind stamp {stamp}, and that is no join record of it: {what:?}"
                );
                return broken(Rule::Membership, text);
            }
        }
        Ok(())
    }

    /// Nobody has told what is there: then its publisher is dead, and nobody had to read it.
    fn settle_unknown(&mut self, stamp: u64) -> Outcome {
        let candidates: Vec<u64> = self.orphans.iter().filter(|key| self.may_be_at(*key, stamp)).collect();
        if self.orphans.explain(stamp, candidates) {
            return Ok(());
        }
        let text = format!(
            "stamp {stamp} is in the order, nobody has published or read it, and no death explains it"
        );
        broken(Rule::Delivery, text)
    }

    fn may_be_at(&self, key: u64, stamp: u64) -> bool {
        let publish = &self.publishes[&key];
        let owed = self.subscriptions.values().any(|subscription| {
            subscription.covers(stamp) && publish.parts.iter().any(|p| subscription.wanted(&p.to).is_some())
        });
        publish.above < stamp && !owed && self.members.is_attached(publish.from)
    }

    fn settle_message(&mut self, stamp: u64, key: u64, slot: &Slot) -> Outcome {
        let publish = self.publishes.remove(&key).expect("it is at this stamp");
        let number = publish.process;
        let ended = [publish.returned, slot.seen].into_iter().flatten().min().unwrap_or(u64::MAX);
        let began = publish.began;
        self.members.in_real_time(stamp, began, ended)?;
        if !self.members.is_attached(publish.from) {
            let text = format!("stamp {stamp} is a message of process {number}, which is not attached there");
            return broken(Rule::Membership, text);
        }
        for part in &publish.parts {
            self.parts.remove(&part.id);
            self.counts.messages += 1;
            if let Some(to) = part.to.iter().find(|to| !self.members.is_reachable(**to)) {
                let text =
                    format!("stamp {stamp} was sent to {}, which takes no messages there", Address(*to));
                return broken(Rule::Membership, text);
            }
        }
        for (who, subscription) in self.subscriptions.iter().filter(|(_, s)| s.covers(stamp)) {
            let got: Vec<u16> = slot.readers.iter().filter(|r| r.0 == *who).map(|r| r.1).collect();
            let wanted = publish.parts.iter().enumerate();
            let wanted = wanted.filter_map(|(i, p)| Some((i as u16, subscription.wanted(&p.to)?)));
            let owed: Vec<u16> = wanted.clone().map(|(index, _)| index).collect();
            if got != owed {
                let (number, sub) = who;
                let text = format!(
                    "of stamp {stamp} subscription {sub} of process {number} should have had the messages {owed:?} and had {got:?}"
                );
                return broken(Rule::Delivery, text);
            }
            for (_, to) in wanted {
                self.members.must_be_in(stamp, subscription.address, subscription.lossy, to)?;
            }
        }
        Ok(())
    }

    fn settle_record(&mut self, stamp: u64, record: &Record, slot: &Slot) -> Outcome {
        self.counts.records += 1;
        let seen = slot.seen.unwrap_or(u64::MAX);
        let (began, ended) = self.check_cause(stamp, record, seen)?;
        self.members.in_real_time(stamp, began, ended.min(seen))?;
        self.members.apply(stamp, record)?;
        match record {
            Record::Master { .. } => self.counts.takeovers += 1,
            Record::Departed { address, .. } => {
                self.forget_orphans(*address);
                self.attachments.remove(address);
            }
            Record::Evicted { member, .. } => self.check_evicted(stamp, *member)?,
            _ => {}
        }
        for ((number, sub), subscription) in &self.subscriptions {
            let has = slot.readers.contains(&((*number, *sub), RECORD));
            if subscription.records && subscription.covers(stamp) && !has {
                let text = format!(
                    "subscription {sub} of process {number} has not seen the record at {stamp}: {record:?}"
                );
                return broken(Rule::Delivery, text);
            }
        }
        Ok(())
    }

    /// What of a dead process was not seen before its departure is not in the order, or nobody had to see it.
    fn forget_orphans(&mut self, address: u64) {
        let of_it: Vec<u64> = self.orphans.iter().filter(|k| self.publishes[k].from == address).collect();
        for key in of_it {
            if self.orphans.forget(key) {
                self.counts.messages += self.publishes[&key].parts.len() as u64;
            }
            if self.publishes.remove(&key).is_some() {
                self.parts.retain(|_, (publish, _)| *publish != key);
            }
        }
    }

    /// Whoever has lost its place reads nothing behind the record that says so. A lossy subscription has none to lose.
    fn check_evicted(&self, stamp: u64, member: shm_bus::MemberId) -> Outcome {
        let behind = self.subscriptions.iter().find(|(_, s)| {
            let of_it = self.attachments.get(&s.address).is_some_and(|a| a.member == member);
            of_it && !s.lossy && s.start <= stamp && s.end.is_none_or(|end| end > stamp + 1)
        });
        match behind {
            None => Ok(()),
            Some(((number, sub), subscription)) => {
                let text = format!(
                    "subscription {sub} of process {number} goes on to {:?} behind stamp {stamp}, which says that it is evicted",
                    subscription.end.or(Some(subscription.released))
                );
                broken(Rule::Membership, text)
            }
        }
    }

    /// Somebody must have caused a record. Gives when that began and when it was over, as far as is known.
    fn check_cause(&self, stamp: u64, record: &Record, seen: u64) -> Result<(u64, u64), Failure> {
        let attachment_of = |member| self.attachments.values().find(|a| a.member == member);
        let no_cause = |why: &str| broken(Rule::Membership, format!("stamp {stamp}: {record:?}, {why}"));
        match record {
            Record::Master { .. } | Record::Group { .. } | Record::Evicted { .. } => Ok((0, u64::MAX)),
            Record::Attached { member, address, credentials } => {
                let all = self.processes.iter().chain(self.gone.iter().rev());
                let mut of_that_pid = all.filter(|(_, p)| p.pid == credentials.pid);
                let Some((number, process)) = of_that_pid.next() else {
                    return no_cause("and no process has that pid");
                };
                match self.attachments.get(address) {
                    Some(attachment) if attachment.member != *member || attachment.process != *number => {
                        no_cause("and somebody else says that it has this address")
                    }
                    Some(attachment) => Ok((attachment.began, attachment.returned)),
                    None if self.gone.contains_key(number) => Ok((0, u64::MAX)),
                    None => match process.attaching {
                        Some(began) if began <= seen => Ok((began, u64::MAX)),
                        // It attached more than once, and this is a try that it does not know of.
                        _ if self.attachments.values().any(|a| a.process == *number) => Ok((0, u64::MAX)),
                        _ => no_cause("and that process was not attaching"),
                    },
                }
            }
            Record::Departed { address, .. } => {
                let Some(attachment) = self.attachments.get(address) else { return Ok((0, u64::MAX)) };
                let number = attachment.process;
                let process = self.processes.get(&number).or_else(|| self.gone.get(&number));
                let killed = process.and_then(|p| p.killed);
                match [attachment.leaving, killed].into_iter().flatten().min() {
                    Some(began) if began <= seen => Ok((began, u64::MAX)),
                    _ => no_cause("and it lived and had not detached"),
                }
            }
            Record::Joined { member, addresses, .. } => {
                let Some(attachment) = attachment_of(*member) else {
                    return no_cause("and nobody says that it is this attachment");
                };
                let asked =
                    self.subscriptions.range((attachment.process, 0)..=(attachment.process, u32::MAX));
                // An answer that did not come is asked for again: then the later record is the one that counts.
                let mut asked = asked.filter(|(_, s)| s.start > stamp && s.addresses == *addresses);
                match asked.next() {
                    Some((_, s)) => Ok((s.began, s.returned)),
                    None if self.gone.contains_key(&attachment.process) => Ok((0, u64::MAX)),
                    None => no_cause("and it has not subscribed"),
                }
            }
            Record::Left { member, .. } => match attachment_of(*member) {
                Some(attachment) if attachment.closed => Ok((0, u64::MAX)),
                _ => no_cause("and it has closed no subscription"),
            },
        }
    }
}
