//! Why a schedule was not run to its end.

use std::time::Duration;

use efarun_wire::Rank;

use super::signature::Signature;
use crate::coll::fault::{Fault, Wait};
use crate::transport::TransportError;

/// Why a schedule was not run to its end. The transport is closed by then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The peer is in another call than this rank, or in the same with other arguments.
    #[error("step {step}: rank {peer} {}", difference((*.sequence, *.signature), (*.peer_sequence, *.peer_signature)))]
    Mismatch {
        /// The step.
        step: usize,
        /// The peer.
        peer: Rank,
        /// The number of this rank's call.
        sequence: u32,
        /// The number of the peer's.
        peer_sequence: u32,
        /// What this rank's call is.
        signature: Signature,
        /// What the peer's is.
        peer_signature: Signature,
    },
    /// A message has another length than its step says, though the calls are the same.
    #[error("step {step}: rank {peer} sent {found_bytes} bytes where {expected_bytes} belong")]
    MessageLen {
        /// The step.
        step: usize,
        /// The sender.
        peer: Rank,
        /// What the schedule says.
        expected_bytes: usize,
        /// What came.
        found_bytes: usize,
    },
    /// A wait took too long.
    #[error("step {step} of {step_count}: waited {:.1} s for {wait}{}", .waited.as_secs_f64(), behind(.stall))]
    Timeout {
        /// The step.
        step: usize,
        /// How many steps this rank has.
        step_count: usize,
        /// What was waited for.
        wait: Wait,
        /// How long.
        waited: Duration,
        /// What the transport knows about it.
        stall: Option<String>,
    },
    /// The launcher said, while this rank waited, that there is no point in going on.
    #[error("step {step}: {interrupt}")]
    Interrupted {
        /// The step.
        step: usize,
        /// What this rank waited for.
        wait: Wait,
        /// What the launcher said.
        interrupt: Interrupt,
    },
    /// The transport failed.
    #[error("step {step}: {source}")]
    Transport {
        /// The step; 0 also before the first.
        step: usize,
        /// What it said.
        source: TransportError,
    },
    /// The buffers are not those that the schedule was made for.
    #[error(
        "input and output of {found:?} elements, where the schedule has {expected:?}, or in other places"
    )]
    Buffers {
        /// Elements of the input and the output.
        found: (usize, usize),
        /// Those of the schedule.
        expected: (usize, usize),
    },
    /// A segment of the schedule does not fit into a message.
    #[error("a segment takes {segment_bytes} bytes, a message carries {slot_bytes}")]
    SegmentTooLong {
        /// The longest message of the schedule.
        segment_bytes: usize,
        /// The most that the transport carries in one.
        slot_bytes: usize,
    },
    /// The schedule is wrong.
    #[error("the schedule is wrong: {0}")]
    Fault(#[from] Fault),
    /// The transport says that a send is complete that this rank did not post.
    #[error("the transport completed send {token}, which was not posted")]
    StrayCompletion {
        /// The token.
        token: u64,
    },
}

/// What a rank that waits can be told by others than its transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Interrupt {
    /// A rank is gone.
    #[error("rank {rank} is lost: {cause}")]
    RankLost {
        /// The rank.
        rank: Rank,
        /// How it was lost, as a lowercase fragment.
        cause: String,
    },
    /// Somebody gave up for everybody.
    #[error("the job was aborted: {reason}")]
    Aborted {
        /// The rank that gave up; none if it was the launcher or its user.
        rank: Option<Rank>,
        /// Why.
        reason: String,
    },
    /// A rank is in another call, which this rank waits to no purpose for.
    #[error("rank {rank} {difference}")]
    CallsDiffer {
        /// The rank.
        rank: Rank,
        /// What is known of the difference.
        difference: String,
    },
    /// Whoever would say so is gone.
    #[error("the link to the launcher is lost: {cause}")]
    LinkLost {
        /// What was seen, as a lowercase fragment.
        cause: String,
    },
}

/// What is known of a wait, to be said behind it.
pub(crate) fn behind(stall: &Option<String>) -> String {
    stall.as_ref().map_or_else(String::new, |stall| format!("; {stall}"))
}

/// What a peer does, and what this rank does, from the number and the signature of each one's call.
pub(crate) fn difference(mine: (u32, Signature), theirs: (u32, Signature)) -> String {
    let ((number, signature), (peer_number, peer_signature)) = (mine, theirs);
    let (call, peer_call) = (signature.to_string(), peer_signature.to_string());
    if number != peer_number {
        format!("is in call number {peer_number}, {peer_call}, this rank in number {number}, {call}")
    } else if call != peer_call {
        format!("calls {peer_call} as number {number}, this rank {call}")
    } else {
        format!("calls {call} as number {number} like this rank, but with another count, root or algorithm")
    }
}
