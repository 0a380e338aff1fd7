//! Collectives by node: within each node, between the nodes, within each node.
//!
//! Between ranks of a node bytes cost little, between nodes much. A [`Hierarchy`] makes a collective of others, each among
//! the ranks of a node or among one rank of every node, by the generators that those have. It is a schedule as any: the
//! checker proves it, the simulator times it, the executor runs it. What is done within nodes are its [`stage::Stage`]s
//! that leaves may take over where the ranks of a node share memory; each names what its leaf stands for.
//!
//! | collective | on the node | between the nodes | on the node |
//! |---|---|---|---|
//! | all_reduce, short, or of nodes that differ | reduce to a delegate | all_reduce of the delegates | broadcast |
//! | all_reduce | reduce_scatter | all_reduce of every lane | all_gather |
//! | broadcast | | broadcast of the delegates, of which the root is one | broadcast |
//! | reduce | reduce to a delegate | reduce of the delegates, of which the root is one | |
//! | all_gather | | all_gather of every lane | all_gather, for one node's blocks after the other's |
//! | reduce_scatter | reduce_scatter, for one node's blocks after the other's | reduce_scatter of every lane | |
//! | barrier | barrier | barrier of the delegates | barrier |
//!
//! A *delegate* is one rank of a node for all of it. A *lane* are the ranks of one number on their nodes: as many lanes go at once
//! as a node has ranks, each over the rails of its ranks. What does not divide by a node's ranks goes by delegates, behind the
//! rest. all_gather and reduce_scatter go by lanes only: where all nodes have as many ranks, and are numbered one after the
//! other ([`Hierarchy::fits`]).
//!
//! # Cost
//! Of n nodes with l ranks each a vector of s bytes crosses between the nodes 2 s (n - 1) / n times per node for all_reduce by
//! lanes, each lane an l-th of it, and s (n - 1) per node for an all_gather of s bytes per node. The order of reduction is fixed by
//! ranks and nodes, and another than that of other algorithms.

mod phase;
pub mod stage;
mod worth;

use std::sync::Arc;

use efarun_wire::Rank;

use self::phase::{Among, Phase, Site, Whose};
use self::stage::{Stage, Staged};
use super::collective::Collective;
use super::nodes::Nodes;
use super::schedule::{Schedule, Step, Steps};
use super::select::MessageLimits;
use super::shape::Shape;
use super::sim::Model;

/// A collective by node. The module's page has what it is made of.
#[derive(Debug)]
pub struct Hierarchy {
    shape: Shape,
    nodes: Arc<Nodes>,
    phases: Vec<Phase>,
}

/// What the parts of a hierarchy are chosen and cut by.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// Bytes of an element.
    pub element_bytes: usize,
    /// What messages within a node can be like.
    pub within: MessageLimits,
    /// What messages between nodes can be like.
    pub between: MessageLimits,
    /// What these cost.
    pub model: &'a Model,
}

impl Hierarchy {
    /// Whether a collective can be done by node here.
    pub fn fits(collective: Collective, nodes: &Nodes) -> bool {
        nodes.are_levels()
            && (!collective.has_blocks() || (nodes.per_node().is_some() && nodes.are_in_order()))
    }

    /// Whether a call of so many elements of so many bytes is done by node where nobody asked for another way: where it can be,
    /// and is the faster way.
    pub fn pays(collective: Collective, count: usize, element_bytes: usize, nodes: &Nodes) -> bool {
        let len = collective.vector_len(nodes.world_size(), count);
        Hierarchy::fits(collective, nodes) && worth::is_worth(collective, len.saturating_mul(element_bytes))
    }

