//! What a stopped reader costs a publisher under each overload policy: one process publishes at a steady rate, one
//! reads, one has subscribed with the policy and is stopped by SIGSTOP until the measurement ends.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};
use serde_json::{Value, json};
use shm_bus::{BusError, Envelope, MAX_DEADLINE, Overload, SubscribeOptions, WaitStrategy};

use crate::Outcome;
use crate::crew::{self, Place};
use crate::options::{Options, Policy};
use crate::round_trip::{histogram, nanos};

/// Between two messages: 10 kHz.
const PERIOD: Duration = Duration::from_micros(100);
/// Words of the arena: the stopped reader's process, and whether all is over.
const READER: u64 = 8;
const OVER: u64 = 9;

const PUBLISHER: usize = 0;
const STOPPED: usize = 2;

impl Policy {
    fn overload(self) -> Option<Overload> {
        Some(match self {
            Policy::None => return None,
            Policy::Block => Overload::Block { deadline: Duration::from_millis(100) },
            Policy::Pinned => Overload::Pinned,
            Policy::Lossy => Overload::Lossy,
            Policy::Evict => Overload::Evict { max_lag: None },
        })
    }
}

pub fn run(options: &Options) -> Outcome<Value> {
    let answers = crew::run(3, options, |place| match place.index {
        PUBLISHER => publish(place, options),
        STOPPED => stop(place, options),
        _ => read(place),
    })?;
    let mut line = answers.into_iter().next().unwrap_or_default();
    line["figure"] = "overload".into();
    line["policy"] = format!("{:?}", options.policy).to_lowercase().into();
    line["stoppedMs"] = (options.measure.as_millis() as u64).into();
    Ok(line)
}

fn publish(place: &Place, options: &Options) -> Outcome<Value> {
    let bus = place.attach()?;
    bus.create_group("bench", MAX_DEADLINE)?;
    place.arena.meet(place.size, 1);
    let mut publisher = bus.publisher()?;
    let to = publisher.resolve("bench")?;
    let reader = Pid::from_raw(place.arena.load(READER) as i32);
    let (mut times, mut would_block, mut continued) = (histogram(), 0u64, reader.is_none());
    let begun = Instant::now();
    let mut due = begun;
    while begun.elapsed() < options.measure || !continued {
        if !continued && begun.elapsed() >= options.measure {
            kill_process(reader.expect("it was looked at"), Signal::CONT)?;
            continued = true;
        }
        let start = Instant::now();
        match publisher.publish(&[to], &[7; 64], Envelope::default()) {
            Ok(_) => {}
            Err(BusError::WouldBlock { .. }) => {
                would_block += 1;
                // Until there is room, or until the reader has to be continued.
                while !publisher.wait_writable(Duration::from_millis(50))? {
                    if !continued && begun.elapsed() >= options.measure {
                        kill_process(reader.expect("it was looked at"), Signal::CONT)?;
                        continued = true;
                    }
                }
                publisher.publish(&[to], &[7; 64], Envelope::default())?;
            }
            Err(error) => return Err(error.into()),
        }
        times.record(nanos(start))?;
        due += PERIOD;
        // What was missed while it waited is not made up for.
        due = due.max(start);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    place.arena.store(OVER, 1);
    place.arena.meet(place.size, 2);
    let at = |quantile| times.value_at_quantile(quantile);
    Ok(json!({
        "messages": times.len(), "wouldBlock": would_block,
        "ns": at(0.5), "ns99": at(0.99), "ns999": at(0.999), "nsMax": times.max(),
    }))
}

/// The reader that keeps up.
fn read(place: &Place) -> Outcome<Value> {
    let bus = place.attach()?;
    let patient = SubscribeOptions {
        overload: Some(Overload::Block { deadline: MAX_DEADLINE }),
        ..SubscribeOptions::default()
    };
    let mut subscription = bus.subscribe(&["bench".to_owned()], false, patient)?;
    place.arena.meet(place.size, 1);
    while place.arena.load(OVER) == 0 {
        subscription.wait(WaitStrategy::Park, Duration::from_millis(20))?;
        subscription.poll(256, |_| {})?;
    }
    place.arena.meet(place.size, 2);
    Ok(Value::Null)
}

/// The reader that is stopped: it reads what it can after that, and may have lost its place.
fn stop(place: &Place, options: &Options) -> Outcome<Value> {
    let bus = place.attach()?;
    let Some(overload) = options.policy.overload() else {
        place.arena.meet(place.size, 1);
        place.arena.meet(place.size, 2);
        return Ok(Value::Null);
    };
    let chosen = SubscribeOptions { overload: Some(overload), ..SubscribeOptions::default() };
    let mut subscription = bus.subscribe(&["bench".to_owned()], false, chosen)?;
    place.arena.store(READER, getpid().as_raw_nonzero().get() as u64);
    place.arena.meet(place.size, 1);
    kill_process(getpid(), Signal::STOP)?;
    while place.arena.load(OVER) == 0 {
        subscription.wait(WaitStrategy::Park, Duration::from_millis(20))?;
        if matches!(subscription.poll(256, |_| {}), Err(BusError::Evicted { .. })) {
            break;
        }
    }
    place.arena.meet(place.size, 2);
    Ok(Value::Null)
}
