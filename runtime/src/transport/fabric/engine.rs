//! Sending and receiving messages over rails, by whichever protocol: what the transport is asked for, and what happens by
//! itself.
//!
//! Completions are taken in, failures told to whoever needs the peer, and what the provider refused is posted again. What
//! the operations of a message are is the [protocol](Protocol)'s to know.
//!
//! # Safety
//!
//! The endpoints read and write memory of the protocol's, contexts, and payloads. Protocol and contexts are freed by
//! [`Engine::close`] after the endpoints were closed, or never where one does not close. Payloads belong to the caller of
//! [`Engine::try_send`], whose contract is the transport's.
#![expect(unsafe_code, reason = "takes callers' memory; the module's Safety paragraph says why it is sound")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::address::{Address, Mailbox, RailAddress};
use super::diagnosis;
use super::inbox::Inbox;
use super::operation::{Kind, Operation};
use super::protocol::Protocol;
use super::rail::Rail;
use super::registrations::Registrations;
use super::slot::{Payload, STAGED_BYTES, SendEnd, Sending, encode};
use super::traffic::{Counts, Traffic};
use crate::fabric::{Completion, FabricError, Failure};
use crate::transport::kept::Kept;
use crate::transport::{Header, Message, SendToken, TransportError};

/// The rails of a rank, and the protocol on them.
#[derive(Debug)]
pub(super) struct Engine {
    // First, so that endpoints close before the memory that they use is freed, when an engine is dropped by a panic.
    traffic: Traffic,
    protocol: Box<dyn Protocol>,
    /// The provider refused something since the last poll, and need not say when it would take it.
    is_refused: bool,
    /// All ranks have met after their last operation, so that no peer sends any more.
    have_met: bool,
    /// How long to sleep at most while something is refused; grows while nothing happens.
    retry: Duration,
    /// Since when nothing has happened, while it is waited.
    quiet_since: Option<Instant>,
    // Kept for their room.
    completions: Vec<Completion>,
    failures: Vec<Failure>,
}

