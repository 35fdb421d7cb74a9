//! A worker: the cases that fall to one process, one after the other, each in a child of its own.

use std::io::{PipeWriter, Write};

use crate::Outcome;
use crate::bus;
use crate::memory;
use crate::options::Options;
use crate::report::Report;
use crate::ring::{self, Mode, Op, Pair, STARTS};
use crate::tracee::{self, Trace};
use crate::world::World;

/// Room for the addresses of a whole bus's operation.
const TRACE_BYTES: u64 = 16 << 20;
/// Moments at which a master is killed.
const MASTER_MOMENTS: usize = 500;

/// A line of the table.
#[derive(Clone, Copy)]
pub enum Unit {
    Ring(Op),
    Pair(Pair),
    Bus(bus::Op),
}

/// Everything that can be run, by name.
pub fn units() -> Vec<(&'static str, Unit)> {
    let ring = Op::ALL.iter().map(|(name, op)| (*name, Unit::Ring(*op)));
    let pairs = Pair::ALL.iter().map(|(name, pair)| (*name, Unit::Pair(*pair)));
    let bus = bus::Op::ALL.iter().map(|(name, op)| (*name, Unit::Bus(*op)));
    ring.chain(pairs).chain(bus).collect()
}

/// What a worker says, a line each: the kind, the number of the unit, the rest; tabs between.
pub struct Worker<'a> {
    pub options: &'a Options,
    pub index: usize,
    pub output: PipeWriter,
    pub next: usize,
}

