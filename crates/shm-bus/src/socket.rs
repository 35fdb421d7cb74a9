//! The bus's listening socket, and its file's place.
//!
//! There is one for the life of the bus: its founder makes it, and every attachment holds a copy. So whoever knocks
//! waits there while nobody holds the role, and everyone can see that somebody waits.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shm_bus_os::{Listener, Name, OsError};

use crate::error::Result;

/// The socket at the bus's name.
pub(crate) struct Socket {
    pub listener: Listener,
    /// Where its file stands, and which file it is; an abstract name has none.
    file: Option<(PathBuf, u64)>,
}

impl Socket {
    /// Binds a socket of one's own. A file is bound under another name first, so that it can appear whole, and in the
    /// place of a predecessor's; `number` keeps those names apart.
    pub fn prepare(name: &Name, number: u64) -> Result<Prepared> {
        let Name::Path(place) = name else {
            return Ok(Prepared { listener: Some(Listener::bind(name)?), file: None });
        };
        let own = place.with_extension(number.to_string());
        let _ = std::fs::remove_file(&own);
        let listener = Listener::bind(&Name::Path(own.clone())).inspect_err(|_| {
            // It may have failed behind the making of the file.
            let _ = std::fs::remove_file(&own);
        })?;
        Ok(Prepared { listener: Some(listener), file: Some((own, place.clone())) })
    }

    /// The copy that a master has handed over, with the number of its file.
    pub fn inherited(name: &Name, listener: Listener, inode: u64) -> Self {
        let file = match name {
            Name::Path(place) => Some((place.clone(), inode)),
            Name::Abstract(_) => None,
        };
        Socket { listener, file }
    }

    /// Which file it is; 0 for none.
    pub fn inode(&self) -> u64 {
        self.file.as_ref().map_or(0, |(_, inode)| *inode)
    }

    /// Another socket at the bus's name, if the file of this one was taken away or replaced.
    pub fn restored(&self) -> Option<Socket> {
        let (place, inode) = self.file.as_ref()?;
        if inode_of(place) == Some(*inode) {
            return None;
        }
        Socket::prepare(&Name::Path(place.clone()), *inode).and_then(Prepared::place).ok()
    }
}

/// A socket that is bound and not yet at the bus's name. Dropping it removes its file.
pub(crate) struct Prepared {
    listener: Option<Listener>,
    file: Option<(PathBuf, PathBuf)>,
}

impl Prepared {
    /// Takes the bus's name.
    pub fn place(mut self) -> Result<Socket> {
        let listener = self.listener.take().expect("taken here only");
        let Some((own, place)) = &self.file else { return Ok(Socket { listener, file: None }) };
        let inode = inode_of(own).unwrap_or(0);
        std::fs::rename(own, place)
            .map_err(|error| OsError::of_std("rename", "putting the bus's socket file in place", &error))?;
        let file = self.file.take().map(|(_, place)| (place, inode));
        Ok(Socket { listener, file })
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some((own, _)) = &self.file {
            let _ = std::fs::remove_file(own);
        }
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|m| m.ino())
}
