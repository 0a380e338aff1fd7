//! Why a job failed, as the head reports it.
//!
//! Variants are split by who can act: whoever typed the command, whoever runs the hosts, whoever wrote the program,
//! or us. Each knows its [`ExitCause`].

use std::path::PathBuf;

use efarun_wire::Rank;
use efarun_wire::message::RankStatus;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::binding::BindError;
use crate::cli::CliExit;
use crate::env::EnvError;
use crate::exit_code::ExitCause;
use crate::hostfile::HostError;
use crate::mapping::MapError;
use crate::output::FilesError;
use crate::spawn::{SpawnError, fragment};
use crate::torchrun::NodesError;

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Whoever typed the command: the command line.
    #[error(transparent)]
    CommandLine(#[from] CliExit),
    /// Whoever typed the command: the hostfile cannot be read.
    #[error("the hostfile {} cannot be read: {}{}", .path.display(), fragment(.source), unreadable_hint(.source))]
    HostfileUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Whoever typed the command: a hostfile's or host list's content.
    #[error(transparent)]
    Hosts(#[from] HostError),
    /// Whoever typed the command: without this machine there is no host.
    #[error("--nolocal leaves no host: {}", if *.named == 1 { "the only one is this machine".to_owned() } else { format!("all {named} are this machine") })]
    NoHostButThis {
        /// How many hosts were named.
        named: usize,
    },
    /// Whoever typed the command: standard input is for a rank that there is not.
    #[error("--stdin {rank}: the job has {world_size} {}, and ranks are counted from 0", if *.world_size == 1 { "rank" } else { "ranks" })]
    NoSuchReader {
        /// The rank.
        rank: Rank,
        /// How many there are.
        world_size: u32,
    },
    /// Whoever typed the command: files for ranks' output cannot be made.
    #[error("--output-filename: {0}")]
    OutputFiles(#[from] FilesError),
    /// Whoever typed the command: hosts do not do for torchrun's nodes.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// Whoever typed the command: something that the job is to be recorded in cannot be written.
    #[error("{option} {subject}: {}", fragment(.source))]
    Record {
        /// The option.
        option: &'static str,
        /// The file or descriptor.
        subject: String,
        /// Why.
        source: std::io::Error,
    },
    /// Whoever typed the command: ranks and slots do not fit.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Whoever typed the command: ranks cannot be bound as asked for.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Whoever typed the command: the environment, or nodes that cannot share one.
    #[error(transparent)]
    Environment(#[from] EnvError),
    /// Whoever runs the host: no agent could be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Whoever runs the host: it was lost while the job ran.
    #[error("host {host} was lost: {cause}")]
    HostLost {
        /// The host as written.
        host: String,
        /// What was noticed, as a lowercase fragment: `its agent was silent for 10 s`, …
        cause: String,
    },
    /// Whoever runs the host: its agent gave up.
    #[error("host {host}: {reason}")]
    AgentFailed {
        /// The host as written.
        host: String,
        /// The agent's words.
        reason: String,
    },
    /// Nobody: hosts that were not waited for any longer, because others had failed.
    #[error("given up because of that; not connected by then: {}", .waiting_for.join("; "))]
    GivenUp {
        /// Each such host, and what was being waited for.
        waiting_for: Vec<String>,
    },
    /// Whoever runs the hosts: not every rank was started in time.
    #[error("not started after {waited_s} s (--start-timeout): {}", .waiting_for.join("; "))]
    StartTimedOut {
        /// How long.
        waited_s: u64,
        /// For each host that was waited for: which, and what for.
        waiting_for: Vec<String>,
    },
    /// Whoever wrote the program, or copied it to the hosts: a rank could not be started.
    #[error("rank {rank} on {host} was not started: {call} {subject}: {}{}", errno_text(*.errno), start_hint(.call, *.errno))]
    RankNotStarted {
        /// The rank.
        rank: Rank,
        /// Its host as written.
        host: String,
        /// The step that failed: `chdir`, `execve`, `fork`, …
        call: String,
        /// What it was about: the program, the folder.
        subject: String,
        /// The error number on Linux.
        errno: i32,
    },
    /// Whoever wrote the program: a rank failed.
    #[error("rank {rank} on {host}{} {} after {}", gpu_text(.gpu), status_text(*.status), duration_text(*.ran_ms))]
    RankFailed {
        /// The first rank that failed, in the head's order.
        rank: Rank,
        /// Its host as written.
        host: String,
        /// The PCI address of its GPU, where its node has any.
        gpu: Option<String>,
        /// How it ended.
        status: RankStatus,
        /// How long it ran.
        ran_ms: u64,
    },
    /// Whoever wrote the program: a rank ended the job on purpose.
    #[error("rank {rank} on {host} aborted the job with code {code}: {reason}")]
    RankAborted {
        /// The rank.
        rank: Rank,
        /// Its host as written.
        host: String,
        /// The code that it asked for.
        code: i32,
        /// Its reason.
        reason: String,
    },
    /// Whoever installed the program: its MPI library asks for PMIx, and no library that serves it is there.
    #[error(
        "rank {rank} on {host} was not started: its program is linked with {library}, which asks its launcher for PMIx, and without libpmix there is none to answer: {world_size} ranks would be {world_size} worlds of one\n  libpmix: {tried}\n  hint: `-x EFARUN_LIBPMIX=FILE` names a libpmix.so.2 (release 3 to 6), or Open MPI 4's libopen-pal.so.40; `-x EFARUN_MPI=any` starts the program all the same"
    )]
    Unserved {
        /// The first such rank.
        rank: Rank,
        /// Its host as written.
        host: String,
        /// The library.
        library: String,
        /// Where a libpmix was looked for, or what was wrong with those that there are.
        tried: String,
        /// How many ranks the job has.
        world_size: u32,
    },
    /// Whoever wrote the program: a rank did not do its part, and others wait for it.
    #[error("rank {rank} on {host} {how}")]
    RankBroke {
        /// The rank.
        rank: Rank,
        /// Its host as written.
        host: String,
        /// What it did.
        how: String,
    },
    /// Whoever typed the command: the time that was given is over.
    #[error("the job was ended after {seconds} s (--timeout)")]
    TimedOut {
        /// `--timeout`.
        seconds: f64,
    },
    /// Whoever typed the command: a signal told us to end the job.
    #[error("the job was ended by signal {}", signal_text(*.number))]
    Stopped {
        /// The signal.
        number: i32,
    },
    /// We, or the machine under us: a call of the head's failed.
    #[error("{what}: {source}")]
    Head {
        /// What was being done, as a lowercase fragment.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// We: something happened that must not.
    #[error("{what}; this is a fault of efarun, please report it")]
    Internal {
        /// What happened.
        what: String,
    },
}

/// One error, where several hosts may each have had their own.
impl From<LaunchError> for Vec<LaunchError> {
    fn from(error: LaunchError) -> Self {
        vec![error]
    }
}

impl LaunchError {
    /// Returns what the exit code says.
    pub fn exit_cause(&self) -> ExitCause {
        match self {
            LaunchError::CommandLine(exit) => exit.exit_cause(),
            LaunchError::HostfileUnreadable { .. }
            | LaunchError::Hosts(_)
            | LaunchError::NoHostButThis { .. }
            | LaunchError::OutputFiles(_)
            | LaunchError::Record { .. } => ExitCause::Data,
            LaunchError::Nodes(_)
            | LaunchError::Map(_)
            | LaunchError::Bind(_)
            | LaunchError::NoSuchReader { .. } => ExitCause::Usage,
            LaunchError::Environment(error) => error.exit_cause(),
            LaunchError::Spawn(error) if error.is_authentication() => ExitCause::Authentication,
            LaunchError::Spawn(SpawnError::OtherArchitecture { .. }) => ExitCause::Data,
            LaunchError::Spawn(_)
            | LaunchError::HostLost { .. }
            | LaunchError::AgentFailed { .. }
            | LaunchError::GivenUp { .. }
            | LaunchError::StartTimedOut { .. } => ExitCause::HostUnreachable,
            LaunchError::RankNotStarted { call, errno, .. } => not_started_cause(call, *errno),
            LaunchError::RankFailed { status: RankStatus::Code(0), .. } => ExitCause::RankCode(1),
            LaunchError::RankFailed { status, .. } => ExitCause::of_rank(*status),
            LaunchError::RankAborted { code, .. } => ExitCause::RankCode(*code),
            LaunchError::RankBroke { .. } => ExitCause::RankCode(1),
            LaunchError::Unserved { .. } => ExitCause::Data,
            LaunchError::TimedOut { .. } => ExitCause::TimedOut,
            LaunchError::Stopped { number } => ExitCause::LauncherSignal(*number),
            LaunchError::Head { .. } | LaunchError::Internal { .. } => ExitCause::Internal,
        }
    }
}

/// Returns how a rank ended, for a person: `exited with code 3`, `was killed by signal 11 (SIGSEGV), core dumped`.
pub fn status_text(status: RankStatus) -> String {
    match status {
        RankStatus::Code(code) => format!("exited with code {code}"),
        RankStatus::Signal { number, core } => {
            let dumped = if core { ", core dumped" } else { "" };
            format!("was killed by signal {}{dumped}", signal_text(number))
        }
    }
}

/// Returns `9 (SIGKILL)`.
pub fn signal_text(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => format!("{number} ({})", signal.as_str()),
        Err(_) => number.to_string(),
    }
}

/// Shells give 127 to a program that is not there and 126 to one that they may not run; so do we.
fn not_started_cause(call: &str, errno: i32) -> ExitCause {
    match (call.starts_with("exec"), Errno::from_raw(errno)) {
        (true, Errno::ENOENT | Errno::ENOTDIR) => ExitCause::ProgramNotFound,
        (true, _) => ExitCause::ProgramNotExecutable,
        (false, _) => ExitCause::HostUnreachable,
    }
}

fn unreadable_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => {
            "\n  hint: its path is relative to the folder that efarun is started in"
        }
        std::io::ErrorKind::IsADirectory => "\n  hint: --hostfile takes a file with one host per line",
        std::io::ErrorKind::PermissionDenied => "\n  hint: `ls -l` shows who may read it",
        _ => "",
    }
}

