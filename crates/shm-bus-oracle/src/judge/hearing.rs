//! In the order of time: what each line means for its process, and where each message is.

use std::collections::VecDeque;

use super::calls::{Attachment, Process, Publish, Subscribing, Subscription};
use super::order::{RECORD, What};
use super::{Failure, Judge, Rule, broken};
use crate::event::{Event, Item, Line, Part};

type Outcome = Result<(), Failure>;

/// Refused messages that are remembered for a better word.
const REFUSED: usize = 10_000;
/// Processes that are remembered after their end, until their departure is settled.
const GONE: usize = 1000;
/// What is said to one that was evicted three times and wants to be waited for again.
const WORN: &str = "ERR_SHM_BUS_REFUSED";
/// What may be said to a publisher without anything being wrong.
const REFUSALS: [&str; 7] = [
    "ERR_SHM_BUS_WOULD_BLOCK",
    "ERR_SHM_BUS_UNKNOWN_ADDRESS",
    "ERR_SHM_BUS_UNKNOWN_GROUP",
    "ERR_SHM_BUS_UNREACHABLE",
    "ERR_SHM_BUS_DUPLICATE_DESTINATION",
    "ERR_SHM_BUS_TOO_BIG",
    "ERR_SHM_BUS_NO_MASTER",
];

impl Judge {
    /// Hears a line. Lines come in the order of time, those of one process in its own order.
    pub fn hear(&mut self, number: u32, line: &Line) -> Outcome {
        let time = line.time;
        if time < self.time {
            return broken(Rule::Log, format!("a line of process {number} from {time} comes too late"));
        }
        self.time = time;
        if let Event::Started { pid } = line.event {
            let process = Process { pid, ..Process::default() };
            if self.processes.insert(number, process).is_some() || self.gone.contains_key(&number) {
                return broken(Rule::Log, format!("process {number} is started twice"));
            }
            return Ok(());
        }
        self.process(number)?;
        self.counts.edges += 1;
        self.understand(number, time, &line.event)
    }

    fn understand(&mut self, number: u32, time: u64, event: &Event) -> Outcome {
        match event {
            Event::Started { .. } | Event::Done | Event::Drained | Event::Note(_) | Event::Beat => Ok(()),
            Event::Closed { .. } | Event::Detached { .. } => Ok(()),
            Event::Killed => {
                let process = self.process(number)?;
                if process.killed.is_none() {
                    process.killed = Some(time);
                    self.counts.deaths += 1;
                }
                Ok(())
            }
            Event::Gone => self.on_gone(number),
            Event::Attach => {
                self.process(number)?.attaching = Some(time);
                Ok(())
            }
            Event::Attached { member, address } => {
                let began = self.process(number)?.attaching.take().unwrap_or(time);
                let attachment = Attachment {
                    process: number,
                    member: *member,
                    began,
                    returned: time,
                    leaving: None,
                    closed: false,
                };
                match self.attachments.insert(*address, attachment) {
                    None => Ok(()),
                    Some(_) => broken(Rule::Membership, format!("the address {address} is given twice")),
                }
            }
            Event::NotAttached { code } => {
                broken(Rule::Unexpected, format!("process {number} could not attach: {code}"))
            }
            Event::Detach { address } => {
                if let Some(attachment) = self.attachments.get_mut(address) {
                    attachment.leaving = Some(time);
                    attachment.closed = true;
                }
                self.end_subscriptions(number, Some(*address));
                self.settle()
            }
            Event::Subscribe { sub, address } => {
                let above = self.order.latest();
                let process = self.process(number)?;
                let (number, address, known) = (*sub, *address, process.known);
                process.subscribing = Some(Subscribing { number, address, began: time, known, above });
                Ok(())
            }
            Event::Subscribed { sub, start, addresses, records, lossy } => {
                self.on_subscribed(number, time, *sub, *start, addresses, (*records, *lossy))
            }
            Event::NotSubscribed { sub, code } => {
                let call = self.process(number)?.subscribing.take();
                if let Some(call) = call.filter(|_| code == WORN) {
                    self.members.worn(call.address);
                    return self.settle();
                }
                broken(Rule::Unexpected, format!("process {number} got no subscription {sub}: {code}"))
            }
            Event::Close { sub } => {
                if let Some(subscription) = self.subscriptions.get_mut(&(number, *sub)) {
                    subscription.end = Some(subscription.released);
                    let address = subscription.address;
                    self.may_leave(address);
                }
                self.settle()
            }
            Event::Got { sub, items } => {
                items.iter().try_for_each(|item| self.on_item(number, time, *sub, item))
            }
            Event::Released { sub, next } => self.on_released(number, *sub, *next),
            Event::Evicted { sub, stamp } => self.on_evicted(number, *sub, *stamp),
            Event::Publish { from, parts } => self.on_publish(number, time, *from, parts),
            Event::Published { stamp, began } => self.on_published(number, time, *stamp, *began),
            Event::Refused { code } => self.on_refused(number, code),
            Event::Sent { token } => {
                let known = self.process(number)?.known;
                self.tokens.insert(*token, (time, known));
                Ok(())
            }
            Event::Received { token } => {
                let Some((_, known)) = self.tokens.remove(token) else {
                    let text = format!("process {number} has received token {token:#x} before it was sent");
                    return broken(Rule::Causality, text);
                };
                self.process(number)?.known.told(known, *token, (token >> 32) as u32);
                self.counts.tokens += 1;
                self.counts.edges += 1;
                Ok(())
            }
            Event::Directory(snapshot) => {
                self.counts.snapshots += 1;
                self.members.compare(number, snapshot)
            }
        }
    }

