//! One process per node that forks ranks and ends them.

use std::process::ExitCode;

/// The launcher's first argument that makes it a keeper.
pub const ARGUMENT: &str = "__keeper";

/// Runs a keeper for the agent that started it.
pub fn keeper_main() -> ExitCode {
    ExitCode::SUCCESS
}
