//! The agent and the keeper as a head sees them: the real executable, driven over its channel.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod ending;
mod head;
mod launching;
mod links;
mod streams;