impl Engine {
    pub(super) fn new(traffic: Traffic, protocol: Box<dyn Protocol>) -> Self {
        Engine {
            traffic,
            protocol,
            is_refused: false,
            have_met: false,
            retry: FIRST_RETRY,
            quiet_since: None,
            completions: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The rails' own addresses.
    pub(super) fn addresses(&self) -> Result<Vec<RailAddress>, FabricError> {
        self.traffic.addresses()
    }

    /// Where peers write first, if they do.
    pub(super) fn mailbox(&self) -> Option<Mailbox> {
        self.protocol.mailbox()
    }

    /// Says which rank this is; before anything is opened.
    pub(super) fn set_rank(&mut self, me: Rank) {
        self.traffic.me = me;
    }

    /// Learns how to reach a peer, which has as many rails.
    pub(super) fn insert(&mut self, peer: Rank, theirs: &Address) -> Result<(), TransportError> {
        self.traffic.insert(peer, theirs)?;
        self.protocol.insert(&self.traffic, peer, theirs);
        Ok(())
    }

    /// Begins an operation of the World: what was registered for the last one's payloads is not used again.
    pub(super) fn begin_operation(&mut self) {
        self.traffic.rails.iter_mut().for_each(|rail| rail.payloads.begin());
    }

    /// Learns of memory that stays, of which regions may be kept.
    pub(super) fn keep(&mut self, memory: &Arc<Kept>) {
        self.traffic.rails.iter_mut().for_each(|rail| rail.payloads.keep(memory));
    }

    /// Makes the end that receives from a peer, if there is none yet.
    pub(super) fn open_receive(&mut self, from: Rank) -> Result<(), TransportError> {
        self.traffic.reachable(from)?;
        self.protocol.open_receive(&mut self.traffic, from)?;
        self.post_wanted();
        self.traffic.check()
    }

    /// Makes the end that sends to a peer, if there is none yet.
    pub(super) fn open_send(&mut self, to: Rank) -> Result<(), TransportError> {
        self.traffic.reachable(to)?;
        self.protocol.open_send(&mut self.traffic, to)?;
        self.post_wanted();
        self.traffic.check()
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
        self.traffic.check()?;
        let contact = self.traffic.contacts.get(to.index()).ok_or(TransportError::NoRoute { peer: to })?;
        if let Some(cause) = &contact.lost {
            return Err(TransportError::PeerLost { peer: to, cause: cause.clone() });
        }
        let operations = self.protocol.operations(&self.traffic, payload.len());
        let end = self.protocol.send_end_mut(to).ok_or(TransportError::NoRoute { peer: to })?;
        let Some((slot, generation)) = end.free_slot() else { return Ok(false) };
        let stage = end.stage(slot, 0);
        // SAFETY: the slot's last send is complete, so nobody reads the stage.
        unsafe { end.memory.write(stage.start, &encode(header)) };
        if payload.len() <= STAGED_BYTES {
            // SAFETY: as above; the payload is the caller's, allocated and unchanged during the call.
            unsafe { end.memory.write(stage.end, &*payload) };
        }
        let payload = Payload::new(payload);
        end.sending[slot] =
            Some(Sending { token, payload, generation, left: operations, regions: Vec::new() });
        let send = |piece| Operation { kind: Kind::SendPiece(piece), peer: to, slot };
        let posted = self.protocol.post(&mut self.traffic, send(0));
        let end = self.protocol.send_end_mut(to).expect("seen above");
        match posted {
            Ok(true) => {
                end.next += 1;
                self.traffic.contacts[to.index()].refused_since = None;
                self.traffic.counts.messages += 1;
                for piece in 1..operations {
                    match self.protocol.post(&mut self.traffic, send(piece)) {
                        Ok(true) => {}
                        Ok(false) => self.traffic.wanted.push_back(send(piece)),
                        Err(error) => return Err(self.traffic.lose_send(to, error.to_string())),
                    }
                }
                Ok(true)
            }
            Ok(false) => {
                end.sending[slot] = None;
                self.is_refused = true;
                // It gave credit, so it was connected.
                match self.traffic.lost_by_refusal(to) {
                    Some(cause) => Err(TransportError::PeerLost { peer: to, cause }),
                    None => Ok(false),
                }
            }
            Err(error) => {
                end.sending[slot] = None;
                Err(TransportError::PeerLost { peer: to, cause: error.to_string() })
            }
        }
    }

    /// The next message from a peer, if it is here.
    pub(super) fn arrived(&self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        let message = self.protocol.arrived(&self.traffic, from)?;
        match (message, &self.traffic.contacts[from.index()].lost) {
            (None, Some(cause)) => Err(TransportError::PeerLost { peer: from, cause: cause.clone() }),
            (message, _) => Ok(message),
        }
    }

    /// The length from which on it helps to be told of where messages land.
    pub(super) fn lands_from(&self) -> Option<usize> {
        self.protocol.lands_from()
    }

    /// Learns where a message belongs, so many behind the next one of a peer.
    ///
    /// # Safety
    ///
    /// As [`Transport::expect_later`](crate::transport::Transport::expect_later).
    pub(super) unsafe fn expect_later(&mut self, from: Rank, ahead: usize, landing: *mut [u8]) {
        self.protocol.expect_later(from, ahead, Payload::new(landing));
    }

    /// Gives the slot of the current message back to its sender.
    pub(super) fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        self.protocol.release(&mut self.traffic, from)?;
        self.post_wanted();
        Ok(())
    }

    /// Takes in what is over, posts what is wanted, and appends the tokens of complete sends.
    pub(super) fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.is_refused = false;
        self.read();
        self.post_wanted();
        completed.append(&mut self.traffic.completed);
        self.traffic.check()
    }

