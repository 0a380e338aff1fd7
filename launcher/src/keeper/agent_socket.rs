//! The keeper's end of the socket to its agent: orders in, each with the file descriptors that belong to it, and
//! reports out. Nothing here waits; the keeper's loop polls.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, send};

use efarun_wire::frame::{self, FrameReader};

use super::protocol::{KeeperOrder, KeeperReport, RANK_FDS};
use super::sys;

/// The keeper's end of the socket.
#[derive(Debug)]
pub(super) struct AgentSocket {
    fd: OwnedFd,
    frames: FrameReader,
    fds: VecDeque<OwnedFd>,
    unsent: Vec<u8>,
    open: bool,
}

impl AgentSocket {
    pub(super) fn new(fd: OwnedFd) -> AgentSocket {
        AgentSocket {
            fd,
            frames: FrameReader::default(),
            fds: VecDeque::new(),
            unsent: Vec::new(),
            open: true,
        }
    }

    /// Whether the agent is there.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether reports wait for room in the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.open && !self.unsent.is_empty()
    }

    /// Takes in what has arrived.
    pub(super) fn receive(&mut self) {
        while self.open {
            match self.receive_once() {
                Ok(0) => self.open = false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // Whatever the socket has: without an agent the ranks must not live.
                Err(_) => self.open = false,
            }
        }
    }

    fn receive_once(&mut self) -> nix::Result<usize> {
        let mut buffer = [0; 16 << 10];
        let mut ancillary = nix::cmsg_space!([RawFd; RANK_FDS]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(self.fd.as_raw_fd(), &mut slices, Some(&mut ancillary), flags)?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                self.fds.extend(sys::own_received(fds));
            }
        }
        let received_bytes = received.bytes;
        self.frames.push(&buffer[..received_bytes]);
        Ok(received_bytes)
    }

    /// Gives the next order. Descriptors arrive no later than the order's own first byte, so that those of a fork
    /// order are the oldest that have not been taken.
    pub(super) fn next_order(&mut self) -> Option<(KeeperOrder, Vec<OwnedFd>)> {
        match self.frames.next_message() {
            Ok(None) => None,
            Ok(Some(order @ KeeperOrder::Fork(_))) if self.fds.len() >= RANK_FDS => {
                Some((order, self.fds.drain(..RANK_FDS).collect()))
            }
            Ok(Some(order @ (KeeperOrder::Signal { .. } | KeeperOrder::End { .. }))) => {
                Some((order, Vec::new()))
            }
            // Both ends are the same build: an order that does not parse means that the agent has gone mad.
            Ok(Some(KeeperOrder::Fork(_))) | Err(_) => {
                self.open = false;
                None
            }
        }
    }

    /// Queues a report and sends what the socket takes.
    pub(super) fn report(&mut self, report: &KeeperReport) {
        self.unsent.extend(frame::encode(report));
        self.send_unsent();
    }

    /// Sends what the socket takes.
    pub(super) fn send_unsent(&mut self) {
        while self.has_unsent() {
            match send(self.fd.as_raw_fd(), &self.unsent, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(sent_bytes) => drop(self.unsent.drain(..sent_bytes)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.open = false,
            }
        }
    }
}

impl AsFd for AgentSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Moves the socket from standard input, where the agent put it, out of the way of the ranks' descriptors.
pub(crate) fn from_standard_input() -> io::Result<OwnedFd> {
    let moved = out_of_the_way(io::stdin().as_fd())?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(moved)
}

/// Gives the socket a number that no rank's descriptor has.
pub(super) fn out_of_the_way(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let moved = nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(FIRST_OWN_FD))?;
    Ok(sys::own_received(vec![moved]).remove(0))
}

const FIRST_OWN_FD: RawFd = 10;
