//! `rank_children [deaf]`: starts a child, and a grandchild in a session of its own; all three hang. The rank says that
//! it is up when the other two have said so.
//!
//! `rank_children __hang`, `rank_children __orphan` are those two: the second is left behind by a parent that exits.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use efarun_tests::fixture;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("__hang") => {
            fixture::say("up");
            fixture::hang();
        }
        Some("__orphan") => {
            nix::unistd::setsid().expect("a child leads no group");
            let error = Command::new(this_program()).arg("__hang").exec();
            panic!("exec: {error}");
        }
        mode => {
            if mode == Some("deaf") {
                fixture::ignore_signals();
            }
            wait_until_up(&mut Command::new(this_program()), "__hang");
            // The shell exits at once, so the grandchild is an orphan from its birth.
            let background = format!("'{}' __orphan &", this_program().display());
            wait_until_up(Command::new("sh").arg("-c").arg(background), "sh");
            fixture::say(&format!("rank {} is up", fixture::rank()));
            fixture::hang();
        }
    }
}

/// Starts it and reads the line that says it runs.
#[expect(
    clippy::zombie_processes,
    reason = "the rank never waits for them; what is to end them is under test"
)]
fn wait_until_up(command: &mut Command, arg: &str) {
    let mut child = command.arg(arg).stdout(Stdio::piped()).spawn().expect("children can be started");
    let stdout = child.stdout.take().expect("stdout is a pipe");
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a child writes to its pipe");
    assert_eq!(line, "up\n");
}

fn this_program() -> std::path::PathBuf {
    std::env::current_exe().expect("this program has a path")
}