    pub(super) fn process(&mut self, number: u32) -> Result<&mut Process, Failure> {
        match self.processes.get_mut(&number) {
            Some(process) => Ok(process),
            None => broken(Rule::Log, format!("process {number} was never started, or is gone")),
        }
    }

    fn on_gone(&mut self, number: u32) -> Outcome {
        self.process(number)?;
        let mut process = self.processes.remove(&number).expect("just seen");
        if let Some(key) = process.publishing.take() {
            self.counts.interrupted += 1;
            if self.publishes.get(&key).is_some_and(|p| p.stamp.is_none()) {
                self.orphans.add(key);
            }
        }
        self.end_subscriptions(number, None);
        self.gone.insert(number, process);
        if self.gone.len() > GONE {
            self.gone.pop_first();
        }
        self.settle()
    }

    /// Of one attachment, or all of a process.
    fn end_subscriptions(&mut self, number: u32, address: Option<u64>) {
        let of_process = self.subscriptions.range_mut((number, 0)..=(number, u32::MAX));
        for (_, subscription) in of_process {
            if address.is_none_or(|address| address == subscription.address) {
                subscription.end.get_or_insert(subscription.released);
            }
        }
    }

    fn on_subscribed(
        &mut self,
        number: u32,
        time: u64,
        sub: u32,
        start: u64,
        addresses: &[u64],
        (records, lossy): (bool, bool),
    ) -> Outcome {
        let process = self.process(number)?;
        let Some(call) = process.subscribing.take().filter(|call| call.number == sub) else {
            return broken(Rule::Log, format!("process {number} has not asked for subscription {sub}"));
        };
        let known = call.known;
        if start <= known.stamp + 1 && known.stamp > 0 {
            let text = format!("process {number} joins at {start} minus one, and had known {known}");
            return broken(Rule::Causality, text);
        }
        process.known.joined(start - 1, number, sub);
        if !self.order.has_begun() {
            self.order.begin(start);
            self.members.begin(start, self.attachments.get(&call.address), call.address);
        } else if start <= call.above + 1 {
            let text = format!("process {number} joins at {start} minus one, which was in the order before");
            return broken(Rule::RealTime, text);
        }
        self.order.reached(start - 1);
        let subscription = Subscription {
            address: call.address,
            began: call.began,
            returned: time,
            start,
            addresses: addresses.to_vec(),
            records,
            lossy,
            gaps: VecDeque::new(),
            last: None,
            released: start,
            end: None,
            doubts: Vec::new(),
        };
        self.subscriptions.insert((number, sub), subscription);
        self.settle()
    }

