//! What ranks ask and are answered, whichever dialect they speak.

use efarun_wire::Rank;
use efarun_wire::message::SpawnProgram;

use super::groups::Group;

/// Where an answer goes, and in which form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) rank: Rank,
    pub(super) dialect: Dialect,
    /// What PMI-2 tells its threads apart by.
    pub(super) thread: Option<Vec<u8>>,
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Pmi1,
    Pmi2,
}

/// A question of a rank. Keys and values are bytes as they came, with their dialect's escapes in them: the library that
/// put them is the one that gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// The first one, always in PMI-1's form: which version is to be spoken.
    Init { version: u32, subversion: u32 },
    /// PMI-2's second one: who it is.
    FullInit,
    /// How long names, keys and values may be.
    Limits,
    /// Which of the job's programs it is.
    AppNumber,
    /// The name of its keys.
    SpaceName,
    /// How many ranks there could be.
    UniverseSize,
    /// Makes a key known, to all at the next barrier.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Asks for a key.
    Get { key: Vec<u8> },
    /// Waits for others.
    Barrier { group: Group, tag: Option<u32> },
    /// PMI-2: makes a key known to the ranks of this node at once.
    PutOnNode { key: Vec<u8>, value: Vec<u8> },
    /// PMI-2: asks for such a key, and waits for it where it is told to.
    GetOnNode { key: Vec<u8>, waits: bool },
    /// PMI-2: asks for something that describes the job.
    JobAttribute { key: Vec<u8> },
    /// Makes a service's port known to all.
    Publish { name: Vec<u8>, port: Vec<u8> },
    /// Takes it back.
    Unpublish { name: Vec<u8> },
    /// Asks for it.
    Lookup { name: Vec<u8> },
    /// Asks for a further world, or says a part of what it asks for.
    Spawn(SpawnPart),
    /// The last one of a generation.
    Finalize,
    /// Ends the job.
    Abort { code: i32, reason: String },
    /// Something else.
    Other { name: String },
}

/// Programs of a world that is asked for. PMI-1 says one at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SpawnPart {
    /// How many programs there are, this one and those before it included, when all is said.
    pub(super) total: usize,
    pub(super) programs: Vec<SpawnProgram>,
    /// What the ranks are to find among their keys.
    pub(super) keys: Vec<(Vec<u8>, Vec<u8>)>,
}

impl SpawnPart {
    /// Takes one of the infos that MPI's user gave for the last program.
    pub(super) fn inform(&mut self, key: &[u8], value: &[u8]) {
        let Some(program) = self.programs.last_mut() else { return };
        match key {
            b"wdir" => program.wdir = value.to_vec(),
            b"path" => program.search_path = value.to_vec(),
            b"host" | b"hosts" => {
                let hosts = String::from_utf8_lossy(value);
                program.hosts = hosts.split(',').map(|host| host.trim().to_owned()).collect();
            }
            other => program.unknown.push(shown(other)),
        }
    }
}

/// Bytes as a person reads them, on one line.
pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A question, and what its asker's thread is told apart by.
pub(super) type Asked = (Request, Option<Vec<u8>>);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Init {
        version: u32,
        subversion: u32,
        is_known: bool,
    },
    FullInit {
        rank: u32,
        size: u32,
        app: u32,
    },
    Limits,
    AppNumber(u32),
    SpaceName(String),
    UniverseSize(u32),
    Put(Result<(), &'static str>),
    Get(Option<Vec<u8>>),
    Barrier {
        tag: Option<u32>,
    },
    PutOnNode(Result<(), &'static str>),
    GetOnNode(Option<Vec<u8>>),
    JobAttribute(Option<Vec<u8>>),
    Publish(Result<(), &'static str>),
    Unpublish(Result<(), &'static str>),
    Lookup(Option<Vec<u8>>),
    /// The world's name and how many ranks it has.
    Spawned(Result<(String, u32), String>),
    Finalize,
    Other {
        name: String,
    },
}

/// Why a rank is not listened to any longer, as a fragment that fits "rank 3 …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// A message without an end.
    #[error("sent a PMI message of more than {limit_bytes} bytes")]
    TooLong { limit_bytes: usize },
    /// Bytes that are no message.
    #[error("sent `{shown}` where a PMI message belongs")]
    NotAMessage { shown: String },
    /// A message that lacks something.
    #[error("sent the PMI message `{command}` without a usable `{field}`")]
    Field { command: String, field: &'static str },
    /// A message that is not due.
    #[error("sent the PMI message `{command}` {when}")]
    OutOfPlace { command: &'static str, when: &'static str },
    /// More barriers at a time than anybody's threads need.
    #[error("waits in more than {limit} PMI barriers at a time")]
    TooManyBarriers { limit: usize },
    /// More programs than anybody spawns.
    #[error("asks for more than {limit} programs at a time (MPI_Comm_spawn_multiple)")]
    TooManyPrograms { limit: usize },
    /// A group without the rank, or with ranks that there are not.
    #[error("waits in a PMI barrier of ranks that it is not among, or that there are not")]
    Group,
}

impl Fault {
    /// What came instead of a message.
    pub(super) fn no_message(bytes: &[u8]) -> Fault {
        let start = &bytes[..bytes.len().min(SHOWN_BYTES)];
        Fault::NotAMessage { shown: start.escape_ascii().to_string() }
    }
}

impl Request {
    /// What a rank asked, by PMI-1's name where it has one.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Request::Init { .. } => "init",
            Request::FullInit => "fullinit",
            Request::Limits => "get_maxes",
            Request::AppNumber => "get_appnum",
            Request::SpaceName => "get_my_kvsname",
            Request::UniverseSize => "get_universe_size",
            Request::Put { .. } => "put",
            Request::Get { .. } => "get",
            Request::Barrier { .. } => "barrier_in",
            Request::PutOnNode { .. } => "info-putnodeattr",
            Request::GetOnNode { .. } => "info-getnodeattr",
            Request::JobAttribute { .. } => "info-getjobattr",
            Request::Publish { .. } => "publish_name",
            Request::Unpublish { .. } => "unpublish_name",
            Request::Lookup { .. } => "lookup_name",
            Request::Spawn(_) => "spawn",
            Request::Finalize => "finalize",
            Request::Abort { .. } => "abort",
            Request::Other { .. } => "a command that is not served",
        }
    }
}

/// How much of what is no message is shown.
const SHOWN_BYTES: usize = 40;
