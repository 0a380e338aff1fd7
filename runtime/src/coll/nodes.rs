//! Which ranks share a node, as far as schedules are made from it.

use efarun_wire::Rank;

/// The ranks of every node, the same on all ranks. One table of the world, which schedules share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodes {
    /// The ranks of each node, ascending.
    members: Vec<Vec<Rank>>,
    /// By rank: its node, and its number there.
    places: Vec<(u32, u32)>,
}

impl Nodes {
    /// From the ranks of each node, ascending.
    ///
    /// # Panics
    ///
    /// When a node has no ranks, or they are not those of a world, each once.
    pub fn new(members: Vec<Vec<Rank>>) -> Self {
        let world_size = members.iter().map(Vec::len).sum();
        let mut places = vec![None; world_size];
        for (node, ranks) in (0..).zip(&members) {
            assert!(!ranks.is_empty(), "a node is where ranks are");
            for (number, rank) in (0..).zip(ranks) {
                let place = places.get_mut(rank.index()).expect("ranks are numbered through");
                assert!(place.replace((node, number)).is_none(), "rank {rank} is on one node");
            }
        }
        Nodes { members, places: places.into_iter().flatten().collect() }
    }

    /// So many ranks on each node, one node's behind the other's; the last may have fewer.
    ///
    /// # Panics
    ///
    /// When there are no ranks on a node.
    pub fn in_order(world_size: u32, per_node: u32) -> Self {
        let ranks: Vec<Rank> = (0..world_size).map(Rank).collect();
        Nodes::new(ranks.chunks(per_node as usize).map(<[Rank]>::to_vec).collect())
    }

    /// World size.
    pub fn world_size(&self) -> u32 {
        self.places.len() as u32
    }

    /// How many nodes there are.
    pub fn count(&self) -> u32 {
        self.members.len() as u32
    }

    /// A rank's node.
    pub fn node_of(&self, rank: Rank) -> u32 {
        self.places[rank.index()].0
    }

    /// A rank's number on its node.
    pub fn number_of(&self, rank: Rank) -> u32 {
        self.places[rank.index()].1
    }

    /// The ranks of a node, ascending.
    pub fn members(&self, node: u32) -> &[Rank] {
        &self.members[node as usize]
    }

    /// Whether ranks have both neighbours on their node and others elsewhere.
    pub fn are_levels(&self) -> bool {
        self.members.len() > 1 && self.members.iter().any(|ranks| ranks.len() > 1)
    }

    /// How many ranks each node has, where all have as many.
    pub fn per_node(&self) -> Option<u32> {
        let first = self.members.first()?.len();
        self.members.iter().all(|ranks| ranks.len() == first).then_some(first as u32)
    }

    /// Whether ranks are numbered node by node.
    pub fn are_in_order(&self) -> bool {
        self.members.iter().flatten().zip(0..).all(|(rank, number)| rank.0 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_found_on_their_nodes() {
        let nodes = Nodes::in_order(8, 5);
        assert_eq!((nodes.count(), nodes.world_size(), nodes.per_node()), (2, 8, None));
        assert_eq!((nodes.node_of(Rank(6)), nodes.number_of(Rank(6))), (1, 1));
        assert!(nodes.are_levels() && nodes.are_in_order());
        let alternating = Nodes::new(vec![vec![Rank(0), Rank(2)], vec![Rank(1), Rank(3)]]);
        assert_eq!((alternating.per_node(), alternating.are_in_order()), (Some(2), false));
        assert_eq!((alternating.node_of(Rank(3)), alternating.number_of(Rank(3))), (1, 1));
        assert!(!Nodes::in_order(4, 1).are_levels() && !Nodes::in_order(4, 4).are_levels());
    }
}
