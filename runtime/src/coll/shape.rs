//! What a generator is given.

use efarun_wire::Rank;

use super::collective::Collective;
use super::pace::Segments;
use super::schedule::{Operand, Span, Step, Steps};

/// What a generator is given. All ranks have it alike, but for the credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// What the schedule is to mean.
    pub collective: Collective,
    /// World size.
    pub world_size: u32,
    /// Elements, as the collective counts them.
    pub count: usize,
    /// The most elements of a message.
    pub segment_len: usize,
    /// How many messages a pair of ranks can have in flight. Schedules are free of deadlock with that many and more.
    pub credits: usize,
}

impl Shape {
    /// Refuses what no schedule can be made from.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub(super) fn check(&self) {
        assert!(self.world_size > 0, "a world has at least one rank");
        assert!(self.segment_len > 0, "a segment has at least one element");
        assert!(self.credits > 0, "nothing can be sent without credit");
    }

    pub(super) fn has_messages(&self) -> bool {
        self.world_size > 1 && self.count > 0
    }

    /// The segments of `count` elements.
    pub(super) fn whole(&self) -> Segments {
        Segments::new(0..self.count, self.segment_len)
    }

    /// The elements of a rank's block.
    pub(super) fn block(&self, rank: Rank) -> Span {
        Span::output(rank.index() * self.count, self.count)
    }

    /// The rank at a distance, around the world.
    pub(super) fn after(&self, rank: Rank, distance: u32) -> Rank {
        Rank(((u64::from(rank.0) + u64::from(distance)) % u64::from(self.world_size)) as u32)
    }

    /// The rank that this one is at a distance from.
    pub(super) fn before(&self, rank: Rank, distance: u32) -> Rank {
        self.after(rank, self.world_size - distance % self.world_size)
    }

    /// The steps where nobody sends: in a world of one rank the input is the result.
    pub(super) fn local_copy(&self, rank: Rank) -> Steps<'static> {
        let input = self.collective.input(rank, self.world_size, self.count).len();
        let output = self.collective.output(rank, self.world_size, self.count).len();
        let copies = self.world_size == 1 && input > 0 && output > 0;
        let source = Operand::Span(Span::input(0, input));
        let copy = copies.then(|| Step::Copy { into: Span::output(0, output), source });
        Box::new(copy.into_iter())
    }

    /// How many messages to a peer leave before one from a peer is awaited.
    pub(super) fn window(&self) -> usize {
        window(self.credits)
    }

    /// How many sends a rank leaves open before it waits for the first: enough that what takes a few rounds of one
    /// message never waits, and that a window is full while the one before it completes.
    pub(super) fn max_open_sends(&self) -> usize {
        (2 * self.credits).max(MIN_OPEN_SENDS)
    }
}

/// How many messages of a stream a rank keeps ahead of those that it takes, with so many credits.
///
/// A rank that keeps w ahead has w on their way in the time that one takes. But it also stands still until message k - c
/// is released, which its peer does before sending the message w after that one; with all credits used each such wait
/// holds up the next, and a message leaves per latency. Half of the credits, rounded up, makes both as short.
pub(super) fn window(credits: usize) -> usize {
    (credits / 2 + 1).min(credits)
}

const MIN_OPEN_SENDS: usize = 32;
