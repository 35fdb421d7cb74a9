//! One process that publishes and reads by turns: for profilers. Two functions that are never inlined hold the two
//! paths apart: count what happens inside of each and divide by the messages.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shm_bus::{Address, Envelope, Event, Publisher, Subscription};

use crate::Outcome;
use crate::crew::{Scratch, patient};
use crate::options::Options;

/// Messages of one turn.
const TURN: u64 = 256;

pub fn run(options: &Options) -> Outcome<Value> {
    let scratch = Scratch::new()?;
    let bus = scratch.alone()?.attach()?;
    let mut subscription = bus.subscribe(&["bench".to_owned()], false, patient())?;
    let mut publisher = bus.publisher()?;
    let to = publisher.resolve("bench")?;
    let bytes = vec![7; options.bytes];
    let (mut publishing, mut reading) = (Duration::ZERO, Duration::ZERO);
    let (mut published, mut read, mut sum) = (0, 0, 0);
    while published < options.messages {
        let start = Instant::now();
        if options.batch > 1 {
            publish_batch(&mut publisher, to, &bytes)?;
        } else {
            publish_turn(&mut publisher, to, &bytes)?;
        }
        published += TURN;
        let middle = Instant::now();
        while read < published {
            read += read_turn(&mut subscription, &mut sum)?;
        }
        publishing += middle - start;
        reading += middle.elapsed();
    }
    let start = Instant::now();
    for _ in 0..published {
        read_nothing(&mut subscription)?;
    }
    let per = |time: Duration| time.as_secs_f64() * 1e9 / published as f64;
    Ok(json!({
        "figure": "single",
        "messages": published,
        "nsPerPublish": per(publishing),
        "nsPerReceive": per(reading),
        "nsPerEmptyPoll": per(start.elapsed()),
        "sum": sum,
    }))
}

#[inline(never)]
fn publish_turn(publisher: &mut Publisher, to: Address, bytes: &[u8]) -> shm_bus::Result<()> {
    for _ in 0..TURN {
        publisher.publish(&[to], bytes, Envelope::default())?;
    }
    Ok(())
}

#[inline(never)]
fn publish_batch(publisher: &mut Publisher, to: Address, bytes: &[u8]) -> shm_bus::Result<()> {
    publisher.begin_batch()?;
    publish_turn(publisher, to, bytes)?;
    publisher.end_batch().map(drop)
}

#[inline(never)]
fn read_turn(subscription: &mut Subscription, sum: &mut u64) -> shm_bus::Result<u64> {
    let count = subscription.poll(TURN as usize, |event| {
        if let Event::Message(message) = event {
            let mut head = [0; 8];
            message.memory.view().copy_out(message.offset, &mut head);
            *sum = sum.wrapping_add(u64::from_le_bytes(head));
        }
    })?;
    Ok(count as u64)
}

#[inline(never)]
fn read_nothing(subscription: &mut Subscription) -> shm_bus::Result<usize> {
    subscription.poll(1, |_| {})
}
