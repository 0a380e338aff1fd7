//! All-reduce by a segmented ring.
//!
//! The vector is cut into one *chunk* per rank, a chunk into *segments* of at most `segment_len` elements. Rank r
//! sends to r + 1 and receives from r - 1. In phase p, of 2(n-1), it sends chunk r - p (mod n): its own input first,
//! then each time what the phase before gave it. In the first n-1 phases an arriving chunk is reduced with this
//! rank's input, in the others it is copied. Chunk c is thus reduced as ((c op c+1) op c+2) … op c-1, once, and every
//! rank gets those bits.
//!
//! # Cost
//! 2(n-1) phases; each rank sends all chunks twice, but for two of them once: 2(n-1)/n of the vector, which is the
//! least that any all-reduce can send (Patarasuk and Yuan, 2009). (n-1)/n of the vector is reduced by each rank.
//!
//! # Pipelining
//! A rank keeps a *window* of messages ahead of what it received: it sends that many segments, then takes one and
//! sends one. A window above the credits of a pair would have all ranks wait for credit and none take a message, and one of
//! all credits has them wait for each other's; so it is about half of them, and no more than a chunk has segments. Twice as many sends may be open: a segment's send waits
//! for the completion of one that left two windows ago, which the credits make certain to have arrived.
//!
//! # Counts that do not divide
//! The first `count mod n` chunks have one element more than the others, so chunks can differ by one segment, and
//! chunks of nothing have none. All formulas count messages, not phases: the messages of a rank are the segments of
//! chunks r, r-1, … in a cycle, as far as they go.

use efarun_wire::Rank;

use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// All-reduce by a segmented ring. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    chunks: Chunks,
    shape: Shape,
}

impl Ring {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        Ring { chunks: Chunks::new(shape.world_size as usize, shape.count, shape.segment_len), shape }
    }

    fn rank_count(&self) -> usize {
        self.chunks.rank_count
    }

    fn layout(&self, rank: Rank) -> Layout {
        let chunks = &self.chunks;
        let own = chunks.segments(rank.index());
        let total = chunks.total_segments();
        let sends = chunks.messages(rank.index());
        let receives = chunks.messages(self.shape.before(rank, 1).index());
        let window = self.shape.window().min(own);
        // The message that receive i overwrites left as send i - cycle; at most this many later ones may be open.
        let cycle = total - own;
        let open = (2 * window.max(1)).min(cycle + window).min(sends);
        let kept_at_end = total - chunks.segments((rank.index() + 2) % self.rank_count());
        Layout {
            sends,
            receives,
            window,
            open,
            cycle,
            quiet_rounds: (open - window).min(sends - window),
            tail_waits: open.saturating_sub(kept_at_end),
        }
    }

    fn send(&self, rank: Rank, number: usize) -> Step {
        let message = self.chunks.message(rank.index(), number);
        let span = if message.phase == 0 {
            Span::input(message.start, message.len)
        } else {
            Span::output(message.start, message.len)
        };
        Step::Send { to: self.shape.after(rank, 1), span }
    }

    /// Part `part` of the round that receives message `number`: wait, take, use, release, send.
    fn round(&self, rank: Rank, number: usize, part: Part) -> Step {
        let from = self.shape.before(rank, 1);
        let message = self.chunks.message(from.index(), number);
        let into = Span::output(message.start, message.len);
        match part {
            Part::Recv => Step::Recv { from, len: message.len },
            Part::Use if message.phase + 1 < self.rank_count() => Step::Reduce {
                into,
                left: Operand::Slot(from),
                right: Operand::Span(Span::input(message.start, message.len)),
                completes: message.phase + 2 == self.rank_count(),
            },
            Part::Use => Step::Copy { into, source: Operand::Slot(from) },
            Part::Release => Step::Release { from },
        }
    }
}

impl Schedule for Ring {
    fn name(&self) -> &'static str {
        "ring"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        Box::new((0..self.step_count(rank)).map(move |index| self.step(rank, index)))
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        if self.shape.has_messages() { self.layout(rank).open } else { 0 }
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        if self.shape.has_messages() { vec![self.shape.before(rank, 1)] } else { Vec::new() }
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        if self.shape.has_messages() { vec![self.shape.after(rank, 1)] } else { Vec::new() }
    }
}

impl Ring {
    fn step_count(&self, rank: Rank) -> usize {
        if self.shape.count == 0 {
            return 0;
        }
        if self.rank_count() == 1 {
            return 1;
        }
        let layout = self.layout(rank);
        layout.tail_wait_start() + layout.tail_waits * 4 + usize::from(layout.has_last_wait())
    }

