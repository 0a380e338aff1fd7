//! The ranks that a barrier is over.

use efarun_wire::Rank;
use efarun_wire::message::{JobMap, Participants};

/// A barrier's ranks, as they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Group {
    /// All.
    World,
    /// Those of this node.
    Node,
    /// These, in any order.
    Ranks(Vec<u32>),
}

impl Group {
    /// Reads what PMI-1.2 writes: `WORLD`, `NODE` or ranks with commas between, then perhaps `:` and a tag.
    pub(super) fn parse(text: &str) -> Option<(Group, Option<u32>)> {
        let (ranks, tag) = match text.split_once(':') {
            Some((ranks, tag)) => (ranks, Some(tag.parse().ok()?)),
            None => (text, None),
        };
        let group = match ranks {
            "WORLD" => Group::World,
            "NODE" => Group::Node,
            ranks => Group::Ranks(ranks.split(',').map(|rank| rank.parse().ok()).collect::<Option<_>>()?),
        };
        Some((group, tag))
    }

    /// The group as the out-of-band layer names it: the same on every node. None for a group that the rank is not in, or
    /// with ranks that its world has not.
    pub(super) fn participants(
        self,
        rank: Rank,
        local: impl Iterator<Item = Rank>,
        map: &JobMap,
    ) -> Option<Participants> {
        let mut ranks: Vec<Rank> = match self {
            Group::World => return Some(map.everybody()),
            Group::Node => local.collect(),
            Group::Ranks(ranks) => ranks.into_iter().map(|within| map.rank(within)).collect::<Option<_>>()?,
        };
        ranks.sort_unstable();
        ranks.dedup();
        ranks.binary_search(&rank).is_ok().then_some(Participants::Ranks(ranks))
    }
}

#[cfg(test)]
mod tests {
    use efarun_wire::message::MappedNode;

    use super::*;

    #[test]
    fn groups_are_read_as_pmi_1_2_writes_them() {
        assert_eq!(Group::parse("WORLD:7"), Some((Group::World, Some(7))));
        assert_eq!(Group::parse("NODE"), Some((Group::Node, None)));
        assert_eq!(Group::parse("3,0:12"), Some((Group::Ranks(vec![3, 0]), Some(12))));
        for wrong in ["", "WORLD:", "1,,2", "1,2:x", "-1", "world", "1,2,"] {
            assert_eq!(Group::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_group_is_the_same_whoever_names_it_and_refused_from_outside() {
        let node = MappedNode { host: "h".to_owned(), ranks: (0..4).map(Rank).collect() };
        let map = JobMap { nodes: vec![node], ..JobMap::default() };
        let named = |ranks: &[u32], rank| {
            Group::Ranks(ranks.to_vec()).participants(Rank(rank), std::iter::empty(), &map)
        };
        assert_eq!(named(&[3, 0, 3], 0), Some(Participants::Ranks(vec![Rank(0), Rank(3)])));
        assert_eq!(named(&[0, 3], 3), named(&[3, 0], 0));
        assert_eq!(named(&[0, 3], 1), None);
        assert_eq!(named(&[0, 4], 0), None);
    }
}
