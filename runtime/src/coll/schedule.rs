//! The schedule: a collective as plain data.
//!
//! A schedule answers "what does rank r do, step by step" for every r, lazily and in constant memory, so that one rank
//! of ten thousand never holds the steps of the others. It knows element counts and offsets, but no type, operation,
//! address or transport. A rank takes its steps in order; a step that must wait (no credit for a send, no message
//! yet) holds up this rank only. What it all amounts to is stated by [`Schedule::collective`], and proved by
//! [`super::check`].
//!
//! # Messages
//! Between two ranks the k-th `Send` of the one pairs with the k-th `Recv` of the other, and both state the same
//! length. That is a numbering, not an order of arrival: the transport may deliver messages in any order and
//! identifies each by its number. A received message sits in a *slot* of its sender until `Release`; at most one
//! message per peer is held at a time. A send is complete at the latest when its receiver has taken the message by
//! `Recv`; the `Release` gives the sender a credit, not the completion. Where the segment length is 0 all messages are
//! empty: they say "I am here" and no more.
//!
//! # Buffers
//! `Input` and `Output` are windows on the collective's vector ([`Collective::input`], [`Collective::output`]).
//! `Input` is never written. In an in-place call the two lie in one piece of memory, each at its place in the vector;
//! a schedule must be right both ways (the checker tries both). A span handed to `Send` may be read by the network
//! until a `WaitSends` covers that send; until then nothing may write to it. A `Copy` from `Input` to the same place in
//! `Output` writes nothing in place. `Scratch` and `Accumulator` belong to the rank, hold nothing at the beginning, and
//! are as long as the schedule declares. What is in the accumulator may be kept in a wider type than the elements',
//! and is never sent.
//!
//! # What else holds
//! - A held message that is not empty is used by a `Reduce` or a `Copy` before its `Release`.
//! - At most [`Schedule::max_open_sends`] sends of a rank are *open*: posted, and not yet covered by a `WaitSends`.
//!   This is what the executor needs memory for.
//! - After the last step no message is held, no send is open, and all of `Output` was written.
//!
//! The `ledger` holds a rank to these rules step by step; [`super::check`] proves the rest.

use std::fmt;

use efarun_wire::Rank;

use super::collective::Collective;
use super::shape::Shape;

/// Whose memory a span lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Buffer {
    /// What the caller gave.
    Input,
    /// What the caller gets.
    Output,
    /// Memory of this rank for partial results on their way to others.
    Scratch,
    /// Memory of this rank for partial results that it goes on with itself, in the type that reductions are computed
    /// in: `f32` for halves.
    Accumulator,
}

/// Consecutive elements of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The buffer.
    pub buffer: Buffer,
    /// Index of the first element.
    pub start: usize,
    /// Number of elements; never 0 within a step, but for messages of a schedule whose segment length is 0.
    pub len: usize,
}

/// Something that a `Reduce` or `Copy` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Elements of a buffer, as many as the destination has.
    Span(Span),
    /// The message that is held from this peer, all of it.
    Slot(Rank),
}

impl Span {
    /// Elements of the input.
    pub fn input(start: usize, len: usize) -> Self {
        Span { buffer: Buffer::Input, start, len }
    }

    /// Elements of the output.
    pub fn output(start: usize, len: usize) -> Self {
        Span { buffer: Buffer::Output, start, len }
    }

    /// Elements of the scratch memory.
    pub fn scratch(start: usize, len: usize) -> Self {
        Span { buffer: Buffer::Scratch, start, len }
    }

    /// Elements of the accumulator.
    pub fn accumulator(start: usize, len: usize) -> Self {
        Span { buffer: Buffer::Accumulator, start, len }
    }
}

impl fmt::Display for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Buffer::Input => "input",
            Buffer::Output => "output",
            Buffer::Scratch => "scratch",
            Buffer::Accumulator => "accumulator",
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}..{}]", self.buffer, self.start, self.start.saturating_add(self.len))
    }
}

/// One step of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Posts the span's elements as the next message to `to`, and goes on.
    Send {
        /// The receiver.
        to: Rank,
        /// What is sent.
        span: Span,
    },
    /// Waits until the first `count` sends of this rank in this schedule, in the order of posting, are complete.
    WaitSends {
        /// How many.
        count: usize,
    },
    /// Waits for the next message from `from` and holds it in its slot.
    Recv {
        /// The sender.
        from: Rank,
        /// Its length in elements.
        len: usize,
    },
    /// `into[i] = left[i] op right[i]`. The order of the operands is part of the meaning.
    Reduce {
        /// The destination, not in `Input`. It may equal a span operand, never overlap it partly.
        into: Span,
        /// The left operand.
        left: Operand,
        /// The right operand.
        right: Operand,
        /// Whether the result has every rank's input in it. An average is divided here, where else it is a sum.
        completes: bool,
    },
    /// `into[i] = source[i]`.
    Copy {
        /// The destination, not in `Input`.
        into: Span,
        /// Where from.
        source: Operand,
    },
    /// Lets go of the message held from `from`; its sender gets the credit back.
    Release {
        /// The sender of the message.
        from: Rank,
    },
}

