//! One run: a seed's processes from their start to the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shm_bus::{MemberId, Record};

use crate::crew::{Crew, DEADLINE, Scratch, Word, participant};
use crate::diary::Phase;
use crate::event::{Event, Item, Line};
use crate::judge::{Counts, Judge};
use crate::plan::{Blow, OBSERVER, Place, Plan};

/// How often the observer of a run attaches anew, in a hundred looks.
const RELAYS: u64 = 10;

/// The log of a run, and what came of it.
pub struct Ran {
    /// All lines, by process.
    pub lines: Vec<(u32, Line)>,
    /// The judge's counts, or what went wrong.
    pub verdict: Result<Counts, String>,
}

/// Runs a plan and judges it.
pub fn run(plan: &Plan) -> Ran {
    let mut run = match Run::new(plan) {
        Ok(run) => run,
        Err(why) => return Ran { lines: Vec::new(), verdict: Err(why) },
    };
    let ended = run.play();
    let lines = std::mem::take(&mut run.lines);
    let left = run.scratch.left_behind();
    // What hangs is killed here.
    drop(run);
    let judged = || Judge::judge(lines.clone()).map_err(|failure| failure.to_string());
    let verdict = match ended {
        Ok(()) => judged().and_then(|counts| match left.as_slice() {
            [] => Ok(counts),
            left => Err(format!("left behind in the runtime directory: {}", left.join(", "))),
        }),
        Err(why) => Err(why),
    };
    Ran { lines, verdict }
}

