//! All-reduce by one pipelined binary tree.
//!
//! The vector is cut into segments. Each goes up the tree, reduced at every node, and from the root down again; a
//! node works on many segments at a time. The tree is in order: a node's left subtree has the ranks below it, its
//! right subtree those above it, and a node reduces (left op own) op right whatever arrives first. So the operands
//! stay in order of ranks, and every rank gets the root's bits.
//!
//! Nodes are ranks plus one, written in binary: v's height is its lowest set bit b, its perfect parent v + b or
//! v - b, whichever has the lower bits clear; a node that does not exist is replaced by its left child. This is the
//! tree of Sanders, Speck and Träff (2009), who use two of them at once ([`super::double_tree`]).
//!
//! # Cost
//! Depth h = floor(log2 n). A segment takes 2h messages one after the other; k segments of s elements take about
//! 2h + k rounds. A leaf sends the vector once; the root once per child; a node between once, and once per child: 3
//! times at most. Each rank but the root receives it once more than it has children. All but one of the inputs are
//! reduced once: n-1 times the vector, by the inner nodes.
//!
//! # Pipelining
//! A node at depth d has 2d segments on their way up before it takes the first from above, since that is the round
//! trip to the root and back. In each round it goes up first, then down. Rounds and depth give an order in which one
//! credit per pair is enough: upward parts from the root to the leaves, then downward parts back.

use efarun_wire::Rank;

use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// All-reduce by one pipelined binary tree. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    shape: Shape,
}

impl Tree {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        Tree { shape }
    }

    fn layout(&self, rank: Rank) -> Layout {
        let node = Node::of(rank, self.shape.world_size);
        let (segments, children) = (self.shape.whole().count(), node.children().count());
        let (lag, unwaited) = match node.parent {
            Some(_) => ((2 * node.depth as usize).min(segments), 0),
            None => (0, (2 * self.shape.credits).min(segments)),
        };
        Layout {
            up_steps: 3 * children + usize::from(node.parent.is_some()),
            down_steps: if node.parent.is_some() { 4 + children } else { 1 + children },
            node,
            children,
            segments,
            lag,
            unwaited,
        }
    }

    /// Part `part` of the way up of a segment: each child's message taken, reduced and released, then one sent.
    fn up(&self, node: &Node, number: usize, part: usize) -> Step {
        let (start, len) = self.shape.whole().get(number);
        let (own, into) = (Span::input(start, len), Span::output(start, len));
        let (partial, is_root) = (Span::accumulator(0, len), node.parent.is_none());
        let Some(child) = node.children().nth(part / 3) else {
            let to = node.parent.expect("a root has no step after those of its children");
            let span = if node.left.is_some() { into } else { own };
            return Step::Send { to, span };
        };
        match part % 3 {
            0 => Step::Recv { from: child, len },
            1 if node.left == Some(child) => {
                // With a right child to come the rank goes on with this itself.
                let into = if node.right.is_some() { partial } else { into };
                let completes = is_root && node.right.is_none();
                Step::Reduce { into, left: Operand::Slot(child), right: Operand::Span(own), completes }
            }
            // Who has a right child has a left one.
            1 => Step::Reduce {
                into,
                left: Operand::Span(partial),
                right: Operand::Slot(child),
                completes: is_root,
            },
            _ => Step::Release { from: child },
        }
    }

    /// Part `part` of the way down of a segment: wait, the parent's message taken, copied and released, then one
    /// sent to each child. A root only waits and sends.
    fn down(&self, layout: &Layout, number: usize, part: usize) -> Step {
        let (start, len) = self.shape.whole().get(number);
        let into = Span::output(start, len);
        match (part, layout.node.parent) {
            (0, _) => Step::WaitSends { count: layout.waited_before(number) },
            (1, Some(from)) => Step::Recv { from, len },
            (2, Some(from)) => Step::Copy { into, source: Operand::Slot(from) },
            (3, Some(from)) => Step::Release { from },
            (part, parent) => {
                let child = part - if parent.is_some() { 4 } else { 1 };
                let to = layout.node.children().nth(child).expect("one step per child ends the way down");
                Step::Send { to, span: into }
            }
        }
    }
}

