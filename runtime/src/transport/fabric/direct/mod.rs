//! Sending and receiving messages by writes on rails, for cards that write into others' memory: what the transport is
//! asked for.
//!
//! What happens by itself, when writes are over or have come, is in [`progress`]; the memory of both ends in [`end`].
//!
//! # Receives
//!
//! A notice needs no memory of ours, but on cards without unsolicited receives it takes a posted receive. As many are
//! posted as notices can come at once, which credits bound: nobody is ever not ready.
//!
//! # Safety
//!
//! The endpoints read and write four kinds of memory, all of which outlive their operations:
//! - slots, stages, mailbox and contexts belong to [`Engine`] and are freed by [`Engine::close`] after the endpoints were
//!   closed, or never where one does not close;
//! - payloads belong to the caller of `try_send`, whose contract is the transport's.
//!
//! A slot is read between the last notice of its message and `release`; its sender writes to it again only after the
//! credit that `release` sends. A part of the mailbox is read when the notice of its grant comes, which comes once.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

mod end;
mod notice;
mod progress;

use std::collections::VecDeque;
use std::time::Duration;

use efarun_wire::Rank;

use self::end::{Grant, ReceiveEnd, SendEnd, Sending, mailbox_bytes, pieces};
use super::FabricConfig;
use super::address::{Address, Mailbox, RailAddress};
use super::engine::Counts;
use super::operation::{Contexts, Kind, Operation};
use super::rail::Rail;
use super::registrations::Registrations;
use super::slot::{CELL_BYTES, Cut, Payload, STAGED_BYTES, encode};
use crate::fabric::{
    Access, Completion, FabricAddress, FabricError, Failure, Info, Memory, MemoryRegion, Target,
};
use crate::transport::{Header, Message, SendToken, TransportError};

/// Open rails and everything that is in flight on them.
#[derive(Debug)]
pub(super) struct Engine {
    // First, so that their endpoints also close first when an engine is dropped by a panic.
    rails: Vec<Rail>,
    peers: Vec<Peer>,
    contexts: Contexts,
    /// Contexts of receives, by rail; none where notices take no receives.
    receives: Vec<Receives>,
    /// Where peers write their grants, a part for each; written to over the first rail.
    mailbox: Memory,
    mailbox_region: MemoryRegion,
    /// A cell that credits are written from.
    blank: Memory,
    blank_regions: Vec<MemoryRegion>,
    /// A cell that receives for notices name, which nothing comes into.
    sink: Memory,
    sink_regions: Vec<MemoryRegion>,
    me: Rank,
    slots: usize,
    cut: Cut,
    /// What is to be posted as soon as the provider takes it.
    wanted: VecDeque<Operation>,
    completed: Vec<SendToken>,
    /// The first failure after which sends can no longer be told complete.
    failure: Option<TransportError>,
    completions: Vec<Completion>,
    failures: Vec<Failure>,
    counts: Counts,
}

/// What this rank has to do with another.
#[derive(Debug, Default)]
struct Peer {
    /// One per rail; none before it is known.
    addresses: Vec<FabricAddress>,
    /// Our part of its mailbox.
    mailbox: Option<Target>,
    /// Its host and its cards, for people.
    host: String,
    nics: Vec<String>,
    /// Where its slots for us are, once it said so; that may be before we open.
    grant: Option<Grant>,
    send: Option<SendEnd>,
    receive: Option<ReceiveEnd>,
    /// The grant as it is written.
    granting: Option<(Memory, MemoryRegion)>,
    /// Why it cannot be reached any more.
    lost: Option<String>,
}

/// Receives for notices on a rail.
#[derive(Debug)]
struct Receives {
    contexts: Memory,
    posted: usize,
    /// Contexts whose receive the provider did not take yet.
    refused: Vec<usize>,
}

