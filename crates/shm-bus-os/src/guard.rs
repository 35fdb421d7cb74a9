//! Read-only maps that survive a store.
//!
//! JavaScript has no read-only view, so a program can store into memory that is mapped read-only: the processor faults.
//! For a [`Guarded`] mapping the handler puts a private, writable copy of that one page in its place (`mmap` with
//! `MAP_PRIVATE | MAP_FIXED`, atomic and without a copy of its own), and the store lands there: the program goes on, and
//! nobody else sees what it wrote. The page shows the file's later content only after [`Guarded::share_again`], so
//! whoever reads through the mapping has to look elsewhere while [`Guarded::has_private`].
//!
//! Faults anywhere else go to the handler that was there before (V8 has one of its own).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{OsError, Result};
use crate::mapping::{Mapping, page_size};

/// Ranges that can be guarded at once.
const RANGES: usize = 4096;
/// Private pages of one range that are remembered one by one; with more, all of the range is shared again.
const PAGES: usize = 16;
const ANONYMOUS: RawFd = -1;
/// `si_code` of a store into memory that is mapped read-only.
const SEGV_ACCERR: libc::c_int = 2;

/// One guarded range, as the handler reads it. `start` is stored last and cleared first.
struct Range {
    start: AtomicUsize,
    len: AtomicUsize,
    /// Up to here an offset in the range is an offset in the file; behind it, it is one ring further than that.
    file_len: AtomicUsize,
    ring_len: AtomicUsize,
    fd: AtomicI32,
    private: AtomicU32,
    pages: [AtomicU64; PAGES],
    stored: AtomicBool,
    /// Held while pages change from shared to private or back, by the handler too: so nobody stores into the range, or
    /// faults in it, while holding it.
    busy: AtomicBool,
}

/// A range whose pages change: see [`Range::busy`].
struct Busy<'a>(&'a Range);

impl Range {
    fn lock(&self) -> Busy<'_> {
        // A mutex of the library must not be taken in a signal handler; what is waited for is a few system calls.
        while self.busy.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        Busy(self)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

#[allow(clippy::declare_interior_mutable_const)] // The pattern for an array of atomics.
const FREE: Range = Range {
    start: AtomicUsize::new(0),
    len: AtomicUsize::new(0),
    file_len: AtomicUsize::new(0),
    ring_len: AtomicUsize::new(0),
    fd: AtomicI32::new(ANONYMOUS),
    private: AtomicU32::new(0),
    pages: [const { AtomicU64::new(0) }; PAGES],
    stored: AtomicBool::new(false),
    busy: AtomicBool::new(false),
};

static TABLE: [Range; RANGES] = [FREE; RANGES];
/// One more than the highest range ever used: how far the handler looks.
static HIGH: AtomicUsize = AtomicUsize::new(0);
static TAKEN: Mutex<Vec<bool>> = Mutex::new(Vec::new());
/// Counts the stores that were caught, in all ranges.
static STORES: AtomicU32 = AtomicU32::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A read-only mapping of a file, laid out by [`Mapping::mirrored`], in which a store does no harm.
#[derive(Debug)]
pub struct Guarded {
    mapping: Arc<Mapping>,
    /// Kept open for the handler, until the mapping is blank.
    fd: Mutex<Option<OwnedFd>>,
    slot: usize,
}

impl Guarded {
    /// Guards a mapping of `fd` that was made by [`Mapping::mirrored`] with this `ring_len`. Installs the handler with
    /// the first.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ENOMEM` if 4096 ranges are guarded already, or the handler cannot be installed.
    pub fn new(mapping: Arc<Mapping>, fd: OwnedFd, ring_len: usize) -> Result<Self> {
        install()?;
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = taken.iter().position(|t| !t).unwrap_or(taken.len());
        if slot == RANGES {
            return Err(OsError::at("mmap", || "guarding one more mapping")(rustix::io::Errno::NOMEM));
        }
        if slot == taken.len() {
            taken.push(true);
        } else {
            taken[slot] = true;
        }
        let range = &TABLE[slot];
        range.len.store(mapping.len(), Ordering::Relaxed);
        range.file_len.store(mapping.len() - ring_len, Ordering::Relaxed);
        range.ring_len.store(ring_len, Ordering::Relaxed);
        range.fd.store(fd.as_raw_fd(), Ordering::Relaxed);
        range.private.store(0, Ordering::Relaxed);
        range.stored.store(false, Ordering::Relaxed);
        range.start.store(mapping.base().as_ptr().addr(), Ordering::Release);
        HIGH.fetch_max(slot + 1, Ordering::Release);
        Ok(Guarded { mapping, fd: Mutex::new(Some(fd)), slot })
    }

    /// The mapping.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether a page of it is private: one load.
    #[inline]
    pub fn has_private(&self) -> bool {
        TABLE[self.slot].private.load(Ordering::Acquire) != 0
    }

