//! The connection to one peer: frames out, frames in, never waiting.
//!
//! A frame leaves in one system call, head and payload together; what the socket does not take is queued and leaves
//! with [`Link::flush`]. Arriving bytes are read into a small stage, from which short messages are copied; what a long
//! message has beyond the stage is read straight to its place. Where a long message is expected its head and payload are
//! read in one call, the payload to its place; should something else have come, it is moved to the stage. Whoever reads
//! says how far: up to the next message, so that it is used while it is in the cache, or all there is.
//!
//! A link does not know ranks. Its errors are fragments that are put behind a peer's name.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use socket2::Socket;

use super::credit::{Broken, Inflow, MAX_IN_FLIGHT, Outflow};
use super::frame::{Announced, Frame, HEAD_BYTES};
use super::lent::Payload;
use super::place::{Expected, Place};
use super::room::Room;
use crate::transport::{Header, SendToken};

/// A connection that was authenticated.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    queue: VecDeque<Outgoing>,
    stage: Stage,
    /// The message whose payload is arriving.
    arriving: Option<Arriving>,
}

/// A frame that was not taken whole.
#[derive(Debug)]
struct Outgoing {
    head: [u8; HEAD_BYTES],
    payload: Option<(Payload, SendToken)>,
    /// Bytes that the socket took, of head and payload.
    taken: usize,
}

#[derive(Debug)]
struct Arriving {
    header: Header,
    place: Place,
    filled: usize,
}

/// A message that is here.
#[derive(Debug)]
pub(super) struct Arrived {
    /// What the sender wrote in front.
    pub(super) header: Header,
    /// Where its payload is.
    pub(super) place: Place,
}

/// What a link changes as it reads: both flows of its peer, and what arrived.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Towards the peer.
    pub(super) out: Outflow,
    /// From the peer.
    pub(super) inward: Inflow,
    /// What the next message is said to be, while it has not begun to arrive.
    pub(super) expected: Option<Expected>,
    /// Messages that are here, the oldest first.
    pub(super) arrived: VecDeque<Arrived>,
    /// Where they are, but for those that have landed.
    pub(super) room: Room,
}

impl Flows {
    /// Makes room for what can be in flight, so that nothing that comes or goes needs more memory.
    pub(super) fn reserve(&mut self) {
        self.out.reserve();
        self.arrived.reserve(MAX_IN_FLIGHT as usize);
    }

    /// The payload of a message that is here.
    pub(super) fn payload<'b>(&'b self, message: &'b Arrived) -> &'b [u8] {
        message.place.bytes(&self.room, message.header.len_bytes as usize)
    }
}

/// How far to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Until a message is here.
    OneMessage,
    /// Until the socket has no more.
    All,
}

impl Link {
    /// Takes over a connection on which nothing but frames travels from here on.
    pub(super) fn new(socket: Socket) -> Self {
        // As many messages as can be in flight, a credit before and behind each.
        let queue = VecDeque::with_capacity(2 * MAX_IN_FLIGHT as usize + 1);
        Link { socket, queue, stage: Stage::default(), arriving: None }
    }

    /// Sends a message, or queues what the socket does not take. Gives the token back when all of it was taken.
    pub(super) fn send_message(
        &mut self,
        frame: Frame,
        payload: Payload,
        token: SendToken,
    ) -> Result<Option<SendToken>, String> {
        let head = frame.to_bytes();
        let mut outgoing = Outgoing { head, payload: Some((payload, token)), taken: 0 };
        if self.queue.is_empty() {
            outgoing.send_on(&self.socket).map_err(|error| lost(&error))?;
        }
        if outgoing.left() == 0 {
            return Ok(Some(token));
        }
        self.queue.push_back(outgoing);
        Ok(None)
    }

    /// Sends a grant alone, or queues it.
    pub(super) fn send_credit(&mut self, granted: u64) -> Result<(), String> {
        let mut outgoing = Outgoing { head: Frame::credit(granted).to_bytes(), payload: None, taken: 0 };
        if self.queue.is_empty() {
            outgoing.send_on(&self.socket).map_err(|error| lost(&error))?;
        }
        match self.queue.back_mut() {
            _ if outgoing.left() == 0 => {}
            // The later grant is all that the peer needs to know.
            Some(last) if last.payload.is_none() && last.taken == 0 => *last = outgoing,
            _ => self.queue.push_back(outgoing),
        }
        Ok(())
    }

