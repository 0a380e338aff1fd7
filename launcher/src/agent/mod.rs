//! One process per node that stands for the head there.

use std::process::ExitCode;

/// The launcher's first argument that makes it an agent.
pub const ARGUMENT: &str = "__agent";

/// Runs an agent on this process's standard input and output until the head is done or lost.
pub fn agent_main() -> ExitCode {
    ExitCode::SUCCESS
}
