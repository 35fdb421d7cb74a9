//! This process and others: ids, start times, and death as a pidfd shows it.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit};

use crate::error::{OsError, Result, errno_of};

/// This process's id: `getpid`.
pub fn pid() -> u32 {
    rustix::process::getpid().as_raw_pid() as u32
}

/// This process's effective user id: `geteuid`.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// How many fds this process may have open, the soft limit: `getrlimit(RLIMIT_NOFILE)`. `u64::MAX` if unlimited.
pub fn fd_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A pidfd, close-on-exec: `pidfd_open(pid, 0)`. A pid may have been given to another process meanwhile; where it
/// matters compare [`start_time`] after opening.
///
/// # Errors
/// [`OsError::Syscall`]: `ESRCH` (gone, or not visible), `EINVAL` (0 or not a process), `EMFILE`, `ENOSYS` or `EPERM` in
/// a sandbox.
pub fn pidfd_open(pid: u32) -> Result<OwnedFd> {
    let failed = OsError::at("pidfd_open", || format!("opening process {pid}"));
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Err(failed(Errno::INVAL)),
        Some(pid) => rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed),
    }
}

/// Whether the process of a pidfd has ended, reaped or not: `poll(fd, POLLIN, 0)`. A stopped process is not dead.
///
/// # Errors
/// [`OsError::Syscall`] as `poll` gives it.
pub fn is_dead(pidfd: BorrowedFd<'_>) -> Result<bool> {
    wait_dead(pidfd, Duration::ZERO)
}

/// Waits for the process of a pidfd to end: `poll(fd, POLLIN, timeout)`. When it has, the kernel has closed its fds and
/// released its locks. `false` at the timeout; a signal starts the time again.
///
/// # Errors
/// [`OsError::Syscall`] as `poll` gives it.
pub fn wait_dead(pidfd: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(OsError::at("poll", || "looking whether a process lives")(errno)),
            Ok(_) => return Ok(fds[0].revents().contains(PollFlags::IN)),
        }
    }
}

/// Whether a pidfd is this process's own: the `Pid` of its `fdinfo` in procfs. `false` where procfs does not tell.
pub fn is_own(pidfd: BorrowedFd<'_>) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap_or_default();
    let own = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    own.and_then(|number| number.trim().parse().ok()) == Some(pid())
}

/// When a process started, in clock ticks since boot: field 22 of its `stat` in procfs. With the pid it names a process
/// for good, until reboot.
///
/// # Errors
/// [`OsError::Syscall`] with `ENOENT` or `ESRCH` if the process is gone, not visible, or procfs is not mounted.
pub fn start_time(pid: u32) -> Result<u64> {
    let text = read(pid, "stat")?;
    parse_start_time(&text)
        .ok_or_else(|| OsError::at("read", || format!("understanding the stat of process {pid}"))(Errno::IO))
}

/// Whether one of the process's user ids (real, effective, saved, file system) is `uid`: its `status` in procfs. The
/// owner of the procfs files would not do, it is root for a process that cannot be dumped.
pub(crate) fn has_uid(pid: u32, uid: u32) -> Result<bool> {
    let text = read(pid, "status")?;
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or("");
    Ok(ids.split_whitespace().any(|id| id.parse() == Ok(uid)))
}

/// A procfs file of a process. The command name in it may be any bytes.
fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    let failed = |error| OsError::at("open", || format!("reading {path}"))(errno_of(&error));
    Ok(String::from_utf8_lossy(&fs::read(&path).map_err(failed)?).into_owned())
}

/// Field 22. Field 2 is the command in parentheses and may hold spaces, parentheses and newlines itself, so fields count
/// from the last closing parenthesis on.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::forks;

    #[test]
    fn a_live_child_a_zombie_and_a_reaped_one() {
        let mut child = forks::spawn(Command::new("cat").stdin(Stdio::piped()));
        let pidfd = pidfd_open(child.id()).unwrap();
        assert!(!is_dead(pidfd.as_fd()).unwrap());
        assert!(!is_own(pidfd.as_fd()) && is_own(pidfd_open(pid()).unwrap().as_fd()));
        assert!(start_time(child.id()).unwrap() >= start_time(pid()).unwrap());
        assert!(has_uid(child.id(), uid()).unwrap());
        assert!(!has_uid(child.id(), u32::MAX - 7).unwrap());
        child.kill().unwrap();
        // Not reaped yet: wait for the pidfd itself.
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None).unwrap();
        assert!(is_dead(pidfd.as_fd()).unwrap());
        child.wait().unwrap();
        assert!(is_dead(pidfd.as_fd()).unwrap());
        assert_eq!(pidfd_open(child.id()).unwrap_err().errno(), Some(libc::ESRCH));
        assert!(matches!(start_time(child.id()).unwrap_err().errno(), Some(libc::ENOENT | libc::ESRCH)));
    }

    #[test]
    fn a_stopped_process_is_not_dead() {
        let mut child = forks::spawn(Command::new("cat").stdin(Stdio::piped()));
        let pidfd = pidfd_open(child.id()).unwrap();
        rustix::process::kill_process(Pid::from_child(&child), rustix::process::Signal::STOP).unwrap();
        while !read(child.id(), "stat").unwrap().contains(") T ") {
            std::thread::yield_now();
        }
        assert!(!is_dead(pidfd.as_fd()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_dead(pidfd.as_fd()).unwrap());
    }

    #[test]
    fn nonsense_pids_are_errors() {
        assert_eq!(pidfd_open(0).unwrap_err().errno(), Some(libc::EINVAL));
        assert_eq!(pidfd_open(u32::MAX).unwrap_err().errno(), Some(libc::EINVAL));
    }

    #[test]
    fn the_command_may_contain_anything() {
        let tail = "S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 10 11";
        for command in ["sh", "a b", "a) R 1 2", "((", "x\n) (y"] {
            assert_eq!(parse_start_time(&format!("17 ({command}) {tail}\n")), Some(987_654), "{command:?}");
        }
        assert_eq!(parse_start_time("17 (sh) S 1 2"), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[test]
    fn a_hostile_name_in_real_procfs() {
        let directory = crate::scratch::Scratch::new("name");
        let program = directory.path().join("x) S 1 (");
        fs::copy("/bin/cat", &program).unwrap();
        let mut child = forks::spawn(Command::new(&program).stdin(Stdio::piped()));
        assert!(start_time(child.id()).unwrap() >= start_time(pid()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn there_is_a_limit_of_fds() {
        assert!(fd_limit() > 3);
        assert!(fs::metadata(format!("/proc/{}", pid())).is_ok());
    }
}
