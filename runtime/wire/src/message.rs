//! Every message of a job, by the link it travels on.
//!
//! Three links exist. Head and agent talk over the SSH channel and then over the sealed TCP link
//! ([`HeadMessage`], [`AgentMessage`]). A rank talks to its agent over an inherited socket, or, where no launcher
//! is present, to the rank that serves the bootstrap ([`RankMessage`], [`RankReply`]). The out-of-band primitives
//! ([`OobUp`], [`OobDown`]) ride inside both, unchanged, so that an agent can merge and forward without
//! interpreting them.
//!
//! Byte strings that came from a user (arguments, environment, paths) are `Vec<u8>`: they need not be UTF-8.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::facts::NodeFacts;
use crate::ids::{BuildId, JobId, NodeId, Rank};
use crate::position::PageOffer;
use crate::secure::LinkKey;
#[cfg(doc)]
use crate::torchrun::MAX_ERROR_FILE_BYTES;
use crate::torchrun::RankFolders;

/// The first thing the head sends into an agent's channel: who the agent is, and the key of its link.
#[derive(Debug, Serialize, Deserialize)]
pub struct AgentOrder {
    /// [`crate::PROTOCOL_VERSION`] of the head.
    pub protocol: u16,
    /// The job that the agent works for.
    pub job: JobId,
    /// The node that the agent is on. The agent introduces itself with it.
    pub node: NodeId,
    /// The build that the head is; an agent of another build refuses.
    pub build: BuildId,
    /// The key of this node's link, derived from the job key for this node alone.
    pub key: LinkKey,
    /// How often each end says that it lives, in milliseconds.
    pub heartbeat_ms: u32,
    /// After how long a silence the other end counts as lost, in milliseconds.
    pub lease_ms: u32,
    /// The host as the user wrote it; it appears in messages about this node.
    pub host: String,
}

/// Head to agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum HeadMessage {
    /// Dial one of these addresses and continue the link there. Sent in the channel only, at most once.
    Dial {
        /// Where the head listens, best address first.
        addresses: Vec<SocketAddr>,
        /// How long to try, all addresses together, in milliseconds.
        timeout_ms: u32,
    },
    /// Start these ranks: those of the world that the job begins with, and later of each that a rank has asked for.
    Launch(Box<LaunchPlan>),
    /// The answer to [`AgentMessage::Spawn`].
    Spawned {
        /// The order's.
        token: u64,
        /// The world, all of whose ranks run; or why there is none, one line.
        outcome: Result<SpawnedWorld, String>,
    },
    /// An out-of-band message for this node or its ranks.
    Oob(OobDown),
    /// Bytes for a rank's standard input; an empty chunk closes it.
    Stdin {
        /// The rank that reads them.
        rank: Rank,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The agent may send this many more bytes of output.
    OutputCredit {
        /// Added to what the agent may still send.
        bytes: u32,
    },
    /// Deliver a signal to every rank's process group.
    Signal {
        /// The signal's number on Linux.
        number: i32,
    },
    /// End all ranks: the signal, the grace, KILL, reap, then answer [`AgentMessage::Reaped`].
    End {
        /// Between the signal and KILL, in milliseconds. 0 means KILL at once.
        grace_ms: u32,
        /// The signal that asks for the end, by its number on Linux: TERM, or what the user sent the launcher. One
        /// other than TERM is followed by TERM when half of the grace is over.
        signal: i32,
    },
    /// All is done; the agent exits.
    Goodbye,
    /// Answered by [`AgentMessage::Pong`] at once; keeps the lease.
    Ping {
        /// Returned in the answer.
        number: u64,
    },
    /// Stop all ranks by TSTP, do without the head's signs of life until it sends CONT, and answer
    /// [`AgentMessage::Suspended`]: the head is about to stop itself.
    Suspend,
    /// Say of every rank that runs where it is, each by an [`AgentMessage::Stacks`].
    CollectStacks,
    /// What the job came to: to a node that joined by itself, whose user sees nothing else of it. The last message.
    Over {
        /// The code that node 0 ends with.
        code: u8,
        /// Whether the ranks are started again, so that the node is to join once more.
        again: bool,
        /// What failed first, one line; empty where nothing did.
        text: String,
    },
    /// Tell the ends of the ranks that are ending now, as ever, and then [`AgentMessage::EndsTold`].
    TellEnds,
}

