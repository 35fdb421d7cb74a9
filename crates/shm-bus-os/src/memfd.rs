//! Anonymous shared memory: make it, reserve its pages, seal it, and check one that somebody else made.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs,
};
use rustix::fs::{ftruncate, memfd_create};
use rustix::io::Errno;

use crate::error::{OsError, Result};
use crate::memory;

/// `f_type` of tmpfs, where plain memfds live.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Which seals a memfd of the bus carries. Seals are never taken off again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// Written by its owner alone, through the mapping it made before sealing: `SHRINK|GROW|FUTURE_WRITE|SEAL`.
    Owned,
    /// Written by whoever holds the fd: `SHRINK|GROW|SEAL`.
    Shared,
}

impl Sealing {
    fn flags(self) -> SealFlags {
        let size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        match self {
            Self::Owned => size | SealFlags::FUTURE_WRITE,
            Self::Shared => size,
        }
    }
}

/// Makes a memfd of `bytes` zero bytes, close-on-exec, sealable and, from Linux 6.3 on, never executable:
/// `memfd_create(name, MFD_CLOEXEC|MFD_ALLOW_SEALING|MFD_NOEXEC_SEAL)`, then `ftruncate`. No page is allocated yet, see
/// [`allocate`]. `name` (at most 249 bytes) only shows in procfs.
///
/// # Errors
/// [`OsError::WrongSize`] if `bytes` is 0 or above `i64::MAX`. [`OsError::Syscall`]: `EMFILE` or `ENFILE` (too many
/// fds), `ENOMEM`, `EFBIG` (`RLIMIT_FSIZE`), `EINVAL` (name too long), `ENOSYS` or `EPERM` (a sandbox forbids memfds).
pub fn create(name: &str, bytes: u64) -> Result<OwnedFd> {
    let max = i64::MAX as u64;
    if !(1..=max).contains(&bytes) {
        return Err(OsError::WrongSize { have: bytes, min: 1, max });
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 the flag is unknown.
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    };
    let fd = fd.map_err(OsError::at("memfd_create", || format!("creating shared memory {name:?}")))?;
    ftruncate(&fd, bytes).map_err(OsError::at("ftruncate", || format!("giving {name:?} {bytes} bytes")))?;
    Ok(fd)
}

/// Takes the memory for the first `bytes` bytes now, so that a lack of it is an error here and not a `SIGBUS` at some
/// later store: [`memory::check`], then `fallocate(fd, 0, 0, bytes)`.
///
/// # Errors
/// [`OsError::TooLittleMemory`] before anything is touched; [`OsError::Syscall`] with `ENOMEM` or `ENOSPC` if the kernel
/// cannot give the pages (it keeps none of them then), `EPERM` if `bytes` would grow a sealed file.
pub fn allocate(fd: BorrowedFd<'_>, bytes: u64) -> Result<()> {
    memory::check(bytes)?;
    loop {
        match fallocate(fd, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::INTR) => {}
            other => {
                return other.map_err(OsError::at("fallocate", || format!("taking {bytes} bytes of memory")));
            }
        }
    }
}

/// Adds the seals: `fcntl(fd, F_ADD_SEALS, ...)`. For [`Sealing::Owned`] make every writable mapping first; afterwards
/// not even the owner can make another.
///
/// # Errors
/// [`OsError::Syscall`]: `EPERM` if the fd is read-only or its seals are final already, `EINVAL` if it is no memfd.
pub fn seal(fd: BorrowedFd<'_>, sealing: Sealing) -> Result<()> {
    fcntl_add_seals(fd, sealing.flags())
        .map_err(OsError::at("fcntl(F_ADD_SEALS)", || format!("sealing {sealing:?} memory")))
}

/// Checks a memfd before it is mapped and gives its size in bytes, in `1..=max_bytes`: it carries all seals of `sealing`
/// (`F_GET_SEALS`), lives on tmpfs (`fstatfs`), has an acceptable size (`fstat`). Seals can only grow and the size is
/// sealed, so what was true here stays true.
///
/// # Errors
/// In this order: [`OsError::Unsealed`] (also for a file that cannot be sealed), [`OsError::NotTmpfs`],
/// [`OsError::WrongSize`].
pub fn verify(fd: BorrowedFd<'_>, sealing: Sealing, max_bytes: u64) -> Result<u64> {
    let want = sealing.flags();
    let have = match fcntl_get_seals(fd) {
        Err(Errno::INVAL) => SealFlags::empty(),
        other => {
            other.map_err(OsError::at("fcntl(F_GET_SEALS)", || "reading the seals of received memory"))?
        }
    };
    if !have.contains(want) {
        return Err(OsError::Unsealed { have: have.bits(), want: want.bits() });
    }
    let volume =
        fstatfs(fd).map_err(OsError::at("fstatfs", || "reading the file system of received memory"))?;
    // The width of the field differs between C libraries.
    #[allow(clippy::unnecessary_cast)]
    let kind = volume.f_type as i64;
    if kind != TMPFS_MAGIC {
        return Err(OsError::NotTmpfs { kind });
    }
    let have = size(fd)?;
    if !(1..=max_bytes).contains(&have) {
        return Err(OsError::WrongSize { have, min: 1, max: max_bytes });
    }
    Ok(have)
}