    /// Makes the schedule of a collective of so many elements.
    ///
    /// # Panics
    ///
    /// When it does not fit, the root is not in the world, or a slot does not hold an element.
    pub fn new(collective: Collective, count: usize, nodes: Arc<Nodes>, means: Means<'_>) -> Self {
        assert!(Hierarchy::fits(collective, &nodes), "{collective} cannot be done by node here");
        let Means { element_bytes, within, between, .. } = means;
        let (world_size, credits) = (nodes.world_size(), within.credits.min(between.credits));
        let segment_len = within.slot_bytes.max(between.slot_bytes) / element_bytes;
        let shape = Shape { collective, world_size, count, segment_len, credits };
        shape.check();
        let phases = match collective {
            _ if count == 0 && collective != Collective::Barrier => Vec::new(),
            Collective::AllReduce => all_reduce(count, &nodes, means),
            Collective::Broadcast { root } => broadcast(root, count, &nodes, means),
            Collective::Reduce { root } => reduce(root, count, &nodes, means),
            Collective::AllGather => all_gather(count, &nodes, means),
            Collective::ReduceScatter => reduce_scatter(count, &nodes, means),
            Collective::Barrier => barrier(&nodes, means),
        };
        // A barrier's messages are empty.
        let segment_len = if collective == Collective::Barrier { 0 } else { segment_len };
        Hierarchy { shape: Shape { segment_len, ..shape }, nodes, phases }
    }

    /// The stages of a rank, in order, made one after the other.
    pub fn stages(&self, rank: Rank) -> impl Iterator<Item = Stage<'_>> + Send {
        let rounds = self.phases.iter().flat_map(|phase| (0..phase.rounds).map(move |round| (phase, round)));
        let kept = self.kept_len(rank);
        rounds.filter_map(move |(phase, round)| phase.stage(rank, round, &self.nodes, kept))
    }

    /// Of each of a rank's stages, how many steps it has, and how many of them are sends.
    pub(super) fn stage_lens(&self, rank: Rank) -> Vec<(usize, usize)> {
        let mut lens = vec![(0, 0); self.stages(rank).count()];
        let mut steps = Staged::new(Box::new(self.stages(rank)));
        while let Some(step) = steps.next() {
            let (count, sends) = &mut lens[steps.number()];
            *count += 1;
            *sends += usize::from(matches!(step, Step::Send { .. }));
        }
        lens
    }

    /// Elements of scratch memory that the stages hand results on in.
    fn kept_len(&self, rank: Rank) -> usize {
        let count = self.shape.count;
        match self.shape.collective {
            Collective::AllGather | Collective::ReduceScatter => count * self.nodes.count() as usize,
            Collective::Reduce { root } if rank != root && delegate_of(&self.nodes, rank, root) == rank => {
                count
            }
            _ => 0,
        }
    }
}

/// The delegate of a rank's node, where the root, or rank 0, is one.
fn delegate_of(nodes: &Nodes, rank: Rank, root: Rank) -> Rank {
    let node = nodes.node_of(rank);
    if node == nodes.node_of(root) { root } else { nodes.members(node)[0] }
}

fn all_reduce(count: usize, nodes: &Nodes, means: Means<'_>) -> Vec<Phase> {
    let lanes = nodes.per_node().filter(|_| count.saturating_mul(means.element_bytes) >= LEAST_LANES_BYTES);
    let share = lanes.map_or(0, |lanes| count / lanes as usize);
    let mut phases = Vec::new();
    if share > 0 {
        let (vector, own) = (Site::at(Whose::Output, 0), Site::of_number(Whose::Output, share));
        phases.extend([
            Phase::new(Among::Node, Collective::ReduceScatter, share, nodes, means)
                .between(Site::at(Whose::Input, 0), own),
            Phase::new(Among::Lane, Collective::AllReduce, share, nodes, means).between(own, own),
            Phase::new(Among::Node, Collective::AllGather, share, nodes, means).between(own, vector),
        ]);
    }
    let start = share * lanes.unwrap_or(0) as usize;
    if start < count {
        let (len, root) = (count - start, nodes.members(0)[0]);
        let (delegates, rest) = (Among::Delegates { root }, Site::at(Whose::Output, start));
        phases.extend([
            Phase::new(Among::Delegating { root }, Collective::Reduce { root }, len, nodes, means)
                .between(Site::at(Whose::Input, start), rest),
            Phase::new(delegates, Collective::AllReduce, len, nodes, means).between(rest, rest),
            Phase::new(Among::Delegating { root }, Collective::Broadcast { root }, len, nodes, means)
                .between(rest, rest),
        ]);
    }
    phases
}

