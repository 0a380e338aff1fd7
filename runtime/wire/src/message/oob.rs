//! The out-of-band primitives on their way: allgathers, requests, events.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Rank};

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
