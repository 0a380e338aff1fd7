//! Who is where, for the error of a rank that waited in vain.
//!
//! On one node ranks see it on each other's boards. Between nodes their agents are asked, who read it from pages that the
//! ranks keep; without a launcher the ranks themselves are, of which one that is in code of its own does not answer.

use std::time::Duration;

use efarun_wire::Rank;

use crate::bootstrap::OobConnection;
use crate::coll::executor::whereabouts::text;
use crate::leaf::Leaves;
use crate::topology::Topology;

/// Says which rank has come how far; nothing where nothing is known. Blocks for [`PATIENCE`] at most.
pub(super) fn whereabouts(
    leaves: Option<&Leaves>,
    oob: &mut OobConnection,
    topology: &Topology,
) -> Option<String> {
    if let Some(leaves) = leaves.filter(|_| topology.node_count() == 1) {
        return Some(leaves.whereabouts());
    }
    let known = oob.positions(topology.node_count(), PATIENCE);
    if known.iter().all(|(_, position)| position.is_none()) {
        return None;
    }
    let of_rank = |rank| {
        let found = known.binary_search_by_key(&rank, |(rank, _)| *rank).ok();
        found.and_then(|at| known[at].1).map(|position| (position.begun, position.signature))
    };
    let calls: Vec<_> = (0..topology.world_size()).map(Rank).map(|rank| (rank, of_rank(rank))).collect();
    Some(text(&calls, |rank| (topology.node_count() > 1).then(|| topology.hostname(rank))))
}

/// Answers take milliseconds on machines that are not overloaded; ranks in code of their own, where they are asked
/// themselves, do not answer.
const PATIENCE: Duration = Duration::from_secs(5);
