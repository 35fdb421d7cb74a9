//! Random operations by three attachments, against a plain vector of what was published.
//!
//! The model keeps what an all-knowing observer would: the order, each lane's loans, each reader's counting value. For
//! the two lazily computed things (the gate, and what a lane has freed) it keeps a bound on each side: "full" must be
//! true now, "not full" must have been true at some moment, because a passed frame stays passed.
#![cfg(not(loom))]

mod common;

use std::collections::VecDeque;

use common::{GENERATION, Pages, bus, bytes, owner, pattern, set_reader_state, store_cursor};
use proptest::prelude::*;
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    Address, AttachState, AttachmentId, Bucket, BucketSet, Full, Geometry, Kind, Lane, LaneKind, Loan,
    Message, Ordering, Owner, PublishError, Published, Reader, ReaderState, Region, Sequencer, Shortage,
    Stamp, Step, Violation, intact,
};

const LOG2_SLOTS: u32 = 6;
const SLOTS: u64 = 1 << LOG2_SLOTS;
const HEADERS: u64 = 64;
const RING: u64 = 1 << 16;
const GROUPS: u16 = 4;
const ATTACHMENTS: usize = 3;

#[derive(Clone, Copy, Debug)]
enum To {
    One(u16),
    Everyone,
    /// A transaction: one bit a group.
    Several(u8),
}

#[derive(Clone, Debug)]
enum Op {
    Loan {
        who: usize,
        length: u64,
    },
    Publish {
        who: usize,
        nth: usize,
        to: To,
        shorter: u64,
    },
    Batch {
        who: usize,
        count: usize,
        to: To,
    },
    Abandon {
        who: usize,
        nth: usize,
    },
    /// Publish, but the caller's own check at the slot says no.
    Refuse {
        who: usize,
        nth: usize,
        to: To,
    },
    /// Publish while the own member word is not live.
    Detached {
        who: usize,
        nth: usize,
        again: bool,
    },
    Burst {
        who: usize,
        count: u64,
        length: u64,
        to: To,
    },
    Join {
        who: usize,
        groups: u8,
        pause: bool,
        low: bool,
    },
    Leave {
        who: usize,
    },
    Watch {
        who: usize,
        group: u16,
    },
    Unwatch {
        who: usize,
        group: u16,
    },
    Read {
        who: usize,
        count: u64,
        skip: u64,
    },
    /// Ends all leases but the last `keep` and stores the cursor.
    Advance {
        who: usize,
        keep: usize,
    },
    Evict {
        who: usize,
    },
    /// Everyone who counts reads to the end, so that the order can go on.
    Round,
}

fn groups(bits: u8) -> Vec<Address> {
    (0..GROUPS).filter(|g| bits >> g & 1 != 0).map(group).collect()
}

fn group(g: u16) -> Address {
    Address::group(g % GROUPS + 1)
}

impl To {
    fn kind_and_destinations(self, capacity: u64) -> (Kind, Vec<Address>) {
        match self {
            To::One(g) => (Kind::Message, vec![group(g)]),
            To::Everyone => (Kind::Message, vec![Address::EVERYONE]),
            To::Several(bits) => {
                let all = groups(bits);
                if all.is_empty() || capacity < 8 * all.len() as u64 {
                    (Kind::Message, vec![group(u16::from(bits))])
                } else {
                    (Kind::Transaction, all)
                }
            }
        }
    }
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let who = 0..ATTACHMENTS;
    let nth = 0..8usize;
    let length = prop_oneof![
        4 => 0..65u64,
        4 => 65..2_000u64,
        3 => 2_000..=RING / 4,
        1 => RING / 4 + 1..RING,
    ];
    let to = prop_oneof![
        6 => (0..GROUPS).prop_map(To::One),
        1 => Just(To::Everyone),
        2 => any::<u8>().prop_map(To::Several),
    ];
    let op = prop_oneof![
        6 => (who.clone(), length.clone()).prop_map(|(who, length)| Op::Loan { who, length }),
        6 => (who.clone(), nth.clone(), to.clone(), 0..100u64)
            .prop_map(|(who, nth, to, shorter)| Op::Publish { who, nth, to, shorter }),
        3 => (who.clone(), 2..6usize, to.clone()).prop_map(|(who, count, to)| Op::Batch { who, count, to }),
        2 => (who.clone(), nth.clone()).prop_map(|(who, nth)| Op::Abandon { who, nth }),
        1 => (who.clone(), nth.clone(), to.clone()).prop_map(|(who, nth, to)| Op::Refuse { who, nth, to }),
        1 => (who.clone(), nth, any::<bool>()).prop_map(|(who, nth, again)| Op::Detached { who, nth, again }),
        8 => (who.clone(), 1..40u64, length, to)
            .prop_map(|(who, count, length, to)| Op::Burst { who, count, length, to }),
        3 => (who.clone(), any::<u8>(), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(who, groups, pause, low)| Op::Join { who, groups, pause, low }),
        1 => who.clone().prop_map(|who| Op::Leave { who }),
        1 => (who.clone(), 0..GROUPS).prop_map(|(who, group)| Op::Watch { who, group }),
        1 => (who.clone(), 0..GROUPS).prop_map(|(who, group)| Op::Unwatch { who, group }),
        10 => (who.clone(), 1..80u64, 1..70u64).prop_map(|(who, count, skip)| Op::Read { who, count, skip }),
        8 => (who.clone(), 0..4usize).prop_map(|(who, keep)| Op::Advance { who, keep }),
        1 => who.prop_map(|who| Op::Evict { who }),
        4 => Just(Op::Round),
    ];
    prop::collection::vec(op, 1..250)
}

