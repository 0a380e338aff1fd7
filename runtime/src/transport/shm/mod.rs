//! Shared memory between the ranks of one node.
//!
//! The lowest local rank makes one [`Arena`] for its node and World and sends an [`Offer`] to the others, which open
//! it through `/proc`. The arena has a ring of slots for every ordered pair of local ranks. It is a sparse file:
//! memory is taken for a ring when its receiver opens it, and for nothing else, so a pair that never talks costs
//! nothing. A send copies its payload into a slot and is complete at once; the receiver reads it there. Beside the rings
//! each rank has a [`board`], on which it shows the others what takes no message.
//!
//! # Memory order
//! For message k (0, 1, 2, …) of a ring, in slot k mod slots:
//! 1. Every shared word has one writer: the sender writes slot headers and payloads; the receiver writes `released`
//!    and `opened`; `closed` belongs to the rank it speaks of. Bells alone are changed by many, by atomic
//!    read-modify-write only.
//! 2. The sender touches a ring only after it saw `opened` by an acquire load; the receiver stores it by release
//!    after the ring's memory was reserved.
//! 3. The sender writes payload and header, then stores `number = k + 1` by release. The receiver loads `number` by
//!    acquire and reads header and payload only when it is k + 1. So it sees all of message k.
//! 4. The receiver reads nothing of message k any more when it stores `released = k + 1` by release. The sender loads
//!    `released` by acquire and writes message k + slots only when it is k + 1 or more. So no slot is written while
//!    it is read.
//! 5. Whoever stored something that another rank may sleep for adds 2 to that rank's bell; the low bit says that its
//!    owner sleeps, and the one that finds it set wakes it. The owner sets the bit and learns the count in one
//!    operation. Operations on one word have one order: either the owner sees the new count and does not sleep, or
//!    the ringer sees the bit and wakes. No wake-up is lost, whatever the owner looked at before. An owner that sleeps on
//!    other things too sets another bit, and is woken by a pipe.
//!
//! # What a peer can do wrong
//! A peer runs as the same user and may write anything into the arena at any time. Lengths, numbers and counters are
//! read once, checked against what this rank knows by itself, and only then used: a corrupt one is an error that
//! names the peer. The file is sealed against shrinking, so no access can fault. A payload that a peer changes while
//! it is read gives wrong data, as a wrong payload would; it is never a length, an index or an address.
//!
//! # What it cannot do
//! It does not see that a peer died: that comes from the bootstrap. A peer that closed is seen.

mod arena;
mod bell;
pub(crate) mod board;
mod cord;
mod mapping;
mod post;
pub(crate) mod region;
mod ring;
mod sync;
#[cfg(test)]
mod tests;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use efarun_wire::Rank;

pub use self::arena::{Arena, Geometry};
use self::cord::{Cord, Pull};
pub use self::mapping::Offer;
pub(crate) use self::post::{Calling, Seen};
use self::ring::{ReceiveEnd, SendEnd};
use super::{Header, Message, SendToken, Sleep, Transport, TransportError};

/// The transport of one rank over its node's [`Arena`].
#[derive(Debug)]
pub struct ShmTransport {
    arena: Arc<Arena>,
    /// This rank's place in `ranks`.
    me: usize,
    /// The node's ranks, ascending.
    ranks: Vec<Rank>,
    sends: Vec<Option<SendEnd>>,
    receives: Vec<Option<ReceiveEnd>>,
    completed: Vec<SendToken>,
    /// What this rank's bell had counted when it last returned from waiting.
    heard: u32,
    spins: u32,
    /// Made when this rank first sleeps on something else too.
    cord: Option<Cord>,
    /// By local rank.
    pulls: Vec<Pull>,
    closed: bool,
}

impl ShmTransport {
    /// Makes rank `me`'s transport over its node's arena. `ranks` are the node's ranks, ascending, the same on all
    /// of them.
    ///
    /// # Panics
    ///
    /// When `me` is not one of `ranks`, or the arena was made for another number of ranks.
    pub fn new(arena: Arc<Arena>, me: Rank, ranks: Vec<Rank>) -> Self {
        let index = ranks.binary_search(&me).expect("a rank is one of its node's ranks");
        assert_eq!(ranks.len(), arena.geometry().ranks as usize, "one place in the arena per rank");
        // With more ranks than cores, whoever spins keeps the rank it waits for from running.
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let spins = if ranks.len() > cores { 0 } else { MAX_SPINS };
        ShmTransport {
            heard: arena.bell(index).count(),
            sends: ranks.iter().map(|_| None).collect(),
            receives: ranks.iter().map(|_| None).collect(),
            completed: Vec::with_capacity(MAX_COMPLETED),
            cord: None,
            pulls: ranks.iter().map(|_| Pull::default()).collect(),
            me: index,
            arena,
            ranks,
            spins,
            closed: false,
        }
    }

