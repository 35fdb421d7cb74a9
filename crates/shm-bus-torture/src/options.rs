//! What to run.

use lexopt::prelude::*;

use crate::mini::Mutation;
use crate::ring::Mode;

pub const USAGE: &str = "\
Kills and stops processes of the bus at every instruction of every operation, and looks at what the others see.

Usage: shm-bus-torture [options]

      --short          a bounded, even choice of the instructions (about a minute)
      --cases N        at most about N instructions of each operation, start and mode
      --pairs N        about N instructions of each side of a pair, hence N times N cases (150)
      --only OP        one operation (may be given again); --list prints them
      --start NAME     one place in the order: mid, hint, edge, lap
      --mode NAME      one way: kill, stop, depart
      --at K           one instruction (K,L for a pair): replays a failure that was printed
      --seed N         which instructions a bounded run chooses (1)
      --workers N      processes that run cases (the number of processors)
      --json           the table as one line of JSON
      --mutant NAME    a publisher that is wrong on purpose; --list prints them
      --list           the operations and mutants
  -h, --help           this text

Ends with 0 if all is well, 1 after a failure, 2 for wrong arguments, 77 where a process may not trace its child.";

pub struct Options {
    pub cases: Option<usize>,
    pub pairs: Option<usize>,
    pub only: Vec<String>,
    pub start: Option<String>,
    pub mode: Option<Mode>,
    pub at: Option<Vec<usize>>,
    pub seed: u64,
    pub workers: usize,
    pub json: bool,
    pub mutation: Option<Mutation>,
    pub list: bool,
    pub help: bool,
}

/// What `--short` chooses of each sequence.
const SHORT: usize = 20;
/// Instructions of each side of a pair in a full run.
const PAIRS: usize = 150;

impl Options {
    pub fn parse() -> Result<Self, lexopt::Error> {
        let mut options = Options {
            cases: None,
            pairs: None,
            only: Vec::new(),
            start: None,
            mode: None,
            at: None,
            seed: 1,
            workers: std::thread::available_parallelism().map_or(2, |n| n.get()),
            json: false,
            mutation: None,
            list: false,
            help: false,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("short") => options.cases = Some(options.cases.unwrap_or(SHORT)),
                Long("cases") => options.cases = Some(parser.value()?.parse::<usize>()?.max(1)),
                Long("pairs") => options.pairs = Some(parser.value()?.parse::<usize>()?.max(1)),
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
                    options.workers = 1;
                }
                Long("seed") => options.seed = parser.value()?.parse()?,
                Long("workers") => options.workers = parser.value()?.parse::<usize>()?.max(1),
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

    /// How many instructions of each side of a pair.
    pub fn side(&self) -> usize {
        // In a bounded run, as many pairs as four sequences have cases.
        let bounded = || self.cases.map(|cases| ((4 * cases) as f64).sqrt() as usize);
        self.pairs.or_else(bounded).unwrap_or(PAIRS)
    }

    /// How far apart the chosen ones of `count` are, and which is the first.
    pub fn stride(&self, count: usize, cases: usize, salt: &str) -> (usize, usize) {
        let stride = count.div_ceil(cases.max(1)).max(1);
        let hash = salt.bytes().fold(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        (stride, (hash >> 20) as usize % stride)
    }
}
