//! Messages over one connected stream, plain or sealed, without ever blocking.
//!
//! Both ends of a rank's link use it: the rank, and the server of a meeting point. What is sent is queued and goes
//! out as the socket takes it; what arrived is taken in whole messages.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use efarun_wire::frame::{self, FrameError, FrameReader};
use efarun_wire::secure::{Authenticated, SecureChannel, SecureError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, getsockname, recv, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One end of a link.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    channel: Option<Box<SecureChannel>>,
    reader: FrameReader,
    outbound: Vec<u8>,
    /// How much of `outbound` the socket has taken.
    sent_bytes: usize,
}

/// Why a link is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the other end closed the connection")]
    Ended,
    #[error("the connection failed: {0}")]
    Io(#[from] Errno),
    #[error("the other end does not follow the protocol: it sent {0}")]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Secure(#[from] SecureError),
    #[error("the other end has not read for {0} bytes")]
    Stuck(usize),
}

impl Link {
    /// A link over a socket that nobody else can reach: the agent's, or one within this process.
    pub(super) fn plain(stream: UnixStream, limit_bytes: usize) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Link {
            socket: stream.into(),
            channel: None,
            reader: FrameReader::new(limit_bytes),
            outbound: Vec::new(),
            sent_bytes: 0,
        })
    }

    /// A link over a connection whose handshake is done.
    pub(super) fn sealed(
        stream: TcpStream,
        authenticated: Authenticated,
        limit_bytes: usize,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut reader = FrameReader::new(limit_bytes);
        reader.push(&authenticated.received);
        Ok(Link {
            socket: stream.into(),
            channel: Some(Box::new(authenticated.channel)),
            reader,
            outbound: Vec::new(),
            sent_bytes: 0,
        })
    }

    /// Queues a message and sends what the socket takes.
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), LinkError> {
        let bytes = frame::encode(message);
        match &mut self.channel {
            Some(channel) => channel.seal(&bytes, &mut self.outbound)?,
            None => self.outbound.extend_from_slice(&bytes),
        }
        self.flush()?;
        let queued_bytes = self.outbound.len() - self.sent_bytes;
        if queued_bytes > MAX_QUEUED_BYTES { Err(LinkError::Stuck(queued_bytes)) } else { Ok(()) }
    }

    /// Sends what the socket takes of what is queued.
    pub(super) fn flush(&mut self) -> Result<(), LinkError> {
        while self.sent_bytes < self.outbound.len() {
            // MSG_NOSIGNAL: a program that is not Rust's has SIGPIPE at its default.
            let unsent = &self.outbound[self.sent_bytes..];
            match send(self.socket.as_raw_fd(), unsent, MsgFlags::MSG_NOSIGNAL) {
                Ok(taken) => self.sent_bytes += taken,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(ended_or(errno)),
            }
        }
        self.outbound.clear();
        self.sent_bytes = 0;
        Ok(())
    }

    /// Whether something queued waits for the socket.
    pub(super) fn is_flushed(&self) -> bool {
        self.outbound.is_empty()
    }

    /// Takes what has arrived and gives the next whole message, if there is one. The end of the stream is an error
    /// once all messages before it were given.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, LinkError> {
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Ok(Some(message));
            }
            let mut bytes = [0; READ_BYTES];
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(0) => return Err(LinkError::Ended),
                Ok(len) => self.take(&bytes[..len])?,
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(ended_or(errno)),
            }
        }
    }

    /// The address of this end, of a link over TCP.
    pub(super) fn local_address(&self) -> Option<IpAddr> {
        let address = getsockname::<SockaddrStorage>(self.socket.as_raw_fd()).ok()?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    }

    /// What the link waits for, for poll(2).
    pub(super) fn interest(&self) -> PollFlags {
        if self.is_flushed() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let Some(channel) = &mut self.channel else {
            self.reader.push(bytes);
            return Ok(());
        };
        let mut opened = Vec::with_capacity(bytes.len());
        let result = channel.open(bytes, &mut opened);
        self.reader.push(&opened);
        Ok(result?)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sleeps until one of these is ready, for `timeout` at most, at least a millisecond. A signal ends it early.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], timeout: Duration) {
    let millis = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX).max(1);
    // Without descriptors at fault poll(2) fails for signals and lack of memory only; callers look again anyway.
    let _ = poll(fds, PollTimeout::from(millis));
}

/// A peer that died without reading everything shows as a reset or a broken pipe.
fn ended_or(errno: Errno) -> LinkError {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNABORTED => LinkError::Ended,
        _ => LinkError::Io(errno),
    }
}

const READ_BYTES: usize = 16 << 10;
/// Twice the largest message: a reader that is further behind than this does not read.
const MAX_QUEUED_BYTES: usize = 2 * frame::MAX_BODY_BYTES;
