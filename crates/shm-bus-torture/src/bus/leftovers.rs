//! What a case has on this machine, what of it is still there, and what nobody let go of.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;

use shm_bus::{AttachOptions, Bus};

use super::member::{Member, SLOTS};
use crate::Outcome;
use crate::trace::process::{HANG, until};

pub const NAME: &str = "torture";
const PREFIX: &str = "shm-bus-torture-";

pub fn said<T, E: ToString>(what: &str, result: Result<T, E>) -> Outcome<T> {
    result.map_err(|e| format!("{what}: {}", e.to_string()))
}

fn scratch_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{pid}"))
}

/// Removes what a case that did not come to its end has left behind.
pub fn clear_away(pid: nix::unistd::Pid) {
    let _ = fs::remove_dir_all(scratch_of(pid.as_raw() as u32));
}

/// The same for the cases of a run that was killed as a whole.
pub fn clear_after_the_dead() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A private runtime directory.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub fn new() -> Outcome<Self> {
        let path = scratch_of(std::process::id());
        let _ = fs::remove_dir_all(&path);
        said("mkdir", fs::DirBuilder::new().mode(0o700).create(&path))?;
        said("chmod", fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))?;
        Ok(Scratch { path })
    }

    pub fn options(&self) -> AttachOptions {
        AttachOptions {
            runtime_directory: Some(self.path.clone()),
            ring_bytes: 1 << 16,
            headers: 64,
            log2_slots: SLOTS.trailing_zeros(),
            timeout: HANG,
            ..AttachOptions::default()
        }
    }

    pub fn attach(&self) -> Outcome<Bus> {
        said("attach", Bus::attach(NAME, &self.options()))
    }

    /// After the last one has closed there is no file of the bus, and this process has what it had `before`.
    pub fn leave_nothing(&self, before: &Held, members: Vec<Member>) -> Outcome<()> {
        members.into_iter().for_each(Member::close);
        let left: Vec<_> = said("readdir", fs::read_dir(&self.path))?
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}"));
        }
        let now = Held::now()?;
        if now == *before { Ok(()) } else { Err(format!("after the bus {now:?}, before it {before:?}")) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What a process holds: maps of the bus's memories, by kind, and descriptors, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    payload_maps: usize,
    sequencer_maps: usize,
    directory_maps: usize,
    memories: usize,
    sockets: usize,
    others: usize,
}

impl Held {
    pub fn now() -> Outcome<Self> {
        let mut held = Held::default();
        let maps = said("maps", fs::read_to_string("/proc/self/maps"))?;
        for line in maps.lines() {
            for (name, count) in [
                ("shm-bus-payload", &mut held.payload_maps),
                ("shm-bus-sequencer", &mut held.sequencer_maps),
                ("shm-bus-directory", &mut held.directory_maps),
            ] {
                *count += usize::from(line.contains(name));
            }
        }
        for entry in said("readdir", fs::read_dir("/proc/self/fd"))?.flatten() {
            // The one that lists them is among them, and is gone by now.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy();
            if target.contains("memfd:shm-bus-") {
                held.memories += 1;
            } else if target.starts_with("socket:") {
                held.sockets += 1;
            } else if !target.ends_with("/fd") {
                held.others += 1;
            }
        }
        Ok(held)
    }

    /// Waits until this process holds what it did then: whatever came with somebody who is gone is let go of.
    pub fn until_again(&self) -> Outcome<()> {
        let mut now = Held::default();
        let again = until("what the dead one brought is let go of", || {
            now = Held::now().unwrap_or_default();
            now == *self
        });
        again.map_err(|why| format!("{why}: {now:?}, not {self:?}"))
    }
}
