//! Messages by writes, for cards that write into others' memory.
//!
//! The memory of the end that is written to is in [`end`], what comes with a write in [`notice`], and what some cards want
//! posted for that in [`receives`].
//!
//! # Rails that fail
//!
//! A write that fails because its card does not reach the peer's goes over the next rail that does, and so does all that
//! follows; a notice says what it is about, not which way it came. The peer is lost with its last rail. A write that
//! failed may have landed all the same: then its notice comes twice, and the second is known by its part and generation.
//! What it wrote is what the other wrote, and lands before the card gives it up, hence before the slot is used again.
//! A rail is not tried again.
//!
//! # Safety
//!
//! Slots, stages and mailbox belong to [`Direct`], as [`Protocol`] asks. A slot is read between the last notice of its
//! message and `release`; its sender writes to it again only after the credit that `release` makes due. A part of the mailbox
//! is read when the notice of its grant comes first.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

mod end;
mod notice;
mod receives;

use efarun_wire::Rank;

use self::end::{Grant, ReceiveEnd, ReceiveSlot, mailbox_bytes, pieces};
use self::notice::{GENERATIONS, Notice, When};
use self::receives::Receives;
use super::FabricConfig;
use super::address::{Address, Mailbox};
use super::credit::Blocks;
use super::inbox::Inbox;
use super::operation::{Contexts, Kind, Operation};
use super::protocol::{Protocol, nothing_to_release};
use super::rails::Rails;
use super::slot::{CELL_BYTES, Cut, STAGED_BYTES, SendEnd, decode};
use super::traffic::Traffic;
use crate::fabric::{Access, Completion, FabricError, Failure, Info, Memory, MemoryRegion, Part, Target};
use crate::transport::{Message, TransportError};

/// The ends of all pairs, and what they share.
#[derive(Debug)]
pub(super) struct Direct {
    pairs: Vec<Pair>,
    /// By rail.
    receives: Vec<Receives>,
    /// Where peers write their grants, a part for each.
    mailbox_regions: Vec<MemoryRegion>,
    mailbox: Memory,
    /// A cell that credits are written from.
    blank_regions: Vec<MemoryRegion>,
    blank: Memory,
}

/// What this rank has to do with another.
#[derive(Debug, Default)]
struct Pair {
    /// Our part of its mailbox.
    mailbox: Option<Mailbox>,
    /// Where its slots for us are, once it said so; that may be before we open.
    grant: Option<Grant>,
    send: Option<SendEnd>,
    receive: Option<ReceiveEnd>,
    /// The grant as it is written.
    granting: Option<(Vec<MemoryRegion>, Memory)>,
    /// Rails that do not lead there any more.
    avoided: Rails,
}

impl Direct {
    /// Opens a rail per info.
    pub(super) fn open(
        infos: &[Info],
        config: &FabricConfig,
        cut: Cut,
    ) -> Result<(Traffic, Self), FabricError> {
        let (world_size, blocks) = (config.world_size as usize, Blocks::of(config.slots));
        let per_peer = operations_of_sender(blocks, cut) + operations_of_receiver(blocks, cut) + 2;
        let contexts = Contexts::new(config.world_size, config.slots, cut.pieces + 1);
        let traffic = Traffic::open(infos, config, cut, per_peer, contexts)?;
        let mailbox = Memory::new(world_size * mailbox_bytes(infos.len()));
        let blank = Memory::new(CELL_BYTES);
        // SAFETY: the memory lives until the endpoints were closed; see the module.
        let mailbox_regions = unsafe { traffic.register(&mailbox, Access::WrittenTo) }?;
        // SAFETY: as above.
        let blank_regions = unsafe { traffic.register(&blank, Access::WriteFrom) }?;
        let receives = infos.iter().zip(&traffic.rails).map(|(info, rail)| Receives::new(info, rail));
        let mut protocol = Direct {
            pairs: (0..world_size).map(|_| Pair::default()).collect(),
            receives: receives.collect::<Result<_, _>>()?,
            mailbox_regions,
            mailbox,
            blank_regions,
            blank,
        };
        // Every peer may write its grant before we open the pair.
        protocol.add_receives(&traffic, world_size)?;
        Ok((traffic, protocol))
    }

    /// Posts so many more receives for notices on every rail.
    fn add_receives(&mut self, traffic: &Traffic, count: usize) -> Result<(), FabricError> {
        let mut rails = self.receives.iter_mut().zip(&traffic.rails);
        rails.try_for_each(|(receives, rail)| receives.add(rail, count))
    }