/// Agent to head.
#[derive(Debug, Serialize, Deserialize)]
pub enum AgentMessage {
    /// What the agent found on its node. The agent's first message.
    Facts(Box<NodeFacts>),
    /// How dialling the head went. Sent in the channel; on success the link goes on over TCP.
    Dialed(Result<SocketAddr, DialFailure>),
    /// A rank runs.
    Spawned {
        /// The rank.
        rank: Rank,
        /// Its process id on its node.
        pid: i32,
    },
    /// A rank could not be started.
    SpawnFailed {
        /// The rank.
        rank: Rank,
        /// The step that failed: `chdir`, `execve`, `fork`, …
        call: String,
        /// What it was about: the program, the folder.
        subject: String,
        /// The error number on Linux.
        errno: i32,
    },
    /// Bytes that a rank wrote. Costs output credit.
    Output {
        /// The rank that wrote them.
        rank: Rank,
        /// Where it wrote them.
        stream: Stream,
        /// The bytes; empty means that the stream ended.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The head may send this many more bytes of standard input to a rank; at the start it may send
    /// [`STDIN_CREDIT_BYTES`]. Returned as the rank takes them, all at once when it closes its end.
    StdinCredit {
        /// The rank that reads them.
        rank: Rank,
        /// Added to what the head may still send.
        bytes: u32,
    },
    /// A rank ended. Sent once per rank.
    Exited(RankExit),
    /// An out-of-band message from this node or its ranks.
    Oob(OobUp),
    /// What a rank and its PMI server have said to each other until its end, in bytes. Comes before its end.
    PmiBytes {
        /// The rank.
        rank: Rank,
        /// Said by it, and said to it.
        bytes: [u64; 2],
    },
    /// What the node's PMI and PMIx servers and those of other nodes have said to each other, in bytes. Comes before
    /// [`AgentMessage::Reaped`].
    ExchangeBytes {
        /// Said here, and said to this node.
        bytes: [u64; 2],
    },
    /// The node has a PMIx server.
    ServesPmix {
        /// By this library, as it calls itself.
        version: String,
    },
    /// A rank asks for a further world. Answered by [`HeadMessage::Spawned`].
    Spawn(Box<SpawnOrder>),
    /// The node's servers know of a further world.
    Admitted {
        /// Its number.
        world: u32,
    },
    /// No process of the job is left on this node, but for the agent itself.
    Reaped {
        /// How many ranks were reaped.
        ranks: u32,
        /// How many other descendants had to be killed.
        strays: u32,
    },
    /// The answer to [`HeadMessage::Ping`].
    Pong {
        /// The number of the ping.
        number: u64,
    },
    /// A rank does not do its part, so that others, who may wait for it, cannot go on.
    RankBroke {
        /// The rank.
        rank: Rank,
        /// What it did, as a fragment that fits "rank 3 …".
        how: String,
    },
    /// A rank is linked with a library that asks for PMIx, and there is no libpmix that serves it. No rank of the node is
    /// started.
    Unserved {
        /// The first such rank.
        rank: Rank,
        /// The library's file, or its name where it is not found.
        library: String,
        /// Where a libpmix was looked for, or what was wrong with those that there are: one line.
        tried: String,
    },
    /// Something the user should read, one line, that ends nothing by itself.
    Note(String),
    /// The agent cannot go on, and why. Its ranks are being ended.
    Failed(String),
    /// The answer to [`HeadMessage::Suspend`].
    Suspended,
    /// Where the processes of a rank are, as lines for a person. Costs no credit: it is short.
    Stacks {
        /// The rank.
        rank: Rank,
        /// The lines, at most [`MAX_STACKS_BYTES`].
        text: String,
    },
    /// The user asked for the end of the job on a node that joined by itself, by this signal to the launcher there.
    Interrupted {
        /// The signal's number on Linux.
        number: i32,
    },
    /// What a rank that failed had written to its error file, at most [`MAX_ERROR_FILE_BYTES`]. Comes before its end.
    ErrorFile {
        /// The rank.
        rank: Rank,
        /// The file's content.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// What speaks for a cause of a rank's failure. Comes before its end.
    Clues {
        /// The rank.
        rank: Rank,
        /// A few, the likeliest cause first.
        clues: Vec<Clue>,
    },
    /// A rank whose program is linked with an MPI library ended with code 0 and has never asked for a world. Comes before its
    /// end.
    Alone {
        /// The rank.
        rank: Rank,
        /// The library's file, or its name where it is not found.
        library: String,
    },
    /// The answer to [`HeadMessage::TellEnds`]: every rank that was ending when that came has had its
    /// [`AgentMessage::Exited`].
    EndsTold,
}

/// Something that was seen at a rank's failure and may be its cause, with a sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clue {
    /// The kernel ended it, or a process beside it, for want of memory.
    OutOfMemory(String),
    /// A GPU had a fault, or found one in the program.
    GpuFault(String),
}

/// The longest text of an [`AgentMessage::Stacks`].
pub const MAX_STACKS_BYTES: usize = 64 << 10;

/// Bytes of standard input that may be on their way to each rank that reads them before the agent gives credit.
pub const STDIN_CREDIT_BYTES: u32 = 256 << 10;

/// Why the head could not be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialFailure {
    /// The last address that was tried.
    pub address: Option<SocketAddr>,
    /// What happened, as a lowercase fragment: `connection refused`, `no answer in 2 s`, …
    pub reason: String,
}

