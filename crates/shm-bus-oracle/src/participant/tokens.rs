//! Pipes beside the bus: who reads a token knows that whatever its sender did before has happened.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::{Outcome, Participant};
use crate::event::Event;
use crate::plan::pipe;

/// This process's pipe, and the others'.
pub struct Tokens {
    directory: PathBuf,
    own: File,
    others: BTreeMap<u32, File>,
    next: u64,
}

fn open(path: &Path) -> std::io::Result<File> {
    // For both directions, so that neither end waits for the other.
    OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

impl Tokens {
    /// The pipes are the driver's, made before anyone was started.
    pub fn open(directory: &Path, number: u32) -> Outcome<Self> {
        let own = open(&pipe(directory, number)).map_err(|e| format!("no pipe for {number}: {e}"))?;
        Ok(Tokens { directory: directory.to_owned(), own, others: BTreeMap::new(), next: 0 })
    }

    fn other(&mut self, number: u32) -> Option<&mut File> {
        if !self.others.contains_key(&number) {
            let file = open(&pipe(&self.directory, number)).ok()?;
            self.others.insert(number, file);
        }
        self.others.get_mut(&number)
    }
}

impl Participant {
    /// Writes a token to somebody. A full pipe loses it, and so may the death of either.
    pub(super) fn send_token(&mut self) {
        let to = self.dice.between(1, u64::from(self.role.others)) as u32;
        let token = u64::from(self.role.number) << 32 | self.tokens.next;
        self.tokens.next += 1;
        if to == self.role.number {
            return;
        }
        self.diary.write(Event::Sent { token });
        if let Some(file) = self.tokens.other(to) {
            let _ = file.write(&token.to_le_bytes());
        }
    }

    /// Reads what tokens there are; each may be answered on the bus.
    pub(super) fn receive_tokens(&mut self) {
        let mut bytes = [0; 8];
        while matches!(self.tokens.own.read(&mut bytes), Ok(8)) {
            self.diary.write(Event::Received { token: u64::from_le_bytes(bytes) });
            if self.dice.chance(50)
                && let Some(group) = self.attachment.as_ref().and_then(|a| self.dice.pick(&a.groups).copied())
            {
                self.reactions.push(group);
            }
        }
    }
}
