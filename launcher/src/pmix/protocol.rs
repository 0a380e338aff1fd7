//! What an agent and its helper say to each other over the helper's standard input: frames of [`efarun_wire::frame`].

use serde::{Deserialize, Serialize};

use efarun_wire::message::{JobMap, Participants, SpawnProgram};
use efarun_wire::{NodeId, Rank};

use crate::env::NameValue;

/// Agent to helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Be a PMIx server. The first order, and answered by [`Report::Ready`] or [`Report::Unready`].
    Start(Box<Start>),
    /// All nodes have come to a fence: what all of them contributed, or nothing where it cannot be done.
    Fenced {
        /// That of [`Report::Fence`].
        token: u64,
        /// The contributions, one behind the other.
        blob: Option<Vec<u8>>,
    },
    /// Find out what a rank of this node tells others about itself. Answered by [`Report::Card`].
    FindCard {
        /// Returned in the answer.
        token: u64,
        /// The rank.
        rank: Rank,
    },
    /// What a rank of another node tells about itself; nothing where that cannot be found out.
    Card {
        /// That of [`Report::WantCard`].
        token: u64,
        /// As libpmix there gave it.
        blob: Option<Vec<u8>>,
    },
    /// The answer to [`Report::Publish`] and [`Report::Unpublish`].
    Done {
        /// Theirs.
        token: u64,
        /// Whether it could be done.
        is_done: bool,
    },
    /// The answer to [`Report::Lookup`].
    Found {
        /// Its own.
        token: u64,
        /// What was found.
        values: Vec<Published>,
    },
    /// Expect the ranks of a further world. Answered by [`Report::Registered`].
    Admit(Box<JobMap>),
    /// The answer to [`Report::Spawn`]: the world, or nothing where there is none.
    Spawned {
        /// That of the report.
        token: u64,
        /// Its number.
        world: Option<u32>,
    },
    /// Tell this node's ranks of an event.
    Notify(Event),
    /// The answer to [`Report::Group`]: what came of it, or nothing where it cannot be done.
    Grouped {
        /// That of the report.
        token: u64,
        /// What all nodes have made.
        group: Option<Group>,
    },
    /// Say [`Report::HeardOut`] when all that libpmix has said before is told.
    HearOut(Rank),
}

/// What a PMIx server is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Where libpmix may be, best first: paths, or a name for the loader.
    pub libraries: Vec<Vec<u8>>,
    /// The job's id: name spaces are named by it, and libraries name shared memory by these.
    pub job: String,
    /// A folder of the server's own.
    pub folder: String,
    /// How much memory it may take: libpmix keeps whatever ranks put.
    pub memory_bytes: u64,
    /// The node.
    pub node: NodeId,
    /// The world that the job begins with.
    pub map: JobMap,
}

/// The name space that a world is to PMIx.
pub fn nspace(job: &str, world: u32) -> String {
    match world {
        0 => format!("efarun-{job}"),
        _ => format!("efarun-{job}-w{world}"),
    }
}

