//! All-gather: round a ring, or by doubling (Bruck).
//!
//! The ring hands every block round the world: in phase p of n-1, rank r sends block r - p to r + 1 and receives block
//! r - 1 - p from r - 1, in segments. n-1 phases; each rank sends (n-1)/n of the vector, which is the least.
//!
//! By doubling (Bruck et al., 1997), in round k a rank sends all that it has, blocks r to r + 2^k - 1 around the world,
//! to r - 2^k, and gets as many from r + 2^k: log2 n rounds, rounded up, for any n, and the same bytes. What is sent lies
//! at its place in the output, in one piece or two where it wraps, so nothing is turned or copied. A round waits for all
//! of the one before, so a long vector is better off on the ring, where segments overlap.
//!
//! Between two ranks both are one exchange of blocks.

use efarun_wire::Rank;

use super::pace::{Segments, exchange, steps_of};
use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// All-gather round a ring. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherRing {
    shape: Shape,
}

impl GatherRing {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        GatherRing { shape }
    }

    fn ring_steps(&self, rank: Rank) -> impl Iterator<Item = Step> + Send + use<> {
        let shape = self.shape;
        let segments = shape.whole();
        let messages = segments.count() * (shape.world_size as usize - 1);
        let (next, previous) = (shape.after(rank, 1), shape.before(rank, 1));
        // Where message `number` of those that `from` sends belongs.
        let place = move |from: Rank, number: usize| {
            let (phase, segment) = (number / segments.count(), number % segments.count());
            let (start, len) = segments.get(segment);
            (phase, Span::output(shape.block(shape.before(from, phase as u32)).start + start, len))
        };
        let send = move |number| {
            let span = match place(rank, number) {
                (0, own) => Span::input(own.start - shape.block(rank).start, own.len),
                (_, received) => received,
            };
            Step::Send { to: next, span }
        };
        let receive = move |number| Step::take_to(place(previous, number).1, previous);
        // A segment that arrives is sent on a block later, so no more than a block can leave ahead.
        let window = shape.window().min(segments.count());
        exchange(window, messages, messages, Some(keep(shape, rank)), send, receive)
    }
}

impl Schedule for GatherRing {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn shape(&self) -> &Shape {
        &self.shape
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

/// All-gather by doubling. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bruck {
    shape: Shape,
}

impl Bruck {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        Bruck { shape }
    }

    fn rounds(&self) -> u32 {
        rounds(self.shape.world_size)
    }

    fn round(&self, rank: Rank, round: u32) -> impl Iterator<Item = Step> + Send + use<> {
        let shape = self.shape;
        let distance = 1 << round;
        let blocks = distance.min(shape.world_size - distance);
        let (to, from) = (shape.before(rank, distance), shape.after(rank, distance));
        let (sent, received) = (Arc::new(&shape, rank, blocks), Arc::new(&shape, from, blocks));
        let send = move |number| {
            let (start, len) = sent.get(number);
            // In the first round the block may not be in the output yet.
            let span = if round == 0 {
                Span::input(start - shape.block(rank).start, len)
            } else {
                Span::output(start, len)
            };
            Step::Send { to, span }
        };
        let receive = move |number| {
            let (start, len) = received.get(number);
            Step::take_to(Span::output(start, len), from)
        };
        let own = (round == 0).then(|| keep(shape, rank));
        exchange(shape.window(), sent.count(), received.count(), own, send, receive)
    }
}

impl Schedule for Bruck {
    fn name(&self) -> &'static str {
        "bruck"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        steps_of(self, rank, || (0..self.rounds()).flat_map(move |round| self.round(rank, round)))
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        let distances = (0..self.rounds()).filter(|_| self.shape.count > 0);
        distances.map(|round| self.shape.after(rank, 1 << round)).collect()
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        let distances = (0..self.rounds()).filter(|_| self.shape.count > 0);
        distances.map(|round| self.shape.before(rank, 1 << round)).collect()
    }
}

/// Puts a rank's own block into its output.
pub(super) fn keep(shape: Shape, rank: Rank) -> Step {
    Step::Copy { into: shape.block(rank), source: Operand::Span(Span::input(0, shape.count)) }
}

/// log2, rounded up.
pub(super) fn rounds(world_size: u32) -> u32 {
    world_size.next_power_of_two().trailing_zeros()
}

/// Blocks of ranks that follow each other around the world, as segments of the vector.
#[derive(Debug, Clone, Copy)]
struct Arc {
    /// Up to the end of the vector.
    first: Segments,
    /// From its beginning on.
    wrapped: Segments,
}

impl Arc {
    fn new(shape: &Shape, from: Rank, blocks: u32) -> Self {
        let vector_len = shape.world_size as usize * shape.count;
        let start = from.index() * shape.count;
        let end = start + blocks as usize * shape.count;
        Arc {
            first: Segments::new(start..end.min(vector_len), shape.segment_len),
            wrapped: Segments::new(0..end.saturating_sub(vector_len), shape.segment_len),
        }
    }

    fn count(&self) -> usize {
        self.first.count() + self.wrapped.count()
    }

    fn get(&self, number: usize) -> (usize, usize) {
        match number.checked_sub(self.first.count()) {
            None => self.first.get(number),
            Some(number) => self.wrapped.get(number),
        }
    }
}