fn broadcast(root: Rank, count: usize, nodes: &Nodes, means: Means<'_>) -> Vec<Phase> {
    let result = Site::at(Whose::Output, 0);
    vec![
        Phase::new(Among::Delegates { root }, Collective::Broadcast { root }, count, nodes, means)
            .between(Site::at(Whose::Input, 0), result),
        Phase::new(Among::Delegating { root }, Collective::Broadcast { root }, count, nodes, means)
            .between(Site::at(Whose::InputOfRoot { root }, 0), result),
    ]
}

fn reduce(root: Rank, count: usize, nodes: &Nodes, means: Means<'_>) -> Vec<Phase> {
    let partial = Site::at(Whose::OutputOfRoot { root }, 0);
    vec![
        Phase::new(Among::Delegating { root }, Collective::Reduce { root }, count, nodes, means)
            .between(Site::at(Whose::Input, 0), partial),
        Phase::new(Among::Delegates { root }, Collective::Reduce { root }, count, nodes, means)
            .between(partial, Site::at(Whose::Output, 0)),
    ]
}

fn all_gather(count: usize, nodes: &Nodes, means: Means<'_>) -> Vec<Phase> {
    let (of_node, of_lane) = (count * nodes.members(0).len(), Site::at(Whose::Scratch, 0));
    vec![
        Phase::new(Among::Lane, Collective::AllGather, count, nodes, means)
            .between(Site::at(Whose::Input, 0), of_lane),
        Phase::new(Among::Node, Collective::AllGather, count, nodes, means)
            .between(of_lane.in_rounds(count), Site::at(Whose::Output, 0).in_rounds(of_node))
            .times(nodes.count()),
    ]
}

fn reduce_scatter(count: usize, nodes: &Nodes, means: Means<'_>) -> Vec<Phase> {
    let (of_node, of_lane) = (count * nodes.members(0).len(), Site::at(Whose::Scratch, 0));
    vec![
        Phase::new(Among::Node, Collective::ReduceScatter, count, nodes, means)
            .between(Site::at(Whose::Input, 0).in_rounds(of_node), of_lane.in_rounds(count))
            .times(nodes.count()),
        Phase::new(Among::Lane, Collective::ReduceScatter, count, nodes, means)
            .between(of_lane, Site::at(Whose::Output, 0)),
    ]
}

fn barrier(nodes: &Nodes, means: Means<'_>) -> Vec<Phase> {
    let root = nodes.members(0)[0];
    [Among::Node, Among::Delegates { root }, Among::Node]
        .map(|among| Phase::new(among, Collective::Barrier, 0, nodes, means))
        .into()
}

impl Schedule for Hierarchy {
    fn name(&self) -> &'static str {
        "hierarchy"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn scratch_len(&self, rank: Rank) -> usize {
        let of_stage = |stage: Stage<'_>| stage.schedule.scratch_len(stage.number);
        self.kept_len(rank) + self.stages(rank).map(of_stage).max().unwrap_or(0)
    }

    fn accumulator_len(&self, rank: Rank) -> usize {
        self.stages(rank).map(|stage| stage.schedule.accumulator_len(stage.number)).max().unwrap_or(0)
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        Box::new(Staged::new(Box::new(self.stages(rank))))
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        self.stages(rank).map(|stage| stage.schedule.max_open_sends(stage.number)).max().unwrap_or(1)
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        once_each(self.stages(rank).flat_map(|stage| stage.receives_from()))
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        once_each(self.stages(rank).flat_map(|stage| stage.sends_to()))
    }
}

/// Each rank once.
pub(super) fn once_each(ranks: impl Iterator<Item = Rank>) -> Vec<Rank> {
    let mut ranks: Vec<Rank> = ranks.collect();
    ranks.sort_unstable();
    ranks.dedup();
    ranks
}

/// From this length on all ranks of a node send, and not one for them.
const LEAST_LANES_BYTES: usize = 64 << 10;
