//! Messages a second, some processes publishing to one group and some reading it.
//!
//! A message carries its publisher's number and its own, so that every reader knows of each one that it should have
//! seen. Rates are those of the readers, between the end of the warm-up and the first publisher's last message: the
//! buffers are as full at the beginning of that time as at its end.

use std::hint::spin_loop;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shm_bus::{Address, BusError, Envelope, Event, Publisher};

use crate::crew::{self, Place, patient};
use crate::options::Options;
use crate::{Outcome, cpu};

const GROUP: &str = "bench";
/// Messages of one poll.
const POLL: usize = 256;
/// Messages between two looks at the publisher's clock, about.
const LOOK: usize = 64;

pub fn run(options: &Options) -> Outcome<Value> {
    let size = options.publishers + options.readers;
    // Where processes outnumber processors, whoever has nothing to do lets the others run.
    let crowded = !cpu::suffice(size)?;
    let answers = crew::run(size, options, |place| {
        if place.index < options.publishers {
            publish(place, options, crowded)
        } else {
            read(place, options, crowded)
        }
    })?;
    let (publishers, readers) = answers.split_at(options.publishers);
    let sum = |answers: &[Value], key: &str| answers.iter().filter_map(|a| a[key].as_f64()).sum::<f64>();
    let rate = sum(readers, "perSecond") / options.readers as f64;
    let published: u64 = publishers.iter().filter_map(|a| a["published"].as_u64()).sum();
    Ok(json!({
        "figure": "throughput",
        "publishers": options.publishers,
        "readers": options.readers,
        "batch": options.batch,
        "bytes": options.bytes,
        "crowded": crowded,
        "messagesPerSecond": rate,
        "cpuMicrosPerMessage": sum(&answers, "cores") / rate * 1e6,
        "published": published,
        "delivered": readers.iter().map(|a| a["delivered"].clone()).collect::<Vec<_>>(),
        "lost": (published * options.readers as u64).abs_diff(sum(readers, "delivered") as u64),
        "wrong": sum(readers, "wrong") as u64,
        "wouldBlock": sum(publishers, "wouldBlock") as u64,
    }))
}

/// Processors in use since a moment.
struct Usage(Instant, f64);

impl Usage {
    fn now() -> Self {
        Usage(Instant::now(), cpu::seconds_used())
    }

    fn cores(&self) -> f64 {
        (cpu::seconds_used() - self.1) / self.0.elapsed().as_secs_f64().max(1e-9)
    }
}

struct Output {
    publisher: Publisher,
    to: Address,
    bytes: Vec<u8>,
    next: u32,
    crowded: bool,
    would_block: u64,
}

impl Output {
    /// Publishes until there is room.
    fn publish(&mut self, batch: usize) -> Outcome<()> {
        loop {
            let done = match batch {
                1 => self.write(0),
                _ => self.write_batch(batch),
            };
            match done {
                Ok(()) => {
                    self.next = self.next.wrapping_add(batch as u32);
                    return Ok(());
                }
                Err(BusError::WouldBlock { .. }) => self.pause()?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&mut self, ahead: u32) -> shm_bus::Result<()> {
        self.bytes[..4].copy_from_slice(&self.next.wrapping_add(ahead).to_le_bytes());
        self.publisher.publish(&[self.to], &self.bytes, Envelope::default()).map(drop)
    }

    fn write_batch(&mut self, batch: usize) -> shm_bus::Result<()> {
        self.publisher.begin_batch()?;
        for ahead in 0..batch as u32 {
            if let Err(error) = self.write(ahead) {
                self.publisher.abandon_batch();
                return Err(error);
            }
        }
        self.publisher.end_batch().map(drop)
    }

    fn pause(&mut self) -> Outcome<()> {
        self.would_block += 1;
        if self.crowded {
            self.publisher.wait_writable(Duration::from_millis(10))?;
        } else {
            for _ in 0..256 {
                spin_loop();
            }
        }
        Ok(())
    }
}

fn publish(place: &Place, options: &Options, crowded: bool) -> Outcome<Value> {
    let bus = place.attach()?;
    place.arena.meet(place.size, 1);
    let mut publisher = bus.publisher()?;
    let to = publisher.resolve(GROUP)?;
    let mut bytes = vec![0; options.bytes];
    bytes[4] = place.index as u8;
    let mut output = Output { publisher, to, bytes, next: 0, crowded, would_block: 0 };
    let (begun, mut usage) = (Instant::now(), None);
    loop {
        for _ in 0..LOOK.div_ceil(options.batch) {
            output.publish(options.batch)?;
        }
        let elapsed = begun.elapsed();
        if elapsed > options.warm_up && usage.is_none() {
            usage = Some(Usage::now());
        }
        if elapsed > options.warm_up + options.measure {
            break;
        }
    }
    let cores = usage.map_or(0.0, |usage| usage.cores());
    let published = output.next;
    output.bytes[5] = 1;
    output.publish(1)?;
    // The one that founded the bus stays until everybody has read everything.
    place.arena.meet(place.size, 2);
    Ok(json!({ "published": published, "cores": cores, "wouldBlock": output.would_block }))
}

/// What a reader has seen.
#[derive(Default)]
struct Seen {
    delivered: u64,
    /// Messages that were not the next of their publisher.
    wrong: u64,
    next: Vec<u32>,
    ended: usize,
}

impl Seen {
    #[inline(always)]
    fn look(&mut self, head: [u8; 8]) {
        let number = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let next = &mut self.next[usize::from(head[4])];
        self.wrong += u64::from(*next != number);
        *next = number.wrapping_add(1);
        if head[5] == 0 {
            self.delivered += 1;
        } else {
            self.ended += 1;
        }
    }
}

fn read(place: &Place, options: &Options, crowded: bool) -> Outcome<Value> {
    let bus = place.attach()?;
    let mut subscription = bus.subscribe(&[GROUP.to_owned()], false, patient())?;
    place.arena.meet(place.size, 1);
    let mut seen = Seen { next: vec![0; options.publishers], ..Seen::default() };
    let mut begun = None;
    let mut window: Option<(Usage, u64)> = None;
    let mut rate = None;
    while seen.ended < options.publishers {
        let count = subscription.poll(POLL, |event| {
            if let Event::Message(message) = event {
                let mut head = [0; 8];
                message.memory.view().copy_out(message.offset, &mut head);
                seen.look(head);
            }
        })?;
        if count == 0 {
            if crowded {
                yield_now();
            } else {
                spin_loop();
            }
            continue;
        }
        let begun = *begun.get_or_insert_with(Instant::now);
        match &window {
            None if begun.elapsed() > options.warm_up => window = Some((Usage::now(), seen.delivered)),
            Some((usage, before)) if seen.ended > 0 && rate.is_none() => {
                let seconds = usage.0.elapsed().as_secs_f64();
                rate = Some(((seen.delivered - before) as f64 / seconds, usage.cores()));
            }
            _ => {}
        }
    }
    // A measurement too short for a warm-up counts as a whole.
    let (rate, cores) = rate.unwrap_or_else(|| {
        let seconds = begun.map_or(1.0, |b| b.elapsed().as_secs_f64());
        (seen.delivered as f64 / seconds, 1.0)
    });
    place.arena.meet(place.size, 2);
    Ok(json!({
        "delivered": seen.delivered,
        "wrong": seen.wrong,
        "perSecond": rate,
        "cores": cores,
    }))
}
