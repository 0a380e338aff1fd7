//! Meeting at EFARUN_BOOTSTRAP: rank 0 serves, everybody dials.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::frame::MAX_BODY_BYTES;
use efarun_wire::key_file;
use efarun_wire::secure::{
    Authenticated, HANDSHAKE_TIMEOUT_MS, Initiator, LinkKey, MAX_HANDSHAKE_BYTES, Refusal, SecureError,
};

use super::error::BootstrapError;
use super::identity::Admission;
use super::invitation::Invitation;
use super::link::Link;
use super::server::{Doors, Server};

/// A meeting point, resolved and with its key.
#[derive(Debug)]
pub(super) struct Meeting<'a> {
    address: &'a str,
    key: LinkKey,
    /// Whether only this machine's processes may come.
    loopback_only: bool,
    /// Where an invitation says that it is, instead of what the address means.
    listed: Vec<SocketAddr>,
}

impl<'a> Meeting<'a> {
    pub(super) fn new(address: &'a str, admission: &Admission) -> Result<Self, BootstrapError> {
        let key = match admission {
            Admission::KeyFile(path) => {
                key_file::read(path).map_err(|cause| BootstrapError::KeyFile { path: path.clone(), cause })?
            }
            Admission::Loopback | Admission::Anybody => LinkKey::well_known(),
        };
        let loopback_only = *admission == Admission::Loopback;
        Ok(Meeting { address, key, loopback_only, listed: Vec::new() })
    }

    /// The one that an invitation tells of; `address` is for messages.
    pub(super) fn invited(address: &'a str, invitation: &Invitation) -> Self {
        Meeting { address, key: invitation.key(), loopback_only: false, listed: invitation.addresses() }
    }

    /// Starts the server beside rank 0, and gives rank 0 its own link.
    pub(super) fn serve(&self, world_size: u32, timeout: Duration) -> Result<(Server, Link), BootstrapError> {
        let listen = |cause| BootstrapError::Listen { address: self.address.to_owned(), cause };
        let addresses: Vec<_> =
            self.resolve()?.into_iter().map(|resolved| self.listen_address(resolved)).collect();
        let listener = TcpListener::bind(&addresses[..]).map_err(listen)?;
        let (mine, servers) = UnixStream::pair().map_err(listen)?;
        let doors = Doors { listener: Some(listener), inside: vec![(Rank(0), servers)] };
        let server = Server::start(world_size, self.key.clone(), doors, timeout)
            .map_err(|cause| BootstrapError::System { call: "starting the meeting point's thread", cause })?;
        Ok((server, Link::plain(mine, MAX_BODY_BYTES).map_err(listen)?))
    }

