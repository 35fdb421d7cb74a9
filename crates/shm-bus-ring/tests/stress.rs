//! Threads that stand for processes: two publish, two count, one is too slow for any promise and validates.
#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::{Pages, bus, bytes, owner, pattern, set_reader_state, store_cursor};
use shm_bus_ring::layout::payload;
use shm_bus_ring::{
    Address, AttachmentId, Bucket, BucketSet, Frame, Geometry, Kind, Lane, LaneKind, Message, Ordering,
    PublishError, Reader, ReaderState, Region, Sequencer, Stamp, Step, intact,
};

const EACH: u64 = 60_000;
const DEADLINE: Duration = Duration::from_secs(120);

struct Run {
    sequencer: Sequencer,
    pages: Pages,
    until: Instant,
    published: AtomicU64,
    done: AtomicBool,
}

impl Run {
    fn pause(&self) {
        assert!(Instant::now() < self.until, "the bus stands still");
        thread::yield_now();
    }
}

fn group() -> Address {
    Address::group(1)
}

fn everything() -> BucketSet {
    let mut set = BucketSet::control();
    set.insert(Bucket::of(group()));
    set
}

/// Publishes `EACH` messages; the topic says who and the how manieth, the length and the bytes follow from it.
fn publisher(run: &Run, own: Region, id: u16) {
    let mut peers = run.pages.clone();
    let mut lane = Lane::new(own, run.pages.0[usize::from(id)].1, LaneKind::Data);
    let mut last = 0;
    for n in 0..EACH {
        let topic = u64::from(id) << 32 | n;
        let body = pattern(topic, length(topic));
        let loan = loop {
            match lane.loan::<()>(&run.sequencer, &mut peers, body.len() as u64) {
                Ok(loan) => break loan,
                Err(PublishError::Full(_)) => run.pause(),
                Err(e) => panic!("{e:?}"),
            }
        };
        lane.write(&loan, 0, &body);
        let message = Message { destinations: &[group()], topic, descriptors: 0, time: 0 };
        let frames = [(loan, Kind::Message, message, body.len() as u64)];
        loop {
            match lane.publish::<()>(&run.sequencer, &mut peers, owner(id), &frames, |_| Ok(())) {
                Ok(published) => {
                    assert!(published.stamp.0 > last, "a publisher's own messages are in order");
                    last = published.stamp.0;
                    break;
                }
                Err(PublishError::Full(_)) => run.pause(),
                Err(e) => panic!("{e:?} at message {n}"),
            }
        }
        run.published.fetch_add(1, SeqCst);
    }
}

fn length(topic: u64) -> u64 {
    match topic % 16 {
        0 => topic % 7_000,
        1..=4 => 65 + topic % 500,
        _ => topic % 65,
    }
}

fn payload_of(run: &Run, frame: &Frame) -> Vec<u8> {
    let view = &run.pages.0[frame.sender.index()].0;
    bytes(view, frame.offset, u64::from(frame.header.length))
}

/// Reads everything, in place, and stores its cursor only now and then. Gives what it saw.
fn counting_reader(run: &Run, own: Region, every: u64) -> Vec<u64> {
    let mut senders = run.pages.clone();
    let mut reader = Reader::new(Stamp(1), everything());
    let mut seen = Vec::new();
    while (seen.len() as u64) < 2 * EACH {
        match reader.next(&run.sequencer, &mut senders) {
            Step::Frame(frame) => {
                assert_eq!(frame.place.stamp.0, seen.len() as u64 + 1, "no hole");
                let topic = frame.header.topic;
                assert_eq!(topic >> 32, u64::from(frame.sender.0));
                assert_eq!(payload_of(run, &frame), pattern(topic, length(topic)));
                let view = &run.pages.0[frame.sender.index()].0;
                assert!(intact(view, frame.lane, frame.header.serial), "it counts");
                seen.push(topic);
                if reader.position().is_multiple_of(every) {
                    store_cursor(&own, reader.position());
                }
            }
            Step::Empty => {
                store_cursor(&own, reader.position());
                run.pause();
            }
            step => panic!("{step:?}"),
        }
    }
    store_cursor(&own, reader.position());
    seen
}

