//! What a rank is given at birth, made from the head's plan: pure, but for the pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use efarun_wire::env::EFARUN_AGENT_FD;
use efarun_wire::message::{AppPlan, LaunchPlan, RankPlan};

use crate::env::PMI_FD;
use crate::keeper::protocol::{ForkOrder, RANK_AGENT_FD, RANK_FDS, RANK_PMI_FD};

/// The agent's ends of what a rank has as descriptors 0 to 4.
#[derive(Debug)]
pub(super) struct OwnEnds {
    /// Only of the rank that reads the job's input.
    pub(super) stdin: Option<pipe::Sender>,
    /// None where it goes into a file.
    pub(super) stdout: Option<pipe::Receiver>,
    /// None where standard error goes the way of standard output, or into a file.
    pub(super) stderr: Option<pipe::Receiver>,
    pub(super) socket: UnixStream,
    /// What PMI_FD names there.
    pub(super) pmi: UnixStream,
}

/// Makes a rank's descriptors, in the order of their numbers there. All are close-on-exec on this side, and only the
/// agent's ends are non-blocking.
///
/// # Errors
///
/// The call that failed, and its error.
pub(super) fn descriptors(
    reads_input: bool,
    merge_stderr: bool,
) -> Result<([OwnedFd; RANK_FDS], OwnEnds), (&'static str, io::Error)> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| ("pipe2", io::Error::from(errno)));
    let (stdin, own_stdin) = if reads_input {
        let (reader, writer) = pipe()?;
        let own = pipe::Sender::from_owned_fd(writer).map_err(|error| ("pipe2", error))?;
        (reader, Some(own))
    } else {
        let null = std::fs::File::open("/dev/null").map_err(|error| ("open /dev/null", error))?;
        (null.into(), None)
    };
    let (own_stdout, stdout) = pipe()?;
    // Fewer turns between a rank that writes much and us. A user may be denied more than the usual 64 KiB, which do, too.
    let _ = fcntl(&own_stdout, FcntlArg::F_SETPIPE_SZ(STDOUT_PIPE_BYTES));
    let (own_stderr, stderr) = if merge_stderr {
        (None, stdout.try_clone().map_err(|error| ("dup", error))?)
    } else {
        let (own, stderr) = pipe()?;
        (Some(own), stderr)
    };
    let (own_socket, socket) = socket_pair().map_err(|error| ("socketpair", error))?;
    let (own_pmi, pmi) = socket_pair().map_err(|error| ("socketpair", error))?;
    let own = OwnEnds {
        stdin: own_stdin,
        stdout: Some(pipe::Receiver::from_owned_fd(own_stdout).map_err(|error| ("pipe2", error))?),
        stderr: own_stderr
            .map(pipe::Receiver::from_owned_fd)
            .transpose()
            .map_err(|error| ("pipe2", error))?,
        socket: own_socket,
        pmi: own_pmi,
    };
    Ok(([stdin, stdout, stderr, socket, pmi], own))
}

/// What a rank may have written before somebody reads it.
const STDOUT_PIPE_BYTES: i32 = 256 << 10;

/// The agent's end, and the rank's.
fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (own, theirs) = StdUnixStream::pair()?;
    own.set_nonblocking(true)?;
    Ok((UnixStream::from_std(own)?, theirs.into()))
}

/// Makes the keeper's order for one rank of the plan; none where the plan lacks the rank's program.
pub(super) fn fork_order(plan: &LaunchPlan, rank: &RankPlan) -> Option<ForkOrder> {
    let app = plan.apps.get(usize::try_from(rank.app).ok()?)?;
    Some(ForkOrder {
        rank: rank.rank,
        program: app.program.clone(),
        args: app.args.clone(),
        search_path: app.search_path.clone(),
        env: environment(app, rank, plan.map.world == 0),
        wdir: app.wdir.clone(),
        wdir_required: app.wdir_required,
        cpus: rank.cpus.clone(),
        limits: plan.limits.clone(),
    })
}

/// The shared environment, the rank's own over it, and the numbers of its sockets over both; each name once. The socket to
/// the agent is for a World of the runtime, which has no ranks but those of the job's first world.
fn environment(app: &AppPlan, rank: &RankPlan, has_world: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let sockets = [(EFARUN_AGENT_FD, RANK_AGENT_FD), (PMI_FD, RANK_PMI_FD)]
        .map(|(name, number)| (name.as_bytes().to_vec(), number.to_string().into_bytes()));
    let is_socket = |name: &[u8]| sockets.iter().any(|(socket, _)| socket == name);
    let ranks_own = rank.env.iter().filter(|(name, _)| !is_socket(name));
    let given = &sockets[if has_world { 0 } else { 1 }..];
    let own: Vec<_> = ranks_own.chain(given).cloned().collect();
    let is_own = |name: &[u8]| own.iter().any(|(own_name, _)| own_name == name) || is_socket(name);
    let mut env: Vec<_> = app.env.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    env.extend(own);
    env
}

#[cfg(test)]
mod tests {
    use efarun_wire::Rank;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(Vec<u8>, Vec<u8>)> {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_ranks_own_environment_wins_and_no_name_is_there_twice() {
        let rank = RankPlan {
            rank: Rank(1),
            local_rank: 1,
            app: 0,
            cpus: Vec::new(),
            env: pairs(&[("A", "own"), ("EFARUN_AGENT_FD", "9")]),
        };
        let app = AppPlan {
            program: b"prog".to_vec(),
            args: vec![],
            search_path: vec![],
            env: pairs(&[("A", "shared"), ("B", "shared"), ("EFARUN_AGENT_FD", "7")]),
            wdir: b"/".to_vec(),
            wdir_required: true,
        };
        assert_eq!(
            environment(&app, &rank, true),
            pairs(&[("B", "shared"), ("A", "own"), ("EFARUN_AGENT_FD", "3"), ("PMI_FD", "4")])
        );
        let spawned = pairs(&[("B", "shared"), ("A", "own"), ("PMI_FD", "4")]);
        assert_eq!(environment(&app, &rank, false), spawned);
    }
}
