//! The master's listening socket, and its file's place.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shm_bus_os::{Listener, Name, OsError};

use crate::error::Result;

/// A bound socket. A file is bound under a name of its own first and takes the bus's name by a rename, so that it
/// appears whole, and in the place of a predecessor's.
pub(crate) struct Socket {
    pub listener: Listener,
    file: Option<File>,
}

struct File {
    own: PathBuf,
    place: PathBuf,
    inode: u64,
    placed: bool,
}

impl Socket {
    /// Binds; for a file, not yet at the bus's name. `number` keeps the names of different reigns apart.
    pub fn prepare(name: &Name, number: u64) -> Result<Self> {
        let Name::Path(place) = name else {
            return Ok(Socket { listener: Listener::bind(name)?, file: None });
        };
        let own = place.with_extension(number.to_string());
        let _ = std::fs::remove_file(&own);
        let listener = Listener::bind(&Name::Path(own.clone())).inspect_err(|_| {
            // It may have failed behind the making of the file.
            let _ = std::fs::remove_file(&own);
        })?;
        let file = File { inode: inode_of(&own).unwrap_or(0), own, place: place.clone(), placed: false };
        Ok(Socket { listener, file: Some(file) })
    }

    /// Takes the bus's name.
    pub fn place(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        std::fs::rename(&file.own, &file.place)
            .map_err(|error| OsError::of_std("rename", "putting the bus's socket file in place", &error))?;
        file.placed = true;
        Ok(())
    }

    /// Takes the bus's name again if it was taken away, or taken by one that is no master any more. `true` if the
    /// listener is another one now.
    pub fn restore(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        if !file.placed || inode_of(&file.place) == Some(file.inode) {
            return false;
        }
        if let Ok(mut again) = Socket::prepare(&Name::Path(file.place.clone()), file.inode)
            && again.place().is_ok()
        {
            *self = again;
            return true;
        }
        false
    }
}

impl Drop for Socket {
    /// Removes a file that never took its place; one in place is the successor's to replace, or the last one's to clear.
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && !file.placed
        {
            let _ = std::fs::remove_file(&file.own);
        }
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|m| m.ino())
}
