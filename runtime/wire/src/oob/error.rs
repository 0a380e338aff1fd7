use super::membership::Member;
use crate::ids::Rank;
use crate::message::Target;

/// Why an out-of-band message is refused. From a member's link it means that the member does not follow the
/// protocol; from [`super::Client`]'s own calls that the call cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OobError {
    /// The hub has no such member.
    #[error("{0} is not a member here")]
    NotAMember(Member),
    /// The member spoke before it joined.
    #[error("{0} has not joined")]
    NotJoined(Member),
    /// The member joined before, and may have left since.
    #[error("{0} has joined before")]
    AlreadyJoined(Member),
    /// The member speaks for a rank or node that is not its own.
    #[error("{member} speaks for {claimed}, which is not its to speak for")]
    Impersonation {
        /// Who spoke.
        member: Member,
        /// As whom.
        claimed: Target,
    },
    /// A contribution to an allgather that the rank takes no part in.
    #[error("rank {rank} takes no part in the allgather `{}`", id.escape_default())]
    NotAParticipant {
        /// The rank.
        rank: Rank,
        /// The allgather's id.
        id: String,
    },
    /// A second contribution to the same allgather.
    #[error("rank {rank} contributed twice to the allgather `{}`, epoch {epoch}", id.escape_default())]
    ContributedTwice {
        /// The rank.
        rank: Rank,
        /// The allgather's id.
        id: String,
        /// Its epoch.
        epoch: u32,
    },
    /// A list of ranks that is empty, not strictly ascending, or beyond the world.
    #[error("{what} are not strictly ascending ranks of a world of {world_size}")]
    BadRanks {
        /// Which list: `participants`, `contributions`.
        what: &'static str,
        /// World size.
        world_size: u32,
    },
    /// The allgather has a participant that is lost.
    #[error("rank {rank}, which takes part in the allgather `{}`, is lost", id.escape_default())]
    ParticipantLost {
        /// The lost rank.
        rank: Rank,
        /// The allgather's id.
        id: String,
    },
    /// Something is larger than its limit.
    #[error("{what} of {len_bytes} bytes, where at most {limit_bytes} are allowed")]
    TooLarge {
        /// `an allgather's id`, `a blob`, `a request`, …
        what: &'static str,
        /// Its length.
        len_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The rank waits for the results of too many allgathers.
    #[error("rank {rank} has {limit} allgathers open, and may not open another")]
    TooManyOpenGathers {
        /// The rank.
        rank: Rank,
        /// [`super::MAX_OPEN_GATHERS`].
        limit: usize,
    },
    /// The asker waits for too many replies.
    #[error("{asker} has {limit} requests open, and may not open another")]
    TooManyOpenRequests {
        /// Who asks.
        asker: Target,
        /// [`super::MAX_OPEN_REQUESTS`].
        limit: usize,
    },
    /// A request with the token of one that is not answered yet.
    #[error("{asker} used the token {token} for two requests at a time")]
    TokenInUse {
        /// Who asks.
        asker: Target,
        /// The token.
        token: u64,
    },
    /// Events arrived so far ahead of the next one that it must have been lost.
    #[error("event {arrived} arrived, where {next} is next")]
    EventsMissing {
        /// The number of the event that arrived.
        arrived: u64,
        /// The number of the one that is awaited.
        next: u64,
    },
}

/// Refuses what is larger than its limit.
pub(super) fn check_size(what: &'static str, len_bytes: usize, limit_bytes: usize) -> Result<(), OobError> {
    if len_bytes <= limit_bytes { Ok(()) } else { Err(OobError::TooLarge { what, len_bytes, limit_bytes }) }
}
