//! By what ranks are dealt to hosts, and in which order they are numbered.

use crate::binding::{Dealt, Object, Order};

/// `--map-by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MapBy {
    /// A host is filled before the next gets a rank.
    #[default]
    Slot,
    /// Each host one rank, then each a second one.
    Node,
    /// Hosts are filled as by slot; on a host, each object one rank, then each a second one.
    Object(Object),
    /// Each object of every host one rank, then each a second one, hosts numbered one after the other; without an object
    /// each host one rank in turn.
    Span(Option<Object>),
    /// The first rank on the host that is named first, and so on: a host that is named again gets another one.
    Sequence,
    /// Each rank where a file says.
    Rankfile,
    /// So many ranks on each of a host's resources.
    PerResource {
        /// How many.
        count: u32,
        /// Of what.
        resource: Resource,
    },
}

/// What `--map-by ppr:N:RESOURCE` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Hosts.
    Node,
    /// Parts of a host.
    Object(Object),
    /// GPUs.
    Gpu,
}

/// `--rank-by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RankBy {
    /// All ranks of a host, then those of the next.
    Slot,
    /// One rank of each host, then the second of each.
    Node,
}

impl MapBy {
    /// How ranks are numbered where `--rank-by` does not say: as they are dealt.
    pub(super) fn rank_by(self) -> RankBy {
        if self == MapBy::Node { RankBy::Node } else { RankBy::Slot }
    }

    /// How a host's ranks are dealt to its objects, for binding. `rank_by` is what `--rank-by` says.
    pub fn dealt(self, rank_by: Option<RankBy>) -> Option<Dealt> {
        match self {
            MapBy::Slot | MapBy::Node | MapBy::Span(None) | MapBy::Sequence | MapBy::Rankfile => None,
            MapBy::Object(object) | MapBy::Span(Some(object)) => {
                let order = if rank_by == Some(RankBy::Slot) { Order::Shares } else { Order::Turns };
                Some(Dealt { object, order })
            }
            MapBy::PerResource { count, resource: Resource::Object(object) } => {
                Some(Dealt { object, order: Order::Runs(count) })
            }
            MapBy::PerResource { .. } => None,
        }
    }
}
