//! What agent and keeper say to each other, as frames over the socket between them.
//!
//! An order to fork carries the rank's file descriptors as ancillary data of its first bytes, in the order of
//! [`RANK_FDS`].

use serde::{Deserialize, Serialize};

use efarun_wire::Rank;
use efarun_wire::message::{RankStatus, ResourceLimit};

/// Agent to keeper. The end of the socket means that the agent is gone: every descendant is ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperOrder {
    /// Start a rank. Answered by [`KeeperReport::Forked`] or [`KeeperReport::ForkFailed`].
    Fork(Box<ForkOrder>),
    /// Deliver a signal to each rank's process group.
    Signal {
        /// The signal's number on Linux.
        number: i32,
    },
    /// End every descendant: the signal, the grace, KILL. Answered by [`KeeperReport::Reaped`], or by
    /// [`KeeperReport::Stuck`] for what the kernel does not let go. A second order shortens the grace of the first.
    End {
        /// Between the signal and KILL, in milliseconds. 0 means KILL at once.
        grace_ms: u32,
        /// As in [`efarun_wire::message::HeadMessage::End`].
        signal: i32,
    },
}

/// A rank to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkOrder {
    /// The rank.
    pub rank: Rank,
    /// A path, or a name to be looked for in `search_path`, then in the PATH of `env`.
    pub program: Vec<u8>,
    /// Folders with `:` between; may be empty.
    pub search_path: Vec<u8>,
    /// Its arguments, without the program itself.
    pub args: Vec<Vec<u8>>,
    /// Its environment, complete.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder it starts in.
    pub wdir: Vec<u8>,
    /// Whether another folder will not do.
    pub wdir_required: bool,
    /// The CPUs that it may run on; none means those that the keeper may.
    pub cpus: Vec<u32>,
    /// What it may use at least.
    pub limits: Vec<ResourceLimit>,
}

/// Keeper to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeeperReport {
    /// The rank runs its program. Comes before the rank's [`KeeperReport::Exited`].
    Forked {
        /// The rank.
        rank: Rank,
        /// Its process id.
        pid: i32,
        /// The folder it was started in, where that is not the one asked for.
        other_wdir: Option<Vec<u8>>,
    },
    /// The rank could not be started; nothing of it is left.
    ForkFailed {
        /// The rank.
        rank: Rank,
        /// The step that failed: `fork`, `chdir`, `execve`, …
        call: String,
        /// What it was about.
        subject: Vec<u8>,
        /// The error number on Linux.
        errno: i32,
    },
    /// A rank ended. Comes once per rank.
    Exited {
        /// The rank.
        rank: Rank,
        /// Its status.
        status: RankStatus,
        /// How long it ran, in milliseconds.
        ran_ms: u64,
        /// Whether the keeper had been told to end it.
        ended_by_launcher: bool,
    },
    /// The keeper has no descendant.
    Reaped {
        /// How many ranks it has reaped since it started.
        ranks: u32,
        /// How many other descendants, outside of running ranks' process groups, it had to end.
        strays: u32,
    },
    /// These processes outlived KILL; the keeper goes on trying until its agent is gone.
    Stuck {
        /// One fragment each: `process 123 (dd) in state D`.
        survivors: Vec<String>,
    },
}

/// The file descriptors that come with a fork order, by the number that each has in the rank: standard input, output
/// and error, the socket to the agent, and the one to its PMI server.
pub const RANK_FDS: usize = 5;

/// The number that the socket to the agent has in a rank.
pub const RANK_AGENT_FD: i32 = 3;

/// The number that the socket to the PMI server has in a rank.
pub const RANK_PMI_FD: i32 = 4;
