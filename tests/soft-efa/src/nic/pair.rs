//! Queue pairs: how they come and go, and what is posted to them.

use std::collections::VecDeque;
use std::time::Instant;

use super::frame::{Frame, Kind};
use super::queue::QueueId;
use super::transmit::Transmission;
use super::work::{Completed, Completion, Operation, Payload, Receive, Work};
use super::{Access, Action, Assembly, Counter, Nic, Request, time};
use crate::address::Qpn;
use crate::status::Status;

/// What a queue pair promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairKind {
    /// SRD: everything arrives once, in any order.
    Reliable,
    /// UD: messages may be lost.
    Datagram,
}

/// How far a queue pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairState {
    /// It takes no messages yet.
    Fresh,
    /// It takes messages.
    Ready,
    /// Everything is flushed.
    Failed,
}

/// A queue pair.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) kind: PairKind,
    pub(super) state: PairState,
    pub(super) domain: u32,
    pub(super) send_queue: QueueId,
    pub(super) receive_queue: QueueId,
    pub(super) qkey: u32,
    /// How often an operation is repeated for a receiver that is not ready; 7 is for ever.
    pub(super) patience: u8,
    /// Whether a write's immediate data needs no posted receive.
    pub(super) takes_unsolicited: bool,
    pub(super) receives: VecDeque<Receive>,
    /// Posted sends whose completion was not read.
    pub(super) outstanding: u32,
    send_limit: u32,
    receive_limit: u32,
}

/// What a queue pair is made with.
#[derive(Clone, Copy, Debug)]
pub struct PairSettings {
    /// Its number, which the shell has made sure nobody else has.
    pub qpn: Qpn,
    /// What it promises.
    pub kind: PairKind,
    /// The protection domain whose regions it may use.
    pub domain: u32,
    /// Where sends complete.
    pub send_queue: QueueId,
    /// Where receives complete.
    pub receive_queue: QueueId,
    /// Entries of its send queue.
    pub send_limit: u32,
    /// Entries of its receive queue.
    pub receive_limit: u32,
    /// Whether a write's immediate data needs no posted receive.
    pub takes_unsolicited: bool,
}

impl Nic {
    /// Makes a queue pair.
    pub fn create_pair(&mut self, settings: PairSettings) {
        let pair = Pair {
            kind: settings.kind,
            state: PairState::Fresh,
            domain: settings.domain,
            send_queue: settings.send_queue,
            receive_queue: settings.receive_queue,
            qkey: 0,
            patience: FOR_EVER,
            takes_unsolicited: settings.takes_unsolicited,
            receives: VecDeque::new(),
            outstanding: 0,
            send_limit: settings.send_limit,
            receive_limit: settings.receive_limit,
        };
        self.pairs.insert(settings.qpn, pair);
    }

    /// Changes what of a queue pair can be changed.
    pub fn modify_pair(
        &mut self,
        now: Instant,
        qpn: Qpn,
        state: Option<PairState>,
        qkey: Option<u32>,
        patience: Option<u8>,
    ) {
        let Some(pair) = self.pairs.get_mut(&qpn) else { return };
        pair.qkey = qkey.unwrap_or(pair.qkey);
        pair.patience = patience.unwrap_or(pair.patience);
        if let Some(state) = state {
            pair.state = state;
            if state == PairState::Failed {
                self.flush(now, qpn);
            }
        }
    }

    /// Whether some of what was posted to a queue pair to be sent has neither been answered nor failed.
    pub fn is_unanswered(&self, qpn: Qpn) -> bool {
        self.requests.values().any(|request| request.pair == qpn)
    }

    /// Takes a queue pair away, with all that was posted to it, and tells who talked to it. How many of its operations were
    /// not answered, and how many of these had been turned away and were to come again.
    pub fn destroy_pair(&mut self, qpn: Qpn) -> (usize, usize) {
        let Some(pair) = self.pairs.remove(&qpn) else { return (0, 0) };
        let lost = self.requests.extract_if(|_, request| request.pair == qpn);
        let lost = lost.fold((0, 0), |(all, turned_away), (_, request)| {
            (all + 1, turned_away + usize::from(request.refusals > 0))
        });
        for queue in [pair.send_queue, pair.receive_queue] {
            if let Some(queue) = self.queues.get_mut(&queue) {
                queue.purge(qpn);
            }
        }
        for (id, link) in &mut self.links {
            link.control.push_back(Frame::new(Kind::Farewell, qpn, Qpn(0), 0));
            link.transmissions.retain(|transmission| transmission.pair() != qpn);
            let _ = id;
        }
        lost
    }

