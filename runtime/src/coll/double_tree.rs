//! All-reduce by two binary trees at once.
//!
//! Each half of the vector goes up and down a tree of its own, as in [`super::tree`]. The second tree is the first with
//! every rank moved on by one around the world, or mirrored where the world is even, so that no rank is an inner node of
//! both (Sanders, Speck and Träff, 2009): an inner node of one tree, which passes on more than its half, is a leaf of
//! the other, and all ranks send about as much.
//!
//! # Cost
//! Depth h = floor(log2 n). A segment takes 2h messages one after the other; k segments of a half about 2h + k rounds. A
//! rank sends 1 to 2 times the vector: half of it once up as a leaf, the other half once up and once to each child.
//!
//! # Timetable
//! A message is taken l times after it is sent, so that l + 1 are on their way between two ranks. Segment s of a half is
//! sent by depth d on its way up at time s + (h - d)(l + 1), and on its way down at s + (h + d)(l + 1). A rank does what it
//! has to do in order of that time, at one time the first tree first, and for one tree in the order of [`Event`]. Both
//! ends of a message agree on its times and tree, and a tree uses a pair of ranks in one direction for one purpose: so
//! messages pair up, also where both trees have the same edge.
//!
//! Both trees together send two messages to a peer at one time at most. So the message that must be released before a
//! send, as many before it as there are credits, was to be taken at an earlier time, if l is less than half the credits.
//! Nobody waits for ever: what a rank does at a time needs what others did before that time or, with l = 0, a child's
//! first event of that time and what the ranks above do.

use efarun_wire::Rank;

use super::pace::{Segments, steps_of};
use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;
use super::tree::Node;

/// All-reduce by two binary trees at once. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoubleTree {
    shape: Shape,
}

/// Something that a rank does with a segment, in the order in which it does them at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The send to the parent.
    Up,
    /// Taking and reducing what the left child sent.
    FromLeft,
    /// Taking and reducing what the right child sent.
    FromRight,
    /// Taking what the parent sent.
    Down,
    /// The send to the left child.
    ToLeft,
    /// The send to the right child.
    ToRight,
}

const EVENTS: [Event; 6] =
    [Event::Up, Event::FromLeft, Event::FromRight, Event::Down, Event::ToLeft, Event::ToRight];

/// A rank's part in one of the trees.
#[derive(Debug, Clone, Copy)]
struct Part {
    node: Node,
    /// Depth of the tree.
    height: usize,
    /// Times between a message's sending and its taking.
    lag: usize,
    /// The half of the vector that this tree has.
    half: Segments,
}

impl DoubleTree {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        DoubleTree { shape }
    }

    fn lag(&self) -> usize {
        (self.shape.credits - 1) / 2
    }

    fn parts(&self, rank: Rank) -> [Part; 2] {
        let Shape { world_size, count, segment_len, .. } = self.shape;
        let middle = count.div_ceil(2);
        let (height, lag) = (world_size.ilog2() as usize, self.lag());
        // A place in the second tree and the rank that has it are each other's by one rule in an even world.
        let mirrored = |rank: Rank| Rank(world_size - 1 - rank.0);
        let (place, rank_at): (Rank, &dyn Fn(Rank) -> Rank) = if world_size.is_multiple_of(2) {
            (mirrored(rank), &mirrored)
        } else {
            (self.shape.before(rank, 1), &|place| self.shape.after(place, 1))
        };
        let node = Node::of(place, world_size);
        let second = Node {
            parent: node.parent.map(rank_at),
            left: node.left.map(rank_at),
            right: node.right.map(rank_at),
            depth: node.depth,
        };
        [
            Part {
                node: Node::of(rank, world_size),
                height,
                lag,
                half: Segments::new(0..middle, segment_len),
            },
            Part { node: second, height, lag, half: Segments::new(middle..count, segment_len) },
        ]
    }

    fn peers(&self, rank: Rank) -> Vec<Rank> {
        if !self.shape.has_messages() {
            return Vec::new();
        }
        let parts = self.parts(rank).into_iter().filter(|part| part.half.count() > 0);
        let mut peers: Vec<Rank> =
            parts.flat_map(|part| part.node.children().chain(part.node.parent)).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }
}

impl Part {
    /// What the rank does for this tree at a time.
    fn at(self, time: usize) -> impl Iterator<Item = Step> + Send {
        EVENTS.into_iter().flat_map(move |event| self.event(event, time).into_iter().flatten())
    }

