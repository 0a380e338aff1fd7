//! Moving messages between ranks: one trait, and what implements it.
//!
//! A [`Transport`] carries numbered messages between this rank and its peers. Each ordered pair of ranks has a few
//! *slots* at the receiver, made when the pair is first opened; a sender needs a free slot (a credit), so the
//! receiver is always ready first and no path depends on a network's own retries. Message k of a pair uses slot
//! k mod slots in generation k / slots. Messages may arrive in any order; a receiver asks for them by number, in
//! order, and a flag or byte order on the wire is never relied upon.

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod double;
pub mod fabric;
pub mod kept;
pub mod mux;
pub mod shm;
pub mod tcp;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use efarun_wire::Rank;

/// What travels in front of every message's payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// What the sender takes this collective to be: a hash of operation, type, reduction, count and sequence.
    pub signature: u64,
    /// The collective's number in its world, for messages about a mismatch.
    pub sequence: u32,
    /// Payload bytes.
    pub len_bytes: u32,
}

/// A message in its slot.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What the sender wrote in front.
    pub header: Header,
    /// The payload; aligned to 16 bytes, or where [`Transport::expect`] said.
    pub payload: &'a [u8],
}

/// Chosen by the executor for a send, given back when the send is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SendToken(pub u64);

/// How a sleep that covers several transports covers one of them.
#[derive(Debug)]
pub enum Sleep<'t> {
    /// There is nothing to sleep for: something may have happened.
    Over,
    /// Until this is readable.
    On(BorrowedFd<'t>),
    /// Not together with others, for now.
    Alone,
}

/// What a transport can fail with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// This peer cannot be reached any more.
    #[error("the connection to rank {peer} is lost: {cause}")]
    PeerLost {
        /// The peer.
        peer: Rank,
        /// What the transport saw, as a lowercase fragment.
        cause: String,
    },
    /// No connection to this peer could be made.
    #[error("rank {peer} cannot be reached at {address}: {cause}")]
    Unreachable {
        /// The peer.
        peer: Rank,
        /// Where it listens.
        address: SocketAddr,
        /// What the transport saw, and what to do about it.
        cause: String,
    },
    /// A call of the network library failed.
    #[error("{call}: {cause}")]
    Call {
        /// The call: `fi_tsend`, `mmap`, …
        call: &'static str,
        /// The library's code, as a positive errno where it has one.
        code: i32,
        /// Its text, and what to do where that is known.
        cause: String,
    },
    /// The peer's side was set up in a way that does not fit ours.
    #[error("rank {peer} cannot be reached over the fabric: {cause}")]
    Incompatible {
        /// The peer.
        peer: Rank,
        /// What differs, theirs first, and what to do about it.
        cause: String,
    },
    /// No transport of this world reaches the peer.
    #[error("no transport reaches rank {peer}")]
    NoRoute {
        /// The peer.
        peer: Rank,
    },
    /// The transport was closed after an earlier error.
    #[error("the transport is closed after an earlier error")]
    Closed,
}

/// Carries messages between this rank and its peers. Owned by one thread at a time.
///
/// Every method returns promptly; only [`Transport::wait`] sleeps.
pub trait Transport: Send {
    /// The largest payload of one message.
    fn slot_bytes(&self) -> usize;

    /// The same for messages to or from one peer: as much or more.
    fn slot_bytes_of(&self, _peer: Rank) -> usize {
        self.slot_bytes()
    }

    /// How many messages a peer can have in flight to this rank before the first of them is released. What is said
    /// here may be less than what there is; it is never less than 2.
    fn credits(&self) -> usize {
        2
    }

    /// The length from which on it pays to cut a message in two, so that one part is passed on while the other is on
    /// its way. Below, the second message costs more than that saves.
    fn min_segment_bytes(&self) -> usize {
        4 << 10
    }

    /// As [`Transport::min_segment_bytes`], where the receiver passes nothing on, and saves only the time in which it
    /// uses one part while the other is on its way.
    fn min_exchange_bytes(&self) -> usize {
        self.min_segment_bytes()
    }

    /// The length from which on messages go a quicker way than shorter ones, which is worth more than cutting them; none
    /// where all go the same way.
    fn quick_bytes(&self) -> Option<usize> {
        None
    }

