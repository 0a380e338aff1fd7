use crate::ids::JobId;

/// Why a link could not be opened, or cannot be trusted any longer. None can be repaired: the connection is dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecureError {
    /// The first bytes are not efarun's: a port scanner, another program, a wrong port.
    #[error("the other end does not speak efarun's protocol: it began with \"{}\"", began_with.escape_ascii())]
    Stranger {
        /// The first bytes, at most as many as efarun's own mark has.
        began_with: Vec<u8>,
    },
    /// The other end is an efarun with another protocol.
    #[error(
        "the other end is an efarun with protocol {theirs}, this one has protocol {ours}: install the same version on both"
    )]
    OtherVersion {
        /// [`crate::PROTOCOL_VERSION`] of this end.
        ours: u16,
        /// That of the other end.
        theirs: u16,
    },
    /// The other end works for another job.
    #[error("the other end belongs to job {theirs}, this end to job {ours}")]
    OtherJob {
        /// The job of this end.
        ours: JobId,
        /// The job of the other end.
        theirs: JobId,
    },
    /// The job has no such member.
    #[error("the job has no member number {member}")]
    UnknownMember {
        /// The number of the node or rank in the greeting.
        member: u32,
    },
    /// The member has a link already.
    #[error("member number {member} has a link already")]
    AlreadyJoined {
        /// The number of the node or rank in the greeting.
        member: u32,
    },
    /// The other end has another key, or its bytes were changed or repeated by somebody in between.
    #[error("the other end does not have this link's key, or {what} was changed on its way")]
    NotAuthentic {
        /// What failed to authenticate: `its first message`, …
        what: &'static str,
    },
    /// The other end sent more than a handshake has.
    #[error(
        "the other end sent {received_bytes} bytes before it was authenticated, where {limit_bytes} are allowed"
    )]
    TooManyBytes {
        /// How many have arrived.
        received_bytes: usize,
        /// How many a handshake has at this point.
        limit_bytes: usize,
    },
    /// The responder said no, for a reason that it alone can know.
    #[error("the other end refused the link: {0}")]
    Refused(Refusal),
    /// A sealed record was changed, repeated, left out or put in another order.
    #[error("record {number} of the link is not what the other end sealed")]
    BadRecord {
        /// The record's number in its direction, from 0.
        number: u64,
    },
    /// The stream ended within a record or within the handshake.
    #[error("the stream ended within {within}")]
    Truncated {
        /// `a record`, `the handshake`.
        within: &'static str,
    },
    /// The link has failed before; nothing is opened or sealed on it any more.
    #[error("the link is closed after an earlier error")]
    Closed,
    /// The cryptography library could not go on: no random numbers, or 2^64 records sealed.
    #[error("the cryptography library failed: {cause}")]
    Library {
        /// Its word.
        cause: String,
    },
}

/// Why a responder refuses an initiator, as far as the initiator is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// See [`SecureError::OtherVersion`].
    #[error("it has another protocol version")]
    OtherVersion,
    /// See [`SecureError::OtherJob`].
    #[error("it works for another job")]
    OtherJob,
    /// See [`SecureError::UnknownMember`].
    #[error("it knows no such member")]
    UnknownMember,
    /// See [`SecureError::AlreadyJoined`].
    #[error("this member has a link already")]
    AlreadyJoined,
    /// See [`SecureError::NotAuthentic`].
    #[error("this end has another key")]
    NotAuthentic,
}
