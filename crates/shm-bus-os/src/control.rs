//! `recvmsg` with its control messages: the fds and credentials beside the data.
//!
//! Written on libc: rustix reads a peer's pid as a non-zero number, but the kernel says 0 for a peer whose process is not
//! visible from our pid namespace, as between containers.

use std::io::IoSliceMut;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::channel::Credentials;
use crate::error::last_errno;

/// The most fds the kernel takes in one message (`SCM_MAX_FD`).
pub(crate) const MAX_FDS: usize = 253;

/// Words of a control buffer with room for [`MAX_FDS`] fds and one set of credentials.
pub(crate) const WORDS: usize = space(MAX_FDS * size_of::<RawFd>()) + space(size_of::<libc::ucred>());

/// One message as `recvmsg` gave it. Its fds close when it is dropped.
pub(crate) struct Arrived {
    pub(crate) len: usize,
    pub(crate) data_cut: bool,
    pub(crate) control_cut: bool,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) credentials: Option<Credentials>,
}

/// 64-bit words that a control message with `bytes` of payload takes.
const fn space(bytes: usize) -> usize {
    // SAFETY: CMSG_SPACE only computes.
    (unsafe { libc::CMSG_SPACE(bytes as u32) } as usize).div_ceil(size_of::<u64>())
}

/// `recvmsg(fd, ..., MSG_DONTWAIT|MSG_CMSG_CLOEXEC)` into `buf`, with `control` as room for fds and credentials.
#[allow(clippy::unnecessary_cast)] // The widths of these lengths differ between C libraries.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    control: &mut [MaybeUninit<u64>],
) -> Result<Arrived, Errno> {
    let mut slices = [IoSliceMut::new(buf)];
    // SAFETY: all-zero is a valid msghdr: null pointers, zero lengths.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = slices.as_mut_ptr().cast();
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points at one iovec (IoSliceMut has its layout) and at the control buffer, with their lengths.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) };
    let len = usize::try_from(len).map_err(|_| last_errno())?;

    let mut arrived = Arrived {
        len,
        data_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        control_cut: header.msg_flags & libc::MSG_CTRUNC != 0,
        fds: Vec::new(),
        credentials: None,
    };
    // SAFETY: the kernel filled the control buffer and set its length in the header, which is what the walk goes by.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&header) };
    while let Some(message) = ptr::NonNull::new(next) {
        // SAFETY: the walk yields headers that lie in the buffer, which is aligned for them.
        let (head, data) = unsafe { (message.as_ref(), libc::CMSG_DATA(message.as_ptr())) };
        // SAFETY: CMSG_LEN only computes.
        let bytes = (head.cmsg_len as usize).saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                arrived.fds.extend((0..bytes / size_of::<RawFd>()).map(|index| {
                    // SAFETY: the payload is an array of fds, freshly opened for us; each is read, hence owned, once.
                    unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned()) }
                }))
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if bytes >= size_of::<libc::ucred>() => {
                // SAFETY: the payload is a ucred, of the size just checked.
                arrived.credentials =
                    Some(Credentials::from_raw(unsafe { data.cast::<libc::ucred>().read_unaligned() }));
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR; `message` came from this header's walk.
        next = unsafe { libc::CMSG_NXTHDR(&header, message.as_ptr()) };
    }
    Ok(arrived)
}
