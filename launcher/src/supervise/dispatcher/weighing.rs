//! Which of two failures was the first, where the effect is told before its cause.
//!
//! A rank that is killed closes its sockets, and a peer on another node that sees this may have aborted the job before the
//! first rank's own node has told of the end. So before a rank's failure ends the job, every agent is asked to tell the ends
//! that are under way, and answers when it has: whoever has seen a peer's socket close was told after the kernel had that
//! peer marked as ending. If one of those ends is that of a rank which a signal has killed, it is the first failure
//! ([`Verdict::weigh`](crate::supervise::verdict::Verdict::weigh)).
//!
//! This costs one round to the agents, and no more than [`PATIENCE`]. It does not tell which of two ranks aborted first.

use std::collections::BTreeSet;
use std::time::Duration;

use efarun_wire::NodeId;
use efarun_wire::message::HeadMessage;
use tokio::time::Instant;

use super::{Job, NodeState};
use crate::supervise::verdict::Failure;

/// What is awaited before the first failure ends the job.
#[derive(Debug)]
pub(super) struct Weighing {
    /// Whose agents have not told yet.
    awaited: BTreeSet<NodeId>,
    /// How long that is waited for.
    pub(super) until: Instant,
}

impl Job<'_> {
    /// Takes note of a failure of a rank's that ends the job.
    pub(super) fn rank_failed(&mut self, failure: Failure) {
        if self.verdict.failed(failure) {
            self.weigh();
        } else if self.weighing.is_none() {
            self.end();
        }
    }

    /// Ends the job for its first failure, which has just been recorded or replaced: at once if nothing can be its cause, and
    /// otherwise when the agents have told the ends that are under way.
    pub(super) fn weigh(&mut self) {
        if !self.is_before_the_end() || !self.verdict.weigh() {
            return self.end();
        }
        let active = self.nodes.iter().zip(&self.states).enumerate();
        let active = active.filter(|(_, (_, state))| **state == NodeState::Active);
        let mut awaited = BTreeSet::new();
        for (index, (node, _)) in active {
            node.link.send(HeadMessage::TellEnds);
            awaited.insert(NodeId(index as u32));
        }
        self.weighing = Some(Weighing { awaited, until: Instant::now() + PATIENCE });
    }

    /// Takes note that an agent has told the ends that were under way there, or is gone.
    pub(super) fn ends_told(&mut self, node: NodeId) {
        let Some(weighing) = &mut self.weighing else { return };
        weighing.awaited.remove(&node);
        if weighing.awaited.is_empty() {
            self.end();
        }
    }

    /// Leaves the first failure as it is, and tells it if there is one that was being weighed.
    pub(super) fn decide(&mut self) {
        self.weighing = None;
        if let Some(failure) = self.verdict.decide() {
            self.narrator.first_failure(failure);
        }
    }
}

/// An agent answers at once unless a rank is ending. A node whose agent does not is no reason to let the others run on.
const PATIENCE: Duration = Duration::from_secs(1);