    fn on_item(&mut self, number: u32, time: u64, sub: u32, item: &Item) -> Outcome {
        let (stamp, index) = match item {
            Item::Message { stamp, index, .. } => (*stamp, *index),
            Item::Record { stamp, .. } => (*stamp, RECORD),
            Item::Gap { from, to } => return self.on_gap(number, sub, *from, *to),
        };
        let key = (number, sub);
        let Some(subscription) = self.subscriptions.get_mut(&key) else {
            return broken(Rule::Log, format!("process {number} reads in an unknown subscription {sub}"));
        };
        let at = format!("stamp {stamp} in subscription {sub} of process {number}");
        if subscription.end.is_some() || stamp < subscription.start {
            return broken(Rule::Delivery, format!("{at} is outside of what it may see"));
        }
        if subscription.last.is_some_and(|last| last >= (stamp, index)) {
            return broken(Rule::Order, format!("{at}, index {index}, after {:?}", subscription.last));
        }
        subscription.last = Some((stamp, index));
        match item {
            Item::Record { record, .. } => {
                self.order.put(stamp, What::Record(record.clone()))?;
            }
            Item::Gap { .. } => {}
            Item::Message { sender, to, id, len, crc, .. } => {
                let Some((publish, place)) = self.parts.get(id).copied() else {
                    if self.refused.contains_key(id) {
                        return broken(
                            Rule::Refused,
                            format!("message {id:#x}, which was refused, is at {at}"),
                        );
                    }
                    return broken(Rule::Content, format!("{at} is message {id:#x}, which nobody has sent"));
                };
                if place != index {
                    let text = format!("{at} has message {id:#x} at index {index} instead of {place}");
                    return broken(Rule::Order, text);
                }
                self.bind(publish, stamp)?;
                self.check_delivery(key, &at, publish, &(*sender, *to, *len, *crc), index)?;
                self.counts.deliveries += 1;
                self.counts.edges += 1;
            }
        }
        let slot = self.order.slot(stamp)?;
        slot.seen.get_or_insert(time);
        slot.readers.push((key, index));
        self.process(number)?.known.read(stamp, number, sub);
        Ok(())
    }

    fn on_gap(&mut self, number: u32, sub: u32, from: u64, to: u64) -> Outcome {
        let Some(subscription) = self.subscriptions.get_mut(&(number, sub)) else {
            return broken(Rule::Log, format!("process {number} reads in an unknown subscription {sub}"));
        };
        // Of a batch it may have had the beginning.
        let behind = subscription.last.map_or(subscription.start, |(stamp, _)| stamp);
        if !subscription.lossy || to <= from || from < behind.max(subscription.released) {
            let text = format!("subscription {sub} of process {number} has a gap from {from} to {to}");
            return broken(Rule::Delivery, format!("{text}, behind {behind}"));
        }
        subscription.gaps.push_back((from, to));
        subscription.last = Some((to - 1, RECORD));
        self.counts.gaps += 1;
        self.counts.missed += to - from;
        Ok(())
    }

    fn check_delivery(
        &mut self,
        key: (u32, u32),
        at: &str,
        publish: u64,
        (sender, to, len, crc): &(u64, u64, u32, u32),
        index: u16,
    ) -> Outcome {
        let publish = &self.publishes[&publish];
        let part = &publish.parts[usize::from(index)];
        let subscription = self.subscriptions.get_mut(&key).expect("the caller has it");
        if *sender != publish.from {
            let text = format!("{at} is said to be from {sender} and is from {}", publish.from);
            return broken(Rule::Content, text);
        }
        if subscription.wanted(&part.to) != Some(*to) {
            let text = format!("{at} is said to be for {to}, and was sent to {:?}", part.to);
            return broken(Rule::Delivery, text);
        }
        if (*len, *crc) != (part.len, part.crc) {
            // Under a lease that ends well, it was so.
            let stamp = subscription.last.map_or(0, |last| last.0);
            let text =
                format!("{at} has {len} bytes of CRC {crc:#x}: {} of {:#x} were sent", part.len, part.crc);
            subscription.doubts.push((stamp, text));
        }
        Ok(())
    }

    fn on_released(&mut self, number: u32, sub: u32, next: u64) -> Outcome {
        let Some(subscription) = self.subscriptions.get_mut(&(number, sub)) else {
            return broken(Rule::Log, format!("process {number} has no subscription {sub}"));
        };
        if let Some((_, text)) = subscription.doubts.pop() {
            return broken(Rule::Content, text);
        }
        // A batch that was read in part is read to its end from its own stamp on.
        let last = subscription.last.map_or(0, |(stamp, _)| stamp);
        if next < subscription.released || next < last {
            let text = format!("subscription {sub} of process {number} goes back to {next}");
            return broken(Rule::Order, text);
        }
        subscription.released = next;
        self.order.reached(next - 1);
        self.process(number)?.known.read(next - 1, number, sub);
        self.settle()
    }

