//! Posting operations and taking in their completions.
//!
//! # Safety
//!
//! The endpoint reads and writes four kinds of memory, all of which outlive its operations:
//! - slots, cells and contexts belong to [`Engine`] and are freed by [`Engine::close`] after the endpoint was closed,
//!   or never where it does not close;
//! - payloads belong to the caller of `try_send`, whose contract is the transport's.
//!
//! Of a slot, nothing is read or written here while its receive is posted: `arrived` is set by the completion and
//! taken back before the next receive is posted. Of a cell that is sent, nothing is written while `in_flight` or
//! `credit_in_flight` says that the send is not complete.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::FabricConfig;
use super::operation::{Contexts, Kind, Operation};
use super::slot::{CELL_BYTES, ReceiveEnd, SendEnd, decode, encode};
use super::tag::{Class, tag};
use crate::fabric::{
    AddressVector, Completion, CompletionQueue, Domain, Endpoint, EventQueue, Fabric, FabricAddress,
    FabricError, Failure, Info, MemoryRegion, Part,
};
use crate::transport::{Header, Message, SendToken, TransportError};

/// An open endpoint and everything that is in flight on it.
#[derive(Debug)]
pub(super) struct Engine {
    // First, so that it also closes first when an engine is dropped by a panic.
    endpoint: Endpoint,
    peers: Vec<Peer>,
    contexts: Contexts,
    me: Rank,
    slots: usize,
    slot_bytes: usize,
    /// What is to be posted as soon as the provider takes it.
    wanted: VecDeque<Operation>,
    /// The provider refused something since the last poll, and need not say when it would take it.
    refused: bool,
    /// How long to sleep at most while something is refused; grows while nothing happens.
    retry: Duration,
    patience: Duration,
    completed: Vec<SendToken>,
    /// The first failure after which sends can no longer be told complete.
    failure: Option<TransportError>,
    cq: Arc<CompletionQueue>,
    eq: Arc<EventQueue>,
    av: Arc<AddressVector>,
    completions: Vec<Completion>,
    failures: Vec<Failure>,
}

/// What this rank has to do with another.
#[derive(Debug, Default)]
struct Peer {
    address: Option<FabricAddress>,
    send: Option<SendEnd>,
    receive: Option<ReceiveEnd>,
    /// Since when the provider has refused what goes to this peer, though there was a connection to it.
    refused_since: Option<Instant>,
    /// Why it cannot be reached any more.
    lost: Option<String>,
}

impl Engine {
    /// Opens an endpoint as the info says.
    pub(super) fn new(info: &Info, config: &FabricConfig) -> Result<Self, FabricError> {
        let fabric = Fabric::open(info)?;
        let domain = Domain::open(&fabric)?;
        let world_size = config.world_size as usize;
        let av = AddressVector::open(&domain, world_size)?;
        let cq = CompletionQueue::open(&domain, (world_size * 4 * config.slots).clamp(1 << 8, 1 << 14))?;
        let eq = EventQueue::open(&fabric)?;
        let endpoint = Endpoint::open(&domain, &av, &cq, &eq)?;
        Ok(Engine {
            endpoint,
            peers: (0..world_size).map(|_| Peer::default()).collect(),
            contexts: Contexts::new(config.world_size, config.slots),
            me: Rank(0),
            slots: config.slots,
            slot_bytes: config.slot_bytes,
            wanted: VecDeque::new(),
            refused: false,
            retry: FIRST_RETRY,
            patience: config.patience,
            completed: Vec::new(),
            failure: None,
            cq,
            eq,
            av,
            completions: Vec::new(),
            failures: Vec::new(),
        })
    }

    /// The endpoint's own address.
    pub(super) fn address(&self) -> Result<Vec<u8>, FabricError> {
        self.endpoint.address()
    }

    /// Says which rank this is; before anything is opened.
    pub(super) fn set_rank(&mut self, me: Rank) {
        self.me = me;
    }

    /// Learns how to reach a peer.
    pub(super) fn insert(&mut self, peer: Rank, address: &[u8]) -> Result<(), TransportError> {
        let inserted = self.av.insert(address)?;
        self.peer(peer)?.address = Some(inserted);
        Ok(())
    }

