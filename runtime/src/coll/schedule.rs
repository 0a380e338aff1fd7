//! The schedule: a collective as plain data.
//!
//! A schedule answers "what does rank r do as its step i" for every r and i, on demand and in constant memory, so
//! that one rank of ten thousand never holds the steps of the others. It knows element counts and offsets, but no
//! type, operation, address or transport. A rank takes its steps in order; a step that must wait (no credit for a
//! send, no message yet) holds up this rank only.
//!
//! # Messages
//! Between two ranks the k-th `Send` of the one pairs with the k-th `Recv` of the other, and both state the same
//! length. That is a numbering, not an order of arrival: the transport may deliver messages in any order and
//! identifies each by its number. A received message sits in a *slot* of its sender until `Release`; at most one
//! message per peer is held at a time.
//!
//! # Buffers
//! `Input` is never written. In an in-place call `Input` and `Output` are the same memory; a schedule must be right
//! both ways (the checker tries both). A span handed to `Send` may be read by the network until a `WaitSends`
//! covers that send; until then nothing may write to it.
//!
//! # What else holds
//! - A held message is used by a `Reduce` or a `Copy` before its `Release`.
//! - At most [`Schedule::max_open_sends`] sends of a rank are *open*: posted, and not yet covered by a `WaitSends`.
//!   This is what the executor needs memory for.
//! - After the last step no message is held, no send is open, and all of `Output` was written.
//!
//! The `ledger` holds a rank to these rules step by step; [`super::check`] proves the rest.

use std::fmt;

use efarun_wire::Rank;

/// Whose memory a span lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Buffer {
    /// What the caller gave.
    Input,
    /// What the caller gets.
    Output,
}

/// Consecutive elements of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The buffer.
    pub buffer: Buffer,
    /// Index of the first element.
    pub start: usize,
    /// Number of elements; never 0 within a step.
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
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buffer = match self.buffer {
            Buffer::Input => "input",
            Buffer::Output => "output",
        };
        write!(f, "{buffer}[{}..{}]", self.start, self.start.saturating_add(self.len))
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
        /// The destination, in `Output`. It may equal a span operand, never overlap it partly.
        into: Span,
        /// The left operand.
        left: Operand,
        /// The right operand.
        right: Operand,
    },
    /// `into[i] = source[i]`.
    Copy {
        /// The destination, in `Output`.
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

/// A collective over a world, for a number of elements: every rank's steps, on demand.
pub trait Schedule: fmt::Debug + Send + Sync {
    /// The algorithm's name, as `--algo` takes it; no two collectives share one.
    fn name(&self) -> &'static str;

    /// World size.
    fn world_size(&self) -> u32;

    /// Elements in each of `Input` and `Output`.
    fn count(&self) -> usize;

    /// The most elements that one message carries.
    fn segment_len(&self) -> usize;

    /// How many steps this rank has.
    fn step_count(&self, rank: Rank) -> usize;

    /// Step `index` of this rank; in constant time and without allocating.
    ///
    /// # Panics
    ///
    /// When `index` is not below [`Schedule::step_count`].
    fn step(&self, rank: Rank, index: usize) -> Step;

    /// The most sends that this rank has open at once.
    fn max_open_sends(&self, rank: Rank) -> usize;

    /// The peers that this rank receives from, in no particular order, each once.
    fn receives_from(&self, rank: Rank) -> Vec<Rank>;

    /// The peers that this rank sends to, in no particular order, each once.
    fn sends_to(&self, rank: Rank) -> Vec<Rank>;
}
