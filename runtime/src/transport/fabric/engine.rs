//! Sending and receiving messages by tagged operations on rails: what the transport is asked for.
//!
//! What happens by itself, when operations are over or can be posted at last, is in [`super::progress`].
//!
//! # Safety
//!
//! The endpoints read and write four kinds of memory, all of which outlive their operations:
//! - slots, cells and contexts belong to [`Engine`] and are freed by [`Engine::close`] after the endpoints were closed,
//!   or never where one does not close;
//! - payloads belong to the caller of `try_send`, whose contract is the transport's.
//!
//! Of a slot, nothing is read or written here while a receive for its pieces is posted, but for those that no message
//! here has: `arrived` is set by the completions of all pieces of a message and taken back before the next receives are
//! posted. Of a cell that is sent, nothing is written while `sending` or `credit_in_flight` says that the send is not
//! complete.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::FabricConfig;
use super::address::{Address, RailAddress};
use super::operation::{Contexts, Kind, Operation};
use super::rail::Rail;
use super::registrations::Registrations;
use super::slot::{Cut, Payload, ReceiveEnd, STAGED_BYTES, SendEnd, Sending, encode};
use crate::fabric::{Access, Completion, FabricAddress, FabricError, Failure, Info, Memory, MemoryRegion};
use crate::transport::{Header, Message, SendToken, TransportError};

/// Open rails and everything that is in flight on them.
#[derive(Debug)]
pub(super) struct Engine {
    // First, so that their endpoints also close first when an engine is dropped by a panic.
    pub(super) rails: Vec<Rail>,
    pub(super) peers: Vec<Peer>,
    pub(super) contexts: Contexts,
    pub(super) me: Rank,
    pub(super) is_efa: bool,
    /// The provider wants what it sends and receives into registered.
    pub(super) wants_regions: bool,
    /// An endpoint may be closed while messages are under way.
    closes_any_time: bool,
    slots: usize,
    pub(super) cut: Cut,
    /// What is to be posted as soon as the provider takes it.
    pub(super) wanted: VecDeque<Operation>,
    /// The provider refused something since the last poll, and need not say when it would take it.
    pub(super) refused: bool,
    /// How long to sleep at most while something is refused; grows while nothing happens.
    pub(super) retry: Duration,
    /// How long a peer may be refused before it counts as lost. None where completions tell of every loss.
    pub(super) patience: Option<Duration>,
    pub(super) completed: Vec<SendToken>,
    /// The first failure after which sends can no longer be told complete.
    pub(super) failure: Option<TransportError>,
    pub(super) completions: Vec<Completion>,
    pub(super) failures: Vec<Failure>,
    pub(super) counts: Counts,
}

/// What was sent, for comparing with schedules and with what cards count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages.
    pub messages: u64,
    /// Their payloads' bytes, by rail.
    pub payload_bytes: Vec<u64>,
}

/// What this rank has to do with another.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// One per rail; none before it is known.
    pub(super) addresses: Vec<FabricAddress>,
    /// Its host and its cards, for people.
    pub(super) host: String,
    pub(super) nics: Vec<String>,
    pub(super) send: Option<SendEnd>,
    pub(super) receive: Option<ReceiveEnd>,
    /// Since when the provider has refused what goes to this peer, though there was a connection to it.
    pub(super) refused_since: Option<Instant>,
    /// Why it cannot be reached any more.
    pub(super) lost: Option<String>,
}

impl Engine {
    /// Opens a rail per info.
    pub(super) fn new(infos: &[Info], config: &FabricConfig, cut: Cut) -> Result<Self, FabricError> {
        let world_size = config.world_size as usize;
        let per_peer = operations_per_pair(config.slots) * 2;
        let rails: Result<Vec<Rail>, FabricError> =
            infos.iter().map(|info| Rail::open(info, world_size, per_peer)).collect();
        let is_efa = infos.iter().any(Info::is_efa);
        Ok(Engine {
            rails: rails?,
            peers: (0..world_size).map(|_| Peer::default()).collect(),
            contexts: Contexts::new(config.world_size, config.slots, cut.pieces),
            me: Rank(0),
            is_efa,
            wants_regions: infos.iter().any(Info::wants_local_registration),
            closes_any_time: !is_efa || infos[0].library().version().number() >= CLOSES_ANY_TIME,
            slots: config.slots,
            cut,
            wanted: VecDeque::new(),
            refused: false,
            retry: super::progress::FIRST_RETRY,
            patience: (!is_efa).then_some(config.patience),
            completed: Vec::new(),
            failure: None,
            completions: Vec::new(),
            failures: Vec::new(),
            counts: Counts { messages: 0, payload_bytes: vec![0; infos.len()] },
        })
    }

    /// The rails' own addresses.
    pub(super) fn addresses(&self) -> Result<Vec<RailAddress>, FabricError> {
        let address =
            |rail: &Rail| rail.endpoint.address().map(|raw| RailAddress { nic: rail.nic.clone(), raw });
        self.rails.iter().map(address).collect()
    }

