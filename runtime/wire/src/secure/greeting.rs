//! What is said in the clear: the initiator's greeting and the responder's verdict, both of fixed size.

use super::error::{Refusal, SecureError};
use crate::PROTOCOL_VERSION;
use crate::ids::JobId;

/// What an initiator says first, so that the responder can pick the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) job: JobId,
    pub(super) member: u32,
}

impl Greeting {
    pub(super) const BYTES: usize = PREFIX_BYTES + 8 + 4;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..PREFIX_BYTES].copy_from_slice(&prefix());
        bytes[PREFIX_BYTES..PREFIX_BYTES + 8].copy_from_slice(&self.job.0);
        bytes[PREFIX_BYTES + 8..].copy_from_slice(&self.member.to_le_bytes());
        bytes
    }

    /// Reads a greeting out of what has arrived so far. Strangers and other versions are told as early as their
    /// bytes tell them apart; what follows the version is never looked at in the greeting of another version.
    pub(super) fn from_bytes(arrived: &[u8]) -> Result<Option<Greeting>, SecureError> {
        check_prefix(arrived)?;
        let Some((_, rest)) = arrived.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let Some((job, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
        let Some(member) = rest.first_chunk::<4>() else { return Ok(None) };
        Ok(Some(Greeting { job: JobId(*job), member: u32::from_le_bytes(*member) }))
    }

    /// What both ends mix into the Noise handshake, so that a greeting changed on its way fails there.
    pub(super) fn prologue(self) -> Vec<u8> {
        let mut prologue = PROTOCOL_NAME.to_vec();
        prologue.extend_from_slice(&self.to_bytes());
        prologue
    }
}

/// What a responder says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused(Refusal),
}

impl Verdict {
    pub(super) const BYTES: usize = PREFIX_BYTES + 1;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let code = match self {
            Verdict::Accepted => 0,
            Verdict::Refused(Refusal::OtherVersion) => 1,
            Verdict::Refused(Refusal::OtherJob) => 2,
            Verdict::Refused(Refusal::UnknownMember) => 3,
            Verdict::Refused(Refusal::AlreadyJoined) => 4,
            Verdict::Refused(Refusal::NotAuthentic) => 5,
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..PREFIX_BYTES].copy_from_slice(&prefix());
        bytes[PREFIX_BYTES] = code;
        bytes
    }

    pub(super) fn from_bytes(arrived: &[u8]) -> Result<Option<Verdict>, SecureError> {
        check_prefix(arrived)?;
        let Some(code) = arrived.get(PREFIX_BYTES) else { return Ok(None) };
        Ok(Some(match code {
            0 => Verdict::Accepted,
            1 => Verdict::Refused(Refusal::OtherVersion),
            2 => Verdict::Refused(Refusal::OtherJob),
            3 => Verdict::Refused(Refusal::UnknownMember),
            4 => Verdict::Refused(Refusal::AlreadyJoined),
            5 => Verdict::Refused(Refusal::NotAuthentic),
            _ => return Err(SecureError::NotAuthentic { what: "its verdict" }),
        }))
    }
}

fn prefix() -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
    bytes
}

fn check_prefix(arrived: &[u8]) -> Result<(), SecureError> {
    let known = arrived.len().min(MAGIC.len());
    if arrived[..known] != MAGIC[..known] {
        return Err(SecureError::Stranger { began_with: arrived[..known].to_vec() });
    }
    let Some(version) = arrived[known..].first_chunk::<2>() else { return Ok(()) };
    match u16::from_le_bytes(*version) {
        PROTOCOL_VERSION => Ok(()),
        theirs => Err(SecureError::OtherVersion { ours: PROTOCOL_VERSION, theirs }),
    }
}

/// No text protocol begins with a byte that is not ASCII, and no protocol of ours will have another mark.
const MAGIC: [u8; 8] = *b"\xefefarun\n";
const PREFIX_BYTES: usize = MAGIC.len() + 2;
const PROTOCOL_NAME: &[u8] = b"efarun link";
