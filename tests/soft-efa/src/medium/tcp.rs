//! Links between hosts: TCP, so that a cable that is pulled and a firewall that swallows are the real thing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, socket, sockopt};

use super::hello::{HELLO_BYTES, Hello};
use super::{MAX_PAYLOAD_BYTES, Received};
use crate::address::Qpn;
use crate::nic::{Frame, HEADER_BYTES, Outlet};

/// Where a queue pair is found from other hosts.
#[derive(Debug)]
pub struct TcpDoor(TcpListener);

impl TcpDoor {
    /// Takes the port of a queue pair.
    ///
    /// # Errors
    ///
    /// What the kernel says; `AddrInUse` when somebody has it.
    pub fn open(host: Ipv4Addr, first_port: u16, device: u8, qpn: Qpn) -> std::io::Result<TcpDoor> {
        let listener = TcpListener::bind(SocketAddrV4::new(host, port(first_port, device, qpn)?))?;
        listener.set_nonblocking(true)?;
        Ok(TcpDoor(listener))
    }

    /// Somebody who wants to talk; none when nobody waits.
    pub fn accept(&self) -> Option<TcpGreeting> {
        let (stream, _) = self.0.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(TcpGreeting { stream, bytes: Vec::with_capacity(HELLO_BYTES) })
    }

    /// Readable when somebody waits.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Somebody who has not said hello in full.
#[derive(Debug)]
pub struct TcpGreeting {
    stream: TcpStream,
    bytes: Vec<u8>,
}

/// What came of a greeting.
#[derive(Debug)]
pub enum Greeted {
    /// There is more to come.
    NotYet(TcpGreeting),
    /// It is a link now.
    Link(Hello, TcpLink),
    /// It made no sense, or ended.
    Nonsense,
}

impl TcpGreeting {
    /// Readable when there is more of the hello.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Reads on.
    pub fn read(mut self) -> Greeted {
        while self.bytes.len() < HELLO_BYTES {
            let mut rest = [0; HELLO_BYTES];
            let wanted = HELLO_BYTES - self.bytes.len();
            match self.stream.read(&mut rest[..wanted]) {
                Ok(0) => return Greeted::Nonsense,
                Ok(len) => self.bytes.extend_from_slice(&rest[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Greeted::NotYet(self),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Greeted::Nonsense,
            }
        }
        let hello = self.bytes.as_slice().try_into().ok().and_then(Hello::decode);
        hello.map_or(Greeted::Nonsense, |hello| Greeted::Link(hello, TcpLink::new(self.stream, Vec::new())))
    }
}

/// A link to another host.
#[derive(Debug)]
pub struct TcpLink {
    stream: TcpStream,
    outgoing: Vec<u8>,
    /// How much of it has gone out.
    gone: usize,
    /// Of which `filled` bytes have come and are not whole frames yet.
    incoming: Box<[u8]>,
    filled: usize,
    is_connected: bool,
    /// Nothing can be said any more; what was said to us is still heard.
    is_broken: bool,
    was_waiting: bool,
}

impl TcpLink {
    /// Begins to open a link; it can be used at once.
    ///
    /// # Errors
    ///
    /// What the kernel says to a connection that it does not even begin.
    pub fn open(hello: &Hello, first_port: u16) -> std::io::Result<TcpLink> {
        let (host, device) = hello.to.gid.parts().ok_or(Errno::EHOSTUNREACH)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        nix::sys::socket::setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        // From our own address, which is what faults and firewalls know us by.
        if let Some((own, _)) = hello.from.parts() {
            nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(own, 0)))?;
        }
        let target = SocketAddrV4::new(host, port(first_port, device, hello.to.qpn)?);
        match nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrIn::from(target)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut link = TcpLink::new(TcpStream::from(fd), hello.encode().to_vec());
        link.is_connected = false;
        Ok(link)
    }

    fn new(stream: TcpStream, outgoing: Vec<u8>) -> TcpLink {
        TcpLink {
            stream,
            outgoing,
            gone: 0,
            incoming: vec![0; READ_BYTES].into(),
            filled: 0,
            is_connected: true,
            is_broken: false,
            was_waiting: false,
        }
    }

    /// Its socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether it now waits for room in the socket, or for the connection, if that has changed since it was asked.
    pub fn waiting_changed(&mut self) -> Option<bool> {
        let is_waiting = !self.is_connected || self.gone < self.outgoing.len();
        (std::mem::replace(&mut self.was_waiting, is_waiting) != is_waiting).then_some(is_waiting)
    }

