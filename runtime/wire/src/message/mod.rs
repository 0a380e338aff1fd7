//! Every message of a job, by the link it travels on.
//!
//! Three links exist. Head and agent talk over the SSH channel and then over the sealed TCP link
//! ([`HeadMessage`], [`AgentMessage`]). A rank talks to its agent over an inherited socket, or, where no launcher
//! is present, to the rank that serves the bootstrap ([`RankMessage`], [`RankReply`]). The out-of-band primitives
//! ([`OobUp`], [`OobDown`]) ride inside both, unchanged, so that an agent can merge and forward without
//! interpreting them.
//!
//! Byte strings that came from a user (arguments, environment, paths) are `Vec<u8>`: they need not be UTF-8.

mod agent;
mod launch;
mod oob;
mod rank;
mod world;

pub use agent::*;
pub use launch::*;
pub use oob::*;
pub use rank::*;
pub use world::*;