    /// Posts to the send queue.
    ///
    /// # Errors
    ///
    /// The works again, when the queue has no room for all of them.
    pub fn post_send(&mut self, now: Instant, qpn: Qpn, works: Vec<Work>) -> Result<(), Vec<Work>> {
        let is_full = self.character.faults.is_queue_full(&mut self.character.choices);
        let Some(pair) = self.pairs.get_mut(&qpn) else { return Err(works) };
        if is_full || works.len() > (pair.send_limit - pair.outstanding.min(pair.send_limit)) as usize {
            return Err(works);
        }
        pair.outstanding += works.len() as u32;
        for work in works {
            self.posted += 1;
            self.start(now, qpn, work);
        }
        Ok(())
    }

    /// Posts to the receive queue; false when it is full.
    pub fn post_receive(&mut self, now: Instant, qpn: Qpn, receive: Receive) -> bool {
        let Some(pair) = self.pairs.get_mut(&qpn) else { return false };
        if pair.receives.len() >= pair.receive_limit as usize {
            return false;
        }
        pair.receives.push_back(receive);
        if pair.state == PairState::Failed {
            self.flush(now, qpn);
        }
        true
    }

    /// Ends everything that is posted to any queue pair: the device is lost.
    pub fn lose_device(&mut self, now: Instant) {
        let mut pairs: Vec<Qpn> = self.pairs.keys().copied().collect();
        pairs.sort_unstable();
        for qpn in pairs {
            if let Some(pair) = self.pairs.get_mut(&qpn)
                && pair.state != PairState::Failed
            {
                pair.state = PairState::Failed;
                self.flush(now, qpn);
            }
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.abandon_link(id);
        }
    }

