//! Measures the link between two nodes past the runtime: plain TCP sockets, the kernel's and nothing else.
//!
//! One process, the host, listens and hands out an [`Invitation`] over the World; the other, the guest, connects once
//! per [`Role`]. Who does not show the invitation's random token at once is dropped, so that the listener, which lives
//! for seconds, serves nobody else. The latency is half the fastest round trip of a byte, blocking or spinning,
//! whichever is faster; the bandwidth is what streams carry after a moment to get up to speed, one stream or several,
//! whichever is more. Every wait ends at a deadline.

mod ping_pong;
mod streams;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::streams::Round;

/// What the guest needs to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Invitation {
    /// Where the host listens.
    pub(super) address: SocketAddr,
    token: Token,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// One way, in microseconds.
    pub(super) latency_us: f64,
    /// GB/s from host to guest alone.
    pub(super) one_way: f64,
    /// GB/s each way, the mean of both, at once.
    pub(super) both_ways: f64,
}

/// Why the link could not be measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// The host cannot listen.
    #[error("{address}: cannot listen: {cause}")]
    Listen {
        /// Where.
        address: IpAddr,
        /// Why.
        cause: io::Error,
    },
    /// The guest cannot connect.
    #[error("{address}: cannot connect: {cause}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// The guest did not come.
    #[error("{address}: {came} of {awaited} connections came within {} s", PATIENCE.as_secs())]
    Missing {
        /// Where.
        address: SocketAddr,
        /// How many came.
        came: usize,
        /// How many were to come.
        awaited: usize,
    },
    /// A connection failed.
    #[error("the measured connection failed: {0}")]
    Io(#[from] io::Error),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What a connection is for; the guest says it behind the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Round trips, and what the two have to say to each other.
    Control,
    /// The `index`-th stream of a round.
    Stream { round: usize, index: usize },
}

impl Role {
    fn all() -> Vec<Role> {
        let streams = Round::ALL.iter().enumerate().flat_map(|(round, shape)| {
            (0..shape.connections()).map(move |index| Role::Stream { round, index })
        });
        std::iter::once(Role::Control).chain(streams).collect()
    }
}

/// The listening side.
#[derive(Debug)]
pub(super) struct Host {
    listener: TcpListener,
    address: SocketAddr,
    token: Token,
}

impl Host {
    /// Listens at this address of the node, at a port that the kernel chooses.
    pub(super) fn invite(address: IpAddr) -> Result<(Host, Invitation), ProbeError> {
        let refused = |cause| ProbeError::Listen { address, cause };
        let listener = TcpListener::bind((address, 0)).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let mut token = Token::default();
        getrandom::fill(&mut token).map_err(ProbeError::Random)?;
        Ok((Host { listener, address, token }, Invitation { address, token }))
    }

    /// Waits for the guest and measures with it.
    pub(super) fn measure(self) -> Result<Measured, ProbeError> {
        let mut connections = self.accept()?;
        let mut control = connections.remove(0);
        let latency_us = ping_pong::ask(&mut control)?;
        let (mut one_way, mut both_ways) = (0.0f64, 0.0f64);
        for round in Round::ALL {
            let streams = connections.drain(..round.connections()).collect();
            control.write_all(&[GO])?;
            let received = streams::run(streams, round.to_host(), Instant::now())?;
            let by_guest = read_f64(&mut control)?;
            if round.is_both_ways {
                both_ways = both_ways.max((received + by_guest) / 2.0);
            } else {
                one_way = one_way.max(by_guest);
            }
        }
        Ok(Measured { latency_us, one_way: one_way.max(both_ways), both_ways })
    }

