//! The three out-of-band primitives that every protocol of a job is made of.
//!
//! - *Allgather*: each participant contributes a blob, each gets all of them, ascending by rank.
//! - *Request and reply* to one rank, one node or the head.
//! - *Events*: what everybody learns, in the order in which the head numbered it.
//!
//! A [`Client`] sits in each rank. A [`Hub`] sits wherever links meet: a [`RelayHub`] in each agent, whose members
//! are the node's ranks and whose upstream is the head; a [`RootHub`] in the head, whose members are the nodes, or
//! in the rank that serves a bootstrap without a launcher, whose members are the ranks. Clients and hubs are given
//! messages and give back messages or [`Action`]s; whoever owns the links carries them out in order.
//!
//! What a rank sends is untrusted. A hub refuses with an [`OobError`] whatever a [`Client`] would not have sent, and
//! remembers no more of a rank than the limits of this module allow; its owner drops the link of a rank that was
//! refused. An agent's checks are those of the head, so that a rank cannot make its agent look bad to the head.
//!
//! When a rank is lost the root says so by an event. Each hub then drops the allgathers that the rank takes part
//! in, finished by nobody: a result that was sent before the event arrives before it, none arrives after it. Each
//! client gives its own up as it learns the event ([`ClientEvent::GatherFailed`]), and starts no more with that rank.

mod client;
mod error;
mod event;
mod gather;
mod hub;
mod membership;
mod request;

pub use client::{Client, ClientEvent};
pub use error::OobError;
pub use event::EventSequencer;
pub use gather::blob_limit_bytes;
pub use hub::{Action, Hub, Relay, RelayHub, Role, Root, RootHub};
pub use membership::Member;

/// The longest id of an allgather.
pub const MAX_ID_BYTES: usize = 128;

/// The largest blob that a rank contributes to an allgather. Large ones allow less: see [`blob_limit_bytes`].
pub const MAX_BLOB_BYTES: usize = 1 << 20;

/// The largest result of an allgather, so that it fits a message.
pub const MAX_GATHERED_BYTES: usize = 32 << 20;

/// The largest message that a rank sends, as a frame's body: what the reader of a rank's socket should accept.
pub const MAX_RANK_BODY_BYTES: usize = 2 << 20;

/// How many allgathers a rank may have contributed to whose results are out.
pub const MAX_OPEN_GATHERS: usize = 16;

/// The largest body of a request or reply.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// How many requests of one asker may be unanswered.
pub const MAX_OPEN_REQUESTS: usize = 64;

/// How many requests a hub keeps for a member that has not joined yet.
pub const MAX_PARKED_REQUESTS: usize = 16;

/// The longest reason of an abort that is passed on; the rest is cut off.
pub const MAX_REASON_BYTES: usize = 4096;
