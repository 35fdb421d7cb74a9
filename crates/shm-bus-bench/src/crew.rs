//! The processes of one measurement: started from this program, watched, and heard.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;
use shm_bus::{AttachOptions, Bus, MAX_DEADLINE, Overload, SubscribeOptions};

use crate::arena::Arena;
use crate::options::{Member, Options};
use crate::{Outcome, cpu};

/// How long a measurement may take beyond its own time.
const GRACE: Duration = Duration::from_secs(30);

/// What a process of a measurement has.
pub struct Place {
    pub index: usize,
    pub size: usize,
    pub arena: Arena,
    directory: PathBuf,
}

impl Place {
    /// Attaches to the measurement's bus, one process after the other: the first is its master in every run.
    pub fn attach(&self) -> Outcome<Bus> {
        let options =
            AttachOptions { runtime_directory: Some(self.directory.clone()), ..AttachOptions::default() };
        self.arena.by_turns(self.index, || Ok(Bus::attach("bench", &options)?))
    }
}

/// Options of every subscription here: on a busy machine nobody is to lose its place.
pub fn patient() -> SubscribeOptions {
    SubscribeOptions {
        overload: Some(Overload::Block { deadline: MAX_DEADLINE }),
        ..SubscribeOptions::default()
    }
}

/// Runs `work` in `size` processes and gives what each of them said. In the process that was asked for the
/// measurement, this starts the others; in those it runs `work`, prints its answer and ends the program.
pub fn run(size: usize, options: &Options, work: impl Fn(&Place) -> Outcome<Value>) -> Outcome<Vec<Value>> {
    if let Some(member) = &options.member {
        let answer = work(&join(member, size)?)?;
        println!("{answer}");
        std::process::exit(0);
    }
    let scratch = Scratch::new()?;
    let arena = Arena::create()?;
    let mut children = Children(Vec::new());
    for index in 0..size {
        let child = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .args(["--member", &index.to_string(), "--directory"])
            .arg(&scratch.0)
            .stdin(Stdio::from(arena.try_clone()?))
            .stdout(Stdio::piped())
            .spawn()?;
        children.0.push(child);
    }
    children.hear(Instant::now() + options.warm_up + options.measure + GRACE)
}

fn join(member: &Member, size: usize) -> Outcome<Place> {
    // A spinning process must not outlive the one that asked for it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    cpu::pin(member.index, size)?;
    Ok(Place {
        index: member.index,
        size,
        arena: Arena::open(std::io::stdin().as_fd())?,
        directory: member.directory.clone(),
    })
}

/// A private runtime directory, removed with all that is in it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Outcome<Self> {
        let path = std::env::temp_dir().join(format!("shm-bus-bench-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Scratch(path))
    }

    /// A place in a measurement of one process.
    pub fn alone(&self) -> Outcome<Place> {
        let arena = Arena::create()?;
        Ok(Place { index: 0, size: 1, arena: Arena::open(arena.as_fd())?, directory: self.0.clone() })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Killed if they are left behind by an error.
struct Children(Vec<Child>);

impl Children {
    fn hear(&mut self, deadline: Instant) -> Outcome<Vec<Value>> {
        while !self.all_done()? {
            if Instant::now() > deadline {
                return Err("a measurement did not end in time".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.0
            .iter_mut()
            .map(|child| {
                let mut text = String::new();
                child.stdout.as_mut().ok_or("no pipe")?.read_to_string(&mut text)?;
                Ok(serde_json::from_str(&text)?)
            })
            .collect()
    }

    /// Whether all have ended well; an error as soon as one has not.
    fn all_done(&mut self) -> Outcome<bool> {
        let mut done = true;
        for (index, child) in self.0.iter_mut().enumerate() {
            match child.try_wait()? {
                None => done = false,
                Some(status) if status.success() => {}
                Some(status) => return Err(format!("process {index} of the measurement: {status}").into()),
            }
        }
        Ok(done)
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended is reaped already: neither call does anything to it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