/// A message as published: what a reader must find.
#[derive(Clone, Debug)]
struct Sent {
    kind: Kind,
    destinations: Vec<Address>,
    topic: u64,
    serial: u64,
    offset: u64,
    body: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Entry {
    sender: usize,
    lane: LaneKind,
    bucket: Bucket,
    frames: Vec<Sent>,
}

#[derive(Debug)]
struct Held {
    loan: Loan,
    length: u64,
    body: Vec<u8>,
    topic: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Loaned,
    Padding,
    /// The first of `count` loans published as one; `passed` once every concerned reader had passed it.
    Published {
        stamp: u64,
        bucket: Bucket,
        count: u64,
        passed: bool,
    },
    Follower,
}

/// What a lane's loans are, from the oldest that could not have been freed.
#[derive(Debug)]
struct LaneModel {
    loans: VecDeque<(u64, Fate)>,
    /// Serial of the first of `loans`.
    first: u64,
    head: u64,
    /// Ring position where the first of `loans` begins.
    tail: u64,
}

impl LaneModel {
    fn new() -> Self {
        LaneModel { loans: VecDeque::new(), first: 0, head: 0, tail: 0 }
    }

    fn next(&self) -> u64 {
        self.first + self.loans.len() as u64
    }

    fn set(&mut self, serial: u64, fate: Fate) {
        self.loans[(serial - self.first) as usize].1 = fate;
    }

    /// Where the oldest loan stands that a sender with that knowledge has to keep: serial and ring position.
    fn oldest(&self, passed: impl Fn(u64, Bucket, bool) -> bool) -> (u64, u64) {
        let (mut serial, mut position, mut i) = (self.first, self.tail, 0);
        while let Some((_, fate)) = self.loans.get(i) {
            let count = match *fate {
                Fate::Padding => 1,
                Fate::Published { stamp, bucket, count, passed: was } if passed(stamp, bucket, was) => {
                    count as usize
                }
                _ => break,
            };
            position += self.loans.range(i..i + count).map(|l| l.0).sum::<u64>();
            serial += count as u64;
            i += count;
        }
        (serial, position)
    }

    fn lacks(&self, kind: LaneKind, oldest: (u64, u64), span: u64) -> Option<Shortage> {
        let headers = if kind == LaneKind::Data { HEADERS } else { payload::CONTROL_HEADERS };
        if self.next() - oldest.0 >= headers {
            Some(Shortage::Headers)
        } else if self.head + span - oldest.1 > RING {
            Some(Shortage::Bytes)
        } else {
            None
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Out,
    /// Floor stored, not live yet.
    Joining,
    /// Live, its join record not in the order yet.
    Floor,
    Live,
    Evicted,
}

#[derive(Clone, Debug)]
struct Lease {
    stamp: u64,
    sender: usize,
    lane: LaneKind,
    sent: Sent,
}

struct Attachment {
    own: Region,
    lane: Lane,
    model: LaneModel,
    loans: Vec<Held>,
    life: Life,
    floor: u64,
    cursor: u64,
    /// As it stands in the page.
    set: BucketSet,
    reader: Option<Reader>,
    leases: Vec<Lease>,
    /// Buckets that leave the page's set once the cursor has passed the stamp.
    shrink: Vec<(u64, Bucket)>,
}

/// What the record says, for whom: 1 join, 2 leave, 3 watch, 4 unwatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    what: u64,
    who: usize,
    group: u16,
}

impl Record {
    fn topic(self) -> u64 {
        self.what << 32 | (self.who as u64) << 16 | u64::from(self.group)
    }
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    laps: u64,
    read: u64,
    /// Frames that an evicted reader was told to be gone.
    lost: u64,
    slots: u64,
    headers: u64,
    bytes: u64,
    too_big: u64,
    refused: u64,
    detached: u64,
    batches: u64,
    transactions: u64,
    /// Frames freed while a slow reader of another bucket was still below them.
    past: u64,
}

impl Reached {
    fn add(&mut self, other: &Reached) {
        self.laps += other.laps;
        self.read += other.read;
        self.lost += other.lost;
        self.slots += other.slots;
        self.headers += other.headers;
        self.bytes += other.bytes;
        self.too_big += other.too_big;
        self.refused += other.refused;
        self.detached += other.detached;
        self.batches += other.batches;
        self.transactions += other.transactions;
        self.past += other.past;
    }
}

struct World {
    sequencer: Sequencer,
    pages: Pages,
    attachments: Vec<Attachment>,
    control: Lane,
    control_model: LaneModel,
    order: Vec<Entry>,
    /// The highest that the gate can have been at some moment.
    gate: u64,
    seeds: u64,
    reached: Reached,
}

type Outcome = Result<Published, PublishError<&'static str>>;

impl World {
    fn new() -> World {
        let geometry = Geometry::new(HEADERS, RING).unwrap();
        let (sequencer, regions, pages) = bus(LOG2_SLOTS, ATTACHMENTS as u16, geometry);
        let genesis =
            Entry { sender: 0, lane: LaneKind::Control, bucket: Bucket::CONTROL, frames: Vec::new() };
        World {
            control: Lane::new(regions[0].clone(), geometry, LaneKind::Control),
            attachments: regions
                .into_iter()
                .map(|own| Attachment {
                    lane: Lane::new(own.clone(), geometry, LaneKind::Data),
                    own,
                    model: LaneModel::new(),
                    loans: Vec::new(),
                    life: Life::Out,
                    floor: 0,
                    cursor: 0,
                    set: BucketSet::default(),
                    reader: None,
                    leases: Vec::new(),
                    shrink: Vec::new(),
                })
                .collect(),
            sequencer,
            pages,
            control_model: LaneModel::new(),
            order: vec![genesis],
            gate: 0,
            seeds: 0,
            reached: Reached::default(),
        }
    }

