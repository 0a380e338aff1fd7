//! The barrier's schedule.

use efarun_wire::Rank;

use crate::coll::schedule::{Schedule, Step};
use crate::coll::tree::Tree;

/// A tree over one element, under a name of its own, so that a rank in a barrier is told apart from one that reduces a
/// single byte.
#[derive(Debug)]
pub(super) struct BarrierSchedule {
    tree: Tree,
}

impl BarrierSchedule {
    pub(super) fn new(world_size: u32, credits: usize) -> Self {
        BarrierSchedule { tree: Tree::new(world_size, 1, 1, credits) }
    }
}

impl Schedule for BarrierSchedule {
    fn name(&self) -> &'static str {
        "barrier"
    }

    fn world_size(&self) -> u32 {
        self.tree.world_size()
    }

    fn count(&self) -> usize {
        self.tree.count()
    }

    fn segment_len(&self) -> usize {
        self.tree.segment_len()
    }

    fn step_count(&self, rank: Rank) -> usize {
        self.tree.step_count(rank)
    }

    fn step(&self, rank: Rank, index: usize) -> Step {
        self.tree.step(rank, index)
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        self.tree.max_open_sends(rank)
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        self.tree.receives_from(rank)
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        self.tree.sends_to(rank)
    }
}
