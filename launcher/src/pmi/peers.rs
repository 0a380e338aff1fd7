//! What the servers of a job's nodes say to each other, inside messages of the out-of-band layer.

use efarun_wire::NodeId;
use serde::{Deserialize, Serialize};

use super::keys::Pairs;
use super::request::Address;
use crate::exchange::{Family, decode, encode};

/// What one server asks another. The answer is bytes that were found, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Question {
    /// A key of a generation.
    Key { generation: Generation, key: Vec<u8> },
    /// To remember a published name. Nothing is found where it is published already.
    Publish { name: Vec<u8>, port: Vec<u8> },
    /// To forget it. Nothing is found where it is not published.
    Unpublish { name: Vec<u8> },
    /// The port of a published name.
    Lookup { name: Vec<u8> },
}

/// Which world's, and how often its ranks have finalised before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) world: u32,
    pub(super) number: u32,
}

/// The answer's form on the wire.
pub(super) type Answer = Option<Vec<u8>>;

/// A rank's request that others are asked for.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) address: Address,
    pub(super) question: Question,
    /// Who is asked if this one has found nothing, the next one last.
    pub(super) nodes: Vec<NodeId>,
}

/// The id of a generation's barriers.
pub(super) fn barrier_id(Generation { world, number }: Generation, tag: Option<u32>) -> String {
    match tag {
        Some(tag) => format!("{ID_PREFIX}{world}/{number}/{tag}"),
        None => format!("{ID_PREFIX}{world}/{number}"),
    }
}

/// The generation that a barrier belongs to.
pub(super) fn generation_of(id: &str) -> Option<Generation> {
    let mut numbers = id.strip_prefix(ID_PREFIX)?.split('/').map(|number| number.parse().ok());
    Some(Generation { world: numbers.next()??, number: numbers.next()?? })
}

/// The tag that a barrier was asked for with.
pub(super) fn tag_of(id: &str) -> Option<u32> {
    id.strip_prefix(ID_PREFIX)?.split('/').nth(2)?.parse().ok()
}

/// What a rank takes along to a barrier.
pub(super) fn blob(pairs: &Pairs) -> Vec<u8> {
    if pairs.is_empty() { Vec::new() } else { encode(pairs) }
}

/// What a rank took along. None for bytes that no server writes.
pub(super) fn pairs_of(blob: &[u8]) -> Option<Pairs> {
    if blob.is_empty() { Some(Pairs::new()) } else { decode(blob) }
}

const ID_PREFIX: &str = Family::Pmi.id_prefix();
