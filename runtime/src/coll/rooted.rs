//! Broadcast and reduce along a tree, pipelined.
//!
//! The vector is cut into segments. A broadcast hands each from the root down: a rank takes it from its parent and sends
//! it to its children. A reduce is its mirror: a rank takes each segment from its children, reduces it with its own and
//! sends the result to its parent. The tree ([`Branching`]) says what it costs.
//!
//! | tree | depth | children | for |
//! |---|---|---|---|
//! | chain | n-1 | 1 | long vectors: each rank sends the vector once |
//! | binary | log2 n | 2 | between: twice at most, a few rounds |
//! | binomial | log2 n, fewest rounds | up to log2 n | vectors of one segment |
//!
//! Between two ranks all are one stream of segments from one to the other.
//!
//! Numbers are counted from the root, around the world. In every tree a rank's children have neighbouring ranges of
//! them, and a rank reduces in their order: own and child by child for chain and binomial, left, own, right for binary.
//!
//! # Memory
//! A rank between leaf and root keeps twice as many partial segments as a pair has credits, each on its way to the
//! parent. With several children it reduces all but the last into its accumulator, so that halves are rounded once.

use efarun_wire::Rank;

use super::collective::Collective;
use super::pace::steps_of;
use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;
use super::tree::Node;

/// Which tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branching {
    /// Everybody has one child.
    Chain,
    /// Everybody has two, as far as there are ranks.
    Binary,
    /// A rank has as many as its number has trailing zeros.
    Binomial,
}

/// Broadcast or reduce along a tree. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rooted {
    shape: Shape,
    root: Rank,
    branching: Branching,
}

/// A rank's neighbours in the tree.
#[derive(Debug, Clone, Copy)]
struct Family {
    parent: Option<Rank>,
    children: Children,
}

/// A rank's children, in order of their numbers.
#[derive(Debug, Clone, Copy)]
enum Children {
    /// Those of a chain or binary tree. The left one is below its parent in the order of numbers.
    Named { left: Option<Rank>, right: Option<Rank> },
    /// `count` ranks, at distances 1, 2, 4, … around a world of this size.
    Distances { from: Rank, count: u32, world_size: u32 },
}

impl Children {
    fn count(&self) -> usize {
        match *self {
            Children::Named { left, right } => usize::from(left.is_some()) + usize::from(right.is_some()),
            Children::Distances { count, .. } => count as usize,
        }
    }

    fn get(&self, index: usize) -> Rank {
        let child = match *self {
            Children::Named { left, right } => [left, right].into_iter().flatten().nth(index),
            Children::Distances { from, world_size, .. } => Some(around(from, 1 << index, world_size)),
        };
        child.expect("an index below the count")
    }

    fn is_left(&self, index: usize) -> bool {
        matches!(self, Children::Named { left: Some(_), .. } if index == 0)
    }

    fn all(self) -> impl DoubleEndedIterator<Item = Rank> + Send {
        (0..self.count()).map(move |index| self.get(index))
    }
}

impl Rooted {
    /// Makes the schedule, which goes down for a broadcast and up for a reduce.
    ///
    /// # Panics
    ///
    /// When the shape's collective has no root or one that does not exist, or world size, segment length or credits are
    /// 0.
    pub fn new(branching: Branching, shape: Shape) -> Self {
        shape.check();
        let root = shape.collective.root().expect("a collective with a root");
        assert!(root.0 < shape.world_size, "rank {root} is not in a world of {}", shape.world_size);
        Rooted { shape, root, branching }
    }

    fn goes_down(&self) -> bool {
        matches!(self.shape.collective, Collective::Broadcast { .. })
    }

    fn family(&self, rank: Rank) -> Family {
        let world_size = self.shape.world_size;
        let number = around(rank, world_size - self.root.0, world_size).0;
        let rank_of = |number: u32| around(self.root, number, world_size);
        match self.branching {
            Branching::Chain => {
                let next = (number + 1 < world_size).then(|| rank_of(number + 1));
                let parent = number.checked_sub(1).map(rank_of);
                Family { parent, children: Children::Named { left: None, right: next } }
            }
            Branching::Binary => {
                // The tree in order has a root of its own; numbers are turned so that it is number 0.
                let own_root = (1u32 << world_size.ilog2()) - 1;
                let turned = |place: Rank| around(self.root, world_size - own_root + place.0, world_size);
                let node = Node::of(around(Rank(number), own_root, world_size), world_size);
                let children = Children::Named { left: node.left.map(turned), right: node.right.map(turned) };
                Family { parent: node.parent.map(turned), children }
            }
            Branching::Binomial => {
                let parent = (number > 0).then(|| rank_of(number & (number - 1)));
                let room = (world_size - number).next_power_of_two().trailing_zeros();
                let count = if number == 0 { room } else { room.min(number.trailing_zeros()) };
                Family { parent, children: Children::Distances { from: rank, count, world_size } }
            }
        }
    }

