//! The processes of one run: started, heard, struck, and reaped.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, remove_dir_all};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use shm_bus_os::clock;

use crate::diary::Phase;
use crate::event::{Event, Line};
use crate::plan::{Place, pipe as pipe_of};

/// A directory of one run, gone with it.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, with the bus's runtime directory in it and a pipe for each of `processes`.
    pub fn new(name: &str, processes: u32) -> Result<Self, String> {
        let path = std::env::temp_dir().join(name);
        let make = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        let scratch = Scratch(path);
        make(&scratch.0).and_then(|()| make(&scratch.0.join("run"))).map_err(|e| e.to_string())?;
        for number in 0..=processes {
            mkfifo(&pipe_of(&scratch.0, number), Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| e.to_string())?;
        }
        Ok(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the bus has left in its runtime directory: nothing, if all is well.
    pub fn left_behind(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join("run")).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove_dir_all(&self.0);
    }
}

/// What comes from a process.
pub enum Word {
    /// A line of its log.
    Line(Line),
    /// It has closed its log: it is at its end.
    End,
    /// It has written something that is no line.
    Garbage(String),
}

struct Member {
    child: Child,
    input: Option<ChildStdin>,
    errors: Option<PipeReader>,
    stopped: bool,
    killed: bool,
}

/// All processes of a run.
pub struct Crew {
    members: BTreeMap<u32, Member>,
    sender: Sender<(u32, Word)>,
    words: Receiver<(u32, Word)>,
}

impl Crew {
    /// Nobody yet.
    pub fn new() -> Self {
        let (sender, words) = channel();
        Crew { members: BTreeMap::new(), sender, words }
    }

    /// Starts a process, and gives the line that says so.
    pub fn start(&mut self, number: u32, mut command: Command) -> Result<Line, String> {
        let (errors, theirs): (PipeReader, PipeWriter) = pipe().map_err(|e| e.to_string())?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(theirs);
        let time = clock::monotonic_nanos();
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        // It holds an end of the pipe that must close with the child.
        drop(command);
        let pid = child.id();
        let output = child.stdout.take().expect("it is piped");
        let input = child.stdin.take();
        let sender = self.sender.clone();
        std::thread::spawn(move || forward(number, output, &sender));
        let member = Member { child, input, errors: Some(errors), stopped: false, killed: false };
        self.members.insert(number, member);
        Ok(Line { time, event: Event::Started { pid } })
    }

    /// What comes next; nothing until the deadline.
    pub fn hear(&self, deadline: Instant) -> Option<(u32, Word)> {
        self.words.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Tells everyone, or one, what phase it is. Who is gone hears nothing.
    pub fn tell(&mut self, whom: impl Fn(u32) -> bool, phase: Phase) {
        for (_, member) in self.members.iter_mut().filter(|(number, _)| whom(**number)) {
            if let Some(input) = &mut member.input {
                let _ = writeln!(input, "{}", phase.word());
            }
        }
    }

    /// Those that are not reaped.
    pub fn numbers(&self) -> Vec<u32> {
        self.members.keys().copied().collect()
    }

    /// Whether it is there, and was not killed.
    pub fn lives(&self, number: u32) -> bool {
        self.members.get(&number).is_some_and(|m| !m.killed)
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self, number: u32) -> bool {
        self.members.get(&number).is_some_and(|m| m.stopped)
    }

    fn signal(&self, number: u32, signal: Signal) -> Result<(), String> {
        let pid = self.members[&number].child.id();
        kill(Pid::from_raw(pid as i32), signal).map_err(|e| format!("{signal} to {number}: {e}"))
    }

    /// Kills it, and gives the line that says so, from before.
    pub fn kill(&mut self, number: u32) -> Result<Line, String> {
        let time = clock::monotonic_nanos();
        if let Some(member) = self.members.get_mut(&number) {
            member.killed = true;
        }
        self.signal(number, Signal::SIGKILL)?;
        Ok(Line { time, event: Event::Killed })
    }

    /// It has said that it is about to die by a signal of its own.
    pub fn expect_death(&mut self, number: u32) {
        if let Some(member) = self.members.get_mut(&number) {
            member.killed = true;
        }
    }

    /// Stops it, or lets it go on.
    pub fn stop(&mut self, number: u32, stopped: bool) -> Result<(), String> {
        if let Some(member) = self.members.get_mut(&number) {
            member.stopped = stopped;
        }
        self.signal(number, if stopped { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Takes a process that has ended off the list. An end that nobody wanted is an error.
    pub fn reap(&mut self, number: u32) -> Result<Line, String> {
        let Some(mut member) = self.members.remove(&number) else {
            return Err(format!("process {number} is not there"));
        };
        drop(member.input.take());
        let status = member.child.wait().map_err(|e| e.to_string())?;
        let mut said = String::new();
        if let Some(mut errors) = member.errors.take() {
            let _ = errors.read_to_string(&mut said);
        }
        let line = Line { time: clock::monotonic_nanos(), event: Event::Gone };
        if ended_well(status, member.killed) {
            Ok(line)
        } else {
            Err(format!("process {number} ended with {status}: {}", said.trim()))
        }
    }
}

fn ended_well(status: ExitStatus, killed: bool) -> bool {
    status.success() || (killed && status.signal() == Some(Signal::SIGKILL as i32))
}

impl Default for Crew {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in self.members.values_mut() {
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

fn forward(number: u32, output: impl Read, words: &Sender<(u32, Word)>) {
    let mut reader = BufReader::new(output);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match reader.read_until(b'\n', &mut bytes) {
            // What a killed process did not write to the end, it has not said.
            Ok(n) if n > 0 && bytes.ends_with(b"\n") => {}
            _ => break,
        }
        let word = match serde_json::from_slice(&bytes) {
            Ok(line) => Word::Line(line),
            Err(_) => Word::Garbage(String::from_utf8_lossy(&bytes).into_owned()),
        };
        if words.send((number, word)).is_err() {
            return;
        }
    }
    let _ = words.send((number, Word::End));
}

/// The command that starts a participant of this program.
pub fn participant(place: &Place, role: &str, arguments: &[(&str, u64)]) -> Result<Command, String> {
    let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    command.arg(role).arg("--place").arg(&place.directory);
    command.args(["--seed", &place.seed.to_string(), "--slots", &place.log2_slots.to_string()]);
    for (name, value) in arguments {
        command.arg(format!("--{name}")).arg(value.to_string());
    }
    Ok(command)
}

/// Longer than anything takes on a loaded machine: what has not come by then does not come.
pub const DEADLINE: Duration = Duration::from_secs(60);
