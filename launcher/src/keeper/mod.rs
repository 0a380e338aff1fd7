//! One process per node that forks ranks and ends them.
//!
//! A keeper is started by its node's agent, with a socket as its standard input, and does what the agent orders over
//! it ([`protocol`]). It is kept small so that it does not fail: one thread, no runtime, no library loaded later.
//!
//! Promised:
//! - Ranks get exactly the descriptors, environment and folder that were ordered, a process group of their own, and
//!   default signals. A start that fails says which call failed, on what, and why.
//! - Each rank's end is reported once.
//! - An ordered end reaches every descendant: grandchildren, and daemons with a session of their own, which a
//!   subreaper inherits. So does the end of the agent, after 500 ms of grace.
//! - When the keeper itself is killed the ranks get KILL from the kernel, and whatever else descends from it becomes
//!   the agent's, which is a subreaper too.
//!
//! It ignores signals that can be ignored: who wants the node's part of the job to end asks the agent.
//!
//! It cannot end a process that the kernel holds in an uninterruptible wait, and says so; nor one that has become
//! another user's.

mod agent_socket;
mod child;
pub(crate) mod descendants;
pub(crate) mod ending;
mod fork;
pub(crate) mod limits;
mod program_fault;
pub mod protocol;
mod run;
pub(crate) mod sys;

pub(crate) use agent_socket::from_standard_input;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

/// The launcher's first argument that makes it a keeper.
pub const ARGUMENT: &str = "__keeper";

/// Runs a keeper for the agent that started it, until the agent is gone and no descendant is left.
///
/// To be called before anything of the process has started a thread.
pub fn keeper_main() -> ExitCode {
    match prepare() {
        Ok(keeper) => {
            keeper.run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            crate::agent::complain(&format!("the keeper cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> io::Result<run::Keeper> {
    let agent = agent_socket::from_standard_input()?;
    close_inherited(&agent)?;
    // The others are ignored since the agent started, and stay so across exec.
    sys::ignore_signal(nix::sys::signal::Signal::SIGTERM);
    nix::sys::prctl::set_name(c"efarun-keeper")?;
    nix::sys::prctl::set_child_subreaper(true)?;
    // The agent's children lead no group, so that this cannot fail; a terminal's signals do not come here.
    let _ = nix::unistd::setsid();
    Ok(run::Keeper::new(agent)?)
}

/// Closes whatever the agent's starter may have left open: ranks must not inherit it.
fn close_inherited(agent: &OwnedFd) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > STANDARD_ERROR && fd != agent.as_raw_fd())
        .collect();
    for fd in open {
        // The folder that was just read is in the list, and closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

const STANDARD_ERROR: RawFd = 2;
