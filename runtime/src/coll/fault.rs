//! What can be wrong with a schedule.
//!
//! The executor, the checker and the simulator find faults in the same words: a [`Fault`] names the rank, the step
//! and the [`Problem`]. A fault is a bug in a generator, never something that a user or a network did.

use efarun_wire::Rank;

use super::schedule::{Buffer, Span};

/// A schedule is wrong at this place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank}, step {step}: {problem}")]
pub struct Fault {
    /// The rank whose step it is.
    pub rank: Rank,
    /// The step's index; the number of steps where the end of the schedule is meant.
    pub step: usize,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a step, or with where a rank's steps end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A span is empty or reaches past the buffers.
    #[error("{span} is empty or not within {count} elements")]
    Bounds {
        /// The span.
        span: Span,
        /// Elements in the buffer.
        count: usize,
    },
    /// A step writes to `Input`.
    #[error("writes to {span}")]
    WritesInput {
        /// The span.
        span: Span,
    },
    /// What may be wider than an element is sent.
    #[error("sends {span}, which never leaves the rank")]
    SendsAccumulator {
        /// The span.
        span: Span,
    },
    /// A peer does not exist, is the rank itself, or was not declared.
    #[error("rank {peer} is not among the peers that the schedule declares")]
    NotAPeer {
        /// The peer.
        peer: Rank,
    },
    /// A message is longer than a segment, or empty where messages are not.
    #[error("a message of {len} elements, where a segment has at most {segment_len}")]
    SegmentLen {
        /// Its length.
        len: usize,
        /// The most that is allowed.
        segment_len: usize,
    },
    /// More sends are open than the schedule declared.
    #[error("more than {limit} sends are open")]
    TooManyOpenSends {
        /// What was declared.
        limit: usize,
    },
    /// A wait for sends that were not posted yet.
    #[error("waits for {count} sends when {posted} were posted")]
    WaitsForUnposted {
        /// How many are waited for.
        count: usize,
        /// How many there are.
        posted: usize,
    },
    /// A step writes what the network may still read.
    #[error("writes to {span}, which an open send of {sent} may still read")]
    OverwritesOpenSend {
        /// The destination.
        span: Span,
        /// What is being sent.
        sent: Span,
    },
    /// A destination overlaps an operand without being equal to it, or is both of them.
    #[error("writes to {span} what it reads at {operand} in a way that has no one meaning")]
    Overlap {
        /// The destination.
        span: Span,
        /// The operand.
        operand: Span,
    },
    /// Operand and destination differ in length.
    #[error("reads {found} elements to write {expected}")]
    OperandLen {
        /// Elements of the destination.
        expected: usize,
        /// Elements of the operand.
        found: usize,
    },
    /// A second message is to be held from the same peer.
    #[error("a message from rank {from} is held already")]
    AlreadyHeld {
        /// The peer.
        from: Rank,
    },
    /// A message is read or released that is not held.
    #[error("no message from rank {from} is held")]
    NotHeld {
        /// The peer.
        from: Rank,
    },
    /// A message is released that nothing has read.
    #[error("the message from rank {from} is released unused")]
    ReleasedUnused {
        /// The peer.
        from: Rank,
    },
    /// A message is still held at the end.
    #[error("the message from rank {from} is held at the end")]
    LeftHeld {
        /// The peer.
        from: Rank,
    },
    /// Sends are still open at the end.
    #[error("{sends} sends are open at the end")]
    LeftOpen {
        /// How many.
        sends: usize,
    },
    /// Less was written than the output has.
    #[error("only {written} elements were written to an output of {count}")]
    OutputIncomplete {
        /// Elements written, each time counted.
        written: usize,
        /// Elements of the output.
        count: usize,
    },
    /// Sender and receiver disagree about a message's length.
    #[error("expects {expected} elements from rank {from}, which sends {sent}")]
    MessageLen {
        /// The sender.
        from: Rank,
        /// What the receiver expects.
        expected: usize,
        /// What is sent.
        sent: usize,
    },
    /// A message arrives that nobody receives.
    #[error("{messages} messages from rank {from} are not received")]
    NotReceived {
        /// The sender.
        from: Rank,
        /// How many.
        messages: usize,
    },
    /// No rank can go on.
    #[error("waits for {wait}, and no rank can go on")]
    Deadlock {
        /// What this rank waits for.
        wait: Wait,
    },
    /// All ranks together reduced less than what the collective needs.
    #[error("all ranks together reduced {reduced} elements where {needed} are the least")]
    TooLittleReduced {
        /// What they reduced.
        reduced: u128,
        /// One less than the world size, for each element.
        needed: u128,
    },
    /// An element is read that was never written.
    #[error("reads element {element} of the {buffer}, which was not written")]
    ReadsUnwritten {
        /// The buffer.
        buffer: Buffer,
        /// The element's index in it.
        element: usize,
    },
    /// Elements of different positions are reduced, or one lands at another position.
    #[error("element {found} stands where element {element} belongs")]
    WrongElement {
        /// The position.
        element: usize,
        /// The element that is there.
        found: usize,
    },
    /// A rank's input is reduced into an element a second time.
    #[error("the input of rank {contributor} is reduced into element {element} twice")]
    Twice {
        /// The element's index.
        element: usize,
        /// Whose input.
        contributor: Rank,
    },
    /// A rank's input is not in an element.
    #[error("the input of rank {contributor} is not in element {element}")]
    Missing {
        /// The element's index.
        element: usize,
        /// Whose input.
        contributor: Rank,
    },
    /// A rank's input is in an element that it has no part in.
    #[error("the input of rank {contributor} is in element {element}, where it does not belong")]
    Foreign {
        /// The element's index.
        element: usize,
        /// Whose input.
        contributor: Rank,
    },
    /// A reduction is said to be an element's last and is not, or is and is not said to be.
    #[error(
        "a reduction of element {element} has the inputs of {contributors} ranks, and completes: {completes}"
    )]
    Completion {
        /// The element's index.
        element: usize,
        /// How many ranks' inputs are in the result.
        contributors: u32,
        /// What the step says.
        completes: bool,
    },
    /// A rank ends a barrier that another may not have begun.
    #[error("ends without having heard of rank {other}")]
    Unheard {
        /// The other rank.
        other: Rank,
    },
    /// Two ranks reduced an element in different orders, so that their results may differ.
    #[error("element {element} is reduced in another order than on rank {other}")]
    Order {
        /// The element's index.
        element: usize,
        /// The other rank.
        other: Rank,
    },
}

/// What a rank can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wait {
    /// The next message.
    #[error("a message from rank {from}")]
    Message {
        /// The sender.
        from: Rank,
    },
    /// A credit to send with.
    #[error("rank {to} to be ready for a message")]
    Credit {
        /// The receiver.
        to: Rank,
    },
    /// A send to be complete.
    #[error("rank {to} to take a message")]
    Completion {
        /// The receiver.
        to: Rank,
    },
}

impl Wait {
    /// The rank that is waited for.
    pub fn peer(self) -> Rank {
        match self {
            Wait::Message { from } => from,
            Wait::Credit { to } | Wait::Completion { to } => to,
        }
    }
}
