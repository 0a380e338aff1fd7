//! Nodes that come by themselves: the same line, typed on each of them.
//!
//! The node at the endpoint, `--master-addr:--master-port` or `--rdzv-endpoint`, is node 0 and the head. It opens that
//! port, and nothing else, until all nodes are there ([`host`]). The others dial it ([`join`]). Both ends prove that they
//! hold the key of `--key-file` before a byte of anything else is read; then each compares the other's line with its own
//! ([`meeting`]). From there on a node that joined is a node as any: the link carries what head and agents say to each other,
//! and the process that joined stands between the two ([`relay`]), shows what its node's ranks write, and ends as the job
//! ended. What differs from node to node, environment, folders, interpreter, is each node's own ([`own`]).
//!
//! The head's end, the link's, or that of the process that joined ends the node's ranks.

pub(crate) mod host;
pub(crate) mod join;
pub mod meeting;
pub(crate) mod own;
mod relay;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use efarun_wire::key_file;
use efarun_wire::secure::LinkKey;

use crate::exit_code::ExitCause;
use crate::supervise::this_machine;

pub use efarun_wire::key_file::KeyFileError;

/// What a line that is typed on every node says about this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByHand {
    /// `--node-rank`; without it nodes are numbered as they come.
    pub node_rank: Option<u32>,
    /// Where nodes meet.
    pub endpoint: (String, u16),
    /// `--key-file`, or EFARUN_KEY_FILE.
    pub key_file: Option<PathBuf>,
    /// `--local-addr`.
    pub local_address: Option<String>,
    /// How long nodes are waited for.
    pub patience: Duration,
    /// How long more nodes than are needed are waited for once enough are there.
    pub last_call: Duration,
}

impl ByHand {
    /// The endpoint as messages name it.
    pub(crate) fn place(&self) -> String {
        let (host, port) = &self.endpoint;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Why nodes did not come together.
#[derive(Debug, thiserror::Error)]
pub enum ByHandError {
    /// There is no key.
    #[error(
        "nodes that come by themselves need a key, the same on each: --key-file FILE, or EFARUN_KEY_FILE\n  hint: `umask 077; openssl rand -hex 32 > key` makes one; copy it to every node"
    )]
    NoKey,
    /// The key cannot be used.
    #[error("the key file {}: {cause}", .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: KeyFileError,
    },
    /// The endpoint's name means nothing here.
    #[error("{place}: {cause}")]
    Unresolved {
        /// The endpoint as written.
        place: String,
        /// The resolver's word.
        cause: String,
    },
    /// Node 0 cannot open the port.
    #[error("node 0 cannot listen at {place}: {cause}{hint}")]
    Listen {
        /// The endpoint as written.
        place: String,
        /// The system's word.
        cause: String,
        /// What to do.
        hint: &'static str,
    },
    /// Node 0 was not reached.
    #[error(
        "did not reach node 0 at {place} in {waited_s} s: {cause}\n  hint: is the line running there with --node-rank 0, and do the security groups let this node reach that port?"
    )]
    Unreachable {
        /// The endpoint as written.
        place: String,
        /// How long it was tried.
        waited_s: u64,
        /// What happened the last time.
        cause: String,
    },
    /// The other end has another key, or is no efarun of this version.
    #[error("node 0 at {place} does not take this node in: {cause}{hint}")]
    NotTaken {
        /// The endpoint as written.
        place: String,
        /// What the handshake ended in.
        cause: String,
        /// What to do.
        hint: String,
    },
    /// Node 0 said no.
    #[error("node 0 at {place} refused this node: {reason}")]
    Refused {
        /// The endpoint as written.
        place: String,
        /// Its words.
        reason: String,
    },
    /// Nodes are missing.
    #[error("{} of {wanted} nodes came in {waited_s} s (--start-timeout); missing: {missing}{}", .came, .turned_away.iter().map(|who| format!("\n  {who}")).collect::<String>())]
    Missing {
        /// How many came, this one included.
        came: u32,
        /// How many are needed.
        wanted: String,
        /// How long they were waited for.
        waited_s: u64,
        /// Which.
        missing: String,
        /// Who came and was not taken in, and why.
        turned_away: Vec<String>,
    },
    /// Two lines are not the same.
    #[error("{0}")]
    OtherLine(String),
    /// A node was there and is gone.
    #[error("host {host}: {cause}")]
    NodeLost {
        /// The node.
        host: String,
        /// How it was lost.
        cause: String,
    },
    /// A signal came while nodes were waited for.
    #[error("the job was ended by signal {}", crate::error::signal_text(*.0))]
    Stopped(i32),
    /// Something of ours, or of the machine under us, failed.
    #[error("{0}")]
    Head(String),
}

