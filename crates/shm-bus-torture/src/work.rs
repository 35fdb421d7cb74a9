//! A worker: the cases that fall to one process, one after the other, each in a child of its own.

use std::io::{PipeWriter, Write};

use crate::Outcome;
use crate::bus;
use crate::options::Options;
use crate::report::Report;
use crate::ring::{self, Mode, Op, Pair, STARTS};
use crate::tracee;
use crate::world::World;

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
        .and_then(|pid| tracee::reap(pid, "the case"));
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
                let (stride, offset) = self
                    .options
                    .stride(trace.instructions(), self.options.cases, &salt);
                let mut points = trace.points(stride, offset);
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
            // As many pairs as four sequences have points.
            let side = self
                .options
                .cases
                .map(|cases| ((4 * cases) as f64).sqrt() as usize);
            let (stride, offset) =
                self.options
                    .stride(first.instructions(), side, &format!("{name} {start}"));
            let mut rows = first.points(stride, offset);
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
                let mut columns = second.points(stride, offset);
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

    fn bus(&mut self, unit: usize, name: &str, op: bus::Op) -> Outcome<()> {
        if self.options.mutation.is_some() {
            return Ok(());
        }
        let _ = (unit, name, op);
        Ok(())
    }
}