    fn tail(&self) -> u64 {
        self.order.len() as u64
    }

    /// Each counting reader's value and the set of buckets it may read.
    fn counting(&self) -> Vec<(usize, u64, BucketSet)> {
        let each = self.attachments.iter().enumerate();
        each.filter_map(|(id, a)| match a.life {
            Life::Out | Life::Evicted => None,
            Life::Joining => Some((id, a.floor, BucketSet([u64::MAX; 4]))),
            Life::Floor | Life::Live => Some((id, a.cursor.max(a.floor), a.set.union(&BucketSet::control()))),
        })
        .collect()
    }

    fn gate_now(&self) -> u64 {
        self.counting().iter().map(|r| r.1).min().unwrap_or(u64::MAX).min(self.tail())
    }

    fn passed_now(readers: &[(usize, u64, BucketSet)], stamp: u64, bucket: Bucket) -> bool {
        readers.iter().all(|r| r.1 > stamp || !r.2.contains(bucket))
    }

    /// To be called whenever the readers' values have changed.
    fn observe(&mut self) {
        self.gate = self.gate.max(self.gate_now());
        let gate = self.gate;
        let readers = self.counting();
        let lanes = self.attachments.iter_mut().map(|a| &mut a.model);
        for model in lanes.chain([&mut self.control_model]) {
            for (_, fate) in &mut model.loans {
                if let Fate::Published { stamp, bucket, passed, .. } = fate {
                    *passed |= Self::passed_now(&readers, *stamp, *bucket);
                }
            }
        }
        // Nothing is given up by its sender that somebody concerned has not passed.
        for id in 0..ATTACHMENTS {
            for lane in [LaneKind::Data, LaneKind::Control] {
                let reclaimed = self.reclaimed(id, lane);
                let most = self.model(id, lane).map_or(0, |m| m.oldest(|_, _, passed| passed).0);
                assert!(reclaimed <= most, "{id} {lane:?} freed {reclaimed}, at most {most} are passed");
                if let Some(model) = self.model_mut(id, lane) {
                    let mut past = 0;
                    while model.first < reclaimed {
                        if let Fate::Published { stamp, .. } = model.loans[0].1 {
                            past += u64::from(stamp >= gate);
                        }
                        model.tail += model.loans.pop_front().unwrap().0;
                        model.first += 1;
                    }
                    self.reached.past += past;
                }
            }
        }
    }

    fn model(&self, id: usize, lane: LaneKind) -> Option<&LaneModel> {
        match lane {
            LaneKind::Data => Some(&self.attachments[id].model),
            LaneKind::Control => (id == 0).then_some(&self.control_model),
        }
    }

    fn model_mut(&mut self, id: usize, lane: LaneKind) -> Option<&mut LaneModel> {
        match lane {
            LaneKind::Data => Some(&mut self.attachments[id].model),
            LaneKind::Control => (id == 0).then_some(&mut self.control_model),
        }
    }

    fn reclaimed(&self, id: usize, lane: LaneKind) -> u64 {
        self.attachments[id].own.load(lane.reclaimed_offset(), Ordering::Relaxed)
    }

    /// All memory but that of one attachment.
    fn others(&self, but: usize) -> Vec<Vec<u8>> {
        let regions = self.attachments.iter().enumerate().filter(|(id, _)| *id != but);
        regions.map(|(_, a)| &a.own).chain([self.sequencer.region()]).map(|r| bytes(r, 0, r.len())).collect()
    }

    fn seed(&mut self) -> u64 {
        self.seeds += 1;
        self.seeds
    }

