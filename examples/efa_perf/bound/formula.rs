//! The least time that a collective can take, whatever the algorithm.
//!
//! Pure. Nothing reaches another rank before one message's latency has passed, and from then on the busiest link must
//! still carry every byte that has to pass it:
//!
//! ```text
//! bound = latency + least bytes on the busiest link / its bandwidth in that direction
//! ```
//!
//! With several nodes the links are those between nodes, one per node and shared by its ranks, and the bytes are those
//! that must enter or leave a node; what happens inside a node is taken for free. What comes from one root, or goes to
//! one, has the link to itself; the others need it both ways at once. On one node the link is memory, and the bytes are
//! those that must be copied into a rank. A tree's ⌈log2 n⌉ latencies are no bound: a rank may send to
//! all others without waiting in between, so that one latency can do. The fraction that is reached can therefore be
//! small where messages are, and is still true.
//!
//! | collective of S bytes | least bytes, N nodes | because |
//! |---|---|---|
//! | all_reduce | 2(N-1)/N S | each element meets its N-1 partners, and goes back to them |
//! | broadcast, reduce | S | all of it enters some node |
//! | all_gather, reduce_scatter | the ranks outside the smallest node, by all ranks, of S | it has what is its own already |
//! | barrier | 0 | |

use super::link::{Bandwidth, Link, Step};
use crate::collective::Collective;

/// How many ranks there are on each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    ranks_per_node: Vec<u32>,
}

impl Layout {
    /// Of nodes with so many ranks each; there is one rank at least.
    pub(crate) fn new(ranks_per_node: Vec<u32>) -> Self {
        Layout { ranks_per_node }
    }

    /// How many nodes there are.
    pub(crate) fn node_count(&self) -> usize {
        self.ranks_per_node.len()
    }

    /// World size.
    pub(crate) fn world_size(&self) -> u32 {
        self.ranks_per_node.iter().sum()
    }

    /// The parties that a link connects: nodes, or on one node ranks.
    fn parties(&self) -> f64 {
        match self.node_count() {
            1 => f64::from(self.world_size()),
            nodes => nodes as f64,
        }
    }

    /// The share of all ranks that is not in the smallest party.
    fn outside_smallest(&self) -> f64 {
        let smallest = match self.node_count() {
            1 => 1,
            _ => self.ranks_per_node.iter().copied().min().unwrap_or(1),
        };
        f64::from(self.world_size() - smallest) / f64::from(self.world_size())
    }
}

/// The least bytes that the busiest link carries in one direction.
pub(crate) fn least_bytes(collective: Collective, size_bytes: u64, layout: &Layout) -> f64 {
    if layout.world_size() == 1 {
        return 0.0;
    }
    let size_bytes = size_bytes as f64;
    match collective {
        Collective::AllReduce => 2.0 * (layout.parties() - 1.0) * size_bytes / layout.parties(),
        Collective::Broadcast | Collective::Reduce => size_bytes,
        Collective::AllGather | Collective::ReduceScatter => layout.outside_smallest() * size_bytes,
        Collective::Barrier => 0.0,
    }
}

/// The least time in microseconds.
pub(crate) fn bound_us(collective: Collective, size_bytes: u64, layout: &Layout, link: &Link) -> f64 {
    if layout.world_size() == 1 {
        return 0.0;
    }
    let bytes = least_bytes(collective, size_bytes, layout);
    let bytes_per_us = 1e3 * link.bandwidth.gb_per_s(collective, size_bytes);
    link.latency_us + bytes / bytes_per_us
}

impl Bandwidth {
    /// For a collective of this size.
    fn gb_per_s(&self, collective: Collective, size_bytes: u64) -> f64 {
        let is_one_way = matches!(collective, Collective::Broadcast | Collective::Reduce);
        match self {
            Bandwidth::Network { one_way, .. } if is_one_way => *one_way,
            Bandwidth::Network { both_ways, .. } => *both_ways,
            Bandwidth::Steps(steps) => fastest_at(steps, size_bytes),
        }
    }
}