    /// Sleeps until an operation is over, or for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) {
        if !self.traffic.completed.is_empty() || self.traffic.failure.is_some() {
            return;
        }
        let mut timeout = timeout;
        if self.is_refused || !self.traffic.wanted.is_empty() {
            timeout = timeout.min(self.retry);
            self.retry = (self.retry * 2).min(LAST_RETRY);
        }
        // Where a rank has several rails their queues nap instead of sleeping, so that waiting for one is waiting for all.
        let quiet = self.quiet_since.get_or_insert_with(Instant::now).elapsed();
        let nap = (quiet / SHARE_OF_QUIET).clamp(FIRST_NAP, LAST_NAP);
        let cq = self.traffic.rails[0].cq();
        if let Err(error) = cq.wait(timeout, nap, &mut self.completions, &mut self.failures) {
            self.traffic.fail(error.into());
        }
        self.take_in(0);
        self.read();
        self.post_wanted();
    }

    /// What was sent.
    pub(super) fn counts(&self) -> Counts {
        let regions = self.traffic.rails.iter().map(|rail| rail.payloads.made()).sum();
        Counts { regions, ..self.traffic.counts.clone() }
    }

    /// What is known of why nothing moves between this rank and a peer.
    pub(super) fn stall(&self, peer: Rank) -> Option<String> {
        self.traffic.reachable(peer).ok()?;
        let sends = self.protocol.send_end(peer).map_or(0, SendEnd::under_way);
        let credits = self.protocol.inbox(peer).map_or(0, Inbox::credits_under_way);
        self.traffic.explain_stall(sends + credits, peer)
    }

    /// Is told that all ranks have met after their last operation.
    pub(super) fn quiesced(&mut self) {
        self.have_met = true;
    }

    /// Closes the endpoints, then the regions, then frees the memory. Where an endpoint does not close that is an error,
    /// and all memory stays.
    pub(super) fn close(mut self) -> Result<(), FabricError> {
        if !self.may_close_within(DRAIN_PATIENCE) {
            log::info!("this release of libfabric crashes in closing an endpoint in use, which is left open");
            std::mem::forget(self);
            return Ok(());
        }
        // Where an endpoint does not close, regions that others write to do.
        self.protocol.withdraw_places();
        let rails = std::mem::take(&mut self.traffic.rails);
        let closed: Vec<Result<Registrations, FabricError>> = rails.into_iter().map(Rail::close).collect();
        match closed.into_iter().collect::<Result<Vec<Registrations>, FabricError>>() {
            Ok(payloads) => {
                // Sends that were under way share their regions.
                drop(self);
                drop(payloads);
                Ok(())
            }
            Err(error) => {
                // What the provider may still touch must stay.
                std::mem::forget(self);
                Err(error)
            }
        }
    }

    /// Whether the next message to a peer has a slot.
    #[cfg(test)]
    pub(super) fn has_credit(&self, to: Rank) -> bool {
        self.protocol.send_end(to).is_some_and(|end| end.free_slot().is_some())
    }

    /// Polls every rail: what one waits for may take another's progress.
    fn read(&mut self) {
        for index in 0..self.traffic.rails.len() {
            let rail = &self.traffic.rails[index];
            if let Err(error) = rail.read(&mut self.completions, &mut self.failures) {
                let error = rail.broken(error);
                self.traffic.fail(error);
            }
            self.take_in(index);
        }
    }

    /// Takes in completions and failures that were read from a rail.
    fn take_in(&mut self, rail: usize) {
        if !self.completions.is_empty() {
            self.retry = FIRST_RETRY;
            self.quiet_since = None;
        }
        for completion in self.completions.drain(..) {
            self.protocol.complete(&mut self.traffic, rail, &completion);
        }
        for failure in std::mem::take(&mut self.failures) {
            match self.traffic.contexts.operation(failure.context) {
                Some(operation) if self.protocol.reroute(&mut self.traffic, operation, &failure, rail) => {}
                Some(operation) => self.fail_operation(operation, &failure, rail),
                None => self.traffic.fail(TransportError::Call {
                    call: "fi_cq_readerr",
                    code: failure.code,
                    cause: format!("{}, on {}", failure.text, self.traffic.rails[rail].nic),
                }),
            }
        }
    }

    fn fail_operation(&mut self, operation: Operation, failure: &Failure, rail: usize) {
        let cause = match operation.kind {
            Kind::ReceivePiece(_) | Kind::ReceiveCredit | Kind::ReceiveDetour(_)
                if failure.code == TRUNCATED =>
            {
                format!("it sent a message that is larger than a slot: {}", failure.text)
            }
            _ => self.traffic.explain(failure, operation.peer, rail),
        };
        let has_others = self.traffic.rails.len() > 1 && diagnosis::is_of_the_way(failure);
        let cause = match self.protocol.is_bound_because().filter(|_| has_others) {
            Some(because) => format!("{cause}; {because}"),
            None => cause,
        };
        self.give_up(operation, cause);
    }

    /// An operation never ends.
    fn give_up(&mut self, operation: Operation, cause: String) {
        match operation.kind {
            // Its token never comes: nothing that waits for this send can end well.
            Kind::SendPiece(_) => {
                self.traffic.lose_send(operation.peer, cause);
            }
            _ => self.traffic.lose(operation.peer, cause),
        }
    }

    /// Posts what waits for room, each once; what is refused waits on, in order.
    fn post_wanted(&mut self) {
        self.protocol.post_others(&mut self.traffic);
        for _ in 0..self.traffic.wanted.len() {
            let Some(operation) = self.traffic.wanted.pop_front() else { break };
            match self.protocol.post(&mut self.traffic, operation) {
                Ok(true) => {
                    if matches!(operation.kind, Kind::SendPiece(_) | Kind::SendCredit) {
                        self.traffic.contacts[operation.peer.index()].refused_since = None;
                    }
                    self.traffic.counts.credits += u64::from(operation.kind == Kind::SendCredit);
                    self.protocol.posted(&mut self.traffic, operation);
                }
                // What is never taken any more is not wanted either: `lost` says so to whoever needs the peer.
                Ok(false) if self.is_lost_by(operation) => {}
                Ok(false) => self.traffic.wanted.push_back(operation),
                Err(error) => self.give_up(operation, error.to_string()),
            }
        }
    }

    /// Whether a refused operation was the last to be tried on its peer.
    fn is_lost_by(&mut self, operation: Operation) -> bool {
        let Operation { kind, peer, .. } = operation;
        // Before a message came from it, the peer need not have looked at our connection yet.
        kind == Kind::SendCredit
            && self.protocol.inbox(peer).is_some_and(Inbox::has_passed)
            && self.traffic.lost_by_refusal(peer).is_some()
    }

    /// Whether the endpoints may be closed, once what is under way has ended. Where they must be quiet for that, they may
    /// only when ranks have met: else a peer may just begin to send what we have room for.
    fn may_close_within(&mut self, patience: Duration) -> bool {
        if self.protocol.closes_in_use() {
            return true;
        }
        let deadline = Instant::now() + patience;
        while self.have_met && !self.protocol.is_quiet() {
            let is_broken = self.traffic.failure.is_some()
                || self.traffic.contacts.iter().any(|peer| peer.lost.is_some());
            if is_broken || Instant::now() > deadline {
                return false;
            }
            self.wait(Duration::from_millis(1));
        }
        self.have_met
    }
}

/// How long to sleep when the provider refused an operation, which it need not wake us for: at first,
const FIRST_RETRY: Duration = Duration::from_micros(200);
/// and in the end.
const LAST_RETRY: Duration = Duration::from_millis(50);
/// How long to nap where queues cannot be slept on: such a part of the time in which nothing has happened,
const SHARE_OF_QUIET: u32 = 16;
/// so long at least,
const FIRST_NAP: Duration = Duration::from_micros(50);
/// and so long at most. The provider answers peers only when it is called.
const LAST_NAP: Duration = Duration::from_millis(1);
/// How long closing waits for what is under way, where it must.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// `FI_ETRUNC`.
const TRUNCATED: i32 = libfabric_sys::FI_ETRUNC;
