//! Waiting in a leaf: look, spin, offer the core, sleep; and what ends a wait that gets nowhere.
//!
//! A wait looks some times without asking for the time, which is all that calls in step with each other need, and makes no
//! system call. Then it goes on as the executor does, by [`Spin`](crate::coll::executor::spin::Spin); and before a rank lies down it has woken all that wait
//! for what it has shown.
//!
//! # Calls that differ
//! Who waits on a board does not see messages, and who waits for a message sees no board. So every rank says which call it
//! is in, whichever way that is done, and a rank that sleeps compares. Calls of one number must have one signature.

use std::time::Instant;

use efarun_wire::Rank;

use super::Leaves;
use super::run::Run;
use crate::coll::executor::ExecError;
use crate::coll::executor::MAX_SLEEP;
use crate::coll::executor::signature::Signature;
use crate::coll::executor::whereabouts;
use crate::coll::fault::Wait;
use crate::transport::TransportError;
use crate::transport::shm::board::Board;
use crate::transport::shm::closed_by;

/// Where the core is shared a wait looks so many times less often before it offers it: for about a microsecond.
const SHARED: u32 = 10;

impl Leaves {
    /// Says which rank of the node has come how far, this one included.
    pub(crate) fn whereabouts(&self) -> String {
        let calls: Vec<_> =
            (0..).zip(&self.node).map(|(index, &rank)| (rank, self.board.calling(index))).collect();
        whereabouts::text(&calls, |_| None)
    }

    /// A rank of the node that is in another call of this number, and the call's signature.
    pub(crate) fn differing(&self, sequence: u32, signature: Signature) -> Option<(Rank, Signature)> {
        let (index, theirs) = self.differing_at(sequence, signature)?;
        Some((self.node[index], theirs))
    }

    fn differing_at(&self, sequence: u32, signature: Signature) -> Option<(usize, Signature)> {
        let others = (0..self.board.ranks()).filter(|&rank| rank != self.me);
        let calling = others.filter_map(|rank| Some((rank, self.board.calling(rank)?)));
        let differs = |&(_, (number, theirs)): &(usize, (u64, u64))| {
            number == u64::from(sequence) + 1 && theirs != signature.0
        };
        calling.into_iter().find(differs).map(|(rank, (_, theirs))| (rank, Signature(theirs)))
    }
}

impl Run<'_, '_> {
    /// Waits until something is to be seen on a board.
    #[inline]
    pub(super) fn wait(&mut self, wait: Wait, is_over: impl Fn(&Board) -> bool) -> Result<(), ExecError> {
        // Whoever is awaited may need this core. Some looks more than one: calls in step, which need no more, then never offer
        // it, even where an offer takes so long that it seems to be taken.
        let looks = (self.leaves.looks / if self.leaves.spin.is_shared() { SHARED } else { 1 }).max(1);
        for _ in 0..looks {
            if is_over(&self.leaves.board) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.wait_long(wait, &is_over)
    }

    #[cold]
    fn wait_long(&mut self, wait: Wait, is_over: &dyn Fn(&Board) -> bool) -> Result<(), ExecError> {
        self.leaves.wake();
        let since = Instant::now();
        self.leaves.spin.begin(since);
        loop {
            if is_over(&self.leaves.board) {
                return Ok(());
            }
            let now = Instant::now();
            let waited = now - since;
            if !self.leaves.spin.pause(now, waited) {
                continue;
            }
            if let Some(interrupt) = (self.interrupt)() {
                return Err(ExecError::Interrupted { step: self.step, wait, interrupt });
            }
            let Some(left) = self.call.patience.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Err(ExecError::Timeout {
                    step: self.step,
                    step_count: self.step + 1,
                    wait,
                    waited,
                    stall: None,
                });
            };
            // In this order: what a peer has shown before it closed is still seen.
            let peer = self.leaves.node.iter().position(|&rank| rank == wait.peer());
            let is_closed = peer.is_some_and(|peer| self.leaves.board.is_closed(peer));
            let differing = self.leaves.differing_at(self.call.sequence, self.signature);
            if is_over(&self.leaves.board) {
                return Ok(());
            }
            if let Some((rank, signature)) = differing {
                return Err(self.mismatch(rank, signature));
            }
            if is_closed {
                return Err(ExecError::Transport { step: self.step, source: closed_by(wait.peer()) });
            }
            let board = &self.leaves.board;
            board.sleep_unless(left.min(MAX_SLEEP), || is_over(board));
        }
    }

    /// A rank that is in a call of another signature.
    pub(super) fn mismatch(&self, rank: usize, peer_signature: Signature) -> ExecError {
        let calling = self.leaves.board.calling(rank);
        let number =
            calling.filter(|&(_, signature)| signature == peer_signature.0).map(|(number, _)| number);
        ExecError::Mismatch {
            step: self.step,
            peer: self.leaves.node[rank],
            sequence: self.call.sequence,
            // It may have gone on since.
            peer_sequence: number.map_or(self.call.sequence, |number| (number - 1) as u32),
            signature: self.signature,
            peer_signature,
        }
    }

    /// A rank that has shown what it cannot have come to.
    pub(super) fn corrupt(&self, rank: usize, epoch: u64) -> ExecError {
        let cause = format!(
            "shared memory is corrupt: where epoch {epoch} is awaited its board has {:?}",
            self.leaves.board.seen(rank, epoch)
        );
        ExecError::Transport {
            step: self.step,
            source: TransportError::PeerLost { peer: self.leaves.node[rank], cause },
        }
    }
}