    fn loan(&mut self, id: usize, kind: LaneKind, length: u64) -> Result<Held, PublishError<&'static str>> {
        self.observe();
        let readers = self.counting();
        let model = self.model(id, kind).unwrap();
        let in_ring = kind == LaneKind::Data && length > payload::INLINE_BYTES;
        let span = if in_ring { length.next_multiple_of(payload::ALIGNMENT) } else { 0 };
        let (now, ever) = (
            model.oldest(|stamp, bucket, _| Self::passed_now(&readers, stamp, bucket)),
            model.oldest(|_, _, passed| passed),
        );
        let (lacks_now, lacks_ever) = (model.lacks(kind, now, span), model.lacks(kind, ever, span));
        let (serial, position) = (model.next(), model.head);
        let before = lacks_now.map(|_| self.others(id));

        let lane = match kind {
            LaneKind::Data => &mut self.attachments[id].lane,
            LaneKind::Control => &mut self.control,
        };
        let geometry = self.pages.0[id].1;
        let max = lane.max_frame();
        let result = lane.loan(&self.sequencer, &mut self.pages, length);
        if length > max {
            assert_eq!(result, Err(PublishError::TooBig { length, max }));
            self.reached.too_big += 1;
            return Err(result.unwrap_err());
        }
        match result {
            Ok(loan) => {
                assert_eq!(lacks_ever, None, "a loan over frames that are still needed");
                assert_eq!((loan.serial(), loan.capacity()), (serial, length));
                if in_ring {
                    assert_eq!(loan.offset(), geometry.ring_offset(position));
                }
                let topic = self.seed();
                let body = pattern(topic, length);
                let lane = match kind {
                    LaneKind::Data => &self.attachments[id].lane,
                    LaneKind::Control => &self.control,
                };
                lane.write(&loan, 0, &body[..body.len() / 2]);
                lane.write(&loan, length / 2, &body[body.len() / 2..]);
                let model = self.model_mut(id, kind).unwrap();
                model.loans.push_back((span, Fate::Loaned));
                model.head += span;
                self.observe();
                Ok(Held { loan, length, body, topic })
            }
            Err(PublishError::Full(full)) => {
                assert_eq!(Some(full.shortage), lacks_now, "full only if it is");
                assert_eq!(full.stamp, self.tail());
                match full.shortage {
                    Shortage::Headers => self.reached.headers += 1,
                    _ => self.reached.bytes += 1,
                }
                self.check_holder(id, kind, &full, now.0);
                assert!(before == Some(self.others(id)), "would-block changes nothing");
                self.observe();
                Err(PublishError::Full(full))
            }
            Err(e) => panic!("{e:?}"),
        }
    }

    /// Who is named as holding the oldest loan does.
    fn check_holder(&self, id: usize, kind: LaneKind, full: &Full, oldest: u64) {
        let model = self.model(id, kind).unwrap();
        match model.loans[(oldest - model.first) as usize].1 {
            Fate::Published { stamp, bucket, .. } => {
                let (holder, cursor) = full.holder.expect("a reader holds it");
                let readers = self.counting();
                let (_, value, set) = readers.iter().find(|r| r.0 == holder.index()).unwrap();
                assert_eq!(*value, cursor);
                assert!(*value <= stamp && set.contains(bucket));
            }
            _ => assert_eq!(full.holder, None, "its own loan holds it"),
        }
    }

    /// Publishes `held`; gives the loans back with the error if that fails.
    fn publish(
        &mut self,
        id: usize,
        kind: LaneKind,
        held: Vec<Held>,
        shapes: &[(Kind, Vec<Address>, u64)],
        owner: Owner,
        refuse: bool,
    ) -> Result<u64, (Vec<Held>, PublishError<&'static str>)> {
        self.observe();
        let tail = self.tail();
        let full_now = tail.saturating_sub(self.gate_now()) >= SLOTS;
        let mut held = held;
        for (held, (message, destinations, _)) in held.iter_mut().zip(shapes) {
            if *message == Kind::Transaction {
                let front: Vec<u8> = destinations.iter().flat_map(|d| d.0.to_le_bytes()).collect();
                self.attachments[id].lane.write(&held.loan, 0, &front);
                held.body[..front.len()].copy_from_slice(&front);
            }
        }
        let before = (full_now || refuse || owner.generation != GENERATION).then(|| self.others(id));
        let offsets: Vec<u64> = held.iter().map(|h| h.loan.offset()).collect();
        let bodies: Vec<(Vec<u8>, u64, u64)> =
            held.iter().map(|h| (h.body.clone(), h.topic, h.length)).collect();
        let frames: Vec<_> = held
            .into_iter()
            .zip(shapes)
            .map(|(h, (message, destinations, length))| {
                let message_of = Message { destinations, topic: h.topic, descriptors: 0, time: h.topic * 3 };
                (h.loan, *message, message_of, *length)
            })
            .collect();
        let mut asked = Vec::new();
        let lane = match kind {
            LaneKind::Data => &mut self.attachments[id].lane,
            LaneKind::Control => &mut self.control,
        };
        let outcome: Outcome = lane.publish(&self.sequencer, &mut self.pages, owner, &frames, |stamp| {
            asked.push(stamp);
            if refuse { Err("no") } else { Ok(()) }
        });
        let held: Vec<Held> = frames
            .into_iter()
            .zip(bodies)
            .map(|((loan, ..), (body, topic, length))| Held { loan, length, body, topic })
            .collect();
        let error = match outcome {
            Ok(published) => {
                let stamp = published.stamp.0;
                assert_eq!((stamp, &asked[..]), (tail, &[tail][..]), "no hole, and asked at its slot");
                assert!(!refuse && owner.generation == GENERATION);
                assert!(
                    stamp.saturating_sub(self.gate) < SLOTS,
                    "a slot at or above the gate was overwritten"
                );
                assert_eq!(published.wake, None, "nobody sleeps here");
                self.record(id, kind, stamp, held, shapes, &offsets);
                return Ok(stamp);
            }
            Err(error) => error,
        };
        assert!(before == Some(self.others(id)), "{error:?} changed something of others");
        assert_eq!(self.sequencer.find().unwrap().stamp, tail);
        match error {
            PublishError::Full(full) => {
                assert!(full_now && full.shortage == Shortage::Slots && full.stamp == tail, "{full:?}");
                let (_, cursor) = full.holder.expect("a reader holds the order");
                assert_eq!(cursor, self.gate_now());
                self.reached.slots += 1;
            }
            PublishError::Refused("no") => {
                assert!(refuse && asked == [tail]);
                self.reached.refused += 1;
            }
            PublishError::Detached => assert!(asked.is_empty()),
            ref e => panic!("{e:?}"),
        }
        Err((held, error))
    }