    fn down(&self, family: Family) -> impl Iterator<Item = Step> + Send + use<> {
        let segments = self.shape.whole();
        (0..segments.count()).flat_map(move |segment| {
            let (start, len) = segments.get(segment);
            let into = Span::output(start, len);
            let taken = family.parent.map(|from| {
                let source = Operand::Slot(from);
                [Step::Recv { from, len }, Step::Copy { into, source }, Step::Release { from }]
            });
            let span = if family.parent.is_some() { into } else { Span::input(start, len) };
            // The child with most below it first.
            let sent = family.children.all().rev().map(move |to| Step::Send { to, span });
            taken.into_iter().flatten().chain(sent)
        })
    }

    fn up(&self, family: Family) -> impl Iterator<Item = Step> + Send + use<> {
        let (segments, partials, segment_len) = (self.shape.whole(), self.partials(), self.shape.segment_len);
        (0..segments.count()).flat_map(move |segment| {
            let (start, len) = segments.get(segment);
            let own = Span::input(start, len);
            let result = match family.parent {
                None => Span::output(start, len),
                Some(_) if family.children.count() == 0 => own,
                Some(_) => Span::scratch(segment % partials * segment_len, len),
            };
            let taken = (0..family.children.count()).flat_map(move |index| {
                let from = family.children.get(index);
                let is_last = index + 1 == family.children.count();
                let partial = Span::accumulator(0, len);
                let ours = Operand::Span(if index == 0 { own } else { partial });
                let theirs = Operand::Slot(from);
                let (left, right) =
                    if family.children.is_left(index) { (theirs, ours) } else { (ours, theirs) };
                let into = if is_last { result } else { partial };
                let completes = is_last && family.parent.is_none();
                Step::take(from, len, Step::Reduce { into, left, right, completes })
            });
            taken.chain(family.parent.map(|to| Step::Send { to, span: result }))
        })
    }

    /// How many partial segments may be on their way to the parent.
    fn partials(&self) -> usize {
        (2 * self.shape.credits).min(self.shape.whole().count()).max(1)
    }

    fn parent_and_children(&self, rank: Rank) -> (Vec<Rank>, Vec<Rank>) {
        if !self.shape.has_messages() {
            return (Vec::new(), Vec::new());
        }
        let family = self.family(rank);
        (family.parent.into_iter().collect(), family.children.all().collect())
    }
}

impl Schedule for Rooted {
    fn name(&self) -> &'static str {
        match self.branching {
            Branching::Chain => "chain",
            Branching::Binary => "tree",
            Branching::Binomial => "binomial",
        }
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn scratch_len(&self, rank: Rank) -> usize {
        let family = self.family(rank);
        let keeps = !self.goes_down() && family.parent.is_some() && family.children.count() > 0;
        let segment_len = self.shape.segment_len;
        if keeps { (self.partials() - 1) * segment_len + segment_len.min(self.shape.count) } else { 0 }
    }

    fn accumulator_len(&self, rank: Rank) -> usize {
        let keeps = !self.goes_down() && self.family(rank).children.count() > 1;
        if keeps { self.shape.segment_len.min(self.shape.count) } else { 0 }
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        if self.goes_down() {
            steps_of(self, rank, || self.down(self.family(rank)))
        } else {
            steps_of(self, rank, || self.up(self.family(rank)))
        }
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        let sends_per_segment = if self.goes_down() { self.family(rank).children.count() } else { 1 };
        self.shape.max_open_sends().max(2 * self.shape.credits * sends_per_segment)
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        let (parent, children) = self.parent_and_children(rank);
        if self.goes_down() { parent } else { children }
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        let (parent, children) = self.parent_and_children(rank);
        if self.goes_down() { children } else { parent }
    }
}

/// The rank at a distance, around the world.
fn around(from: Rank, distance: u32, world_size: u32) -> Rank {
    Rank(((u64::from(from.0) + u64::from(distance)) % u64::from(world_size)) as u32)
}
