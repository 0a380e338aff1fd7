//! One process per node that stands for the head there.

use std::process::ExitCode;

/// The launcher's first argument that makes it an agent.
pub const ARGUMENT: &str = "__agent";

/// Runs an agent on this process's standard input and output until the head is done or lost.
pub fn agent_main() -> ExitCode {
    ExitCode::SUCCESS
}

/// Writes one line to standard error, which the head reads as long as the channel lives.
pub(crate) fn complain(line: &str) {
    use std::io::Write;
    // Without a reader there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "efarun: {line}");
}
