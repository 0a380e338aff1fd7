//! What goes out: one frame at a time, as a link has room.

use std::time::Instant;

use super::frame::{Frame, Kind};
use super::order::PieceOrder;
use super::work::{Operation, Payload, Piece};
use super::{Access, Counter, Gone, LinkId, Memory, Nic, Region, RegionKind};
use crate::address::Qpn;
use crate::status::Status;

/// Where frames go: a medium with room, or without.
pub trait Outlet {
    /// Whether a frame of full size fits now.
    fn has_room(&self) -> bool;

    /// Takes a frame, whose payload `fill` writes. Called only when there is room.
    fn put(&mut self, frame: &Frame, fill: &mut dyn FnMut(&mut [u8]));
}

/// Something that goes out in pieces.
#[derive(Debug)]
pub(super) struct Transmission {
    pair: Qpn,
    subject: Subject,
    total_bytes: u32,
    order: PieceOrder,
}

#[derive(Clone, Copy, Debug)]
enum Subject {
    /// An operation of ours.
    Request(u64),
    /// What another asked to read.
    Response { operation: u64, reader: Qpn, key: u32, address: u64 },
}

impl Transmission {
    /// An operation goes out. A read is one small frame, whatever its length.
    pub(super) fn of_request(
        number: u64,
        pair: Qpn,
        is_read: bool,
        total_bytes: u32,
        piece_bytes: u32,
        shuffled: bool,
    ) -> Transmission {
        let order = PieceOrder::new(if is_read { 0 } else { total_bytes }, piece_bytes, shuffled);
        Transmission { pair, subject: Subject::Request(number), total_bytes, order }
    }

    /// The answer to a read goes out.
    pub(super) fn of_response(request: &Frame, piece_bytes: u32, shuffled: bool) -> Transmission {
        let subject = Subject::Response {
            operation: request.operation,
            reader: request.source,
            key: request.remote_key,
            address: request.address,
        };
        let order = PieceOrder::new(request.total_bytes, piece_bytes, shuffled);
        Transmission { pair: request.target, subject, total_bytes: request.total_bytes, order }
    }

    /// The queue pair of ours that it belongs to.
    pub(super) fn pair(&self) -> Qpn {
        self.pair
    }
}

/// A frame, and where its payload comes from.
enum Outgoing {
    Empty(Frame),
    Inline(Frame, Vec<u8>),
    Memory(Frame, Vec<(Region, Piece)>),
}

