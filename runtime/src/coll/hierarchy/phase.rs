//! What all ranks do alike at one time of a hierarchy: a collective among teams of them, and where its buffers lie.

use efarun_wire::Rank;

use super::Means;
use super::stage::{Area, Stage, Team};
use crate::coll::choice::{Algorithm, Choice};
use crate::coll::collective::Collective;
use crate::coll::leaf::Leaf;
use crate::coll::nodes::Nodes;
use crate::coll::schedule::{Buffer, Schedule};
use crate::coll::select::{self, Sizes};
use crate::coll::shape::Shape;

/// A collective among teams of ranks, once or for several parts of the vector.
#[derive(Debug)]
pub(super) struct Phase {
    among: Among,
    /// By size and root of a team, each once.
    schedules: Vec<((u32, u32), Box<dyn Schedule>)>,
    input: Site,
    output: Site,
    pub(super) rounds: u32,
}

/// Who is a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// The ranks of a node.
    Node,
    /// The ranks of a node, its delegate the root. The delegate of this root's node is the root.
    Delegating { root: Rank },
    /// The ranks of one number on their nodes.
    Lane,
    /// The delegates of all nodes, this root's node's the root.
    Delegates { root: Rank },
}

/// Where a buffer of a stage lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site {
    whose: Whose,
    start: usize,
    /// Elements from one number of a node to the next.
    per_number: usize,
    /// Elements from one round to the next.
    per_round: usize,
}

/// In which of a rank's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Input,
    Output,
    Scratch,
    /// The input at the root, where that has no output; elsewhere the output.
    InputOfRoot {
        root: Rank,
    },
    /// The output at the root, where others have none; elsewhere scratch memory.
    OutputOfRoot {
        root: Rank,
    },
}

impl Site {
    pub(super) fn at(whose: Whose, start: usize) -> Self {
        Site { whose, start, per_number: 0, per_round: 0 }
    }

    /// The share of a rank, by its number on its node.
    pub(super) fn of_number(whose: Whose, share: usize) -> Self {
        Site { per_number: share, ..Site::at(whose, 0) }
    }

    /// So many elements further in every round.
    pub(super) fn in_rounds(self, per_round: usize) -> Self {
        Site { per_round, ..self }
    }

    fn area(self, rank: Rank, number: u32, round: u32) -> Area {
        let buffer = match self.whose {
            Whose::Input => Buffer::Input,
            Whose::Output => Buffer::Output,
            Whose::Scratch => Buffer::Scratch,
            Whose::InputOfRoot { root } if rank == root => Buffer::Input,
            Whose::OutputOfRoot { root } if rank != root => Buffer::Scratch,
            Whose::InputOfRoot { .. } | Whose::OutputOfRoot { .. } => Buffer::Output,
        };
        Area {
            buffer,
            start: self.start + number as usize * self.per_number + round as usize * self.per_round,
        }
    }
}

impl Phase {
    /// A collective of so many elements among these teams, each with a root of its own, on input and output. Within nodes
    /// it is what leaves stand for, between them what the model finds best.
    pub(super) fn new(
        among: Among,
        collective: Collective,
        count: usize,
        nodes: &Nodes,
        means: Means<'_>,
    ) -> Self {
        let mut schedules: Vec<((u32, u32), Box<dyn Schedule>)> = Vec::new();
        let teams: &[u32] = match among {
            // All of one size.
            Among::Lane | Among::Delegates { .. } => &[0],
            Among::Node | Among::Delegating { .. } => &(0..nodes.count()).collect::<Vec<_>>(),
        };
        for &node in teams {
            let first = nodes.members(node)[0];
            let (size, root) = shape_of(among, first, nodes);
            if schedules.iter().all(|(found, _)| *found != (size, root)) {
                let schedule = built(among.is_local(), collective.with_root(Rank(root)), size, count, means);
                schedules.push(((size, root), schedule));
            }
        }
        let (input, output) = (Site::at(Whose::Input, 0), Site::at(Whose::Output, 0));
        Phase { among, schedules, input, output, rounds: 1 }
    }

    pub(super) fn between(self, input: Site, output: Site) -> Self {
        Phase { input, output, ..self }
    }

    pub(super) fn times(self, rounds: u32) -> Self {
        Phase { rounds, ..self }
    }

    /// What a rank does in a round; nothing where it is in no team. Its stages hand on results in so many elements of scratch
    /// memory.
    pub(super) fn stage<'h>(
        &'h self,
        rank: Rank,
        round: u32,
        nodes: &'h Nodes,
        kept_len: usize,
    ) -> Option<Stage<'h>> {
        let (node, number) = (nodes.node_of(rank), nodes.number_of(rank));
        let (team, number_in_team) = match self.among {
            Among::Node | Among::Delegating { .. } => (Team::Node(nodes.members(node)), number),
            Among::Lane => (Team::Lane { nodes, number }, node),
            Among::Delegates { root } if super::delegate_of(nodes, rank, root) != rank => return None,
            Among::Delegates { root } => (Team::Delegates { nodes, root }, node),
        };
        let shape = shape_of(self.among, rank, nodes);
        let found = self.schedules.iter().find(|(of, _)| *of == shape);
        let (_, schedule) = found.expect("there is one for every team");
        Some(Stage {
            schedule: &**schedule,
            number: Rank(number_in_team),
            team,
            input: self.input.area(rank, number, round),
            output: self.output.area(rank, number, round),
            scratch_at: kept_len,
            is_local: self.among.is_local(),
        })
    }
}

/// Size and root of a rank's team.
fn shape_of(among: Among, rank: Rank, nodes: &Nodes) -> (u32, u32) {
    let size = || nodes.members(nodes.node_of(rank)).len() as u32;
    match among {
        Among::Node => (size(), 0),
        Among::Delegating { root } => (size(), nodes.number_of(super::delegate_of(nodes, rank, root))),
        Among::Lane => (nodes.count(), 0),
        Among::Delegates { root } => (nodes.count(), nodes.node_of(root)),
    }
}

impl Among {
    fn is_local(self) -> bool {
        matches!(self, Among::Node | Among::Delegating { .. })
    }
}

/// The schedule of a team.
fn built(
    is_local: bool,
    collective: Collective,
    size: u32,
    count: usize,
    means: Means<'_>,
) -> Box<dyn Schedule> {
    let Means { element_bytes, within, between, model } = means;
    let messages = if is_local { within } else { between };
    let algorithm = match is_local {
        true => of_leaf(collective),
        false => {
            let sizes = Sizes { collective, world_size: size, count, element_bytes, messages, leaves: false };
            select::select(Choice::Auto, &sizes, model).expect("every collective has algorithms").algorithm
        }
    };
    let segment_len = select::segment_len(algorithm, collective, size, count, element_bytes, messages);
    let credits = messages.credits;
    select::build(algorithm, Shape { collective, world_size: size, count, segment_len, credits })
}

/// The algorithm that leaves of a collective stand for.
fn of_leaf(collective: Collective) -> Algorithm {
    let has_leaf = |&&algorithm: &&Algorithm| Leaf::of(algorithm, collective, 2, 0).is_some();
    *Algorithm::of(collective).iter().find(has_leaf).expect("every collective has a leaf")
}