    /// Makes the end that receives from a peer, if there is none yet.
    pub(super) fn open_receive(&mut self, from: Rank) -> Result<(), TransportError> {
        self.reachable(from)?;
        if self.peers[from.index()].receive.is_none() {
            let mut end = ReceiveEnd::new(self.slots, self.slot_bytes);
            end.region = self.register(end.memory.whole())?;
            self.peers[from.index()].receive = Some(end);
            self.want_all(Kind::ReceiveMessage, from)?;
        }
        Ok(())
    }

    /// Makes the end that sends to a peer, if there is none yet.
    pub(super) fn open_send(&mut self, to: Rank) -> Result<(), TransportError> {
        self.reachable(to)?;
        if self.peers[to.index()].send.is_none() {
            let mut end = SendEnd::new(self.slots);
            end.region = self.register(end.memory.whole())?;
            self.peers[to.index()].send = Some(end);
            self.want_all(Kind::ReceiveCredit, to)?;
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
        let (Some(address), Some(end)) = (peer.address, &peer.send) else {
            return Err(TransportError::NoRoute { peer: to });
        };
        let Some((slot, generation)) = end.free_slot() else { return Ok(false) };
        let region = if payload.is_empty() { None } else { self.register(payload.cast_mut())? };
        let cell = end.header_cell(slot);
        // SAFETY: the slot's last send is complete, so nobody reads the cell.
        unsafe { end.memory.write(cell.start, &encode(header)) };
        let parts = [
            Part { memory: end.memory.piece(cell), region: end.region.as_ref() },
            Part { memory: payload, region: region.as_ref() },
        ];
        let parts = if payload.is_empty() { &parts[..1] } else { &parts[..] };
        let context = self.contexts.context(Operation { kind: Kind::SendMessage, peer: to, slot });
        // SAFETY: cell and context live until the endpoint is closed and are not written while the send is in flight;
        // the payload is the caller's promise.
        let posted = unsafe {
            self.endpoint.post_send(address, tag(Class::Message, self.me, slot, generation), parts, context)
        };
        let peer = &mut self.peers[to.index()];
        match posted {
            Ok(true) => {
                let end = peer.send.as_mut().expect("seen above");
                end.slots[slot].in_flight = Some((token, region));
                end.next += 1;
                peer.refused_since = None;
                Ok(true)
            }
            Ok(false) => {
                self.refused = true;
                // It gave credit, so it was connected.
                match peer.still_refused(self.patience) {
                    Some(cause) => Err(TransportError::PeerLost { peer: to, cause }),
                    None => Ok(false),
                }
            }
            Err(error) => Err(TransportError::PeerLost { peer: to, cause: error.to_string() }),
        }
    }

    /// Takes in what is over, posts what is wanted, and appends the tokens of complete sends.
    pub(super) fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.refused = false;
        self.cq.read(&mut self.completions, &mut self.failures)?;
        self.take_in();
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
        if let Err(error) = self.cq.wait(timeout, &mut self.completions, &mut self.failures) {
            self.fail(error.into());
        }
        self.take_in();
        self.post_wanted();
    }