impl ByHandError {
    /// Returns what the exit code says.
    pub fn exit_cause(&self) -> ExitCause {
        match self {
            ByHandError::NoKey | ByHandError::OtherLine(_) | ByHandError::Refused { .. } => ExitCause::Usage,
            ByHandError::KeyFile { .. } | ByHandError::NotTaken { .. } => ExitCause::Authentication,
            ByHandError::Unresolved { .. }
            | ByHandError::Listen { .. }
            | ByHandError::Unreachable { .. }
            | ByHandError::Missing { .. }
            | ByHandError::NodeLost { .. } => ExitCause::HostUnreachable,
            ByHandError::Stopped(number) => ExitCause::LauncherSignal(*number),
            ByHandError::Head(_) => ExitCause::Internal,
        }
    }
}

/// Which part this node has.
#[derive(Debug)]
pub(crate) enum Part {
    /// It is node 0, and listens here.
    Host(SocketAddr),
    /// It dials node 0.
    Join,
}

/// Reads the key.
///
/// # Errors
///
/// When there is none, or none that is this user's alone.
pub(crate) fn key(by_hand: &ByHand) -> Result<LinkKey, ByHandError> {
    let path = by_hand.key_file.as_ref().ok_or(ByHandError::NoKey)?;
    key_file::read(path).map_err(|cause| ByHandError::KeyFile { path: path.clone(), cause })
}

/// Decides which part this node has: the one that `--node-rank` says, else node 0 where the endpoint is this machine.
///
/// # Errors
///
/// When node 0 does not know its own endpoint.
pub(crate) async fn part(by_hand: &ByHand) -> Result<Part, ByHandError> {
    if by_hand.node_rank.is_some_and(|rank| rank > 0) {
        return Ok(Part::Join);
    }
    let addresses = match resolve(by_hand).await {
        Ok(addresses) => addresses,
        // Whoever joins may wait for the name to be known; node 0 must know its own.
        Err(_) if by_hand.node_rank.is_none() => return Ok(Part::Join),
        Err(error) => return Err(error),
    };
    let own = addresses.iter().find(|address| this_machine::has_address(address.ip()));
    match (own, by_hand.node_rank) {
        (Some(own), _) => Ok(Part::Host(*own)),
        (None, None) => Ok(Part::Join),
        (None, Some(_)) => Err(ByHandError::Listen {
            place: by_hand.place(),
            cause: "it is no address of this machine".to_owned(),
            hint: "\n  hint: --master-addr is an address of node 0 itself, on EC2 its private one (`hostname -I` there lists them)",
        }),
    }
}

/// Resolves the endpoint.
pub(crate) async fn resolve(by_hand: &ByHand) -> Result<Vec<SocketAddr>, ByHandError> {
    let (host, port) = &by_hand.endpoint;
    let unresolved = |cause: String| ByHandError::Unresolved { place: by_hand.place(), cause };
    let found = tokio::net::lookup_host((host.as_str(), *port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| unresolved(error.to_string()))?.collect();
    if found.is_empty() { Err(unresolved("the name has no address".to_owned())) } else { Ok(found) }
}