    /// Says which rank this is; before anything is opened.
    pub(super) fn set_rank(&mut self, me: Rank) {
        self.me = me;
    }

    /// Learns how to reach a peer, which has as many rails.
    pub(super) fn insert(&mut self, peer: Rank, theirs: &Address) -> Result<(), TransportError> {
        let inserted: Result<Vec<_>, FabricError> =
            self.rails.iter().zip(&theirs.rails).map(|(rail, theirs)| rail.insert(&theirs.raw)).collect();
        let inserted = inserted?;
        let peer = self.peer(peer)?;
        peer.addresses = inserted;
        peer.host = theirs.host.clone();
        peer.nics = theirs.rails.iter().map(|rail| rail.nic.clone()).collect();
        Ok(())
    }

    /// Makes the end that receives from a peer, if there is none yet.
    pub(super) fn open_receive(&mut self, from: Rank) -> Result<(), TransportError> {
        self.reachable(from)?;
        if self.peers[from.index()].receive.is_none() {
            self.reserve()?;
            let mut end = ReceiveEnd::new(self.slots, self.cut);
            end.regions = self.register_slots(&end.memory)?;
            self.peers[from.index()].receive = Some(end);
            for slot in 0..self.slots {
                let receive = |piece| Operation { kind: Kind::ReceivePiece(piece), peer: from, slot };
                self.wanted.extend((0..self.cut.pieces).map(receive));
            }
            self.post_wanted();
            self.check()?;
        }
        Ok(())
    }

    /// Makes the end that sends to a peer, if there is none yet.
    pub(super) fn open_send(&mut self, to: Rank) -> Result<(), TransportError> {
        self.reachable(to)?;
        if self.peers[to.index()].send.is_none() {
            self.reserve()?;
            let mut end = SendEnd::new(self.slots, self.cut);
            end.regions = self.register_slots(&end.memory)?;
            self.peers[to.index()].send = Some(end);
            let receive = |slot| Operation { kind: Kind::ReceiveCredit, peer: to, slot };
            self.wanted.extend((0..self.slots).map(receive));
            self.post_wanted();
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
        let peer = self.peers.get(to.index()).ok_or(TransportError::NoRoute { peer: to })?;
        if let Some(cause) = &peer.lost {
            return Err(TransportError::PeerLost { peer: to, cause: cause.clone() });
        }
        let Some(end) = &peer.send else { return Err(TransportError::NoRoute { peer: to }) };
        let Some((slot, _)) = end.free_slot() else { return Ok(false) };
        let stage = end.stage(slot, 0);
        // SAFETY: the slot's last send is complete, so nobody reads the stage.
        unsafe { end.memory.write(stage.start, &encode(header)) };
        if payload.len() <= STAGED_BYTES {
            // SAFETY: as above; the payload is the caller's, allocated and unchanged during the call.
            unsafe { end.memory.write(stage.end, &*payload) };
        }
        let pieces = self.cut.count(payload.len());
        let end = self.peers[to.index()].send.as_mut().expect("seen above");
        end.slots[slot].sending = Some(Sending { token, payload: Payload::new(payload), left: pieces });
        let send = |piece| Operation { kind: Kind::SendPiece(piece), peer: to, slot };
        let posted = self.post(send(0));
        let peer = &mut self.peers[to.index()];
        let end = peer.send.as_mut().expect("seen above");
        match posted {
            Ok(true) => {
                end.next += 1;
                peer.refused_since = None;
                self.counts.messages += 1;
                for piece in 1..pieces {
                    match self.post(send(piece)) {
                        Ok(true) => {}
                        Ok(false) => self.wanted.push_back(send(piece)),
                        Err(error) => return Err(self.lose(to, error.to_string())),
                    }
                }
                Ok(true)
            }
            Ok(false) => {
                end.slots[slot].sending = None;
                self.refused = true;
                // It gave credit, so it was connected.
                match self.patience.and_then(|patience| peer.still_refused(patience)) {
                    Some(cause) => Err(TransportError::PeerLost { peer: to, cause }),
                    None => Ok(false),
                }
            }
            Err(error) => {
                end.slots[slot].sending = None;
                Err(TransportError::PeerLost { peer: to, cause: error.to_string() })
            }
        }
    }

    /// The next message from a peer, if it is here.
    pub(super) fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let peer = self.peer(from)?;
        let Some(end) = &peer.receive else { return Err(TransportError::NoRoute { peer: from }) };
        let slot = end.current();
        match (end.slots[slot].arrived, &peer.lost) {
            (Some(header), _) => {
                let range = end.payload(slot, header.len_bytes as usize);
                // SAFETY: all pieces of the message are here, so their receives are over, and the next are posted by
                // `release` only, which needs `&mut self`.
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
        let Some(header) = slot.arrived.take() else {
            return Err(TransportError::Call {
                call: "release",
                code: libc::EINVAL,
                cause: format!("no message of rank {from} is here"),
            });
        };
        let pieces = cut.count(header.len_bytes as usize);
        slot.here[..pieces].fill(None);
        slot.unposted = pieces;
        slot.generation += 1;
        end.next += 1;
        let receive = |piece| Operation { kind: Kind::ReceivePiece(piece), peer: from, slot: index };
        self.wanted.extend((0..pieces).map(receive));
        self.post_wanted();
        Ok(())
    }

    /// What was sent.
    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Whether the next message to a peer has a slot.
    #[cfg(test)]
    pub(super) fn has_credit(&self, to: Rank) -> bool {
        self.peers[to.index()].send.as_ref().is_some_and(|end| end.free_slot().is_some())
    }

    /// Closes the endpoints, then the regions, then frees the memory. Where an endpoint does not close that is an error,
    /// and all memory stays.
    pub(super) fn close(mut self) -> Result<(), FabricError> {
        if !self.closes_any_time && !self.is_quiet_within(DRAIN_PATIENCE) {
            log::info!("this release of libfabric crashes in closing an endpoint in use, which is left open");
            std::mem::forget(self);
            return Ok(());
        }
        let Engine { rails, peers, contexts, .. } = self;
        let closed: Vec<Result<Registrations, FabricError>> = rails.into_iter().map(Rail::close).collect();
        let closed: Result<Vec<Registrations>, FabricError> = closed.into_iter().collect();
        match closed {
            Ok(payloads) => {
                drop(payloads);
                Ok(())
            }
            Err(error) => {
                // What the provider may still touch must stay.
                std::mem::forget((peers, contexts));
                Err(error)
            }
        }
    }

    /// Lets what is under way end. What cannot be known is whether a peer has begun to send what we have room for; it has
    /// not where ranks have met before, as they have in a World that is closed without an error.
    fn is_quiet_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let is_broken = self.failure.is_some() || self.peers.iter().any(|peer| peer.lost.is_some());
            let is_sending = |end: &SendEnd| end.slots.iter().any(|slot| slot.sending.is_some());
            let is_receiving =
                |end: &ReceiveEnd| end.slots.iter().any(|slot| slot.here.iter().any(Option::is_some));
            let is_busy = |peer: &Peer| {
                peer.send.as_ref().is_some_and(is_sending) || peer.receive.as_ref().is_some_and(is_receiving)
            };
            let is_busy = self.peers.iter().any(is_busy);
            if is_broken || !is_busy || Instant::now() > deadline {
                return !is_broken && !is_busy;
            }
            self.wait(Duration::from_millis(1));
        }
    }

