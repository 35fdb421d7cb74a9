//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use crate::Outcome;

pub const HELP: &str = "\
Usage: shm-bus-bench COMMAND [OPTIONS]

Floors, each with two processes:
  cache-line            one word to the other processor and back, both spinning
  fetch-add             fetch_add on one word, both at once
  futex-wake            a wake to the other process and back, both asleep meanwhile

Figures of the Rust core:
  round-trip            64 bytes there and back (--wait)
  throughput            messages a second (--publishers, --readers, --batch)
  overload              what a stopped reader costs a publisher at 10 kHz (--policy)
  core                  the core's paths on ordinary memory, for simulators (--messages)
  single                one process publishes and reads by turns, for profilers (--messages)

Helpers of the driver:
  cpus                  the processors that pinned processes get
  pinned I/N PROGRAM .. runs a program on the I-th of N of them

Options:
  --ms N                how long to measure (default 200)
  --warm-up-ms N        how long to run before (default 50)
  --wait poll|spin|park how a reader of round-trip waits (default poll)
  --publishers N        (default 1)
  --readers N           (default 1)
  --batch N             messages in each publish (default 1)
  --bytes N             bytes of a message, at least 8 (default 64)
  --policy none|block|pinned|lossy|evict
                        of the stopped reader of overload (default block)
  --messages N          of single (default 1000000)
";

/// What to do.
#[derive(Debug)]
pub enum Command {
    Help,
    Cpus,
    Pinned { place: usize, of: usize, program: Vec<OsString> },
    CacheLine,
    FetchAdd,
    FutexWake,
    RoundTrip,
    Throughput,
    Overload,
    Core,
    Single,
}

/// Overload policy of the reader that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nobody is.
    None,
    Block,
    Pinned,
    Lossy,
    Evict,
}

/// How a reader that finds nothing waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Looks again and again by itself.
    Poll,
    /// The library's own spinning.
    Spin,
    /// Asleep at once.
    Park,
}

/// How to do it.
#[derive(Clone, Debug)]
pub struct Options {
    pub measure: Duration,
    pub warm_up: Duration,
    pub wait: Wait,
    pub publishers: usize,
    pub readers: usize,
    pub batch: usize,
    pub bytes: usize,
    pub messages: u64,
    pub policy: Policy,
    /// Set in the processes that a measurement starts: which one this is, and where the bus is.
    pub member: Option<Member>,
}

/// Which process of a measurement this is.
#[derive(Clone, Debug)]
pub struct Member {
    pub index: usize,
    pub directory: PathBuf,
}

pub fn parse() -> Outcome<(Command, Options)> {
    let mut options = Options {
        measure: Duration::from_millis(200),
        warm_up: Duration::from_millis(50),
        wait: Wait::Poll,
        publishers: 1,
        readers: 1,
        batch: 1,
        bytes: 64,
        messages: 1_000_000,
        policy: Policy::Block,
        member: None,
    };
    let (mut command, mut index, mut directory) = (None, None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) if command.is_none() => {
                let name = name.string()?;
                if name == "pinned" {
                    return Ok((pinned(&mut parser)?, options));
                }
                command = Some(match name.as_str() {
                    "cpus" => Command::Cpus,
                    "cache-line" => Command::CacheLine,
                    "fetch-add" => Command::FetchAdd,
                    "futex-wake" => Command::FutexWake,
                    "round-trip" => Command::RoundTrip,
                    "throughput" => Command::Throughput,
                    "overload" => Command::Overload,
                    "core" => Command::Core,
                    "single" => Command::Single,
                    _ => return Err(format!("there is no command {name:?}; see --help").into()),
                });
            }
            Short('h') | Long("help") => command = Some(Command::Help),
            Long("ms") => options.measure = Duration::from_millis(parser.value()?.parse()?),
            Long("warm-up-ms") => options.warm_up = Duration::from_millis(parser.value()?.parse()?),
            Long("wait") => {
                options.wait = match parser.value()?.string()?.as_str() {
                    "poll" => Wait::Poll,
                    "spin" => Wait::Spin,
                    "park" => Wait::Park,
                    other => return Err(format!("--wait is poll, spin or park, not {other:?}").into()),
                }
            }
            Long("publishers") => options.publishers = count(&mut parser, "publishers", 1, 64)?,
            Long("readers") => options.readers = count(&mut parser, "readers", 1, 64)?,
            Long("batch") => options.batch = count(&mut parser, "batch", 1, shm_bus::MAX_BATCH)?,
            Long("bytes") => options.bytes = count(&mut parser, "bytes", 8, 1 << 20)?,
            Long("policy") => {
                options.policy = match parser.value()?.string()?.as_str() {
                    "none" => Policy::None,
                    "block" => Policy::Block,
                    "pinned" => Policy::Pinned,
                    "lossy" => Policy::Lossy,
                    "evict" => Policy::Evict,
                    other => return Err(format!("there is no policy {other:?}; see --help").into()),
                }
            }
            Long("messages") => options.messages = parser.value()?.parse()?,
            Long("member") => index = Some(parser.value()?.parse()?),
            Long("directory") => directory = Some(PathBuf::from(parser.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    options.member = index.zip(directory).map(|(index, directory)| Member { index, directory });
    Ok((command.ok_or("no command; see --help")?, options))
}

fn count(parser: &mut lexopt::Parser, name: &str, min: usize, max: usize) -> Outcome<usize> {
    let number: usize = parser.value()?.parse()?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("--{name} is a number from {min} to {max}, not {number}").into())
    }
}

fn pinned(parser: &mut lexopt::Parser) -> Outcome<Command> {
    let place = parser.value()?.string()?;
    let numbers = place.split_once('/').and_then(|(place, of)| Some((place.parse().ok()?, of.parse().ok()?)));
    let (place, of) = numbers.ok_or("pinned takes a place such as 0/2")?;
    let program: Vec<OsString> = parser.raw_args()?.collect();
    if program.is_empty() {
        return Err("pinned takes a program".into());
    }
    Ok(Command::Pinned { place, of, program })
}
