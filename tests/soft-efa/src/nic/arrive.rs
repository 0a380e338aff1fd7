//! What comes in: messages for posted receives, writes, wishes to read, what we wished to read, and answers.

use std::time::Instant;

use super::frame::{Frame, Kind};
use super::pair::{PairKind, PairState};
use super::transmit::Transmission;
use super::work::{Completed, Completion, Operation, Payload, Piece, Pieces, Receive};
use super::{Access, Counter, LinkId, Memory, Nic, time};
use crate::address::Endpoint;
use crate::status::Status;

/// What has landed of an operation that comes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Assembly {
    landed_bytes: u64,
    /// Pieces that are to land a second time before the operation is complete.
    repeats: u32,
    /// It was refused; its remaining pieces are swallowed.
    is_refused: bool,
}

impl Assembly {
    fn is_complete(&self, total_bytes: u32) -> bool {
        self.landed_bytes >= u64::from(total_bytes) && self.repeats == 0
    }
}

/// Something that landed once and is to land again.
#[derive(Debug)]
pub(super) enum Repeat {
    /// A message in its receive.
    Message(Receive),
    /// A piece of a write, or of a read.
    Piece,
}

impl Nic {
    /// Takes a frame from a link; its payload is as long as it says.
    pub fn arrive(&mut self, now: Instant, id: LinkId, frame: &Frame, payload: &[u8], memory: &dyn Memory) {
        let lived = self.lived(now);
        let Some(link) = self.links.get_mut(&id) else { return };
        let from = link.gid.parts().map(|(host, _)| host);
        let character = &mut self.character;
        if !character.faults.is_empty() {
            let to = character.gid.parts().map(|(host, _)| host);
            if character.faults.is_silent(from, to) || character.faults.is_device_lost() {
                self.counters.add(Counter::RxDrops, 1);
                return;
            }
        }
        link.last_heard = lived;
        self.counters.add(Counter::RxPkts, 1);
        self.counters.add(Counter::RxBytes, payload.len() as u64);
        let (manners, choices) = (&character.manners, &mut character.choices);
        let mut delay = choices.delay_up_to(manners.unordered);
        self.counters.add(Counter::MannerUnordered, delay.is_some().into());
        if choices.happens(manners.late) {
            self.counters.add(Counter::MannerLate, 1);
            delay = Some(delay.unwrap_or_default() + manners.late.delay);
        }
        if frame.kind == Kind::Farewell {
            // A queue pair does not close before what it said has been heard.
            delay = (manners.unordered.percent | manners.late.percent != 0)
                .then(|| manners.unordered.delay + manners.late.delay);
        }
        match delay {
            Some(delay) => self.defer(now + delay, time::What::Arrival(id, *frame, payload.to_vec())),
            None => self.look_at(now, id, frame, payload, memory),
        }
    }

    /// Acts on a frame.
    pub(super) fn look_at(
        &mut self,
        now: Instant,
        id: LinkId,
        frame: &Frame,
        payload: &[u8],
        memory: &dyn Memory,
    ) {
        match frame.kind {
            Kind::Send => self.take_message(now, id, frame, payload, memory),
            Kind::Write => self.take_write(now, id, frame, payload, memory),
            Kind::ReadRequest => self.take_read(id, frame),
            Kind::ReadData => self.take_data(now, id, frame, payload, memory),
            Kind::Answer => self.take_answer(now, id, frame),
            Kind::Farewell => self.bid_farewell(now, id, frame.source),
        }
    }

    /// What was deferred lands again.
    pub(super) fn repeat(
        &mut self,
        now: Instant,
        id: LinkId,
        frame: &Frame,
        payload: &[u8],
        what: &Repeat,
        memory: &dyn Memory,
    ) {
        match (what, frame.kind) {
            (Repeat::Message(receive), _) => self.finish_message(now, id, frame, payload, *receive, memory),
            (Repeat::Piece, Kind::Write) => {
                if let Some(domain) = self.pairs.get(&frame.target).map(|pair| pair.domain) {
                    self.place_write(domain, frame, payload, memory);
                }
                if let Some(assembly) =
                    self.links.get_mut(&id).and_then(|link| link.assemblies.get_mut(&frame.operation))
                {
                    assembly.repeats -= 1;
                }
                self.finish_write(now, id, frame);
            }
            (Repeat::Piece, _) => {
                self.place_data(frame, payload, memory);
                if let Some(request) = self.requests.get_mut(&frame.operation) {
                    request.assembly.repeats = request.assembly.repeats.saturating_sub(1);
                }
                self.finish_read(now, frame.operation);
            }
        }
    }

