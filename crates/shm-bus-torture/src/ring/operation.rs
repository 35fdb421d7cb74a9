//! What a stepped process does, between its two markers.

use shm_bus_ring::{AttachmentId, Frame, Policy, ReaderState, SleepKind, Step};

use super::message::{Event, Item, check, other_group, seen};
use super::scene::Scene;
use super::world::{SECOND, SLOW, Sent, VICTIM, World, framed, owner};
use crate::mode::Mode;
use crate::report::{Ended, Seen};
use crate::trace::process::until;
use crate::trace::tracee::{begin, end};

/// What the stepped process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Publishes 64 bytes.
    Publish,
    /// Publishes 4 KiB.
    PublishRing,
    /// Takes two loans and publishes the second before the first.
    Loan,
    /// Publishes three messages as one event.
    Batch,
    /// Publishes one message to two destinations.
    Transaction,
    /// Publishes to somebody asleep.
    Wake,
    /// Takes the place of a reader that holds the full order.
    Evict,
    /// Publishes until its own loans have to be freed.
    Reclaim,
    /// Publishes until it is told that there is no room.
    Fill,
    /// Announces that it waits for room, and waits.
    Space,
    /// Reads what is there and lets go of it.
    Poll,
    /// Announces that it sleeps, and sleeps.
    Wait,
    /// As the master does: lets the slow one count from the tail on, and publishes the record.
    Join,
    /// As the master does: lets the slow one count no more, and publishes the record.
    Leave,
    /// As the master does: departs the victim, and publishes the record. Only in a pair.
    Retire,
    /// Publishes; much more once the other has returned, with the gate that it knows. Only in a pair.
    Burst,
    /// Publishes where its own ring may be full. Only in a pair.
    Renew,
}

/// Messages that [`Op::Poll`] reads at most.
pub const POLLED: usize = 7;
/// Messages that follow in [`Op::Burst`]: more than a lap.
const BURST: u64 = 100;
/// The part of the report by which [`Op::Burst`] is told to go on.
pub const GO_ON: usize = 6;

impl Op {
    /// Those that a process is stepped through alone.
    pub const ALONE: [(&str, Op); 14] = [
        ("publish", Op::Publish),
        ("publish-ring", Op::PublishRing),
        ("loan", Op::Loan),
        ("batch", Op::Batch),
        ("transaction", Op::Transaction),
        ("wake", Op::Wake),
        ("evict", Op::Evict),
        ("reclaim", Op::Reclaim),
        ("fill", Op::Fill),
        ("space", Op::Space),
        ("poll", Op::Poll),
        ("wait", Op::Wait),
        ("join", Op::Join),
        ("leave", Op::Leave),
    ];

    /// Whether its last step alone is to fall asleep.
    pub fn sleeps(self) -> bool {
        matches!(self, Op::Space | Op::Wait)
    }

    /// What it finds.
    pub fn scene(self) -> Scene {
        match self {
            Op::Poll => Scene::Waiting,
            Op::Wait => Scene::Reader(VICTIM),
            Op::Fill => Scene::Nearly,
            Op::Wake => Scene::Reader(SLOW),
            Op::Evict | Op::Leave => Scene::Full(Policy::Block),
            Op::Space => Scene::Full(Policy::Pinned),
            _ => Scene::Plain,
        }
    }

    /// Who may be in the others' way, and then loses its place.
    pub fn evictable(self) -> Option<usize> {
        match self {
            Op::Poll | Op::Wait => Some(VICTIM),
            Op::Fill => Some(SECOND),
            Op::Evict | Op::Join | Op::Leave => Some(SLOW),
            _ => None,
        }
    }

