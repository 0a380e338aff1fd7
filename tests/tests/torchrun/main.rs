//! `efarun torchrun`: that each of torchrun's options does to real ranks what it says.
//!
//! Ranks are `worker.py`, a script of Python's standard library alone: torch is on no machine that tests run on.

mod by_hand;
mod hosts;
mod line;
mod logs;
mod restarts;
mod standalone;

use std::path::{Path, PathBuf};

use efarun_tests::{Job, Outcome, Testbed, program};
use serde_json::Value;

/// torchrun's dialect on this machine.
fn here() -> Job<'static> {
    Job::here(program!("efarun-under-test")).dialect("torchrun")
}

/// torchrun's dialect on the head of a testbed.
fn on(testbed: &Testbed) -> Job<'_> {
    Job::on(testbed, program!("efarun-under-test")).dialect("torchrun")
}

/// The words of a line.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The script.
fn worker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torchrun/worker.py")
}

/// Runs the script with these options and arguments to its end.
fn run(job: Job<'_>, options: &str, args: &str) -> Outcome {
    job.options(words(options)).program(&worker(), words(args)).run()
}

/// What a rank said of itself.
#[derive(Debug)]
struct Report(Value);

impl Report {
    /// What the ranks of a job that went well said, by rank.
    #[track_caller]
    fn all(outcome: &Outcome) -> Vec<Report> {
        outcome.assert_code(0);
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let mut reports: Vec<Report> = outcome.stdout().lines().map(|line| Report(parse(line))).collect();
        reports.sort_by_key(|report| report.var("RANK").parse::<u32>().expect("RANK is a number"));
        reports
    }

    /// A variable, which must be there.
    #[track_caller]
    fn var(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("no {name} in {}", self.0["env"]))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0["env"][name].as_str()
    }

    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn args(&self) -> Vec<&str> {
        self.0["argv"].as_array().expect("a list").iter().filter_map(Value::as_str).collect()
    }
}
