//! Interleavings of the directory's two copies with who reads them.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{memory, model};
use shm_bus_ring::{Ordering, Region, snapshot};

const INDEX: u64 = 0;
const COPIES: [u64; 2] = [4096, 4096 + 64 * 4096];

/// Two words, equal in every state that was written.
fn state(n: u64) -> Vec<u8> {
    [n.to_le_bytes(), n.to_le_bytes()].concat()
}

fn start() -> Region {
    let mut words = vec![(INDEX, 0)];
    for copy in COPIES {
        words.extend([(copy, 0), (copy + 8, 0), (copy + 16, 0)]);
    }
    let region = memory(words);
    snapshot::write(&region, &state(1));
    region
}

#[track_caller]
fn check(bytes: &[u8]) {
    let words: Vec<u64> = bytes.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
    assert!(words.len() == 2 && words[0] == words[1] && words[0] >= 1, "torn: {words:?}");
}

/// A reader never waits: each of its looks gives what is whole, or was overtaken by two writes.
#[test]
fn what_is_read_is_whole() {
    model(Some(3), || {
        let region = start();
        let there = region.clone();
        let writer = thread::spawn(move || (2..4).for_each(|n| snapshot::write(&there, &state(n))));
        if let Some(bytes) = snapshot::read(&region.view(), 1) {
            check(&bytes);
        }
        writer.join().unwrap();
        check(&snapshot::read(&region.view(), 1).expect("nobody writes"));
    });
}

/// A writer that is killed anywhere in a write leaves what was written last.
#[test]
fn a_writer_that_stops_halfway_leaves_the_state_before() {
    model(None, || {
        let region = start();
        let there = region.clone();
        // Everything of a write but its last store.
        let writer = thread::spawn(move || {
            let next = there.load(INDEX, Ordering::Relaxed) + 1;
            let copy = COPIES[next as usize % 2];
            there.store(copy, 16, Ordering::Relaxed);
            there.copy_in(copy + 8, &state(2)[..8]);
        });
        let before = snapshot::read(&region.view(), 1);
        writer.join().unwrap();
        assert_eq!(before, Some(state(1)));
        assert_eq!(snapshot::read(&region.view(), 1), Some(state(1)));
    });
}

/// One copy, written in place.
#[test]
#[should_panic = "torn"]
fn a_single_copy_is_read_torn() {
    model(Some(3), || {
        let region = start();
        let there = region.clone();
        let writer = thread::spawn(move || {
            let copy = COPIES[there.load(INDEX, Ordering::Relaxed) as usize % 2];
            there.copy_in(copy + 8, &state(2));
        });
        check(&snapshot::read(&region.view(), 1).unwrap());
        writer.join().unwrap();
    });
}

/// Nothing keeps the bytes of the next state behind the index of the last.
#[test]
#[should_panic = "torn"]
fn a_writer_without_its_fence_is_read_torn() {
    model(Some(3), || {
        let region = start();
        let there = region.clone();
        let writer = thread::spawn(move || {
            for n in 2..4 {
                let next = there.load(INDEX, Ordering::Relaxed) + 1;
                let copy = COPIES[next as usize % 2];
                there.store(copy, 16, Ordering::Relaxed);
                there.copy_in(copy + 8, &state(n));
                there.store(INDEX, next, Ordering::Release);
            }
        });
        if let Some(bytes) = snapshot::read(&region.view(), 1) {
            check(&bytes);
        }
        writer.join().unwrap();
    });
}
