//! Reduce-scatter: round a ring, or by halving.
//!
//! On the ring, in phase p of n-1, rank r sends block r - 1 - p to r + 1: its own input first, then each time what the
//! phase before gave it. It receives block r - 2 - p from r - 1 and reduces its own input into it; the last one it
//! receives is its own. Block b is thus reduced as ((b+1 op b+2) op …) op b. n-1 phases; each rank sends (n-1)/n of the
//! vector, which is the least. What is on its way lies in scratch memory: a block and a window of segments.
//!
//! Halving is the mirror of an all-gather by doubling: what goes from s to t there, as a copy, comes from t to s here, as
//! a partial reduction. In round k, from the last to 0, a rank sends what it has of the blocks of r + 2^k and on to that
//! rank, and reduces into its own share what it gets from r - 2^k: log2 n rounds, rounded up, for any n, and the same
//! bytes. Up to half the vector is in scratch memory. A round waits for all of the one before, so it is for short vectors.
//!
//! Between two ranks both are one exchange of blocks, and need no scratch memory.

use efarun_wire::Rank;

use super::gather::rounds;
use super::pace::{Segments, exchange, steps_of};
use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// Reduce-scatter round a ring. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScatterRing {
    shape: Shape,
}

impl ScatterRing {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        ScatterRing { shape }
    }

    fn window(&self) -> usize {
        self.shape.window().min(self.shape.whole().count())
    }

    /// How many partial segments are kept: those of a block before they leave, and those that are leaving.
    fn partials(&self) -> usize {
        self.shape.whole().count() + self.window()
    }

    fn ring_steps(&self, rank: Rank) -> impl Iterator<Item = Step> + Send + use<> {
        let (shape, partials) = (self.shape, self.partials());
        let segments = shape.whole();
        let per_phase = segments.count();
        let messages = per_phase * (shape.world_size as usize - 1);
        let (next, previous) = (shape.after(rank, 1), shape.before(rank, 1));
        // This rank's input to message `number` of those that `from` sends.
        let input = move |from: Rank, number: usize| {
            let (start, len) = segments.get(number % per_phase);
            let block = shape.before(from, (number / per_phase) as u32 + 1);
            Span::input(shape.block(block).start + start, len)
        };
        let partial = move |number: usize, len| Span::scratch(number % partials * shape.segment_len, len);
        let send = move |number: usize| {
            let input = input(rank, number);
            let span = number.checked_sub(per_phase).map_or(input, |received| partial(received, input.len));
            Step::Send { to: next, span }
        };
        let receive = move |number: usize| {
            let input = input(previous, number);
            let completes = number + per_phase >= messages;
            let into = if completes {
                Span::output(input.start - shape.block(rank).start, input.len)
            } else {
                partial(number, input.len)
            };
            let (left, right) = (Operand::Slot(previous), Operand::Span(input));
            Step::take(previous, input.len, Step::Reduce { into, left, right, completes })
        };
        exchange(self.window(), messages, messages, None, send, receive)
    }
}

impl Schedule for ScatterRing {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn scratch_len(&self, _rank: Rank) -> usize {
        let keeps = self.shape.world_size > 2 && self.shape.count > 0;
        let segment_len = self.shape.segment_len;
        if keeps { (self.partials() - 1) * segment_len + segment_len.min(self.shape.count) } else { 0 }
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        steps_of(self, rank, || self.ring_steps(rank))
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        if self.shape.has_messages() { vec![self.shape.before(rank, 1)] } else { Vec::new() }
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        if self.shape.has_messages() { vec![self.shape.after(rank, 1)] } else { Vec::new() }
    }
}

/// Reduce-scatter by halving. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halving {
    shape: Shape,
}

impl Halving {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        Halving { shape }
    }

    fn rounds(&self) -> u32 {
        rounds(self.shape.world_size)
    }

    /// Blocks that go each way in a round.
    fn blocks(&self, round: u32) -> u32 {
        (1 << round).min(self.shape.world_size - (1 << round))
    }

    /// The messages of a round, of which `to` is the receiver: first offset from the receiver's own block, and length,
    /// of each piece. Pieces end where the vector does, and where sender or receiver has only its input so far.
    fn pieces(&self, round: u32, to: Rank) -> Pieces {
        let count = self.shape.count;
        let blocks = self.blocks(round) as usize;
        let wrap = self.shape.world_size as usize - to.index();
        let partial = self.partial_blocks(round);
        let mut ends = [wrap, partial, partial.saturating_sub(1 << round), blocks].map(|end| end.min(blocks));
        ends.sort_unstable();
        let mut start = 0;
        let pieces = ends.map(|end| {
            let piece = Segments::new(start * count..end * count, self.shape.segment_len);
            start = end;
            piece
        });
        Pieces { pieces }
    }

    /// Of how many blocks, from its own on, a rank has a partial reduction before a round.
    fn partial_blocks(&self, round: u32) -> usize {
        // The round before wrote from 0 on, and where it wrote less than this round uses it was the first.
        if round + 1 < self.rounds() { self.blocks(round + 1) as usize } else { 0 }
    }

    fn round(&self, rank: Rank, round: u32) -> impl Iterator<Item = Step> + Send + use<> {
        let shape = self.shape;
        let distance = 1 << round;
        let (to, from) = (shape.after(rank, distance), shape.before(rank, distance));
        let partial = self.partial_blocks(round) * shape.count;
        let vector_len = shape.world_size as usize * shape.count;
        // What this rank has at an offset from its own block.
        let own = move |offset: usize, len| {
            if offset < partial {
                Span::scratch(offset, len)
            } else {
                Span::input((shape.block(rank).start + offset) % vector_len, len)
            }
        };
        let (sent, received) = (self.pieces(round, to), self.pieces(round, rank));
        let send = move |number| {
            let (start, len) = sent.get(number);
            Step::Send { to, span: own(distance as usize * shape.count + start, len) }
        };
        let receive = move |number| {
            let (start, len) = received.get(number);
            let completes = round == 0;
            let into = if completes { Span::output(start, len) } else { Span::scratch(start, len) };
            let (left, right) = (Operand::Slot(from), Operand::Span(own(start, len)));
            Step::take(from, len, Step::Reduce { into, left, right, completes })
        };
        exchange(shape.window(), sent.count(), received.count(), None, send, receive)
    }
}

impl Schedule for Halving {
    fn name(&self) -> &'static str {
        "halving"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn scratch_len(&self, _rank: Rank) -> usize {
        let rounds = (1..self.rounds()).map(|round| self.blocks(round) as usize);
        rounds.max().unwrap_or(0) * self.shape.count
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        steps_of(self, rank, || (0..self.rounds()).rev().flat_map(move |round| self.round(rank, round)))
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        let distances = (0..self.rounds()).filter(|_| self.shape.count > 0);
        distances.map(|round| self.shape.before(rank, 1 << round)).collect()
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        let distances = (0..self.rounds()).filter(|_| self.shape.count > 0);
        distances.map(|round| self.shape.after(rank, 1 << round)).collect()
    }
}

/// The messages of a round; pieces may be empty.
#[derive(Debug, Clone, Copy)]
struct Pieces {
    pieces: [Segments; 4],
}

impl Pieces {
    fn count(&self) -> usize {
        self.pieces.iter().map(Segments::count).sum()
    }

    fn get(&self, mut number: usize) -> (usize, usize) {
        for piece in &self.pieces {
            match number.checked_sub(piece.count()) {
                Some(left) => number = left,
                None => return piece.get(number),
            }
        }
        unreachable!("a message below the count is in one of the pieces")
    }
}