    /// The modes that make sense.
    pub fn modes(self) -> &'static [Mode] {
        match self {
            Op::Publish | Op::PublishRing | Op::Loan | Op::Batch | Op::Transaction => {
                &[Mode::Kill, Mode::Stop, Mode::Depart]
            }
            _ => &[Mode::Kill, Mode::Stop],
        }
    }

    fn events(self, world: &mut World, id: usize) -> Vec<Event> {
        match self {
            Op::Publish | Op::Wake | Op::Evict | Op::Space | Op::Join | Op::Leave | Op::Retire => {
                vec![world.event(id, &[64])]
            }
            Op::PublishRing => vec![world.event(id, &[4096])],
            Op::Loan => vec![world.event(id, &[100]), world.event(id, &[64])],
            Op::Batch => vec![world.event(id, &[64, 300, 20])],
            Op::Transaction => {
                let mut event = world.event(id, &[200]);
                event.0[0].destinations.push(other_group());
                vec![event]
            }
            Op::Reclaim => [40, 64, 500, 10].iter().map(|length| world.event(id, &[*length])).collect(),
            Op::Fill => (0..4).map(|_| world.event(id, &[4096])).collect(),
            Op::Renew => (0..3).map(|_| world.event(id, &[4096])).collect(),
            Op::Burst => (0..=BURST).map(|_| world.event(id, &[24])).collect(),
            Op::Poll | Op::Wait => Vec::new(),
        }
    }

    /// The topics that it publishes, in the order in which it does. Leaves the world's counts as they are.
    pub fn planned(self, world: &mut World, id: usize) -> Vec<Vec<u64>> {
        let events = |world: &mut World| self.events(world, id).iter().map(Event::topics).collect();
        let mut planned: Vec<Vec<u64>> = world.rehearse(id, events);
        if self == Op::Loan {
            planned.reverse();
        }
        planned
    }

    /// The stepped process, from its start to its end.
    pub fn act(self, world: &mut World, id: usize) {
        let events = self.events(world, id);
        let mut ended = Vec::with_capacity(events.len());
        let mut read: Vec<(Frame, Vec<u8>)> = Vec::with_capacity(64);
        begin();
        match self {
            Op::Loan => publish_out_of_order(world, id, &events, &mut ended),
            Op::Evict => ended.push(publish_in_the_place_of(world, id, &events[0])),
            Op::Space => ended.push(publish_when_there_is_room(world, id, &events[0])),
            Op::Poll => ended.push(poll(world, id, POLLED, &mut read)),
            Op::Wait => {
                wait(world, id);
                ended.push(poll(world, id, 1, &mut read));
            }
            Op::Join => {
                join(world, SLOW);
                ended.push(publish_in_the_place_of(world, id, &events[0]));
            }
            Op::Leave => {
                leave(world, SLOW);
                ended.push(publish_in_the_place_of(world, id, &events[0]));
            }
            Op::Retire => {
                world.bury(VICTIM);
                ended.push(world.send(id, &events[0]).ended());
            }
            Op::Burst => ended.push(world.send(id, &events[0]).ended()),
            _ => publish_all(world, id, &events, &mut ended),
        }
        end();
        if self == Op::Burst {
            burst(world, id, &events[1..], &mut ended);
        }
        if read.iter().any(|(frame, bytes)| check(frame, bytes).is_err()) {
            ended.push(Ended::Broken);
        }
        let read: Vec<Seen> = read.iter().map(|(frame, _)| seen(frame)).collect();
        world.report.say(id, &ended, &read);
    }
}

fn publish_all(world: &mut World, id: usize, events: &[Event], ended: &mut Vec<Ended>) {
    for event in events {
        let sent = world.send(id, event);
        ended.push(sent.ended());
        if !matches!(sent, Sent::At(_)) {
            break;
        }
    }
}

fn publish_out_of_order(world: &mut World, id: usize, events: &[Event], ended: &mut Vec<Ended>) {
    let items: Vec<&Item> = events.iter().map(|e| &e.0[0]).collect();
    let mut loans = Vec::with_capacity(items.len());
    for item in &items {
        let lane = &mut world.members[id].lane;
        match lane.loan::<()>(&world.sequencer, &mut world.pages, item.bytes.len() as u64) {
            Ok(loan) => {
                let (front, back) = item.bytes.split_at(item.bytes.len() / 2);
                lane.write(&loan, front.len() as u64, back);
                lane.write(&loan, 0, front);
                loans.push(loan);
            }
            Err(_) => {
                ended.push(Ended::Broken);
                return;
            }
        }
    }
    for (loan, item) in loans.into_iter().zip(&items).rev() {
        let frames = [framed(loan, item, item.bytes.len() as u64)];
        let lane = &mut world.members[id].lane;
        let published =
            lane.publish::<()>(&world.sequencer, &mut world.pages, owner(id), &frames, |_| Ok(()));
        ended.push(world.sent(id, published).ended());
    }
}