impl Schedule for Tree {
    fn name(&self) -> &'static str {
        "tree"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        Box::new((0..self.step_count(rank)).map(move |index| self.step(rank, index)))
    }

    fn accumulator_len(&self, rank: Rank) -> usize {
        let node = Node::of(rank, self.shape.world_size);
        if node.children().count() > 1 { self.shape.segment_len.min(self.shape.count) } else { 0 }
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        if !self.shape.has_messages() {
            return 0;
        }
        let layout = self.layout(rank);
        let at_once = match layout.node.parent {
            Some(_) => (layout.lag + 1) * (layout.children + 1),
            None => layout.unwaited * layout.children,
        };
        at_once.min(layout.sends())
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        if !self.shape.has_messages() {
            return Vec::new();
        }
        let node = Node::of(rank, self.shape.world_size);
        node.children().chain(node.parent).collect()
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        self.receives_from(rank)
    }
}

impl Tree {
    fn step_count(&self, rank: Rank) -> usize {
        if self.shape.count == 0 {
            return 0;
        }
        if self.shape.world_size == 1 {
            return 1;
        }
        let layout = self.layout(rank);
        layout.last_wait_start() + usize::from(layout.children > 0)
    }

    fn step(&self, rank: Rank, index: usize) -> Step {
        assert!(index < self.step_count(rank), "rank {rank} has no step {index}");
        if self.shape.world_size == 1 {
            let source = Operand::Span(Span::input(0, self.shape.count));
            return Step::Copy { into: Span::output(0, self.shape.count), source };
        }
        let layout = self.layout(rank);
        if index < layout.rounds_start() {
            return self.up(&layout.node, index / layout.up_steps, index % layout.up_steps);
        }
        if index < layout.waiting_start() {
            // The root's first rounds: nothing to wait for.
            let index = index - layout.rounds_start();
            let round_steps = layout.up_steps + layout.down_steps - 1;
            return match (index / round_steps, index % round_steps) {
                (round, part) if part < layout.up_steps => self.up(&layout.node, round, part),
                (round, part) => self.down(&layout, round, part - layout.up_steps + 1),
            };
        }
        if index < layout.descent_start() {
            let index = index - layout.waiting_start();
            let round_steps = layout.up_steps + layout.down_steps;
            let (round, part) = (layout.unwaited + index / round_steps, index % round_steps);
            return if part < layout.up_steps {
                self.up(&layout.node, layout.lag + round, part)
            } else {
                self.down(&layout, round, part - layout.up_steps)
            };
        }
        if index < layout.last_wait_start() {
            let index = index - layout.descent_start();
            let round = layout.segments - layout.lag + index / layout.down_steps;
            return self.down(&layout, round, index % layout.down_steps);
        }
        Step::WaitSends { count: layout.sends() }
    }
}

/// How the steps of one rank follow each other:
///
/// 1. `lag` segments go up;
/// 2. rounds: segment i + `lag` goes up, then segment i comes down;
/// 3. the last `lag` segments come down;
/// 4. a wait for all sends, where the waits of the rounds leave any.
///
/// A segment that comes down overwrites what went up, so its round waits for that send. A root sends nothing up; it
/// waits to bound its open sends, from round `unwaited` on.
#[derive(Debug)]
struct Layout {
    node: Node,
    children: usize,
    segments: usize,
    up_steps: usize,
    down_steps: usize,
    lag: usize,
    unwaited: usize,
}

impl Layout {
    fn rounds_start(&self) -> usize {
        self.lag * self.up_steps
    }

    fn waiting_start(&self) -> usize {
        self.rounds_start() + self.unwaited * (self.up_steps + self.down_steps - 1)
    }

    fn descent_start(&self) -> usize {
        let rounds = self.segments - self.lag - self.unwaited;
        self.waiting_start() + rounds * (self.up_steps + self.down_steps)
    }

    fn last_wait_start(&self) -> usize {
        self.descent_start() + self.lag * self.down_steps
    }

    fn sends(&self) -> usize {
        self.segments * (self.children + usize::from(self.node.parent.is_some()))
    }

    /// How many sends must be complete before this segment may come down.
    fn waited_before(&self, segment: usize) -> usize {
        match self.node.parent {
            // The segment's own way up, and all that was sent before it.
            Some(_) => segment + segment.saturating_sub(self.lag) * self.children + 1,
            None => (segment + 1 - self.unwaited) * self.children,
        }
    }
}

/// A rank's place in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) parent: Option<Rank>,
    pub(super) left: Option<Rank>,
    pub(super) right: Option<Rank>,
    pub(super) depth: u32,
}