struct Run<'a> {
    plan: &'a Plan,
    place: Place,
    crew: Crew,
    lines: Vec<(u32, Line)>,
    deadline: Instant,
    /// Attachments, and who has them.
    members: BTreeMap<MemberId, u32>,
    /// Who holds the role, and since which stamp.
    master: (u64, Option<MemberId>),
    subscribed: bool,
    done: BTreeSet<u32>,
    drained: BTreeSet<u32>,
    /// When the stopped ones go on.
    wakes: Vec<(Instant, u32)>,
    next: u32,
    /// Whether those that come now still have something to do.
    acting: bool,
    blows: Vec<(u64, Blow)>,
    scratch: Scratch,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Result<Self, String> {
        let starts = plan.blows.iter().filter(|(_, blow)| *blow == Blow::Start).count() as u32;
        let name = format!("shm-bus-oracle-{}-{}", std::process::id(), plan.seed);
        let scratch = Scratch::new(&name, plan.processes + starts)?;
        let place =
            Place { directory: scratch.path().to_owned(), seed: plan.seed, log2_slots: plan.log2_slots };
        Ok(Run {
            plan,
            place,
            crew: Crew::new(),
            lines: Vec::new(),
            deadline: Instant::now() + DEADLINE,
            members: BTreeMap::new(),
            master: (0, None),
            subscribed: false,
            done: BTreeSet::new(),
            drained: BTreeSet::new(),
            wakes: Vec::new(),
            next: 1,
            acting: false,
            blows: plan.blows.clone(),
            scratch,
        })
    }

    fn play(&mut self) -> Result<(), String> {
        let observer = participant(&self.place, "observer", &[("relays", RELAYS)])?;
        let started = self.crew.start(OBSERVER, observer)?;
        self.lines.push((OBSERVER, started));
        self.until("the observer watches", |run| run.subscribed)?;
        self.acting = true;
        for _ in 0..self.plan.processes {
            self.start_next()?;
        }
        self.until("everyone is done", |run| run.all(&run.done) && run.wakes.is_empty())?;
        self.acting = false;
        self.crew.tell(|_| true, Phase::Drain);
        self.until("everyone has read everything", |run| run.all(&run.drained))?;
        self.crew.tell(|number| number != OBSERVER, Phase::Leave);
        self.until("the others have left", |run| run.crew.numbers() == [OBSERVER])?;
        self.crew.tell(|_| true, Phase::Leave);
        self.until("the observer has left", |run| run.crew.numbers().is_empty())
    }

    fn start_next(&mut self) -> Result<(), String> {
        let starts = self.plan.blows.iter().filter(|(_, blow)| *blow == Blow::Start).count();
        let most = u64::from(self.plan.processes) + starts as u64;
        let number = self.next;
        self.next += 1;
        let arguments = [("number", u64::from(number)), ("steps", self.plan.steps), ("others", most)];
        let started = self.crew.start(number, participant(&self.place, "participant", &arguments)?)?;
        self.lines.push((number, started));
        Ok(())
    }

    /// Everyone but the observer that lives, and nobody is still to come.
    fn all(&self, of: &BTreeSet<u32>) -> bool {
        let living = self.crew.numbers();
        let mut living = living.into_iter().filter(|n| *n != OBSERVER && self.crew.lives(*n));
        living.all(|number| of.contains(&number))
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !condition(self) {
            let wake = self.wakes.iter().map(|w| w.0).min().unwrap_or(self.deadline).min(self.deadline);
            match self.crew.hear(wake) {
                Some((number, word)) => self.on_word(number, word)?,
                None if Instant::now() >= self.deadline => return Err(self.hangs(what)),
                None => {}
            }
            self.wake_due()?;
            self.strike()?;
        }
        Ok(())
    }

    fn hangs(&self, what: &str) -> String {
        let last = |number: u32| {
            let line = self.lines.iter().rev().find(|(n, _)| *n == number);
            format!("{number}: {:?}", line.map(|(_, line)| &line.event))
        };
        let last: Vec<String> = self.crew.numbers().into_iter().map(last).collect();
        format!(
            "after {} s it is not so that {what}; last heard of\n  {}",
            DEADLINE.as_secs(),
            last.join("\n  ")
        )
    }

    fn on_word(&mut self, number: u32, word: Word) -> Result<(), String> {
        let line = match word {
            Word::Line(line) => line,
            Word::Garbage(text) => return Err(format!("process {number} wrote {text:?}")),
            Word::End => {
                let gone = self.crew.reap(number)?;
                self.wakes.retain(|(_, stopped)| *stopped != number);
                self.lines.push((number, gone));
                return Ok(());
            }
        };
        match &line.event {
            Event::Attached { member, .. } => drop(self.members.insert(*member, number)),
            Event::Subscribed { .. } => self.subscribed = true,
            Event::Killed => self.crew.expect_death(number),
            Event::Done => drop(self.done.insert(number)),
            Event::Drained => drop(self.drained.insert(number)),
            Event::Got { items, .. } => {
                for item in items {
                    if let Item::Record { stamp, record: Record::Master { member } } = item
                        && *stamp > self.master.0
                    {
                        self.master = (*stamp, Some(*member));
                    }
                }
            }
            _ => {}
        }
        self.lines.push((number, line));
        Ok(())
    }

    fn wake_due(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let (due, later) = self.wakes.iter().copied().partition::<Vec<_>, _>(|(at, _)| *at <= now);
        self.wakes = later;
        due.into_iter().try_for_each(|(_, number)| self.crew.stop(number, false))
    }

    /// Whatever is due after so many lines; nothing before everybody was started.
    fn strike(&mut self) -> Result<(), String> {
        if self.next == 1 {
            return Ok(());
        }
        while self.blows.first().is_some_and(|(at, _)| self.lines.len() as u64 >= *at) {
            let (_, blow) = self.blows.remove(0);
            let master = self.master.1.and_then(|member| self.members.get(&member)).copied();
            match blow {
                Blow::Kill(number) if self.crew.lives(number) => self.kill(number)?,
                Blow::KillMaster => {
                    if let Some(number) = master.filter(|n| *n != OBSERVER && self.crew.lives(*n)) {
                        self.kill(number)?;
                    }
                }
                Blow::Stop(number, time) if self.crew.lives(number) && !self.crew.is_stopped(number) => {
                    self.crew.stop(number, true)?;
                    self.wakes.push((Instant::now() + Duration::from_millis(time), number));
                }
                Blow::Start if self.acting => self.start_next()?,
                Blow::Kill(_) | Blow::Stop(..) | Blow::Start => {}
            }
        }
        Ok(())
    }

    fn kill(&mut self, number: u32) -> Result<(), String> {
        let killed = self.crew.kill(number)?;
        self.lines.push((number, killed));
        Ok(())
    }
}
