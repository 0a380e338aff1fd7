//! Where other ranks come in: a port that believes nobody.
//!
//! Who connects is a stranger until it has shown that it holds the door's key, which only the ranks of this world
//! have. It may send a handshake and not a byte more, within two seconds. Only so many strangers are let be at once;
//! one more pushes out the one that has been there longest, so that a crowd that connects and says nothing keeps
//! nobody out for long: who is pushed out tries again. What a stranger sends is looked at by [`Responder`] alone.
//!
//! It makes progress in [`Door::admit`] only, which never waits.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use efarun_wire::secure::{HANDSHAKE_TIMEOUT_MS, LinkKey, MAX_HALF_OPEN, Responder, Standing};
use efarun_wire::{JobId, Rank};
use socket2::{SockRef, Socket};

use super::congestion;
use super::contact::Contact;
use crate::transport::TransportError;
use crate::warning;

/// A listening port and the strangers at it. Dropping it closes the port and their connections.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    contact: Contact,
    job: JobId,
    strangers: VecDeque<Stranger>,
    /// Not before this: the system had no descriptor left.
    accept_after: Instant,
}

#[derive(Debug)]
struct Stranger {
    socket: Socket,
    responder: Responder,
    /// How many bytes of a handshake it has not sent yet.
    left_bytes: usize,
    deadline: Instant,
}

impl Door {
    /// Opens a port on an address of ours, under a fresh key.
    pub(super) fn open(address: IpAddr) -> Result<Self, TransportError> {
        let call = |call: &'static str, error: &io::Error, remedy: &str| TransportError::Call {
            call,
            code: error.raw_os_error().unwrap_or_default(),
            cause: format!("{error}: {remedy}"),
        };
        let bound = TcpListener::bind((address, 0)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            congestion::choose_or_log(SockRef::from(&listener));
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let (listener, address) = bound.map_err(|error| {
            let remedy = format!(
                "{address} must be an address of this machine; EFARUN_NODE_ADDRESS names the one that the other nodes reach"
            );
            call("listening for other ranks", &error, &remedy)
        })?;
        let key = LinkKey::generate().map_err(|error| TransportError::Call {
            call: "making a key",
            code: 0,
            cause: error.to_string(),
        })?;
        let job = key.job_id();
        let contact = Contact { address, key };
        Ok(Door { listener, contact, job, strangers: VecDeque::new(), accept_after: Instant::now() })
    }

    /// What the other ranks need to come in.
    pub(super) fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.contact.address
    }

    /// Lets in whoever has proved to be a rank that is awaited, and forgets whoever cannot.
    pub(super) fn admit(&mut self, is_awaited: impl Fn(Rank) -> bool) -> Vec<(Rank, Socket)> {
        self.accept();
        let now = Instant::now();
        let mut admitted: Vec<(Rank, Socket)> = Vec::new();
        for mut stranger in std::mem::take(&mut self.strangers) {
            let standing = |member: u32| match Rank(member) {
                rank if admitted.iter().any(|(other, _)| *other == rank) => Standing::Joined,
                rank if is_awaited(rank) => Standing::Expected(self.contact.key.clone()),
                _ => Standing::Unknown,
            };
            match stranger.advance(&standing) {
                Ok(Some(rank)) => admitted.push((rank, stranger.socket)),
                Ok(None) if now < stranger.deadline => self.strangers.push_back(stranger),
                Ok(None) => log::debug!("a stranger took too long for its handshake"),
                Err(cause) => log::debug!("a stranger was turned away: {cause}"),
            }
        }
        admitted
    }

    fn accept(&mut self) {
        let now = Instant::now();
        if now < self.accept_after {
            return;
        }
        // Bounded, so that a flood of strangers cannot hold this rank here.
        for _ in 0..MAX_HALF_OPEN {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if self.strangers.len() >= MAX_HALF_OPEN {
                        self.strangers.pop_front();
                    }
                    self.strangers.push_back(Stranger {
                        socket: stream.into(),
                        responder: Responder::new(self.job),
                        left_bytes: Responder::HANDSHAKE_BYTES,
                        deadline: now + Duration::from_millis(HANDSHAKE_TIMEOUT_MS),
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    let text =
                        format_args!("accepting other ranks: {error}; trying again in {ACCEPT_PAUSE:?}");
                    warning::tell("tcp: door", text);
                    self.accept_after = now + ACCEPT_PAUSE;
                    return;
                }
            }
        }
    }

    /// What to sleep on.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (Instant::now() >= self.accept_after).then(|| self.listener.as_fd());
        listener.into_iter().chain(self.strangers.iter().map(|stranger| stranger.socket.as_fd()))
    }

    /// When a stranger's time is over, or accepting begins again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let resting = Some(self.accept_after).filter(|after| *after > Instant::now());
        self.strangers.iter().map(|stranger| stranger.deadline).chain(resting).min()
    }
}

impl Stranger {
    fn advance(&mut self, standing: &impl Fn(u32) -> Standing) -> Result<Option<Rank>, String> {
        let mut bytes = [0; Responder::HANDSHAKE_BYTES];
        loop {
            // Behind the handshake come frames, which are not for the responder.
            let room = &mut bytes[..self.left_bytes];
            let len = match (&self.socket).read(room) {
                Ok(0) => return Err(self.responder.end().to_string()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            self.left_bytes -= len;
            let mut answer = Vec::new();
            let received = self.responder.receive(&bytes[..len], standing, &mut answer);
            // Less than a hundred bytes into an empty buffer: taken whole, or the connection is of no use.
            if !answer.is_empty() && (&self.socket).write(&answer).ok() != Some(answer.len()) {
                return Err("it took no answer".to_owned());
            }
            if let Some(authenticated) = received.map_err(|error| error.to_string())? {
                return Ok(Some(Rank(authenticated.member)));
            }
            if self.left_bytes == 0 {
                return Err("it sent a handshake's length and no handshake".to_owned());
            }
        }
    }
}

/// How long accepting rests after an error, so that a lasting one does not burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