    fn record(
        &mut self,
        id: usize,
        kind: LaneKind,
        stamp: u64,
        held: Vec<Held>,
        shapes: &[(Kind, Vec<Address>, u64)],
        offsets: &[u64],
    ) {
        let mut buckets: Vec<Bucket> = shapes.iter().map(|s| Bucket::of_all(&s.1)).collect();
        buckets.dedup();
        let bucket = match (kind, &buckets[..]) {
            (LaneKind::Control, _) => Bucket::CONTROL,
            (_, [one]) => *one,
            _ => Bucket::MIXED,
        };
        let count = held.len() as u64;
        self.reached.laps += u64::from(stamp.is_multiple_of(SLOTS));
        self.reached.batches += u64::from(count > 1);
        self.reached.transactions += u64::from(shapes[0].0 == Kind::Transaction);
        let mut frames = Vec::new();
        for (i, (held, (message, destinations, length))) in held.into_iter().zip(shapes).enumerate() {
            let fate = match i {
                0 => Fate::Published { stamp, bucket, count, passed: false },
                _ => Fate::Follower,
            };
            self.model_mut(id, kind).unwrap().set(held.loan.serial(), fate);
            frames.push(Sent {
                kind: *message,
                destinations: destinations.clone(),
                topic: held.topic,
                serial: held.loan.serial(),
                offset: offsets[i],
                body: held.body[..*length as usize].to_vec(),
            });
        }
        self.order.push(Entry { sender: id, lane: kind, bucket, frames });
        self.observe();
    }

    /// Publishes a control record, if there is room.
    fn publish_record(&mut self, record: Record) -> Option<u64> {
        let mut held = self.loan(0, LaneKind::Control, 40).ok()?;
        held.topic = record.topic();
        let shapes = [(Kind::Control, vec![], 40)];
        match self.publish(0, LaneKind::Control, vec![held], &shapes, owner(0), false) {
            Ok(stamp) => Some(stamp),
            Err((held, _)) => {
                held.into_iter().for_each(|h| self.abandon(0, LaneKind::Control, h));
                None
            }
        }
    }

    fn abandon(&mut self, id: usize, kind: LaneKind, held: Held) {
        let model = self.model_mut(id, kind).unwrap();
        if held.loan.serial() + 1 == model.next() {
            let (span, _) = model.loans.pop_back().unwrap();
            model.head -= span;
        } else {
            model.set(held.loan.serial(), Fate::Padding);
        }
        match kind {
            LaneKind::Data => self.attachments[id].lane.abandon(held.loan),
            LaneKind::Control => self.control.abandon(held.loan),
        }
    }

    /// A loan's bytes are its holder's alone until it publishes.
    fn check_held(&self, id: usize) {
        for held in &self.attachments[id].loans {
            let now = bytes(&self.pages.0[id].0, held.loan.offset(), held.length);
            assert!(now == held.body, "somebody wrote into loan {}", held.loan.serial());
        }
    }

    fn store_set(&mut self, id: usize, set: BucketSet) {
        self.attachments[id].set = set;
        for (i, word) in set.0.into_iter().enumerate() {
            let offset = payload::BUCKETS + 8 * i as u64;
            self.attachments[id].own.store(offset, word, Ordering::Release);
        }
    }

