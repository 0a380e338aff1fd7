//! Making connections: who dials whom, and until when the port is open.
//!
//! Given peers that are needed, it dials the lower ranks and lets the higher ones in, as far as that goes without waiting.
//! It gives a peer a [`Link`] or the reason why there is none, and closes the port when nobody is awaited any more.
//! It does not wait, but in [`TcpTransport::await_all`].

use std::time::{Duration, Instant};

use efarun_wire::Rank;
use nix::poll::{PollFd, PollFlags};
use socket2::{Socket, TcpKeepalive};

use super::credit::MAX_IN_FLIGHT;
use super::dial::{Awaits, Dial};
use super::link::Link;
use super::{Line, Peer, TcpTransport};
use crate::transport::{Transport, TransportError};
use crate::warning;

impl TcpTransport {
    pub(super) fn await_all(&mut self, peers: &[Rank], deadline: Instant) -> Result<(), TransportError> {
        loop {
            self.make_connections();
            let mut missing = None;
            for &rank in peers {
                match &self.peer(rank)?.line {
                    Line::Up(_) => {}
                    Line::Lost(error) => return Err(error.clone()),
                    Line::Idle | Line::Awaited | Line::Dialling(_) => missing = missing.or(Some(rank)),
                }
            }
            let Some(missing) = missing else { break };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let cause = if missing > self.me {
                    format!(
                        "it has not connected to {}, where this rank awaits it: let the nodes' security group \
                         allow TCP on all ports from itself",
                        self.address
                    )
                } else {
                    "no connection was made in the time that there was".to_owned()
                };
                return Err(self.unreachable(missing, cause));
            }
            self.wait(left);
        }
        self.close_door_unless_awaited();
        Ok(())
    }

    /// Begins to make the connection to a peer, if nobody needed it yet.
    pub(super) fn need(&mut self, rank: Rank) -> Result<(), TransportError> {
        let me = self.me;
        let peer = self.peer(rank)?;
        if !matches!(peer.line, Line::Idle) {
            return Ok(());
        }
        if rank > me {
            peer.line = Line::Awaited;
        } else {
            match Dial::start(me, peer.contact.clone()) {
                Ok(dial) => peer.line = Line::Dialling(Box::new(dial)),
                Err(cause) => {
                    let lost = self.unreachable(rank, cause);
                    self.peer(rank)?.line = Line::Lost(lost);
                }
            }
        }
        self.used.push(rank);
        Ok(())
    }

    /// Dials and answers, as far as that goes without waiting.
    pub(super) fn make_connections(&mut self) {
        for index in 0..self.used.len() {
            let rank = self.used[index];
            let Some(peer) = self.peers.get_mut(rank.index()).and_then(Option::as_mut) else { continue };
            let Line::Dialling(dial) = &mut peer.line else { continue };
            match dial.advance() {
                Ok(None) => {}
                Ok(Some(socket)) => self.connected(rank, socket),
                Err(cause) => {
                    let lost = self.unreachable(rank, cause);
                    self.lose(rank, lost);
                }
            }
        }
        if let Some(door) = &mut self.door {
            let peers = &self.peers;
            let is_awaited = |rank: Rank| {
                let peer = peers.get(rank.index()).and_then(Option::as_ref);
                peer.is_some_and(|peer| matches!(peer.line, Line::Idle | Line::Awaited))
            };
            for (rank, socket) in door.admit(is_awaited) {
                if !self.used.contains(&rank) {
                    self.used.push(rank);
                }
                self.connected(rank, socket);
            }
            self.close_door_unless_awaited();
        }
    }

    /// Closes the port once every peer that would come by it has come.
    fn close_door_unless_awaited(&mut self) {
        let is_pending = |peer: &Peer| matches!(peer.line, Line::Idle | Line::Awaited);
        if !self.peers.is_empty() && !self.peers.iter().flatten().any(is_pending) {
            self.door = None;
        }
    }

    fn connected(&mut self, rank: Rank, socket: Socket) {
        // A socket that cannot do one of these is merely slower, or later to see that its peer is gone.
        let tuned = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive()));
        if let Err(error) = tuned {
            warning::tell("tcp: untuned", format_args!("the connection to rank {rank}: {error}"));
        }
        if let Err(errno) = self.watch.add(rank, &socket) {
            let cause = format!("its connection cannot be awaited: {}", errno.desc());
            self.lose(rank, TransportError::PeerLost { peer: rank, cause });
            return;
        }
        self.completed.reserve(MAX_IN_FLIGHT as usize * self.used.len());
        if let Ok(peer) = self.peer(rank) {
            peer.flows.reserve();
            peer.line = Line::Up(Link::new(socket));
        }
        self.announce_if_due(rank);
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.used.iter().any(|rank| {
            let peer = self.peers.get(rank.index()).and_then(Option::as_ref);
            peer.is_some_and(|peer| matches!(peer.line, Line::Awaited | Line::Dialling(_)))
        })
    }

    /// What to sleep on while connections are made, and until when at most.
    pub(super) fn connecting(&self, mut until: Instant) -> (Vec<PollFd<'_>>, Instant) {
        let mut fds = Vec::new();
        for &rank in &self.used {
            let Some(peer) = self.peers.get(rank.index()).and_then(Option::as_ref) else { continue };
            let Line::Dialling(dial) = &peer.line else { continue };
            match dial.awaits() {
                Awaits::Socket(fd, events, deadline) => {
                    fds.push(PollFd::new(fd, events));
                    until = deadline.map_or(until, |deadline| until.min(deadline));
                }
                Awaits::Until(deadline) => until = until.min(deadline),
            }
        }
        if let Some(door) = &self.door {
            fds.extend(door.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            until = door.next_deadline().map_or(until, |deadline| until.min(deadline));
        }
        (fds, until)
    }
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(5))
        .with_retries(3)
}
