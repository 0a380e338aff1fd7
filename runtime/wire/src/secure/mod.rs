//! How a link is opened between two strangers, and kept secret afterwards.
//!
//! The end that dials is the [`Initiator`], the end that listens is the [`Responder`]. Both are given bytes as they
//! arrive and give back bytes to send, until they know that the other end has the same [`LinkKey`]; from then on a
//! [`SecureChannel`] seals and opens what is said.
//!
//! ```text
//! initiator                                      responder
//!   greeting: magic, version, job, member   --->   picks the key of this member
//!   Noise message 1 (psk, e)                --->   checks it: wrong keys end here
//!                                           <---   verdict: magic, version, accepted or why not
//!                                           <---   Noise message 2 (e, ee)
//!   is sure of the responder
//!   confirm: the first sealed record        --->   is sure of the initiator
//! ```
//!
//! The pattern is `NNpsk0`: no identities but the pre-shared key, fresh ephemeral keys per link. Message 1 can be
//! recorded and sent again by anybody, so the responder believes nothing before the confirm, which only the holder
//! of this connection's ephemeral key can seal.
//!
//! Promised: before authentication a responder accepts [`Responder::HANDSHAKE_BYTES`] bytes, well below
//! [`MAX_HANDSHAKE_BYTES`], and allocates no more than that; nothing is parsed that is not a greeting. Not promised:
//! that a refusal is genuine (it is sent in the clear, and somebody in between could as well cut the wire), and that
//! the end of a stream between two records is the end that the other end meant: a protocol above has to say goodbye.

mod error;
mod greeting;
mod handshake;
mod key;
mod record;

pub use error::{Refusal, SecureError};
pub use handshake::{Authenticated, Initiator, Members, Responder, Standing};
pub use key::{JobKey, LinkKey, NoRandomness, ParseKeyError};
pub use record::{MAX_RECORD_PLAINTEXT_BYTES, OpeningHalf, SealingHalf, SecureChannel};

/// The most bytes that a listener may read from a peer that is not authenticated yet.
pub const MAX_HANDSHAKE_BYTES: usize = 1024;

/// How long a handshake may take before the connection is dropped, at either end, in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 2000;

/// How many connections a listener lets be between accept and authentication; further ones are dropped at once.
pub const MAX_HALF_OPEN: usize = 32;
