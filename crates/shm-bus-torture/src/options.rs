//! What to run.

use lexopt::prelude::*;

use crate::mode::Mode;
use crate::ring::mutant::Mutation;

pub const USAGE: &str = "\
Kills and stops processes of the bus at every instruction of every operation, and looks at what the others see.

Usage: shm-bus-torture [options]

      --short          a bounded, even choice of the places (a few minutes)
      --cases N        at most about N places of each operation, start and mode
      --pairs N        at most about N places of each side of a pair, hence N times N cases
      --every          every instruction, also where places in front of an access do
      --minutes N      begins no case after so many minutes; what was run is evenly spread
      --only OP        one operation (may be given again); --list prints them
      --start NAME     one place in the order: mid, hint, edge, lap
      --mode NAME      one way: kill, stop, depart, pair
      --at K           one place, in single steps (K,L for a pair): replays a failure that was printed
      --seed N         which places a bounded run chooses (1)
      --workers N      processes that run cases (four a processor)
      --plan           what would be run, and nothing else
      --json           the table as one line of JSON
      --mutant NAME    a publisher that is wrong on purpose; --list prints them
      --list           the operations and mutants
  -h, --help           this text

Ends with 0 if all is well, 1 after a failure, 2 for wrong arguments, 77 where a process may not trace its child.";

pub struct Options {
    pub cases: Option<usize>,
    pub pairs: Option<usize>,
    pub every: bool,
    pub minutes: Option<f64>,
    pub only: Vec<String>,
    pub start: Option<String>,
    pub mode: Option<Mode>,
    pub at: Option<Vec<usize>>,
    pub seed: u64,
    pub workers: usize,
    pub plan: bool,
    pub json: bool,
    pub mutation: Option<Mutation>,
    pub list: bool,
    pub help: bool,
}

/// What `--short` chooses of each operation, start and mode.
const SHORT: usize = 16;

impl Default for Options {
    fn default() -> Self {
        Options {
            cases: None,
            pairs: None,
            every: false,
            minutes: None,
            only: Vec::new(),
            start: None,
            mode: None,
            at: None,
            seed: 1,
            // Most of the time a whole attachment waits for something.
            workers: 4 * std::thread::available_parallelism().map_or(1, |n| n.get()),
            plan: false,
            json: false,
            mutation: None,
            list: false,
            help: false,
        }
    }
}

impl Options {
    pub fn parse() -> Result<Self, lexopt::Error> {
        let mut options = Options::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("short") => options.cases = Some(options.cases.unwrap_or(SHORT)),
                Long("cases") => options.cases = Some(parser.value()?.parse::<usize>()?.max(1)),
                Long("pairs") => options.pairs = Some(parser.value()?.parse::<usize>()?.max(1)),
                Long("every") => options.every = true,
                Long("minutes") => options.minutes = Some(parser.value()?.parse()?),
                Long("only") => options.only.push(parser.value()?.string()?),
                Long("start") => options.start = Some(parser.value()?.string()?),
                Long("mode") => {
                    let name = parser.value()?.string()?;
                    let mode = Mode::ALL.iter().find(|(n, _)| *n == name);
                    options.mode = Some(mode.ok_or(format!("no mode {name}"))?.1);
                }
                Long("at") => {
                    let text = parser.value()?.string()?;
                    let numbers: Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
                    options.at = Some(numbers.map_err(|e| format!("--at {text}: {e}"))?);
                }
                Long("seed") => options.seed = parser.value()?.parse()?,
                Long("workers") => options.workers = parser.value()?.parse::<usize>()?.max(1),
                Long("plan") => options.plan = true,
                Long("json") => options.json = true,
                Long("mutant") => {
                    let name = parser.value()?.string()?;
                    options.mutation = Some(Mutation::named(&name).ok_or(format!("no mutant {name}"))?);
                }
                Long("list") => options.list = true,
                Short('h') | Long("help") => options.help = true,
                _ => return Err(argument.unexpected()),
            }
        }
        if options.at.is_some() {
            options.workers = 1;
        }
        Ok(options)
    }

    /// At most how many places of each side of a pair.
    pub fn side(&self) -> Option<usize> {
        // In a bounded run, as many pairs as two ways have cases.
        self.pairs.or_else(|| self.cases.map(|cases| ((2 * cases) as f64).sqrt() as usize))
    }

    /// About `limit` of the places, evenly spread; which ones is up to the seed.
    pub fn thin<T>(&self, places: Vec<T>, limit: Option<usize>, salt: &str) -> Vec<T> {
        let stride = limit.map_or(1, |limit| places.len().div_ceil(limit.max(1)).max(1));
        // Fowler, Noll and Vo's hash, keyed by the seed.
        let hash = salt.bytes().fold(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        places.into_iter().skip((hash >> 20) as usize % stride).step_by(stride).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_alone_chooses() {
        let options = |seed| Options { seed, ..Options::default() };
        let places: Vec<usize> = (0..1000).collect();
        let chosen = |seed, salt| options(seed).thin(places.clone(), Some(16), salt);
        assert_eq!(chosen(1, "a"), chosen(1, "a"));
        assert!((2..10).any(|seed| chosen(seed, "a") != chosen(1, "a")));
        assert!(["b", "c", "d"].iter().any(|salt| chosen(1, salt) != chosen(1, "a")));
        assert!((0..50).all(|seed| (15..=16).contains(&chosen(seed, "a").len())));
        assert_eq!(options(7).thin(places.clone(), None, "a"), places);
    }
}
