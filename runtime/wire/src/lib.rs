//! What efarun's processes say to each other.
//!
//! The launcher (head, agents, keepers) and the runtime library inside each rank never import each other; this
//! crate is all they share. It holds the messages ([`message`]), how they become bytes ([`frame`]), how a link is
//! opened and kept secret ([`secure`]), how traffic is ordered on it ([`link`]), and the three out-of-band
//! primitives as state machines ([`oob`]). Where ranks are is read from pages of memory ([`position`]).
//!
//! Nothing here owns a socket, reads a clock or spawns a thread, and only [`key_file`] opens a file: bytes and times come in
//! as arguments, bytes and decisions go out as values. That is what lets the tests drive both ends of every protocol in one thread.
#![forbid(unsafe_code)]

pub mod env;
pub mod facts;
pub mod frame;
pub mod heartbeat;
pub mod ids;
pub mod key_file;
pub mod link;
pub mod message;
pub mod oob;
pub mod position;
pub mod secure;
pub mod torchrun;

pub use ids::{BuildId, JobId, NodeId, Rank};

/// Version of every message in this crate. Both ends of a link must have the same; the greeting says which.
pub const PROTOCOL_VERSION: u16 = 2;