impl Worker<'_> {
    fn say(&mut self, kind: &str, unit: usize, rest: &str) {
        let _ = writeln!(self.output, "{kind}\t{unit}\t{}", rest.replace(['\n', '\t'], " "));
    }

    /// Whether the next case is this worker's.
    fn mine(&mut self) -> bool {
        self.next += 1;
        self.next % self.options.workers == self.index
    }

    fn wants(&self, start: &str, mode: Option<Mode>) -> bool {
        self.options.start.as_ref().is_none_or(|s| s == start)
            && (mode.is_none() || self.options.mode.is_none() || self.options.mode == mode)
    }

    /// All cases of the given units.
    pub fn run(&mut self, units: &[(usize, &'static str, Unit)]) {
        for (number, name, unit) in units {
            let done = match unit {
                Unit::Ring(op) => self.ring(*number, name, *op),
                Unit::Pair(pair) => self.pair(*number, name, *pair),
                Unit::Bus(op) => self.bus(*number, name, *op),
            };
            if let Err(why) = done {
                self.say("fail", *number, &format!("--only {name}: the rig: {why}"));
            }
        }
    }

    /// Runs one case in a child, and says how it went.
    fn case(
        &mut self,
        unit: usize,
        kind: &str,
        name: &str,
        report: &Report,
        work: impl FnOnce() -> Outcome<String>,
    ) {
        let ended = tracee::spawn(|| match work() {
            Ok(note) => report.write(true, &note),
            Err(why) => report.write(false, &why),
        })
        .map_err(|e| format!("fork: {e}"))
        .and_then(|pid| {
            let ended = tracee::reap(pid, "the case");
            bus::clear_away(pid);
            ended
        });
        let outcome = match (report.read(), ended) {
            (Some(outcome), Ok(())) => outcome,
            (Some(Err(why)), Err(_)) | (_, Err(why)) => Err(why),
            (None, Ok(())) => Err("the case said nothing".to_owned()),
        };
        match outcome {
            Ok(note) => {
                self.say(kind, unit, "");
                if !note.is_empty() {
                    self.say("note", unit, &note);
                }
            }
            Err(why) => self.say("fail", unit, &format!("{name}: {why}")),
        }
    }

    fn ring(&mut self, unit: usize, name: &str, op: Op) -> Outcome<()> {
        for (start, stamp) in STARTS {
            if !self.wants(start, None) {
                continue;
            }
            let mut world = World::new(stamp, self.options.mutation)?;
            ring::stage(&mut world, op)?;
            let trace = ring::trace_of(&mut world, op)?;
            self.say("size", unit, &trace.instructions().to_string());
            for mode in op.modes() {
                if !self.wants(start, Some(*mode)) {
                    continue;
                }
                let salt = format!("{name} {start} {}", mode.name());
                let full = trace.instructions().div_ceil(op.stride());
                let cases = self.options.cases.map_or(full, |cases| cases.min(full));
                let (stride, offset) = self.options.stride(trace.instructions(), cases, &salt);
                let mut points = trace.points(stride, offset, true);
                if *mode == Mode::Kill && !trace.sleeps {
                    points.push(trace.len() + 1);
                }
                if let Some(at) = &self.options.at {
                    points = vec![at[0]];
                }
                self.say("plan", unit, &points.len().to_string());
                for at in points {
                    if self.mine() {
                        let case = format!("--only {name} --start {start} --mode {} --at {at}", mode.name());
                        world.restore();
                        let report = world.report.clone();
                        let world = &mut world;
                        self.case(unit, mode.name(), &case, &report, || {
                            ring::case(world, op, *mode, &trace, at)
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn pair(&mut self, unit: usize, name: &str, pair: Pair) -> Outcome<()> {
        for (start, stamp) in STARTS {
            if !self.wants(start, None) {
                continue;
            }
            let mut world = World::new(stamp, self.options.mutation)?;
            ring::stage_pair(&mut world, pair)?;
            let first = ring::trace_first(&mut world, pair)?;
            self.say("size", unit, &first.instructions().to_string());
            let side = self.options.side();
            let (stride, offset) =
                self.options.stride(first.instructions(), side, &format!("{name} {start}"));
            let mut rows = first.points(stride, offset, false);
            if let Some(at) = &self.options.at {
                rows = vec![at[0]];
            }
            for row in rows {
                if !self.mine() {
                    continue;
                }
                let second = ring::trace_second(&mut world, pair, &first, row)?;
                let salt = format!("{name} {start} {row}");
                let (stride, offset) = self.options.stride(second.instructions(), side, &salt);
                let mut columns = second.points(stride, offset, false);
                if let Some(at) = &self.options.at {
                    columns = vec![at.get(1).copied().unwrap_or(0)];
                }
                self.say("more", unit, &columns.len().to_string());
                for column in columns {
                    let case = format!("--only {name} --start {start} --at {row},{column}");
                    world.restore();
                    let report = world.report.clone();
                    let world = &mut world;
                    self.case(unit, "stop", &case, &report, || {
                        ring::pair_case(world, pair, [&first, &second], [row, column])
                    });
                }
            }
        }
        Ok(())
    }

    /// The way of a whole bus, from a child: whoever attaches has threads, and a worker has to fork.
    fn bus_trace(&self, op: bus::Op, report: &Report) -> Outcome<Trace> {
        let memory = memory::shared(TRACE_BYTES)?;
        let region = memory.region().map_err(|e| e.to_string())?;
        report.clear();
        let child = tracee::spawn_worker(|| match bus::trace_of(op, report) {
            Ok(trace) => trace.store(&region),
            Err(why) => report.write(false, &why),
        });
        let ended = child.map_err(|e| e.to_string()).and_then(|pid| tracee::reap(pid, "the first run"));
        match report.read() {
            Some(Err(why)) => Err(why),
            _ => ended.map(|()| Trace::load(&region)),
        }
    }

    fn bus(&mut self, unit: usize, name: &str, op: bus::Op) -> Outcome<()> {
        if self.options.mutation.is_some() {
            return Ok(());
        }
        if !self.wants("-", None) && self.options.start.is_some() {
            return Ok(());
        }
        // A first run takes long: in a bounded run, one worker does it.
        let shared = self.options.cases.is_none();
        if !shared && unit % self.options.workers != self.index {
            return Ok(());
        }
        let report = Report::new()?;
        let mut trace = Trace::default();
        if op != bus::Op::Master {
            trace = self.bus_trace(op, &report)?;
            self.say("size", unit, &trace.instructions().to_string());
        }
        for mode in op.modes() {
            if self.options.mode.is_some_and(|m| m != *mode) {
                continue;
            }
            let instructions = match op {
                bus::Op::Master => MASTER_MOMENTS,
                _ => trace.instructions(),
            };
            let full = instructions.div_ceil(op.stride());
            let cases = self.options.cases.map_or(full, |cases| cases.min(full));
            let salt = format!("{name} {}", mode.name());
            let (stride, offset) = self.options.stride(instructions, cases, &salt);
            let mut points = match op {
                bus::Op::Master => (offset..instructions).step_by(stride).collect(),
                _ => trace.points(stride, offset, shared),
            };
            if *mode == Mode::Kill && !trace.sleeps && op != bus::Op::Master {
                points.push(trace.len() + 1);
            }
            if let Some(at) = &self.options.at {
                points = vec![at[0]];
            }
            let plan = if shared { "plan" } else { "more" };
            self.say(plan, unit, &points.len().to_string());
            for at in points {
                if !shared || self.mine() {
                    let case = format!("--only {name} --mode {} --at {at}", mode.name());
                    report.clear();
                    self.case(unit, mode.name(), &case, &report, || {
                        bus::case(op, *mode, &trace, at, &report)
                    });
                }
            }
        }
        Ok(())
    }
}
