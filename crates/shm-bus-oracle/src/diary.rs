//! A participant's end of the driver: its log goes out, commands come in.

use std::fs::File;
use std::io::{BufRead, Write, stdin, stdout};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use shm_bus_os::clock;

use crate::event::{Event, Line};

/// How a participant ends whose driver is gone.
const ORPHANED: i32 = 9;

/// How far the run is, as the driver last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Do as you like.
    Act = 0,
    /// Publish no more, read to the end.
    Drain = 1,
    /// Detach and end.
    Leave = 2,
}

impl Phase {
    /// The word that announces it.
    pub fn word(self) -> &'static str {
        match self {
            Phase::Act => "act",
            Phase::Drain => "drain",
            Phase::Leave => "leave",
        }
    }
}

/// The log of this process, and what it is told.
pub struct Diary {
    out: File,
    phase: Arc<AtomicU8>,
}

impl Diary {
    /// Writes to standard output, and listens to standard input; the process ends when that ends.
    pub fn open() -> std::io::Result<Self> {
        let out = File::from(stdout().as_fd().try_clone_to_owned()?);
        let phase = Arc::new(AtomicU8::new(0));
        let told = phase.clone();
        std::thread::spawn(move || {
            for line in stdin().lock().lines().map_while(Result::ok) {
                let phase = [Phase::Act, Phase::Drain, Phase::Leave].into_iter().find(|p| p.word() == line);
                if let Some(phase) = phase {
                    told.store(phase as u8, Ordering::Release);
                }
            }
            std::process::exit(ORPHANED);
        });
        Ok(Diary { out, phase })
    }

    /// What the driver wants.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Act,
            1 => Phase::Drain,
            _ => Phase::Leave,
        }
    }

    /// Writes an event down, with the present time: behind what has ended, in front of what begins.
    pub fn write(&mut self, event: Event) {
        self.write_at(clock::monotonic_nanos(), event);
    }

    /// Writes an event down. One call of the system: what is written stays written whatever happens to this process.
    pub fn write_at(&mut self, time: u64, event: Event) {
        let mut bytes = serde_json::to_vec(&Line { time, event }).expect("events are plain data");
        bytes.push(b'\n');
        if self.out.write_all(&bytes).is_err() {
            std::process::exit(ORPHANED);
        }
    }
}
