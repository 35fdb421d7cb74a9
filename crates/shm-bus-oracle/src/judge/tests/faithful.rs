//! A bus that does what it should, in one thread: the logs of its processes are right, until they are doctored.

use std::collections::BTreeMap;

use shm_bus::{Address, Credentials, Departure, MemberId, Record};

use crate::dice::Dice;
use crate::event::{Event, Item, Line, Part, Snapshot};

/// What is at a stamp.
#[derive(Clone)]
enum Slot {
    Message { from: u64, parts: Vec<Part> },
    Record(Record),
}

/// A subscription, and the stamp it has yet to look at.
struct Reader {
    number: u32,
    addresses: Vec<u64>,
    next: u64,
}

/// Where a process is in its publish.
enum Doing {
    Nothing,
    Begun(Vec<Part>),
    Swapped(u64),
}

struct Process {
    address: u64,
    member: MemberId,
    readers: Vec<Reader>,
    doing: Doing,
    tokens: Vec<u64>,
}

/// The bus and its processes.
pub struct Bus {
    pub lines: Vec<(u32, Line)>,
    time: u64,
    /// Slot 0 is nobody's.
    slots: Vec<Option<Slot>>,
    processes: BTreeMap<u32, Process>,
    groups: Vec<u64>,
    next_id: u64,
    next_token: u64,
    next_subscription: u32,
}

pub const RED: u64 = 1 << 48 | ((1 << 48) - 1);
pub const GREEN: u64 = 2 << 48 | ((1 << 48) - 1);

impl Bus {
    /// A bus with its observer, process 0.
    pub fn new() -> Self {
        let mut bus = Bus {
            lines: Vec::new(),
            time: 1000,
            slots: vec![None; 3],
            processes: BTreeMap::new(),
            groups: Vec::new(),
            next_id: 1,
            next_token: 1,
            next_subscription: 0,
        };
        bus.start(0);
        bus.subscribe(0, &[]);
        bus
    }

    pub fn say(&mut self, process: u32, event: Event) {
        self.time += 10;
        self.lines.push((process, Line { time: self.time, event }));
    }

    fn put(&mut self, slot: Slot) -> u64 {
        self.slots.push(Some(slot));
        self.slots.len() as u64 - 1
    }

    /// A control record.
    pub fn record(&mut self, record: Record) -> u64 {
        self.put(Slot::Record(record))
    }

    /// Starts a process and attaches it.
    pub fn start(&mut self, number: u32) {
        self.say(number, Event::Started { pid: 100 + number });
        self.say(number, Event::Attach);
        let member = MemberId { id: number as u16, generation: 1 };
        let address = u64::from(number);
        if number > 0 {
            let credentials = Credentials { pid: 100 + number, start_time: 1, uid: 1, gid: 1 };
            self.record(Record::Attached { member, address, credentials });
        }
        self.say(number, Event::Attached { member, address });
        let process =
            Process { address, member, readers: Vec::new(), doing: Doing::Nothing, tokens: Vec::new() };
        self.processes.insert(number, process);
    }

    /// Subscribes to addresses; groups are made before.
    pub fn subscribe(&mut self, number: u32, addresses: &[u64]) -> u32 {
        self.subscribe_as(number, addresses, false)
    }

    pub fn subscribe_as(&mut self, number: u32, addresses: &[u64], lossy: bool) -> u32 {
        for group in addresses.iter().filter(|a| Address(**a).is_group()) {
            if !self.groups.contains(group) {
                self.groups.push(*group);
                self.record(Record::Group { address: *group, name: format!("group {group}") });
            }
        }
        let (address, member) = (self.processes[&number].address, self.processes[&number].member);
        let sub = self.next_subscription;
        self.next_subscription += 1;
        self.say(number, Event::Subscribe { sub, address });
        let stamp = self.record(Record::Joined { member, addresses: addresses.to_vec(), lossy });
        let (start, addresses) = (stamp + 1, addresses.to_vec());
        let reader = Reader { number: sub, addresses: addresses.clone(), next: start };
        self.processes.get_mut(&number).unwrap().readers.push(reader);
        self.say(number, Event::Subscribed { sub, start, addresses, records: true, lossy });
        sub
    }

