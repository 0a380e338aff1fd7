//! Messages by tagged operations: sends whose receives are posted for exactly their tags.
//!
//! The memory of the end that receives is in [`end`], the names of operations in [`mod@tag`].
//!
//! # Rails that fail
//!
//! A rail that fails takes the peer with it. Of a message that was reported as failed some packets may have come, or may
//! come yet: the receive that they are for is matched then, `fi_cancel` passes it over and says success all the same
//! (libfabric's prov/util/src/util_srx.c looks among unmatched receives only), and the provider copies late packets into
//! its memory until the endpoint is closed. So the message cannot be sent
//! into that memory over another rail, and which of the peer's receives are in this state neither end can ask.
//!
//! # Safety
//!
//! Slots and cells belong to [`Tagged`], as [`Protocol`] asks. Of a slot, nothing is read or written here while a receive
//! for its pieces is posted, but for those that no message here has: `arrived` is set by the completions of all pieces of
//! a message and taken back before the next receives are posted. Of a stage that is sent, nothing is written while
//! `sending` says that the send is not complete; cells of credits are never written here.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

mod end;
mod tag;

use efarun_wire::Rank;

use self::end::ReceiveEnd;
use self::tag::{Class, tag};
use super::FabricConfig;
use super::credit::Blocks;
use super::inbox::Inbox;
use super::operation::{Contexts, Kind, Operation};
use super::protocol::{Protocol, nothing_to_release};
use super::slot::{CELL_BYTES, Cut, STAGED_BYTES, SendEnd, decode};
use super::traffic::Traffic;
use crate::fabric::{Access, Completion, FabricError, Info, Memory, MemoryRegion, Part};
use crate::transport::{Message, TransportError};

/// The ends of all pairs.
#[derive(Debug)]
pub(super) struct Tagged {
    pairs: Vec<Pair>,
    /// The provider wants what it sends and receives into registered.
    wants_regions: bool,
    /// An endpoint may be closed while messages are under way.
    closes_in_use: bool,
}

/// What this rank has to do with another.
#[derive(Debug, Default)]
struct Pair {
    send: Option<SendEnd>,
    /// How often each piece of each slot was sent.
    uses: Vec<Vec<u64>>,
    receive: Option<ReceiveEnd>,
}

impl Tagged {
    /// Opens a rail per info.
    pub(super) fn open(
        infos: &[Info],
        config: &FabricConfig,
        cut: Cut,
    ) -> Result<(Traffic, Self), FabricError> {
        let contexts = Contexts::new(config.world_size, config.slots, cut.pieces);
        let traffic =
            Traffic::open(infos, config, cut, 2 * operations_of_end(Blocks::of(config.slots)), contexts)?;
        let closes_in_use = !traffic.is_efa || infos[0].library().version().number() >= CLOSES_IN_USE;
        let protocol = Tagged {
            pairs: (0..config.world_size).map(|_| Pair::default()).collect(),
            wants_regions: infos.iter().any(Info::wants_local_registration),
            closes_in_use,
        };
        Ok((traffic, protocol))
    }

    /// Regions of an end's memory, one per rail, where the provider wants any.
    fn register(&self, traffic: &Traffic, memory: &Memory) -> Result<Vec<MemoryRegion>, FabricError> {
        if !self.wants_regions {
            return Ok(Vec::new());
        }
        // SAFETY: ends drop their regions before their memory, and are dropped after the endpoints were closed.
        unsafe { traffic.register(memory, Access::Messages) }
    }
}