    fn index_of(&self, peer: Rank) -> Result<usize, TransportError> {
        match self.ranks.binary_search(&peer) {
            Ok(index) if index != self.me => Ok(index),
            _ => Err(TransportError::NoRoute { peer }),
        }
    }

    /// Tells a rank that something happened.
    fn ring(&mut self, local_rank: usize) {
        if self.arena.bell(local_rank).ring() {
            self.pulls[local_rank].pull(&self.arena, local_rank);
        }
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.closed { Err(TransportError::Closed) } else { Ok(()) }
    }
}

impl Transport for ShmTransport {
    fn slot_bytes(&self) -> usize {
        self.arena.geometry().slot_bytes as usize
    }

    fn credits(&self) -> usize {
        self.arena.geometry().slots as usize
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError> {
        self.check_open()?;
        for &peer in receives_from {
            let index = self.index_of(peer)?;
            if self.receives[index].is_none() {
                self.receives[index] = Some(ReceiveEnd::open(&self.arena, peer, index, self.me)?);
                self.ring(index);
            }
        }
        for &peer in sends_to {
            let index = self.index_of(peer)?;
            if self.sends[index].is_none() {
                self.sends[index] = Some(SendEnd::new(peer, self.me, index));
            }
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "the trait's contract")]
    unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError> {
        self.check_open()?;
        let index = self.index_of(to)?;
        let end = self.sends[index].as_mut().ok_or(TransportError::NoRoute { peer: to })?;
        if self.arena.is_closed(index) {
            return Err(closed_by(to));
        }
        if self.completed.len() == MAX_COMPLETED {
            return Ok(false);
        }
        // SAFETY: the caller promises that the payload is readable and unchanged until the send is complete, which
        // is after this call.
        let payload = unsafe { &*payload };
        let sent = end.try_send(&self.arena, header, payload)?;
        if sent {
            self.ring(index);
            self.completed.push(token);
        }
        Ok(sent)
    }

    fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.check_open()?;
        completed.append(&mut self.completed);
        Ok(())
    }

    fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        self.check_open()?;
        let index = self.index_of(from)?;
        let end = self.receives[index].as_ref().ok_or(TransportError::NoRoute { peer: from })?;
        // In this order: what a peer sent before it closed is still delivered.
        let closed = self.arena.is_closed(index);
        match end.arrived(&self.arena)? {
            None if closed => Err(closed_by(from)),
            message => Ok(message),
        }
    }

    fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        self.check_open()?;
        let index = self.index_of(from)?;
        let end = self.receives[index].as_mut().ok_or(TransportError::NoRoute { peer: from })?;
        end.release(&self.arena);
        self.ring(index);
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) {
        if self.closed || !self.completed.is_empty() {
            return;
        }
        self.heard = self.arena.bell(self.me).wait_beyond(self.heard, self.spins, timeout);
    }

    fn begin_sleep(&mut self) -> Sleep<'_> {
        if self.closed || !self.completed.is_empty() {
            return Sleep::Over;
        }
        if self.cord.is_none() {
            match Cord::new() {
                Ok(cord) => {
                    cord.show(&self.arena, self.me);
                    self.cord = Some(cord);
                }
                Err(errno) => {
                    log::debug!("no pipe to sleep on: {}", errno.desc());
                    return Sleep::Alone;
                }
            }
        }
        let count = self.arena.bell(self.me).take_cord();
        match &self.cord {
            Some(cord) if count == self.heard => Sleep::On(cord.as_fd()),
            _ => Sleep::Over,
        }
    }

    fn end_sleep(&mut self) {
        self.heard = self.arena.bell(self.me).let_cord_go();
        if let Some(cord) = &mut self.cord {
            cord.slacken();
        }
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.arena.mark_closed(self.me);
        let me = self.me;
        for index in (0..self.ranks.len()).filter(|&index| index != me) {
            self.ring(index);
        }
    }
}

impl Drop for ShmTransport {
    fn drop(&mut self) {
        self.close();
    }
}

pub(crate) fn closed_by(peer: Rank) -> TransportError {
    TransportError::PeerLost { peer, cause: "it closed its World".to_owned() }
}

/// How many sends may be complete and not polled for. A bound, so that no call needs memory however its ranks happen to
/// run; the same as a caller who polls seldom has to expect of a queue that is full.
const MAX_COMPLETED: usize = 64;
/// Looks at the bell before sleeping: about 10 µs, the cost of going to sleep and being woken.
const MAX_SPINS: u32 = 500;