    pub(super) fn check(&self) -> Result<(), TransportError> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn peer(&mut self, rank: Rank) -> Result<&mut Peer, TransportError> {
        self.peers.get_mut(rank.index()).ok_or(TransportError::NoRoute { peer: rank })
    }

    fn reachable(&mut self, rank: Rank) -> Result<(), TransportError> {
        if self.peer(rank)?.addresses.is_empty() {
            return Err(TransportError::NoRoute { peer: rank });
        }
        Ok(())
    }

    /// Room in every rail's queue for one end of a pair.
    fn reserve(&mut self) -> Result<(), TransportError> {
        let operations = operations_per_pair(self.slots);
        self.rails.iter_mut().try_for_each(|rail| rail.reserve(operations))
    }

    /// Regions of an end's memory, one per rail, where the provider wants any.
    fn register_slots(&self, memory: &Memory) -> Result<Vec<MemoryRegion>, FabricError> {
        if !self.wants_regions {
            return Ok(Vec::new());
        }
        // SAFETY: ends drop their regions before their memory, and are dropped after the endpoints were closed.
        let register = |rail: &Rail| unsafe { rail.register(memory.whole(), Access::Messages) };
        self.rails.iter().map(register).collect()
    }

    /// Forgets the regions of the last operation's payloads, where none is still being sent.
    pub(super) fn begin_operation(&mut self) {
        let is_sending =
            |peer: &Peer| peer.send.iter().flat_map(|end| &end.slots).any(|slot| slot.sending.is_some());
        if self.wants_regions && !self.peers.iter().any(is_sending) {
            self.rails.iter_mut().for_each(|rail| rail.payloads.forget());
        }
    }
}

impl Peer {
    /// Notes that the provider refused something for this peer. After `patience` the peer is lost: tcp providers never
    /// say that a connection is gone, they make new ones for ever.
    pub(super) fn still_refused(&mut self, patience: Duration) -> Option<String> {
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if self.lost.is_none() && since.elapsed() > patience {
            self.lost = Some(format!("its connection is gone, and no new one was made in {patience:?}"));
        }
        self.lost.clone()
    }
}

/// From which release on the EFA provider closes an endpoint that is receiving: 1.22.0 was seen to crash there, 2.5.1 was
/// not.
const CLOSES_ANY_TIME: u32 = 2 << 16 | 5;
/// How long closing waits for what is under way, on releases before that.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// What one end of a pair has in flight on a rail at most: of each slot a piece and a credit.
fn operations_per_pair(slots: usize) -> usize {
    2 * slots
}
