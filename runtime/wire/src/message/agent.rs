//! What the head and its agents say to each other.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{LaunchPlan, OobDown, OobUp, SpawnOrder, SpawnedWorld};
use crate::facts::NodeFacts;
use crate::ids::{BuildId, JobId, NodeId, Rank};
use crate::secure::LinkKey;
#[cfg(doc)]
use crate::torchrun::MAX_ERROR_FILE_BYTES;

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
    /// A program of the job is linked with an MPI library here.
    LinksMpi {
        /// The program's number.
        app: u32,
        /// The library's file.
        file: String,
        /// How long it is: builds differ in it.
        len_bytes: u64,
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
