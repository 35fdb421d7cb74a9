//! Some hundreds of seeds, and the command's own manners.

use std::process::{Command, Output};

fn oracle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_shm-bus-oracle")).args(arguments).output().expect("the oracle starts")
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn hundreds_of_seeds_pass() {
    let output = oracle(&["--seeds", "240", "--jobs", "6", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let counts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    println!("{counts}");
    for name in [
        "messages",
        "deliveries",
        "tokens",
        "refused",
        "deaths",
        "interrupted",
        "takeovers",
        "evictions",
        "gaps",
    ] {
        assert!(counts[name].as_u64().is_some_and(|n| n > 0), "no {name}: {counts}");
    }
}

#[test]
fn a_kept_log_is_judged_as_its_run_was_and_a_doctored_one_is_not() {
    let directory = std::env::temp_dir().join(format!("shm-bus-oracle-kept-{}", std::process::id()));
    let output = oracle(&["--seed", "7", "--keep", directory.to_str().expect("text")]);
    assert!(output.status.success(), "{}", text(&output));
    let log = directory.join("seed-7.jsonl");
    let again = oracle(&["judge", log.to_str().expect("text")]);
    assert!(again.status.success(), "{}", text(&again));
    let lines = std::fs::read_to_string(&log).expect("a log");
    // Nobody was told of the last message that was published.
    let (kept, removed): (Vec<&str>, Vec<&str>) =
        lines.lines().partition(|line| !line.contains("\"published\""));
    assert!(!removed.is_empty());
    std::fs::write(&log, kept.join("\n")).expect("a log");
    let doctored = oracle(&["judge", log.to_str().expect("text")]);
    assert_eq!(doctored.status.code(), Some(1), "{}", text(&doctored));
    std::fs::remove_dir_all(&directory).expect("it is there");
}

#[test]
fn wrong_arguments_are_explained() {
    for wrong in [&["--seeds", "x"][..], &["--processes", "0"], &["--nonsense"], &["nonsense"], &["judge"]] {
        let output = oracle(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", text(&output));
        assert!(text(&output).contains("Usage:"));
    }
    let help = oracle(&["--help"]);
    assert!(help.status.success() && text(&help).contains("--seed"));
}
