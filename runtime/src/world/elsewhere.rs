//! What a World that is not there would do: for whoever asks before the hosts are there.
//!
//! The hosts are taken to be joined by TCP sockets, as those without EFA are, and to have a core for each of their ranks.

use std::sync::Arc;

use crate::coll::collective::Collective;
use crate::coll::explain::{ExplainError, Explanation, Query, explain, explain_on};
use crate::coll::nodes::Nodes;
use crate::coll::select::{Choice, MessageLimits};
use crate::coll::sim::Model;
use crate::element::ElementType;

/// A World of so many ranks on so many nodes, thought of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// World size; at least 1.
    pub world_size: u32,
    /// How many nodes the ranks are on; at least 1, and no more than ranks.
    pub node_count: u32,
}

impl Elsewhere {
    /// Says how a call would be done there, as [`super::World::explain`] does for a World that is there.
    ///
    /// # Errors
    ///
    /// [`ExplainError::NoSuchAlgorithm`] when the choice is one that the collective does not have.
    ///
    /// # Panics
    ///
    /// When there are no ranks, or the collective's root is not among them.
    pub fn explain(
        self,
        collective: Collective,
        element: ElementType,
        count: usize,
        choice: Choice,
    ) -> Result<Explanation, ExplainError> {
        let model = if self.node_count > 1 { Model::TCP } else { Model::SHARED_MEMORY };
        let (world_size, messages) = (self.world_size, self.messages());
        let leaves = world_size > 1 && self.node_count == 1;
        let query = Query { collective, element, count, world_size, choice, messages, leaves, model };
        if self.node_count < 2 {
            return explain(&query);
        }
        let nodes = Nodes::in_order(world_size, world_size.div_ceil(self.node_count));
        explain_on(&query, &Arc::new(nodes), SOCKETS)
    }

    fn messages(self) -> MessageLimits {
        match (self.world_size, self.node_count) {
            (1, _) => MessageLimits {
                slot_bytes: usize::MAX,
                min_segment_bytes: 1,
                min_exchange_bytes: 1,
                quick_bytes: None,
                credits: 2,
            },
            (_, 1) => SHARED_MEMORY,
            (ranks, nodes) if ranks == nodes => SOCKETS,
            // Schedules are made for what all ranks' transports can do.
            _ => MessageLimits {
                slot_bytes: SHARED_MEMORY.slot_bytes.min(SOCKETS.slot_bytes),
                min_segment_bytes: SHARED_MEMORY.min_segment_bytes.max(SOCKETS.min_segment_bytes),
                min_exchange_bytes: SHARED_MEMORY.min_exchange_bytes.max(SOCKETS.min_exchange_bytes),
                quick_bytes: None,
                credits: SHARED_MEMORY.credits.min(SOCKETS.credits),
            },
        }
    }
}

/// The transports' own, which a test compares with those of a World that is there.
const SHARED_MEMORY: MessageLimits = MessageLimits {
    slot_bytes: 64 << 10,
    min_segment_bytes: 4 << 10,
    min_exchange_bytes: 4 << 10,
    quick_bytes: None,
    credits: 8,
};
const SOCKETS: MessageLimits = MessageLimits {
    slot_bytes: 512 << 10,
    min_segment_bytes: 128 << 10,
    min_exchange_bytes: 512 << 10,
    quick_bytes: None,
    credits: 4,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Provider;
    use crate::world::{Options, World};

    #[test]
    fn a_world_thought_of_does_what_one_that_is_there_does() {
        for (world_size, node_count) in [(1, 1), (3, 1), (2, 2), (4, 2)] {
            let builder = World::builder().provider(Provider::Tcp).ranks_per_node(world_size / node_count);
            let worlds = builder.thread_worlds(world_size).unwrap();
            let elsewhere = Elsewhere { world_size, node_count };
            for collective in Collective::ALL {
                for count in [0, 1, 100_000] {
                    let here = worlds[0].explain(collective, ElementType::F32, count, &Options::default());
                    let there = elsewhere.explain(collective, ElementType::F32, count, Choice::Auto);
                    assert_eq!(there, here, "{collective} of {count} by {world_size} on {node_count}");
                }
            }
            // Each waits for the others.
            std::thread::scope(|scope| {
                for world in worlds {
                    scope.spawn(|| world.close().unwrap());
                }
            });
        }
    }
}
