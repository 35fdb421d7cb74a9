//! What a seed decides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use shm_bus::{AttachOptions, Overload};

use crate::dice::Dice;

/// The name of the one bus of a run.
pub const BUS: &str = "oracle";
/// Far longer than anything takes on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);
/// Number of the process that only watches.
pub const OBSERVER: u32 = 0;

/// Streams of a seed's numbers; a process's own stream is its number.
const SHAPE: u64 = 1 << 40;
const FATE: u64 = 2 << 40;

/// What is decided before anybody starts.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Processes besides the observer.
    pub processes: u32,
    /// Slots of the order, as a power of two.
    pub log2_slots: u32,
    /// Steps of each process.
    pub steps: u64,
    /// What is done to them, and after how many lines of log.
    pub blows: Vec<(u64, Blow)>,
}

/// What is done to a process from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Killed, whoever it is.
    Kill(u32),
    /// The holder of the master's role is killed.
    KillMaster,
    /// Stopped for that many milliseconds.
    Stop(u32, u64),
    /// Another process comes.
    Start,
}

impl Plan {
    /// The plan of a seed; `processes` if their number is not the seed's to choose.
    pub fn of(seed: u64, processes: Option<u32>) -> Self {
        let mut dice = Dice::new(seed, SHAPE);
        let chosen = dice.between(3, 8) as u32;
        let processes = processes.unwrap_or(chosen);
        let log2_slots = dice.between(8, 10) as u32;
        let steps = dice.between(10, 40);
        let mut blows = Vec::new();
        // A step makes some lines of log; not every blow falls before all is done.
        let span = steps * u64::from(processes) * 3;
        for _ in 0..dice.roll(4) {
            let victim = dice.between(1, u64::from(processes)) as u32;
            let blow = if dice.chance(40) { Blow::KillMaster } else { Blow::Kill(victim) };
            blows.push((dice.roll(span), blow));
            if dice.chance(50) {
                blows.push((dice.roll(span), Blow::Start));
            }
        }
        for _ in 0..dice.roll(3) {
            let victim = dice.between(1, u64::from(processes)) as u32;
            blows.push((dice.roll(span), Blow::Stop(victim, dice.between(1, 40))));
        }
        blows.sort_by_key(|(at, _)| *at);
        Plan { seed, processes, log2_slots, steps, blows }
    }
}

/// What one process is like.
#[derive(Clone, Debug)]
pub struct Habits {
    /// What becomes of its subscriptions when they are slow.
    pub overload: Overload,
    /// In a hundred subscriptions: those that may miss something instead.
    pub lossy: u64,
    /// How long it idles at most, in milliseconds.
    pub idle: u64,
    /// Its payload ring.
    pub ring_bytes: u64,
    /// Headers of its ring.
    pub headers: u64,
    /// In a hundred steps: how often it publishes many at once.
    pub bursts: u64,
    /// Idle steps.
    pub stalls: u64,
    /// Detaching and attaching again.
    pub moves: u64,
    /// Answers to a hundred messages.
    pub reactions: u64,
    /// In which step it lets a timer kill it, at some instruction of what it does then.
    pub doom: Option<u64>,
}

impl Habits {
    /// The habits of a process.
    pub fn of(seed: u64, number: u32, log2_slots: u32, steps: Option<u64>) -> Self {
        let mut dice = Dice::new(seed, FATE + u64::from(number));
        Habits {
            overload: match dice.roll(10) {
                0 => Overload::Pinned,
                1..4 => Overload::Evict { max_lag: Some(dice.between(20, 1 << log2_slots)) },
                _ => {
                    let deadline = *dice.pick(&[1, 3, 10, 50]).expect("some");
                    Overload::Block { deadline: Duration::from_millis(deadline) }
                }
            },
            lossy: *dice.pick(&[0, 30, 100]).expect("some"),
            idle: dice.between(1, 20),
            ring_bytes: 1 << 16,
            headers: dice.between(64, 1 << (log2_slots - 2)).next_power_of_two().min(1 << (log2_slots - 2)),
            bursts: *dice.pick(&[0, 5, 15]).expect("some"),
            stalls: *dice.pick(&[0, 4, 10]).expect("some"),
            moves: *dice.pick(&[0, 2, 6]).expect("some"),
            reactions: *dice.pick(&[0, 5, 15]).expect("some"),
            doom: steps.filter(|_| dice.chance(15)).map(|steps| dice.roll(steps)),
        }
    }
}

/// Where a run takes place, and in what bus.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory of this run's own.
    pub directory: PathBuf,
    /// The seed.
    pub seed: u64,
    /// Slots of the order, as a power of two.
    pub log2_slots: u32,
}

impl Place {
    /// The bus's runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// How a process attaches.
    pub fn options(&self, habits: &Habits) -> AttachOptions {
        AttachOptions {
            ring_bytes: habits.ring_bytes,
            headers: habits.headers,
            log2_slots: self.log2_slots,
            runtime_directory: Some(self.runtime()),
            timeout: LONG,
            ..AttachOptions::default()
        }
    }
}

/// The pipe on which a process gets its tokens.
pub fn pipe(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("pipe-{number}"))
}

/// The groups that everyone knows; each is made when somebody first asks for it.
pub const GROUPS: [&str; 6] = ["*", "red", "green", "blue", "white", "black"];