    /// Whether one of the pages of `offset..offset + len` is private.
    pub fn is_private(&self, offset: usize, len: usize) -> bool {
        let range = &TABLE[self.slot];
        let count = range.private.load(Ordering::Acquire) as usize;
        if count > PAGES {
            return true;
        }
        let page = page_size();
        let (first, last) = (offset / page, (offset + len.max(1) - 1) / page);
        range.pages[..count].iter().any(|p| (first..=last).contains(&(p.load(Ordering::Relaxed) as usize)))
    }

    /// Whether it was stored into since the last call.
    pub fn take_stored(&self) -> bool {
        TABLE[self.slot].stored.swap(false, Ordering::Relaxed)
    }

    /// Shares every private page again. What was stored into them is gone. The caller sees to it that nothing reads
    /// them now.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ENOMEM`.
    pub fn share_again(&self) -> Result<()> {
        let range = &TABLE[self.slot];
        let _busy = range.lock();
        let count = range.private.load(Ordering::Acquire) as usize;
        let page = page_size();
        if count > PAGES {
            range.private.store(0, Ordering::Release);
            let (file_len, ring_len) =
                (range.file_len.load(Ordering::Relaxed), range.ring_len.load(Ordering::Relaxed));
            let head_len = file_len - ring_len;
            self.map_shared(0, file_len, 0)?;
            return self.map_shared(file_len, ring_len, head_len);
        }
        for slot in &range.pages[..count] {
            let offset = slot.load(Ordering::Relaxed) as usize * page;
            self.map_shared(offset, page, file_offset(range, offset))?;
        }
        range.private.store(0, Ordering::Release);
        Ok(())
    }

