//! One process per node that stands for the head there.
//!
//! An agent is started by a [`crate::spawn`] with its channel to the head as standard input and output. It starts
//! the node's [`crate::keeper`], reads its order, reports the node's facts, and then does what the head says: dial
//! the head over TCP, launch ranks, carry what they write, read and say out of band, end them.
//!
//! Promised:
//! - The end of the channel, of the TCP link, or of the lease ends the ranks: TERM, one second,
//!   KILL. The lease runs from the launch on.
//! - When the keeper dies its descendants become the agent's, which ends them all and says so.
//! - What ranks write is read only as fast as the head grants credit; what they say is untrusted, and a rank that
//!   does not follow the protocol loses its socket, with a note to the user, and nothing else happens.
//! - `Reaped` is said when no process of the job is left on the node.
//!
//! Signals: TERM ends the ranks in good order and then the agent. INT, HUP, QUIT and a terminal's stop signals are
//! ignored: what a Ctrl-C means is decided by the head, which says it over the link.
//!
//! It cannot be stopped (SIGSTOP) without the head taking it for lost when the lease is over.

mod channel;
pub(crate) mod dial;
mod error_file;
mod evidence;
mod facts;
mod farewell;
mod introduction;
mod keeper_link;
mod launch;
mod lease;
mod leftovers;
mod master_port;
mod pmi_links;
mod pmi_port;
mod pmix_helper;
mod pmix_links;
mod pmix_survey;
mod positions;
mod rank_folders;
mod rank_links;
mod ranks;
mod serve;
mod setup;
mod sightings;
mod stacks;
mod streams;
mod topology;

use std::process::ExitCode;

/// The launcher's first argument that makes it an agent.
pub const ARGUMENT: &str = "__agent";

/// Runs an agent on this process's standard input and output until the head is done or lost. The code is 0 when the
/// head said goodbye.
///
/// To be called before anything of the process has started a thread: the keeper is forked here.
pub fn agent_main() -> ExitCode {
    let keeper = match setup::become_agent() {
        Ok(keeper) => keeper,
        Err(error) => {
            complain(&format!("the agent cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("the agent cannot start its runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve::serve(keeper));
    // Nothing that is left in it matters any more, and a thread of it may hang in a file system.
    runtime.shutdown_background();
    code
}

/// Writes one line to standard error, which the head reads as long as the channel lives.
pub(crate) fn complain(line: &str) {
    use std::io::Write;
    // Without a reader there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "efarun: {line}");
}
