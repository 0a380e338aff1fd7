//! mpirun's lines with the name changed: that each option does to real ranks what it says.
//!
//! Whether a line is understood is tested beside the parser; here an option that was parsed and then forgotten fails.

mod hosts_named;
mod output;
mod placement;
mod programs;
mod recipes;
mod shells;

use efarun_tests::echo::Echo;
use efarun_tests::{Job, Outcome, Testbed, program};

/// The launcher on this machine, which may have fewer cores than a test has ranks.
fn here() -> Job<'static> {
    Job::here(program!("efarun-under-test")).options(["--oversubscribe"])
}

/// The launcher on the head of a testbed.
fn on(testbed: &Testbed) -> Job<'_> {
    Job::on(testbed, program!("efarun-under-test"))
}

/// What the ranks of a job that went well say of themselves, in order.
#[track_caller]
fn echoes(outcome: &Outcome) -> Vec<Echo> {
    outcome.assert_code(0);
    Echo::all(outcome)
}

/// Which host each rank ran on.
fn hosts(echoes: &[Echo]) -> Vec<&str> {
    echoes.iter().map(|echo| echo.hostname.as_str()).collect()
}

/// The words of a line of options.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

const NO_ARGS: [&str; 0] = [];

#[test]
fn hosts_are_converted_and_lines_translated_without_running_anything() {
    let said = |line: &str| {
        let launcher = std::process::Command::new(program!("efarun-under-test")).args(words(line)).output();
        let output = launcher.expect("the launcher can be run");
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).expect("hosts and options are text")
    };
    assert_eq!(said("hosts p4d[01-02]:8 --to mpich"), "p4d01:8\np4d02:8\n");
    let translated = said("translate mpirun -np 4 --bynode ./p");
    assert_eq!(translated.lines().next(), Some("efarun --map-by node -n 4 ./p"));
}