/// Takes the place of whoever holds the order.
fn publish_in_the_place_of(world: &mut World, id: usize, event: &Event) -> Ended {
    loop {
        match world.send(id, event) {
            Sent::Full(full) => match full.holder {
                Some((holder, _)) => {
                    world.evict(holder);
                }
                None => return Ended::Broken,
            },
            sent => return sent.ended(),
        }
    }
}

fn publish_when_there_is_room(world: &mut World, id: usize, event: &Event) -> Ended {
    world.sequencer.wait_for_space(owner(id).id, true);
    let ended = loop {
        let seen = world.space.load();
        match world.send(id, event) {
            Sent::Full(_) => {
                let _ = world.space.wait(seen, u32::MAX, None);
            }
            sent => break sent.ended(),
        }
    };
    world.sequencer.wait_for_space(owner(id).id, false);
    ended
}

fn burst(world: &mut World, id: usize, events: &[Event], ended: &mut Vec<Ended>) {
    until("told to go on", || world.report.heard(GO_ON).is_some()).expect("told to go on");
    for event in events {
        loop {
            match world.send(id, event) {
                // The readers that live are about to read on; the one that joined is not.
                Sent::Full(full) if full.holder.is_some_and(|(holder, _)| holder != owner(SLOW).id) => {
                    std::thread::yield_now();
                }
                Sent::Full(_) => return,
                sent => {
                    ended.push(sent.ended());
                    break;
                }
            }
        }
    }
}

/// Floor first, then the word; the record follows.
fn join(world: &World, who: usize) {
    let floor = world.sequencer.find().map_or(0, |found| found.stamp);
    let members = world.sequencer.members();
    let id = AttachmentId(who as u16);
    members.set_reader(id, floor, 100, 0);
    let mut word = members.word(id);
    while let Err(newer) = members.exchange(id, word, word.with_reader(ReaderState::Live)) {
        word = newer;
    }
}

/// The word first; the record follows.
fn leave(world: &World, who: usize) {
    let members = world.sequencer.members();
    let id = AttachmentId(who as u16);
    let mut word = members.word(id);
    while word.reader() != ReaderState::Evicted {
        match members.exchange(id, word, word.with_reader(ReaderState::None)) {
            Ok(()) => break,
            Err(newer) => word = newer,
        }
    }
    world.sequencer.release_space();
    let _ = world.space.wake(u32::MAX, u32::MAX);
}

/// Reads up to `most` messages; each is taken only if it was whole when its bytes had been copied.
pub fn poll(world: &mut World, id: usize, most: usize, read: &mut Vec<(Frame, Vec<u8>)>) -> Ended {
    let evicted = |world: &World| world.sequencer.members().word(owner(id).id).reader() != ReaderState::Live;
    while read.len() < most {
        match world.read(id) {
            Ok((frame, bytes)) => {
                if !world.intact(&frame) {
                    return if evicted(world) { Ended::Evicted } else { Ended::Broken };
                }
                read.push((frame, bytes));
            }
            Err(Step::Empty) => break,
            // An evicted reader's frames look like anything.
            Err(_) if evicted(world) => return Ended::Evicted,
            Err(_) => return Ended::Broken,
        }
    }
    world.store_cursor(id);
    if evicted(world) { Ended::Evicted } else { Ended::Done }
}

/// Sleeps until something comes: the handshake, and no timeout that would hide a lost wake.
pub fn wait(world: &mut World, id: usize) {
    let set = *world.members[id].reader.buckets();
    while !world.members[id].reader.ready(&world.sequencer) {
        let own = &world.members[id].own;
        let seen = world.sequencer.sleepers().fall_asleep(own, owner(id).id, &set, SleepKind::Futex) as u32;
        if !world.members[id].reader.ready(&world.sequencer) {
            let _ = world.hint.wait(seen, set.futex_bits(), None);
        }
        world.sequencer.sleepers().leave(owner(id).id, &set, &[]);
    }
}