    fn join(&mut self, id: usize, bits: u8, pause: bool, low: bool) {
        let who = AttachmentId(id as u16);
        match self.attachments[id].life {
            Life::Live => return,
            Life::Out | Life::Evicted => {
                let mut set = BucketSet::control();
                groups(bits).iter().for_each(|g| set.insert(Bucket::of(*g)));
                self.store_set(id, set);
                let floor = if low { self.sequencer.hint() } else { self.tail() };
                assert!(floor <= self.tail());
                self.sequencer.members().set_reader(who, floor, 100, 0);
                let a = &mut self.attachments[id];
                (a.floor, a.life, a.reader) = (floor, Life::Joining, None);
                a.leases.clear();
                a.shrink.clear();
                set_reader_state(&self.sequencer, id as u16, ReaderState::Joining);
            }
            Life::Joining | Life::Floor => {}
        }
        self.observe();
        if pause {
            return;
        }
        set_reader_state(&self.sequencer, id as u16, ReaderState::Live);
        self.attachments[id].life = Life::Floor;
        if let Some(stamp) = self.publish_record(Record { what: 1, who: id, group: 0 }) {
            let a = &mut self.attachments[id];
            a.life = Life::Live;
            a.reader = Some(Reader::new(Stamp(stamp + 1), a.set));
        }
    }

    fn read(&mut self, id: usize, count: u64, skip: u64) {
        for _ in 0..count {
            let a = &mut self.attachments[id];
            let Some(mut reader) = a.reader.take() else { return };
            let start = reader.position();
            let in_batch = reader.in_batch();
            let skipped = reader.skip(&self.sequencer, skip);
            assert!(skipped <= skip && !(in_batch && skipped > 0));
            let unseen = start..start + skipped;
            assert!(
                unseen.clone().all(|s| !reader.buckets().contains(self.order[s as usize].bucket)),
                "a frame that concerns it was skipped"
            );
            let ready = reader.ready(&self.sequencer);
            let rest = reader.position()..self.tail();
            let concerns = |s: &u64| reader.buckets().contains(self.order[*s as usize].bucket);
            let position = rest.clone().find(concerns).unwrap_or(self.tail());
            let index = self.attachments[id].leases.last().map_or(0, |l| {
                let entry = self.order.get(l.stamp as usize);
                let nth = entry.and_then(|e| e.frames.iter().position(|f| f.serial == l.sent.serial));
                if l.stamp == position { nth.unwrap() + 1 } else { 0 }
            });
            let step = reader.next(&self.sequencer, &mut self.pages);
            let counts = self.attachments[id].life == Life::Live;
            match step {
                Step::Empty => {
                    assert!(reader.position() == self.tail() && position == self.tail());
                    assert_eq!(ready, !rest.is_empty());
                    self.attachments[id].reader = Some(reader);
                    return;
                }
                Step::Frame(frame) => {
                    assert!(ready);
                    let entry = &self.order[position as usize];
                    let sent = entry.frames[index].clone();
                    let (sender, lane) = (entry.sender, entry.lane);
                    let last = index + 1 == entry.frames.len();
                    assert_eq!(reader.position(), position + u64::from(last));
                    assert_eq!(reader.in_batch(), !last);
                    assert_eq!((frame.place.stamp.0, usize::from(frame.place.index)), (position, index));
                    assert_eq!((frame.sender.index(), frame.lane), (sender, lane));
                    assert_eq!((frame.offset, frame.header.serial), (sent.offset, sent.serial));
                    assert_eq!((frame.header.kind, frame.header.topic), (sent.kind, sent.topic));
                    assert_eq!(frame.header.bucket, entry.bucket);
                    match sent.kind {
                        Kind::Transaction => {
                            assert_eq!(frame.header.destination, sent.destinations.len() as u64);
                        }
                        Kind::Message => assert_eq!(frame.header.address(), sent.destinations[0]),
                        _ => {}
                    }
                    assert_eq!(u64::from(frame.header.length), sent.body.len() as u64);
                    let topic = sent.topic;
                    self.reached.read += 1;
                    let lease = Lease { stamp: position, sender, lane, sent };
                    self.check_lease(&lease, counts);
                    self.attachments[id].leases.push(lease);
                    self.attachments[id].reader = Some(reader);
                    if lane == LaneKind::Control {
                        self.apply(id, position, topic);
                    }
                }
                Step::Overrun => {
                    assert!(!counts, "a counting reader was overrun");
                    self.reached.lost += 1;
                    let position = reader.position();
                    assert!(self.tail() - position > SLOTS, "its slot still stands");
                    return;
                }
                Step::Violation(stamp, violation) => {
                    assert!(!counts, "{violation:?} for a counting reader");
                    assert_eq!(stamp.0, position);
                    assert!(matches!(violation, Violation::Stamp(..)), "{violation:?}");
                    assert!(
                        self.gave_up(position, index),
                        "{violation:?}, but its sender still has the frame"
                    );
                    self.attachments[id].reader = Some(reader);
                }
            }
        }
    }

    fn gave_up(&self, stamp: u64, index: usize) -> bool {
        let entry = &self.order[stamp as usize];
        entry.frames[index].serial < self.reclaimed(entry.sender, entry.lane)
    }

    /// What a reader does with a record about itself.
    fn apply(&mut self, id: usize, stamp: u64, topic: u64) {
        let bucket = Bucket::of(group(topic as u16));
        let a = &mut self.attachments[id];
        if (topic >> 16) as u16 != id as u16 {
            return;
        }
        match topic >> 32 {
            3 => a.reader.as_mut().unwrap().watch(bucket),
            4 => {
                let reader = a.reader.as_mut().unwrap();
                let mut set = *reader.buckets();
                set.0[usize::from(bucket.0 >> 6)] &= !(1 << (bucket.0 & 63));
                *reader = Reader::new(Stamp(reader.position()), set);
                a.shrink.push((stamp, bucket));
            }
            _ => {}
        }
    }