impl Nic {
    /// Links with something to go out.
    pub fn busy_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        let is_busy = |link: &super::Link| !link.control.is_empty() || !link.transmissions.is_empty();
        self.links.iter().filter(move |(_, link)| is_busy(link)).map(|(id, _)| *id)
    }

    /// Gives a link what it has room for, and says whether anything went out.
    pub fn pull(&mut self, now: Instant, id: LinkId, outlet: &mut dyn Outlet, memory: &dyn Memory) -> bool {
        let mut went_out = false;
        while outlet.has_room() {
            let Some(outgoing) = self.next_frame(now, id, memory) else { break };
            went_out = true;
            let frame = match &outgoing {
                Outgoing::Empty(frame) | Outgoing::Inline(frame, _) | Outgoing::Memory(frame, _) => *frame,
            };
            self.counters.add(Counter::TxPkts, 1);
            self.counters.add(Counter::TxBytes, frame.len_bytes.into());
            if self.is_unheard(id) {
                continue;
            }
            outlet.put(&frame, &mut |payload| match &outgoing {
                Outgoing::Empty(_) => {}
                Outgoing::Inline(_, bytes) => payload.copy_from_slice(bytes),
                Outgoing::Memory(_, pieces) => {
                    let mut start = 0;
                    for (region, piece) in pieces {
                        let end = start + piece.len_bytes as usize;
                        // Of the process's own memory only, see `gather`: that is there, or the process is not.
                        let _ = memory.read(region, region.locate(piece.address), &mut payload[start..end]);
                        start = end;
                    }
                }
            });
        }
        went_out
    }

    /// Whether a fault swallows what goes out on a link.
    fn is_unheard(&self, id: LinkId) -> bool {
        let faults = &self.character.faults;
        if faults.is_empty() {
            return false;
        }
        let to = self.links.get(&id).and_then(|link| link.gid.parts());
        let from = self.character.gid.parts();
        faults.is_silent(from.map(|(host, _)| host), to.map(|(host, _)| host))
    }

    fn next_frame(&mut self, now: Instant, id: LinkId, memory: &dyn Memory) -> Option<Outgoing> {
        loop {
            let link = self.links.get_mut(&id)?;
            if let Some(frame) = link.control.pop_front() {
                return Some(Outgoing::Empty(frame));
            }
            let among =
                if self.character.manners.pieces { link.transmissions.len().min(MIXED) as u32 } else { 1 };
            let place = self.character.choices.below(among)? as usize;
            let transmission = link.transmissions.get_mut(place)?;
            let expected = transmission.order.taken();
            let piece = transmission.order.take(&mut self.character.choices);
            let is_out_of_order = place > 0 || piece.is_some_and(|piece| piece != expected);
            self.counters.add(Counter::MannerPieces, is_out_of_order.into());
            let (subject, pair, total_bytes) =
                (transmission.subject, transmission.pair, transmission.total_bytes);
            if piece.is_none() || transmission.order.is_done() {
                link.transmissions.remove(place);
            }
            let Some(piece) = piece else { continue };
            let offset_bytes = piece * self.character.limits.mtu_bytes;
            let outgoing = match subject {
                Subject::Request(number) => self.request_frame(now, number, offset_bytes, memory),
                Subject::Response { operation, reader, key, address } => {
                    let len_bytes = (total_bytes - offset_bytes).min(self.character.limits.mtu_bytes);
                    let frame = Frame {
                        len_bytes,
                        total_bytes,
                        offset_bytes,
                        ..Frame::new(Kind::ReadData, pair, reader, operation)
                    };
                    self.response_frame(id, frame, key, address + u64::from(offset_bytes), memory)
                }
            };
            if outgoing.is_some() {
                return outgoing;
            }
        }
    }

    /// A frame of an operation of ours; none when the operation has ended meanwhile.
    fn request_frame(
        &mut self,
        now: Instant,
        number: u64,
        offset_bytes: u32,
        memory: &dyn Memory,
    ) -> Option<Outgoing> {
        let request = self.requests.get(&number)?;
        let pair = self.pairs.get(&request.pair)?;
        let work = &request.work;
        let total_bytes = request.total_bytes;
        let mut frame = Frame {
            qkey: work.qkey,
            immediate: work.immediate,
            total_bytes,
            offset_bytes,
            ..Frame::new(Kind::Send, request.pair, request.target.qpn, number)
        };
        // A receiver turns away once for the sake of manners, but none whose sender would take that for the end.
        frame.status = if pair.patience == 0 { INSISTS } else { request.refusals.min(INSISTS.into()) as u8 };
        match work.operation {
            Operation::Send => {}
            Operation::Write { remote_key, address } => {
                frame.kind = Kind::Write;
                frame.remote_key = remote_key;
                frame.address = address + u64::from(offset_bytes);
            }
            Operation::Read { remote_key, address } => {
                frame.kind = Kind::ReadRequest;
                frame.remote_key = remote_key;
                frame.address = address;
                return Some(Outgoing::Empty(frame));
            }
        }
        frame.len_bytes = (total_bytes - offset_bytes).min(self.character.limits.mtu_bytes);
        let outgoing = match &work.payload {
            Payload::Inline(bytes) => {
                let start = offset_bytes as usize;
                Ok(Outgoing::Inline(frame, bytes[start..start + frame.len_bytes as usize].to_vec()))
            }
            Payload::Memory(pieces) => {
                let span: Vec<Piece> = pieces.span(offset_bytes.into(), frame.len_bytes.into()).collect();
                self.locate_pieces(&span, pair.domain, Access::LOCAL_READ)
                    .and_then(|found| gather(frame, found, memory).map_err(|Gone| Status::InvalidLocalKey))
            }
        };
        let is_datagram = self.is_datagram(request.pair);
        match outgoing {
            Err(status) => {
                self.complete_request(now, number, status);
                None
            }
            Ok(outgoing) => {
                // Nobody answers a datagram.
                if is_datagram {
                    self.complete_request(now, number, Status::Ok);
                }
                Some(outgoing)
            }
        }
    }

    /// A frame of what another reads, or the refusal when its region is gone meanwhile.
    fn response_frame(
        &mut self,
        id: LinkId,
        frame: Frame,
        key: u32,
        address: u64,
        memory: &dyn Memory,
    ) -> Option<Outgoing> {
        let domain = self.pairs.get(&frame.source)?.domain;
        let found = self.regions.find(
            key,
            domain,
            address,
            frame.len_bytes.into(),
            Access::REMOTE_READ,
            Status::RemoteBadAddress,
        );
        let piece = Piece { address, len_bytes: frame.len_bytes, key };
        let gathered = found.and_then(|region| {
            gather(frame, vec![(*region, piece)], memory).map_err(|Gone| Status::RemoteBadAddress)
        });
        match gathered {
            Ok(outgoing) => {
                self.counters.add(Counter::RdmaReadRespBytes, frame.len_bytes.into());
                Some(outgoing)
            }
            Err(status) => {
                let link = self.links.get_mut(&id)?;
                link.transmissions.retain(|transmission| {
                    !matches!(transmission.subject, Subject::Response { operation, .. } if operation == frame.operation)
                });
                Some(Outgoing::Empty(Frame {
                    status: status as u8,
                    ..Frame::new(Kind::Answer, frame.source, frame.target, frame.operation)
                }))
            }
        }
    }

    /// Whether all pieces may be used like this.
    pub(super) fn check_pieces(&self, pieces: &[Piece], domain: u32, access: Access) -> Result<(), Status> {
        pieces.iter().filter(|piece| piece.len_bytes != 0).try_for_each(|piece| {
            self.regions
                .find(
                    piece.key,
                    domain,
                    piece.address,
                    piece.len_bytes.into(),
                    access,
                    Status::InvalidLocalKey,
                )
                .map(|_| ())
        })
    }

    pub(super) fn locate_pieces(
        &self,
        pieces: &[Piece],
        domain: u32,
        access: Access,
    ) -> Result<Vec<(Region, Piece)>, Status> {
        pieces
            .iter()
            .map(|piece| {
                self.regions
                    .find(
                        piece.key,
                        domain,
                        piece.address,
                        piece.len_bytes.into(),
                        access,
                        Status::InvalidLocalKey,
                    )
                    .map(|region| (*region, *piece))
            })
            .collect()
    }
}

/// A frame with its payload, or with where that is when it is the process's own memory: other memory may be gone, which
/// is found out before anything goes out.
fn gather(frame: Frame, found: Vec<(Region, Piece)>, memory: &dyn Memory) -> Result<Outgoing, Gone> {
    if found.iter().all(|(region, _)| region.kind == RegionKind::Host) {
        return Ok(Outgoing::Memory(frame, found));
    }
    let mut bytes = vec![0; frame.len_bytes as usize];
    let mut left = bytes.as_mut_slice();
    for (region, piece) in &found {
        let (now, later) = left.split_at_mut(piece.len_bytes as usize);
        memory.read(region, region.locate(piece.address), now)?;
        left = later;
    }
    Ok(Outgoing::Inline(frame, bytes))
}

/// How many operations of a link are mixed.
const MIXED: usize = 8;
/// In the status of an operation: it is not to be turned away for the sake of manners.
const INSISTS: u8 = 255;
