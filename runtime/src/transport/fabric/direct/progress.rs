//! Sending and receiving messages by writes on rails: what happens by itself.
//!
//! Notices and completions are taken in, failures told to whoever needs the peer, and what the provider refused is posted
//! again.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the Safety paragraph of the parent module says why it is sound"
)]

use std::time::Duration;

use efarun_wire::Rank;

use super::super::diagnosis::{self, Way};
use super::super::operation::{Kind, Operation};
use super::super::slot::{CELL_BYTES, STAGED_BYTES, decode};
use super::end::{Grant, ReceiveEnd, SendEnd, mailbox_bytes};
use super::notice::{self, Notice};
use super::{CONTEXT_BYTES, Engine, RETRY};
use crate::fabric::{Access, Completion, FabricError, Failure, Part, Target};
use crate::transport::{SendToken, TransportError};

impl Engine {
    /// Takes in what is over, posts what is wanted, and appends the tokens of complete sends.
    pub(crate) fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.read();
        self.post_wanted();
        completed.append(&mut self.completed);
        self.check()
    }

    /// Sleeps until something happened, or for `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) {
        if !self.completed.is_empty() || self.failure.is_some() {
            return;
        }
        let timeout = if self.wanted.is_empty() { timeout } else { timeout.min(RETRY) };
        // The queues nap instead of sleeping, so that waiting for one is waiting for all.
        if let Err(error) = self.rails[0].cq().wait(timeout, &mut self.completions, &mut self.failures) {
            self.fail(error.into());
        }
        self.take_in(0);
        self.read();
        self.post_wanted();
    }

    /// Polls every rail.
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
        let completions = std::mem::take(&mut self.completions);
        for completion in &completions {
            self.take_in_one(rail, completion);
        }
        // Keeps the room for the next time.
        self.completions = completions;
        self.completions.clear();
        for failure in std::mem::take(&mut self.failures) {
            match self.contexts.operation(failure.context) {
                Some(operation) => self.fail_operation(operation, &failure),
                None => {
                    let cause = format!("{}, on {}", failure.text, self.rails[rail].nic);
                    self.fail(TransportError::Call { call: "fi_cq_readerr", code: failure.code, cause });
                }
            }
        }
    }

    fn take_in_one(&mut self, rail: usize, completion: &Completion) {
        if let Some(bits) = completion.data {
            // Its receive is ours again, before what it tells lets the peer write more.
            if let Some(context) = self.receives[rail].place(completion.context) {
                self.post_receive(rail, context);
            }
            return self.hear(Notice::from_bits(bits));
        }
        let Some(Operation { kind, peer, slot }) = self.contexts.operation(completion.context) else {
            return log::warn!("a completion of no operation of ours: {completion:?}");
        };
        let peer = &mut self.peers[peer.index()];
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
            (Kind::SendCredit, _, Some(end)) => end.slots[slot].credit_in_flight = false,
            // The grant.
            (Kind::ReceiveCredit, ..) => {}
            _ => log::warn!("a completion of an operation that was never posted: {completion:?}"),
        }
    }

    /// A write has landed.
    fn hear(&mut self, notice: Notice) {
        let Notice { kind, from, slot, generation } = notice;
        let rails = self.rails.len();
        let Some(peer) = self.peers.get_mut(from.index()) else {
            return log::warn!("a notice of no rank of this world: {notice:?}");
        };
        if slot >= self.slots {
            return log::warn!("a notice of no slot of this world: {notice:?}");
        }
        match (kind, &mut peer.send, &mut peer.receive) {
            (notice::Kind::Grant, ..) => {
                let start = from.index() * mailbox_bytes(rails);
                // SAFETY: the peer writes its grant once, and its notice came.
                let bytes = unsafe { self.mailbox.bytes(start..start + mailbox_bytes(rails)) };
                peer.grant = Some(Grant::from_bytes(bytes, rails));
            }
            (notice::Kind::Credit, Some(end), _) => end.slots[slot].freed += 1,
            (notice::Kind::First | notice::Kind::Piece, _, Some(end)) => {
                if end.slots[slot].generation & 3 != generation {
                    let expected = end.slots[slot].generation;
                    peer.lost.get_or_insert(format!(
                        "it wrote a message of generation {generation} (modulo 4) into slot {slot}, where {expected} belongs"
                    ));
                } else if kind == notice::Kind::Piece {
                    end.slots[slot].pieces += 1;
                } else {
                    // SAFETY: the header's notice came, and the peer does not write it again before our credit.
                    let header = decode(unsafe { end.memory.bytes(end.header(slot)) })
                        .expect("a cell is a header's size");
                    if header.len_bytes as usize > self.cut.slot_bytes() {
                        let len_bytes = header.len_bytes;
                        peer.lost.get_or_insert(format!(
                            "it sent a message that is larger than a slot: {len_bytes} bytes"
                        ));
                    } else {
                        end.slots[slot].header = Some(header);
                    }
                }
            }
            _ => log::warn!("a notice for an end that was never opened: {notice:?}"),
        }
    }

    fn fail_operation(&mut self, operation: Operation, failure: &Failure) {
        let Operation { kind, peer: rank, slot } = operation;
        let rail = self.rail_of(kind, slot);
        let peer = &self.peers[rank.index()];
        let peer_nic = peer.nics.get(rail).map_or("", String::as_str);
        let way = Way { nic: &self.rails[rail].nic, peer_nic, peer_host: &peer.host };
        let cause = diagnosis::explain(failure, way, true);
        if let Kind::SendPiece(_) = kind {
            // Its token never comes: nothing that waits for this send can end well.
            self.lose(rank, cause);
        } else {
            self.peers[rank.index()].lost.get_or_insert(cause);
        }
    }

    /// What is known of why nothing moves between this rank and a peer.
    pub(crate) fn stall(&self, rank: Rank) -> Option<String> {
        let peer = self.peers.get(rank.index())?;
        let writes = |end: &SendEnd| {
            end.slots
                .iter()
                .filter_map(|slot| slot.sending.as_ref())
                .map(|message| message.left)
                .sum::<usize>()
        };
        let credits = |end: &ReceiveEnd| end.slots.iter().filter(|slot| slot.credit_in_flight).count();
        let under_way = peer.send.as_ref().map_or(0, writes) + peer.receive.as_ref().map_or(0, credits);
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
        for rail in 0..self.rails.len() {
            for context in std::mem::take(&mut self.receives[rail].refused) {
                self.post_receive(rail, context);
            }
        }
        for _ in 0..self.wanted.len() {
            let Some(operation) = self.wanted.pop_front() else { break };
            match self.post(operation) {
                Ok(true) => {}
                Ok(false) => self.wanted.push_back(operation),
                Err(error) => {
                    self.lose(operation.peer, error.to_string());
                }
            }
        }
    }

    /// The rail that an operation goes over. The first write of a message takes that of the first piece.
    fn rail_of(&self, kind: Kind, slot: usize) -> usize {
        match kind {
            Kind::SendPiece(number) => self.cut.rail(slot, number.saturating_sub(1)),
            // The mailbox is registered with the first card.
            Kind::SendCredit | Kind::ReceiveCredit | Kind::ReceivePiece(_) => 0,
        }
    }

    /// Posts a write: of a message the first (0) or a piece (from 1 on), a credit, or the grant. `Ok(false)`: the provider
    /// does not take it now.
    pub(super) fn post(&mut self, operation: Operation) -> Result<bool, FabricError> {
        let Operation { kind, peer: rank, slot } = operation;
        let context = self.contexts.context(operation);
        let (cut, me) = (self.cut, self.me);
        let index = self.rail_of(kind, slot);
        let rail = &mut self.rails[index];
        let peer = &mut self.peers[rank.index()];
        let notice = |kind, generation| Notice { kind, from: me, slot, generation }.to_bits();
        match (kind, &mut peer.send, &mut peer.receive, &peer.grant, peer.mailbox) {
            (Kind::SendPiece(number), Some(end), _, Some(grant), _) => {
                let Some(message) = &end.slots[slot].sending else { return Ok(true) };
                let len_bytes = message.payload.len_bytes();
                if number == 0 {
                    let staged = if len_bytes <= STAGED_BYTES { len_bytes } else { 0 };
                    let memory = end.memory.piece(end.stage(slot, staged));
                    let part = Part { memory, region: end.regions.get(index) };
                    let data = notice(notice::Kind::First, message.generation);
                    let target = grant.target(slot, 0, index, cut);
                    // SAFETY: stage and context live until the endpoint is closed and are not written while the message
                    // is under way; the peer gave us the slot by its grant or a credit.
                    let posted = unsafe {
                        rail.endpoint.post_write(peer.addresses[index], part, target, data, context)
                    }?;
                    self.counts.payload_bytes[index] += if posted { staged as u64 } else { 0 };
                    return Ok(posted);
                }
                let range = cut.range(len_bytes, number - 1);
                let memory = message.payload.part(&range);
                let data = notice(notice::Kind::Piece, message.generation);
                let target = grant.target(slot, CELL_BYTES + range.start, index, cut);
                // SAFETY: the payload is the promise of `try_send`'s caller until the message's token is out, and its
                // region is forgotten or dropped only then; the rest as above.
                let posted = unsafe {
                    let region = rail.payloads.cover(&rail.endpoint, memory, Access::WriteFrom)?;
                    let part = Part { memory, region: Some(region) };
                    rail.endpoint.post_write(peer.addresses[index], part, target, data, context)
                }?;
                self.counts.payload_bytes[index] += if posted { range.len() as u64 } else { 0 };
                Ok(posted)
            }
            (Kind::SendCredit, _, Some(end), _, Some(mailbox)) => {
                if end.slots[slot].credit_in_flight {
                    return Ok(false);
                }
                let part = Part { memory: self.blank.whole(), region: self.blank_regions.first() };
                let unread = (mailbox_bytes(self.receives.len()) - CELL_BYTES) as u64;
                let target = Target { address: mailbox.address + unread, key: mailbox.key };
                let (address, data) = (peer.addresses[0], notice(notice::Kind::Credit, 0));
                // SAFETY: the blank and the context live until the endpoint is closed; the blank is never written.
                let posted =
                    unsafe { self.rails[0].endpoint.post_write(address, part, target, data, context) }?;
                end.slots[slot].credit_in_flight = posted;
                Ok(posted)
            }
            (Kind::ReceiveCredit, _, _, _, Some(mailbox)) => {
                let Some((memory, region)) = &peer.granting else { return Ok(true) };
                let part =
                    Part { memory: memory.piece(0..memory.whole().len() - CELL_BYTES), region: Some(region) };
                let data = notice(notice::Kind::Grant, 0);
                // SAFETY: the grant's memory and the context live until the endpoint is closed, and are not written.
                unsafe { rail.endpoint.post_write(peer.addresses[0], part, mailbox, data, context) }
            }
            _ => {
                log::warn!("an operation of an end that was never opened: {operation:?}");
                Ok(true)
            }
        }
    }

    /// Posts so many more receives for notices on a rail, where the card takes any.
    pub(super) fn post_receives(&mut self, rail: usize, count: usize) {
        let receives = &mut self.receives[rail];
        let room = receives.contexts.whole().len() / CONTEXT_BYTES;
        let first = receives.posted;
        receives.posted = (first + count).min(room);
        for context in first..receives.posted {
            self.post_receive(rail, context);
        }
    }

    fn post_receive(&mut self, rail: usize, context: usize) {
        let receives = &mut self.receives[rail];
        let place = receives.contexts.piece(context * CONTEXT_BYTES..(context + 1) * CONTEXT_BYTES);
        let (sink, region) = (self.sink.whole(), &self.sink_regions[rail]);
        // SAFETY: sink and context live until the endpoint is closed; the context's last receive is over, and nobody looks
        // at the sink.
        match unsafe { self.rails[rail].endpoint.post_receive_for_data(sink, region, place.cast()) } {
            Ok(true) => {}
            Ok(false) => receives.refused.push(context),
            Err(error) => self.fail(error.into()),
        }
    }
}

impl super::Receives {
    /// The number of the receive whose context is at an address, if one is.
    fn place(&self, address: usize) -> Option<usize> {
        let whole = self.contexts.whole();
        let offset = address.checked_sub(whole.cast::<u8>().addr())?;
        (offset < whole.len() && offset % CONTEXT_BYTES == 0).then_some(offset / CONTEXT_BYTES)
    }
}
