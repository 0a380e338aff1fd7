//! What an agent does before its runtime starts: it becomes the process that inherits orphans, and has a keeper.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::keeper::{self, sys};

/// The keeper that runs beside this agent. This process is its parent, and reaps it by [`sys::reap_one`].
#[derive(Debug)]
pub(super) struct KeeperProcess {
    pub(super) pid: i32,
    /// Its end closes when the keeper dies, and this one's end is the keeper's order to end everything.
    pub(super) socket: UnixStream,
}

/// Prepares the process and starts the keeper.
///
/// # Errors
///
/// What the system refused.
pub(super) fn become_agent() -> io::Result<KeeperProcess> {
    for signal in IGNORED {
        sys::ignore_signal(signal);
    }
    // Fails when the process leads its group already, as it does where a spawner has made it a session.
    let _ = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true)?;
    nix::sys::prctl::set_name(c"efarun-agent")?;
    start_keeper()
}

/// Forks the keeper. A program of its own would be loaded and linked anew, which took 2 ms of a core on every node of every
/// launch.
fn start_keeper() -> io::Result<KeeperProcess> {
    let (socket, theirs) = UnixStream::pair()?;
    let pid = sys::fork_running(|| sys::end_at_once(keeper::keep(theirs.into()))).map_err(|errno| {
        io::Error::new(io::Error::from(errno).kind(), format!("starting the keeper: {errno}"))
    })?;
    Ok(KeeperProcess { pid, socket })
}

/// See [`super`]: the head decides what these mean. Ranks get their default actions back.
const IGNORED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