    /// Prepares to receive from and send to these peers. Opening a peer twice costs nothing. Returns without
    /// waiting for the peers: until a peer has opened its side, [`Transport::try_send`] to it says `false`.
    ///
    /// # Errors
    ///
    /// [`TransportError::NoRoute`] for a peer that is not of this transport.
    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError>;

    /// Is told of memory that payloads may lie in and that stays as long as this: what is made of it once may serve again.
    fn keep(&mut self, _memory: &Arc<kept::Kept>) {}

    /// Posts the next message to `to`. `Ok(false)`: no credit, or the queue is full; poll, then try again.
    ///
    /// # Safety
    ///
    /// The payload stays allocated and unchanged until `token` came out of [`Transport::poll`], or until
    /// [`Transport::close`] has returned.
    #[expect(unsafe_code, reason = "the payload outlives the call; the contract is above")]
    unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError>;

    /// Says what the next message from `from` is going to be, while that has not been seen: its length, and where its
    /// payload may be put as it arrives, which spares copying it out of a slot. [`Transport::arrived`] then shows the
    /// message, and the payload is there, or in a slot as without this. It holds for one message.
    ///
    /// # Safety
    ///
    /// The memory is initialised, and nobody else reads or writes it until [`Transport::arrived`] has shown a message
    /// from `from`, or until [`Transport::close`] has returned. It stays as it is until that message is released.
    #[expect(unsafe_code, reason = "the memory outlives the call; the contract is above")]
    unsafe fn expect(&mut self, _from: Rank, _len_bytes: usize, _landing: Option<*mut [u8]>) {}

    /// The length from which on it helps to be told by [`Transport::expect_later`] where messages land; none where it never does.
    fn lands_from(&self) -> Option<usize> {
        None
    }

    /// Says where the payload of a later message from `from` may be put as it arrives: of the one behind so many others that
    /// were not released yet, which is to have this length. As with [`Transport::expect`] its payload is then there, or in a
    /// slot. Of a message this is said once, and it comes before the call ends.
    ///
    /// # Safety
    ///
    /// The memory is initialised, and nobody else reads or writes it until [`Transport::arrived`] has shown that message, or until
    /// [`Transport::close`] has returned. It stays as it is until the message is released.
    #[expect(unsafe_code, reason = "the memory outlives the call; the contract is above")]
    unsafe fn expect_later(&mut self, _from: Rank, _ahead: usize, _landing: *mut [u8]) {}

    /// Makes progress and appends the tokens of sends that are complete, in any order. A send is complete at the
    /// latest when its receiver has taken the message in [`Transport::arrived`]; schedules count on that.
    fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError>;

    /// The next message from `from`, by number, if it is here. The same one until [`Transport::release`].
    fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError>;

    /// Takes in what has come from `from` where somebody else holds it, so that [`Transport::arrived`] need not. Whether something
    /// is here, or nothing is to be taken in. An error is told by `arrived`.
    fn look_ahead(&mut self, _from: Rank) -> bool {
        true
    }

    /// Gives the slot of the message that [`Transport::arrived`] shows back to its sender.
    fn release(&mut self, from: Rank) -> Result<(), TransportError>;

    /// What is known of why nothing comes from a peer and nothing goes to it, with what to do about it, as a lowercase
    /// fragment: for the error of a wait that took too long.
    fn stall(&self, _peer: Rank) -> Option<String> {
        None
    }

    /// Over what a peer is reached, for an error about it: `from rdmap16s27 to rdmap16s27 on h2`. Known after closing too.
    fn way(&self, _peer: Rank) -> Option<&str> {
        None
    }

    /// Sleeps until something may have happened, or for `timeout` at most. May return early.
    fn wait(&mut self, timeout: Duration);

    /// Begins a sleep that covers other transports too: says what it is slept on here. [`Transport::end_sleep`] follows,
    /// whatever came of it.
    fn begin_sleep(&mut self) -> Sleep<'_> {
        Sleep::Alone
    }

    /// Ends it: takes in what has happened.
    fn end_sleep(&mut self) {}

    /// Is told that all ranks have met after their last operation, so that no message is under way and none comes any
    /// more. Only `close` follows. Transports that close as well without need not listen.
    fn quiesced(&mut self) {}

    /// Ends everything in flight: when it returns, no memory that was handed over is touched any more, and every
    /// later call says [`TransportError::Closed`]. Never fails; what goes wrong is logged.
    fn close(&mut self);
}