    /// Dials until it succeeds or `deadline` has passed.
    pub(super) fn dial(
        &self,
        rank: Rank,
        started: Instant,
        deadline: Instant,
    ) -> Result<Link, BootstrapError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let cause = match self.dial_once(rank, deadline)? {
                Ok(link) => return Ok(link),
                Err(cause) => cause,
            };
            let is_duplicate = matches!(cause, DialError::AlreadyJoined);
            // A World that this process has just closed may not be forgotten yet; after that it is a real one.
            if Instant::now() >= deadline || is_duplicate && started.elapsed() > DUPLICATE_GRACE {
                return Err(match cause {
                    DialError::AlreadyJoined => BootstrapError::Handshake {
                        rank,
                        address: self.address.to_owned(),
                        cause: SecureError::Refused(Refusal::AlreadyJoined),
                    },
                    DialError::Again(cause) => BootstrapError::Unreachable {
                        rank,
                        address: self.address.to_owned(),
                        waited: started.elapsed(),
                        attempts,
                        cause,
                    },
                });
            }
            // Apart from each other, so that a large world does not knock in step: 50 to 150 ms.
            let pause = Duration::from_millis(
                50 + u64::from(rank.0.wrapping_mul(37).wrapping_add(attempts * 13) % 100),
            );
            std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        }
    }

    /// Tries all addresses once. The outer error is final, the inner one may pass.
    fn dial_once(&self, rank: Rank, deadline: Instant) -> Result<Result<Link, DialError>, BootstrapError> {
        let mut cause = DialError::Again("it has no address".to_owned());
        for address in self.resolve()? {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = left.clamp(Duration::from_millis(1), CONNECT_TIMEOUT);
            let mut stream = match TcpStream::connect_timeout(&address, timeout) {
                Ok(stream) => stream,
                Err(error) => {
                    cause = DialError::Again(error.to_string());
                    continue;
                }
            };
            cause = match self.shake_hands(&mut stream, rank) {
                Ok(authenticated) => match Link::sealed(stream, authenticated, MAX_BODY_BYTES) {
                    Ok(link) => return Ok(Ok(link)),
                    Err(error) => DialError::Again(error.to_string()),
                },
                Err(HandshakeError::Io(error)) => DialError::Again(format!("no answer: {error}")),
                Err(HandshakeError::Secure(SecureError::Truncated { .. })) => {
                    DialError::Again("the connection was closed before the handshake was over".to_owned())
                }
                Err(HandshakeError::Secure(SecureError::Refused(Refusal::AlreadyJoined))) => {
                    DialError::AlreadyJoined
                }
                // One of several addresses may be somebody else's.
                Err(HandshakeError::Secure(cause)) if self.listed.len() > 1 => {
                    DialError::Again(cause.to_string())
                }
                Err(HandshakeError::Secure(cause)) => {
                    return Err(BootstrapError::Handshake { rank, address: self.address.to_owned(), cause });
                }
            };
        }
        Ok(Err(cause))
    }

    fn shake_hands(&self, stream: &mut TcpStream, rank: Rank) -> Result<Authenticated, HandshakeError> {
        let deadline = Instant::now() + Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
        let mut out = Vec::new();
        let mut initiator = Initiator::new(self.key.job_id(), rank.0, &self.key, &mut out)?;
        stream.write_all(&out)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(io::ErrorKind::TimedOut).into());
            }
            stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; MAX_HANDSHAKE_BYTES];
            let len = match stream.read(&mut bytes) {
                Ok(0) => return Err(initiator.end().into()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            out.clear();
            let result = initiator.receive(&bytes[..len], &mut out)?;
            stream.write_all(&out)?;
            if let Some(authenticated) = result {
                return Ok(authenticated);
            }
        }
    }

    fn resolve(&self) -> Result<Vec<SocketAddr>, BootstrapError> {
        if !self.listed.is_empty() {
            return Ok(self.listed.clone());
        }
        let unresolved =
            |cause: String| BootstrapError::Unresolved { address: self.address.to_owned(), cause };
        let resolved: Vec<SocketAddr> =
            self.address.to_socket_addrs().map_err(|error| unresolved(error.to_string()))?.collect();
        if resolved.is_empty() {
            return Err(unresolved("it has no address".to_owned()));
        }
        match resolved.iter().find(|address| !address.ip().is_loopback()) {
            Some(&resolved) if self.loopback_only => {
                Err(BootstrapError::NoKey { address: self.address.to_owned(), resolved })
            }
            _ => Ok(resolved),
        }
    }

    /// Where rank 0 listens for an address that others dial. A machine's own name often means loopback on itself
    /// (127.0.1.1 in Debian's /etc/hosts) and its real address elsewhere.
    fn listen_address(&self, resolved: SocketAddr) -> SocketAddr {
        let (host, _) = self.address.rsplit_once(':').unwrap_or((self.address, ""));
        let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if self.loopback_only || is_literal || host == "localhost" || !resolved.ip().is_loopback() {
            return resolved;
        }
        let any: IpAddr =
            if resolved.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(any, resolved.port())
    }
}

/// Why an attempt failed that may succeed later.
enum DialError {
    AlreadyJoined,
    Again(String),
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Secure(#[from] SecureError),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const DUPLICATE_GRACE: Duration = Duration::from_secs(5);
