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

/// What `--list` prints: operations, then mutants.
fn listed() -> (Vec<String>, Vec<String>) {
    let list = rig(&["--list"]).expect("a list needs no tracing");
    let list = String::from_utf8(list.stdout).expect("text");
    let (mutants, operations): (Vec<&str>, Vec<&str>) = list.lines().partition(|l| l.starts_with("mutant "));
    let mutants = mutants.iter().map(|line| line["mutant ".len()..].to_owned());
    (operations.iter().map(|line| (*line).to_owned()).collect(), mutants.collect())
}

/// The first runs of these take long: hundreds of thousands of instructions, most of them outside of the bus.
const LONG: [&str; 3] = ["bus-attach", "master-attach", "take-over-closed"];

#[test]
fn a_few_cases_of_everything_pass() {
    let (operations, _) = listed();
    assert!(operations.len() > 30, "{operations:?}");
    let mut arguments = vec!["--cases", "4", "--pairs", "3"];
    operations.iter().filter(|o| !LONG.contains(&o.as_str())).for_each(|o| arguments.extend(["--only", o]));
    if let Some(output) = rig(&arguments) {
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn every_mutant_is_caught_and_the_faithful_one_is_not() {
    let (_, mutants) = listed();
    assert!(mutants.len() >= 8, "{mutants:?}");
    for mutant in &mutants {
        let op = match mutant.as_str() {
            "reclaimed-late" => "publish-ring",
            "store-instead-of-swap" => "publish+publish",
            _ => "publish",
        };
        let arguments =
            ["--mutant", mutant, "--only", op, "--cases", "400", "--pairs", "12", "--start", "mid"];
        let Some(output) = rig(&arguments) else { return };
        let code = output.status.code();
        if mutant == "faithful" {
            assert_eq!(code, Some(0), "{}", text(&output));
        } else {
            assert_eq!(code, Some(1), "{mutant} was not caught: {}", text(&output));
        }
    }
}
