//! What users get wrong, and what is wrong with their hosts: the whole of what they are told, the exit code, how soon
//! it comes, and that nothing stays behind.

mod boot;
mod cache;
mod hosts;
mod keys;
mod network;
mod program;
mod reach;
mod shell;

use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Outcome, Testbed, program};

/// The launcher on the head of a testbed.
fn on(testbed: &Testbed) -> Job<'_> {
    Job::on(testbed, program!("efarun-under-test"))
}

/// The launcher on this machine.
fn here() -> Job<'static> {
    Job::here(program!("efarun-under-test"))
}

/// A job of one rank per slot of these hosts that prints the hosts' names.
fn hostnames<'a>(testbed: &'a Testbed, hosts: &str) -> Job<'a> {
    on(testbed).options(["-H", hosts]).program(Path::new("/bin/hostname"), NO_ARGS)
}

/// Asserts everything about a job that ended in time: its code, all of standard error, and that nothing is left.
///
/// In `stderr`, `…` stands for whatever comes there within a line. [`Outcome::told`] says what is passed over.
#[track_caller]
fn assert_told(outcome: &Outcome, code: i32, stderr: &str) {
    outcome.assert_code(code);
    assert!(is_like(&outcome.told(), stderr), "expected on stderr:\n{stderr}\n\n{}", outcome.shown());
    assert!(outcome.duration < IN_TIME, "it took too long: {}", outcome.shown());
}

fn is_like(text: &str, pattern: &str) -> bool {
    let (lines, patterns): (Vec<&str>, Vec<&str>) = (text.lines().collect(), pattern.lines().collect());
    lines.len() == patterns.len()
        && lines.iter().zip(patterns).all(|(line, pattern)| line_is_like(line, pattern))
}

fn line_is_like(line: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once('…') else { return line == pattern };
    let Some(rest) = line.strip_prefix(before) else { return false };
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| line_is_like(&rest[at..], after))
}

/// The lines that ranks wrote, sorted.
fn sorted_lines(outcome: &Outcome) -> Vec<String> {
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Longer than anything takes that is not waited for, on a busy machine.
const IN_TIME: Duration = Duration::from_secs(15);

const NO_ARGS: [&str; 0] = [];

#[test]
fn a_pattern_stands_for_whole_lines() {
    assert!(is_like("a 12 b\nc", "a … b\nc") && is_like("a", "…a…"));
    assert!(!is_like("a\nb", "a") && !is_like("a b", "a …c") && !is_like("a", "b"));
}
