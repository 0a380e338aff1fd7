//! What an agent is told to start: programs, ranks, limits.

use serde::{Deserialize, Serialize};

use super::JobMap;
use crate::ids::{NodeId, Rank};
use crate::torchrun::RankFolders;

/// What an agent needs to start its node's ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The node's number among those that have ranks. Agents of hosts without ranks were let go, so that it may differ
    /// from the number that the agent introduced itself with.
    pub node: NodeId,
    /// The programs that ranks run; [`RankPlan::app`] chooses.
    pub apps: Vec<AppPlan>,
    /// The ranks of this node, in order of local rank.
    pub ranks: Vec<RankPlan>,
    /// The size of the world that the job begins with, for the out-of-band layer.
    pub world_size: u32,
    /// Where every rank of their world is.
    pub map: JobMap,
    /// What whoever asked for this world wants its ranks to find among their keys.
    pub keys: Vec<(Vec<u8>, Vec<u8>)>,
    /// The ranks of this node whose standard input the head feeds; the others read /dev/null.
    pub stdin_ranks: Vec<Rank>,
    /// Ranks write standard error to the pipe of their standard output.
    pub merge_stderr: bool,
    /// Output bytes that the agent may send before it gets more credit.
    pub output_credit: u32,
    /// What the ranks may use at least, as far as the node allows it.
    pub limits: Vec<ResourceLimit>,
    /// A port that the agent is to keep free for rank 0, beside the one that its facts name.
    pub master_port: Option<u16>,
    /// What ranks of torchrun's lines have beside that.
    pub folders: Option<RankFolders>,
}

/// A limit of the head's that ranks are to have too, where theirs would be lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// What is limited.
    pub resource: LimitedResource,
    /// The soft limit; `u64::MAX` is none.
    pub soft: u64,
}

/// What a [`ResourceLimit`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitedResource {
    /// `ulimit -l`, in bytes: what registering memory for a network card takes.
    LockedMemory,
    /// `ulimit -n`.
    OpenFiles,
    /// `ulimit -c`, in bytes.
    CoreSize,
}

/// One program of a [`LaunchPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppPlan {
    /// The program as the user gave it: a path, or a name to be looked for.
    pub program: Vec<u8>,
    /// Its arguments, without the program itself.
    pub args: Vec<Vec<u8>>,
    /// Folders, with `:` between, in which a name is looked for before those of the ranks' PATH.
    pub search_path: Vec<u8>,
    /// The environment that all its ranks share, complete: a rank has this, its own, and nothing else.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder that its ranks start in.
    pub wdir: Vec<u8>,
    /// Whether a missing `wdir` is an error (the user asked for it) or the home folder will do.
    pub wdir_required: bool,
}

/// One rank of a [`LaunchPlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPlan {
    /// Its number in the world.
    pub rank: Rank,
    /// Its number on its node.
    pub local_rank: u32,
    /// Which of the plan's programs it runs.
    pub app: u32,
    /// The CPUs that it may run on; none means all that its agent may.
    pub cpus: Vec<u32>,
    /// What it has beyond the shared environment; wins over it.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}