    /// The next message from a peer, if it is here.
    pub(super) fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let peer = self.peer(from)?;
        let Some(end) = &peer.receive else { return Err(TransportError::NoRoute { peer: from }) };
        let slot = end.current();
        match (end.slots[slot].arrived, &peer.lost) {
            (Some(header), _) => {
                let range = end.payload(slot, header.len_bytes as usize);
                // SAFETY: the message is here, so its receive is over, and the next is posted by `release` only,
                // which needs `&mut self`.
                let payload = unsafe { end.memory.bytes(range) };
                Ok(Some(Message { header, payload }))
            }
            (None, Some(cause)) => Err(TransportError::PeerLost { peer: from, cause: cause.clone() }),
            (None, None) => Ok(None),
        }
    }

    /// Gives the slot of the current message back to its sender.
    pub(super) fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        let peer = self.peer(from)?;
        let Some(end) = &mut peer.receive else { return Err(TransportError::NoRoute { peer: from }) };
        let slot = end.current();
        if end.slots[slot].arrived.take().is_none() {
            return Err(TransportError::Call {
                call: "release",
                code: libc::EINVAL,
                cause: format!("no message of rank {from} is here"),
            });
        }
        end.slots[slot].generation += 1;
        end.next += 1;
        self.wanted.push_back(Operation { kind: Kind::ReceiveMessage, peer: from, slot });
        self.post_wanted();
        Ok(())
    }

    /// Whether the next message to a peer has a slot.
    #[cfg(test)]
    pub(super) fn has_credit(&self, to: Rank) -> bool {
        self.peers[to.index()].send.as_ref().is_some_and(|end| end.free_slot().is_some())
    }

    /// Closes the endpoint, then the regions, then frees the memory.
    pub(super) fn close(self) {
        let Engine { endpoint, peers, contexts, .. } = self;
        if let Err(error) = endpoint.close() {
            // What the provider may still touch must stay.
            log::error!("the endpoint does not close, its memory is left allocated: {error}");
            std::mem::forget((peers, contexts));
        }
    }

    /// Takes in completions and failures that were read.
    fn take_in(&mut self) {
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
                Some(operation) => self.fail_operation(operation, failure),
                None => self.fail(TransportError::Call {
                    call: "fi_cq_readerr",
                    code: failure.code,
                    cause: failure.text,
                }),
            }
        }
        if let Err(error) = self.eq.check() {
            self.fail(error.into());
        }
    }

    fn complete(&mut self, operation: Operation, len_bytes: usize) {
        let Operation { kind, peer: rank, slot } = operation;
        let peer = &mut self.peers[rank.index()];
        match (kind, &mut peer.send, &mut peer.receive) {
            (Kind::SendMessage, Some(end), _) => {
                self.completed.extend(end.slots[slot].in_flight.take().map(|(token, _region)| token));
            }
            (Kind::ReceiveCredit, Some(end), _) => {
                end.slots[slot].granted += 1;
                self.wanted.push_back(operation);
            }
            (Kind::ReceiveMessage, _, Some(end)) => {
                // SAFETY: the receive is over and the next is not posted yet.
                let header = decode(unsafe { end.memory.bytes(end.header(slot)) }, len_bytes);
                match header {
                    Some(header) => end.slots[slot].arrived = Some(header),
                    None => peer.lost = Some(format!("it sent a message of {len_bytes} bytes that is none")),
                }
            }
            (Kind::SendCredit, _, Some(end)) => end.slots[slot].credit_in_flight = false,
            _ => log::warn!("a completion of an operation that was never posted: {operation:?}"),
        }
    }

    fn fail_operation(&mut self, operation: Operation, failure: Failure) {
        let Operation { kind, peer: rank, slot } = operation;
        let peer = &mut self.peers[rank.index()];
        let cause = match kind {
            Kind::ReceiveMessage | Kind::ReceiveCredit if failure.code == TRUNCATED => {
                format!("it sent a message that is larger than a slot: {}", failure.text)
            }
            _ => failure.text,
        };
        if kind == Kind::SendMessage {
            // Its token never comes: nothing that waits for this send can end well.
            if let Some(end) = &mut peer.send {
                end.slots[slot].in_flight = None;
            }
            self.fail(TransportError::PeerLost { peer: rank, cause: cause.clone() });
        }
        self.peers[rank.index()].lost.get_or_insert(cause);
    }

    fn fail(&mut self, error: TransportError) {
        self.failure.get_or_insert(error);
    }

    fn check(&self) -> Result<(), TransportError> {
        match &self.failure {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Posts what waits for room, each once; what is refused waits on, in order.
    fn post_wanted(&mut self) {
        for _ in 0..self.wanted.len() {
            let Some(operation) = self.wanted.pop_front() else { break };
            match self.post(operation) {
                Ok(true) if operation.kind == Kind::ReceiveMessage => {
                    // Only now that the slot can take a message may the peer send one.
                    self.wanted.push_back(Operation { kind: Kind::SendCredit, ..operation });
                }
                Ok(true) => self.peers[operation.peer.index()].refused_since = None,
                // What is never taken any more is not wanted either: `lost` says so to whoever needs the peer.
                Ok(false) if self.is_lost_after(operation) => {}
                Ok(false) => self.wanted.push_back(operation),
                Err(error) => {
                    self.peers[operation.peer.index()].lost.get_or_insert(error.to_string());
                }
            }
        }
    }

    fn post(&mut self, operation: Operation) -> Result<bool, FabricError> {
        let Operation { kind, peer: rank, slot } = operation;
        let context = self.contexts.context(operation);
        let peer = &mut self.peers[rank.index()];
        match (kind, &mut peer.send, &mut peer.receive, peer.address) {
            (Kind::ReceiveCredit, Some(end), _, _) => {
                let tag = tag(Class::Credit, rank, slot, end.slots[slot].granted);
                let cell = end.memory.piece(end.credit_cell(slot));
                // SAFETY: cell and context live until the endpoint is closed, and are not touched meanwhile.
                unsafe { self.endpoint.post_receive(tag, cell, end.region.as_ref(), context) }
            }
            (Kind::ReceiveMessage, _, Some(end), _) => {
                let tag = tag(Class::Message, rank, slot, end.slots[slot].generation);
                let memory = end.memory.piece(end.slot(slot));
                // SAFETY: slot and context live until the endpoint is closed; `arrived` is `None`, so that no message
                // is read there.
                unsafe { self.endpoint.post_receive(tag, memory, end.region.as_ref(), context) }
            }
            (Kind::SendCredit, _, Some(end), Some(address)) => {
                if end.slots[slot].credit_in_flight {
                    return Ok(false);
                }
                let tag = tag(Class::Credit, self.me, slot, end.slots[slot].generation);
                let cell = end.memory.piece(end.credit_cell(slot));
                let part = Part { memory: cell, region: end.region.as_ref() };
                // SAFETY: cell and context live until the endpoint is closed; the cell is never written.
                let posted = unsafe { self.endpoint.post_send(address, tag, &[part], context) }?;
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
        let patience = self.patience;
        let peer = &mut self.peers[operation.peer.index()];
        // Before a message came from it, the peer need not have looked at our connection yet.
        let was_connected = peer.receive.as_ref().is_some_and(|end| end.next > 0);
        operation.kind == Kind::SendCredit && was_connected && peer.still_refused(patience).is_some()
    }

    fn want_all(&mut self, kind: Kind, peer: Rank) -> Result<(), TransportError> {
        self.wanted.extend((0..self.slots).map(|slot| Operation { kind, peer, slot }));
        self.post_wanted();
        self.check()
    }

    fn wants_region(&self) -> bool {
        self.endpoint.domain().info().wants_local_registration()
    }

    fn register(&self, memory: *mut [u8]) -> Result<Option<MemoryRegion>, FabricError> {
        if !self.wants_region() {
            return Ok(None);
        }
        // SAFETY: ends drop their region before their memory; a payload's region is dropped when its send is complete
        // or the endpoint closed, until when the payload stays.
        unsafe { MemoryRegion::register(&self.endpoint, memory) }.map(Some)
    }

    fn peer(&mut self, rank: Rank) -> Result<&mut Peer, TransportError> {
        self.peers.get_mut(rank.index()).ok_or(TransportError::NoRoute { peer: rank })
    }

    fn reachable(&mut self, rank: Rank) -> Result<(), TransportError> {
        match self.peer(rank)?.address {
            Some(_) => Ok(()),
            None => Err(TransportError::NoRoute { peer: rank }),
        }
    }
}

impl Peer {
    /// Notes that the provider refused something for this peer. After `patience` the peer is lost: tcp providers never
    /// say that a connection is gone, they make new ones for ever.
    fn still_refused(&mut self, patience: Duration) -> Option<String> {
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if self.lost.is_none() && since.elapsed() > patience {
            self.lost = Some(format!("its connection is gone, and no new one was made in {patience:?}"));
        }
        self.lost.clone()
    }
}

/// Credits carry nothing: their tag says it all.
const _: () = assert!(CELL_BYTES > 0, "but a cell is sent, since not every provider likes empty messages");
/// How long to sleep when the provider refused an operation, which it need not wake us for: at first,
const FIRST_RETRY: Duration = Duration::from_millis(1);
/// and in the end.
const LAST_RETRY: Duration = Duration::from_millis(50);
/// `FI_ETRUNC`.
const TRUNCATED: i32 = libfabric_sys::FI_ETRUNC;
