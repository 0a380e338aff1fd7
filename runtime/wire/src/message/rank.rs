//! What a rank and its agent, or the server of a bootstrap, say to each other.

use serde::{Deserialize, Serialize};

use super::{OobDown, OobUp};
use crate::ids::{JobId, Rank};
use crate::position::PageOffer;

/// Rank to its agent, or to the bootstrap's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankMessage {
    /// The first message: who speaks, and what it links.
    Join {
        /// [`crate::PROTOCOL_VERSION`] of the runtime library.
        protocol: u16,
        /// The rank.
        rank: Rank,
        /// What it takes the world size to be.
        world_size: u32,
    },
    /// An out-of-band message.
    Oob(OobUp),
    /// The rank's World is closed in good order; its end, and the socket's, is no failure. A rank that goes on to make
    /// another World over the same socket says so by its next message.
    Leave,
    /// Where the rank shows which operation it has come to. For agents only.
    Page(PageOffer),
}

/// A rank's agent, or the bootstrap's server, to the rank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankReply {
    /// The answer to [`RankMessage::Join`].
    Welcome {
        /// [`crate::PROTOCOL_VERSION`] of the server.
        protocol: u16,
        /// The job; random where no launcher is present.
        job: JobId,
        /// World size.
        world_size: u32,
    },
    /// The rank was refused, and why.
    Refused(String),
    /// An out-of-band message.
    Oob(OobDown),
}