    /// What is said to be intact is what was sent; who counts always hears so, as long as it has not passed.
    fn check_lease(&self, lease: &Lease, counts: bool) {
        let view = &self.pages.0[lease.sender].0;
        let now = bytes(view, lease.sent.offset, lease.sent.body.len() as u64);
        if intact(view, lease.lane, lease.sent.serial) {
            assert!(now == lease.sent.body, "other bytes at stamp {} were called intact", lease.stamp);
        } else {
            assert!(!counts, "stamp {} was overwritten under a counting reader", lease.stamp);
            assert!(self.reclaimed(lease.sender, lease.lane) > lease.sent.serial);
        }
    }

    fn advance(&mut self, id: usize, keep: usize) {
        let a = &self.attachments[id];
        let Some(reader) = &a.reader else { return };
        let counts = a.life == Life::Live;
        a.leases.iter().for_each(|lease| self.check_lease(lease, counts));
        let kept = a.leases.len().min(keep);
        let from = a.leases.len() - kept;
        let oldest = a.leases.get(from).map_or(u64::MAX, |l| l.stamp);
        let in_batch = reader.in_batch();
        let cursor = reader.position().min(oldest);
        let a = &mut self.attachments[id];
        // Of a batch being read the last lease says which message comes next.
        let last = a.leases.len().saturating_sub(1);
        a.leases.drain(..if in_batch { from.min(last) } else { from });
        if cursor > a.cursor {
            a.cursor = cursor;
            store_cursor(&a.own, cursor);
            let (gone, rest) = a.shrink.iter().partition::<Vec<_>, _>(|s| s.0 < cursor);
            a.shrink = rest;
            let mut set = a.set;
            let watched = *a.reader.as_ref().unwrap().buckets();
            for (_, bucket) in gone {
                // Not if it has been asked for again since.
                if !watched.contains(bucket) && !self.asked_again(id, bucket) {
                    set.0[usize::from(bucket.0 >> 6)] &= !(1 << (bucket.0 & 63));
                }
            }
            self.store_set(id, set);
        }
        self.observe();
    }

    /// Whether a record to watch the bucket is in the order that the reader has not come to.
    fn asked_again(&self, id: usize, bucket: Bucket) -> bool {
        let position = self.attachments[id].reader.as_ref().unwrap().position() as usize;
        self.order[position.min(self.order.len())..].iter().any(|e| {
            e.lane == LaneKind::Control
                && e.frames.iter().any(|f| {
                    f.topic >> 32 == 3
                        && (f.topic >> 16) as u16 == id as u16
                        && Bucket::of(group(f.topic as u16)) == bucket
                })
        })
    }

    fn take(&mut self, who: usize, nth: usize) -> Option<Held> {
        let loans = &mut self.attachments[who].loans;
        (!loans.is_empty()).then(|| loans.remove(nth % loans.len()))
    }

    fn give_back(&mut self, who: usize, held: Vec<Held>) {
        let loans = &mut self.attachments[who].loans;
        loans.extend(held);
        loans.sort_by_key(|h| h.loan.serial());
    }

    fn send(&mut self, who: usize, held: Vec<Held>, to: To, shorter: u64) -> bool {
        let shapes: Vec<_> = held
            .iter()
            .map(|h| {
                let (kind, destinations) = to.kind_and_destinations(h.length);
                let least = if kind == Kind::Transaction { 8 * destinations.len() as u64 } else { 0 };
                (kind, destinations, h.length.saturating_sub(shorter).max(least))
            })
            .collect();
        let result = self.publish(who, LaneKind::Data, held, &shapes, owner(who as u16), false);
        match result {
            Ok(_) => true,
            Err((held, _)) => {
                self.give_back(who, held);
                false
            }
        }
    }

