//! The harness itself: a leak is seen, wherever it is. Without this, "nothing was left" would prove nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use efarun_tests::{Job, Need, Testbed, program, require, wait_until_gone};
use nix::sys::signal::Signal;

#[test]
fn what_a_killed_launcher_leaves_behind_is_seen() {
    // As a launcher, this leaves a child, and an orphan in a session of its own.
    let job = Job::here(program!("rank_children")).env("EFARUN_RANK", "0").start();
    job.wait_for_output("is up", 1);
    job.signal(Signal::SIGKILL);
    let outcome = job.wait();
    let left = &outcome.left_behind;
    left.iter().for_each(|process| process.signal(Signal::SIGKILL));
    assert_eq!(left.len(), 2, "{left:#?}");
}

#[test]
fn launcher_that_ends_alone_leaves_nothing_behind() {
    let outcome = Job::here(program!("rank_echo")).env("EFARUN_RANK", "0").stdin(b"x").run();
    outcome.assert_code(0);
}

#[test]
fn what_runs_on_a_host_is_seen_until_it_is_gone() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    assert_eq!(testbed.guests(), []);
    let mut child = up_on(&testbed, "h2");
    let guests = testbed.host("h2").guests();
    assert_eq!(guests.len(), 3, "{guests:#?}");
    assert_eq!(testbed.host("h1").guests(), []);
    guests.iter().for_each(|process| process.signal(Signal::SIGKILL));
    assert!(wait_until_gone(Duration::from_secs(5), || testbed.guests()).is_ok());
    child.wait().unwrap();
}

#[test]
fn testbed_that_is_dropped_ends_what_runs_on_it() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let folder = testbed.folder().to_owned();
    let mut child = up_on(&testbed, "h1");
    drop(testbed);
    child.wait().unwrap();
    assert!(!folder.exists());
}

/// Runs `rank_children` on a host, until all three of its processes are there.
fn up_on(testbed: &Testbed, host: &str) -> Child {
    let mut command = testbed.command(host, program!("rank_children"));
    let mut child =
        command.env("EFARUN_RANK", "0").stdout(Stdio::piped()).spawn().expect("the testbed runs commands");
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a rank writes to its pipe");
    assert_eq!(line, "rank 0 is up\n");
    child
}