    /// The connections of all roles, in order.
    fn accept(&self) -> Result<Vec<TcpStream>, ProbeError> {
        let roles = Role::all();
        let mut found: Vec<Option<TcpStream>> = roles.iter().map(|_| None).collect();
        let deadline = Instant::now() + PATIENCE;
        self.listener.set_nonblocking(true)?;
        while found.iter().any(Option::is_none) {
            if Instant::now() > deadline {
                let came = found.iter().flatten().count();
                return Err(ProbeError::Missing { address: self.address, came, awaited: roles.len() });
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some((index, stream)) = self.admit(stream)
                        && let Some(place) = found.get_mut(index)
                    {
                        place.get_or_insert(stream);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The connection and its role's number, if whoever made it was invited.
    fn admit(&self, mut stream: TcpStream) -> Option<(usize, TcpStream)> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(STRANGER_PATIENCE)).ok()?;
        let mut greeting = [0; TOKEN_LEN + 1];
        stream.read_exact(&mut greeting).ok()?;
        let (token, role) = greeting.split_at(TOKEN_LEN);
        if token != self.token {
            return None;
        }
        set_up(&stream).ok()?;
        Some((usize::from(role[0]), stream))
    }
}

/// The guest's side: connects and measures with the host, who has the result.
pub(super) fn visit(invitation: &Invitation) -> Result<(), ProbeError> {
    let connect = |number: usize| -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&invitation.address, PATIENCE)?;
        set_up(&stream)?;
        stream.write_all(&invitation.token)?;
        stream.write_all(&[number as u8])?;
        Ok(stream)
    };
    let connections: io::Result<Vec<TcpStream>> = (0..Role::all().len()).map(connect).collect();
    let mut connections =
        connections.map_err(|cause| ProbeError::Connect { address: invitation.address, cause })?;
    let mut control = connections.remove(0);
    ping_pong::answer(&mut control)?;
    for round in Round::ALL {
        let streams = connections.drain(..round.connections()).collect();
        control.read_exact(&mut [0])?;
        let received = streams::run(streams, round.to_guest(), Instant::now())?;
        control.write_all(&received.to_le_bytes())?;
    }
    Ok(())
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn read_f64(stream: &mut TcpStream) -> io::Result<f64> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(f64::from_le_bytes(bytes))
}

type Token = [u8; TOKEN_LEN];

const TOKEN_LEN: usize = 32;

/// Begins a round.
const GO: u8 = 1;

/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may take to show its token, while others wait.
const STRANGER_PATIENCE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn loopback_has_a_latency_and_a_bandwidth() {
        let (host, invitation) = Host::invite([127, 0, 0, 1].into()).unwrap();
        let guest = thread::spawn(move || visit(&invitation));
        let measured = host.measure().unwrap();
        guest.join().unwrap().unwrap();
        assert!(measured.latency_us > 0.0 && measured.latency_us < 1e5, "{measured:?}");
        assert!(measured.both_ways > 0.0 && measured.one_way >= measured.both_ways, "{measured:?}");
    }

    #[test]
    fn who_does_not_show_the_token_is_dropped_and_the_guest_still_served() {
        let (host, invitation) = Host::invite([127, 0, 0, 1].into()).unwrap();
        let mut strangers = Vec::new();
        for greeting in [&b""[..], &[0; 5], &[7; TOKEN_LEN + 1]] {
            let mut stranger = TcpStream::connect(invitation.address).unwrap();
            stranger.write_all(greeting).unwrap();
            strangers.push(stranger);
        }
        let forged = Invitation { token: [9; TOKEN_LEN], ..invitation.clone() };
        let forger = thread::spawn(move || visit(&forged));
        let guest = thread::spawn(move || visit(&invitation));
        assert!(host.measure().is_ok());
        assert!(guest.join().unwrap().is_ok());
        assert!(forger.join().unwrap().is_err());
    }

    #[test]
    fn guest_who_never_comes_is_named_as_missing() {
        let (host, invitation) = Host::invite([127, 0, 0, 1].into()).unwrap();
        // One connection of several, and no more.
        let mut alone = TcpStream::connect(invitation.address).unwrap();
        alone.write_all(&[&invitation.token[..], &[0]].concat()).unwrap();
        let error = host.measure().unwrap_err();
        assert!(matches!(error, ProbeError::Missing { came: 1, .. }), "{error}");
    }

    #[test]
    fn address_that_nobody_listens_at_is_named() {
        let (host, invitation) = Host::invite([127, 0, 0, 1].into()).unwrap();
        drop(host);
        let error = visit(&invitation).unwrap_err();
        assert!(error.to_string().starts_with(&invitation.address.to_string()), "{error}");
    }
}
