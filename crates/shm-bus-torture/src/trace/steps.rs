//! The way of one run of an operation, and the places on it that are worth a visit.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::access::Effect;

/// Which places of a way are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Every instruction.
    Every,
    /// In front of each access (see [`super::access`]), and every so manieth instruction besides.
    Accesses {
        /// 0 for none besides.
        stride: usize,
    },
}

/// What it takes for two places to be different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matters {
    /// A store or a call between them: for a process that does not go on.
    Stores,
    /// Any access between them: for one that does.
    Loads,
}

/// The instructions of one run of an operation.
#[derive(Default)]
pub struct Trace {
    /// Of each single step the address, the effect, and whether the address is new.
    steps: Vec<u64>,
    seen: HashSet<u64>,
    /// Whether the next thing it does is to sleep until somebody wakes it.
    pub sleeps: bool,
}

// Above every address of user space.
const EFFECT: u32 = 60;
const NEW: u64 = 1 << 63;
const ADDRESS: u64 = (1 << EFFECT) - 1;
/// The repetitions of a string instruction are visited this far apart.
const REPETITIONS: usize = 512;

/// How to get to a step with few stops.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// An address, and how often to arrive there; then another.
    pub arrivals: Vec<(u64, usize)>,
    /// Single steps from there on.
    pub steps: usize,
}

impl Trace {
    pub fn push(&mut self, address: u64, effect: Effect) {
        let new = if self.seen.insert(address) { NEW } else { 0 };
        self.steps.push(address | (effect as u64) << EFFECT | new);
    }

    fn effect(&self, step: usize) -> Effect {
        match self.steps[step] >> EFFECT & 3 {
            0 => Effect::Quiet,
            1 => Effect::Load,
            2 => Effect::Store,
            _ => Effect::Call,
        }
    }

    /// The address of the instruction behind that many steps; none at the end.
    pub fn address(&self, step: usize) -> Option<u64> {
        Some(self.steps.get(step)? & ADDRESS)
    }

    /// Writes it down for another process.
    pub fn write(&self, target: &File) -> io::Result<()> {
        let words = [1 + self.steps.len() as u64, u64::from(self.sleeps)];
        let bytes: Vec<u8> = words.iter().chain(&self.steps).flat_map(|word| word.to_le_bytes()).collect();
        target.write_all_at(&bytes, 0)
    }

