//! What one attachment can do to the memory of another: nothing but read.
#![allow(missing_docs)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use common::{Scratch, read};
use shm_bus::{Envelope, SubscribeOptions};
use shm_bus_os::{Access, Mapping};

const EACCES: i32 = 13;
const EPERM: i32 = 1;

/// Every payload memory that this process has open, opened once more for writing.
fn payload_memories() -> Vec<File> {
    let mut seen = Vec::new();
    let mut files = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        if target.to_string_lossy().starts_with("/memfd:shm-bus-payload") {
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

#[test]
fn case_90_received_memory_is_never_mapped_or_made_writable() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.attach(), scratch.attach());
    let mut inbox = b.subscribe(&["g".into()], false, SubscribeOptions::default()).unwrap();
    let mut publisher = a.publisher().unwrap();
    let g = publisher.resolve("g").unwrap();
    publisher.publish(&[g], b"before", Envelope::default()).unwrap();
    assert_eq!(read(&mut inbox, 1)[0].1, b"before");

    let memories = payload_memories();
    assert_eq!(memories.len(), 2);
    for file in &memories {
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