impl Node {
    pub(super) fn of(rank: Rank, world_size: u32) -> Self {
        // In 64 bits, so that the perfect parent of the last node cannot overflow.
        let (node, last) = (u64::from(rank.0) + 1, u64::from(world_size));
        let height = node & node.wrapping_neg();
        let rank_of = |node: u64| Rank((node - 1) as u32);
        let left = (height > 1).then(|| rank_of(node - height / 2));
        let right = (height > 1 && node < last).then(|| {
            let largest = 1 << (last - node).ilog2();
            rank_of(node + largest.min(height / 2))
        });
        let parent = if node & (2 * height) == 0 && node + height <= last {
            Some(rank_of(node + height))
        } else {
            (node > height).then(|| rank_of(node - height))
        };
        Node { parent, left, right, depth: depth(node, last) }
    }

    /// The children, the left one first.
    pub(super) fn children(&self) -> impl Iterator<Item = Rank> + use<> {
        [self.left, self.right].into_iter().flatten()
    }
}

/// How far a node is from the root. Its ancestors below it are the node with its lowest bits cleared, one for each
/// set bit above the height. Those above it have a clear bit set instead, and exist as far as `last` allows, which
/// is up to the highest bit in which the two differ.
fn depth(node: u64, last: u64) -> u32 {
    let below = node.count_ones() - 1;
    let differ = node ^ last;
    if differ == 0 {
        return below;
    }
    let height_bit = node.trailing_zeros();
    let within = (2u64 << differ.ilog2()) - 1;
    let above_height = u64::MAX << height_bit << 1;
    below + (!node & within & above_height).count_ones()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::collective::Collective;

    fn tree(world_size: u32, count: usize, segment_len: usize, credits: usize) -> Tree {
        let collective = Collective::AllReduce;
        Tree::new(Shape { collective, world_size, count, segment_len, credits })
    }

    fn nodes(world_size: u32) -> Vec<Node> {
        (0..world_size).map(|rank| Node::of(Rank(rank), world_size)).collect()
    }

    #[test]
    fn parents_and_children_agree_and_depth_is_the_logarithm() {
        for world_size in 1..=300u32 {
            let nodes = nodes(world_size);
            assert_eq!(nodes.iter().filter(|node| node.parent.is_none()).count(), 1);
            let deepest = nodes.iter().map(|node| node.depth).max().unwrap();
            assert_eq!(deepest, world_size.ilog2(), "world size {world_size}");
            for (index, node) in nodes.iter().enumerate() {
                let rank = Rank(index as u32);
                assert!(node.left.is_none_or(|left| left < rank));
                assert!(node.right.is_none_or(|right| right > rank && node.left.is_some()));
                for child in node.children() {
                    assert_eq!(nodes[child.index()].parent, Some(rank), "world size {world_size}");
                    assert_eq!(nodes[child.index()].depth, node.depth + 1, "rank {child} of {world_size}");
                }
            }
            let edges: usize = nodes.iter().map(|node| node.children().count()).sum();
            assert_eq!(edges, world_size as usize - 1);
        }
    }

    #[test]
    fn the_largest_world_has_a_root() {
        let root = Node::of(Rank((1 << 31) - 1), u32::MAX);
        assert_eq!((root.parent, root.depth), (None, 0));
        assert_eq!(Node::of(Rank(u32::MAX - 1), u32::MAX).depth, 31);
    }

    #[test]
    fn seven_ranks_make_a_perfect_tree() {
        let parents: Vec<_> = nodes(7).iter().map(|node| node.parent.map(|rank| rank.0)).collect();
        assert_eq!(parents, [Some(1), Some(3), Some(1), None, Some(5), Some(3), Some(5)]);
    }

    #[test]
    fn operands_stay_in_order_of_ranks() {
        let tree = tree(3, 4, 4, 2);
        let span = Operand::Span(Span::input(0, 4));
        let partial = Span::accumulator(0, 4);
        let into = Span::output(0, 4);
        let reduces: Vec<_> = (0..tree.step_count(Rank(1)))
            .map(|index| tree.step(Rank(1), index))
            .filter(|step| matches!(step, Step::Reduce { .. }))
            .collect();
        let own = (Operand::Slot(Rank(0)), span);
        let left = Step::Reduce { into: partial, left: own.0, right: own.1, completes: false };
        let last = (Operand::Span(partial), Operand::Slot(Rank(2)));
        let right = Step::Reduce { into, left: last.0, right: last.1, completes: true };
        assert_eq!(reduces, [left, right]);
    }

    #[test]
    fn a_leaf_is_a_round_trip_ahead() {
        let tree = tree(7, 100, 1, 2);
        let leading =
            (0..).take_while(|&index| matches!(tree.step(Rank(0), index), Step::Send { .. })).count();
        assert_eq!(leading, 2 * 2 + 1);
    }
}