    /// Sends what is queued, as far as the socket takes it, and appends the tokens of what is through.
    pub(super) fn flush(&mut self, completed: &mut Vec<SendToken>) -> Result<(), String> {
        while let Some(outgoing) = self.queue.front_mut() {
            outgoing.send_on(&self.socket).map_err(|error| lost(&error))?;
            if outgoing.left() > 0 {
                break;
            }
            completed.extend(self.queue.pop_front().and_then(|sent| sent.payload).map(|(_, token)| token));
        }
        Ok(())
    }

    /// Whether the next message has begun to arrive.
    pub(super) fn is_receiving(&self) -> bool {
        self.arriving.is_some()
    }

    /// Whether something is queued.
    pub(super) fn is_sending(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether a payload is queued whose token is still owed.
    pub(super) fn owes_tokens(&self) -> bool {
        self.queue.iter().any(|outgoing| outgoing.payload.is_some())
    }

    /// Reads what has arrived, as far as `extent` says.
    pub(super) fn receive(&mut self, extent: Extent, flows: &mut Flows) -> Result<(), String> {
        loop {
            self.unstage(flows)?;
            if extent == Extent::OneMessage && !flows.arrived.is_empty() {
                return Ok(());
            }
            // The stage holds less than a head now, or nothing when a payload is arriving.
            let (read, room) = match &mut self.arriving {
                Some(Arriving { header, place, filled }) => {
                    let rest = &mut place.bytes_mut(&mut flows.room, header.len_bytes as usize)[*filled..];
                    let read = read_some(&self.socket, rest)?;
                    *filled += read.unwrap_or(0);
                    (read, rest.len())
                }
                None => match flows.expected.take() {
                    Some(expected) if expected.len_bytes >= DIRECT_BYTES && self.stage.is_empty() => {
                        self.receive_expected(expected, flows)?
                    }
                    expected => {
                        flows.expected = expected;
                        self.stage.fill(&self.socket)?
                    }
                },
            };
            match read {
                None => return Ok(()),
                // Less than there was room for: that was all. The next call would say so; this saves it.
                Some(len) if len < room => {
                    self.unstage(flows)?;
                    return Ok(());
                }
                Some(_) => {}
            }
        }
    }

    /// Reads the head of a message and the beginning of its payload, or whatever comes instead. Says how much, and for how
    /// much there was room.
    fn receive_expected(
        &mut self,
        mut expected: Expected,
        flows: &mut Flows,
    ) -> Result<(Option<usize>, usize), String> {
        let mut head = [0; HEAD_BYTES];
        let expected_bytes = expected.len_bytes;
        let place = expected.bytes_mut(&mut flows.room).ok_or_else(|| Broken::TooMuch.to_string())?;
        let beginning = &mut place[..expected_bytes.min(SPILL_BYTES)];
        let room = HEAD_BYTES + beginning.len();
        let read = read_parts(&self.socket, &mut [IoSliceMut::new(&mut head), IoSliceMut::new(beginning)])?;
        let len = read.unwrap_or(0);
        let frame = Frame::from_bytes(&head).ok().filter(|_| len >= HEAD_BYTES);
        let announced = frame.and_then(|frame| frame.message);
        if announced.is_some_and(|message| message.header.len_bytes as usize == expected_bytes) {
            flows.expected = Some(expected);
            self.begin(&head, len - HEAD_BYTES, flows)?;
        } else {
            self.stage.put(&head[..len.min(HEAD_BYTES)]);
            self.stage.put(&beginning[..len.saturating_sub(HEAD_BYTES)]);
            flows.expected = Some(expected);
        }
        Ok((read, room))
    }

    /// Takes frames out of the stage, until less than a head is left or a payload is incomplete.
    fn unstage(&mut self, flows: &mut Flows) -> Result<(), String> {
        loop {
            if let Some(arriving) = &mut self.arriving {
                let len_bytes = arriving.header.len_bytes as usize;
                let place = arriving.place.bytes_mut(&mut flows.room, len_bytes);
                arriving.filled += self.stage.take(&mut place[arriving.filled..]);
                if arriving.filled < len_bytes {
                    return Ok(());
                }
                if let Some(Arriving { header, place, .. }) = self.arriving.take() {
                    flows.arrived.push_back(Arrived { header, place });
                }
            }
            let Some(head) = self.stage.take_head() else { return Ok(()) };
            self.begin(&head, 0, flows)?;
        }
    }

    /// Takes a head, behind which so much of a payload is at its place already.
    fn begin(&mut self, head: &[u8; HEAD_BYTES], filled: usize, flows: &mut Flows) -> Result<(), String> {
        let frame = Frame::from_bytes(head).map_err(|error| error.to_string())?;
        flows.out.grant(frame.granted).map_err(|error| error.to_string())?;
        if let Some(announced) = &frame.message {
            flows.inward.receive(announced).map_err(|error| error.to_string())?;
            let Announced { header, .. } = *announced;
            let place = Place::take(flows.expected.take(), header.len_bytes as usize, &mut flows.room);
            let place = place.ok_or_else(|| Broken::TooMuch.to_string())?;
            self.arriving = Some(Arriving { header, place, filled });
        }
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Outgoing {
    fn payload_bytes(&self) -> &[u8] {
        self.payload.as_ref().map_or(&[], |(payload, _)| payload.bytes())
    }

    fn left(&self) -> usize {
        HEAD_BYTES + self.payload_bytes().len() - self.taken
    }

    /// Hands to the socket what it takes.
    fn send_on(&mut self, socket: &Socket) -> io::Result<()> {
        let taken = {
            let payload = self.payload_bytes();
            let head = self.head.get(self.taken..).unwrap_or_default();
            let rest = &payload[self.taken.saturating_sub(HEAD_BYTES)..];
            if payload.len() <= COPIED_BYTES {
                let mut bytes = [0; HEAD_BYTES + COPIED_BYTES];
                bytes[..head.len()].copy_from_slice(head);
                bytes[head.len()..][..rest.len()].copy_from_slice(rest);
                retry(|| socket.send_with_flags(&bytes[..head.len() + rest.len()], FLAGS))
            } else if head.is_empty() {
                retry(|| socket.send_with_flags(rest, FLAGS))
            } else {
                let parts = [IoSlice::new(head), IoSlice::new(rest)];
                retry(|| socket.send_vectored_with_flags(&parts, FLAGS))
            }
        };
        match taken {
            Ok(taken) => self.taken += taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Bytes that have been read and not understood yet.
#[derive(Debug)]
struct Stage {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Stage {
    /// Reads more. Says how much, none where there is nothing, and for how much there was room.
    fn fill(&mut self, socket: &Socket) -> Result<(Option<usize>, usize), String> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = &mut self.bytes[self.end..][..STAGE_BYTES];
        let read = read_some(socket, room)?;
        let room = room.len();
        self.end += read.unwrap_or(0);
        Ok((read, room))
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Puts bytes behind those that are there, which are none or such that were put.
    fn put(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        self.bytes[self.end..][..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Moves bytes out, as many as there are and fit.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let len = into.len().min(self.end - self.start);
        into[..len].copy_from_slice(&self.bytes[self.start..self.start + len]);
        self.start += len;
        len
    }

    fn take_head(&mut self) -> Option<[u8; HEAD_BYTES]> {
        let head = *self.bytes[self.start..self.end].first_chunk()?;
        self.start += HEAD_BYTES;
        Some(head)
    }
}

impl Default for Stage {
    fn default() -> Self {
        // What lies beyond the first pages is seldom touched.
        Stage { bytes: vec![0; HEAD_BYTES + STAGE_BYTES.max(SPILL_BYTES)].into(), start: 0, end: 0 }
    }
}

/// Reads without waiting; none where there is nothing to read. Nothing is asked for only where nothing is missing.
fn read_some(socket: &Socket, room: &mut [u8]) -> Result<Option<usize>, String> {
    match retry(|| (&mut &*socket).read(room)) {
        Ok(0) if !room.is_empty() => Err("it closed the connection".to_owned()),
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(lost(&error)),
    }
}

/// As [`read_some`], into one part after the other.
fn read_parts(socket: &Socket, parts: &mut [IoSliceMut<'_>]) -> Result<Option<usize>, String> {
    match retry(|| (&mut &*socket).read_vectored(parts)) {
        Ok(0) => Err("it closed the connection".to_owned()),
        Ok(len) => Ok(Some(len)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(lost(&error)),
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What a failed call says about the peer.
fn lost(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "it closed the connection".to_owned(),
        ErrorKind::TimedOut => {
            "it has not answered for so long that the kernel gave the connection up".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A program that was not written in Rust need not ignore SIGPIPE.
const FLAGS: libc::c_int = libc::MSG_NOSIGNAL;
/// Up to this length a payload is copied behind its head, which costs less than a call with two parts.
const COPIED_BYTES: usize = 512;
/// How much is read ahead of knowing what it is.
const STAGE_BYTES: usize = 8 << 10;
/// From this length on an expected message is read to its place at once. Of shorter ones several are read in one call,
/// and copied.
const DIRECT_BYTES: usize = 2 << 10;
/// How much of an expected message is read before it is known to be that: there is room for it in the stage.
const SPILL_BYTES: usize = 64 << 10;
