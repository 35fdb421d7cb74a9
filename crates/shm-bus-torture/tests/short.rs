//! A few cases of everything, and every mutant: the rig works here, and it can fail.

use std::process::{Command, Output};

/// The rig ends with this where a process may not trace its child.
const NOT_HERE: i32 = 77;

/// Runs the rig; nothing where it cannot run.
fn rig(arguments: &[&str]) -> Option<Output> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_shm-bus-torture")).args(arguments).output().expect("the rig starts");
    if output.status.code() == Some(NOT_HERE) {
        println!("skipped: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(output)
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Operations whose first run is short enough for every test run.
const RING: [&str; 12] = [
    "publish",
    "publish-ring",
    "loan",
    "batch",
    "transaction",
    "wake",
    "evict",
    "reclaim",
    "space",
    "wait",
    "publish+publish",
    "publish+wait",
];
const BUS: [&str; 5] = ["bus-publish", "bus-batch", "bus-wait", "bus-subscribe", "bus-close"];

#[test]
fn a_few_cases_of_the_ring_pass() {
    let mut arguments = vec!["--cases", "3", "--start", "edge"];
    RING.iter().for_each(|op| arguments.extend(["--only", op]));
    if let Some(output) = rig(&arguments) {
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn a_few_cases_of_whole_attachments_pass() {
    let mut arguments = vec!["--cases", "2"];
    BUS.iter().for_each(|op| arguments.extend(["--only", op]));
    if let Some(output) = rig(&arguments) {
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn every_mutant_is_caught_and_the_faithful_one_is_not() {
    let list = rig(&["--list"]).expect("a list needs no tracing");
    let list = String::from_utf8(list.stdout).expect("text");
    let mutants: Vec<&str> = list.lines().filter_map(|line| line.strip_prefix("mutant ")).collect();
    assert!(mutants.len() >= 8, "{list}");
    for mutant in mutants {
        let (op, cases) = match mutant {
            "faithful" => ("publish", "10"),
            // Only between two stores is there something to see.
            "stamp-after-swap" => ("publish", "1000"),
            "payload-after-swap" => ("publish", "100"),
            "reclaimed-late" => ("publish-ring", "20"),
            "store-instead-of-swap" => ("publish+publish", "40"),
            _ => ("publish", "20"),
        };
        let arguments = ["--mutant", mutant, "--only", op, "--cases", cases, "--start", "mid"];
        let Some(output) = rig(&arguments) else { return };
        let code = output.status.code();
        if mutant == "faithful" {
            assert_eq!(code, Some(0), "{}", text(&output));
        } else {
            assert_eq!(code, Some(1), "{mutant} was not caught: {}", text(&output));
        }
    }
}