    fn take_message(&mut self, now: Instant, id: LinkId, frame: &Frame, payload: &[u8], memory: &dyn Memory) {
        let Some(pair) = self.pairs.get_mut(&frame.target).filter(|pair| pair.state == PairState::Ready)
        else {
            return self.answer(id, frame, Status::RemoteBadQueuePair);
        };
        if pair.qkey != frame.qkey {
            return self.answer(id, frame, Status::RemoteBadQueuePair);
        }
        let character = &mut self.character;
        let turns_away = pair.kind == PairKind::Reliable && frame.status == 0;
        if turns_away && character.choices.happens(character.manners.not_ready) {
            self.counters.add(Counter::MannerNotReady, 1);
            return self.answer(id, frame, Status::ReceiverNotReady);
        }
        let Some(receive) = pair.receives.pop_front() else {
            self.counters.add(Counter::RxDrops, 1);
            return self.answer(id, frame, Status::ReceiverNotReady);
        };
        if let Some(delay) = character.choices.delay_up_to(character.manners.repeat) {
            let (skip, domain) = (grh_bytes(pair.kind), pair.domain);
            if self.check_receive(frame, &receive, skip, domain).is_ok() {
                self.counters.add(Counter::MannerRepeat, 1);
                self.scatter(&receive.pieces, domain, skip, payload, memory);
                let what = time::What::Repeat(id, *frame, payload.to_vec(), Repeat::Message(receive));
                return self.defer(now + delay, what);
            }
        }
        self.finish_message(now, id, frame, payload, receive, memory);
    }

    fn finish_message(
        &mut self,
        now: Instant,
        id: LinkId,
        frame: &Frame,
        payload: &[u8],
        receive: Receive,
        memory: &dyn Memory,
    ) {
        let Some(pair) = self.pairs.get(&frame.target) else { return };
        let (domain, skip, queue) = (pair.domain, grh_bytes(pair.kind), pair.receive_queue);
        let checked = self.check_receive(frame, &receive, skip, domain).and_then(|()| {
            let has_landed = self.scatter(&receive.pieces, domain, skip, payload, memory);
            has_landed.then_some(()).ok_or(Status::InvalidLocalKey)
        });
        if checked.is_ok() {
            self.counters.add(Counter::RecvBytes, payload.len() as u64);
        }
        self.counters.add(Counter::RecvWrs, 1);
        let completion = Completion {
            id: receive.id,
            status: checked.err().unwrap_or(Status::Ok),
            what: Completed::Receive,
            len_bytes: frame.len_bytes + skip as u32,
            immediate: frame.immediate,
            pair: frame.target,
            source: self.source(id, frame),
            is_unsolicited: false,
        };
        self.complete(now, queue, completion);
        let answer = match checked {
            Ok(()) => Status::Ok,
            Err(Status::BadLength) => Status::RemoteBadLength,
            Err(_) => Status::RemoteAbort,
        };
        self.answer(id, frame, answer);
    }

    fn check_receive(&self, frame: &Frame, receive: &Receive, skip: u64, domain: u32) -> Result<(), Status> {
        let len = u64::from(frame.len_bytes) + skip;
        if len > receive.pieces.len_bytes() {
            return Err(Status::BadLength);
        }
        let span: Vec<Piece> = receive.pieces.span(0, len).collect();
        self.check_pieces(&span, domain, Access::LOCAL_WRITE)
    }

