//! Shared memory in this process's address space, unmapped when dropped.
//!
//! A mapping hands out a raw pointer and nothing else. Other processes may write behind it at any time, so whoever reads
//! it (the ring crate) does so by atomics or volatile copies, never through `&T`.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::error::{OsError, Result};
use crate::memfd;

/// How a mapping may be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store faults.
    ReadOnly,
    /// Loads and stores. Not inherited by forked children (`MADV_DONTFORK`), and all its pages are present.
    ReadWrite,
}

impl Access {
    fn protection(self) -> ProtFlags {
        match self {
            Self::ReadOnly => ProtFlags::READ,
            Self::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        }
    }
}

/// A range of mapped memory. Dropping it is `munmap`; share it by `Arc`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    access: Access,
}

// SAFETY: the value is only an address and a length; it owns the range, which no thread is tied to, and every access
// through the pointer is the caller's own unsafe code.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` allows reading the fields and replacing the whole range, which the kernel serialises.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file: `mmap(NULL, len, ..., MAP_SHARED, fd, 0)`.
    ///
    /// With [`Access::ReadWrite`] the pages are faulted in at once (`MADV_POPULATE_WRITE`, before Linux 5.14 by touching
    /// each), so call [`memfd::allocate`] first: touching memory that cannot be had is a `SIGBUS` there. `fd` should be
    /// sealed against shrinking or be one's own: a file cut off under a mapping is a `SIGBUS` as well.
    ///
    /// # Errors
    /// [`OsError::Misaligned`] unless `len` is a positive multiple of the page size, [`OsError::WrongSize`] if the file
    /// is shorter, [`OsError::Syscall`]: `EPERM` (writable, but sealed), `ENOMEM`, `ENODEV`.
    pub fn shared(fd: BorrowedFd<'_>, len: usize, access: Access) -> Result<Self> {
        check_pages("the length of a mapping", len)?;
        check_size(fd, len)?;
        // SAFETY: a null hint without MAP_FIXED replaces no existing mapping.
        let address = unsafe { mmap(ptr::null_mut(), len, access.protection(), MapFlags::SHARED, fd, 0) };
        let address = address.map_err(OsError::at("mmap", || format!("mapping {len} bytes {access:?}")))?;
        Self::own(address, len, access)?.prepared()
    }

    /// Maps a file of `head_len + ring_len` bytes as `[head | ring | ring again]`, so that bytes which wrap around the
    /// end of the ring are contiguous. One range of `head_len + 2 * ring_len` bytes is reserved (`PROT_NONE`) and the two
    /// parts are put into it with `MAP_FIXED`. `head_len` may be 0.
    ///
    /// For a file that will be sealed [`memfd::Sealing::Owned`] do this before sealing. Prefaulting as for
    /// [`Mapping::shared`].
    ///
    /// # Errors
    /// As for [`Mapping::shared`]. Nothing stays mapped after an error.
    pub fn mirrored(fd: BorrowedFd<'_>, head_len: usize, ring_len: usize, access: Access) -> Result<Self> {
        if head_len != 0 {
            check_pages("the length of the head", head_len)?;
        }
        check_pages("the length of the ring", ring_len)?;
        let file_len = head_len.checked_add(ring_len);
        let total = file_len.and_then(|len| len.checked_add(ring_len));
        let too_long = || OsError::at("mmap", || format!("mapping {ring_len} bytes twice"))(Errno::NOMEM);
        let (file_len, total) = file_len.zip(total).ok_or_else(too_long)?;
        check_size(fd, file_len)?;

        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a null hint without MAP_FIXED replaces no existing mapping.
        let reserved = unsafe { mmap_anonymous(ptr::null_mut(), total, ProtFlags::empty(), flags) };
        let reserved =
            reserved.map_err(OsError::at("mmap", || format!("reserving {total} bytes of addresses")))?;
        let mapping = Self::own(reserved, total, access)?;
        mapping.place(fd, 0, file_len, 0)?;
        mapping.place(fd, file_len, ring_len, head_len)?;
        mapping.prepared()
    }

    /// The first byte of the range. Valid for [`Mapping::len`] bytes as long as `self` lives; page-aligned.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Length of the range in bytes; of a mirrored one with both copies of the ring.
    #[allow(clippy::len_without_is_empty)] // A mapping is never empty.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How it was mapped. After [`Mapping::replace_with_zeros`] only loads are possible whatever this says.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Puts private zeros, read-only, in the place of the whole range: `mmap(base, len, PROT_READ,
    /// MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED)`. Pointers into it stay valid for loads, which read 0; a store faults, and a
    /// [`futex::Word`](crate::futex::Word) in it is no longer shared with anyone. The file's pages are let go.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ENOMEM` if the process has too many mappings.
    pub fn replace_with_zeros(&self) -> Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: `self` owns exactly this range, so MAP_FIXED replaces nothing of anybody else's; it stays mapped and
        // readable, which is all that the holders of pointers were promised.
        let placed = unsafe { mmap_anonymous(self.at(0), self.len, ProtFlags::READ, flags) };
        placed.map(drop).map_err(OsError::at("mmap", || format!("replacing {} bytes by zeros", self.len)))
    }

    /// Takes over a range that `mmap` returned.
    fn own(address: *mut c_void, len: usize, access: Access) -> Result<Self> {
        let base = NonNull::new(address.cast::<u8>());
        let base = base.ok_or_else(|| OsError::at("mmap", || "mapping at address 0")(Errno::FAULT))?;
        Ok(Self { base, len, access })
    }

    /// Puts `len` bytes of the file from `file_offset` on at `offset` in this range.
    fn place(&self, fd: BorrowedFd<'_>, offset: usize, len: usize, file_offset: usize) -> Result<()> {
        debug_assert!(offset + len <= self.len);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: [offset, offset + len) lies in the range that `self` owns, so MAP_FIXED replaces only our reservation.
        let placed =
            unsafe { mmap(self.at(offset), len, self.access.protection(), flags, fd, file_offset as u64) };
        placed
            .map(drop)
            .map_err(OsError::at("mmap", || format!("mapping {len} bytes {:?} in place", self.access)))
    }

    fn prepared(self) -> Result<Self> {
        if self.access == Access::ReadWrite {
            self.keep_from_children()?;
            self.prefault()?;
        }
        Ok(self)
    }

    fn keep_from_children(&self) -> Result<()> {
        // SAFETY: the range is ours; the advice changes what fork(2) copies, nothing in this process.
        unsafe { madvise(self.at(0), self.len, Advice::LinuxDontFork) }.map_err(OsError::at(
            "madvise(MADV_DONTFORK)",
            || "keeping a writable mapping from forked children",
        ))
    }

    fn prefault(&self) -> Result<()> {
        loop {
            // SAFETY: the range is ours and writable; populating does not change its contents.
            match unsafe { madvise(self.at(0), self.len, Advice::LinuxPopulateWrite) } {
                Err(Errno::INTR) => {}
                Err(Errno::INVAL) => return self.touch_every_page(),
                other => {
                    let what = || format!("faulting in {} bytes", self.len);
                    return other.map_err(OsError::at("madvise(MADV_POPULATE_WRITE)", what));
                }
            }
        }
    }

    /// The way before Linux 5.14: exchange one byte of each page for itself. Others may be writing it meanwhile, hence
    /// an atomic exchange; a plain `fetch_add(0)` would not do, the compiler may turn it into a load.
    fn touch_every_page(&self) -> Result<()> {
        for offset in (0..self.len).step_by(page_size()) {
            // SAFETY: the byte is in our range, mapped readable and writable, and u8 has no alignment.
            let byte = unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(offset)) };
            let seen = byte.load(Ordering::Relaxed);
            // If it failed, somebody else wrote the page, which is what we wanted of it.
            let _ = byte.compare_exchange(seen, seen, Ordering::Relaxed, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The address `offset` bytes into the range, as C wants it.
    fn at(&self, offset: usize) -> *mut c_void {
        self.base.as_ptr().wrapping_add(offset).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours and this is its end; users of the pointer must not outlive `self`.
        let unmapped = unsafe { munmap(self.at(0), self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Bytes in a page of this machine: `sysconf(_SC_PAGESIZE)`. A power of two, at least 4096.
pub fn page_size() -> usize {
    // SAFETY: sysconf only reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

fn check_pages(what: &'static str, len: usize) -> Result<()> {
    let unit = page_size();
    if len == 0 || !len.is_multiple_of(unit) {
        return Err(OsError::Misaligned { what, have: len as u64, unit: unit as u64 });
    }
    Ok(())
}

fn check_size(fd: BorrowedFd<'_>, len: usize) -> Result<()> {
    let have = memfd::size(fd)?;
    if have < len as u64 {
        return Err(OsError::WrongSize { have, min: len as u64, max: u64::MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;
    use crate::memfd::Sealing;

    fn memory(pages: usize) -> (OwnedFd, usize) {
        let fd = memfd::create("test", (pages * page_size()) as u64).unwrap();
        (fd, page_size())
    }

    fn load(mapping: &Mapping, offset: usize) -> u8 {
        assert!(offset < mapping.len());
        // SAFETY: in bounds, mapped readable.
        unsafe { mapping.base().add(offset).read_volatile() }
    }

    fn store(mapping: &Mapping, offset: usize, value: u8) {
        assert!(offset < mapping.len());
        // SAFETY: in bounds, mapped writable, and no other thread of the test uses it.
        unsafe { mapping.base().add(offset).write_volatile(value) }
    }

    #[test]
    fn two_mappings_show_the_same_bytes() {
        let (fd, page) = memory(2);
        let writer = Mapping::shared(fd.as_fd(), 2 * page, Access::ReadWrite).unwrap();
        let reader = Mapping::shared(fd.as_fd(), 2 * page, Access::ReadOnly).unwrap();
        store(&writer, page + 3, 42);
        assert_eq!(load(&reader, page + 3), 42);
    }

    #[test]
    fn the_ring_is_mapped_twice() {
        let (fd, page) = memory(3);
        let writer = Mapping::mirrored(fd.as_fd(), page, 2 * page, Access::ReadWrite).unwrap();
        assert_eq!((writer.len(), writer.access()), (5 * page, Access::ReadWrite));
        memfd::seal(fd.as_fd(), Sealing::Owned).unwrap();
        let reader = Mapping::mirrored(fd.as_fd(), page, 2 * page, Access::ReadOnly).unwrap();
        store(&writer, 0, 1); // the head
        store(&writer, 3 * page - 1, 2); // the last byte of the ring
        store(&writer, 3 * page, 3); // the ring's first byte, by its second address
        for mapping in [&writer, &reader] {
            assert_eq!(load(mapping, 0), 1);
            assert_eq!(load(mapping, 3 * page - 1), 2);
            assert_eq!(load(mapping, 5 * page - 1), 2);
            assert_eq!(load(mapping, page), 3);
        }
        let error = Mapping::mirrored(fd.as_fd(), page, 2 * page, Access::ReadWrite).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EPERM), "{error}");
    }

    #[test]
    fn a_ring_needs_no_head() {
        let (fd, page) = memory(1);
        let mapping = Mapping::mirrored(fd.as_fd(), 0, page, Access::ReadWrite).unwrap();
        store(&mapping, 7, 9);
        assert_eq!(load(&mapping, page + 7), 9);
    }

    #[test]
    fn lengths_are_checked() {
        let (fd, page) = memory(2);
        let fd = fd.as_fd();
        assert!(matches!(Mapping::shared(fd, 0, Access::ReadOnly), Err(OsError::Misaligned { .. })));
        assert!(matches!(Mapping::shared(fd, page + 1, Access::ReadOnly), Err(OsError::Misaligned { .. })));
        assert!(matches!(Mapping::shared(fd, 3 * page, Access::ReadOnly), Err(OsError::WrongSize { .. })));
        assert!(matches!(Mapping::mirrored(fd, page, 0, Access::ReadOnly), Err(OsError::Misaligned { .. })));
        assert!(matches!(Mapping::mirrored(fd, 1, page, Access::ReadOnly), Err(OsError::Misaligned { .. })));
        assert!(matches!(
            Mapping::mirrored(fd, page, 2 * page, Access::ReadOnly),
            Err(OsError::WrongSize { .. })
        ));
        let most = usize::MAX - page + 1;
        assert!(Mapping::mirrored(fd, page, most, Access::ReadOnly).is_err());
    }

    #[test]
    fn a_writable_mapping_is_prefaulted_and_not_inherited() {
        let (fd, page) = memory(16);
        let mapping = Mapping::shared(fd.as_fd(), 16 * page, Access::ReadWrite).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_blocks as usize * 512, 16 * page);
        assert!(flags_of(&mapping).contains(" dc"), "MADV_DONTFORK");
        let reader = Mapping::shared(fd.as_fd(), 16 * page, Access::ReadOnly).unwrap();
        assert!(!flags_of(&reader).contains(" dc"));
    }

    /// The `VmFlags` line of the mapping's area in procfs.
    fn flags_of(mapping: &Mapping) -> String {
        let start = format!("{:x}-", mapping.base().as_ptr() as usize);
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let area = maps.lines().skip_while(|line| !line.starts_with(&start));
        area.into_iter().find(|line| line.starts_with("VmFlags:")).unwrap().to_owned()
    }

    #[test]
    fn touching_keeps_the_contents() {
        let (fd, page) = memory(4);
        rustix::io::pwrite(&fd, b"abc", page as u64).unwrap();
        let mapping = Mapping::shared(fd.as_fd(), 4 * page, Access::ReadWrite).unwrap();
        mapping.touch_every_page().unwrap();
        assert_eq!([load(&mapping, page), load(&mapping, page + 2), load(&mapping, 0)], [b'a', b'c', 0]);
    }

    #[test]
    fn replaced_memory_reads_zero_and_leaves_the_file_alone() {
        let (fd, page) = memory(3);
        let writer = Mapping::shared(fd.as_fd(), 3 * page, Access::ReadWrite).unwrap();
        let reader = Mapping::mirrored(fd.as_fd(), page, 2 * page, Access::ReadOnly).unwrap();
        for offset in (0..3 * page).step_by(page) {
            store(&writer, offset, 5);
        }
        assert_eq!(load(&reader, 4 * page), 5);
        reader.replace_with_zeros().unwrap();
        reader.replace_with_zeros().unwrap();
        assert!((0..5 * page).step_by(page).all(|offset| load(&reader, offset) == 0));
        assert_eq!(load(&writer, page), 5);
    }

    #[test]
    fn dropping_unmaps() {
        let (fd, page) = memory(67);
        let mapping = Mapping::shared(fd.as_fd(), 67 * page, Access::ReadOnly).unwrap();
        let line = format!(
            "{:x}-{:x}",
            mapping.base().as_ptr() as usize,
            mapping.base().as_ptr() as usize + 67 * page
        );
        let listed = || std::fs::read_to_string("/proc/self/maps").unwrap().contains(&line);
        assert!(listed());
        drop(mapping);
        assert!(!listed());
    }
}