    fn map_shared(&self, offset: usize, len: usize, from: usize) -> Result<()> {
        let fd = TABLE[self.slot].fd.load(Ordering::Relaxed);
        if fd == ANONYMOUS {
            return Ok(());
        }
        let at = self.mapping.base().as_ptr().wrapping_add(offset);
        // SAFETY: the range belongs to the mapping, which stays; it is replaced by a map of the same file and offset.
        let mapped = unsafe {
            libc::mmap(
                at.cast(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd,
                from as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            let errno = rustix::io::Errno::from_io_error(&std::io::Error::last_os_error());
            return Err(OsError::at("mmap", || "sharing a page again")(
                errno.unwrap_or(rustix::io::Errno::NOMEM),
            ));
        }
        Ok(())
    }

    /// Puts zeros in the place of the whole range ([`Mapping::replace_with_zeros`]). A store still does no harm.
    ///
    /// # Errors
    /// [`OsError::Syscall`] with `ENOMEM`.
    pub fn blank(&self) -> Result<()> {
        let range = &TABLE[self.slot];
        let _busy = range.lock();
        range.fd.store(ANONYMOUS, Ordering::Release);
        range.private.store(0, Ordering::Release);
        self.mapping.replace_with_zeros()?;
        self.fd.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        TABLE[self.slot].start.store(0, Ordering::Release);
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[self.slot] = false;
    }
}

/// Changes when any guarded mapping is stored into: one load that says when to ask each by [`Guarded::take_stored`].
#[inline]
pub fn stores() -> u32 {
    STORES.load(Ordering::Relaxed)
}

fn file_offset(range: &Range, offset: usize) -> usize {
    if offset < range.file_len.load(Ordering::Relaxed) {
        offset
    } else {
        offset - range.ring_len.load(Ordering::Relaxed)
    }
}

fn install() -> Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    page_size();
    // SAFETY: plain calls; the handler is async-signal-safe (atomics and mmap), and what was there is kept for it.
    let failed = unsafe {
        let mut previous: libc::sigaction = std::mem::zeroed();
        let mut failed = libc::sigaction(libc::SIGSEGV, std::ptr::null(), &mut previous) != 0;
        let _ = PREVIOUS.set(previous);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        failed |= libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) != 0;
        failed
    };
    if failed {
        return Err(OsError::at("sigaction", || "guarding read-only maps")(rustix::io::Errno::INVAL));
    }
    *installed = true;
    Ok(())
}

/// Replaces the page that was stored into, if it is guarded; else does what would have been done without this handler.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo, with an address if the code says that it was a fault.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    // A signal that somebody sent has no address.
    let ranges = if code == SEGV_ACCERR { &TABLE[..HIGH.load(Ordering::Acquire)] } else { &[] };
    for range in ranges {
        let start = range.start.load(Ordering::Acquire);
        if start != 0 && address >= start && address - start < range.len.load(Ordering::Relaxed) {
            if make_private(range, start, address) {
                return;
            }
            break;
        }
    }
    let previous = PREVIOUS.get();
    match previous.map(|p| (p.sa_sigaction, p.sa_flags)) {
        Some((handler, flags)) if handler > libc::SIG_IGN => {
            // SAFETY: the handler that was installed before, called as its flags say it wants to be.
            unsafe {
                if flags & libc::SA_SIGINFO != 0 {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    handler(signal, info, context);
                } else {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
        _ => {
            // SAFETY: back to the default; the store is tried again on return and ends the process as it would have.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
        }
    }
}

fn make_private(range: &Range, start: usize, address: usize) -> bool {
    let page = page_size();
    let offset = (address - start) & !(page - 1);
    let _busy = range.lock();
    let n = range.private.load(Ordering::Relaxed) as usize;
    if range.pages[..n.min(PAGES)].iter().any(|p| p.load(Ordering::Relaxed) as usize == offset / page) {
        // Another thread stored into the same page a moment ago.
        return true;
    }
    let fd = range.fd.load(Ordering::Acquire);
    let (flags, from) = if fd == ANONYMOUS {
        (libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_ANONYMOUS, 0)
    } else {
        (libc::MAP_PRIVATE | libc::MAP_FIXED, file_offset(range, offset))
    };
    // SAFETY: errno is put back, for the code that was interrupted. The page belongs to a guarded range, whose mapping
    // lives while it is in the table; it is replaced by one with the same content.
    let mapped = unsafe {
        let errno = *libc::__errno_location();
        let at = (start + offset) as *mut libc::c_void;
        let mapped = libc::mmap(at, page, libc::PROT_READ | libc::PROT_WRITE, flags, fd, from as libc::off_t);
        *libc::__errno_location() = errno;
        mapped
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    if fd != ANONYMOUS {
        if n < PAGES {
            range.pages[n].store((offset / page) as u64, Ordering::Relaxed);
        }
        range.private.store(n as u32 + 1, Ordering::Release);
    }
    range.stored.store(true, Ordering::Relaxed);
    STORES.fetch_add(1, Ordering::Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::mapping::Access;
    use crate::memfd;

    #[test]
    fn a_store_lands_in_a_private_page_and_nobody_else_sees_it() {
        let page = page_size();
        let fd = memfd::create("guard", 3 * page as u64).unwrap();
        let owner = Mapping::mirrored(fd.as_fd(), page, 2 * page, Access::ReadWrite).unwrap();
        memfd::seal(fd.as_fd(), memfd::Sealing::Owned).unwrap();
        let seen = Mapping::mirrored(fd.as_fd(), page, 2 * page, Access::ReadOnly).unwrap();
        let view = Guarded::new(Arc::new(seen), fd.try_clone().unwrap(), 2 * page).unwrap();
        let (ours, theirs) = (owner.base().as_ptr(), view.mapping().base().as_ptr());
        // The second image of the ring's first page.
        let mirrored = 3 * page + 5;
        // SAFETY: both maps live and the offsets are inside; volatile, as the bytes change under the compiler's feet.
        unsafe {
            ours.add(page + 5).write_volatile(7);
            assert_eq!(theirs.add(mirrored).read_volatile(), 7);
            theirs.add(mirrored).write_volatile(9);
            assert_eq!((ours.add(page + 5).read_volatile(), theirs.add(mirrored).read_volatile()), (7, 9));
            assert!(view.take_stored() && !view.take_stored() && view.has_private());
            assert!(
                view.is_private(3 * page, 1)
                    && !view.is_private(page, page)
                    && view.is_private(page, 2 * page + 1)
            );
            ours.add(page + 5).write_volatile(8);
            view.share_again().unwrap();
            assert_eq!(theirs.add(mirrored).read_volatile(), 8);
            assert!(!view.has_private());
            for n in 0..4 {
                theirs.add(n * page).write_volatile(1);
            }
            view.share_again().unwrap();
            assert_eq!(theirs.read_volatile(), 0);
            view.blank().unwrap();
            theirs.add(mirrored).write_volatile(1);
            assert_eq!((theirs.add(mirrored).read_volatile(), ours.add(page + 5).read_volatile()), (1, 8));
        }
    }

    #[test]
    fn threads_that_store_at_once_are_all_remembered() {
        const EACH: usize = PAGES / 2;
        let page = page_size();
        let fd = memfd::create("guard", (2 * PAGES * page) as u64).unwrap();
        let seen =
            Arc::new(Mapping::mirrored(fd.as_fd(), PAGES * page, PAGES * page, Access::ReadOnly).unwrap());
        let view = Guarded::new(seen.clone(), fd.try_clone().unwrap(), PAGES * page).unwrap();
        let barrier = std::sync::Barrier::new(2);
        for _ in 0..1000 {
            std::thread::scope(|scope| {
                for half in [0, EACH] {
                    let (seen, barrier) = (&seen, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        for n in half..half + EACH {
                            // SAFETY: the map lives and the offset is inside; the page is this thread's alone.
                            unsafe { seen.base().as_ptr().add(n * page).write_volatile(1) };
                        }
                    });
                }
            });
            assert!((0..PAGES).all(|n| view.is_private(n * page, 1)));
            view.share_again().unwrap();
            // SAFETY: as above.
            let shared =
                (0..PAGES).all(|n| unsafe { seen.base().as_ptr().add(n * page).read_volatile() } == 0);
            assert!(shared, "a private page was forgotten");
        }
    }
}