/// Never counts: it is overrun again and again, and what it takes for whole is whole. Gives how much that was.
fn lossy_reader(run: &Run) -> u64 {
    let mut senders = run.pages.clone();
    let mut reader = Reader::new(Stamp(1), everything());
    let mut whole = 0;
    while !run.done.load(SeqCst) {
        match reader.next(&run.sequencer, &mut senders) {
            Step::Frame(frame) => {
                let body = payload_of(run, &frame);
                let view = &run.pages.0[frame.sender.index()].0;
                if intact(view, frame.lane, frame.header.serial) {
                    let topic = frame.header.topic;
                    assert_eq!(body, pattern(topic, length(topic)), "a torn frame was taken for whole");
                    whole += 1;
                }
            }
            Step::Empty => run.pause(),
            // Its frame was reclaimed before its slot was refilled.
            Step::Violation(..) => {}
            Step::Overrun => reader.resume(Stamp(run.sequencer.find().unwrap().stamp)),
        }
    }
    whole
}

fn run(log2_slots: u32) {
    let geometry = Geometry::new(64, 1 << 16).unwrap();
    let (sequencer, regions, pages) = bus(log2_slots, 4, geometry);
    for id in [2, 3] {
        let own = &regions[usize::from(id)];
        for (i, word) in everything().0.into_iter().enumerate() {
            own.store(payload::BUCKETS + 8 * i as u64, word, Ordering::Relaxed);
        }
        store_cursor(own, 1);
        sequencer.members().set_reader(AttachmentId(id), 1, 100, 0);
        set_reader_state(&sequencer, id, ReaderState::Live);
    }
    let run = Run {
        sequencer,
        pages,
        until: Instant::now() + DEADLINE,
        published: AtomicU64::new(0),
        done: AtomicBool::new(false),
    };
    let (first, second, whole) = thread::scope(|scope| {
        let publishers = [0, 1].map(|id| {
            let (run, own) = (&run, regions[usize::from(id)].clone());
            scope.spawn(move || publisher(run, own, id))
        });
        let first = scope.spawn(|| counting_reader(&run, regions[2].clone(), 8));
        let second = scope.spawn(|| counting_reader(&run, regions[3].clone(), 13));
        let lossy = scope.spawn(|| lossy_reader(&run));
        for publisher in publishers {
            publisher.join().unwrap();
        }
        let seen = (first.join().unwrap(), second.join().unwrap());
        run.done.store(true, SeqCst);
        (seen.0, seen.1, lossy.join().unwrap())
    });
    assert!(first == second, "both see one order");
    for id in 0..2 {
        let of_one = first.iter().filter(|topic| *topic >> 32 == id);
        assert!(of_one.copied().eq((0..EACH).map(|n| id << 32 | n)), "nothing lost, nothing twice");
    }
    println!("2^{log2_slots} slots: {} messages, the lossy reader took {whole} for whole", first.len());
}

#[test]
fn two_publishers_and_two_readers_agree_on_the_order_in_a_ring_of_64() {
    run(6);
}

#[test]
fn two_publishers_and_two_readers_agree_on_the_order_in_a_ring_of_1024() {
    run(10);
}

/// Publishers that nobody holds back drive each other's walk for the tail by whole laps; none gives the order up.
#[test]
fn a_walk_that_others_overtake_finds_the_tail() {
    let geometry = Geometry::new(64, 1 << 16).unwrap();
    let (sequencer, regions, pages) = bus(6, 4, geometry);
    let publish = |id: u16| {
        let mut peers = pages.clone();
        let mut lane = Lane::new(regions[usize::from(id)].clone(), geometry, LaneKind::Data);
        for n in 0..EACH * 5 {
            let loan = lane.loan::<()>(&sequencer, &mut peers, 8).expect("nobody holds a frame");
            let message = Message { destinations: &[group()], topic: n, descriptors: 0, time: 0 };
            let frames = [(loan, Kind::Message, message, 8)];
            lane.publish::<()>(&sequencer, &mut peers, owner(id), &frames, |_| Ok(()))
                .unwrap_or_else(|e| panic!("{e:?} at message {n}"));
        }
    };
    thread::scope(|scope| {
        let publish = &publish;
        (0..4).for_each(|id| drop(scope.spawn(move || publish(id))));
    });
    assert_eq!(sequencer.find().unwrap().stamp, 4 * 5 * EACH + 1);
}
