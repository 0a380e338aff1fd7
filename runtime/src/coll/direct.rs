//! All-gather and reduce-scatter by direct exchange: everybody sends to everybody at once.
//!
//! One round: a rank sends its block, or its input to the other's block, to each other rank, beginning with the next
//! around the world so that no rank is everybody's first, and takes theirs beginning with the previous one. Each rank
//! sends n-1 messages and (n-1)/n of the vector, which is the least. It is for short vectors in small worlds, where one
//! round counts for more than n-1 messages; every pair of ranks needs slots.
//!
//! A reduce-scatter reduces a segment as … op (r-2 op (r-1 op r)), in its accumulator, so that halves are rounded once.

use efarun_wire::Rank;

use super::gather::keep;
use super::pace::{exchange, steps_of};
use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// All-gather or reduce-scatter by direct exchange. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    shape: Shape,
}

impl Direct {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When the collective is another, or world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        assert!(shape.collective.has_blocks(), "{} is not a matter of blocks", shape.collective);
        Direct { shape }
    }

    fn others(&self) -> usize {
        self.shape.world_size as usize - 1
    }

    fn reduces(&self) -> bool {
        self.shape.collective.reduces()
    }

    /// Messages of one direction per pair that leave before the first is awaited.
    fn window(&self) -> usize {
        self.shape.window().min(self.shape.whole().count())
    }

    fn direct_steps(&self, rank: Rank) -> impl Iterator<Item = Step> + Send + use<> {
        let (shape, others, reduces) = (self.shape, self.others(), self.reduces());
        let segments = shape.whole();
        let messages = segments.count() * others;
        let send = move |number: usize| {
            let (start, len) = segments.get(number / others);
            let to = shape.after(rank, (number % others) as u32 + 1);
            let block = if reduces { shape.block(to).start } else { 0 };
            Step::Send { to, span: Span::input(block + start, len) }
        };
        let receive = move |number: usize| {
            let (start, len) = segments.get(number / others);
            let index = number % others;
            let from = shape.before(rank, index as u32 + 1);
            let partial = Span::accumulator(0, len);
            let done = if reduces {
                let own = Span::input(shape.block(rank).start + start, len);
                let right = Operand::Span(if index == 0 { own } else { partial });
                let completes = index + 1 == others;
                let into = if completes { Span::output(start, len) } else { partial };
                Step::Reduce { into, left: Operand::Slot(from), right, completes }
            } else {
                let into = Span::output(shape.block(from).start + start, len);
                Step::Copy { into, source: Operand::Slot(from) }
            };
            Step::take(from, len, done)
        };
        let own = (!reduces).then(|| keep(shape, rank));
        exchange(self.window() * others, messages, messages, own, send, receive)
    }
}

impl Schedule for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn accumulator_len(&self, _rank: Rank) -> usize {
        let keeps = self.reduces() && self.others() > 1;
        if keeps { self.shape.segment_len.min(self.shape.count) } else { 0 }
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        steps_of(self, rank, || self.direct_steps(rank))
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends().max(2 * self.window() * self.others())
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        self.sends_to(rank)
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        if !self.shape.has_messages() {
            return Vec::new();
        }
        (1..self.shape.world_size).map(|distance| self.shape.after(rank, distance)).collect()
    }
}
