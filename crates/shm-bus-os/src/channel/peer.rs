//! Who is at the other end of a channel: the kernel's word on it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::Channel;
use crate::error::{OsError, Result, last_errno};
use crate::process;

/// `SO_PEERPIDFD`, Linux 6.5; not in all versions of libc.
const SO_PEERPIDFD: libc::c_int = 77;
/// `SO_PEERSEC`, of the same number on x86-64 and arm64.
const SO_PEERSEC: libc::c_int = 31;

/// Who a process was when it connected, or when it sent a message: the kernel's word, not the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Process id in our pid namespace; 0 if the process is not visible from it.
    pub pid: u32,
    /// Effective user id in our user namespace.
    pub uid: u32,
    /// Effective group id in our user namespace.
    pub gid: u32,
}

impl Credentials {
    pub(crate) fn from_raw(raw: libc::ucred) -> Self {
        Self { pid: u32::try_from(raw.pid).unwrap_or(0), uid: raw.uid, gid: raw.gid }
    }
}

impl Channel {
    /// Who connected (for the side that accepted), or who listened (for the side that connected), as of then:
    /// `getsockopt(SO_PEERCRED)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `getsockopt` gives it.
    pub fn peer(&self) -> Result<Credentials> {
        let empty = libc::ucred { pid: 0, uid: 0, gid: 0 };
        // SAFETY: SO_PEERCRED fills a ucred, which is plain integers.
        let raw = unsafe { option(self.fd.as_fd(), libc::SO_PEERCRED, empty) };
        raw.map(Credentials::from_raw)
            .map_err(OsError::at("getsockopt(SO_PEERCRED)", || "asking who the peer is"))
    }

    /// A pidfd of the process in [`Channel::peer`]: `getsockopt(SO_PEERPIDFD)`.
    ///
    /// Before Linux 6.5 it is opened by pid, then checked: the process has the user id that the socket names, its start
    /// time did not change around the call, and the socket was still connected afterwards. What that cannot find out is a
    /// peer that gave its end away, died, and whose pid its own user made come round again.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ESRCH` if the process is gone or not visible, or as the calls give it.
    pub fn peer_pidfd(&self) -> Result<OwnedFd> {
        match peer_pidfd_option(self.fd.as_fd()) {
            Err(Errno::NOPROTOOPT) => self.peer_pidfd_by_number(),
            other => other.map_err(OsError::at("getsockopt(SO_PEERPIDFD)", || "getting a pidfd of the peer")),
        }
    }

    pub(super) fn peer_pidfd_by_number(&self) -> Result<OwnedFd> {
        let peer = self.peer()?;
        let gone = || {
            OsError::at("pidfd_open", || format!("getting a pidfd of the peer (pid {})", peer.pid))(
                Errno::SRCH,
            )
        };
        if peer.pid == 0 {
            return Err(gone());
        }
        let before = process::start_time(peer.pid)?;
        let pidfd = process::pidfd_open(peer.pid)?;
        let same = process::start_time(peer.pid)? == before
            && process::has_uid(peer.pid, peer.uid)?
            && !process::is_dead(pidfd.as_fd())?
            && !self.hung_up()?;
        if same { Ok(pidfd) } else { Err(gone()) }
    }

    /// The peer's security label (SELinux, AppArmor, Smack) as of its connecting, `None` where there is no such module:
    /// `getsockopt(SO_PEERSEC)`.
    ///
    /// # Errors
    /// [`OsError::Syscall`] as `getsockopt` gives it.
    pub fn peer_label(&self) -> Result<Option<String>> {
        let mut label = vec![0u8; 256];
        loop {
            let mut len = label.len() as libc::socklen_t;
            // SAFETY: pointer and length describe `label`; the kernel writes at most that many bytes and updates `len`.
            let status = unsafe {
                libc::getsockopt(
                    self.fd.as_fd().as_raw_fd(),
                    libc::SOL_SOCKET,
                    SO_PEERSEC,
                    label.as_mut_ptr().cast(),
                    &mut len,
                )
            };
            match (status, last_errno()) {
                (0, _) => {
                    label.truncate(len as usize);
                    while label.last() == Some(&0) {
                        label.pop();
                    }
                    let text = String::from_utf8_lossy(&label).into_owned();
                    return Ok((!text.is_empty()).then_some(text));
                }
                (_, Errno::NOPROTOOPT) => return Ok(None),
                (_, Errno::RANGE) if (len as usize) > label.len() && len < 1 << 16 => {
                    label.resize(len as usize, 0)
                }
                (_, errno) => {
                    return Err(OsError::at("getsockopt(SO_PEERSEC)", || "asking for the peer's label")(
                        errno,
                    ));
                }
            }
        }
    }
}

/// The bare `SO_PEERPIDFD`, which the probe tries as well.
pub(crate) fn peer_pidfd_option(fd: BorrowedFd<'_>) -> std::result::Result<OwnedFd, Errno> {
    // SAFETY: SO_PEERPIDFD fills an int.
    let raw: RawFd = unsafe { option(fd, SO_PEERPIDFD, -1) }?;
    if raw < 0 {
        return Err(Errno::SRCH);
    }
    // SAFETY: on success the int is an fd (close-on-exec) that was just opened for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `getsockopt(fd, SOL_SOCKET, name)` of a plain value.
///
/// # Safety
/// Whatever bytes the kernel writes for this option must be a valid `T`.
unsafe fn option<T: Copy>(
    fd: BorrowedFd<'_>,
    name: libc::c_int,
    initial: T,
) -> std::result::Result<T, Errno> {
    let mut value = initial;
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length describe `value`; the caller vouches that the result is a valid `T`.
    let status = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &mut len)
    };
    if status == 0 { Ok(value) } else { Err(last_errno()) }
}
