//! What one attachment can do to the memory of another: nothing but read.
#![allow(missing_docs)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Mutex;

use common::{LONG, Scratch, read, until};
use shm_bus::{Envelope, SubscribeOptions};
use shm_bus_os::{Access, Mapping};
use shm_bus_ring::Ordering;
use shm_bus_ring::layout::payload;

const EACCES: i32 = 13;
const EPERM: i32 = 1;

/// Every memory of that name that this process has open, opened once more for writing.
fn memories(name: &str) -> Vec<File> {
    let mut seen = Vec::new();
    let mut files = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        if target.to_string_lossy().starts_with(&format!("/memfd:shm-bus-{name}")) {
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let inode = file.metadata().unwrap().ino();
            if !seen.contains(&inode) {
                seen.push(inode);
                files.push(file);
            }
        }
    }
    files
}

/// Tests that look at all memories of this process take turns.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn case_90_received_memory_is_never_mapped_or_made_writable() {
    let _turn = TURN.lock();
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut inbox = b.subscribe(&["g".into()], false, SubscribeOptions::default()).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    publisher.publish(&[g], b"before", Envelope::default()).unwrap();
    assert_eq!(read(&mut inbox, 1)[0].1, b"before");

    let payloads = memories("payload");
    assert_eq!(payloads.len(), 2);
    for file in &payloads {
        let length = file.metadata().unwrap().len();
        let refused = Mapping::shared(file.as_fd(), length as usize, Access::ReadWrite).unwrap_err();
        assert_eq!(refused.errno(), Some(EPERM), "{refused}");
        assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(EPERM));
        for other in [0, length - 4096, length + 4096] {
            assert_eq!(file.set_len(other).unwrap_err().raw_os_error(), Some(EPERM));
        }
        let mapping = Mapping::shared(file.as_fd(), length as usize, Access::ReadOnly).unwrap();
        let (base, writable) = (mapping.base().as_ptr().cast(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the range is the mapping's own, and nothing reads it meanwhile.
        let outcome = unsafe { libc::mprotect(base, mapping.len(), writable) };
        let error = std::io::Error::last_os_error();
        assert_eq!((outcome, error.raw_os_error()), (-1, Some(EACCES)));
    }
    publisher.publish(&[g], b"after", Envelope::default()).unwrap();
    assert_eq!(read(&mut inbox, 1)[0].1, b"after");
}

#[test]
fn nobody_changes_the_size_of_what_others_have_mapped() {
    let _turn = TURN.lock();
    let scratch = Scratch::new();
    let (_a, _b) = (scratch.attach(), scratch.attach());
    for (name, count) in [("sequencer", 1), ("directory", 1), ("payload", 2)] {
        let files = memories(name);
        assert_eq!(files.len(), count, "{name}");
        for file in files {
            let length = file.metadata().unwrap().len();
            for other in [0, length - 4096, length + 4096] {
                assert_eq!(file.set_len(other).unwrap_err().raw_os_error(), Some(EPERM), "{name}");
            }
        }
    }
}

/// Credentials stand in the directory: nobody but the master that wrote it can write it, not even the next master.
#[test]
fn each_master_has_a_directory_of_its_own_that_nobody_else_can_write() {
    let _turn = TURN.lock();
    let scratch = Scratch::new();
    let (a, b, c) = (scratch.attach(), scratch.attach(), scratch.attach());
    let of = || memories("directory").iter().map(|f| f.metadata().unwrap().ino()).collect::<Vec<_>>();
    let first = of();
    assert_eq!(first.len(), 1);
    for file in memories("directory") {
        let length = file.metadata().unwrap().len() as usize;
        let refused = Mapping::shared(file.as_fd(), length, Access::ReadWrite).unwrap_err();
        assert_eq!(refused.errno(), Some(EPERM));
        assert_eq!(file.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(EPERM));
    }
    a.close();
    until("the others follow the next master", || {
        let masters = [&b, &c].map(|bus| bus.directory().unwrap().master);
        [Some(b.member()), Some(c.member())].contains(&masters[0]) && masters[0] == masters[1]
    });
    until("the former directory is let go", || !of().contains(&first[0]) && of().len() == 1);
}

/// What happens to a slow reader is decided by words that it cannot write.
#[test]
fn a_reader_that_scribbles_over_its_page_is_evicted_all_the_same() {
    let _turn = TURN.lock();
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut slow = b.subscribe(&["g".into()], false, SubscribeOptions::default()).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    let own = b.own_mapping().region().unwrap();
    let buckets = payload::BUCKETS..payload::BUCKETS + 32;
    for (word, set) in [(u64::MAX, u64::MAX), (0, 0), (0, u64::MAX)] {
        // All but what says what the memory is, and what its owner's own publishing goes by.
        for at in (payload::CURSOR..payload::RECLAIMED).step_by(8) {
            own.store(at, if buckets.contains(&at) { set } else { word }, Ordering::SeqCst);
        }
        for n in 0..1000 {
            if publisher.publish(&[g], b"x", Envelope::default()).is_err() {
                assert!(publisher.wait_writable(LONG).unwrap(), "message {n}");
            }
        }
    }
    assert!(slow.poll(1, |_| {}).is_err());
}
