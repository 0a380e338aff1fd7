//! Messages by tagged operations: sends whose receives are posted for exactly their tags.
//!
//! The memory of the end that receives is in [`end`], the names of operations in [`mod@tag`], what is needed where rails fail
//! in [`detour`].
//!
//! # Rails that fail
//!
//! A piece or a credit that fails because its card does not reach the peer's goes *round* its rail: over the next one, by a
//! tag that says so and what it is, and so does all that follows, and what was sent after it though the card said that it
//! has come: the peer's provider shows nothing that was sent after what failed ([`departure`]). The peer takes it into memory that is for nothing
//! else. Not into its place: some packets of what failed may have come, or may come yet, and the provider copies late ones
//! into the receive that they are for until the endpoint is closed; `fi_cancel` finds no receive that is matched
//! (libfabric's prov/util/src/util_srx.c looks among unmatched ones). What failed may have come all the same, and what came
//! round may come once more over a third rail: both are known by their numbers. Who hears of a detour posts no more
//! pieces' receives on that rail for this peer. A rail is not tried again; the peer is lost with its last one.
//!
//! This needs every send to end by itself. The provider sends up to 64 KiB without an answer ("medium"); of longer messages
//! it awaits the receiver's word, and one that got lost is told to the receiver only; from 1 MiB on the receiver's card reads
//! them, and a read that fails is told to the receiver only, too. So where there are several rails pieces
//! are no longer than that. Where there is one, the peer is lost with it whoever is told, and pieces are as long as what is
//! read. libfabric before 2.5 crashes when an endpoint closes over half a message, so there the peer is lost with the first rail.
//!
//! # Safety
//!
//! Slots and cells belong to [`Tagged`], as [`Protocol`] asks. Of a slot, nothing is read or written here while a receive
//! for its pieces is posted, but for those that no message here has, or that came round: `arrived` is set when all pieces of
//! a message are here and taken back before the next receives are posted. Of a stage that is sent, nothing is written while
//! `sending` says that the send is not complete; cells of credits are never written here.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

mod departure;
mod detour;
mod end;
mod tag;

use efarun_wire::Rank;

use self::departure::Departures;
use self::detour::Detours;
use self::end::ReceiveEnd;
use self::tag::{Class, any_detour, detoured, tag};
use super::FabricConfig;
use super::credit::Blocks;
use super::inbox::Inbox;
use super::operation::{Contexts, Kind, Operation};
use super::protocol::{Protocol, nothing_to_release};
use super::rails::Rails;
use super::slot::{Cut, STAGED_BYTES, SendEnd};
use super::traffic::Traffic;
use crate::fabric::{Access, Completion, FabricError, Failure, Info, Memory, MemoryRegion, Part};
use crate::transport::{Message, TransportError};

/// The ends of all pairs.
#[derive(Debug)]
pub(super) struct Tagged {
    pairs: Vec<Pair>,
    /// The provider wants what it sends and receives into registered.
    wants_regions: bool,
    /// An endpoint may be closed while messages are under way.
    closes_in_use: bool,
    /// What belongs to a rail that fails goes round it.
    has_detours: bool,
}

/// What this rank has to do with another.
#[derive(Debug, Default)]
struct Pair {
    send: Option<SendEnd>,
    /// How often each piece of each slot was sent.
    uses: Vec<Vec<u64>>,
    /// Of each block, the generation of the credit that a receive was posted for.
    awaited: Vec<u64>,
    receive: Option<ReceiveEnd>,
    /// Where the peer's detours land, where there are any,
    detours: Option<Detours>,
    /// and then, of each rail, what may have to go round it.
    departures: Vec<Departures>,
    /// Rails that this rank goes round,
    avoided: Rails,
    /// and that the peer does.
    deserted: Rails,
}

