//! What a line of torchrun's asks for beside the job itself.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::by_hand::ByHand;
use crate::job::{App, JobSpec};

/// torchrun's part of a [`crate::job::JobSpec`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torchrun {
    /// `--nnodes`.
    pub nodes: NodeRange,
    /// `--nproc-per-node`.
    pub per_node: PerNode,
    /// `--rdzv-id`; none means the job's own id.
    pub run_id: Option<String>,
    /// `--role`.
    pub role: String,
    /// `--max-restarts`.
    pub max_restarts: u32,
    /// How the training script is run.
    pub program: ProgramKind,
    /// `--redirects`, `--tee`, `--log-dir` and what belongs to them.
    pub logs: Logs,
    /// `--master-addr`, where it was given.
    pub master_address: Option<String>,
    /// `--master-port`, where it was given.
    pub master_port: Option<u16>,
    /// Where this node and the others meet, for a line that is typed on every node.
    pub by_hand: Option<ByHand>,
    /// Which start of the group this is: 0 at first. Not of the line.
    pub attempt: Attempt,
}

/// How many nodes may take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRange {
    /// At least so many.
    pub least: u32,
    /// At most so many.
    pub most: u32,
}

impl NodeRange {
    /// One node.
    pub const ONE: NodeRange = NodeRange { least: 1, most: 1 };
}

/// How many ranks each node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerNode {
    /// So many.
    Count(u32),
    /// One per GPU.
    Gpu,
    /// One per CPU.
    Cpu,
    /// One per GPU where every node has any, else one per CPU.
    Auto,
}

/// As on the line.
impl fmt::Display for PerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PerNode::Count(count) => write!(f, "{count}"),
            PerNode::Gpu => f.write_str("gpu"),
            PerNode::Cpu => f.write_str("cpu"),
            PerNode::Auto => f.write_str("auto"),
        }
    }
}

/// What the word after torchrun's options is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgramKind {
    /// A script for this interpreter: a path, or a name that is looked for in the ranks' PATH.
    Script(OsString),
    /// A module for this interpreter: `-m`.
    Module(OsString),
    /// A program of its own: `--no-python`.
    Binary,
}

impl ProgramKind {
    /// Returns what is executed for a script, module or binary with these arguments.
    pub fn command(&self, word: &OsString, args: &[OsString]) -> (OsString, Vec<OsString>) {
        // Unbuffered, as under torchrun: what a rank printed before it died is seen.
        let (interpreter, options) = match self {
            ProgramKind::Binary => return (word.clone(), args.to_vec()),
            ProgramKind::Script(interpreter) => (interpreter, &["-u"][..]),
            ProgramKind::Module(interpreter) => (interpreter, &["-u", "-m"][..]),
        };
        let options = options.iter().map(OsString::from);
        (interpreter.clone(), options.chain([word.clone()]).chain(args.iter().cloned()).collect())
    }
}

/// Returns what is executed for one of a job's programs: the program itself, but for a script of torchrun's.
pub fn command(spec: &JobSpec, app: &App) -> (OsString, Vec<OsString>) {
    match &spec.torchrun {
        Some(torchrun) => torchrun.program.command(&app.program, &app.args),
        None => (app.program.clone(), app.args.clone()),
    }
}

/// Where what ranks write goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logs {
    /// `--log-dir`; without it a temporary folder.
    pub folder: Option<PathBuf>,
    /// `--redirects`: into files.
    pub redirects: StreamChoice,
    /// `--tee`: into files, and shown.
    pub tee: StreamChoice,
    /// `--local-ranks-filter`: only these ranks of each node are shown.
    pub shown: Option<Vec<u32>>,
    /// TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE: what stands before each line of a stream that is shown by `--tee`.
    pub prefix_template: Option<String>,
}

/// Which streams of which local ranks something is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamChoice {
    /// These of every local rank.
    Every(Streams),
    /// These of the local ranks that are named; nothing of the others.
    Of(Vec<(u32, Streams)>),
}

impl Default for StreamChoice {
    fn default() -> StreamChoice {
        StreamChoice::Every(Streams::default())
    }
}

impl StreamChoice {
    /// Returns the streams of one local rank.
    pub fn of(&self, local_rank: u32) -> Streams {
        match self {
            StreamChoice::Every(streams) => *streams,
            StreamChoice::Of(ranks) => {
                let named = ranks.iter().rev().find(|(rank, _)| *rank == local_rank);
                named.map_or_else(Streams::default, |(_, streams)| *streams)
            }
        }
    }

    /// Says whether no stream of any rank is chosen.
    pub fn is_empty(&self) -> bool {
        let none = |streams: &Streams| !streams.stdout && !streams.stderr;
        match self {
            StreamChoice::Every(streams) => none(streams),
            StreamChoice::Of(ranks) => ranks.iter().all(|(_, streams)| none(streams)),
        }
    }
}

/// A rank's two streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// One start of the whole group of ranks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempt {
    /// TORCHELASTIC_RESTART_COUNT.
    pub number: u32,
    /// Random bits of the job, which name its folders of logs: the same in every attempt.
    pub folder_seed: [u8; 8],
    /// The final reports of those before it.
    pub earlier: Vec<serde_json::Value>,
}