    /// A message's part, and its bytes' check.
    pub fn part(&mut self, to: &[u64]) -> Part {
        let id = self.next_id;
        self.next_id += 1;
        Part { id, to: to.to_vec(), len: 8, crc: id as u32 * 17 }
    }

    pub fn begin(&mut self, number: u32, parts: Vec<Part>) {
        let from = self.processes[&number].address;
        self.say(number, Event::Publish { from, parts: parts.clone() });
        self.processes.get_mut(&number).unwrap().doing = Doing::Begun(parts);
    }

    /// What was begun gets its place.
    pub fn swap(&mut self, number: u32) -> u64 {
        let from = self.processes[&number].address;
        let process = self.processes.get_mut(&number).unwrap();
        let Doing::Begun(parts) = std::mem::replace(&mut process.doing, Doing::Nothing) else {
            panic!("nothing was begun")
        };
        let stamp = self.put(Slot::Message { from, parts });
        self.processes.get_mut(&number).unwrap().doing = Doing::Swapped(stamp);
        stamp
    }

    pub fn end(&mut self, number: u32) {
        let process = self.processes.get_mut(&number).unwrap();
        match std::mem::replace(&mut process.doing, Doing::Nothing) {
            Doing::Swapped(stamp) => self.say(number, Event::Published { stamp, began: 0 }),
            Doing::Begun(_) => self.say(number, Event::Refused { code: "ERR_SHM_BUS_WOULD_BLOCK".into() }),
            Doing::Nothing => panic!("nothing was begun"),
        }
    }

    pub fn publish(&mut self, number: u32, to: &[u64]) -> u64 {
        let part = self.part(to);
        self.begin(number, vec![part]);
        let stamp = self.swap(number);
        self.end(number);
        stamp
    }

    pub fn send_token(&mut self, from: u32, to: u32) {
        let token = u64::from(from) << 32 | self.next_token;
        self.next_token += 1;
        self.say(from, Event::Sent { token });
        self.processes.get_mut(&to).unwrap().tokens.push(token);
    }

    pub fn receive_tokens(&mut self, number: u32) {
        for token in std::mem::take(&mut self.processes.get_mut(&number).unwrap().tokens) {
            self.say(number, Event::Received { token });
        }
    }

    /// Reads everything in every subscription.
    pub fn read(&mut self, number: u32) {
        self.read_at_most(number, u64::MAX);
    }

    pub fn read_at_most(&mut self, number: u32, most: u64) {
        let mut said = Vec::new();
        for reader in &mut self.processes.get_mut(&number).unwrap().readers {
            let (first, end) = (reader.next, (self.slots.len() as u64).min(reader.next.saturating_add(most)));
            let mut items = Vec::new();
            for stamp in first..end {
                match self.slots[stamp as usize].clone() {
                    Some(Slot::Record(record)) => items.push(Item::Record { stamp, record }),
                    Some(Slot::Message { from: sender, parts }) => {
                        for (index, part) in (0..).zip(parts) {
                            let to = part.to.iter().find(|to| reader.addresses.contains(to));
                            let Some(to) = to.copied() else { continue };
                            let Part { id, len, crc, .. } = part;
                            items.push(Item::Message { stamp, index, sender, to, id, len, crc });
                        }
                    }
                    None => {}
                }
            }
            reader.next = end.max(first);
            if !items.is_empty() {
                said.push(Event::Got { sub: reader.number, items });
            }
            said.push(Event::Released { sub: reader.number, next: reader.next });
        }
        said.into_iter().for_each(|event| self.say(number, event));
    }

    pub fn kill(&mut self, number: u32) {
        self.say(number, Event::Killed);
        self.say(number, Event::Gone);
        let Process { member, address, .. } = self.processes.remove(&number).unwrap();
        self.record(Record::Departed { member, address, departure: Departure::Died });
    }

    /// A stamp that nobody knows.
    pub fn hole(&mut self) {
        self.slots.push(None);
    }