    /// Whether and with which segment there is this event at a time, and its steps.
    fn event(&self, event: Event, time: usize) -> [Option<Step>; 3] {
        let (depth, height, lag) = (self.node.depth as usize, self.height, self.lag);
        let sent_up = |depth: usize| (height - depth) * (lag + 1);
        let sent_down = |depth: usize| (height + depth) * (lag + 1);
        let (peer, first) = match event {
            Event::Up => (self.node.parent, sent_up(depth)),
            // A rank at the largest depth has no children.
            Event::FromLeft => (self.node.left, sent_up((depth + 1).min(height)) + lag),
            Event::FromRight => (self.node.right, sent_up((depth + 1).min(height)) + lag),
            // The root has no parent.
            Event::Down => (self.node.parent, sent_down(depth.saturating_sub(1)) + lag),
            Event::ToLeft => (self.node.left, sent_down(depth)),
            Event::ToRight => (self.node.right, sent_down(depth)),
        };
        let segment = time.checked_sub(first).filter(|&segment| segment < self.half.count());
        let (Some(peer), Some(segment)) = (peer, segment) else { return [None; 3] };
        let (start, len) = self.half.get(segment);
        let (own, out) = (Span::input(start, len), Span::output(start, len));
        let partial = Span::accumulator(0, len);
        let is_root = self.node.parent.is_none();
        let taken = |step| Step::take(peer, len, step).map(Some);
        match event {
            Event::Up => {
                let span = if self.node.left.is_some() { out } else { own };
                [Some(Step::Send { to: peer, span }), None, None]
            }
            Event::FromLeft => {
                let is_last = self.node.right.is_none();
                let (left, right) = (Operand::Slot(peer), Operand::Span(own));
                let into = if is_last { out } else { partial };
                taken(Step::Reduce { into, left, right, completes: is_root && is_last })
            }
            // Who has a right child has a left one.
            Event::FromRight => {
                let (left, right) = (Operand::Span(partial), Operand::Slot(peer));
                taken(Step::Reduce { into: out, left, right, completes: is_root })
            }
            Event::Down => taken(Step::Copy { into: out, source: Operand::Slot(peer) }),
            Event::ToLeft | Event::ToRight => [Some(Step::Send { to: peer, span: out }), None, None],
        }
    }
}

impl Schedule for DoubleTree {
    fn name(&self) -> &'static str {
        "double-tree"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn accumulator_len(&self, rank: Rank) -> usize {
        let keeps = self.parts(rank).iter().any(|part| part.node.right.is_some());
        if keeps { self.shape.segment_len.min(self.shape.count) } else { 0 }
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        steps_of(self, rank, || {
            let parts = self.parts(rank);
            let segments = parts.iter().map(|part| part.half.count()).max().unwrap_or(0);
            let times = segments + 2 * parts[0].height * (self.lag() + 1);
            (0..times).flat_map(move |time| parts.into_iter().flat_map(move |part| part.at(time)))
        })
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        self.peers(rank)
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        self.peers(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::collective::Collective;

    fn parts(world_size: u32) -> Vec<[Part; 2]> {
        let collective = Collective::AllReduce;
        let shape = Shape { collective, world_size, count: 64, segment_len: 4, credits: 2 };
        (0..world_size).map(|rank| DoubleTree::new(shape).parts(Rank(rank))).collect()
    }

    #[test]
    fn no_rank_is_an_inner_node_of_both_trees() {
        for world_size in 1..=300 {
            for part in parts(world_size) {
                assert!(part.iter().any(|part| part.node.children().count() == 0), "world size {world_size}");
            }
        }
    }

    #[test]
    fn each_tree_has_every_rank_once() {
        for world_size in 1..=100 {
            for tree in 0..2 {
                let nodes: Vec<Node> = parts(world_size).iter().map(|part| part[tree].node).collect();
                assert_eq!(nodes.iter().filter(|node| node.parent.is_none()).count(), 1);
                for (rank, node) in (0..).map(Rank).zip(&nodes) {
                    for child in node.children() {
                        assert_eq!(nodes[child.index()].parent, Some(rank), "world size {world_size}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_ranks_send_about_as_much() {
        for world_size in [6, 16, 33, 100] {
            for rank in parts(world_size) {
                let half_sends = rank
                    .iter()
                    .map(|part| part.node.children().count() + usize::from(part.node.parent.is_some()));
                assert!((2..=4).contains(&half_sends.sum::<usize>()), "world size {world_size}");
            }
        }
    }
}