    fn step(&self, rank: Rank, index: usize) -> Step {
        assert!(index < self.step_count(rank), "rank {rank} has no step {index}");
        if self.rank_count() == 1 {
            let source = Operand::Span(Span::input(0, self.shape.count));
            return Step::Copy { into: Span::output(0, self.shape.count), source };
        }
        let layout = self.layout(rank);
        if index < layout.window {
            return self.send(rank, index);
        }
        if index < layout.waiting_start() {
            let index = index - layout.window;
            let (round, part) = (index / 4, index % 4);
            return match part {
                3 => self.send(rank, layout.window + round),
                part => self.round(rank, round, PARTS[part]),
            };
        }
        if index < layout.tail_start() {
            let index = index - layout.waiting_start();
            let (round, part) = (layout.quiet_rounds + index / 5, index % 5);
            return match part {
                0 => Step::WaitSends { count: layout.window + round + 1 - layout.open },
                4 => self.send(rank, layout.window + round),
                part => self.round(rank, round, PARTS[part - 1]),
            };
        }
        if index < layout.tail_wait_start() {
            let index = index - layout.tail_start();
            return self.round(rank, layout.body_rounds() + index / 3, PARTS[index % 3]);
        }
        let index = index - layout.tail_wait_start();
        let (round, part) = (layout.receives - layout.tail_waits + index / 4, index % 4);
        match part {
            0 if round < layout.receives => Step::WaitSends { count: round + 1 - layout.cycle },
            0 => Step::WaitSends { count: layout.sends },
            part => self.round(rank, round, PARTS[part - 1]),
        }
    }
}

/// A part of a round that every round has.
#[derive(Debug, Clone, Copy)]
enum Part {
    Recv,
    Use,
    Release,
}

const PARTS: [Part; 3] = [Part::Recv, Part::Use, Part::Release];

/// How the steps of one rank follow each other. A round receives one message and, while there are any, sends one:
///
/// 1. `window` sends;
/// 2. `quiet_rounds` rounds of receive and send;
/// 3. rounds of wait, receive and send, until all was sent;
/// 4. the tail: rounds that only receive, the last `tail_waits` of them with a wait for the send that they overwrite;
/// 5. a wait for all sends, unless the tail waited for them.
#[derive(Debug)]
struct Layout {
    sends: usize,
    receives: usize,
    window: usize,
    /// Sends that may be open at once.
    open: usize,
    /// How many messages lie between a send and the receive that overwrites it.
    cycle: usize,
    quiet_rounds: usize,
    tail_waits: usize,
}

impl Layout {
    /// Rounds that send.
    fn body_rounds(&self) -> usize {
        self.sends - self.window
    }

    fn waiting_start(&self) -> usize {
        self.window + self.quiet_rounds * 4
    }

    fn tail_start(&self) -> usize {
        self.waiting_start() + (self.body_rounds() - self.quiet_rounds) * 5
    }

    fn tail_wait_start(&self) -> usize {
        self.tail_start() + (self.receives - self.body_rounds() - self.tail_waits) * 3
    }

    fn has_last_wait(&self) -> bool {
        self.tail_waits < self.open
    }
}

/// The vector's chunks and their segments.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chunks {
    rank_count: usize,
    segment_len: usize,
    /// Elements of a small chunk; a large one has one more.
    small_len: usize,
    /// Chunks 0 to `large_count` - 1 are large.
    large_count: usize,
    small_segments: usize,
    large_segments: usize,
}

/// One message of a rank: a segment in a phase.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    phase: usize,
    start: usize,
    len: usize,
}

impl Chunks {
    fn new(rank_count: usize, count: usize, segment_len: usize) -> Self {
        let small_len = count / rank_count;
        Chunks {
            rank_count,
            segment_len,
            small_len,
            large_count: count % rank_count,
            small_segments: small_len.div_ceil(segment_len),
            large_segments: (small_len + 1).div_ceil(segment_len),
        }
    }

    /// Segments of a chunk.
    fn segments(&self, chunk: usize) -> usize {
        if chunk < self.large_count { self.large_segments } else { self.small_segments }
    }

    /// Segments of all chunks before this one.
    fn segments_before(&self, chunk: usize) -> usize {
        let large = chunk.min(self.large_count);
        large * self.large_segments + (chunk - large) * self.small_segments
    }

    fn total_segments(&self) -> usize {
        self.segments_before(self.rank_count)
    }

    /// Messages that a rank sends: 2(n-1) phases are two cycles but for two chunks.
    fn messages(&self, rank: usize) -> usize {
        let unsent = |ahead: usize| self.segments((rank + ahead) % self.rank_count);
        2 * self.total_segments() - unsent(1) - unsent(2)
    }