fn errno_text(errno: i32) -> &'static str {
    Errno::from_raw(errno).desc()
}

fn start_hint(call: &str, errno: i32) -> &'static str {
    match (call.starts_with("exec"), Errno::from_raw(errno)) {
        (true, Errno::ENOENT | Errno::ENOTDIR) => {
            "\n  hint: every host needs the program, and what it is run by, under the same path: copy it there, or use a folder that all share"
        }
        (true, Errno::EACCES) => {
            "\n  hint: the program must be a file that this user may execute there (`chmod +x`), not on a noexec mount"
        }
        (true, Errno::ENOEXEC) => {
            "\n  hint: `file` says what it is: a program must be built for that host's CPU, and a script begins with `#!`"
        }
        (false, Errno::ENOENT) if call == "chdir" => {
            "\n  hint: --wdir names a folder that every host must have"
        }
        (false, Errno::EADDRINUSE) if call == "bind" => {
            "\n  hint: without --master-port a port is taken that nobody has; `ss -tlnp` there shows who has this one"
        }
        _ => "",
    }
}

fn gpu_text(gpu: &Option<String>) -> String {
    gpu.as_ref().map_or_else(String::new, |gpu| format!(" (GPU {gpu})"))
}

fn duration_text(ran_ms: u64) -> String {
    if ran_ms < 1000 {
        format!("{ran_ms} ms")
    } else {
        format!("{}.{} s", ran_ms / 1000, ran_ms % 1000 / 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn killed_rank_is_reported_with_rank_host_and_signal() {
        let error = LaunchError::RankFailed {
            rank: Rank(5),
            host: "node-b".to_owned(),
            gpu: Some("0000:10:1c.0".to_owned()),
            status: RankStatus::Signal { number: 11, core: true },
            ran_ms: 3240,
        };
        assert_eq!(
            error.to_string(),
            "rank 5 on node-b (GPU 0000:10:1c.0) was killed by signal 11 (SIGSEGV), core dumped after 3.2 s"
        );
        assert_eq!(error.exit_cause().code(), 139);
    }

    #[test]
    fn missing_program_is_127_and_unexecutable_is_126_and_missing_folder_neither() {
        let not_started = |call: &str, errno: Errno| {
            let error = LaunchError::RankNotStarted {
                rank: Rank(0),
                host: "a".to_owned(),
                call: call.to_owned(),
                subject: "./train".to_owned(),
                errno: errno as i32,
            };
            error.exit_cause().code()
        };
        assert_eq!(not_started("execve", Errno::ENOENT), 127);
        assert_eq!(not_started("execve", Errno::EACCES), 126);
        assert_eq!(not_started("chdir", Errno::ENOENT), 69);
    }

    #[test]
    fn unknown_host_key_is_an_authentication_failure() {
        let error = LaunchError::Spawn(SpawnError::UnknownHostKey {
            host: "a".to_owned(),
            destination: "a".to_owned(),
            key_type: "ssh-ed25519".to_owned(),
            fingerprint: "SHA256:x".to_owned(),
            files: "~/.ssh/known_hosts".to_owned(),
        });
        assert_eq!(error.exit_cause().code(), 77);
    }
}