impl Tagged {
    /// Opens a rail per info.
    pub(super) fn open(
        infos: &[Info],
        config: &FabricConfig,
        cut: Cut,
    ) -> Result<(Traffic, Self), FabricError> {
        let contexts = Contexts::new(config.world_size, config.slots, cut.pieces);
        let is_efa = infos[0].is_efa();
        let closes_in_use = !is_efa || infos[0].library().version().number() >= CLOSES_IN_USE;
        let has_detours = is_efa && closes_in_use && cut.pieces > 1;
        let of_end = operations_of_end(Blocks::of(config.slots), cut, has_detours);
        let traffic = Traffic::open(infos, config, cut, 2 * of_end + usize::from(has_detours), contexts)?;
        let protocol = Tagged {
            pairs: (0..config.world_size).map(|_| Pair::default()).collect(),
            wants_regions: infos.iter().any(Info::wants_local_registration),
            closes_in_use,
            has_detours,
        };
        Ok((traffic, protocol))
    }

    /// Room for an end in the rails' queues; and with a pair's first one, receives for what the peer sends round its rails.
    fn prepare_end(&mut self, traffic: &mut Traffic, peer: Rank) -> Result<(), TransportError> {
        traffic.reserve(operations_of_end(traffic.blocks, traffic.cut, self.has_detours))?;
        let pair = &mut self.pairs[peer.index()];
        if self.has_detours && pair.detours.is_none() {
            traffic.reserve(1)?;
            pair.detours = Some(Detours::new(traffic, traffic.cut)?);
            let at_most = 2 * operations_of_end(traffic.blocks, traffic.cut, true);
            pair.departures = (0..traffic.cut.pieces).map(|_| Departures::new(at_most)).collect();
            let receive = |rail| Operation { kind: Kind::ReceiveDetour(rail), peer, slot: 0 };
            traffic.wanted.extend((0..traffic.cut.pieces).map(receive));
        }
        Ok(())
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
        self.prepare_end(traffic, from)?;
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
        self.prepare_end(traffic, to)?;
        let mut end = SendEnd::new(traffic.blocks);
        end.regions = self.register(traffic, &end.memory)?;
        let pair = &mut self.pairs[to.index()];
        pair.send = Some(end);
        pair.uses = vec![vec![0; traffic.cut.pieces]; traffic.blocks.slots()];
        pair.awaited = vec![0; traffic.blocks.count()];
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
        let own = own_rail(operation, cut);
        let pair = &mut self.pairs[peer.index()];
        let index = match kind {
            Kind::SendPiece(_) | Kind::SendCredit => pair.avoided.way_round(own, cut.pieces),
            // It comes round, into the receive that is posted for that. (A credit may have been sent straight before.)
            Kind::ReceivePiece(_) if pair.deserted.has(own) => return Ok(true),
            Kind::ReceivePiece(_) | Kind::ReceiveCredit | Kind::ReceiveDetour(_) => own,
        };
        let on_the_way = |tag| if index == own { tag } else { detoured(tag) };
        let rail = &mut traffic.rails[index];
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
                let tag = on_the_way(tag(Class::Piece(piece), traffic.me, slot, *uses));
                let address = traffic.contacts[peer.index()].addresses[index];
                // SAFETY: cell and context live until the endpoint is closed and are not written while the send is in
                // flight; the payload is the promise of `try_send`'s caller until the message's token is out.
                let posted = unsafe { rail.endpoint.post_send(address, tag, parts, context) }?;
                if posted {
                    *uses += 1;
                    traffic.counts.payload_bytes[index] += range.len() as u64;
                    end.share(slot, shared);
                    pair.departures.get_mut(index).into_iter().for_each(|rail| rail.posted(operation));
                }
                Ok(posted)
            }
            (Kind::ReceiveCredit, Some(end), _) => {
                pair.awaited[slot] = end.granted.generations(slot);
                let tag = tag(Class::Credit, peer, slot, pair.awaited[slot]);
                let cell = end.memory.piece(end.credit_cell(slot));
                // SAFETY: cell and context live until the endpoint is closed, and are not touched meanwhile.
                unsafe { rail.endpoint.post_receive(tag, 0, cell, end.regions.get(index), context) }
            }
            (Kind::ReceivePiece(piece), _, Some(end)) => {
                let state = &mut end.slots[slot];
                state.awaited[piece] = state.uses[piece];
                let tag = tag(Class::Piece(piece), peer, slot, state.uses[piece]);
                let memory = end.inbox.memory.piece(end.piece(slot, piece));
                // SAFETY: slot and context live until the endpoint is closed; the piece is not `here`, so that no
                // message that has it is read.
                unsafe { rail.endpoint.post_receive(tag, 0, memory, end.inbox.regions.get(index), context) }
            }
            (Kind::ReceiveDetour(rail_of_it), ..) => {
                let Some(detours) = &pair.detours else { return Ok(true) };
                let (tag, ignored) = any_detour(peer);
                let memory = detours.memory.piece(detours.room(rail_of_it));
                let region = detours.regions.get(index);
                // SAFETY: room and context live until the endpoint is closed; what was here last was copied when it came.
                unsafe { rail.endpoint.post_receive(tag, ignored, memory, region, context) }
            }
            (Kind::SendCredit, _, Some(end)) => {
                if end.inbox.is_credit_under_way(slot) {
                    return Ok(false);
                }
                let tag =
                    on_the_way(tag(Class::Credit, traffic.me, slot, end.inbox.generation_of_credit(slot)));
                let memory = end.inbox.memory.piece(end.credit_cell(slot));
                let cell = Part { memory, region: end.inbox.regions.get(index) };
                let address = traffic.contacts[peer.index()].addresses[index];
                // SAFETY: cell and context live until the endpoint is closed, and are not written meanwhile.
                let posted = unsafe { rail.endpoint.post_send(address, tag, &[cell], context) }?;
                end.inbox.set_credit_under_way(slot, posted);
                if posted {
                    pair.departures.get_mut(index).into_iter().for_each(|rail| rail.posted(operation));
                }
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

    fn complete(&mut self, traffic: &mut Traffic, rail: usize, completion: &Completion) {
        let Some(operation) = traffic.contexts.operation(completion.context) else {
            return log::warn!("a completion of no operation of ours: {completion:?}");
        };
        let Operation { kind, peer, slot } = operation;
        let pair = &mut self.pairs[peer.index()];
        match (kind, &mut pair.send, &mut pair.receive) {
            (Kind::SendPiece(_) | Kind::SendCredit, ..) if self.has_detours && pair.avoided.has(rail) => {
                pair.departures[rail].remove(operation);
                pair.send_again(traffic, operation);
            }
            (Kind::SendPiece(_) | Kind::SendCredit, ..) if self.has_detours => {
                pair.departures[rail].over(operation);
                while let Some(certain) = pair.departures[rail].take_certain() {
                    pair.sent(traffic, certain);
                }
            }
            (Kind::SendPiece(_) | Kind::SendCredit, ..) => pair.sent(traffic, operation),
            (Kind::ReceiveCredit, Some(end), _) => {
                // Else it came another way before.
                if end.granted.generations(slot) == pair.awaited[slot] {
                    end.granted.grant(slot);
                }
                traffic.wanted.push_back(operation);
            }
            (Kind::ReceivePiece(piece), _, Some(end)) => {
                // SAFETY: this receive is over, and the next is posted after `release` only.
                if let Err(cause) = unsafe { end.landed(slot, piece, completion.len_bytes) } {
                    traffic.lose(peer, cause);
                }
            }
            (Kind::ReceiveDetour(rail), ..) => {
                if let Err(cause) = pair.take_detour(traffic.cut, rail, completion) {
                    traffic.lose(peer, cause);
                }
                // Others may wait for it.
                traffic.wanted.push_front(operation);
            }
            _ => log::warn!("a completion of an operation that was never posted: {operation:?}"),
        }
    }

    fn arrived(&self, _traffic: &Traffic, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let receive = self.pairs.get(from.index()).and_then(|pair| pair.receive.as_ref());
        Ok(receive.ok_or(TransportError::NoRoute { peer: from })?.message())
    }

    fn release(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError> {
        let receive = self.pairs.get_mut(from.index()).and_then(|pair| pair.receive.as_mut());
        let end = receive.ok_or(TransportError::NoRoute { peer: from })?;
        let (pieces, slot) = end.pass().ok_or_else(|| nothing_to_release(from))?;
        let receive = |piece| Operation { kind: Kind::ReceivePiece(piece), peer: from, slot };
        traffic.wanted.extend((0..pieces).map(receive));
        Ok(())
    }

    fn reroute(
        &mut self,
        traffic: &mut Traffic,
        operation: Operation,
        failure: &Failure,
        rail: usize,
    ) -> bool {
        let Operation { kind, peer, .. } = operation;
        let pair = &mut self.pairs[peer.index()];
        // Of what it receives the peer has sent all; only it can send it again.
        let is_sent = matches!(kind, Kind::SendPiece(_) | Kind::SendCredit);
        if !self.has_detours || !is_sent || !traffic.leave_rail(&mut pair.avoided, failure, peer, rail) {
            return false;
        }
        pair.departures[rail].remove(operation);
        pair.send_again(traffic, operation);
        // What is under way follows when it is over.
        while let Some(uncertain) = pair.departures[rail].take_uncertain() {
            pair.send_again(traffic, uncertain);
        }
        true
    }

    fn is_bound_because(&self) -> Option<&'static str> {
        (!self.has_detours).then_some(
            "its other cards may still work, but with this release of libfabric a message is bound to the card that it was \
             given to: install a newer one (2.5 or later), or start the job again, which leaves out cards whose port is \
             down, or name those to use in FI_EFA_IFACE",
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

impl Pair {
    /// Takes in that the peer has what was sent, or is certain to get it.
    fn sent(&mut self, traffic: &mut Traffic, operation: Operation) {
        match (operation.kind, &mut self.send, &mut self.receive) {
            (Kind::SendPiece(_), Some(end), _) => traffic.completed.extend(end.sent(operation.slot)),
            (_, _, Some(end)) => end.inbox.set_credit_under_way(operation.slot, false),
            _ => log::warn!("a send that was never posted is over: {operation:?}"),
        }
    }

    /// Sends what may have come or not once more, by the same number.
    fn send_again(&mut self, traffic: &mut Traffic, operation: Operation) {
        match (operation.kind, &mut self.receive) {
            (Kind::SendPiece(piece), _) => self.uses[operation.slot][piece] -= 1,
            (_, Some(end)) => end.inbox.set_credit_under_way(operation.slot, false),
            _ => {}
        }
        traffic.wanted.push_back(operation);
    }

    /// Takes in what came round its rail over this one.
    fn take_detour(&mut self, cut: Cut, rail: usize, completion: &Completion) -> Result<(), String> {
        let (class, slot, number) = tag::parse(completion.tag);
        let Some(detours) = &self.detours else { return Ok(()) };
        let room = detours.room(rail);
        let range = room.start..room.end.min(room.start + completion.len_bytes);
        match (class, &mut self.receive, &mut self.send) {
            (Class::Piece(piece), Some(end), _) => {
                self.deserted = self.deserted.with(cut.rail(slot, piece));
                // SAFETY: the receive there is over, and the next is posted later.
                end.came_round(slot, piece, number, unsafe { detours.memory.bytes(range) })
            }
            (Class::Credit, _, Some(end)) if slot < self.awaited.len() => {
                self.deserted = self.deserted.with(cut.rail(slot, 0));
                if end.granted.generations(slot) as u16 == number {
                    end.granted.grant(slot);
                }
                Ok(())
            }
            _ => Err(format!("it sent {class:?} of slot {slot}, which is none of its")),
        }
    }
}

/// The rail that an operation belongs to.
fn own_rail(Operation { kind, slot, .. }: Operation, cut: Cut) -> usize {
    match kind {
        Kind::SendPiece(piece) | Kind::ReceivePiece(piece) => cut.rail(slot, piece),
        Kind::ReceiveCredit | Kind::SendCredit => cut.rail(slot, 0),
        Kind::ReceiveDetour(rail) => rail,
    }
}

/// What one end of a pair has in flight on a rail at most: of each slot a piece, or all of them where other rails have
/// failed, and of each block a credit.
fn operations_of_end(blocks: Blocks, cut: Cut, has_detours: bool) -> usize {
    blocks.slots() * if has_detours { cut.pieces } else { 1 } + blocks.count()
}
