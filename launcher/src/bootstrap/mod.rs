//! The head's ends of the links to its agents.
//!
//! [`listener`] is the one port that agents dial, open while agents are awaited and no longer; [`node_link`] is the
//! link itself, first in the agent's channel and then, where the head can be dialled, over TCP.

pub mod listener;
pub mod node_link;

pub use listener::{Arrival, Joined, Listener};
pub use node_link::{NodeEvent, NodeLink};
