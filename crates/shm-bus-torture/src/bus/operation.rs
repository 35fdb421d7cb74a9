//! What a stepped attachment does.

use shm_bus::{Address, AttachOptions, Bus, BusError, Envelope, Subscription};

use super::Op;
use super::leftovers::NAME;
use super::member::{HASTY, subscribe, take};
use crate::report::{Ended, Report, Seen};
use crate::ring::message::{body, topic};
use crate::trace::process::{HANG, until};
use crate::trace::tracee::{begin, end};

/// Who sends: in the topics, and in the report.
pub const VICTIM: usize = 0;
pub const FIRST: usize = 1;
pub const SECOND: usize = 2;
/// Parts of the report by which the processes of a case wait for each other: the stepped one is ready; so are the
/// others; they are there at all.
pub const READY: usize = 1;
pub const PREPARED: usize = 2;
pub const PRESENT: usize = 3;

/// The events that the stepped process publishes: their topics.
pub fn planned(op: Op) -> Vec<Vec<u64>> {
    let number = |n, length| topic(VICTIM, length, n);
    match op {
        Op::Publish | Op::Evict => vec![vec![number(1, 64)]],
        Op::PublishRing => vec![vec![number(1, 4096)]],
        Op::Loan => vec![vec![number(1, 100)]],
        Op::Batch => vec![vec![number(1, 64), number(2, 300), number(3, 20)]],
        Op::Transaction => vec![vec![number(1, 200)]],
        _ => Vec::new(),
    }
}

/// What `Op::Poll` finds in front of it.
pub const WAITING: usize = 6;

/// The stepped process. It tells the others by the report when it is ready, which is also where its operation begins.
pub fn act(op: Op, options: &AttachOptions, report: &Report) {
    let mut bus = None;
    let mut subscription = None;
    let mut publisher = None;
    if op != Op::Attach {
        let attached = Bus::attach(NAME, options).expect("attach");
        if op.reads() || matches!(op, Op::Unsubscribe | Op::Close) {
            subscription = Some(subscribe(&attached, &["g", "h"], HASTY).expect("subscribe"));
        }
        publisher = Some(attached.publisher().expect("publisher"));
        bus = Some(attached);
    }
    let word = bus.as_ref().map(|bus| {
        let page = bus.order_page().expect("page");
        shm_bus_os::Word::new(page, shm_bus_ring::layout::sequencer::HINT as usize).expect("word")
    });
    let topics = planned(op);
    let bodies: Vec<Vec<u8>> = topics.iter().flatten().map(|topic| body(*topic)).collect();
    let topics: Vec<u64> = topics.into_iter().flatten().collect();
    let mut ended = Vec::new();
    let mut seen = Vec::new();
    if op.reads() || op.publishes() {
        // Ready: whoever reads waits for the others to publish, whoever publishes for them to fill the order.
        report.say(READY, &[], &[]);
        until("the others are done", || report.heard(PREPARED).is_some()).expect("ready");
    }
    let envelope = |topic| Envelope { topic };
    let (g, h) = match &mut publisher {
        Some(publisher) if op.publishes() => {
            (publisher.resolve("g").expect("g"), publisher.resolve("h").expect("h"))
        }
        _ => (Address::EVERYONE, Address::EVERYONE),
    };
    let hear = |stamp: Result<shm_bus::Stamp, BusError>| match stamp {
        Ok(stamp) => Ended::Published(stamp.0),
        Err(BusError::WouldBlock { .. }) => Ended::Full,
        Err(BusError::Closed) => Ended::Detached,
        Err(error) => {
            eprintln!("{error}");
            Ended::Broken
        }
    };
    begin();
    match (op, &mut publisher, &mut subscription) {
        (Op::Publish | Op::PublishRing, Some(publisher), _) => {
            ended.push(hear(publisher.publish(&[g], &bodies[0], envelope(topics[0]))));
        }
        (Op::Transaction, Some(publisher), _) => {
            ended.push(hear(publisher.publish(&[g, h], &bodies[0], envelope(topics[0]))));
        }
        (Op::Loan, Some(publisher), _) => {
            let loan = publisher.loan(&[g], 100);
            let published = loan.and_then(|loan| {
                let region = bus.as_ref().expect("attached").own_mapping().region()?;
                region.copy_in(loan.offset(), &bodies[0]);
                publisher.publish_loan(loan, 100, envelope(topics[0]))
            });
            ended.push(hear(published));
        }
        (Op::Batch, Some(publisher), _) => {
            let published = publisher.begin_batch().and_then(|()| {
                for (bytes, topic) in bodies.iter().zip(&topics) {
                    publisher.publish(&[g], bytes, envelope(*topic))?;
                }
                publisher.end_batch()
            });
            ended.push(hear(published.map(|stamp| stamp.expect("not empty"))));
        }
        (Op::Evict, Some(publisher), _) => loop {
            let said = hear(publisher.publish(&[g], &bodies[0], envelope(topics[0])));
            if said != Ended::Full {
                ended.push(said);
                break;
            }
        },
        (Op::Poll, _, Some(subscription)) => ended.push(read(subscription, &mut seen)),
        (Op::Wait, _, Some(subscription)) => {
            let word = word.as_ref().expect("the page of the order");
            let bus = bus.as_ref().expect("attached");
            // As `Subscription::wait`, without its time limit: under the tracer a look takes longer than that.
            while !subscription.advance_to_ready() {
                let buckets = *subscription.buckets();
                let hint = bus.fall_asleep(&buckets);
                if !subscription.advance_to_ready() {
                    word.wait(hint, buckets.futex_bits(), None).expect("futex");
                }
                bus.wake_up(&buckets);
            }
            ended.push(read(subscription, &mut seen));
        }
        (Op::Subscribe, ..) => {
            subscription = Some(subscribe(bus.as_ref().expect("attached"), &["g", "h"], HASTY).expect("join"))
        }
        (Op::Unsubscribe, _, Some(subscription)) => subscription.close(HANG).expect("leave"),
        (Op::Attach, ..) => bus = Some(Bus::attach(NAME, options).expect("attach")),
        (Op::Close, ..) => bus.as_ref().expect("attached").close(),
        _ => {}
    }
    end();
    report.say(VICTIM, &ended, &seen);
    drop((publisher, subscription));
    drop(bus);
}

fn read(subscription: &mut Subscription, seen: &mut Vec<Seen>) -> Ended {
    match take(subscription, seen) {
        Ok(_) => Ended::Done,
        Err(BusError::Evicted { stamp }) => {
            seen.retain(|s| s.stamp < stamp);
            Ended::Evicted
        }
        Err(BusError::Closed) => Ended::Detached,
        Err(error) => {
            eprintln!("{error}");
            Ended::Broken
        }
    }
}
