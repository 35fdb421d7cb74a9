//! Interleavings of waiting for space with what gives some.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::kernel::Futex;
use loom_common::{Bus, model};
use shm_bus_ring::{AttachmentId, Kind, LaneKind, PublishError, ReaderState, Sequencer};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Kept,
    /// The waiter loads the space word after its last try.
    WordLast,
    /// The waiter sets its bit after its last try.
    TryFirst,
    /// The reader does not fence between its cursor and the bits.
    Unfenced,
    /// The reader looks at the bits before it stores its cursor.
    LookFirst,
}

/// The only header holds a frame that the reader is about to pass.
fn space(rule: Rule) {
    model(Some(3), move || {
        let bus = Bus::new(3, 1, &[NONE, FIRST]);
        let mut lane = bus.lane(0, LaneKind::Data);
        bus.publish(&mut lane, 0, Kind::Message, 10).unwrap();
        let futex = Futex::new();
        let (there, waker) = (bus.clone(), futex.clone());
        let reader = thread::spawn(move || {
            let s = &there.sequencer;
            let wanted = match rule {
                Rule::Unfenced => {
                    there.store_cursor(1, 2);
                    s.space_waiters(0) != 0
                }
                Rule::LookFirst => {
                    let wanted = s.space_waiters(0) != 0;
                    there.store_cursor(1, 2);
                    wanted
                }
                _ => s.store_cursor(&there.own[1], 2),
            };
            if wanted {
                s.release_space();
                waker.wake();
            }
        });
        let s: &Sequencer = &bus.sequencer;
        let mut full = || match bus.publish(&mut lane, 0, Kind::Message, 20) {
            Ok(_) => false,
            Err(PublishError::Full(full)) => {
                assert_eq!(full.holder, Some((AttachmentId(1), 1)));
                true
            }
            Err(e) => panic!("{e:?}"),
        };
        let bit = || s.wait_for_space(AttachmentId(0), true);
        let (full, word) = match rule {
            Rule::WordLast => {
                bit();
                (full(), s.space())
            }
            Rule::TryFirst => {
                let full = full();
                bit();
                (full, s.space())
            }
            _ => {
                bit();
                let word = s.space();
                (full(), word)
            }
        };
        if full {
            futex.wait(|| s.space(), word);
        }
        reader.join().unwrap();
        assert!(!futex.sleeps_on(), "a release was lost");
    });
}

#[test]
fn a_publisher_that_waits_for_space_hears_of_it() {
    space(Rule::Kept);
}

#[test]
#[should_panic = "a release was lost"]
fn a_space_word_loaded_after_the_last_try_loses_a_release() {
    space(Rule::WordLast);
}

#[test]
#[should_panic = "a release was lost"]
fn a_last_try_before_the_bit_loses_a_release() {
    space(Rule::TryFirst);
}

#[test]
#[should_panic = "a release was lost"]
fn a_look_for_waiters_before_the_cursor_is_stored_loses_a_release() {
    space(Rule::LookFirst);
}

#[test]
#[should_panic = "a release was lost"]
fn a_cursor_without_a_fence_behind_it_loses_a_release() {
    space(Rule::Unfenced);
}
