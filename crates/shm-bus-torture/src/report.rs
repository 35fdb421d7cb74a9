//! What a process says of itself before it is gone: a page that it shares with those who judge it.

use std::fmt;

use shm_bus_ring::{Ordering, Region};

use crate::Outcome;
use crate::memory;

/// How a publish or a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A publish returned this stamp.
    Published(u64),
    /// It found no room.
    Full,
    /// It was told that its attachment is gone.
    Detached,
    /// It was told that the order is unusable, or something else that cannot be.
    Broken,
    /// A reader came to the end of what it wanted.
    Done,
    /// A reader was told that it has lost its place.
    Evicted,
}

impl Ended {
    fn words(self) -> (u64, u64) {
        match self {
            Ended::Published(stamp) => (1, stamp),
            Ended::Full => (2, 0),
            Ended::Detached => (3, 0),
            Ended::Broken => (4, 0),
            Ended::Done => (5, 0),
            Ended::Evicted => (6, 0),
        }
    }

    fn of(code: u64, value: u64) -> Self {
        match code {
            1 => Ended::Published(value),
            2 => Ended::Full,
            3 => Ended::Detached,
            5 => Ended::Done,
            6 => Ended::Evicted,
            _ => Ended::Broken,
        }
    }
}

/// One message as a reader took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub stamp: u64,
    pub index: u64,
    pub topic: u64,
}

/// What is worth telling of a case that went well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The process took another way than the one that was recorded.
    pub other_way: bool,
    /// The longest that one of the others had to wait, in milliseconds.
    pub longest_wait: u64,
}

impl Note {
    pub fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let other_way = words.next() == Some("other");
        Note { other_way, longest_wait: words.next().and_then(|w| w.parse().ok()).unwrap_or(0) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.other_way { "other" } else { "same" }, self.longest_wait)
    }
}

/// A part of the page for each process that reports, and one for a sentence.
#[derive(Clone)]
pub struct Report(Region);

const PART: u64 = 32 << 10;
const PARTS: u64 = 8;
const ENDED: u64 = 16;
const SEEN: u64 = 8 << 10;
const TEXT: u64 = PART * (PARTS - 1);
const MOST: u64 = (PART - SEEN) / 24;

impl Report {
    pub fn new() -> Outcome<Self> {
        let mapping = memory::shared(PART * PARTS)?;
        Ok(Report(mapping.region().map_err(|e| e.to_string())?))
    }

    pub fn clear(&self) {
        for part in 0..PARTS {
            self.set(part * PART, 0);
            self.set(part * PART + 8, 0);
        }
    }

    fn set(&self, offset: u64, value: u64) {
        self.0.store(offset, value, Ordering::SeqCst);
    }

    fn get(&self, offset: u64) -> u64 {
        self.0.load(offset, Ordering::SeqCst)
    }

    /// Says that the operation returned, and how.
    pub fn say(&self, who: usize, ended: &[Ended], seen: &[Seen]) {
        let base = who as u64 * PART;
        for (i, ended) in ended.iter().enumerate() {
            let (code, value) = ended.words();
            self.set(base + ENDED + 16 * i as u64, code);
            self.set(base + ENDED + 16 * i as u64 + 8, value);
        }
        for (i, seen) in (0..MOST).zip(seen) {
            let at = base + SEEN + 24 * i;
            self.set(at, seen.stamp);
            self.set(at + 8, seen.index);
            self.set(at + 16, seen.topic);
        }
        self.set(base + 8, (seen.len() as u64).min(MOST));
        self.set(base, 1 + ended.len() as u64);
    }

    /// What a process has said; nothing if its operation has not returned.
    pub fn heard(&self, who: usize) -> Option<(Vec<Ended>, Vec<Seen>)> {
        let base = who as u64 * PART;
        let count = self.get(base).checked_sub(1)?;
        let ended = (0..count)
            .map(|i| Ended::of(self.get(base + ENDED + 16 * i), self.get(base + ENDED + 16 * i + 8)))
            .collect();
        let seen = (0..self.get(base + 8))
            .map(|i| base + SEEN + 24 * i)
            .map(|at| Seen { stamp: self.get(at), index: self.get(at + 8), topic: self.get(at + 16) })
            .collect();
        Some((ended, seen))
    }

    /// Leaves a sentence. `ok` words carry a note instead of a failure.
    pub fn write(&self, ok: bool, text: &str) {
        let bytes = &text.as_bytes()[..text.len().min((PART - 16) as usize)];
        self.0.copy_in(TEXT + 16, bytes);
        self.set(TEXT + 8, bytes.len() as u64);
        self.set(TEXT, if ok { 1 } else { 2 });
    }

    /// The sentence, if there is one: a note, or a failure.
    pub fn read(&self) -> Option<Result<String, String>> {
        let code = self.get(TEXT);
        let mut bytes = vec![0; self.get(TEXT + 8).min(PART - 16) as usize];
        self.0.copy_out(TEXT + 16, &mut bytes);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match code {
            1 => Some(Ok(text)),
            2 => Some(Err(text)),
            _ => None,
        }
    }
}