    fn on_evicted(&mut self, number: u32, sub: u32, stamp: u64) -> Outcome {
        let Some(subscription) = self.subscriptions.get_mut(&(number, sub)) else {
            return broken(Rule::Log, format!("process {number} has no subscription {sub}"));
        };
        if stamp < subscription.released {
            let text = format!(
                "subscription {sub} of process {number} is told that {stamp} is lost, and had released everything below {}",
                subscription.released
            );
            return broken(Rule::Delivery, text);
        }
        if let Some((_, text)) = subscription.doubts.iter().find(|(at, _)| *at < stamp) {
            return broken(
                Rule::Content,
                format!("{text}; only {stamp} and what follows is said to be lost"),
            );
        }
        subscription.end = Some(stamp);
        let address = subscription.address;
        self.members.evicted(address, stamp, self.order.latest());
        self.may_leave(address);
        self.counts.evictions += 1;
        self.settle()
    }

    fn may_leave(&mut self, address: u64) {
        if let Some(attachment) = self.attachments.get_mut(&address) {
            attachment.closed = true;
        }
    }

    fn on_publish(&mut self, number: u32, time: u64, from: u64, parts: &[Part]) -> Outcome {
        let above = self.order.latest();
        let key = self.next_publish;
        self.next_publish += 1;
        let process = self.process(number)?;
        if process.publishing.replace(key).is_some() {
            return broken(Rule::Log, format!("process {number} publishes twice at once"));
        }
        let publish = Publish {
            process: number,
            from,
            parts: parts.to_vec(),
            began: time,
            returned: None,
            stamp: None,
            known: process.known,
            above,
        };
        for (index, part) in parts.iter().enumerate() {
            if self.parts.insert(part.id, (key, index as u16)).is_some() {
                return broken(Rule::Log, format!("message {:#x} is published twice", part.id));
            }
        }
        self.publishes.insert(key, publish);
        Ok(())
    }

    fn on_published(&mut self, number: u32, time: u64, stamp: u64, began: u64) -> Outcome {
        let Some(key) = self.process(number)?.publishing.take() else {
            return broken(Rule::Log, format!("process {number} has published nothing"));
        };
        self.bind(key, stamp)?;
        let publish = self.publishes.get_mut(&key).expect("it was pending");
        publish.returned = Some(time);
        publish.began = publish.began.max(began);
        self.process(number)?.known.published(stamp, number);
        self.settle()
    }

    fn on_refused(&mut self, number: u32, code: &str) -> Outcome {
        let Some(key) = self.process(number)?.publishing.take() else {
            return broken(Rule::Log, format!("process {number} has published nothing"));
        };
        if !REFUSALS.contains(&code) {
            return broken(Rule::Unexpected, format!("process {number} could not publish: {code}"));
        }
        let publish = self.publishes.remove(&key).expect("it was pending");
        if let Some(stamp) = publish.stamp {
            let text = format!("what process {number} was refused with {code} is at stamp {stamp}");
            return broken(Rule::Refused, text);
        }
        let latest = self.order.latest();
        if self.refused.len() >= REFUSED {
            let base = self.order.base();
            self.refused.retain(|_, at| *at >= base);
        }
        for part in &publish.parts {
            self.parts.remove(&part.id);
            self.refused.insert(part.id, latest);
        }
        self.counts.refused += publish.parts.len() as u64;
        self.settle()
    }

    /// Somebody says where a publish is.
    fn bind(&mut self, key: u64, stamp: u64) -> Outcome {
        let publish = self.publishes.get_mut(&key).expect("the caller has it");
        let number = publish.process;
        if let Some(other) = publish.stamp.filter(|other| *other != stamp) {
            let text = format!("what process {number} published is at stamp {other} and at {stamp}");
            return broken(Rule::Order, text);
        }
        if publish.stamp.replace(stamp).is_some() {
            return Ok(());
        }
        if stamp <= publish.known.stamp {
            let text = format!(
                "what process {number} published got stamp {stamp}, and when it began it knew {}",
                publish.known
            );
            return broken(Rule::Causality, text);
        }
        if stamp <= publish.above {
            let text = format!(
                "what process {number} began to publish at {} got stamp {stamp}, and {} was in the order by then",
                publish.began, publish.above
            );
            return broken(Rule::RealTime, text);
        }
        if !self.orphans.found(key) {
            return broken(Rule::Delivery, "a stamp that nobody has published is in the order");
        }
        self.order.put(stamp, What::Message(key)).map(drop)
    }
}
