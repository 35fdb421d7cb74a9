//! Builds of different layout versions, and strangers, at both ends of the side channel.
#![allow(missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Scratch, until};
use shm_bus::{AttachOptions, Bus, BusError, MasterMode};
use shm_bus_os::{Channel, Listener, Name, Received, Sent};
use shm_bus_ring::layout::LAYOUT_VERSION;

fn greeting(version: u64) -> Vec<u8> {
    let mut bytes = b"shmbus\0\0".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes
}

fn receive(channel: &Channel) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let mut outcome = None;
    until("the other end says something", || {
        match channel.recv(&mut buffer).unwrap() {
            Received::Message { len, .. } => outcome = Some(Some(buffer[..len].to_vec())),
            Received::Closed => outcome = Some(None),
            Received::Empty => {}
        }
        outcome.is_some()
    });
    outcome.unwrap()
}

/// Attaches where somebody listens who answers every hello with these bytes, or by hanging up.
fn attach_to(answer: Option<Vec<u8>>, timeout: Duration) -> BusError {
    let scratch = Scratch::new();
    let listener = Listener::bind(&Name::Path(scratch.0.join("test.sock"))).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut open = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let Some(channel) = listener.accept().unwrap() else {
                    std::thread::yield_now();
                    continue;
                };
                if let Some(answer) = &answer
                    && receive(&channel).is_some_and(|hello| hello.starts_with(&greeting(LAYOUT_VERSION)))
                {
                    assert_eq!(channel.send(answer, &[]).unwrap(), Sent::Done);
                    open.push(channel);
                }
            }
        });
        let options = AttachOptions { timeout, master: MasterMode::Never, ..scratch.options() };
        let refused = Bus::attach("test", &options).err().expect("nobody is there to attach to");
        done.store(true, Ordering::Relaxed);
        let _ = std::fs::remove_file(scratch.0.join("test.sock"));
        refused
    })
}

#[test]
fn a_master_of_another_version_is_told_apart() {
    for version in [0, LAYOUT_VERSION + 1, u64::MAX] {
        let mut answer = greeting(version);
        answer.extend([1, 2, 3]);
        let error = attach_to(Some(answer), common::LONG);
        assert!(
            matches!(error, BusError::Version { ours: LAYOUT_VERSION, theirs } if theirs == version),
            "{error}"
        );
        assert_eq!(error.code(), "ERR_SHM_BUS_LAYOUT_VERSION");
    }
}

#[test]
fn a_master_that_is_none_is_found_out() {
    let mut garbage = greeting(LAYOUT_VERSION);
    garbage.extend([0xff; 40]);
    for answer in [garbage, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), vec![0], greeting(LAYOUT_VERSION)] {
        let error = attach_to(Some(answer), common::LONG);
        assert!(matches!(error, BusError::Protocol { .. }), "{error}");
    }
    let error = attach_to(None, Duration::from_millis(50));
    assert!(matches!(error, BusError::NoMaster { .. }), "{error}");
}

#[test]
fn a_newcomer_of_another_version_is_refused_and_the_master_lives_on() {
    let scratch = Scratch::new();
    let master = scratch.attach();
    let name = Name::Path(scratch.0.join("test.sock"));
    let mut hello = greeting(LAYOUT_VERSION + 1);
    hello.extend([0, 0]);
    let mut garbage = greeting(LAYOUT_VERSION);
    garbage.extend([0xff; 2000]);
    let strangers =
        [hello, greeting(0), greeting(LAYOUT_VERSION), garbage, b"GET / HTTP/1.1".to_vec(), vec![0; 16]];
    for words in strangers {
        let channel = Channel::connect(&name).unwrap();
        assert_eq!(channel.send(&words, &[]).unwrap(), Sent::Done);
        let answer = receive(&channel).expect("an answer that tells the version comes first");
        assert!(answer.starts_with(&greeting(LAYOUT_VERSION)));
        assert!(answer.len() > greeting(0).len(), "and says why");
        assert_eq!(receive(&channel), None);
    }
    // One that says nothing, and one that goes at once.
    let silent = Channel::connect(&name).unwrap();
    drop(Channel::connect(&name).unwrap());
    let member = scratch.attach();
    assert_eq!(member.address(), shm_bus::Address::unicast(1), "the others were never here");
    assert!(master.is_master());
    assert_eq!(master.directory().unwrap().members().count(), 2);
    drop(silent);
}