    fn apply_op(&mut self, op: &Op) {
        match *op {
            Op::Loan { who, length } => {
                if let Ok(held) = self.loan(who, LaneKind::Data, length) {
                    self.attachments[who].loans.push(held);
                }
            }
            Op::Publish { who, nth, to, shorter } => {
                if let Some(held) = self.take(who, nth) {
                    self.send(who, vec![held], to, shorter);
                }
            }
            Op::Batch { who, count, to } => {
                let mut run = Vec::new();
                while run.len() < count {
                    match self.loan(who, LaneKind::Data, 30 * run.len() as u64) {
                        Ok(held) => run.push(held),
                        Err(_) => break,
                    }
                }
                if !run.is_empty() {
                    self.send(who, run, to, 0);
                }
            }
            Op::Abandon { who, nth } => {
                if let Some(held) = self.take(who, nth) {
                    self.abandon(who, LaneKind::Data, held);
                }
            }
            Op::Refuse { who, nth, to } => {
                if let Some(held) = self.take(who, nth) {
                    let (kind, destinations) = to.kind_and_destinations(held.length);
                    let shapes = [(kind, destinations, held.length)];
                    let lane = LaneKind::Data;
                    let held = self.publish(who, lane, vec![held], &shapes, owner(who as u16), true);
                    let (held, error) = held.unwrap_err();
                    assert!(matches!(error, PublishError::Refused("no") | PublishError::Full(_)));
                    self.give_back(who, held);
                }
            }
            Op::Detached { who, nth, again } => self.detached(who, nth, again),
            Op::Burst { who, count, length, to } => {
                for _ in 0..count {
                    let Ok(held) = self.loan(who, LaneKind::Data, length) else {
                        break;
                    };
                    if !self.send(who, vec![held], to, 0) {
                        let held = self.attachments[who].loans.pop().unwrap();
                        self.abandon(who, LaneKind::Data, held);
                        break;
                    }
                }
            }
            Op::Join { who, groups, pause, low } => self.join(who, groups, pause, low),
            Op::Leave { who } => {
                if self.attachments[who].life == Life::Live
                    && self.publish_record(Record { what: 2, who, group: 0 }).is_some()
                {
                    set_reader_state(&self.sequencer, who as u16, ReaderState::None);
                    let a = &mut self.attachments[who];
                    (a.life, a.reader) = (Life::Out, None);
                    a.leases.clear();
                }
            }
            Op::Watch { who, group: g } => {
                if self.attachments[who].life == Life::Live {
                    let mut set = self.attachments[who].set;
                    set.insert(Bucket::of(group(g)));
                    self.store_set(who, set);
                    self.publish_record(Record { what: 3, who, group: g });
                }
            }
            Op::Unwatch { who, group } => {
                if self.attachments[who].life == Life::Live {
                    self.publish_record(Record { what: 4, who, group });
                }
            }
            Op::Read { who, count, skip } => self.read(who, count, skip),
            Op::Round => self.drain(),
            Op::Advance { who, keep } => self.advance(who, keep),
            Op::Evict { who } => {
                if self.attachments[who].life == Life::Live {
                    set_reader_state(&self.sequencer, who as u16, ReaderState::Evicted);
                    self.attachments[who].life = Life::Evicted;
                }
            }
        }
        self.observe();
        (0..ATTACHMENTS).for_each(|id| self.check_held(id));
    }

    /// Whoever is not a live member, or not with that generation, publishes nothing.
    fn detached(&mut self, who: usize, nth: usize, again: bool) {
        if self.tail().saturating_sub(self.gate_now()) >= SLOTS {
            return; // It would hear of that first.
        }
        let Some(held) = self.take(who, nth) else { return };
        let id = AttachmentId(who as u16);
        let live = self.sequencer.members().word(id);
        let mut as_owner = owner(who as u16);
        if again {
            as_owner.generation += 1;
        } else {
            let gone = live.with_attach(AttachState::Departed);
            self.sequencer.members().exchange(id, live, gone).unwrap();
        }
        let shapes = [(Kind::Message, vec![group(0)], held.length)];
        let before = self.tail();
        let mut peers = self.pages.clone();
        let message = Message { destinations: &shapes[0].1, topic: 0, descriptors: 0, time: 0 };
        let Held { loan, length, body, topic } = held;
        let frames = [(loan, Kind::Message, message, length)];
        let lane = &mut self.attachments[who].lane;
        let result = lane.publish::<()>(&self.sequencer, &mut peers, as_owner, &frames, |_| {
            panic!("asked for a slot it cannot have")
        });
        assert_eq!(result, Err(PublishError::Detached));
        self.reached.detached += 1;
        assert_eq!(self.sequencer.find().unwrap().stamp, before);
        if !again {
            let gone = self.sequencer.members().word(id);
            self.sequencer.members().exchange(id, gone, live).unwrap();
        }
        let [(loan, ..)] = frames;
        self.give_back(who, vec![Held { loan, length, body, topic }]);
    }

    /// Everyone who counts reads to the end.
    fn drain(&mut self) {
        for id in 0..ATTACHMENTS {
            if self.attachments[id].life == Life::Live {
                self.read(id, u64::MAX, 16);
                let position = self.attachments[id].reader.as_ref().unwrap().position();
                assert_eq!(position, self.tail());
                self.advance(id, 0);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_three_attachments_do_the_order_is_the_model_s(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.apply_op(op);
        }
        world.drain();
    }
}

/// So that the property above is not true for want of anything happening.
#[test]
fn the_random_operations_reach_every_corner() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut reached = Reached::default();
    for _ in 0..64 {
        let mut world = World::new();
        for op in &ops().new_tree(&mut runner).unwrap().current() {
            world.apply_op(op);
        }
        world.drain();
        reached.add(&world.reached);
    }
    println!("{reached:?}");
    let Reached {
        laps,
        read,
        lost,
        slots,
        headers,
        bytes,
        too_big,
        refused,
        detached,
        batches,
        transactions,
        past,
    } = reached;
    let corners =
        [laps, read, lost, slots, headers, bytes, too_big, refused, detached, batches, transactions, past];
    assert!(corners.iter().all(|n| *n > 0), "{reached:?}");
}