    /// Whether the connection stands; why it does not, once that is known.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub fn check(&mut self) -> std::io::Result<bool> {
        if !self.is_connected {
            if let Some(error) = self.stream.take_error()? {
                return Err(error);
            }
            self.is_connected = self.stream.peer_addr().is_ok();
        }
        Ok(self.is_connected)
    }

    /// Sends what the socket takes. That nobody is there any more is for `receive` to say, once it has given what they
    /// said before: a card has that already, whoever could not be answered.
    pub(super) fn flush(&mut self) {
        if !self.is_connected {
            return;
        }
        while !self.is_broken && self.gone < self.outgoing.len() {
            match self.stream.write(&self.outgoing[self.gone..]) {
                Ok(len) => self.gone += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_broken = true,
            }
        }
        self.outgoing.clear();
        self.gone = 0;
    }

    pub(super) fn receive(&mut self, budget: usize, take: &mut dyn FnMut(&Frame, &[u8])) -> Received {
        if !self.is_connected {
            return Received::Frames(0);
        }
        let mut count = 0;
        while count < budget {
            let is_end = match self.stream.read(&mut self.incoming[self.filled..]) {
                Ok(0) => true,
                Ok(len) => {
                    self.filled += len;
                    false
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.is_broken => {
                    return Received::Frames(count);
                }
                Err(_) => true,
            };
            let Some(frames) = self.parse(take) else { return Received::End(count) };
            count += frames;
            if is_end {
                return Received::End(count);
            }
        }
        Received::Frames(count)
    }

    /// Takes the whole frames out of what came; none when it makes no sense.
    fn parse(&mut self, take: &mut dyn FnMut(&Frame, &[u8])) -> Option<usize> {
        let (mut start, mut count) = (0, 0);
        while let Some(header) = self.incoming[..self.filled].get(start..start + HEADER_BYTES) {
            let frame = Frame::decode(header.try_into().ok()?)?;
            let len = frame.len_bytes as usize;
            if len > MAX_PAYLOAD_BYTES {
                return None;
            }
            let begin = start + HEADER_BYTES;
            let Some(payload) = self.incoming[..self.filled].get(begin..begin + len) else { break };
            take(&frame, payload);
            start = begin + len;
            count += 1;
        }
        self.incoming.copy_within(start..self.filled, 0);
        self.filled -= start;
        Some(count)
    }
}

impl Outlet for TcpLink {
    fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING_BYTES
    }

    fn put(&mut self, frame: &Frame, fill: &mut dyn FnMut(&mut [u8])) {
        self.outgoing.extend_from_slice(&frame.encode());
        let start = self.outgoing.len();
        self.outgoing.resize(start + frame.len_bytes as usize, 0);
        fill(&mut self.outgoing[start..]);
    }
}

fn port(first_port: u16, device: u8, qpn: Qpn) -> std::io::Result<u16> {
    let offset = u32::from(device) * PORTS_PER_DEVICE + qpn.0;
    let port = u32::from(first_port) + offset;
    (qpn.0 < PORTS_PER_DEVICE)
        .then_some(port)
        .and_then(|port| u16::try_from(port).ok())
        .ok_or(Errno::EADDRNOTAVAIL.into())
}

const PORTS_PER_DEVICE: u32 = 256;
const OUTGOING_BYTES: usize = 256 * 1024;
/// More than a frame of full size.
const READ_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::nic::FrameKind;

    /// An end that stays, and one that goes.
    fn link() -> (TcpLink, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (TcpLink::new(ours, Vec::new()), theirs)
    }

    fn frame(operation: u64) -> Frame {
        Frame::new(FrameKind::Farewell, Qpn(1), Qpn(2), operation)
    }

    /// Says something to the other end until that is known to be gone.
    fn speak_until_broken(link: &mut TcpLink) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !link.is_broken {
            assert!(Instant::now() < deadline, "the end is not seen");
            link.put(&frame(9), &mut |_| ());
            link.flush();
        }
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_by_who_could_not_answer_any_more() {
        let (mut link, mut theirs) = link();
        // What they leave unread makes their end a reset.
        link.put(&frame(1), &mut |_| ());
        link.flush();
        theirs.peek(&mut [0]).unwrap();
        for operation in [7, 8] {
            theirs.write_all(&frame(operation).encode()).unwrap();
        }
        drop(theirs);
        speak_until_broken(&mut link);
        let mut heard = Vec::new();
        let received = link.receive(64, &mut |frame, _| heard.push(frame.operation));
        assert_eq!((heard, received), (vec![7, 8], Received::End(2)));
        assert!(link.has_room() && link.waiting_changed().is_none(), "what cannot be said is not kept");
    }
}
