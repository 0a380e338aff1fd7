//! Messages by writes, for cards that write into others' memory.
//!
//! The memory of the end that is written to is in [`end`], what comes with a write in [`notice`], and what some cards want
//! posted for that in [`receives`]. Long messages go past the slots to where they belong, where the receiver said so in time
//! ([`place`]).
//!
//! # Rails that fail
//!
//! A write that fails because its card does not reach the peer's goes over the next rail that does, and so does all that
//! follows; a notice says what it is about, not which way it came. The peer is lost with its last rail. A write that
//! failed may have landed all the same: then its notice comes twice, and the second is known by its part and generation.
//! What it wrote is what the other wrote, and lands before the card gives it up, hence before the slot is used again.
//! A rail is not tried again. To places nothing is written twice: what went there and failed goes into the slot, as does all that
//! follows to that peer.
//!
//! # Safety
//!
//! Slots, stages and mailbox belong to [`Direct`], as [`Protocol`] asks. A slot is read between the last notice of its
//! message and `release`; its sender writes to it again only after the credit that `release` makes due. A part of the mailbox
//! is read when the notice comes that it was written, and is written again only after messages that this allowed.
//!
//! A place is the memory of whoever told of it ([`Protocol::expect_later`]) until its message is shown or the endpoints are
//! closed. A peer learns of it with the credit for its message, and writes there before that message's notices are all here; or
//! the regions that it would write by are given up. So nothing is written after the message was released, by when the call that
//! it belongs to has not ended.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

mod end;
mod notice;
mod place;
mod receives;

use efarun_wire::Rank;