    /// Reads what another process wrote down; nothing if none did.
    pub fn read(source: &File) -> io::Result<Option<Self>> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let mut head = [0; 16];
        source.read_exact_at(&mut head, 0)?;
        let Some(count) = word(&head[..8]).checked_sub(1) else { return Ok(None) };
        let mut bytes = vec![0; 8 * count as usize];
        source.read_exact_at(&mut bytes, 16)?;
        Ok(Some(Trace {
            steps: bytes.chunks_exact(8).map(word).collect(),
            seen: HashSet::new(),
            sleeps: word(&head[8..]) != 0,
        }))
    }

    /// Single steps from marker to marker.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether a step is a repetition of the string instruction before it.
    fn repeats(&self, step: usize) -> bool {
        step > 0 && self.address(step) == self.address(step - 1)
    }

    /// Instructions: the repetitions of a string instruction are one.
    pub fn instructions(&self) -> usize {
        1 + (1..self.len()).filter(|step| !self.repeats(*step)).count()
    }

    /// Places in front of an access.
    pub fn accesses(&self) -> usize {
        self.points(Grain::Accesses { stride: 0 }, Matters::Loads).len()
    }

    /// The places to visit, from in front of the first instruction to behind the last; a few of each string instruction's
    /// repetitions.
    pub fn points(&self, grain: Grain, matters: Matters) -> Vec<usize> {
        let least = if matters == Matters::Stores { Effect::Store } else { Effect::Load };
        let mut points = Vec::new();
        let (mut instruction, mut repetition) = (0, 0);
        for step in 0..self.len() {
            let repeats = self.repeats(step);
            repetition = if repeats { repetition + 1 } else { 0 };
            instruction += usize::from(step > 0 && !repeats);
            let wanted = match grain {
                Grain::Every => true,
                Grain::Accesses { stride } => {
                    self.effect(step) >= least || instruction.checked_rem(stride) == Some(0) || step == 0
                }
            };
            if wanted && (!repeats || repetition % REPETITIONS == REPETITIONS / 2) {
                points.push(step);
            }
        }
        points.push(self.len());
        points
    }

    /// The way to a step that takes the fewest stops: to its address, as often as it is passed, with or without the last
    /// new address on the way first; or from there by single steps.
    pub fn route(&self, target: usize) -> Route {
        // The first repetition is what a breakpoint stops at.
        let mut place = target.min(self.len().saturating_sub(1));
        while self.repeats(place) {
            place -= 1;
        }
        let repetitions = target - place;
        let (Some(start), Some(there)) = (self.address(0), self.address(place)) else {
            return Route { arrivals: Vec::new(), steps: target };
        };
        let passed = |from: usize| {
            (from + 1..=place).filter(|s| self.address(*s) == Some(there) && !self.repeats(*s)).count()
        };
        let anchor = (1..=place).rev().find(|s| self.steps[*s] & NEW != 0 && self.address(*s) != Some(start));
        let mut best = Route { arrivals: Vec::new(), steps: target };
        let mut consider = |route: Route| {
            let stops = |r: &Route| r.arrivals.iter().map(|a| a.1).sum::<usize>() + r.steps;
            if stops(&route) < stops(&best) {
                best = route;
            }
        };
        // Where it starts it stands already, and no breakpoint tells.
        if there != start && place > 0 {
            consider(Route { arrivals: vec![(there, passed(0))], steps: repetitions });
        }
        if let Some(anchor) = anchor {
            let over = (self.address(anchor).unwrap_or(0), 1);
            if anchor < place && self.address(anchor) != Some(there) {
                consider(Route { arrivals: vec![over, (there, passed(anchor))], steps: repetitions });
            }
            consider(Route { arrivals: vec![over], steps: target - anchor });
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(steps: &[(u64, Effect)]) -> Trace {
        let mut trace = Trace::default();
        steps.iter().for_each(|(address, effect)| trace.push(*address, *effect));
        trace
    }

    fn walk(addresses: &[u64], route: &Route) -> usize {
        let mut at = 0;
        for (address, times) in &route.arrivals {
            for _ in 0..*times {
                let arrived = |s: usize| addresses[s] == *address && addresses[s - 1] != *address;
                at = (at + 1..addresses.len()).find(|s| arrived(*s)).unwrap();
            }
        }
        at + route.steps
    }

    #[test]
    fn every_route_leads_to_its_step() {
        // A loop of three, a string instruction, the loop again, a way out.
        let mut addresses = vec![1, 2];
        (0..40).for_each(|_| addresses.extend([10, 11, 12]));
        addresses.extend([20; 30]);
        (0..10).for_each(|_| addresses.extend([10, 11, 12]));
        addresses.extend([1, 30, 31]);
        let steps: Vec<_> = addresses.iter().map(|a| (*a, Effect::Quiet)).collect();
        let trace = trace(&steps);
        for target in 0..=trace.len() {
            let route = trace.route(target);
            assert_eq!(walk(&addresses, &route), target, "{route:?}");
            let stops: usize = route.arrivals.iter().map(|a| a.1).sum::<usize>() + route.steps;
            assert!(stops <= 60, "{target}: {route:?}");
        }
    }

    #[test]
    fn what_one_process_writes_down_another_reads() {
        let path = std::env::temp_dir().join(format!("shm-bus-torture-trace-{}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(1 << 12).unwrap();
        assert!(Trace::read(&file).unwrap().is_none());
        let mut written = trace(&[(1, Effect::Call), (2, Effect::Quiet), (1, Effect::Store)]);
        written.sleeps = true;
        written.write(&file).unwrap();
        let read = Trace::read(&file).unwrap().unwrap();
        assert!((&read.steps, read.sleeps) == (&written.steps, true));
    }

    #[test]
    fn a_kill_needs_no_visit_in_front_of_a_load() {
        use Effect::{Call, Load, Quiet, Store};
        let trace =
            trace(&[(1, Quiet), (2, Load), (3, Quiet), (4, Store), (5, Quiet), (6, Call), (7, Quiet)]);
        let accesses = Grain::Accesses { stride: 0 };
        assert_eq!(trace.points(accesses, Matters::Stores), [0, 3, 5, 7]);
        assert_eq!(trace.points(accesses, Matters::Loads), [0, 1, 3, 5, 7]);
        assert_eq!(trace.points(Grain::Accesses { stride: 3 }, Matters::Stores), [0, 3, 5, 6, 7]);
        assert_eq!(trace.points(Grain::Every, Matters::Stores), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((trace.instructions(), trace.accesses()), (7, 5));
    }
}