    /// A write has landed.
    fn hear(&mut self, traffic: &mut Traffic, notice: Notice) {
        let Notice { kind, from, slot, .. } = notice;
        let rails = traffic.rails.len();
        let Some(pair) = self.pairs.get_mut(from.index()) else {
            return log::warn!("a notice of no rank of this world: {notice:?}");
        };
        let slots =
            if kind == notice::Kind::Credit { traffic.blocks.count() } else { traffic.blocks.slots() };
        if slot >= slots {
            return log::warn!("a notice of no slot of this world: {notice:?}");
        }
        match (kind, &mut pair.send, &mut pair.receive) {
            (notice::Kind::Grant, ..) if pair.grant.is_some() => {}
            (notice::Kind::Grant, send, _) => {
                let start = from.index() * mailbox_bytes(rails);
                // SAFETY: the peer writes its grant, and the same once more at most, and its notice came.
                let bytes = unsafe { self.mailbox.bytes(start..start + mailbox_bytes(rails)) };
                pair.grant = Some(Grant::from_bytes(bytes, rails));
                send.iter_mut().for_each(|end| end.granted.grant_all());
            }
            (notice::Kind::Credit, Some(end), _) => {
                let granted = end.granted.generations(slot);
                match notice.when(granted) {
                    When::Now => end.granted.grant(slot),
                    When::Before => {}
                    When::Ahead => traffic.lose(from, early(notice, granted)),
                }
            }
            (notice::Kind::First | notice::Kind::Piece(_), _, Some(end)) => {
                let generation = end.inbox.generation(slot);
                match notice.when(generation) {
                    When::Now => {}
                    When::Before => return,
                    When::Ahead => return traffic.lose(from, early(notice, generation)),
                }
                if let notice::Kind::Piece(piece) = kind {
                    end.slots[slot].pieces |= 1 << piece;
                    return;
                }
                // SAFETY: the header's notice came, and until our credit the peer writes nothing there but the same.
                let header = decode(unsafe { end.inbox.memory.bytes(end.inbox.header(slot)) })
                    .expect("a cell is a header's size");
                let len_bytes = header.len_bytes as usize;
                if len_bytes > traffic.cut.slot_bytes() {
                    let cause = format!("it sent a message that is larger than a slot: {len_bytes} bytes");
                    traffic.lose(from, cause);
                } else {
                    end.slots[slot].header = Some(header);
                }
            }
            _ => log::warn!("a notice for an end that was never opened: {notice:?}"),
        }
    }
}

// SAFETY: see the module.
unsafe impl Protocol for Direct {
    fn mailbox(&self) -> Option<Mailbox> {
        let address = self.mailbox.whole().cast::<u8>().addr() as u64;
        Some(Mailbox { address, keys: keys(&self.mailbox_regions) })
    }

    fn insert(&mut self, traffic: &Traffic, peer: Rank, theirs: &Address) {
        let part = (traffic.me.index() * mailbox_bytes(traffic.rails.len())) as u64;
        let part_of = |Mailbox { address, keys }: &Mailbox| Mailbox {
            address: address.wrapping_add(part),
            keys: keys.clone(),
        };
        self.pairs[peer.index()].mailbox = theirs.mailbox.as_ref().map(part_of);
    }