    fn take_write(&mut self, now: Instant, id: LinkId, frame: &Frame, payload: &[u8], memory: &dyn Memory) {
        let is_possible = self.character.capabilities.rdma_write;
        let Some(link) = self.links.get_mut(&id) else { return };
        let gid = link.gid;
        let assembly = link.assemblies.entry(frame.operation).or_default();
        assembly.landed_bytes += payload.len() as u64;
        if assembly.is_refused {
            if assembly.landed_bytes >= frame.total_bytes.into() {
                link.assemblies.remove(&frame.operation);
            }
            return;
        }
        let domain =
            self.pairs.get(&frame.target).filter(|pair| pair.state == PairState::Ready).map(|p| p.domain);
        let verdict = match domain {
            None => Err(Status::RemoteBadQueuePair),
            Some(domain) if self.handles.number(domain, gid).is_none() => Err(Status::UnknownPeer),
            Some(_) if !is_possible => Err(Status::RemoteBadAddress),
            Some(domain) if self.place_write(domain, frame, payload, memory) => Ok(()),
            Some(_) => Err(Status::RemoteBadAddress),
        };
        if let Err(status) = verdict {
            if let Some(link) = self.links.get_mut(&id) {
                if payload.len() as u64 >= frame.total_bytes.into() {
                    link.assemblies.remove(&frame.operation);
                } else if let Some(assembly) = link.assemblies.get_mut(&frame.operation) {
                    assembly.is_refused = true;
                }
            }
            return self.answer(id, frame, status);
        }
        let character = &mut self.character;
        if let Some(delay) = character.choices.delay_up_to(character.manners.repeat) {
            if let Some(assembly) =
                self.links.get_mut(&id).and_then(|l| l.assemblies.get_mut(&frame.operation))
            {
                assembly.repeats += 1;
            }
            self.counters.add(Counter::MannerRepeat, 1);
            return self.defer(now + delay, time::What::Repeat(id, *frame, payload.to_vec(), Repeat::Piece));
        }
        self.finish_write(now, id, frame);
    }

    /// Writes a piece into the region that its key names; false when there is none for it.
    fn place_write(&mut self, domain: u32, frame: &Frame, payload: &[u8], memory: &dyn Memory) -> bool {
        if payload.is_empty() {
            // A write of nothing needs no region: only its immediate data counts.
            return true;
        }
        let (key, len) = (frame.remote_key, payload.len() as u64);
        let found = self.regions.find(
            key,
            domain,
            frame.address,
            len,
            Access::REMOTE_WRITE,
            Status::RemoteBadAddress,
        );
        let Ok(region) = found else { return false };
        let has_landed = memory.write(region, region.locate(frame.address), payload).is_ok();
        if has_landed {
            self.counters.add(Counter::RdmaWriteRecvBytes, len);
        }
        has_landed
    }