/// Which file an fd is: device and inode (`fstat`). Two fds of one memfd have the same.
///
/// # Errors
/// [`OsError::Syscall`].
pub fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd).map_err(OsError::at("fstat", || "looking at a memfd"))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The size of a file in bytes: `fstat`. Without seals it may be another one a moment later.
///
/// # Errors
/// [`OsError::Syscall`] as `fstat` gives it.
pub fn size(fd: BorrowedFd<'_>) -> Result<u64> {
    let stat = fstat(fd).map_err(OsError::at("fstat", || "reading the size of shared memory"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn created_memory_is_sealable_and_verifies() {
        for sealing in [Sealing::Owned, Sealing::Shared] {
            let fd = create("test", 8192).unwrap();
            allocate(fd.as_fd(), 8192).unwrap();
            seal(fd.as_fd(), sealing).unwrap();
            assert_eq!(verify(fd.as_fd(), sealing, 8192).unwrap(), 8192);
            assert_eq!(ftruncate(&fd, 4096), Err(Errno::PERM));
            assert_eq!(ftruncate(&fd, 16384), Err(Errno::PERM));
            let written = rustix::io::pwrite(&fd, b"x", 0);
            assert_eq!(written, if sealing == Sealing::Owned { Err(Errno::PERM) } else { Ok(1) });
            assert_eq!(seal(fd.as_fd(), sealing).unwrap_err().errno(), Some(libc::EPERM));
        }
    }

    #[test]
    fn memfds_are_close_on_exec() {
        let fd = create("test", 1).unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn weaker_seals_are_refused() {
        let fd = create("test", 4096).unwrap();
        assert!(matches!(verify(fd.as_fd(), Sealing::Shared, 4096), Err(OsError::Unsealed { .. })));
        seal(fd.as_fd(), Sealing::Shared).unwrap();
        let error = verify(fd.as_fd(), Sealing::Owned, 4096).unwrap_err();
        assert!(matches!(error, OsError::Unsealed { want: 0x17, have } if have & 0x17 == 0x7), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(
            verify(file.as_fd(), Sealing::Shared, u64::MAX),
            Err(OsError::Unsealed { have: 0, .. })
        ));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(
            verify(socket.as_fd(), Sealing::Shared, u64::MAX),
            Err(OsError::Unsealed { have: 0, .. })
        ));
    }

    #[test]
    fn huge_page_memory_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        let Ok(fd) = memfd_create("huge", flags) else {
            return;
        };
        seal(fd.as_fd(), Sealing::Owned).unwrap();
        assert!(matches!(
            verify(fd.as_fd(), Sealing::Owned, u64::MAX),
            Err(OsError::NotTmpfs { kind: 0x9584_58f6 })
        ));
    }

    #[test]
    fn size_bounds_hold() {
        let fd = create("test", 8192).unwrap();
        seal(fd.as_fd(), Sealing::Shared).unwrap();
        let error = verify(fd.as_fd(), Sealing::Shared, 8191).unwrap_err();
        assert_eq!(error, OsError::WrongSize { have: 8192, min: 1, max: 8191 });
        let empty = memfd_create("empty", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        seal(empty.as_fd(), Sealing::Shared).unwrap();
        assert!(matches!(verify(empty.as_fd(), Sealing::Shared, 1), Err(OsError::WrongSize { have: 0, .. })));
        assert!(matches!(create("test", 0), Err(OsError::WrongSize { .. })));
        assert!(matches!(create("test", u64::MAX), Err(OsError::WrongSize { .. })));
    }

    #[test]
    fn more_memory_than_there_is_fails_before_it_is_touched() {
        let fd = create("test", 1 << 50).unwrap();
        assert!(matches!(allocate(fd.as_fd(), 1 << 50), Err(OsError::TooLittleMemory { .. })));
        assert_eq!(fstat(&fd).unwrap().st_blocks, 0);
    }

    #[test]
    fn a_bad_name_is_an_error() {
        assert_eq!(create(&"x".repeat(300), 1).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!(create("nul\0inside", 1).unwrap_err().errno(), Some(libc::EINVAL));
    }
}
