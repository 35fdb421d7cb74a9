//! What this machine can do at best, with as little code as possible: the floors that figures stand on.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shm_bus_os::futex;

use crate::Outcome;
use crate::crew::{self, Place};
use crate::options::Options;
use crate::round_trip::{histogram, nanos};

const PING: u64 = 1;
const PONG: u64 = 2;
const STOP: u64 = u32::MAX as u64;
/// Operations between two looks at the clock.
const CHUNK: u64 = 100;

/// The time from a line's change here to the answer in another line, both processes spinning: nanoseconds, by chunks,
/// so that the clock is no part of it.
pub fn cache_line(options: &Options) -> Outcome<Value> {
    let answers = crew::run(2, options, |place| {
        let arena = &place.arena;
        arena.meet(2, 1);
        if place.index == 1 {
            let mut seen = 0;
            while seen != STOP {
                seen = differs(|| arena.load(PING), seen);
                arena.store(PONG, seen);
            }
            return Ok(Value::Null);
        }
        let mut trip = 0;
        let times = chunks(options, || {
            for _ in 0..CHUNK {
                trip += 1;
                arena.store(PING, trip);
                differs(|| arena.load(PONG), trip - 1);
            }
            Some(CHUNK)
        })?;
        arena.store(PING, STOP);
        Ok(summary(&times))
    })?;
    Ok(titled("cache-line", &answers[0]))
}

/// What one `fetch_add` takes a process while another does nothing else to the same word: nanoseconds. Chunks in which
/// the other did not get a fair share, because it was not running, do not count.
pub fn fetch_add(options: &Options) -> Outcome<Value> {
    let answers = crew::run(2, options, |place| {
        place.arena.meet(2, 1);
        let times = chunks(options, || {
            let first = place.arena.add(PING);
            for _ in 2..CHUNK {
                place.arena.add(PING);
            }
            let all = place.arena.add(PING) - first;
            (all > CHUNK * 3 / 2).then_some(CHUNK)
        })?;
        Ok(summary(&times))
    })?;
    Ok(titled("fetch-add", &answers[0]))
}

/// The time from a futex wake to the answer, both processes asleep until they are woken: nanoseconds.
pub fn futex_wake(options: &Options) -> Outcome<Value> {
    let answers = crew::run(2, options, |place| {
        place.arena.meet(2, 1);
        if place.index == 1 {
            answer_wakes(place)?;
            return Ok(Value::Null);
        }
        let (arena, ping, pong) = (&place.arena, place.arena.futex(PING)?, place.arena.futex(PONG)?);
        let mut times = histogram();
        let (begun, mut trip) = (Instant::now(), 0);
        while begun.elapsed() < options.warm_up + options.measure || times.len() < 10 {
            trip += 1;
            let start = Instant::now();
            arena.store(PING, trip);
            ping.wake(1, futex::ANY)?;
            asleep_until_differs(&pong, trip - 1)?;
            if begun.elapsed() > options.warm_up {
                times.record(1000 * nanos(start))?;
            }
        }
        arena.store(PING, STOP);
        ping.wake(1, futex::ANY)?;
        Ok(summary(&times))
    })?;
    Ok(titled("futex-wake", &answers[0]))
}

fn answer_wakes(place: &Place) -> Outcome<()> {
    let (ping, pong) = (place.arena.futex(PING)?, place.arena.futex(PONG)?);
    let mut seen = 0;
    while seen != STOP {
        seen = asleep_until_differs(&ping, seen)?;
        place.arena.store(PONG, seen);
        pong.wake(1, futex::ANY)?;
    }
    Ok(())
}

fn asleep_until_differs(word: &shm_bus_os::Word, seen: u64) -> Outcome<u64> {
    loop {
        let value = u64::from(word.load());
        if value != seen {
            return Ok(value);
        }
        word.wait(seen as u32, futex::ANY, Some(Duration::from_secs(1)))?;
    }
}

#[inline(always)]
fn differs(load: impl Fn() -> u64, seen: u64) -> u64 {
    loop {
        let value = load();
        if value != seen {
            return value;
        }
        spin_loop();
    }
}

/// Times of one operation in picoseconds, a chunk each. `chunk` says how many operations it was.
fn chunks(options: &Options, mut chunk: impl FnMut() -> Option<u64>) -> Outcome<Histogram<u64>> {
    let mut times = histogram();
    let begun = Instant::now();
    let end = options.warm_up + options.measure;
    while begun.elapsed() < end || times.is_empty() && begun.elapsed() < 10 * end {
        let start = Instant::now();
        if let Some(operations) = chunk()
            && begun.elapsed() > options.warm_up
        {
            times.record(nanos(start) * 1000 / operations)?;
        }
    }
    Ok(times)
}

/// The median and the slow end, in nanoseconds an operation.
fn summary(picoseconds: &Histogram<u64>) -> Value {
    let at = |quantile| picoseconds.value_at_quantile(quantile) as f64 / 1000.0;
    json!({ "ns": at(0.5), "ns99": at(0.99), "samples": picoseconds.len() })
}

fn titled(name: &str, answer: &Value) -> Value {
    let mut line = answer.clone();
    line["floor"] = name.into();
    line
}
