//! A message there and an answer back: two processes, two attachments, two groups.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shm_bus::{Address, BusError, Envelope, Event, Publisher, Subscription, WaitStrategy};

use crate::crew::{self, patient};
use crate::options::{Options, Wait};
use crate::{Outcome, cpu};

/// The first byte of the message that ends a measurement.
const STOP: u8 = 0xFF;

/// Times up to 20 seconds, in nanoseconds, to three digits.
pub fn histogram() -> Histogram<u64> {
    let mut times = Histogram::new_with_bounds(1, 20_000_000_000, 3).expect("the bounds are right");
    times.auto(true);
    times
}

pub fn nanos(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

pub fn run(options: &Options) -> Outcome<Value> {
    let answers = crew::run(2, options, |place| {
        let bus = place.attach()?;
        let (mine, theirs) = [("pong", "ping"), ("ping", "pong")][place.index];
        let subscription = bus.subscribe(&[mine.to_owned()], false, patient())?;
        place.arena.meet(2, 1);
        let mut publisher = bus.publisher()?;
        let mut side = Side {
            subscription,
            to: publisher.resolve(theirs)?,
            publisher,
            bytes: vec![0; options.bytes],
            wait: options.wait,
        };
        let answer =
            if place.index == 0 { ask(&mut side, options) } else { side.answer_all().map(|()| Value::Null) };
        place.arena.meet(2, 2);
        answer
    })?;
    let mut line = answers.into_iter().next().unwrap_or_default();
    line["figure"] = "round-trip".into();
    line["wait"] = format!("{:?}", options.wait).to_lowercase().into();
    line["bytes"] = options.bytes.into();
    Ok(line)
}

fn ask(side: &mut Side, options: &Options) -> Outcome<Value> {
    let mut times = histogram();
    let (begun, mut used) = (Instant::now(), None);
    while begun.elapsed() < options.warm_up + options.measure || times.len() < 10 {
        let start = Instant::now();
        side.send()?;
        side.receive()?;
        if begun.elapsed() > options.warm_up {
            times.record(nanos(start))?;
            used.get_or_insert_with(cpu::seconds_used);
        }
        // Anything but the number that ends it.
        side.bytes[0] = (times.len() % 200) as u8;
    }
    let used = cpu::seconds_used() - used.unwrap_or_default();
    side.bytes[0] = STOP;
    side.send()?;
    side.receive()?;
    let at = |quantile| times.value_at_quantile(quantile);
    Ok(json!({
        "ns": at(0.5),
        "ns99": at(0.99),
        "ns999": at(0.999),
        "trips": times.len(),
        // Both sides do the same; a trip is two messages.
        "cpuMicrosPerMessage": used * 1e6 / times.len() as f64,
        "lost": 0,
    }))
}

/// One side's two ends.
struct Side {
    subscription: Subscription,
    publisher: Publisher,
    to: Address,
    bytes: Vec<u8>,
    wait: Wait,
}

impl Side {
    fn send(&mut self) -> Outcome<()> {
        loop {
            match self.publisher.publish(&[self.to], &self.bytes, Envelope::default()) {
                Ok(_) => return Ok(()),
                Err(BusError::WouldBlock { .. }) => spin_loop(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes one message's bytes over.
    fn receive(&mut self) -> Outcome<()> {
        let Side { subscription, bytes, wait, .. } = self;
        let mut came = false;
        while !came {
            match wait {
                Wait::Poll => {
                    while !subscription.is_ready() {
                        spin_loop();
                    }
                }
                Wait::Spin => {
                    subscription.wait(WaitStrategy::Spin, Duration::from_secs(1))?;
                }
                Wait::Park => {
                    subscription.wait(WaitStrategy::Park, Duration::from_secs(1))?;
                }
            }
            subscription.poll(1, |event| {
                if let Event::Message(message) = event {
                    message.memory.view().copy_out(message.offset, bytes);
                    came = true;
                }
            })?;
        }
        Ok(())
    }

    fn answer_all(&mut self) -> Outcome<()> {
        while {
            self.receive()?;
            self.send()?;
            self.bytes[0] != STOP
        } {}
        Ok(())
    }
}