impl Engine {
    /// Opens a rail per info.
    pub(super) fn new(infos: &[Info], config: &FabricConfig, cut: Cut) -> Result<Self, FabricError> {
        let world_size = config.world_size as usize;
        let per_peer = operations_of_sender(config.slots) + operations_of_receiver(config.slots);
        let rails: Result<Vec<Rail>, FabricError> =
            infos.iter().map(|info| Rail::open(info, world_size, per_peer + 2)).collect();
        let rails = rails?;
        let mailbox = Memory::new(world_size * mailbox_bytes(infos.len()));
        let blank = Memory::new(CELL_BYTES);
        // SAFETY: both live as long as the endpoints do, or longer; see the module.
        let mailbox_region = unsafe { rails[0].register(mailbox.whole(), Access::WrittenTo) }?;
        // SAFETY: as above.
        let register = |rail: &Rail| unsafe { rail.register(blank.whole(), Access::WriteFrom) };
        let blank_regions = rails.iter().map(register).collect::<Result<_, _>>()?;
        let sink = Memory::new(CELL_BYTES);
        // SAFETY: as above.
        let register = |rail: &Rail| unsafe { rail.register(sink.whole(), Access::Messages) };
        let sink_regions = rails.iter().map(register).collect::<Result<_, _>>()?;
        let receives = |(info, rail): (&Info, &Rail)| {
            let count = if info.wants_receives_for_data() { rail.capacity() } else { 0 };
            Receives { contexts: Memory::new(count * CONTEXT_BYTES), posted: 0, refused: Vec::new() }
        };
        let receives = infos.iter().zip(&rails).map(receives).collect();
        let mut engine = Engine {
            contexts: Contexts::new(config.world_size, config.slots, cut.pieces + 1),
            receives,
            rails,
            peers: (0..world_size).map(|_| Peer::default()).collect(),
            mailbox,
            mailbox_region,
            blank,
            blank_regions,
            sink,
            sink_regions,
            me: Rank(0),
            slots: config.slots,
            cut,
            wanted: VecDeque::new(),
            completed: Vec::new(),
            failure: None,
            completions: Vec::new(),
            failures: Vec::new(),
            counts: Counts { messages: 0, payload_bytes: vec![0; infos.len()] },
        };
        // Every peer may write its grant before we open the pair.
        engine.post_receives(0, world_size);
        Ok(engine)
    }

    /// The rails' own addresses.
    pub(super) fn addresses(&self) -> Result<Vec<RailAddress>, FabricError> {
        self.rails.iter().map(Rail::address).collect()
    }

    /// Where peers write their grants.
    pub(super) fn mailbox(&self) -> Mailbox {
        Mailbox { address: self.mailbox.whole().cast::<u8>().addr() as u64, key: self.mailbox_region.key() }
    }

    /// Says which rank this is; before anything is opened.
    pub(super) fn set_rank(&mut self, me: Rank) {
        self.me = me;
    }

    /// Learns how to reach a peer, which has as many rails.
    pub(super) fn insert(&mut self, rank: Rank, theirs: &Address) -> Result<(), TransportError> {
        let inserted: Result<Vec<_>, FabricError> =
            self.rails.iter().zip(&theirs.rails).map(|(rail, theirs)| rail.insert(&theirs.raw)).collect();
        let inserted = inserted?;
        let part = self.me.index() * mailbox_bytes(self.rails.len());
        let peer = self.peer(rank)?;
        peer.addresses = inserted;
        peer.mailbox = theirs
            .mailbox
            .map(|mailbox| Target { address: mailbox.address.wrapping_add(part as u64), key: mailbox.key });
        peer.host = theirs.host.clone();
        peer.nics = theirs.rails.iter().map(|rail| rail.nic.clone()).collect();
        Ok(())
    }

