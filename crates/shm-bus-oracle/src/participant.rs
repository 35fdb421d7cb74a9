//! One process that does random things to the bus, and writes everything down.

mod attachment;
mod doom;
pub mod reading;
mod sending;
mod tokens;

use std::time::Duration;

use shm_bus::{BusError, Overload};

use self::attachment::Attachment;
use self::tokens::Tokens;
use crate::diary::{Diary, Phase};
use crate::dice::Dice;
use crate::event::Event;
use crate::plan::{GROUPS, Habits, Place};

/// How a participant ends that met what must not be.
const BROKEN: i32 = 1;

/// What a participant is started with.
#[derive(Clone, Debug)]
pub struct Role {
    /// Its number.
    pub number: u32,
    /// Where.
    pub place: Place,
    /// How much it does; without it, until it is told to end.
    pub steps: Option<u64>,
    /// The highest number that anybody may have.
    pub others: u32,
}

/// A process with its habits.
pub struct Participant {
    role: Role,
    habits: Habits,
    dice: Dice,
    diary: Diary,
    tokens: Tokens,
    attachment: Option<Attachment>,
    /// Addresses of others, heard of in the order; some of them are gone.
    peers: Vec<u64>,
    /// Numbers of the next message and the next subscription.
    next_message: u64,
    next_subscription: u32,
    /// What it will answer: sender, or where it was sent.
    reactions: Vec<u64>,
}

/// More than the processes of one run: those that are gone should be tried too.
const PEERS: usize = 12;
/// Answers that may wait.
const REACTIONS: usize = 8;

/// Runs a participant, and gives its exit code.
pub fn run(role: Role) -> i32 {
    let habits = Habits::of(role.place.seed, role.number, role.place.log2_slots, role.steps);
    let started = Diary::open().map_err(|e| e.to_string()).and_then(|diary| {
        let tokens = Tokens::open(&role.place.directory, role.number)?;
        Ok(Participant {
            dice: Dice::new(role.place.seed, u64::from(role.number)),
            tokens,
            diary,
            attachment: None,
            peers: Vec::new(),
            next_message: 0,
            next_subscription: 0,
            reactions: Vec::new(),
            habits,
            role,
        })
    });
    let ended = started.and_then(|mut participant| participant.live());
    match ended {
        Ok(()) => 0,
        Err(why) => {
            eprintln!("{why}");
            BROKEN
        }
    }
}

/// What ends a participant: nothing that the bus may do.
type Outcome<T> = Result<T, String>;

impl Participant {
    fn live(&mut self) -> Outcome<()> {
        let mut step = 0;
        while self.role.steps.is_none_or(|steps| step < steps) && self.diary.phase() == Phase::Act {
            if self.habits.doom == Some(step) {
                self.await_doom()?;
            }
            self.step()?;
            step += 1;
        }
        if let Some(attachment) = &mut self.attachment {
            attachment.give_up_loans();
        }
        self.diary.write(Event::Done);
        while self.diary.phase() == Phase::Act {
            self.read(64)?;
            self.pause(Duration::from_millis(1));
        }
        self.drain()?;
        self.diary.write(Event::Drained);
        while self.diary.phase() < Phase::Leave {
            self.read(64)?;
            self.pause(Duration::from_millis(1));
        }
        self.detach()
    }

    /// Everything there is: nobody publishes any more but the master's role.
    fn drain(&mut self) -> Outcome<()> {
        loop {
            let before = self.positions();
            self.read(64)?;
            let after = self.positions();
            let behind = self
                .attachment
                .as_ref()
                .is_some_and(|a| a.readers.iter().any(|reader| reader.subscription.lag() > 0));
            if before == after && !behind {
                return Ok(());
            }
        }
    }

    fn positions(&self) -> Vec<u64> {
        let readers = self.attachment.iter().flat_map(|a| a.readers.iter());
        readers.map(|r| r.subscription.position().0).collect()
    }

    fn step(&mut self) -> Outcome<()> {
        if self.attachment.is_none() {
            self.attach()?;
            self.subscribe()?;
        }
        self.receive_tokens();
        let habits = self.habits.clone();
        let mut roll = self.dice.roll(100);
        let mut falls = |share: u64| {
            let hit = roll < share;
            roll = roll.wrapping_sub(share);
            hit
        };
        if falls(habits.moves) {
            self.detach()?;
        } else if falls(habits.stalls) {
            self.pause(Duration::from_millis(habits.idle));
        } else if falls(habits.bursts) {
            self.burst()?;
        } else if falls(6) {
            if !self.must_go_on_reading() {
                self.subscribe()?;
            }
        } else if falls(4) {
            self.unsubscribe()?;
        } else if falls(2) {
            self.look_into_directory();
        } else if falls(2) {
            if !self.must_go_on_reading() {
                self.make_group()?;
            }
        } else if falls(4) {
            self.send_what_cannot_be()?;
        } else if falls(10) {
            self.batch()?;
        } else if falls(8) {
            self.lend()?;
        } else if falls(8) {
            self.transaction()?;
        } else if falls(8) {
            self.unicast()?;
        } else {
            self.multicast()?;
        }
        if self.dice.chance(70) {
            self.read(24)?;
        }
        while self.dice.chance(80)
            && let Some(to) = self.reactions.pop()
        {
            self.send(&[to])?;
        }
        Ok(())
    }

    /// Whether waiting for the master's answer could last for ever: it may need room that only this process can make.
    fn must_go_on_reading(&self) -> bool {
        let counts = |a: &Attachment| a.readers.iter().any(|reader| !reader.lossy);
        self.habits.overload == Overload::Pinned && self.attachment.as_ref().is_some_and(counts)
    }

    fn look_into_directory(&mut self) {
        if let Some(attachment) = &self.attachment
            && let Ok(directory) = attachment.bus.directory()
        {
            let snapshot = attachment::snapshot(&directory);
            self.diary.write(Event::Directory(snapshot));
        }
    }

    fn make_group(&mut self) -> Outcome<()> {
        let name = *self.dice.pick(&GROUPS).expect("some");
        let Some(attachment) = &mut self.attachment else { return Ok(()) };
        match attachment.bus.create_group(name, crate::plan::LONG) {
            Ok(address) => attachment.learn(address.0),
            Err(error) => return Err(format!("no group {name}: {error}")),
        }
        Ok(())
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn heard_of(&mut self, address: u64) {
        if !self.peers.contains(&address) {
            if self.peers.len() == PEERS {
                self.peers.remove(0);
            }
            self.peers.push(address);
        }
    }

    /// What the code of an unexpected error is, for the log.
    fn unexpected(&mut self, doing: &str, error: &BusError) -> String {
        self.diary.write(Event::Note(format!("{doing}: {error}")));
        format!("participant {}, {doing}: {error}", self.role.number)
    }
}
