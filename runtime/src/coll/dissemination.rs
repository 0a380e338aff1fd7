//! Barrier by dissemination.
//!
//! In round k a rank tells the one 2^k ahead of it, around the world, that it is there, and waits to be told so by the
//! one 2^k behind (Hensgen, Finkel and Manber, 1988). What a rank knows by then it passes on, so after log2 n rounds,
//! rounded up, everybody has heard of everybody. Messages are empty: each rank sends one per round.

use efarun_wire::Rank;

use super::gather::rounds;
use super::pace::paced;
use super::schedule::{Placement, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// Barrier by dissemination. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dissemination {
    shape: Shape,
}

impl Dissemination {
    /// Makes the schedule. Count and segment length of the shape have no meaning.
    ///
    /// # Panics
    ///
    /// When world size or credits are 0.
    pub fn new(shape: Shape) -> Self {
        assert!(shape.world_size > 0, "a world has at least one rank");
        assert!(shape.credits > 0, "nothing can be sent without credit");
        Dissemination { shape: Shape { count: 0, segment_len: 0, ..shape } }
    }

    fn rounds(&self) -> u32 {
        rounds(self.shape.world_size)
    }
}

impl Schedule for Dissemination {
    fn name(&self) -> &'static str {
        "dissemination"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        let shape = self.shape;
        let steps = (0..self.rounds()).flat_map(move |round| {
            let (to, from) = (shape.after(rank, 1 << round), shape.before(rank, 1 << round));
            [Step::Send { to, span: Span::input(0, 0) }, Step::Recv { from, len: 0 }, Step::Release { from }]
        });
        paced(Placement::of(self, rank), self.max_open_sends(rank), steps)
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        (0..self.rounds()).map(|round| self.shape.before(rank, 1 << round)).collect()
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        (0..self.rounds()).map(|round| self.shape.after(rank, 1 << round)).collect()
    }
}