impl Step {
    /// Takes the next message from a peer, does this with it, and lets go of it.
    pub(super) fn take(from: Rank, len: usize, with: Step) -> [Step; 3] {
        [Step::Recv { from, len }, with, Step::Release { from }]
    }

    /// Takes the next message from a peer to its place.
    pub(super) fn take_to(into: Span, from: Rank) -> [Step; 3] {
        Step::take(from, into.len, Step::Copy { into, source: Operand::Slot(from) })
    }
}

/// The steps of one rank, in order.
pub type Steps<'s> = Box<dyn Iterator<Item = Step> + Send + 's>;

/// A collective over a world, for a number of elements: every rank's steps, on demand.
pub trait Schedule: fmt::Debug + Send + Sync {
    /// The algorithm's name, as `--algo` takes it; no two algorithms of a collective share one.
    fn name(&self) -> &'static str;

    /// What it was made for.
    fn shape(&self) -> &Shape;

    /// What it amounts to.
    fn collective(&self) -> Collective {
        self.shape().collective
    }

    /// World size.
    fn world_size(&self) -> u32 {
        self.shape().world_size
    }

    /// Elements, as the collective counts them.
    fn count(&self) -> usize {
        self.shape().count
    }

    /// The most elements that one message carries; 0 where messages are empty.
    fn segment_len(&self) -> usize {
        self.shape().segment_len
    }

    /// Elements of `Scratch` that this rank needs.
    fn scratch_len(&self, _rank: Rank) -> usize {
        0
    }

    /// Elements of `Accumulator` that this rank needs.
    fn accumulator_len(&self, _rank: Rank) -> usize {
        0
    }

    /// The steps of this rank: the same ones each time, made one after the other in memory that does not grow with
    /// their number.
    fn steps(&self, rank: Rank) -> Steps<'_>;

    /// The most sends that this rank has open at once.
    fn max_open_sends(&self, rank: Rank) -> usize;

    /// The peers that this rank receives from, in no particular order, each once.
    fn receives_from(&self, rank: Rank) -> Vec<Rank>;

    /// The peers that this rank sends to, in no particular order, each once.
    fn sends_to(&self, rank: Rank) -> Vec<Rank>;
}

/// Where the buffers of a rank lie in the vector, and how long each is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Place of the input's first element in the vector.
    pub input_at: usize,
    /// Elements of the input.
    pub input_len: usize,
    /// Place of the output's first element in the vector.
    pub output_at: usize,
    /// Elements of the output.
    pub output_len: usize,
    /// Elements of the scratch memory.
    pub scratch_len: usize,
    /// Elements of the accumulator.
    pub accumulator_len: usize,
}

impl Placement {
    /// That of a rank's buffers in a schedule.
    pub fn of(schedule: &dyn Schedule, rank: Rank) -> Self {
        let (collective, world_size, count) =
            (schedule.collective(), schedule.world_size(), schedule.count());
        let input = collective.input(rank, world_size, count);
        let output = collective.output(rank, world_size, count);
        Placement {
            input_at: input.start,
            input_len: input.len(),
            output_at: output.start,
            output_len: output.len(),
            scratch_len: schedule.scratch_len(rank),
            accumulator_len: schedule.accumulator_len(rank),
        }
    }

    /// Elements of a buffer.
    pub fn len(&self, buffer: Buffer) -> usize {
        match buffer {
            Buffer::Input => self.input_len,
            Buffer::Output => self.output_len,
            Buffer::Scratch => self.scratch_len,
            Buffer::Accumulator => self.accumulator_len,
        }
    }

    /// Whether two spans that are within bounds can share memory, in place.
    pub(super) fn overlap(&self, one: Span, other: Span) -> bool {
        let ((one_memory, one_start), (other_memory, other_start)) = (self.place(one), self.place(other));
        one_memory == other_memory && one_start < other_start + other.len && other_start < one_start + one.len
    }

    /// Whether two spans begin at the same place, in place.
    pub(super) fn is_same(&self, one: Span, other: Span) -> bool {
        self.place(one) == self.place(other)
    }

    /// Whether a step that writes to `into` may change what an open send of `sent` reads. A copy from a place of the
    /// input to the same place of the output changes nothing in place, and out of place nothing of the input.
    pub(super) fn disturbs(&self, sent: Span, into: Span, copied_from: Option<Span>) -> bool {
        let is_same_place = copied_from.is_some_and(|from| self.is_same(from, into));
        self.overlap(sent, into) && !(is_same_place && sent.buffer == Buffer::Input)
    }

    /// A span's memory, as a number, and its place there.
    fn place(&self, span: Span) -> (u8, usize) {
        match span.buffer {
            Buffer::Input => (0, self.input_at + span.start),
            Buffer::Output => (0, self.output_at + span.start),
            Buffer::Scratch => (1, span.start),
            Buffer::Accumulator => (2, span.start),
        }
    }
}
