//! What a protocol is asked for: how messages become operations on rails, and operations messages.

use efarun_wire::Rank;

use super::address::{Address, Mailbox};
use super::inbox::Inbox;
use super::operation::Operation;
use super::slot::{Payload, SendEnd};
use super::traffic::Traffic;
use crate::fabric::{Completion, FabricError, Failure};
use crate::transport::{Message, TransportError};

/// How messages travel. It keeps the ends of all pairs of ranks; the rails are lent to it by the [engine](super::engine),
/// which posts what it puts among the wanted.
///
/// # Safety
///
/// Memory that an operation names belongs to the protocol, and lives until the endpoints were closed, or to the caller of
/// [`Engine::try_send`](super::engine::Engine::try_send), who keeps it until the message's token is out. Nothing is written
/// that an operation in flight reads, and nothing read that one writes.
#[expect(unsafe_code, reason = "who implements it answers for memory that the provider touches")]
pub(super) unsafe trait Protocol: std::fmt::Debug + Send {
    /// Where peers write first, if they do.
    fn mailbox(&self) -> Option<Mailbox> {
        None
    }

    /// Learns a peer's address.
    fn insert(&mut self, _traffic: &Traffic, _peer: Rank, _theirs: &Address) {}

    /// Makes the end that receives from a peer that can be reached, if there is none yet.
    fn open_receive(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError>;

    /// Makes the end that sends to a peer that can be reached, if there is none yet.
    fn open_send(&mut self, traffic: &mut Traffic, to: Rank) -> Result<(), TransportError>;

    /// The end that sends to a peer, if it is open.
    fn send_end(&self, to: Rank) -> Option<&SendEnd>;

    /// The same, to be changed.
    fn send_end_mut(&mut self, to: Rank) -> Option<&mut SendEnd>;

    /// The end that receives from a peer, if it is open.
    fn inbox(&self, from: Rank) -> Option<&Inbox>;

    /// How many operations send a message of this length.
    fn operations(&self, traffic: &Traffic, len_bytes: usize) -> usize;

    /// Posts an operation. `Ok(false)`: the provider does not take it now.
    fn post(&mut self, traffic: &mut Traffic, operation: Operation) -> Result<bool, FabricError>;

    /// Does what a wanted operation makes possible by being posted.
    fn posted(&mut self, _traffic: &mut Traffic, _operation: Operation) {}

    /// Takes another way for an operation that failed on a rail, where there is one: the operation is wanted again, and
    /// the rail is not used for this peer any more. Otherwise the peer is lost.
    fn reroute(
        &mut self,
        _traffic: &mut Traffic,
        _operation: Operation,
        _failure: &Failure,
        _rail: usize,
    ) -> bool {
        false
    }

    /// Why an operation that found no way over its rail does not go over another, with what to do about it, as a lowercase
    /// fragment; nothing where it would.
    fn is_bound_because(&self) -> Option<&'static str> {
        None
    }

    /// Posts what it keeps besides the wanted.
    fn post_others(&mut self, _traffic: &mut Traffic) {}

    /// Takes in what is over on a rail.
    fn complete(&mut self, traffic: &mut Traffic, rail: usize, completion: &Completion);

    /// The length from which on it helps to be told of where messages land.
    fn lands_from(&self) -> Option<usize> {
        None
    }

    /// Learns where a message belongs, so many behind the next one of a peer. The memory is as
    /// [`Transport::expect_later`](crate::transport::Transport::expect_later) says.
    fn expect_later(&mut self, _from: Rank, _ahead: usize, _landing: Payload) {}

    /// Lets go of the memory that peers may write to besides our own: the endpoints are about to close.
    fn withdraw_places(&mut self) {}

    /// The next message from a peer, if all of it is here.
    fn arrived(&self, traffic: &Traffic, from: Rank) -> Result<Option<Message<'_>>, TransportError>;

    /// Makes the slot of the current message free for its sender.
    fn release(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError>;

    /// Whether endpoints close while messages are under way to them and from them.
    fn closes_in_use(&self) -> bool {
        true
    }

    /// Whether no message is under way, as far as is known here.
    fn is_quiet(&self) -> bool {
        true
    }
}

/// No message of a peer is here, though somebody thought so.
pub(super) fn nothing_to_release(from: Rank) -> TransportError {
    TransportError::Call {
        call: "release",
        code: libc::EINVAL,
        cause: format!("no message of rank {from} is here"),
    }
}
