//! What an operation finds when it begins.

use shm_bus_ring::{AttachmentId, Policy, ReaderState};

use super::message::Event;
use super::mutant::Mutation;
use super::world::{PUBLISHER, READERS, SECOND, SLOTS, SLOW, Sent, VICTIM, World, owner};
use crate::Outcome;

/// Where in the order an operation begins.
pub const STARTS: [(&str, u64); 4] = [
    // Nothing special.
    ("mid", 150),
    // The hint is raised.
    ("hint", 151),
    // The last slot of a lap.
    ("edge", 191),
    // The first of the next: everyone is woken.
    ("lap", 192),
];

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scene {
    /// Two readers that read everything.
    Plain,
    /// One more reader, with nothing in front of it.
    Reader(usize),
    /// The victim is a reader and has some messages in front of it.
    Waiting,
    /// The slow reader holds the full order.
    Full(Policy),
    /// The second process is a reader and holds the victim's payload ring, in which there is room for three messages.
    Nearly,
    /// The second process is a reader and holds the victim's full payload ring.
    Held,
    /// The same, but the second has lost its place.
    Lost,
    /// Nobody counts.
    Unheld,
}

/// Messages of 4 KiB that fill a payload ring.
const RINGFUL: u64 = 16;
/// Those that still fit in [`Scene::Nearly`].
const LEFT: u64 = 3;
/// What stands in front of the victim in [`Scene::Waiting`]: who publishes, and the lengths of an event.
const WAITING: [(usize, &[u64]); 5] = [
    (PUBLISHER, &[40]),
    (SECOND, &[2000]),
    (SECOND, &[64, 700, 3]),
    (PUBLISHER, &[64]),
    (PUBLISHER, &[900, 800]),
];

impl Scene {
    /// Events that it puts into the order, but for whole laps.
    fn events(self) -> u64 {
        match self {
            Scene::Waiting => WAITING.len() as u64,
            Scene::Nearly => RINGFUL - LEFT,
            Scene::Held | Scene::Lost => RINGFUL,
            _ => 0,
        }
    }

    /// A world in which it is set, whose next free slot is `start` or that of a later lap.
    pub fn set(self, start: u64, mutation: Option<Mutation>) -> Outcome<World> {
        let mut world = World::new(start - self.events(), mutation)?;
        match self {
            Scene::Plain => {}
            Scene::Reader(id) => world.count_reader(id),
            Scene::Waiting => {
                world.count_reader(VICTIM);
                let from = world.tail();
                for (id, lengths) in WAITING {
                    let event = world.event(id, lengths);
                    publish(&mut world, id, &event)?;
                }
                world.remember_from(from)?;
            }
            Scene::Full(policy) => {
                world.count_reader(SLOW);
                let me = AttachmentId(SLOW as u16);
                let word = world.sequencer.members().word(me);
                let _ = world.sequencer.members().exchange(me, word, word.with_policy(policy));
                let from = world.tail();
                while world.tail() < from + SLOTS {
                    let event = world.event(PUBLISHER, &[20]);
                    publish(&mut world, PUBLISHER, &event)?;
                    world.follow()?;
                }
                world.remember_from(from)?;
            }
            Scene::Nearly | Scene::Held | Scene::Lost => {
                world.count_reader(SECOND);
                let from = world.tail();
                for _ in 0..self.events() {
                    let event = world.event(VICTIM, &[4096]);
                    publish(&mut world, VICTIM, &event)?;
                    world.follow()?;
                }
                if self == Scene::Nearly {
                    return world.ready();
                }
                let event = world.event(VICTIM, &[4096]);
                match world.send(VICTIM, &event) {
                    Sent::Full(full) if full.holder == Some((owner(SECOND).id, from)) => {}
                    other => return Err(format!("the ring is held: {other:?}")),
                }
                world.withdraw(VICTIM);
                world.remember_from(from)?;
                if self == Scene::Lost {
                    world.evict(owner(SECOND).id);
                }
            }
            Scene::Unheld => {
                for id in READERS {
                    world.set_reading(id, ReaderState::None);
                }
            }
        }
        world.ready()
    }
}

impl World {
    /// From here on it counts.
    fn ready(mut self) -> Outcome<World> {
        for id in READERS {
            self.members[id].seen.clear();
        }
        self.start = self.tail();
        self.keep();
        Ok(self)
    }
}

pub fn publish(world: &mut World, id: usize, event: &Event) -> Outcome<u64> {
    match world.send(id, event) {
        Sent::At(stamp) => Ok(stamp),
        other => Err(format!("{id} publishes: {other:?}")),
    }
}