    /// Ends a write whose pieces have all landed.
    fn finish_write(&mut self, now: Instant, id: LinkId, frame: &Frame) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(assembly) = link.assemblies.get(&frame.operation) else { return };
        if !assembly.is_complete(frame.total_bytes) {
            return;
        }
        link.assemblies.remove(&frame.operation);
        let Some(immediate) = frame.immediate else { return self.answer(id, frame, Status::Ok) };
        let Some(pair) = self.pairs.get_mut(&frame.target) else { return };
        let character = &mut self.character;
        let turns_away = !pair.takes_unsolicited && frame.status == 0;
        if turns_away && character.choices.happens(character.manners.not_ready) {
            self.counters.add(Counter::MannerNotReady, 1);
            return self.answer(id, frame, Status::ReceiverNotReady);
        }
        let receive = match pair.takes_unsolicited {
            true => None,
            false => match pair.receives.pop_front() {
                Some(receive) => Some(receive),
                None => {
                    self.counters.add(Counter::RxDrops, 1);
                    return self.answer(id, frame, Status::ReceiverNotReady);
                }
            },
        };
        let queue = pair.receive_queue;
        let completion = Completion {
            id: receive.map_or(0, |receive| receive.id),
            status: Status::Ok,
            what: Completed::ReceiveWrite,
            len_bytes: frame.total_bytes,
            immediate: Some(immediate),
            pair: frame.target,
            source: self.source(id, frame),
            is_unsolicited: receive.is_none(),
        };
        self.complete(now, queue, completion);
        self.answer(id, frame, Status::Ok);
    }

    fn take_read(&mut self, id: LinkId, frame: &Frame) {
        let Some(link) = self.links.get(&id) else { return };
        let domain =
            self.pairs.get(&frame.target).filter(|pair| pair.state == PairState::Ready).map(|p| p.domain);
        let verdict = match domain {
            None => Err(Status::RemoteBadQueuePair),
            Some(domain) if self.handles.number(domain, link.gid).is_none() => Err(Status::UnknownPeer),
            Some(_) if frame.total_bytes > self.character.limits.rdma_bytes => Err(Status::RemoteBadAddress),
            Some(domain) => self
                .regions
                .find(
                    frame.remote_key,
                    domain,
                    frame.address,
                    frame.total_bytes.into(),
                    Access::REMOTE_READ,
                    Status::RemoteBadAddress,
                )
                .map(|_| ()),
        };
        match verdict {
            Err(status) => self.answer(id, frame, status),
            Ok(()) if frame.total_bytes == 0 => self.answer(id, frame, Status::Ok),
            Ok(()) => {
                let (mtu, shuffled) = (self.character.limits.mtu_bytes, self.character.manners.pieces);
                if let Some(link) = self.links.get_mut(&id) {
                    link.transmissions.push_back(Transmission::of_response(frame, mtu, shuffled));
                }
            }
        }
    }

    fn take_data(&mut self, now: Instant, id: LinkId, frame: &Frame, payload: &[u8], memory: &dyn Memory) {
        let lived = self.lived(now);
        let Some(request) = self.requests.get_mut(&frame.operation) else { return };
        let end = u64::from(frame.offset_bytes) + payload.len() as u64;
        let is_read = matches!(request.work.operation, Operation::Read { .. });
        if request.link != id || !is_read || end > request.total_bytes.into() {
            return;
        }
        self.responsive.insert(request.target);
        request.since = lived;
        request.assembly.landed_bytes += payload.len() as u64;
        if !self.place_data(frame, payload, memory) {
            return self.complete_request(now, frame.operation, Status::InvalidLocalKey);
        }
        let character = &mut self.character;
        if let Some(delay) = character.choices.delay_up_to(character.manners.repeat) {
            if let Some(request) = self.requests.get_mut(&frame.operation) {
                request.assembly.repeats += 1;
            }
            self.counters.add(Counter::MannerRepeat, 1);
            return self.defer(now + delay, time::What::Repeat(id, *frame, payload.to_vec(), Repeat::Piece));
        }
        self.finish_read(now, frame.operation);
    }

    fn place_data(&mut self, frame: &Frame, payload: &[u8], memory: &dyn Memory) -> bool {
        let Some(request) = self.requests.get(&frame.operation) else { return false };
        let (Payload::Memory(pieces), Some(pair)) = (&request.work.payload, self.pairs.get(&request.pair))
        else {
            return false;
        };
        let (pieces, domain) = (*pieces, pair.domain);
        self.scatter(&pieces, domain, frame.offset_bytes.into(), payload, memory)
    }

    fn finish_read(&mut self, now: Instant, number: u64) {
        let is_complete = self
            .requests
            .get(&number)
            .is_some_and(|request| request.assembly.is_complete(request.total_bytes));
        if is_complete {
            self.complete_request(now, number, Status::Ok);
        }
    }

    fn take_answer(&mut self, now: Instant, id: LinkId, frame: &Frame) {
        let Some(request) = self.requests.get(&frame.operation) else { return };
        if request.link != id {
            return;
        }
        self.responsive.insert(request.target);
        match Status::from_code(frame.status).unwrap_or(Status::RemoteBadStatus) {
            Status::ReceiverNotReady => self.refused(now, frame.operation),
            status => self.complete_request(now, frame.operation, status),
        }
    }

    /// Copies bytes to where they belong in an operation; false when a key names nothing any more, or the memory is gone.
    fn scatter(
        &self,
        pieces: &Pieces,
        domain: u32,
        offset_bytes: u64,
        bytes: &[u8],
        memory: &dyn Memory,
    ) -> bool {
        let span: Vec<Piece> = pieces.span(offset_bytes, bytes.len() as u64).collect();
        let Ok(found) = self.locate_pieces(&span, domain, Access::LOCAL_WRITE) else { return false };
        let mut left = bytes;
        for (region, piece) in found {
            let (now, later) = left.split_at(piece.len_bytes as usize);
            if memory.write(&region, region.locate(piece.address), now).is_err() {
                return false;
            }
            left = later;
        }
        true
    }

    /// Tells the other end how its operation ended. Datagrams are never answered.
    fn answer(&mut self, id: LinkId, frame: &Frame, status: Status) {
        if self.is_datagram(frame.target) {
            return;
        }
        if let Some(link) = self.links.get_mut(&id) {
            let answer = Frame::new(Kind::Answer, frame.target, frame.source, frame.operation);
            link.control.push_back(Frame { status: status as u8, ..answer });
        }
    }

    fn source(&self, id: LinkId, frame: &Frame) -> Option<Endpoint> {
        self.links.get(&id).map(|link| Endpoint { gid: link.gid, qpn: frame.source })
    }
}

/// Datagrams leave room for the global route header of InfiniBand in front.
fn grh_bytes(kind: PairKind) -> u64 {
    match kind {
        PairKind::Reliable => 0,
        PairKind::Datagram => 40,
    }
}
