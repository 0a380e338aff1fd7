use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use efarun_wire::Rank;
use efarun_wire::key_file::KeyFileError;
use efarun_wire::oob::OobError;
use efarun_wire::secure::SecureError;

use super::identity::IdentityError;

/// Why a rank cannot meet the others, or has lost the way to them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The environment does not say who this rank is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// EFARUN_AGENT_FD does not lead to an agent.
    #[error(
        "EFARUN_AGENT_FD={fd} is not the socket to efarun's agent ({cause}): only the process that efarun started \
         has it; unset EFARUN_AGENT_FD to stand alone"
    )]
    NotAnAgent {
        /// The descriptor.
        fd: i32,
        /// What it is instead.
        cause: String,
    },
    /// The agent, or the meeting point, is gone.
    #[error("{server} is gone: {cause}")]
    ServerGone {
        /// `the agent of this node`, `the meeting point 10.0.0.1:7000`.
        server: String,
        /// How it ended.
        cause: String,
    },
    /// The agent, or the meeting point, does not want this rank.
    #[error("{server} refused rank {rank}: {reason}")]
    Refused {
        /// Who refused.
        server: String,
        /// This rank.
        rank: Rank,
        /// Why.
        reason: String,
    },
    /// The key file cannot be used.
    #[error("EFARUN_KEY_FILE={}: {cause}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: KeyFileError,
    },
    /// Without a key ranks meet on loopback only.
    #[error(
        "EFARUN_BOOTSTRAP={address} is {resolved}, which others can reach, and there is no key: set \
         EFARUN_KEY_FILE to the same key on all ranks (`umask 077; openssl rand -hex 32 > key` makes one), or \
         EFARUN_INSECURE=1 to let in whoever reaches the port"
    )]
    NoKey {
        /// As the user wrote it.
        address: String,
        /// What it is.
        resolved: SocketAddr,
    },
    /// The meeting point's name means nothing here.
    #[error("EFARUN_BOOTSTRAP={address}: {cause}")]
    Unresolved {
        /// As the user wrote it.
        address: String,
        /// The resolver's word.
        cause: String,
    },
    /// Rank 0 cannot listen at the meeting point.
    #[error("rank 0 cannot listen at EFARUN_BOOTSTRAP={address}: {cause}{}", listen_hint(.cause))]
    Listen {
        /// As the user wrote it.
        address: String,
        /// The system's word.
        #[source]
        cause: io::Error,
    },
    /// The meeting point was not reached in time.
    #[error(
        "rank {rank} did not reach the meeting point {address} in {:.0} s ({attempts} attempts, the last: {cause}): \
         is rank 0 running, and may its port be reached from here?",
        waited.as_secs_f64()
    )]
    Unreachable {
        /// This rank.
        rank: Rank,
        /// As the user wrote it.
        address: String,
        /// How long it tried.
        waited: Duration,
        /// How often.
        attempts: u32,
        /// What happened the last time.
        cause: String,
    },
    /// The meeting point has another key or is not one of ours.
    #[error("the meeting point {address} does not take rank {rank}: {cause}{}", handshake_hint(.cause))]
    Handshake {
        /// This rank.
        rank: Rank,
        /// As the user wrote it.
        address: String,
        /// What the handshake ended in.
        #[source]
        cause: SecureError,
    },
    /// Something that all ranks take part in was not complete in time.
    #[error("waited {:.0} s for {what}{}", waited.as_secs_f64(), missing_text(.missing, *.world_size))]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The ranks that have not joined, where that is known.
        missing: Vec<Rank>,
        /// World size.
        world_size: u32,
    },
    /// A rank is gone.
    #[error("rank {rank} is lost: {cause}")]
    RankLost {
        /// The rank.
        rank: Rank,
        /// How it was lost.
        cause: String,
    },
    /// The job ends because somebody gave up.
    #[error("{} ended the job: {reason}", aborter_text(*.rank))]
    Aborted {
        /// The rank that gave up, where it was one.
        rank: Option<Rank>,
        /// Why.
        reason: String,
    },
    /// The job ends at the user's wish.
    #[error("the job was stopped by its user")]
    Stopped,
    /// A call that the out-of-band layer refuses.
    #[error(transparent)]
    Oob(#[from] OobError),
    /// The operating system refused something that a bootstrap needs.
    #[error("{call}: {cause}")]
    System {
        /// The call.
        call: &'static str,
        /// The system's word.
        #[source]
        cause: io::Error,
    },
}

fn listen_hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrNotAvailable => "; it must be an address of the machine that rank 0 runs on",
        io::ErrorKind::AddrInUse => "; another program listens there: choose another port",
        _ => "",
    }
}

fn handshake_hint(cause: &SecureError) -> &'static str {
    use efarun_wire::secure::Refusal;
    match cause {
        // The name under which ranks greet each other is derived from the key.
        SecureError::Refused(Refusal::OtherJob | Refusal::NotAuthentic)
        | SecureError::NotAuthentic { .. } => "; EFARUN_KEY_FILE must have the same content on all ranks",
        SecureError::Stranger { .. } => "; another program listens there: choose another port",
        _ => "",
    }
}

fn missing_text(missing: &[Rank], world_size: u32) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let joined = world_size as usize - missing.len();
    format!(": {joined} of {world_size} ranks joined, missing: {}", list_ranks(missing))
}

/// Lists ranks for people: `1, 3, 5 and 12 more`.
pub(super) fn list_ranks(ranks: &[Rank]) -> String {
    let shown = ranks.iter().take(MAX_LISTED).map(Rank::to_string).collect::<Vec<_>>().join(", ");
    match ranks.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn aborter_text(rank: Option<Rank>) -> String {
    rank.map_or_else(|| "the launcher or the meeting point".to_owned(), |rank| format!("rank {rank}"))
}

const MAX_LISTED: usize = 16;