// SAFETY: see the module.
unsafe impl Protocol for Tagged {
    fn open_receive(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError> {
        if self.pairs[from.index()].receive.is_some() {
            return Ok(());
        }
        traffic.reserve(operations_of_end(traffic.blocks))?;
        let mut end = ReceiveEnd::new(traffic.blocks, traffic.cut);
        end.inbox.regions = self.register(traffic, &end.inbox.memory)?;
        self.pairs[from.index()].receive = Some(end);
        for slot in 0..traffic.blocks.slots() {
            let receive = |piece| Operation { kind: Kind::ReceivePiece(piece), peer: from, slot };
            traffic.wanted.extend((0..traffic.cut.pieces).map(receive));
        }
        Ok(())
    }

    fn open_send(&mut self, traffic: &mut Traffic, to: Rank) -> Result<(), TransportError> {
        if self.pairs[to.index()].send.is_some() {
            return Ok(());
        }
        traffic.reserve(operations_of_end(traffic.blocks))?;
        let mut end = SendEnd::new(traffic.blocks);
        end.regions = self.register(traffic, &end.memory)?;
        let pair = &mut self.pairs[to.index()];
        pair.send = Some(end);
        pair.uses = vec![vec![0; traffic.cut.pieces]; traffic.blocks.slots()];
        let receive = |block| Operation { kind: Kind::ReceiveCredit, peer: to, slot: block };
        traffic.wanted.extend((0..traffic.blocks.count()).map(receive));
        Ok(())
    }

    fn send_end(&self, to: Rank) -> Option<&SendEnd> {
        self.pairs.get(to.index())?.send.as_ref()
    }

    fn send_end_mut(&mut self, to: Rank) -> Option<&mut SendEnd> {
        self.pairs.get_mut(to.index())?.send.as_mut()
    }

    fn inbox(&self, from: Rank) -> Option<&Inbox> {
        self.pairs.get(from.index())?.receive.as_ref().map(|end| &end.inbox)
    }

    /// One for each piece.
    fn operations(&self, traffic: &Traffic, len_bytes: usize) -> usize {
        traffic.cut.count(len_bytes)
    }

    fn post(&mut self, traffic: &mut Traffic, operation: Operation) -> Result<bool, FabricError> {
        let Operation { kind, peer, slot } = operation;
        let context = traffic.contexts.context(operation);
        let cut = traffic.cut;
        let index = match kind {
            Kind::SendPiece(piece) | Kind::ReceivePiece(piece) => cut.rail(slot, piece),
            Kind::ReceiveCredit | Kind::SendCredit => cut.rail(slot, 0),
        };
        let rail = &mut traffic.rails[index];
        let pair = &mut self.pairs[peer.index()];
        match (kind, &mut pair.send, &mut pair.receive) {
            (Kind::SendPiece(piece), Some(end), _) => {
                let Some(message) = &end.sending[slot] else { return Ok(true) };
                let len_bytes = message.payload.len_bytes();
                let range = cut.range(len_bytes, piece);
                let is_staged = len_bytes <= STAGED_BYTES;
                let stage = end.stage(slot, if is_staged { len_bytes } else { 0 });
                let header = Part { memory: end.memory.piece(stage), region: end.regions.get(index) };
                let payload = message.payload.part(&range);
                let shared = if is_staged || !self.wants_regions {
                    None
                } else {
                    // SAFETY: the caller's memory stays until the message's token is out or the endpoint closed, until
                    // when the message shares the region.
                    match unsafe { rail.cover(payload, Access::Messages) }? {
                        Some(region) => Some(region),
                        None => return Ok(false),
                    }
                };
                let both = [header, Part { memory: payload, region: shared.as_deref() }];
                let parts = match (piece, is_staged) {
                    (0, true) => &both[..1],
                    (0, false) => &both[..],
                    _ => &both[1..],
                };
                let uses = &mut pair.uses[slot][piece];
                let tag = tag(Class::Piece(piece), traffic.me, slot, *uses);
                let address = traffic.contacts[peer.index()].addresses[index];
                // SAFETY: cell and context live until the endpoint is closed and are not written while the send is in
                // flight; the payload is the promise of `try_send`'s caller until the message's token is out.
                let posted = unsafe { rail.endpoint.post_send(address, tag, parts, context) }?;
                if posted {
                    *uses += 1;
                    traffic.counts.payload_bytes[index] += range.len() as u64;
                    end.share(slot, shared);
                }
                Ok(posted)
            }
            (Kind::ReceiveCredit, Some(end), _) => {
                let tag = tag(Class::Credit, peer, slot, end.granted.generations(slot));
                let cell = end.memory.piece(end.credit_cell(slot));
                // SAFETY: cell and context live until the endpoint is closed, and are not touched meanwhile.
                unsafe { rail.endpoint.post_receive(tag, cell, end.regions.get(index), context) }
            }
            (Kind::ReceivePiece(piece), _, Some(end)) => {
                let tag = tag(Class::Piece(piece), peer, slot, end.slots[slot].uses[piece]);
                let memory = end.inbox.memory.piece(end.piece(slot, piece));
                // SAFETY: slot and context live until the endpoint is closed; the piece is not `here`, so that no
                // message that has it is read.
                unsafe { rail.endpoint.post_receive(tag, memory, end.inbox.regions.get(index), context) }
            }
            (Kind::SendCredit, _, Some(end)) => {
                if end.inbox.is_credit_under_way(slot) {
                    return Ok(false);
                }
                let tag = tag(Class::Credit, traffic.me, slot, end.inbox.generation_of_block(slot));
                let memory = end.inbox.memory.piece(end.credit_cell(slot));
                let cell = Part { memory, region: end.inbox.regions.get(index) };
                let address = traffic.contacts[peer.index()].addresses[index];
                // SAFETY: cell and context live until the endpoint is closed, and are not written meanwhile.
                let posted = unsafe { rail.endpoint.post_send(address, tag, &[cell], context) }?;
                end.inbox.set_credit_under_way(slot, posted);
                Ok(posted)
            }
            _ => {
                log::warn!("an operation of an end that was never opened: {operation:?}");
                Ok(true)
            }
        }
    }

    /// Only when a slot can take a whole message may the peer send one.
    fn posted(&mut self, traffic: &mut Traffic, operation: Operation) {
        let receive = &mut self.pairs[operation.peer.index()].receive;
        if let (Kind::ReceivePiece(_), Some(end)) = (operation.kind, receive) {
            let state = &mut end.slots[operation.slot];
            state.unposted -= 1;
            let due = if state.unposted == 0 { end.inbox.ready(operation.slot) } else { None };
            let credit = |block| Operation { kind: Kind::SendCredit, slot: block, ..operation };
            traffic.wanted.extend(due.map(credit));
        }
    }

    fn complete(&mut self, traffic: &mut Traffic, _rail: usize, completion: &Completion) {
        let Some(operation) = traffic.contexts.operation(completion.context) else {
            return log::warn!("a completion of no operation of ours: {completion:?}");
        };
        let Operation { kind, peer, slot } = operation;
        let pair = &mut self.pairs[peer.index()];
        match (kind, &mut pair.send, &mut pair.receive) {
            (Kind::SendPiece(_), Some(end), _) => traffic.completed.extend(end.sent(slot)),
            (Kind::ReceiveCredit, Some(end), _) => {
                end.granted.grant(slot);
                traffic.wanted.push_back(operation);
            }
            (Kind::ReceivePiece(piece), _, Some(end)) => {
                let len_bytes = completion.len_bytes;
                let state = &mut end.slots[slot];
                state.uses[piece] += 1;
                state.here[piece] = Some(len_bytes);
                if state.here[0].is_none_or(|len| len < CELL_BYTES) {
                    if piece == 0 {
                        traffic.lose(peer, format!("it sent a message of {len_bytes} bytes that is none"));
                    }
                    return;
                }
                // SAFETY: the receive of the first piece is over and the next is not posted yet.
                let header = decode(unsafe { end.inbox.memory.bytes(end.inbox.header(slot)) })
                    .expect("a cell is a header's size");
                match end.slots[slot].whole(header, traffic.cut) {
                    Ok(arrived) => end.slots[slot].arrived = arrived,
                    Err(cause) => traffic.lose(peer, cause),
                }
            }
            (Kind::SendCredit, _, Some(end)) => end.inbox.set_credit_under_way(slot, false),
            _ => log::warn!("a completion of an operation that was never posted: {operation:?}"),
        }
    }

    fn arrived(&self, _traffic: &Traffic, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let receive = self.pairs.get(from.index()).and_then(|pair| pair.receive.as_ref());
        let end = receive.ok_or(TransportError::NoRoute { peer: from })?;
        // SAFETY: all pieces of the message are here, so their receives are over, and the next are posted by `release`
        // only.
        Ok(end.slots[end.inbox.current()].arrived.map(|header| unsafe { end.inbox.message(header) }))
    }

    fn release(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError> {
        let receive = self.pairs.get_mut(from.index()).and_then(|pair| pair.receive.as_mut());
        let end = receive.ok_or(TransportError::NoRoute { peer: from })?;
        let slot = &mut end.slots[end.inbox.current()];
        let header = slot.arrived.take().ok_or_else(|| nothing_to_release(from))?;
        let pieces = traffic.cut.count(header.len_bytes as usize);
        slot.here[..pieces].fill(None);
        slot.unposted = pieces;
        let slot = end.inbox.pass();
        let receive = |piece| Operation { kind: Kind::ReceivePiece(piece), peer: from, slot };
        traffic.wanted.extend((0..pieces).map(receive));
        Ok(())
    }

    fn is_bound_because(&self) -> Option<&'static str> {
        Some(
            "its other cards may still work, but on this fabric a message is bound to the card that it was given to: \
             start the job again, which leaves out cards whose port is down, or name those to use in FI_EFA_IFACE",
        )
    }

    fn closes_in_use(&self) -> bool {
        self.closes_in_use
    }

    fn is_quiet(&self) -> bool {
        let is_receiving =
            |end: &ReceiveEnd| end.slots.iter().any(|slot| slot.here.iter().any(Option::is_some));
        self.pairs.iter().all(|pair| {
            !pair.send.as_ref().is_some_and(SendEnd::is_sending)
                && !pair.receive.as_ref().is_some_and(is_receiving)
        })
    }
}

/// From which release on the EFA provider closes an endpoint that is receiving: 1.22.0 was seen to crash there, 2.5.1 was
/// not.
const CLOSES_IN_USE: u32 = 2 << 16 | 5;

/// What one end of a pair has in flight on a rail at most: of each slot a piece, and of each block a credit.
fn operations_of_end(blocks: Blocks) -> usize {
    blocks.slots() + blocks.count()
}