    /// Message `number` of those that `rank` sends.
    fn message(&self, rank: usize, number: usize) -> Message {
        let total = self.total_segments();
        let (cycle, position) = (number / total, number % total);
        // A cycle is chunks rank, rank - 1, … 0, n - 1, … rank + 1. Counted backwards, segments are in order.
        let own_end = self.segments_before(rank + 1);
        let (chunk, segment) = if position < own_end {
            let chunk = self.chunk_of(own_end - 1 - position);
            (chunk, position - (own_end - self.segments_before(chunk + 1)))
        } else {
            let position = position - own_end;
            let chunk = self.chunk_of(total - 1 - position);
            (chunk, position - (total - self.segments_before(chunk + 1)))
        };
        let chunk_len = self.small_len + usize::from(chunk < self.large_count);
        let offset = segment * self.segment_len;
        Message {
            phase: cycle * self.rank_count + (rank + self.rank_count - chunk) % self.rank_count,
            start: chunk * self.small_len + chunk.min(self.large_count) + offset,
            len: self.segment_len.min(chunk_len - offset),
        }
    }

    /// The chunk of the `flat`-th segment of the vector.
    fn chunk_of(&self, flat: usize) -> usize {
        let large = self.large_count * self.large_segments;
        if flat < large {
            flat / self.large_segments
        } else {
            self.large_count + (flat - large) / self.small_segments
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::collective::Collective;

    fn ring(world_size: u32, count: usize, segment_len: usize, credits: usize) -> Ring {
        let collective = Collective::AllReduce;
        Ring::new(Shape { collective, world_size, count, segment_len, credits })
    }

    fn steps(ring: &Ring, rank: u32) -> Vec<Step> {
        (0..ring.step_count(Rank(rank))).map(|index| ring.step(Rank(rank), index)).collect()
    }

    fn sent_elements(ring: &Ring, rank: u32) -> usize {
        let sent = |step: &Step| if let Step::Send { span, .. } = step { span.len } else { 0 };
        steps(ring, rank).iter().map(sent).sum()
    }

    #[test]
    fn two_ranks_exchange_halves() {
        let ring = ring(2, 5, 8, 2);
        let (peer, own, other) = (Rank(1), (0, 3), (3, 2));
        let expected = [
            Step::Send { to: peer, span: Span::input(own.0, own.1) },
            Step::Recv { from: peer, len: other.1 },
            Step::Reduce {
                into: Span::output(other.0, other.1),
                left: Operand::Slot(peer),
                right: Operand::Span(Span::input(other.0, other.1)),
                completes: true,
            },
            Step::Release { from: peer },
            Step::Send { to: peer, span: Span::output(other.0, other.1) },
            Step::WaitSends { count: 1 },
            Step::Recv { from: peer, len: own.1 },
            Step::Copy { into: Span::output(own.0, own.1), source: Operand::Slot(peer) },
            Step::Release { from: peer },
            Step::WaitSends { count: 2 },
        ];
        assert_eq!(steps(&ring, 0), expected);
    }

    #[test]
    fn a_rank_sends_the_least_that_an_all_reduce_can() {
        for world_size in 2..=17u32 {
            for chunk_len in [1, 7, 64] {
                let count = chunk_len * world_size as usize;
                let ring = ring(world_size, count, 3, 2);
                for rank in 0..world_size {
                    assert_eq!(sent_elements(&ring, rank), 2 * (world_size as usize - 1) * chunk_len);
                }
            }
        }
    }

    #[test]
    fn no_elements_make_no_steps_and_one_rank_copies() {
        assert_eq!(ring(5, 0, 4, 2).step_count(Rank(3)), 0);
        assert!(ring(5, 0, 4, 2).receives_from(Rank(3)).is_empty());
        let alone = ring(1, 9, 4, 2);
        let source = Operand::Span(Span::input(0, 9));
        assert_eq!(steps(&alone, 0), [Step::Copy { into: Span::output(0, 9), source }]);
    }

    #[test]
    fn a_window_of_segments_leaves_before_the_first_is_awaited() {
        let ring = ring(4, 400, 10, 4);
        let leading = steps(&ring, 2).iter().take_while(|step| matches!(step, Step::Send { .. })).count();
        assert_eq!(leading, 3);
        assert_eq!(ring.max_open_sends(Rank(2)), 6);
    }

    #[test]
    #[should_panic(expected = "rank 1 has no step")]
    fn a_step_past_the_end_panics() {
        let ring = ring(2, 4, 4, 2);
        ring.step(Rank(1), ring.step_count(Rank(1)));
    }
}
