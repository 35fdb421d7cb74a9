//! Interleavings of a batch, one slot and several headers, with those who read it and what overwrites it.
#![cfg(loom)]

mod loom_common;

use loom::thread;
use loom_common::{Bus, group, model, owner, set, slot_offset};
use shm_bus_ring::layout::{header, payload};
use shm_bus_ring::{
    Address, AttachmentId, Bucket, Kind, Lane, LaneKind, Loan, Message, Ordering, PublishError, Published,
    Reader, ReaderState, SlotWord, Stamp, Step, intact,
};

const NONE: (ReaderState, u64) = (ReaderState::None, 0);
const OUT: (ReaderState, u64) = (ReaderState::Evicted, 0);
const FIRST: (ReaderState, u64) = (ReaderState::Live, 1);

const PUBLISHER: u16 = 0;
const READER: u16 = 1;

/// Publishes two messages as one event.
fn publish_two(bus: &Bus, lane: &mut Lane, first: u64) -> Result<Published, PublishError<()>> {
    let mut peers = bus.pages.clone();
    let to: [Address; 1] = [group()];
    let mut frames: Vec<(Loan, Kind, Message<'_>, u64)> = Vec::new();
    for body in [first, first + 1] {
        match lane.loan(&bus.sequencer, &mut peers, 8) {
            Ok(loan) => {
                lane.write(&loan, 0, &body.to_le_bytes());
                let message = Message { destinations: &to, topic: body, descriptors: 0, time: 0 };
                frames.push((loan, Kind::Message, message, 8));
            }
            Err(error) => {
                frames.into_iter().rev().for_each(|(loan, ..)| lane.abandon(loan));
                return Err(error);
            }
        }
    }
    let result = lane.publish(&bus.sequencer, &mut peers, owner(PUBLISHER), &frames, |_| Ok(()));
    if result.is_err() {
        frames.into_iter().rev().for_each(|(loan, ..)| lane.abandon(loan));
    }
    result
}

fn body(bus: &Bus, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    bus.pages.0[usize::from(PUBLISHER)].0.copy_out(offset, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// What a look at the order gives: the messages that are whole.
fn read(bus: &Bus, reader: &mut Reader) -> (Vec<u64>, Step) {
    let mut whole = Vec::new();
    loop {
        match reader.next(&bus.sequencer, &mut bus.pages.clone()) {
            Step::Frame(frame) => {
                let body = body(bus, frame.offset);
                assert_eq!(frame.place.stamp.0, 1 + (whole.len() / 2) as u64);
                assert_eq!(usize::from(frame.place.index), whole.len() % 2);
                if intact(&bus.pages.0[usize::from(PUBLISHER)].0, frame.lane, frame.header.serial) {
                    assert_eq!(body, frame.header.topic, "torn");
                    whole.push(body);
                } else {
                    return (whole, Step::Overrun);
                }
            }
            step => return (whole, step),
        }
    }
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let mut lane = there.lane(PUBLISHER, LaneKind::Data);
            publish_two(&there, &mut lane, 10).unwrap();
        });
        let mut reader = Reader::new(Stamp(1), set());
        let (whole, step) = read(&bus, &mut reader);
        assert!(matches!(whole[..], [] | [10, 11]), "half a batch: {whole:?}");
        assert_eq!(step, Step::Empty);
        publisher.join().unwrap();
        assert_eq!(bus.sequencer.find().unwrap().stamp, 2);
    });
}

/// A publisher that swaps the slot when the first message of its batch is complete.
#[test]
#[should_panic = "half a batch"]
fn a_batch_published_before_its_last_message_is_seen_by_half() {
    model(Some(3), || {
        let bus = Bus::new(2, 2, &[NONE, NONE]);
        let there = bus.clone();
        let publisher = thread::spawn(move || {
            let mut lane = there.lane(PUBLISHER, LaneKind::Data);
            let mut peers = there.pages.clone();
            let loan = lane.loan::<()>(&there.sequencer, &mut peers, 8).unwrap();
            lane.write(&loan, 0, &10u64.to_le_bytes());
            let to = [group()];
            let message = Message { destinations: &to, topic: 10, descriptors: 0, time: 0 };
            let own = &there.own[usize::from(PUBLISHER)];
            let frames = [(loan, Kind::Message, message, 8)];
            let late = |stamp: u64| {
                // The count is there already; the second header is not.
                let entry = payload::HEADERS;
                own.store(entry + header::STAMP, stamp, Ordering::Relaxed);
                own.store(entry + header::BATCH, 2, Ordering::Relaxed);
                let word = SlotWord::new(stamp, 2, AttachmentId(PUBLISHER), 0, Bucket::of(group()));
                let (region, at) = (there.sequencer.region(), slot_offset(&there.sequencer, stamp));
                region.compare_exchange(at, 0, word.0, Ordering::SeqCst, Ordering::Relaxed).unwrap();
                Err(())
            };
            let _ = lane.publish(&there.sequencer, &mut peers, owner(PUBLISHER), &frames, late);
        });
        let (whole, step) = read(&bus, &mut Reader::new(Stamp(1), set()));
        publisher.join().unwrap();
        assert!(
            matches!(whole[..], [] | [10, 11]) && step == Step::Empty,
            "half a batch: {whole:?}, {step:?}"
        );
    });
}

/// A second batch in the same headers, while a reader that counts, or one that lost its place, goes through the first.
fn reused(counts: bool) {
    model(Some(2), move || {
        let bus = Bus::with_headers_reused(3, 2, &[NONE, if counts { FIRST } else { OUT }]);
        let mut lane = bus.lane(PUBLISHER, LaneKind::Data);
        publish_two(&bus, &mut lane, 10).unwrap();
        let there = bus.clone();
        let publisher = thread::spawn(move || match publish_two(&there, &mut lane, 20) {
            Ok(_) | Err(PublishError::Full(_)) => {}
            Err(e) => panic!("{e:?}"),
        });
        let mut reader = Reader::new(Stamp(1), set());
        let (whole, step) = read(&bus, &mut reader);
        if counts {
            assert_eq!(whole[..2], [10, 11], "lost under a claim");
            assert_eq!(step, Step::Empty);
            bus.sequencer.store_cursor(&bus.own[usize::from(READER)], reader.position());
        } else {
            assert!([10, 11, 20, 21].starts_with(&whole), "{whole:?}");
            assert!(whole.len() % 2 == 0 || !matches!(step, Step::Empty), "half a batch");
        }
        publisher.join().unwrap();
    });
}

#[test]
fn a_reader_that_counts_gets_every_message_of_a_batch() {
    reused(true);
}

#[test]
fn a_reader_without_a_place_takes_no_message_of_two_batches_for_one() {
    reused(false);
}