/// Where a rank wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

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

/// Where a world's ranks are: what MPI libraries ask their launcher about.
///
/// A job begins with one world, and a rank may ask for more while it runs. Ranks are numbered through over all of a job's
/// worlds; what a library takes for its rank is the number within its world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMap {
    /// The world's number: 0 is the one that the job begins with.
    pub world: u32,
    /// The world's first rank. The others follow it without gaps.
    pub first_rank: Rank,
    /// The job's nodes, by number. Some may have no rank of this world.
    pub nodes: Vec<MappedNode>,
    /// How many ranks the job's hosts have slots for; the ranks of the first world at least.
    pub universe_size: u32,
}

impl JobMap {
    /// How many ranks the world has.
    pub fn size(&self) -> u32 {
        self.nodes.iter().map(|node| node.ranks.len() as u32).sum()
    }

    /// The number of a rank within the world; none for one of another world.
    pub fn within(&self, rank: Rank) -> Option<u32> {
        rank.0.checked_sub(self.first_rank.0).filter(|within| *within < self.size())
    }

    /// The rank with this number in the world, where there is one.
    pub fn rank(&self, within: u32) -> Option<Rank> {
        (within < self.size()).then(|| Rank(self.first_rank.0 + within))
    }

    /// All ranks of the world, as allgathers name them.
    pub fn everybody(&self) -> Participants {
        match self.world {
            0 => Participants::World,
            _ => Participants::Ranks((0..self.size()).filter_map(|within| self.rank(within)).collect()),
        }
    }
}

/// A node of a [`JobMap`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedNode {
    /// The host as the user wrote it.
    pub host: String,
    /// Its ranks, in order of local rank.
    pub ranks: Vec<Rank>,
}

/// What a rank asks to be started: a further world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnOrder {
    /// The rank that asks.
    pub by: Rank,
    /// Chosen by its agent, returned in the answer.
    pub token: u64,
    /// The programs, whose ranks follow each other in this order.
    pub programs: Vec<SpawnProgram>,
    /// What the ranks are to find among their keys.
    pub keys: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One program of a [`SpawnOrder`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnProgram {
    /// A path, or a name to be looked for.
    pub program: Vec<u8>,
    /// Its arguments, without the program itself.
    pub args: Vec<Vec<u8>>,
    /// How many ranks run it.
    pub count: u32,
    /// What its ranks have in their environment beside what the rank has that asks.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder that they start in; empty means that of the rank that asks.
    pub wdir: Vec<u8>,
    /// Folders, with `:` between, in which a name is looked for first.
    pub search_path: Vec<u8>,
    /// The hosts that they may be on; none means all.
    pub hosts: Vec<String>,
    /// What else was asked for and makes no difference here.
    pub unknown: Vec<String>,
}

/// A world that a rank has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnedWorld {
    /// Its number.
    pub world: u32,
    /// How many ranks it has.
    pub size: u32,
}

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankExit {
    /// The rank.
    pub rank: Rank,
    /// Its status.
    pub status: RankStatus,
    /// How long it ran, in milliseconds.
    pub ran_ms: u64,
    /// Whether the agent had already been told to end the ranks; such an exit is never a first failure.
    pub ended_by_launcher: bool,
    /// Whether it was in a World that it had not closed: others may wait for it there.
    pub within_world: bool,
}

