//! What a node's servers have in common, PMI's and PMIx's: how one exchanges with its like on the job's other nodes.
//!
//! A server is a state machine without I/O and clock. Towards the other nodes it has no verbs of its own: it says
//! [`OobUp`] and is told [`OobDown`], as a rank's runtime does, and whoever owns it carries these unread. So both have the
//! same few kinds of steps (say something to the node's own side, say an [`OobUp`], declare a rank broken), and what they
//! keep of the exchange is kept here:
//!
//! - [`Asks`]: questions that other nodes have not answered, of which few are open at a time and the others wait.
//! - [`Rounds`]: which allgather is the next one over the same ranks for the same thing.
//! - [`Names`]: what ranks have published. One node keeps them, [`NAME_KEEPER`].
//!
//! Both protocols share the node's name in the out-of-band layer; a token says whose a question is ([`Family`]).

mod asks;
mod names;
mod rounds;

use efarun_wire::NodeId;
use efarun_wire::message::{OobDown, OobUp, Target};
use efarun_wire::oob::MAX_REQUEST_BYTES;
use serde::{Deserialize, Serialize};

pub(crate) use asks::{Asks, Family};
pub(crate) use names::Names;
pub(crate) use rounds::Rounds;

/// The node that keeps published names.
pub(crate) const NAME_KEEPER: NodeId = NodeId(0);

/// Makes bytes of what servers say to each other.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("these types can always be written")
}

/// Reads what [`encode`] wrote, all of it.
pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (message, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(message)
}

/// Answers a question that another node's server asked.
pub(crate) fn reply<T: Serialize>(to: Target, token: u64, answer: &T) -> OobUp {
    let body = encode(answer);
    let body = if body.len() <= MAX_REQUEST_BYTES { Ok(body) } else { Err("too long an answer".to_owned()) };
    OobUp::Reply { to, token, body }
}

/// How many bytes of servers' own a message towards the head carries.
pub(crate) fn len_up(up: &OobUp) -> usize {
    match up {
        OobUp::Gather { blobs, .. } => blobs.iter().map(|(_, blob)| blob.len()).sum(),
        OobUp::Request { body, .. } => body.len(),
        OobUp::Reply { body, .. } => body.as_ref().map_or(0, Vec::len),
        OobUp::Abort { .. } => 0,
    }
}

/// How many bytes of servers' own a message from the head carries.
pub(crate) fn len_down(down: &OobDown) -> usize {
    match down {
        OobDown::Gathered { blobs, .. } => blobs.iter().map(|(_, blob)| blob.len()).sum(),
        OobDown::Request { body, .. } => body.len(),
        OobDown::Reply { body, .. } => body.as_ref().map_or(0, Vec::len),
        OobDown::Event(_) => 0,
    }
}

/// Says whether a message from the head is for the server of this family on this node.
pub(crate) fn is_for(down: &OobDown, node: NodeId, family: Family) -> bool {
    match down {
        OobDown::Gathered { key, .. } => key.id.starts_with(family.id_prefix()),
        // What ranks ask is for their agent.
        OobDown::Request { from, to, token, .. } => {
            matches!(from, Target::Node(_)) && *to == Target::Node(node) && family.owns(*token)
        }
        OobDown::Reply { to, token, .. } => *to == Target::Node(node) && family.owns(*token),
        OobDown::Event(_) => false,
    }
}
