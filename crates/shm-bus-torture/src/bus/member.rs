//! The attachments that live: they publish by turns, read everything, and agree on who is there.

use std::time::{Duration, Instant};

use shm_bus::{Address, Bus, BusError, Envelope, Event, Overload, Publisher, SubscribeOptions, Subscription};

use super::leftovers::{Scratch, said};
use crate::Outcome;
use crate::report::Seen;
use crate::ring::message::{body, topic};
use crate::trace::process::{HANG, until};

/// Slots of the order.
pub const SLOTS: u64 = 1 << 8;
pub const LAPS: u64 = 3 * SLOTS;

/// Long enough for nobody to lose its place by mistake.
pub const PATIENT: Duration = Duration::from_secs(10);
/// Short: who is stopped is to lose its place.
pub const HASTY: Duration = Duration::from_millis(1);

/// A subscription that gives its place up after `deadline`.
pub fn subscribe(bus: &Bus, groups: &[&str], deadline: Duration) -> Outcome<Subscription> {
    let overload = Some(Overload::Block { deadline });
    let options = SubscribeOptions { overload, timeout: HANG, ..SubscribeOptions::default() };
    let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
    said("subscribe", bus.subscribe(&groups, false, options))
}

/// Takes what there is; every message has to be what its topic says.
pub fn take(subscription: &mut Subscription, seen: &mut Vec<Seen>) -> Result<usize, BusError> {
    let mut torn = None;
    let count = subscription.poll(64, |event| {
        if let Event::Message(message) = event {
            let topic = message.frame.header.topic;
            if message.to_vec() != body(topic) {
                torn = Some(topic);
            }
            seen.push(Seen {
                stamp: message.frame.place.stamp.0,
                index: u64::from(message.frame.place.index),
                topic,
            });
        }
    })?;
    // What was handed over is whole only if it still was when the lease ended.
    subscription.release()?;
    match torn {
        Some(topic) => Err(BusError::Protocol { why: format!("torn: topic {topic:#x}") }),
        None => Ok(count),
    }
}

/// A living attachment.
pub struct Member {
    pub bus: Bus,
    pub subscription: Subscription,
    pub publisher: Publisher,
    pub seen: Vec<Seen>,
    /// Who it is in the topics of its messages.
    pub who: usize,
    /// Messages it has published.
    pub count: u64,
}

impl Member {
    pub fn new(scratch: &Scratch, who: usize) -> Outcome<Self> {
        let bus = scratch.attach()?;
        Ok(Member {
            subscription: subscribe(&bus, &["g", "h"], PATIENT)?,
            publisher: said("publisher", bus.publisher())?,
            bus,
            seen: Vec::new(),
            who,
            count: 0,
        })
    }

    pub fn close(self) {
        let Member { bus, subscription, publisher, .. } = self;
        drop((subscription, publisher));
        bus.close();
    }

    pub fn take_all(&mut self) -> Outcome<()> {
        while said("poll", take(&mut self.subscription, &mut self.seen))? > 0 {}
        if self.subscription.violations().is_empty() {
            Ok(())
        } else {
            Err(format!("violations: {:?}", self.subscription.violations()))
        }
    }

    pub fn group(&mut self, name: &str) -> Outcome<Address> {
        said("resolve", self.publisher.resolve(name))
    }
}

/// Messages by turns, and everybody reads: nobody may wait for whoever is dead or stopped longer than its deadline.
/// Gives the longest wait of a publisher.
pub fn go_on(members: &mut [Member], count: u64) -> Outcome<Duration> {
    let g = members[0].group("g")?;
    let turns = members.len();
    let mut longest = Duration::ZERO;
    for n in 0..count as usize {
        let member = &mut members[n % turns];
        member.count += 1;
        let topic = topic(member.who, if n % 7 == 3 { 900 } else { 16 }, member.count);
        let bytes = body(topic);
        let start = Instant::now();
        loop {
            match members[n % turns].publisher.publish(&[g], &bytes, Envelope { topic }) {
                Ok(_) => break,
                Err(BusError::WouldBlock { .. }) if start.elapsed() < HANG => {
                    members.iter_mut().try_for_each(Member::take_all)?;
                    let slice = Duration::from_millis(5);
                    let publisher = &mut members[n % turns].publisher;
                    said("wait_writable", publisher.wait_writable(slice))?;
                }
                Err(error) => return Err(format!("publish: {error}")),
            }
        }
        longest = longest.max(start.elapsed());
        if n % 16 == 15 {
            members.iter_mut().try_for_each(Member::take_all)?;
        }
    }
    members.iter_mut().try_for_each(Member::take_all)?;
    Ok(longest)
}

/// Everyone lists the living ones, and `others`, and nobody else; one of all is the master.
pub fn agree(members: &[Member], others: usize) -> Outcome<()> {
    let agreed = until("the directory lists the living ones only", || {
        members.iter().all(|m| {
            m.bus.directory().is_ok_and(|d| {
                d.members().count() == members.len() + others && members.iter().all(|o| d.has(o.bus.member()))
            })
        })
    });
    agreed.map_err(|why| format!("{why}: {}", described(members)))?;
    match members.iter().filter(|m| m.bus.is_master()).count() {
        1 => Ok(()),
        0 if others > 0 => Ok(()),
        n => Err(format!("{n} masters")),
    }
}

/// Who thinks what.
fn described(members: &[Member]) -> String {
    let one = |m: &Member| {
        let listed = m.bus.directory().map(|d| {
            let ids: Vec<_> = d.members().map(|(member, _)| (member.id, member.generation)).collect();
            format!("{ids:?} in term {}", d.term)
        });
        let (id, role) = (m.bus.member().id, if m.bus.is_master() { ", the master," } else { "" });
        format!("{id}{role} sees {listed:?}")
    };
    let page = members[0].bus.order_page().map(|page| page.view());
    let term = page
        .map_or(0, |page| page.load(shm_bus_ring::layout::sequencer::TERM, shm_bus_ring::Ordering::SeqCst));
    let seen = members.iter().map(one).collect::<Vec<_>>().join("; ");
    format!("term {} is that of {}; {seen}", term >> 16, term & 0xFFFF)
}