/// A process's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RankStatus {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal {
        /// The signal's number on Linux.
        number: i32,
        /// Whether a core was written.
        core: bool,
    },
}

/// Names one allgather: the same on every participant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GatherKey {
    /// What is gathered, chosen by the protocol that asks: `efarun/addresses`, `pmi/fence`, …
    pub id: String,
    /// Counts repetitions with the same id and participants.
    pub epoch: u32,
    /// Who takes part.
    pub participants: Participants,
}

/// The ranks that take part in an allgather.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Participants {
    /// Every rank of the world.
    World,
    /// These, strictly ascending.
    Ranks(Vec<Rank>),
}

/// Whom a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// One rank.
    Rank(Rank),
    /// One node's agent.
    Node(NodeId),
    /// The head, or the rank that serves a bootstrap without a launcher.
    Head,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Rank(rank) => write!(f, "rank {rank}"),
            Target::Node(node) => write!(f, "node {node}"),
            Target::Head => f.write_str("the head"),
        }
    }
}

/// Out-of-band, towards the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OobUp {
    /// Contributions to an allgather, from one rank or merged from several.
    Gather {
        /// Which allgather.
        key: GatherKey,
        /// One blob per contributing rank, ascending.
        blobs: Vec<(Rank, Vec<u8>)>,
    },
    /// A question.
    Request {
        /// Who asks.
        from: Target,
        /// Whom.
        to: Target,
        /// Chosen by the asker, returned in the reply.
        token: u64,
        /// The question.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
    /// An answer on its way back.
    Reply {
        /// Who had asked.
        to: Target,
        /// The asker's token.
        token: u64,
        /// The answer, or why there is none, as a lowercase fragment.
        body: Result<Vec<u8>, String>,
    },
    /// A rank gives up for everybody.
    Abort {
        /// The rank.
        rank: Rank,
        /// The exit code that the job should have.
        code: i32,
        /// Why, one line.
        reason: String,
    },
}

/// Out-of-band, away from the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OobDown {
    /// An allgather's result.
    Gathered {
        /// Which allgather.
        key: GatherKey,
        /// One blob per participant, ascending.
        blobs: Vec<(Rank, Vec<u8>)>,
    },
    /// A question for this node or one of its ranks.
    Request {
        /// Who asks.
        from: Target,
        /// Whom.
        to: Target,
        /// The asker's token.
        token: u64,
        /// The question.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
    /// An answer for this node or one of its ranks.
    Reply {
        /// Who had asked.
        to: Target,
        /// The asker's token.
        token: u64,
        /// The answer, or why there is none.
        body: Result<Vec<u8>, String>,
    },
    /// Something that everybody learns in the same order.
    Event(Event),
}

/// An event, numbered by the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// 1, 2, 3, … without gaps.
    pub sequence: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// This rank is gone and takes part in nothing any more.
    RankLost {
        /// The rank.
        rank: Rank,
        /// How, as a lowercase fragment: `exited with signal 9 (SIGKILL)`.
        cause: String,
    },
    /// The job ends because a rank, or the launcher, gave up.
    Abort {
        /// The rank that gave up, where it was one.
        rank: Option<Rank>,
        /// Why, one line.
        reason: String,
    },
    /// Every rank should print where it is.
    Dump,
    /// The job ends in good order at the user's wish.
    Stop,
}

/// Rank to its agent, or to the bootstrap's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankMessage {
    /// The first message: who speaks, and what it links.
    Join {
        /// [`crate::PROTOCOL_VERSION`] of the runtime library.
        protocol: u16,
        /// The rank.
        rank: Rank,
        /// What it takes the world size to be.
        world_size: u32,
    },
    /// An out-of-band message.
    Oob(OobUp),
    /// The rank's World is closed in good order; its end, and the socket's, is no failure. A rank that goes on to make
    /// another World over the same socket says so by its next message.
    Leave,
    /// Where the rank shows which operation it has come to. For agents only.
    Page(PageOffer),
}

/// A rank's agent, or the bootstrap's server, to the rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankReply {
    /// The answer to [`RankMessage::Join`].
    Welcome {
        /// [`crate::PROTOCOL_VERSION`] of the server.
        protocol: u16,
        /// The job; random where no launcher is present.
        job: JobId,
        /// World size.
        world_size: u32,
    },
    /// The rank was refused, and why.
    Refused(String),
    /// An out-of-band message.
    Oob(OobDown),
}