    /// Makes the end that receives from a peer, if there is none yet, and tells the peer where it is.
    pub(super) fn open_receive(&mut self, from: Rank) -> Result<(), TransportError> {
        self.reachable(from)?;
        if self.peers[from.index()].receive.is_none() {
            self.reserve(operations_of_receiver(self.slots))?;
            let mut end = ReceiveEnd::new(self.slots, self.cut);
            // SAFETY: ends drop their regions before their memory, and are dropped after the endpoints were closed.
            let register = |rail: &Rail| unsafe { rail.register(end.memory.whole(), Access::WrittenTo) };
            end.regions = self.rails.iter().map(register).collect::<Result<_, _>>()?;
            let address = end.memory.whole().cast::<u8>().expose_provenance() as u64;
            let grant = Grant { address, keys: end.regions.iter().map(MemoryRegion::key).collect() };
            let memory = Memory::new(mailbox_bytes(self.rails.len()));
            // SAFETY: nobody knows of the memory yet; it is dropped as the end is.
            let region = unsafe {
                memory.write(0, &grant.to_bytes());
                self.rails[0].register(memory.whole(), Access::WriteFrom)
            }?;
            let peer = &mut self.peers[from.index()];
            peer.receive = Some(end);
            peer.granting = Some((memory, region));
            for rail in 0..self.rails.len() {
                self.post_receives(rail, 2 * self.slots);
            }
            // Named as the pair's receive of credits, which there is none of here.
            self.wanted.push_back(Operation { kind: Kind::ReceiveCredit, peer: from, slot: 0 });
            self.post_wanted();
            self.check()?;
        }
        Ok(())
    }

    /// Makes the end that sends to a peer, if there is none yet.
    pub(super) fn open_send(&mut self, to: Rank) -> Result<(), TransportError> {
        self.reachable(to)?;
        if self.peers[to.index()].send.is_none() {
            self.reserve(operations_of_sender(self.slots))?;
            let mut end = SendEnd::new(self.slots);
            // SAFETY: as in `open_receive`.
            let register = |rail: &Rail| unsafe { rail.register(end.memory.whole(), Access::WriteFrom) };
            end.regions = self.rails.iter().map(register).collect::<Result<_, _>>()?;
            self.peers[to.index()].send = Some(end);
            for rail in 0..self.rails.len() {
                self.post_receives(rail, self.slots);
            }
            self.check()?;
        }
        Ok(())
    }

    /// Posts the next message to a peer, if there is a slot for it.
    ///
    /// # Safety
    ///
    /// The payload stays allocated and unchanged until the token came out of [`Engine::poll`] or [`Engine::close`]
    /// has returned.
    pub(super) unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError> {
        self.check()?;
        let peer = self.peers.get_mut(to.index()).ok_or(TransportError::NoRoute { peer: to })?;
        if let Some(cause) = &peer.lost {
            return Err(TransportError::PeerLost { peer: to, cause: cause.clone() });
        }
        let Some(end) = &mut peer.send else { return Err(TransportError::NoRoute { peer: to }) };
        let (Some((slot, generation)), Some(_)) = (end.free_slot(), &peer.grant) else { return Ok(false) };
        let stage = end.stage(slot, 0);
        // SAFETY: the slot's last message is written completely, so nobody reads the stage.
        unsafe { end.memory.write(stage.start, &encode(header)) };
        if payload.len() <= STAGED_BYTES {
            // SAFETY: as above; the payload is the caller's, allocated and unchanged during the call.
            unsafe { end.memory.write(stage.end, &*payload) };
        }
        let count = 1 + pieces(payload.len(), self.cut);
        let payload = Payload::new(payload);
        end.slots[slot].sending = Some(Sending { token, payload, generation, left: count });
        let write = |number| Operation { kind: Kind::SendPiece(number), peer: to, slot };
        let posted = self.post(write(0));
        let end = self.peers[to.index()].send.as_mut().expect("seen above");
        match posted {
            Ok(true) => {
                end.next += 1;
                self.counts.messages += 1;
                for number in 1..count {
                    match self.post(write(number)) {
                        Ok(true) => {}
                        Ok(false) => self.wanted.push_back(write(number)),
                        Err(error) => return Err(self.lose(to, error.to_string())),
                    }
                }
                Ok(true)
            }
            Ok(false) => {
                end.slots[slot].sending = None;
                Ok(false)
            }
            Err(error) => {
                end.slots[slot].sending = None;
                Err(TransportError::PeerLost { peer: to, cause: error.to_string() })
            }
        }
    }

