//! A lock file: who may create the bus.
//!
//! The lock is `flock(2)`'s: it belongs to the open file, so it goes when the last copy of the fd closes, also by a
//! crash; a forked child does not keep it. A file may be unlinked while others wait for its lock, so who gets the lock must ask
//! [`LockFile::is_current`] and open anew if not.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, lstat, open, unlink};
use rustix::io::Errno;

use crate::error::{OsError, Result};
use crate::unshared::Unshared;

/// An open lock file, not locked at first. Dropping it unlocks.
#[derive(Debug)]
pub struct LockFile {
    fd: Unshared,
    path: PathBuf,
}

impl LockFile {
    /// Opens the file, or makes it with mode 0600: `open(path, O_RDWR|O_CREAT|O_CLOEXEC|O_NOFOLLOW|O_NONBLOCK, 0600)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `ELOOP` (the path is a symlink), `ENOENT` (no such directory), `EACCES`, `EISDIR`.
    pub fn open(path: &Path) -> Result<Self> {
        // Non-blocking only matters for what is not a plain file, which somebody may have put there.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(OsError::at("open", || format!("opening the lock file {}", path.display())))?;
        Ok(Self { fd: Unshared::new(fd), path: path.to_owned() })
    }

    /// Takes the lock for oneself alone if nobody else holds it: `flock(LOCK_EX|LOCK_NB)`. Whether it did.
    ///
    /// Turning a shared lock into an exclusive one is not atomic: the kernel drops the old one first, so another may come
    /// in between, and after `false` no lock is held at all.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `ENOLCK`, `ENOSYS` (a file system without locks).
    pub fn try_exclusive(&self) -> Result<bool> {
        self.lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock together with other sharers if nobody holds it exclusively: `flock(LOCK_SH|LOCK_NB)`. Whether it
    /// did. Turning an exclusive lock into a shared one is not atomic either, see [`LockFile::try_exclusive`].
    ///
    /// # Errors
    /// As for [`LockFile::try_exclusive`].
    pub fn try_shared(&self) -> Result<bool> {
        self.lock(FlockOperation::NonBlockingLockShared)
    }

    /// Gives the lock back, if any is held: `flock(LOCK_UN)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `flock` gives it.
    pub fn unlock(&self) -> Result<()> {
        self.lock(FlockOperation::NonBlockingUnlock).map(drop)
    }

    /// Whether the path still names the file that is open here: `fstat` against `lstat`. If not, somebody unlinked or
    /// replaced it and a lock on it excludes nobody.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as the calls give it; a path that is gone is `Ok(false)`.
    pub fn is_current(&self) -> Result<bool> {
        let ours = fstat(&self.fd).map_err(OsError::at("fstat", || "looking at the lock file"))?;
        match lstat(&self.path) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(OsError::at("lstat", || format!("looking for {}", self.path.display()))(errno)),
        }
    }

    /// Removes the path, if it still names this file. Hold the exclusive lock, or another's new file may be hit.
    ///
    /// # Errors
    /// [`OsError::Syscall`]: `EACCES`, `EPERM`; a path that is gone is fine.
    pub fn unlink(&self) -> Result<()> {
        if !self.is_current()? {
            return Ok(());
        }
        match unlink(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(OsError::at("unlink", || format!("removing {}", self.path.display()))(errno)),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self, operation: FlockOperation) -> Result<bool> {
        loop {
            match flock(&self.fd, operation) {
                Ok(()) => return Ok(true),
                Err(Errno::WOULDBLOCK) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(OsError::at("flock", || format!("locking {}", self.path.display()))(errno));
                }
            }
        }
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn one_exclusive_or_many_shared() {
        let _quiet = crate::forks::none();
        let directory = Scratch::new("lock");
        let path = directory.path().join("bus.lock");
        let (a, b, c) =
            (LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(a.try_exclusive().unwrap());
        assert!(!b.try_exclusive().unwrap());
        assert!(!b.try_shared().unwrap());
        a.unlock().unwrap();
        assert!(b.try_shared().unwrap());
        assert!(c.try_shared().unwrap());
        assert!(!a.try_exclusive().unwrap());
        drop((b, c));
        assert!(a.try_exclusive().unwrap());
    }

    #[test]
    fn a_failed_conversion_loses_the_shared_lock() {
        let _quiet = crate::forks::none();
        let directory = Scratch::new("conversion");
        let path = directory.path().join("bus.lock");
        let (a, b) = (LockFile::open(&path).unwrap(), LockFile::open(&path).unwrap());
        assert!(a.try_shared().unwrap() && b.try_shared().unwrap());
        assert!(!a.try_exclusive().unwrap());
        // `a` holds nothing any more, so `b` is alone.
        assert!(b.try_exclusive().unwrap());
    }

    #[test]
    fn a_removed_or_replaced_file_is_noticed() {
        let directory = Scratch::new("current");
        let path = directory.path().join("bus.lock");
        let old = LockFile::open(&path).unwrap();
        assert!(old.is_current().unwrap());
        old.unlink().unwrap();
        assert!(!old.is_current().unwrap());
        old.unlink().unwrap();
        let new = LockFile::open(&path).unwrap();
        assert!(!old.is_current().unwrap());
        old.unlink().unwrap();
        assert!(new.is_current().unwrap());
    }

    #[test]
    fn a_symlink_is_refused() {
        let directory = Scratch::new("symlink");
        let path = directory.path().join("bus.lock");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(LockFile::open(&path).unwrap_err().errno(), Some(libc::ELOOP));
    }
}
