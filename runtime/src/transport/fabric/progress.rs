//! Sending and receiving messages by tagged operations on rails: what happens by itself.
//!
//! Completions are taken in, failures told to whoever needs the peer, and what the provider refused is posted again.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the Safety paragraph of `engine` says why it is sound"
)]

use std::time::Duration;

use efarun_wire::Rank;

use super::diagnosis::{self, Way};
use super::engine::Engine;
use super::operation::{Kind, Operation};
use super::slot::{CELL_BYTES, ReceiveEnd, STAGED_BYTES, SendEnd, decode};
use super::tag::{Class, tag};
use crate::fabric::{Access, FabricError, Failure, Part};
use crate::transport::{SendToken, TransportError};

impl Engine {
    /// Takes in what is over, posts what is wanted, and appends the tokens of complete sends.
    pub(super) fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.refused = false;
        self.read();
        self.post_wanted();
        completed.append(&mut self.completed);
        self.check()
    }

    /// Sleeps until an operation is over, or for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if !self.completed.is_empty() || self.failure.is_some() {
            return;
        }
        let mut timeout = timeout;
        if self.refused || !self.wanted.is_empty() {
            timeout = timeout.min(self.retry);
            self.retry = (self.retry * 2).min(LAST_RETRY);
        }
        // Queues of several rails nap instead of sleeping, so that waiting for one is waiting for all.
        if let Err(error) = self.rails[0].cq().wait(timeout, &mut self.completions, &mut self.failures) {
            self.fail(error.into());
        }
        self.take_in(0);
        self.read();
        self.post_wanted();
    }

    /// Polls every rail: what one waits for may take another's progress.
    fn read(&mut self) {
        for rail in 0..self.rails.len() {
            if let Err(error) = self.rails[rail].read(&mut self.completions, &mut self.failures) {
                let error = self.rails[rail].broken(error);
                self.fail(error);
            }
            self.take_in(rail);
        }
    }

    /// Takes in completions and failures that were read from a rail.
    fn take_in(&mut self, rail: usize) {
        if !self.completions.is_empty() {
            self.retry = FIRST_RETRY;
        }
        let completions = std::mem::take(&mut self.completions);
        for completion in &completions {
            match self.contexts.operation(completion.context) {
                Some(operation) => self.complete(operation, completion.len_bytes),
                None => log::warn!("a completion of no operation of ours: {completion:?}"),
            }
        }
        // Keeps the room for the next time.
        self.completions = completions;
        self.completions.clear();
        for failure in std::mem::take(&mut self.failures) {
            match self.contexts.operation(failure.context) {
                Some(operation) => self.fail_operation(operation, &failure),
                None => self.fail(TransportError::Call {
                    call: "fi_cq_readerr",
                    code: failure.code,
                    cause: format!("{}, on {}", failure.text, self.rails[rail].nic),
                }),
            }
        }
    }

    fn complete(&mut self, operation: Operation, len_bytes: usize) {
        let Operation { kind, peer: rank, slot } = operation;
        let cut = self.cut;
        let peer = &mut self.peers[rank.index()];
        match (kind, &mut peer.send, &mut peer.receive) {
            (Kind::SendPiece(_), Some(end), _) => {
                let sending = &mut end.slots[slot].sending;
                if let Some(message) = sending {
                    message.left -= 1;
                    if message.left == 0 {
                        self.completed.extend(sending.take().map(|message| message.token));
                    }
                }
            }
            (Kind::ReceiveCredit, Some(end), _) => {
                end.slots[slot].granted += 1;
                self.wanted.push_back(operation);
            }
            (Kind::ReceivePiece(piece), _, Some(end)) => {
                let state = &mut end.slots[slot];
                state.uses[piece] += 1;
                state.here[piece] = Some(len_bytes);
                if state.here[0].is_none_or(|len| len < CELL_BYTES) {
                    if piece == 0 {
                        peer.lost = Some(format!("it sent a message of {len_bytes} bytes that is none"));
                    }
                    return;
                }
                // SAFETY: the receive of the first piece is over and the next is not posted yet.
                let header =
                    decode(unsafe { end.memory.bytes(end.header(slot)) }).expect("a cell is a header's size");
                match end.slots[slot].whole(header, cut) {
                    Ok(arrived) => end.slots[slot].arrived = arrived,
                    Err(cause) => peer.lost = Some(cause),
                }
            }
            (Kind::SendCredit, _, Some(end)) => end.slots[slot].credit_in_flight = false,
            _ => log::warn!("a completion of an operation that was never posted: {operation:?}"),
        }
    }

    fn fail_operation(&mut self, operation: Operation, failure: &Failure) {
        let Operation { kind, peer: rank, slot } = operation;
        let piece = match kind {
            Kind::SendPiece(piece) | Kind::ReceivePiece(piece) => piece,
            Kind::ReceiveCredit | Kind::SendCredit => 0,
        };
        let rail = self.cut.rail(slot, piece);
        let peer = &self.peers[rank.index()];
        let cause = match kind {
            Kind::ReceivePiece(_) | Kind::ReceiveCredit if failure.code == TRUNCATED => {
                format!("it sent a message that is larger than a slot: {}", failure.text)
            }
            _ => {
                let peer_nic = peer.nics.get(rail).map_or("", String::as_str);
                let way = Way { nic: &self.rails[rail].nic, peer_nic, peer_host: &peer.host };
                diagnosis::explain(failure, way, self.is_efa)
            }
        };
        if let Kind::SendPiece(_) = kind {
            // Its token never comes: nothing that waits for this send can end well.
            self.lose(rank, cause);
        } else {
            self.peers[rank.index()].lost.get_or_insert(cause);
        }
    }

    /// What is known of why nothing moves between this rank and a peer.
    pub(super) fn stall(&self, rank: Rank) -> Option<String> {
        let peer = self.peers.get(rank.index()).filter(|_| self.is_efa)?;
        let pieces = |end: &SendEnd| {
            end.slots
                .iter()
                .filter_map(|slot| slot.sending.as_ref())
                .map(|message| message.left)
                .sum::<usize>()
        };
        let credits = |end: &ReceiveEnd| end.slots.iter().filter(|slot| slot.credit_in_flight).count();
        let under_way = peer.send.as_ref().map_or(0, pieces) + peer.receive.as_ref().map_or(0, credits);
        let way = Way { nic: &self.rails[0].nic, peer_nic: peer.nics.first()?, peer_host: &peer.host };
        (under_way > 0).then(|| diagnosis::explain_stall(under_way, way))
    }

    /// A send to this peer never ends: an error for whoever waits for any.
    pub(super) fn lose(&mut self, rank: Rank, cause: String) -> TransportError {
        let error = TransportError::PeerLost { peer: rank, cause: cause.clone() };
        self.peers[rank.index()].lost.get_or_insert(cause);
        self.fail(error.clone());
        error
    }

    fn fail(&mut self, error: TransportError) {
        self.failure.get_or_insert(error);
    }

    /// Posts what waits for room, each once; what is refused waits on, in order.
    pub(super) fn post_wanted(&mut self) {
        for _ in 0..self.wanted.len() {
            let Some(operation) = self.wanted.pop_front() else { break };
            match self.post(operation) {
                Ok(true) => self.posted(operation),
                // What is never taken any more is not wanted either: `lost` says so to whoever needs the peer.
                Ok(false) if self.is_lost_after(operation) => {}
                Ok(false) => self.wanted.push_back(operation),
                Err(error) => {
                    let peer = operation.peer;
                    if let Kind::SendPiece(_) = operation.kind {
                        self.lose(peer, error.to_string());
                    }
                    self.peers[peer.index()].lost.get_or_insert(error.to_string());
                }
            }
        }
    }

    fn posted(&mut self, operation: Operation) {
        let peer = &mut self.peers[operation.peer.index()];
        match (operation.kind, &mut peer.receive) {
            (Kind::ReceivePiece(_), Some(end)) => {
                let state = &mut end.slots[operation.slot];
                state.unposted -= 1;
                if state.unposted == 0 {
                    // Only now that the slot can take a whole message may the peer send one.
                    self.wanted.push_back(Operation { kind: Kind::SendCredit, ..operation });
                }
            }
            _ => peer.refused_since = None,
        }
    }

    /// Posts an operation. `Ok(false)`: the provider does not take it now.
    pub(super) fn post(&mut self, operation: Operation) -> Result<bool, FabricError> {
        let Operation { kind, peer: rank, slot } = operation;
        let context = self.contexts.context(operation);
        let cut = self.cut;
        let peer = &mut self.peers[rank.index()];
        match (kind, &mut peer.send, &mut peer.receive) {
            (Kind::SendPiece(piece), Some(end), _) => {
                let index = cut.rail(slot, piece);
                let rail = &mut self.rails[index];
                let len_bytes = match &end.slots[slot].sending {
                    Some(message) => message.payload.len_bytes(),
                    None => return Ok(true),
                };
                let range = cut.range(len_bytes, piece);
                let is_staged = len_bytes <= STAGED_BYTES;
                let stage = end.stage(slot, if is_staged { len_bytes } else { 0 });
                let header = Part { memory: end.memory.piece(stage), region: end.regions.get(index) };
                let state = &mut end.slots[slot];
                let payload = state.sending.as_ref().expect("seen above").payload.part(&range);
                let region = match (is_staged, self.wants_regions) {
                    (false, true) => {
                        // SAFETY: the caller's memory stays until the message's token is out or the endpoint closed,
                        // and regions are forgotten or dropped only then.
                        Some(unsafe { rail.payloads.cover(&rail.endpoint, payload, Access::Messages) }?)
                    }
                    _ => None,
                };
                let both = [header, Part { memory: payload, region }];
                let parts = match (piece, is_staged) {
                    (0, true) => &both[..1],
                    (0, false) => &both[..],
                    _ => &both[1..],
                };
                let tag = tag(Class::Piece(piece), self.me, slot, state.uses[piece]);
                // SAFETY: cell and context live until the endpoint is closed and are not written while the send is in
                // flight; the payload is the promise of `try_send`'s caller until the message's token is out.
                let posted = unsafe { rail.endpoint.post_send(peer.addresses[index], tag, parts, context) }?;
                if posted {
                    state.uses[piece] += 1;
                    self.counts.payload_bytes[index] += range.len() as u64;
                }
                Ok(posted)
            }
            (Kind::ReceiveCredit, Some(end), _) => {
                let index = cut.rail(slot, 0);
                let tag = tag(Class::Credit, rank, slot, end.slots[slot].granted);
                let cell = end.memory.piece(end.credit_cell(slot));
                let region = end.regions.get(index);
                // SAFETY: cell and context live until the endpoint is closed, and are not touched meanwhile.
                unsafe { self.rails[index].endpoint.post_receive(tag, cell, region, context) }
            }
            (Kind::ReceivePiece(piece), _, Some(end)) => {
                let index = cut.rail(slot, piece);
                let tag = tag(Class::Piece(piece), rank, slot, end.slots[slot].uses[piece]);
                let memory = end.memory.piece(end.piece(slot, piece));
                let region = end.regions.get(index);
                // SAFETY: slot and context live until the endpoint is closed; the piece is not `here`, so that no
                // message that has it is read.
                unsafe { self.rails[index].endpoint.post_receive(tag, memory, region, context) }
            }
            (Kind::SendCredit, _, Some(end)) => {
                if end.slots[slot].credit_in_flight {
                    return Ok(false);
                }
                let index = cut.rail(slot, 0);
                let tag = tag(Class::Credit, self.me, slot, end.slots[slot].generation);
                let cell = end.memory.piece(end.credit_cell(slot));
                let part = Part { memory: cell, region: end.regions.get(index) };
                // SAFETY: cell and context live until the endpoint is closed; the cell is never written.
                let posted = unsafe {
                    self.rails[index].endpoint.post_send(peer.addresses[index], tag, &[part], context)
                }?;
                end.slots[slot].credit_in_flight = posted;
                Ok(posted)
            }
            _ => {
                log::warn!("an operation of an end that was never opened: {operation:?}");
                Ok(true)
            }
        }
    }

    /// Whether a refused operation was the last to be tried on its peer.
    fn is_lost_after(&mut self, operation: Operation) -> bool {
        let Some(patience) = self.patience else { return false };
        let peer = &mut self.peers[operation.peer.index()];
        // Before a message came from it, the peer need not have looked at our connection yet.
        let was_connected = peer.receive.as_ref().is_some_and(|end| end.next > 0);
        operation.kind == Kind::SendCredit && was_connected && peer.still_refused(patience).is_some()
    }
}

/// Credits carry nothing: their tag says it all.
const _: () = assert!(CELL_BYTES > 0, "but a cell is sent, since not every provider likes empty messages");
/// How long to sleep when the provider refused an operation, which it need not wake us for: at first,
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(1);
/// and in the end.
const LAST_RETRY: Duration = Duration::from_millis(50);
/// `FI_ETRUNC`.
const TRUNCATED: i32 = libfabric_sys::FI_ETRUNC;