    /// The next message from a peer, if it is here.
    pub(super) fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let cut = self.cut;
        let peer = self.peer(from)?;
        let Some(end) = &peer.receive else { return Err(TransportError::NoRoute { peer: from }) };
        let slot = end.current();
        match (end.slots[slot].arrived(cut), &peer.lost) {
            (Some(header), _) => {
                let range = end.payload(slot, header.len_bytes as usize);
                // SAFETY: all writes of the message have told of themselves, and the peer writes to the slot again only
                // after `release`, which needs `&mut self`.
                let payload = unsafe { end.memory.bytes(range) };
                Ok(Some(Message { header, payload }))
            }
            (None, Some(cause)) => Err(TransportError::PeerLost { peer: from, cause: cause.clone() }),
            (None, None) => Ok(None),
        }
    }

    /// Gives the slot of the current message back to its sender.
    pub(super) fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        let cut = self.cut;
        let peer = self.peer(from)?;
        let Some(end) = &mut peer.receive else { return Err(TransportError::NoRoute { peer: from }) };
        let index = end.current();
        let slot = &mut end.slots[index];
        if slot.arrived(cut).is_none() {
            return Err(TransportError::Call {
                call: "release",
                code: libc::EINVAL,
                cause: format!("no message of rank {from} is here"),
            });
        }
        slot.header = None;
        slot.pieces = 0;
        slot.generation += 1;
        end.next += 1;
        self.wanted.push_back(Operation { kind: Kind::SendCredit, peer: from, slot: index });
        self.post_wanted();
        Ok(())
    }

    /// What was sent.
    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Forgets the regions of the last operation's payloads, where none is still being written from.
    pub(super) fn begin_operation(&mut self) {
        let is_sending =
            |peer: &Peer| peer.send.iter().flat_map(|end| &end.slots).any(|slot| slot.sending.is_some());
        if !self.peers.iter().any(is_sending) {
            self.rails.iter_mut().for_each(|rail| rail.payloads.forget());
        }
    }

    /// Closes the endpoints, then the regions, then frees the memory. Where an endpoint does not close that is an error,
    /// and all memory stays.
    pub(super) fn close(self) -> Result<(), FabricError> {
        let Engine { rails, peers, contexts, receives, .. } = self;
        let regions = (self.mailbox_region, self.blank_regions, self.sink_regions);
        let memory = (self.mailbox, self.blank, self.sink);
        let closed: Vec<Result<Registrations, FabricError>> = rails.into_iter().map(Rail::close).collect();
        match closed.into_iter().collect::<Result<Vec<Registrations>, FabricError>>() {
            Ok(payloads) => {
                drop((payloads, regions));
                Ok(())
            }
            Err(error) => {
                // What the provider may still touch must stay.
                std::mem::forget((peers, contexts, receives, regions, memory));
                Err(error)
            }
        }
    }

    fn check(&self) -> Result<(), TransportError> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn peer(&mut self, rank: Rank) -> Result<&mut Peer, TransportError> {
        self.peers.get_mut(rank.index()).ok_or(TransportError::NoRoute { peer: rank })
    }

    fn reachable(&mut self, rank: Rank) -> Result<(), TransportError> {
        if self.peer(rank)?.addresses.is_empty() {
            return Err(TransportError::NoRoute { peer: rank });
        }
        Ok(())
    }

    /// Room in every rail's queue for one end of a pair.
    fn reserve(&mut self, operations: usize) -> Result<(), TransportError> {
        self.rails.iter_mut().try_for_each(|rail| rail.reserve(operations))
    }
}

/// What a sending end has in flight on a rail at most: of each slot the header and a piece, and a credit that comes.
fn operations_of_sender(slots: usize) -> usize {
    3 * slots
}

/// What a receiving end has in flight on a rail at most: of each slot a header and a piece that come, and a credit; and
/// the grant.
fn operations_of_receiver(slots: usize) -> usize {
    3 * slots + 1
}

/// `struct fi_context2`.
const CONTEXT_BYTES: usize = 64;
/// How long a wait may be while something is refused.
const RETRY: Duration = Duration::from_micros(200);