    /// Tells the peer where the end is.
    fn open_receive(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError> {
        if self.pairs[from.index()].receive.is_some() {
            return Ok(());
        }
        traffic.reserve(operations_of_receiver(traffic.blocks, traffic.cut))?;
        let mut end = ReceiveEnd::new(traffic.blocks, traffic.cut);
        let inbox = &mut end.inbox;
        // SAFETY: ends drop their regions before their memory, and are dropped after the endpoints were closed.
        inbox.regions = unsafe { traffic.register(&inbox.memory, Access::WrittenTo) }?;
        let address = inbox.memory.whole().cast::<u8>().expose_provenance() as u64;
        let grant = Grant { address, keys: keys(&inbox.regions) };
        let memory = Memory::new(mailbox_bytes(traffic.rails.len()));
        // SAFETY: nobody knows of the memory yet; it is dropped as the end is.
        let regions = unsafe {
            memory.write(0, &grant.to_bytes());
            traffic.register(&memory, Access::WriteFrom)
        }?;
        let pair = &mut self.pairs[from.index()];
        pair.receive = Some(end);
        pair.granting = Some((regions, memory));
        self.add_receives(traffic, traffic.blocks.slots() * writes_of_message(traffic.cut))?;
        // Named as the pair's receive of credits, which there is none of here.
        traffic.wanted.push_back(Operation { kind: Kind::ReceiveCredit, peer: from, slot: 0 });
        Ok(())
    }

    fn open_send(&mut self, traffic: &mut Traffic, to: Rank) -> Result<(), TransportError> {
        if self.pairs[to.index()].send.is_some() {
            return Ok(());
        }
        traffic.reserve(operations_of_sender(traffic.blocks, traffic.cut))?;
        let mut end = SendEnd::new(traffic.blocks);
        // SAFETY: as in `open_receive`.
        end.regions = unsafe { traffic.register(&end.memory, Access::WriteFrom) }?;
        let pair = &mut self.pairs[to.index()];
        if pair.grant.is_some() {
            end.granted.grant_all();
        }
        pair.send = Some(end);
        Ok(self.add_receives(traffic, traffic.blocks.count())?)
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

    /// The first write, and one for each piece.
    fn operations(&self, traffic: &Traffic, len_bytes: usize) -> usize {
        1 + pieces(len_bytes, traffic.cut)
    }

    /// Posts a write: of a message the first (0) or a piece (from 1 on), a credit, or the grant.
    fn post(&mut self, traffic: &mut Traffic, operation: Operation) -> Result<bool, FabricError> {
        let Operation { kind, peer, slot } = operation;
        let context = traffic.contexts.context(operation);
        let pair = &mut self.pairs[peer.index()];
        let (cut, me) = (traffic.cut, traffic.me);
        let index = pair.rail_of(operation, cut);
        let rail = &mut traffic.rails[index];
        let Some(&to) = traffic.contacts[peer.index()].addresses.get(index) else { return Ok(true) };
        let data = |kind, generation| Notice { kind, from: me, slot, generation }.to_bits();
        match (kind, &mut pair.send, &mut pair.receive, &pair.grant, &pair.mailbox) {
            (Kind::SendPiece(number), Some(end), _, Some(grant), _) => {
                let Some(message) = &end.sending[slot] else { return Ok(true) };
                let len_bytes = message.payload.len_bytes();
                if number == 0 {
                    let staged = if len_bytes <= STAGED_BYTES { len_bytes } else { 0 };
                    let memory = end.memory.piece(end.stage(slot, staged));
                    let part = Part { memory, region: end.regions.get(index) };
                    let data = data(notice::Kind::First, message.generation);
                    let target = grant.target(slot, 0, index, cut);
                    // SAFETY: stage and context live until the endpoint is closed and are not written while the message
                    // is under way; the peer gave us the slot by its grant or a credit.
                    let posted = unsafe { rail.endpoint.post_write(to, part, target, data, context) }?;
                    traffic.counts.payload_bytes[index] += if posted { staged as u64 } else { 0 };
                    return Ok(posted);
                }
                let range = cut.range(len_bytes, number - 1);
                let memory = message.payload.part(&range);
                let data = data(notice::Kind::Piece(number - 1), message.generation);
                let target = grant.target(slot, CELL_BYTES + range.start, index, cut);
                // SAFETY: the payload is the promise of `try_send`'s caller until the message's token is out, until when the
                // message shares the region.
                let Some(region) = unsafe { rail.cover(memory, Access::WriteFrom) }? else {
                    return Ok(false);
                };
                let part = Part { memory, region: Some(&region) };
                // SAFETY: as above, and the rest as for the first write.
                let posted = unsafe { rail.endpoint.post_write(to, part, target, data, context) }?;
                if posted {
                    traffic.counts.payload_bytes[index] += range.len() as u64;
                    end.share(slot, Some(region));
                }
                Ok(posted)
            }
            (Kind::SendCredit, _, Some(end), _, Some(mailbox)) => {
                if end.inbox.is_credit_under_way(slot) {
                    return Ok(false);
                }
                let part = Part { memory: self.blank.whole(), region: self.blank_regions.get(index) };
                let unread = (mailbox_bytes(self.receives.len()) - CELL_BYTES) as u64;
                let target = Target { address: mailbox.address + unread, key: mailbox.keys[index] };
                let data = data(notice::Kind::Credit, end.inbox.generation_of_credit(slot));
                // SAFETY: the blank and the context live until the endpoint is closed; the blank is never written.
                let posted = unsafe { rail.endpoint.post_write(to, part, target, data, context) }?;
                end.inbox.set_credit_under_way(slot, posted);
                Ok(posted)
            }
            (Kind::ReceiveCredit, _, _, _, Some(mailbox)) => {
                let Some((regions, memory)) = &pair.granting else { return Ok(true) };
                let memory = memory.piece(0..memory.whole().len() - CELL_BYTES);
                let part = Part { memory, region: regions.get(index) };
                let target = Target { address: mailbox.address, key: mailbox.keys[index] };
                let data = data(notice::Kind::Grant, 0);
                // SAFETY: the grant's memory and the context live until the endpoint is closed, and are not written.
                unsafe { rail.endpoint.post_write(to, part, target, data, context) }
            }
            _ => {
                log::warn!("an operation of an end that was never opened: {operation:?}");
                Ok(true)
            }
        }
    }

    fn reroute(
        &mut self,
        traffic: &mut Traffic,
        operation: Operation,
        failure: &Failure,
        rail: usize,
    ) -> bool {
        let Operation { kind, peer, slot } = operation;
        let pair = &mut self.pairs[peer.index()];
        if !traffic.leave_rail(&mut pair.avoided, failure, peer, rail) {
            return false;
        }
        if let (Kind::SendCredit, Some(end)) = (kind, &mut pair.receive) {
            end.inbox.set_credit_under_way(slot, false);
        }
        traffic.wanted.push_back(operation);
        true
    }

    fn post_others(&mut self, traffic: &mut Traffic) {
        for (receives, rail) in self.receives.iter_mut().zip(&traffic.rails) {
            if let Err(error) = receives.post_refused(rail) {
                return traffic.fail(error.into());
            }
        }
    }

    fn complete(&mut self, traffic: &mut Traffic, rail: usize, completion: &Completion) {
        if let Some(bits) = completion.data {
            // Its receive is ours again, before what it tells lets the peer write more.
            if let Err(error) = self.receives[rail].renew(&traffic.rails[rail], completion.context) {
                traffic.fail(error.into());
            }
            return match Notice::from_bits(bits) {
                Some(notice) => self.hear(traffic, notice),
                None => log::warn!("a write of nothing that we know: {bits:#010x}"),
            };
        }
        let Some(Operation { kind, peer, slot }) = traffic.contexts.operation(completion.context) else {
            return log::warn!("a completion of no operation of ours: {completion:?}");
        };
        let pair = &mut self.pairs[peer.index()];
        match (kind, &mut pair.send, &mut pair.receive) {
            (Kind::SendPiece(_), Some(end), _) => traffic.completed.extend(end.sent(slot)),
            (Kind::SendCredit, _, Some(end)) => end.inbox.set_credit_under_way(slot, false),
            // The grant.
            (Kind::ReceiveCredit, ..) => {}
            _ => log::warn!("a completion of an operation that was never posted: {completion:?}"),
        }
    }

    fn arrived(&self, traffic: &Traffic, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let receive = self.pairs.get(from.index()).and_then(|pair| pair.receive.as_ref());
        let end = receive.ok_or(TransportError::NoRoute { peer: from })?;
        let header = end.slots[end.inbox.current()].arrived(traffic.cut);
        // SAFETY: all writes of the message have told of themselves, and the peer writes to the slot again only after
        // the credit that `release` makes due.
        Ok(header.map(|header| unsafe { end.inbox.message(header) }))
    }

    fn release(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError> {
        let receive = self.pairs.get_mut(from.index()).and_then(|pair| pair.receive.as_mut());
        let end = receive.ok_or(TransportError::NoRoute { peer: from })?;
        if end.slots[end.inbox.current()].arrived(traffic.cut).is_none() {
            return Err(nothing_to_release(from));
        }
        let slot = end.inbox.pass();
        end.slots[slot] = ReceiveSlot::default();
        let credit = |block| Operation { kind: Kind::SendCredit, peer: from, slot: block };
        traffic.wanted.extend(end.inbox.ready(slot).map(credit));
        Ok(())
    }
}

impl Pair {
    /// The rail that an operation goes over: of a message's first write that of the first piece; or the next that still
    /// leads there.
    fn rail_of(&self, Operation { kind, slot, .. }: Operation, cut: Cut) -> usize {
        let first = match kind {
            Kind::SendPiece(number) => cut.rail(slot, number.saturating_sub(1)),
            Kind::SendCredit | Kind::ReceiveCredit | Kind::ReceivePiece(_) | Kind::ReceiveDetour(_) => 0,
        };
        self.avoided.way_round(first, cut.pieces)
    }
}

fn keys(regions: &[MemoryRegion]) -> Vec<u64> {
    regions.iter().map(MemoryRegion::key).collect()
}

/// Why a peer that wrote too early is lost.
fn early(notice: Notice, expected: u64) -> String {
    let Notice { kind, slot, generation, .. } = notice;
    let expected = expected % GENERATIONS;
    format!("it wrote {kind:?} of generation {generation} for slot {slot}, where {expected} belongs")
}

/// How many writes a message has on a rail at most: its header and all its pieces, where the other rails have failed.
fn writes_of_message(cut: Cut) -> usize {
    1 + cut.pieces
}

/// What a sending end has in flight on a rail at most: a message for each slot, and a credit that comes for each block.
fn operations_of_sender(blocks: Blocks, cut: Cut) -> usize {
    blocks.slots() * writes_of_message(cut) + blocks.count()
}

/// What a receiving end has in flight on a rail at most: of each slot a message that comes, of each block a credit; and the
/// grant.
fn operations_of_receiver(blocks: Blocks, cut: Cut) -> usize {
    blocks.slots() * writes_of_message(cut) + blocks.count() + 1
}