use self::end::{Given, Grant, Layout, ReceiveEnd, pieces};
use self::notice::{GENERATIONS, Notice, When};
use self::place::{Place, Remote};
use self::receives::Receives;
use super::FabricConfig;
use super::address::{Address, Mailbox};
use super::credit::Blocks;
use super::inbox::Inbox;
use super::operation::{Contexts, Kind, Operation};
use super::protocol::{Protocol, nothing_to_release};
use super::rails::Rails;
use super::slot::{CELL_BYTES, Cut, Payload, STAGED_BYTES, SendEnd, decode};
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
    /// Of each part of a mailbox.
    layout: Layout,
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
    /// The grant and the tables of places as they are written.
    granting: Option<(Vec<MemoryRegion>, Memory)>,
    /// By slot of its, where its next message belongs.
    places: Vec<Option<Remote>>,
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
        let layout = Layout::new(blocks, infos.len());
        let mailbox = Memory::new(world_size * layout.len_bytes());
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
            layout,
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
        let (rails, layout) = (traffic.rails.len(), self.layout);
        let start = from.index() * layout.len_bytes();
        let Some(pair) = self.pairs.get_mut(from.index()) else {
            return log::warn!("a notice of no rank of this world: {notice:?}");
        };
        let is_of_block = matches!(kind, notice::Kind::Credit | notice::Kind::Places);
        let slots = if is_of_block { traffic.blocks.count() } else { traffic.blocks.slots() };
        if slot >= slots {
            return log::warn!("a notice of no slot of this world: {notice:?}");
        }
        match (kind, &mut pair.send, &mut pair.receive) {
            (notice::Kind::Grant, ..) if pair.grant.is_some() => {}
            (notice::Kind::Grant, send, _) => {
                let range = layout.grant();
                // SAFETY: the peer writes its grant, and the same once more at most, and its notice came.
                let bytes = unsafe { self.mailbox.bytes(start + range.start..start + range.end) };
                pair.grant = Some(Grant::from_bytes(bytes, rails));
                send.iter_mut().for_each(|end| end.granted.grant_all());
            }
            (notice::Kind::Credit | notice::Kind::Places, Some(end), _) => {
                let granted = end.granted.generations(slot);
                match notice.when(granted) {
                    When::Now => end.granted.grant(slot),
                    When::Before => return,
                    When::Ahead => return traffic.lose(from, early(notice, granted)),
                }
                if kind == notice::Kind::Places {
                    let range = layout.places(slot);
                    // SAFETY: the peer writes the table for this credit, and another one only after messages that this allows.
                    let bytes = unsafe { self.mailbox.bytes(start + range.start..start + range.end) };
                    let places = layout.table.decode(bytes, granted);
                    let first = slot * places.len();
                    pair.places.resize(traffic.blocks.slots(), None);
                    pair.places.splice(first..first + places.len(), places);
                }
            }
            (notice::Kind::First | notice::Kind::Piece(_) | notice::Kind::Landed(_), _, Some(end)) => {
                let generation = end.inbox.generation(slot);
                match notice.when(generation) {
                    When::Now => {}
                    When::Before => return,
                    When::Ahead => return traffic.lose(from, early(notice, generation)),
                }
                let it = &mut end.slots[slot];
                match kind {
                    notice::Kind::Piece(piece) => it.pieces |= 1 << piece,
                    notice::Kind::Landed(_) if matches!(it.given, Given::Nothing) => {
                        let cause =
                            format!("it wrote message data of slot {slot} to a place that was not given");
                        return traffic.lose(from, cause);
                    }
                    notice::Kind::Landed(piece) => it.landed |= 1 << piece,
                    _ => {}
                }
                if kind != notice::Kind::First {
                    return end.settle(slot, traffic.cut).iter().for_each(|(rail, region)| {
                        traffic.rails[*rail].payloads.forget(region);
                    });
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
                    for (rail, region) in end.settle(slot, traffic.cut) {
                        traffic.rails[rail].payloads.forget(&region);
                    }
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
        let part = (traffic.me.index() * self.layout.len_bytes()) as u64;
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
        let memory = Memory::new(self.layout.len_bytes());
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
        let layout = self.layout;
        let pair = &mut self.pairs[peer.index()];
        let (cut, me) = (traffic.cut, traffic.me);
        let has_places = kind == Kind::SendCredit && pair.give_places(traffic, slot, layout);
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
                let place = pair.places.get(slot).and_then(Option::as_ref);
                // Where a rail has failed, nothing is written to places any more: see the module.
                let is_for_it = |place: &&Remote| place.is_for(message.generation, len_bytes);
                let place = place.filter(is_for_it).filter(|_| pair.avoided == Rails::default());
                let landing = place.and_then(|place| place.target(number - 1, &range));
                let kind =
                    landing.map_or(notice::Kind::Piece(number - 1), |_| notice::Kind::Landed(number - 1));
                let data = data(kind, message.generation);
                let slot_target = grant.target(slot, CELL_BYTES + range.start, index, cut);
                let target = landing.unwrap_or(slot_target);
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
                let blank = Part { memory: self.blank.whole(), region: self.blank_regions.get(index) };
                let (part, kind, offset) = match &pair.granting {
                    Some((regions, memory)) if has_places => {
                        let memory = memory.piece(layout.places(slot));
                        let part = Part { memory, region: regions.get(index) };
                        (part, notice::Kind::Places, layout.places(slot).start)
                    }
                    _ => (blank, notice::Kind::Credit, layout.unread().start),
                };
                let target = Target { address: mailbox.address + offset as u64, key: mailbox.keys[index] };
                let data = data(kind, end.inbox.generation_of_credit(slot));
                // SAFETY: the memory and the context live until the endpoint is closed; the blank is never written, and a table
                // not while its credit is under way.
                let posted = unsafe { rail.endpoint.post_write(to, part, target, data, context) }?;
                end.inbox.set_credit_under_way(slot, posted);
                Ok(posted)
            }
            (Kind::ReceiveCredit, _, _, _, Some(mailbox)) => {
                let Some((regions, memory)) = &pair.granting else { return Ok(true) };
                let memory = memory.piece(layout.grant());
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
        let slot = &end.slots[end.inbox.current()];
        Ok(slot.arrived(traffic.cut).map(|header| match &slot.given {
            Given::Taken(place) => {
                let payload = place.memory.part(&(0..header.len_bytes as usize));
                // SAFETY: all writes of the message have told of themselves, and the peer never writes to the place again.
                Message { header, payload: unsafe { &*payload } }
            }
            // SAFETY: as above, and the peer writes to the slot again only after the credit that `release` makes due.
            _ => unsafe { end.inbox.message(header) },
        }))
    }

    fn lands_from(&self) -> Option<usize> {
        Some(STAGED_BYTES + 1)
    }

    fn expect_later(&mut self, from: Rank, ahead: usize, landing: Payload) {
        let receive = self.pairs.get_mut(from.index()).and_then(|pair| pair.receive.as_mut());
        if let Some(end) = receive.filter(|end| !end.gives_none) {
            end.told.add(end.inbox.number() + ahead as u64, landing);
        }
    }

    fn withdraw_places(&mut self) {
        for end in self.pairs.iter_mut().filter_map(|pair| pair.receive.as_mut()) {
            end.told.clear();
            end.slots.iter_mut().for_each(|slot| slot.given = Given::Withdrawn);
        }
    }

    fn release(&mut self, traffic: &mut Traffic, from: Rank) -> Result<(), TransportError> {
        let receive = self.pairs.get_mut(from.index()).and_then(|pair| pair.receive.as_mut());
        let end = receive.ok_or(TransportError::NoRoute { peer: from })?;
        if end.slots[end.inbox.current()].arrived(traffic.cut).is_none() {
            return Err(nothing_to_release(from));
        }
        let slot = end.inbox.pass();
        let passed = std::mem::take(&mut end.slots[slot]);
        traffic.counts.landed += u64::from(matches!(passed.given, Given::Taken(_)));
        let credit = |block| Operation { kind: Kind::SendCredit, peer: from, slot: block };
        traffic.wanted.extend(end.inbox.ready(slot).map(credit));
        Ok(())
    }
}

impl Pair {
    /// Gives the peer places for the messages of a block that its next credit allows, where it was told where these belong: writes the
    /// table that goes with the credit. Once for each credit, however often that is sent. Says whether there are any.
    fn give_places(&mut self, traffic: &mut Traffic, block: usize, layout: Layout) -> bool {
        let (Some(end), Some((_, tables))) = (&mut self.receive, &self.granting) else { return false };
        let generation = end.inbox.generation_of_credit(block);
        if let Some((_, has_places)) = end.given[block].filter(|(given, _)| *given == generation) {
            return has_places;
        }
        // The table may still be read.
        if end.inbox.is_credit_under_way(block) {
            return false;
        }
        let (slots, cut) = (traffic.blocks.slots(), traffic.cut);
        let slots_of_block = slots / traffic.blocks.count();
        let of_block = block * slots_of_block..(block + 1) * slots_of_block;
        let mut has_places = false;
        if !end.told.is_empty() && !end.gives_none && self.avoided == Rails::default() {
            end.told.forget_before(end.inbox.number());
            for slot in of_block.clone() {
                let number = generation * slots as u64 + slot as u64;
                let place = end.told.take(number).and_then(|memory| place_for(traffic, slot, memory, cut));
                has_places |= place.is_some();
                end.slots[slot].given = place.map_or(Given::Nothing, Given::Open);
            }
        }
        if has_places {
            let places = end.slots[of_block].iter().map(|slot| match &slot.given {
                Given::Open(place) => Some(place),
                _ => None,
            });
            // SAFETY: no credit of the block is under way, so that nobody reads its table.
            unsafe { tables.write(layout.places(block).start, &layout.table.encode(generation, places)) };
        }
        end.given[block] = Some((generation, has_places));
        has_places
    }

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

/// A place for a message of this slot, where each of its pieces can be written over its rail.
fn place_for(traffic: &mut Traffic, slot: usize, memory: Payload, cut: Cut) -> Option<Place> {
    let len_bytes = memory.len_bytes();
    if len_bytes > cut.slot_bytes() {
        return None;
    }
    let mut region_of = |piece| {
        let part = memory.part(&cut.range(len_bytes, piece));
        traffic.rails[cut.rail(slot, piece)].landing(part)
    };
    let regions = (0..pieces(len_bytes, cut)).map(&mut region_of).collect::<Option<Vec<_>>>()?;
    (!regions.is_empty()).then_some(Place { memory, regions })
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