/// Smaller data lies in nearer caches, so that the step at or below a size is the fastest that can be meant. Should a
/// larger one be faster, by chance or by other instructions, a bound must allow for it.
fn fastest_at(steps: &[Step], size_bytes: u64) -> f64 {
    let reached = steps.partition_point(|step| step.size_bytes <= size_bytes);
    steps[reached.saturating_sub(1)..].iter().map(|step| step.gb_per_s).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(ranks_per_node: &[u32]) -> Layout {
        Layout::new(ranks_per_node.to_vec())
    }

    fn least(ranks_per_node: &[u32]) -> [f64; 6] {
        Collective::ALL.map(|collective| least_bytes(collective, 1200, &layout(ranks_per_node)))
    }

    #[test]
    fn between_nodes_only_what_crosses_counts() {
        // all_reduce, broadcast, reduce, all_gather, reduce_scatter, barrier
        assert_eq!(least(&[1, 1]), [1200.0, 1200.0, 1200.0, 600.0, 600.0, 0.0]);
        assert_eq!(least(&[8, 8]), [1200.0, 1200.0, 1200.0, 600.0, 600.0, 0.0]);
        assert_eq!(least(&[1, 1, 2]), [1600.0, 1200.0, 1200.0, 900.0, 900.0, 0.0]);
    }

    #[test]
    fn node_with_the_fewest_ranks_must_get_most() {
        assert_eq!(least(&[3, 1])[3], 900.0);
        assert_eq!(least(&[1, 3])[4], 900.0);
    }

    #[test]
    fn on_one_node_ranks_are_the_parties() {
        assert_eq!(least(&[4]), [1800.0, 1200.0, 1200.0, 900.0, 900.0, 0.0]);
        assert_eq!(least(&[1]), [0.0; 6]);
    }

    #[test]
    fn bound_is_a_latency_and_the_bytes_by_the_bandwidth() {
        let link = Link { bandwidth: Bandwidth::Network { both_ways: 2.0, one_way: 4.0 }, latency_us: 10.0 };
        let of = |collective, size| bound_us(collective, size, &layout(&[1, 1]), &link);
        assert_eq!(of(Collective::AllReduce, 0), 10.0);
        assert_eq!(of(Collective::AllReduce, 2_000_000), 1010.0);
        assert_eq!(of(Collective::AllGather, 2_000_000), 510.0);
        assert_eq!(of(Collective::Broadcast, 2_000_000), 510.0);
        assert_eq!(of(Collective::Barrier, 0), 10.0);
        assert_eq!(bound_us(Collective::AllReduce, 1 << 20, &layout(&[1]), &link), 0.0);
    }

    #[test]
    fn memory_is_as_fast_as_its_fastest_place_for_the_size() {
        let steps = [(1000, 40.0), (10_000, 20.0), (100_000, 25.0)];
        let steps = steps.map(|(size_bytes, gb_per_s)| Step { size_bytes, gb_per_s });
        assert_eq!(fastest_at(&steps, 1), 40.0);
        assert_eq!(fastest_at(&steps, 9_999), 40.0);
        assert_eq!(fastest_at(&steps, 10_000), 25.0);
        assert_eq!(fastest_at(&steps, 1 << 40), 25.0);
    }

    #[test]
    fn a_larger_world_is_never_bound_to_be_faster() {
        let link = Link { bandwidth: Bandwidth::Network { both_ways: 1.0, one_way: 1.0 }, latency_us: 1.0 };
        for collective in Collective::ALL {
            for nodes in 2..20 {
                let of = |nodes: usize| bound_us(collective, 1 << 20, &layout(&vec![2; nodes]), &link);
                assert!(of(nodes) <= of(nodes + 1), "{} over {nodes} nodes", collective.name());
            }
        }
    }
}