    /// A process that the test lets go itself.
    pub fn forget(&mut self, number: u32) {
        self.processes.remove(&number);
    }

    /// Reads no more in a subscription.
    pub fn drop_reader(&mut self, number: u32, sub: u32) {
        self.processes.get_mut(&number).unwrap().readers.retain(|r| r.number != sub);
    }

    pub fn evict(&mut self, number: u32) {
        let process = self.processes.get_mut(&number).unwrap();
        let member = process.member;
        let readers = std::mem::take(&mut process.readers);
        self.record(Record::Evicted { member, count: 1 });
        for reader in readers {
            self.say(number, Event::Evicted { sub: reader.number, stamp: reader.next });
        }
    }

    pub fn look(&mut self, number: u32) {
        let member = |p: &Process| {
            let mut joined: Vec<u64> = p.readers.iter().flat_map(|r| r.addresses.clone()).collect();
            joined.sort_unstable();
            joined.dedup();
            (p.member, p.address, joined)
        };
        let mut groups: Vec<_> = self.groups.iter().map(|g| (*g, format!("group {g}"))).collect();
        groups.push((Address::EVERYONE.0, "*".into()));
        groups.sort_unstable();
        let last = self.slots.iter().rposition(|slot| matches!(slot, Some(Slot::Record(_)))).unwrap();
        let members = self.processes.values().map(member).collect();
        self.say(number, Event::Directory(Snapshot { as_of: last as u64 + 1, members, groups }));
    }

    /// Everyone reads to the end and goes.
    pub fn finish(mut self) -> Vec<(u32, Line)> {
        let mut numbers: Vec<u32> = self.processes.keys().copied().collect();
        numbers.reverse();
        for number in &numbers {
            if !matches!(self.processes[number].doing, Doing::Nothing) {
                self.end(*number);
            }
        }
        numbers.iter().for_each(|number| self.read(*number));
        for number in numbers {
            let Process { member, address, .. } = self.processes[&number];
            self.read(number);
            self.say(number, Event::Detach { address });
            self.record(Record::Departed { member, address, departure: Departure::Closed });
            self.say(number, Event::Detached { address });
            self.say(number, Event::Gone);
            self.processes.remove(&number);
        }
        self.lines
    }

    /// Random traffic of four processes.
    pub fn random(seed: u64) -> Vec<(u32, Line)> {
        let mut dice = Dice::new(seed, 0);
        let mut bus = Bus::new();
        for number in 1..=4 {
            bus.start(number);
            bus.subscribe(number, &[RED, u64::from(number)]);
        }
        bus.subscribe(1, &[GREEN]);
        bus.subscribe(2, &[GREEN]);
        let doomed = dice.between(1, 4) as u32;
        for step in 0..300 {
            let number = dice.roll(5) as u32;
            if step == 200 {
                bus.kill(doomed);
            }
            if step == 100 {
                bus.evict(1 + doomed % 4);
            }
            if !bus.processes.contains_key(&number) {
                continue;
            }
            match (&bus.processes[&number].doing, dice.roll(10)) {
                (Doing::Begun(_), 0..8) => {
                    bus.swap(number);
                }
                (Doing::Begun(_), 8) | (Doing::Swapped(_), 0..6) => bus.end(number),
                (Doing::Nothing, 7) if dice.chance(20) => bus.look(number),
                (Doing::Nothing, 0..3) => bus.read_at_most(number, 5),
                (Doing::Nothing, 3..6) if number > 0 => {
                    let parts = (0..dice.between(1, 3)).map(|_| {
                        let to = if dice.chance(50) { vec![RED] } else { vec![RED, GREEN] };
                        bus.part(&to)
                    });
                    let parts = parts.collect();
                    bus.begin(number, parts);
                }
                (Doing::Nothing, 6) if bus.processes.contains_key(&(1 + number % 4)) => {
                    bus.send_token(number, 1 + number % 4);
                }
                (Doing::Nothing, _) => bus.receive_tokens(number),
                _ => {}
            }
        }
        bus.finish()
    }
}
