//! How much memory this process may still take, before it touches any.
//!
//! `ftruncate` on a memfd succeeds for a terabyte, and `fallocate` past a cgroup's limit wakes the OOM killer instead of
//! failing. So a ring that cannot fit is refused here first. The figure is a snapshot: it prevents mistakes, not races.

use std::fs;
use std::path::Path;

use crate::error::{OsError, Result};

/// Bytes that can be had now, and the limit that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// The limit that is the tightest, in words.
    pub limit: &'static str,
}

/// The tightest of `MemAvailable` in procfs and the memory limits of this process's cgroup and its parents (version 2 and
/// version 1, where mounted at the usual place below sysfs). `None` if none of them can be read. Swap does not count.
pub fn available() -> Option<Available> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    machine
        .map(|bytes| Available { bytes, limit: "MemAvailable" })
        .into_iter()
        .chain(groups.lines().filter_map(|line| cgroup_room(root, line)))
        .min_by_key(|found| found.bytes)
}

/// Checks that `bytes` can be had at all.
///
/// # Errors
/// [`OsError::TooLittleMemory`] with both figures. Where nothing is known ([`available`] is `None`) the check passes.
pub fn check(bytes: u64) -> Result<()> {
    match available() {
        Some(found) if bytes > found.bytes => {
            Err(OsError::TooLittleMemory { want: bytes, have: found.bytes, limit: found.limit })
        }
        _ => Ok(()),
    }
}

/// `MemAvailable` in bytes; procfs states it in KiB.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The room in the cgroup that one line of `/proc/self/cgroup` names (`ID:CONTROLLERS:PATH`) and in its parents.
fn cgroup_room(root: &Path, line: &str) -> Option<Available> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let path = path.trim_start_matches('/');
    if controllers.is_empty() {
        let mounts = [root.to_path_buf(), root.join("unified")];
        let names = ["memory.max", "memory.current", "inactive_file", "active_file"];
        let rooms = mounts.iter().filter_map(|mount| walk(mount, path, names));
        return rooms.min().map(|bytes| Available { bytes, limit: "memory.max of the cgroup" });
    }
    if controllers.split(',').any(|name| name == "memory") {
        let names =
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"];
        let room = walk(&root.join("memory"), path, names);
        return room.map(|bytes| Available { bytes, limit: "memory.limit_in_bytes of the cgroup" });
    }
    None
}

/// The least room of a cgroup and its parents. Inside a container the path may name what is not mounted; the parents
/// that do exist, at last the mount itself, then are the container's own.
fn walk(mount: &Path, path: &str, [limit, usage, inactive, active]: [&str; 4]) -> Option<u64> {
    let leaf = mount.join(path);
    leaf.ancestors()
        .take_while(|directory| directory.starts_with(mount))
        .filter_map(|directory| {
            let number =
                |name: &str| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<u64>().ok();
            // "max" does not parse: no limit here.
            let (limit, usage) = (number(limit)?, number(usage)?);
            let stat = fs::read_to_string(directory.join("memory.stat")).unwrap_or_default();
            // Cached files are given back under pressure, so they do not count as taken.
            let cached = stat_value(&stat, inactive).saturating_add(stat_value(&stat, active));
            Some(limit.saturating_sub(usage.saturating_sub(cached)))
        })
        .min()
}

fn stat_value(stat: &str, key: &str) -> u64 {
    stat.lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(name, value)| (name == key).then(|| value.trim().parse().ok())?)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn this_machine_has_some_but_not_an_exabyte() {
        assert!(available().unwrap().bytes > 0);
        check(4096).unwrap();
        let error = check(1 << 60).unwrap_err();
        assert!(matches!(error, OsError::TooLittleMemory { want, .. } if want == 1 << 60), "{error}");
        assert!(error.to_string().contains("ringBytes"), "{error}");
    }

    #[test]
    fn meminfo_is_in_kib() {
        assert_eq!(mem_available("MemTotal: 9 kB\nMemAvailable:     12 kB\n"), Some(12 * 1024));
        assert_eq!(mem_available("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn the_tightest_cgroup_counts_without_its_cache() {
        let root = Scratch::new("cgroup");
        let leaf = root.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("memory.max"), "max\n").unwrap();
        fs::write(leaf.join("memory.current"), "10\n").unwrap();
        let parent = root.path().join("a");
        fs::write(parent.join("memory.max"), "1000\n").unwrap();
        fs::write(parent.join("memory.current"), "700\n").unwrap();
        fs::write(parent.join("memory.stat"), "anon 1\ninactive_file 40\nactive_file 60\n").unwrap();
        assert_eq!(cgroup_room(root.path(), "0::/a/b").unwrap().bytes, 400);
        assert_eq!(cgroup_room(root.path(), "0::/a/not-mounted").unwrap().bytes, 400);
        assert_eq!(cgroup_room(root.path(), "0::/"), None);
        assert_eq!(cgroup_room(root.path(), "3:cpu:/a"), None);
    }

    #[test]
    fn version_one_has_its_own_names() {
        let root = Scratch::new("cgroup1");
        let leaf = root.path().join("memory/x");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("memory.limit_in_bytes"), "500").unwrap();
        fs::write(leaf.join("memory.usage_in_bytes"), "600").unwrap();
        assert_eq!(cgroup_room(root.path(), "4:cpu,memory:/x").unwrap().bytes, 0);
    }
}
