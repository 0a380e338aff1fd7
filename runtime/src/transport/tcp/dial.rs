//! Making a connection to a rank that listens, without waiting.
//!
//! [`Dial::advance`] goes as far as it can: connect, then the handshake, in which both ends prove that they have the
//! listener's key. A connection that ends within the handshake is dialled again, since a crowd of strangers at the
//! other end's door may have pushed it out; everything else that fails is final and says what to do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::secure::Initiator;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::congestion;
use super::contact::Contact;

/// A connection on its way.
#[derive(Debug)]
pub(super) struct Dial {
    me: Rank,
    contact: Contact,
    stage: Stage,
    /// Until when a dropped connection is dialled again.
    retry_until: Instant,
}

#[derive(Debug)]
enum Stage {
    Connecting { socket: Socket, deadline: Instant },
    Shaking { socket: Socket, initiator: Box<Initiator> },
    Resting { until: Instant },
}

/// What to sleep on until a dial can go on.
pub(super) enum Awaits<'a> {
    /// The socket, and what of it.
    Socket(BorrowedFd<'a>, PollFlags, Option<Instant>),
    /// Time.
    Until(Instant),
}

impl Dial {
    /// Begins to dial, as rank `me`.
    pub(super) fn start(me: Rank, contact: Contact) -> Result<Self, String> {
        let stage = connect(contact.address)?;
        Ok(Dial { me, contact, stage, retry_until: Instant::now() + CONNECT_PATIENCE })
    }

    /// Goes on. Gives the connection when the other end is known to have the key.
    pub(super) fn advance(&mut self) -> Result<Option<Socket>, String> {
        loop {
            let stage = std::mem::replace(&mut self.stage, Stage::Resting { until: Instant::now() });
            match stage {
                Stage::Connecting { socket, deadline } => {
                    if !is_connected(&socket, deadline)? {
                        self.stage = Stage::Connecting { socket, deadline };
                        return Ok(None);
                    }
                    let mut opening = Vec::new();
                    let key = &self.contact.key;
                    let initiator = Initiator::new(key.job_id(), self.me.0, key, &mut opening)
                        .map_err(|error| error.to_string())?;
                    self.stage = match write_all(&socket, &opening) {
                        Ok(()) => Stage::Shaking { socket, initiator: Box::new(initiator) },
                        Err(error) => self.dropped(&error.to_string())?,
                    };
                }
                Stage::Shaking { socket, mut initiator } => {
                    let mut bytes = [0; 256];
                    let mut confirm = Vec::new();
                    match (&socket).read(&mut bytes) {
                        Ok(0) => {
                            self.stage = self.dropped("it closed the connection within the handshake")?
                        }
                        // The other end says nothing behind its answer before it has our confirm, so that all of
                        // this is its answer.
                        Ok(len) => match initiator.receive(&bytes[..len], &mut confirm) {
                            Ok(None) => self.stage = Stage::Shaking { socket, initiator },
                            Ok(Some(_)) => match write_all(&socket, &confirm) {
                                Ok(()) => return Ok(Some(socket)),
                                Err(error) => self.stage = self.dropped(&error.to_string())?,
                            },
                            Err(error) => return Err(format!("the handshake failed: {error}")),
                        },
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            self.stage = Stage::Shaking { socket, initiator };
                            return Ok(None);
                        }
                        Err(error) if error.kind() == ErrorKind::Interrupted => {
                            self.stage = Stage::Shaking { socket, initiator };
                        }
                        Err(error) => self.stage = self.dropped(&error.to_string())?,
                    }
                }
                Stage::Resting { until } if Instant::now() < until => {
                    self.stage = Stage::Resting { until };
                    return Ok(None);
                }
                Stage::Resting { .. } => self.stage = connect(self.contact.address)?,
            }
        }
    }

    /// What to sleep on.
    pub(super) fn awaits(&self) -> Awaits<'_> {
        match &self.stage {
            Stage::Connecting { socket, deadline } => {
                Awaits::Socket(socket.as_fd(), PollFlags::POLLOUT, Some(*deadline))
            }
            Stage::Shaking { socket, .. } => Awaits::Socket(socket.as_fd(), PollFlags::POLLIN, None),
            Stage::Resting { until } => Awaits::Until(*until),
        }
    }

    fn dropped(&self, cause: &str) -> Result<Stage, String> {
        let now = Instant::now();
        if now >= self.retry_until {
            return Err(format!(
                "the connection was dropped within the handshake, time and again: {cause}; something between the \
                 nodes ends connections to this port, or a crowd of strangers keeps the port busy"
            ));
        }
        Ok(Stage::Resting { until: now + RETRY_PAUSE })
    }
}

fn connect(address: SocketAddr) -> Result<Stage, String> {
    let connecting = || {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        congestion::choose_or_log(SockRef::from(&socket));
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    };
    let socket = connecting().map_err(|error| explain(&error))?;
    Ok(Stage::Connecting { socket, deadline: Instant::now() + CONNECT_PATIENCE })
}

fn is_connected(socket: &Socket, deadline: Instant) -> Result<bool, String> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    // An interrupted look is no look: the next will see.
    if poll(&mut fds, PollTimeout::ZERO).unwrap_or(0) > 0 {
        return match socket.take_error() {
            Ok(None) => Ok(true),
            Ok(Some(error)) | Err(error) => Err(explain(&error)),
        };
    }
    if Instant::now() >= deadline {
        return Err(explain(&io::Error::from(ErrorKind::TimedOut)));
    }
    Ok(false)
}

/// What a failed connect means, and what to do about it.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut => format!(
            "no answer in {} s; a firewall drops what is sent there: let the nodes' security group allow TCP on all \
             ports from itself",
            CONNECT_PATIENCE.as_secs()
        ),
        ErrorKind::ConnectionRefused => {
            "the connection was refused; the rank has ended, or a firewall refuses: let the nodes' security group \
             allow TCP on all ports from itself"
                .to_owned()
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => format!(
            "{error}; if the node has another address that this one reaches, name it by EFARUN_NODE_ADDRESS there"
        ),
        _ => error.to_string(),
    }
}

/// Sends a few bytes into an empty buffer, which takes them whole or is of no use.
fn write_all(mut socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    match socket.write(bytes)? {
        taken if taken == bytes.len() => Ok(()),
        _ => Err(io::Error::from(ErrorKind::WriteZero)),
    }
}

/// How long a connect may stay without an answer: SYNs that are lost are repeated after 1, 3 and 7 s.
pub(super) const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