    fn flush(&mut self, now: Instant, qpn: Qpn) {
        let mut numbers: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| request.pair == qpn)
            .map(|(number, _)| *number)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            self.complete_request(now, number, Status::Flushed);
        }
        let Some(pair) = self.pairs.get_mut(&qpn) else { return };
        let queue = pair.receive_queue;
        for receive in std::mem::take(&mut pair.receives) {
            let completion = Completion {
                id: receive.id,
                status: Status::Flushed,
                what: Completed::Receive,
                len_bytes: 0,
                immediate: None,
                pair: qpn,
                source: None,
                is_unsolicited: false,
            };
            self.show(queue, completion);
        }
    }

    /// Turns a work request into a request that is going out, or that has failed already.
    fn start(&mut self, now: Instant, qpn: Qpn, work: Work) {
        self.count_work(&work);
        let flaw = self.flaw(qpn, &work);
        let target = work.target;
        let total_bytes = u32::try_from(work.payload.len_bytes()).unwrap_or(u32::MAX);
        let number = self.next_operation;
        self.next_operation += 1;
        let link = match (flaw, target) {
            (None, Some(target)) => self.link_to(now, target),
            _ => super::LinkId(u64::MAX),
        };
        let request = Request {
            pair: qpn,
            // A flawed request goes nowhere.
            target: target.unwrap_or(crate::address::Endpoint { gid: self.character.gid, qpn }),
            link,
            total_bytes,
            refusals: 0,
            since: self.lived(now),
            assembly: Assembly::default(),
            work,
        };
        self.requests.insert(number, request);
        if let Some(status) = flaw {
            return self.complete_request(now, number, status);
        }
        self.send_out(number);
        self.look_by(now + self.character.timeout / time::LOOKS);
    }

    /// Puts a request among what is going out on its link.
    pub(super) fn send_out(&mut self, number: u64) {
        let Some(request) = self.requests.get(&number) else { return };
        let transmission = Transmission::of_request(
            number,
            request.pair,
            matches!(request.work.operation, Operation::Read { .. }),
            request.total_bytes,
            self.character.limits.mtu_bytes,
            self.character.manners.pieces,
        );
        if let Some(link) = self.links.get_mut(&request.link) {
            link.transmissions.push_back(transmission);
        }
    }

    /// What a device finds to be wrong with a work request before anything leaves it.
    fn flaw(&mut self, qpn: Qpn, work: &Work) -> Option<Status> {
        let character = &mut self.character;
        let pair = self.pairs.get(&qpn)?;
        if pair.state == PairState::Failed || character.faults.is_device_lost() {
            return Some(Status::Flushed);
        }
        if let Some(status) =
            work.flaw.or_else(|| character.faults.verdict(work.operation, &mut character.choices))
        {
            return Some(status);
        }
        if work.target.is_none() {
            return Some(Status::InvalidAddressHandle);
        }
        let (limit, access, is_possible) = match work.operation {
            Operation::Send => (character.limits.mtu_bytes, Access::LOCAL_READ, true),
            Operation::Write { .. } => {
                (character.limits.rdma_bytes, Access::LOCAL_READ, character.capabilities.rdma_write)
            }
            Operation::Read { .. } => {
                (character.limits.rdma_bytes, Access::LOCAL_WRITE, character.capabilities.rdma_read)
            }
        };
        if !is_possible || (pair.kind == PairKind::Datagram && work.operation != Operation::Send) {
            return Some(Status::Unsupported);
        }
        if work.payload.len_bytes() > u64::from(limit) {
            return Some(Status::BadLength);
        }
        match &work.payload {
            Payload::Inline(_) if access == Access::LOCAL_WRITE => Some(Status::InvalidLocalKey),
            Payload::Inline(_) => None,
            Payload::Memory(pieces) => self.check_pieces(pieces.as_slice(), pair.domain, access).err(),
        }
    }

    fn count_work(&self, work: &Work) {
        self.counters.add(
            match work.operation {
                Operation::Send => Counter::SendWrs,
                Operation::Read { .. } => Counter::RdmaReadWrs,
                Operation::Write { .. } => Counter::RdmaWriteWrs,
            },
            1,
        );
    }

    /// The receiver of an operation was not ready: it goes out again later, or has failed.
    pub(super) fn refused(&mut self, now: Instant, number: u64) {
        let lived = self.lived(now);
        let Some(request) = self.requests.get_mut(&number) else { return };
        let patience = self.pairs.get(&request.pair).map_or(0, |pair| pair.patience);
        if patience < FOR_EVER && request.refusals >= u32::from(patience) {
            return self.complete_request(now, number, Status::ReceiverNotReady);
        }
        request.refusals += 1;
        request.since = lived;
        request.assembly = Assembly::default();
        let delay = FIRST_BACKOFF * (1 << request.refusals.min(MAX_DOUBLINGS));
        self.counters.add(Counter::RetransPkts, 1);
        self.counters.add(Counter::RetransBytes, request.total_bytes.into());
        self.defer(now + delay, time::What::Retry(number));
    }

    /// The peer of a link closes a queue pair: what is meant for it will never be answered.
    pub(super) fn bid_farewell(&mut self, now: Instant, link: super::LinkId, qpn: Qpn) {
        let mut numbers: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| request.link == link && request.target.qpn == qpn)
            .map(|(number, _)| *number)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let is_datagram =
                self.requests.get(&number).is_some_and(|request| self.is_datagram(request.pair));
            self.complete_request(
                now,
                number,
                if is_datagram { Status::Ok } else { Status::RemoteBadQueuePair },
            );
        }
        if let Some(route) = self.links.get(&link).and_then(|link| link.route)
            && route.qpn == qpn
        {
            self.responsive.remove(&route);
            self.routes.remove(&route);
            self.links.remove(&link);
            self.actions.push(Action::Close(link));
        }
    }
}

/// `rnr_retry` that never gives up.
const FOR_EVER: u8 = 7;
const FIRST_BACKOFF: std::time::Duration = std::time::Duration::from_micros(20);
/// 20 µs doubled six times is 1.3 ms.
const MAX_DOUBLINGS: u32 = 6;
