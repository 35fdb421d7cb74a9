//! Runs the seeds, some at a time, and prints what came of them.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::event::Line;
use crate::judge::{Counts, Judge};
use crate::options::Seeds;
use crate::plan::Plan;
use crate::run::{Ran, run};

const FAILED: i32 = 1;

/// A line of a kept log.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Whose.
    #[serde(rename = "p")]
    process: u32,
    #[serde(flatten)]
    line: Line,
}

/// Keeps a log, in the order of time.
pub fn keep(path: &Path, lines: &[(u32, Line)]) -> std::io::Result<()> {
    let mut sorted: Vec<_> = lines.iter().collect();
    sorted.sort_by_key(|(_, line)| line.time);
    let mut file = BufWriter::new(File::create(path)?);
    for (process, line) in sorted {
        serde_json::to_writer(&mut file, &Kept { process: *process, line: line.clone() })?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Judges a kept log, and gives the exit code.
pub fn judge(path: &Path) -> i32 {
    let read = || -> std::io::Result<Vec<(u32, Line)>> {
        let parse = |line: std::io::Result<String>| {
            let Kept { process, line } = serde_json::from_str(&line?)?;
            Ok((process, line))
        };
        BufReader::new(File::open(path)?).lines().map(parse).collect()
    };
    match read().map_err(|e| e.to_string()).and_then(|lines| Judge::judge(lines).map_err(|f| f.to_string())) {
        Ok(counts) => {
            println!("{}", text(&counts));
            0
        }
        Err(why) => {
            eprintln!("{}: {why}", path.display());
            FAILED
        }
    }
}

/// The counts, in words.
pub fn text(counts: &Counts) -> String {
    let parts: Vec<String> = counts.rows().iter().map(|(name, n)| format!("{n} {name}")).collect();
    parts.join(", ")
}

/// Runs seeds, and gives the exit code.
pub fn main(options: &Seeds) -> i32 {
    let start = Instant::now();
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} seeds, {msg}");
    let style = style.expect("the template is right");
    let bar = ProgressBar::new(options.seeds.len() as u64).with_style(style);
    let next = AtomicUsize::new(0);
    let total = Mutex::new((Counts::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.min(options.seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = options.seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let ran = run(&Plan::of(*seed, options.processes));
                    let failed = ran.verdict.is_err();
                    let kept = keep_if_asked(options, *seed, &ran);
                    let mut total = total.lock().expect("nobody panics with it");
                    match ran.verdict {
                        Ok(counts) => total.0.add(&counts),
                        Err(why) => {
                            bar.suspend(|| eprintln!("seed {seed}: {why}{kept}"));
                            total.1.push(*seed);
                        }
                    }
                    bar.set_message(format!("{} failed", total.1.len()));
                    bar.inc(1);
                    if failed && options.keep_all {
                        bar.suspend(|| print_log(&ran.lines));
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let (counts, failed) = total.into_inner().expect("nobody panics with it");
    let seconds = start.elapsed().as_secs_f64();
    let passed = options.seeds.len() - failed.len();
    if options.json {
        let mut object = serde_json::Map::new();
        object.insert("seeds".into(), options.seeds.len().into());
        object.insert("failed".into(), failed.clone().into());
        object.insert("seconds".into(), seconds.into());
        counts.rows().iter().for_each(|(name, n)| drop(object.insert((*name).into(), (*n).into())));
        println!("{}", serde_json::Value::Object(object));
    } else {
        println!("{passed} seeds passed, {} failed in {seconds:.1} s", failed.len());
        println!("checked: {}", text(&counts));
    }
    if failed.is_empty() { 0 } else { FAILED }
}

/// Says where the log is.
fn keep_if_asked(options: &Seeds, seed: u64, ran: &Ran) -> String {
    let Some(directory) = options.keep.as_ref().filter(|_| ran.verdict.is_err() || options.keep_all) else {
        return String::new();
    };
    let path: PathBuf = directory.join(format!("seed-{seed}.jsonl"));
    let kept = std::fs::create_dir_all(directory).and_then(|()| keep(&path, &ran.lines));
    match kept {
        Ok(()) => format!(" (log: {})", path.display()),
        Err(error) => format!(" (no log: {error})"),
    }
}

fn print_log(lines: &[(u32, Line)]) {
    let mut sorted: Vec<_> = lines.iter().collect();
    sorted.sort_by_key(|(_, line)| line.time);
    for (process, line) in sorted {
        eprintln!("{} {process} {:?}", line.time, line.event);
    }
}
