//! One process per node that forks ranks and ends them.
//!
//! A keeper is forked by its node's agent, which has one thread then, and does what the agent orders over a socket
//! ([`protocol`]). It is kept small so that it does not fail: one thread, no runtime, no library loaded later.
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
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// What a keeper is called where the agent has its own first argument: for whoever looks at a list of processes.
const ARGUMENT: &str = "__keeper";

/// Keeps ranks for the agent at the other end of the socket, until the agent is gone and no descendant is left. Gives the
/// process's exit code.
///
/// To be called in a process that its agent has just forked for this.
pub(crate) fn keep(agent: OwnedFd) -> i32 {
    match prepare(agent) {
        Ok(keeper) => {
            keeper.run();
            0
        }
        Err(error) => {
            crate::agent::complain(&format!("the keeper cannot start: {error}"));
            1
        }
    }
}

fn prepare(agent: OwnedFd) -> io::Result<run::Keeper> {
    // Standard input and output are the agent's channel, whose end must not wait for this process or a rank.
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let agent = agent_socket::out_of_the_way(agent.as_fd())?;
    close_inherited(&agent)?;
    // The others are ignored since the agent started.
    sys::ignore_signal(nix::sys::signal::Signal::SIGTERM);
    nix::sys::prctl::set_name(c"efarun-keeper")?;
    sys::show_command_line(&["efarun", ARGUMENT]);
    nix::sys::prctl::set_child_subreaper(true)?;
    // The agent's children lead no group, so that this cannot fail; a terminal's signals do not come here.
    let _ = nix::unistd::setsid();
    Ok(run::Keeper::new(agent)?)
}

/// Closes what the agent has open, and what its starter may have left open: ranks must not inherit it. Nothing that owns one
/// of these descriptors is dropped here: the agent's values are those of its own process.
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