/// Helper to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The server serves.
    Ready {
        /// The library.
        library: String,
        /// What it calls itself.
        version: String,
        /// What each rank needs in its environment.
        environments: Vec<(Rank, Vec<NameValue>)>,
    },
    /// There is no server.
    Unready {
        /// Each library that was tried, and what was wrong with it.
        tried: Vec<String>,
    },
    /// A rank has initialised PMIx.
    Connected(Rank),
    /// A rank has finalised PMIx.
    Finalized(Rank),
    /// A rank ends the job.
    Aborted {
        /// The rank.
        rank: Rank,
        /// The exit code that it asks for.
        code: i32,
        /// What it says.
        reason: String,
    },
    /// This node's ranks have come to a fence. Answered by [`Order::Fenced`].
    Fence {
        /// Returned in the answer.
        token: u64,
        /// What it is for: fences for different things are counted apart.
        purpose: Purpose,
        /// Whose it is.
        participants: Participants,
        /// What this node contributes.
        blob: Vec<u8>,
    },
    /// Somebody here asks what a rank of another node tells about itself. Answered by [`Order::Card`].
    WantCard {
        /// Returned in the answer.
        token: u64,
        /// The rank.
        rank: Rank,
    },
    /// The answer to [`Order::FindCard`].
    Card {
        /// That of the order.
        token: u64,
        /// What libpmix gave.
        blob: Option<Vec<u8>>,
    },
    /// A rank publishes something. Answered by [`Order::Done`].
    Publish {
        /// Returned in the answer.
        token: u64,
        /// What.
        values: Vec<Published>,
    },
    /// A rank looks for what was published. Answered by [`Order::Found`].
    Lookup {
        /// Returned in the answer.
        token: u64,
        /// By these keys.
        keys: Vec<Vec<u8>>,
        /// It wants to wait until all are published.
        waits: bool,
    },
    /// A rank takes back what it published. Answered by [`Order::Done`].
    Unpublish {
        /// Returned in the answer.
        token: u64,
        /// The rank.
        rank: Rank,
        /// By these keys; none means all of its own.
        keys: Vec<Vec<u8>>,
    },
    /// The ranks of a further world are expected.
    Registered {
        /// Its number.
        world: u32,
        /// What each rank needs in its environment.
        environments: Vec<(Rank, Vec<NameValue>)>,
    },
    /// A rank has called a function of PMIx's that is not served, and was told so.
    NotServed {
        /// The function.
        call: String,
    },
    /// A rank asks for a further world. Answered by [`Order::Spawned`].
    Spawn {
        /// Returned in the answer.
        token: u64,
        /// The rank.
        rank: Rank,
        /// The programs.
        programs: Vec<SpawnProgram>,
    },
    /// A rank tells ranks of other nodes of an event.
    Notify(Event),
    /// This node's members have come to make a group, or to undo it. Answered by [`Order::Grouped`].
    Group {
        /// Returned in the answer.
        token: u64,
        /// Its name.
        name: Vec<u8>,
        /// It is undone.
        is_over: bool,
        /// Its members.
        participants: Participants,
        /// What this node contributes.
        blob: Vec<u8>,
    },
    /// The answer to [`Order::HearOut`].
    HeardOut(Rank),
    /// libpmix stands still, once in a server's life.
    Unresponsive {
        /// For how long.
        seconds: u64,
    },
}

/// What a fence is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// `PMIx_Fence`.
    Fence,
    /// `PMIx_Connect`.
    Connect,
    /// `PMIx_Disconnect`.
    Disconnect,
}

/// Something that has happened, as a rank tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in PMIx.
    pub code: i32,
    /// The rank.
    pub source: Rank,
    /// How far it goes, by PMIx's number.
    pub range: u8,
    /// How many infos there are.
    pub info_count: u32,
    /// The infos, as libpmix packs them.
    pub infos: Vec<u8>,
}

/// What the nodes of a group have made together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// A number that no other group of the job has.
    pub id: u64,
    /// The contributions, one behind the other.
    pub blob: Vec<u8>,
}

/// Something that a rank has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// By whom.
    pub rank: Rank,
    /// Its key.
    pub key: Vec<u8>,
    /// The number of its type in PMIx.
    pub kind: u16,
    /// Its bytes, as its type has them.
    pub bytes: Vec<u8>,
}

impl Published {
    /// Whether it is longer than what is kept: a port's name has a kilobyte at most.
    pub fn is_too_long(&self) -> bool {
        self.key.len() + self.bytes.len() > MAX_PUBLISHED_BYTES
    }
}

impl Event {
    /// Whether it is longer than what goes to other nodes.
    pub fn is_too_long(&self) -> bool {
        self.infos.len() > MAX_EVENT_BYTES
    }
}

const MAX_PUBLISHED_BYTES: usize = 4096;
const MAX_EVENT_BYTES: usize = 256 << 10;
const _: () = assert!(2 * MAX_EVENT_BYTES <= efarun_wire::oob::MAX_REQUEST_BYTES);
