//! TCP between nodes: sockets of our own, no library.
//!
//! Each rank makes a [`TcpTransport`], which listens on the node's address and gives a contact: that address and a
//! fresh key. The bootstrap, which is encrypted and authenticated, carries all contacts to all ranks;
//! [`TcpTransport::connect`] takes them in. Of two ranks the higher dials the lower; both prove that they have the
//! listener's key before either believes a byte. In a world of up to [`EAGER_PEERS`] remote peers all connections are
//! made at once and the port closes; in a larger one a connection is made when the pair is opened.
//!
//! # Protocol
//!
//! One connection per pair of ranks carries both directions, as frames ([`frame`]): messages, numbered, each with the
//! grant for the other direction, and grants alone where nothing flows back ([`credit`]). A receiver can always read
//! whatever comes, so that neither direction ever waits for the other.
//!
//! # What is protected
//!
//! Who may connect: ranks of this world and nobody else. Not what they say: after the handshake the bytes travel as they
//! are, neither encrypted nor authenticated, as with MPI and NCCL. Somebody who can change packets between the nodes
//! can change data, and reset connections. What arrives is checked all the same: a frame that is none ends the
//! connection and names the peer.
//!
//! # Progress
//!
//! In our calls only; there is no thread. A message is read when it is asked for, from the socket to its slot or until
//! something else needs the connection's bytes: a credit, or a sleep. So data waits in the kernel as long as it may,
//! and is in the cache when it is used. A send is complete when the kernel has taken its bytes.
//!
//! # What it cannot do
//!
//! A peer whose machine is gone sends nothing. Keepalives find that out in about 20 s where nothing is in flight; the
//! bootstrap is there for the rest. A rank that closes while its peers still expect messages of it may take some with
//! it, though their sends are complete: let all ranks meet in the bootstrap first.

mod congestion;
mod connecting;
mod contact;
mod credit;
mod dial;
mod door;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod lent;
mod link;
mod place;
mod room;
#[cfg(test)]
pub(super) mod tests;
mod watch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use self::contact::Contact;
use self::credit::{CREDITS, SLOT_BYTES};
use self::dial::{CONNECT_PATIENCE, Dial};
use self::door::Door;
use self::frame::Frame;
use self::lent::{Landing, Payload};
use self::link::{Extent, Flows, Link};
use self::place::Expected;
use self::watch::Watch;
use super::{Header, Message, SendToken, Sleep, Transport, TransportError};

/// How a rank's end is made.
#[derive(Clone, Copy, Debug)]
pub struct TcpConfig {
    /// The address of ours that the other nodes reach: that of the bootstrap connection. `None` is loopback, for a
    /// world on one host.
    pub local_address: Option<IpAddr>,
    /// Up to how many peers are connected before anything is sent. The same on all ranks.
    pub eager_peers: usize,
}

impl TcpConfig {
    /// The usual configuration.
    pub fn new(local_address: Option<IpAddr>) -> Self {
        TcpConfig { local_address, eager_peers: EAGER_PEERS }
    }
}

/// The transport of one rank over sockets.
#[derive(Debug)]
pub struct TcpTransport {
    me: Rank,
    address: SocketAddr,
    eager_peers: usize,
    /// Open while peers are awaited.
    door: Option<Door>,
    /// By rank; none for ranks that are not of this transport.
    peers: Vec<Option<Peer>>,
    /// The peers that were opened or are to be connected, each once.
    used: Vec<Rank>,
    watch: Watch,
    completed: Vec<SendToken>,
    /// A send was refused since the last poll, so that grants are worth reading for.
    is_short_of_credit: bool,
    /// Why sends can no longer be told complete.
    failure: Option<TransportError>,
    is_closed: bool,
}

#[derive(Debug)]
struct Peer {
    contact: Contact,
    line: Line,
    flows: Flows,
    is_send_open: bool,
    /// Whether sleeps end when its socket takes more.
    awaits_room: bool,
}

/// How far the connection to a peer is.
#[derive(Debug)]
enum Line {
    /// Nobody needs it yet.
    Idle,
    /// It is to dial us.
    Awaited,
    Dialling(Box<Dial>),
    Up(Link),
    /// It is gone, and why.
    Lost(TransportError),
}

impl TcpTransport {
    /// Opens the port of a rank. Also returns its contact, to be given to every rank's [`TcpTransport::connect`], and
    /// to nobody else: there is a key in it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the address is none of this machine.
    pub fn new(config: &TcpConfig) -> Result<(Self, Vec<u8>), TransportError> {
        let door = Door::open(config.local_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))?;
        let contact = door.contact().to_bytes();
        let transport = TcpTransport {
            me: Rank(0),
            address: door.address(),
            eager_peers: config.eager_peers,
            door: Some(door),
            peers: Vec::new(),
            used: Vec::new(),
            watch: Watch::new()?,
            completed: Vec::new(),
            is_short_of_credit: false,
            failure: None,
            is_closed: false,
        };
        Ok((transport, contact))
    }

    /// Learns the contacts of the ranks that this transport may reach; its own may be among them. With few peers it
    /// connects to all of them, and blocks until that is done.
    ///
    /// # Errors
    ///
    /// [`TransportError::Incompatible`] for a contact that is none, [`TransportError::Unreachable`] for a peer that
    /// cannot be dialled or does not dial in time.
    pub fn connect(
        &mut self,
        me: Rank,
        contacts: &[(Rank, Vec<u8>)],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        self.me = me;
        for (rank, bytes) in contacts.iter().filter(|(rank, _)| *rank != me) {
            let contact = Contact::from_bytes(bytes).ok_or_else(|| TransportError::Incompatible {
                peer: *rank,
                cause: "what it gave as its address is none".to_owned(),
            })?;
            if self.peers.len() <= rank.index() {
                self.peers.resize_with(rank.index() + 1, || None);
            }
            self.peers[rank.index()] = Some(Peer {
                contact,
                line: Line::Idle,
                flows: Flows::default(),
                is_send_open: false,
                awaits_room: false,
            });
        }
        let peers: Vec<Rank> = contacts.iter().map(|(rank, _)| *rank).filter(|rank| *rank != me).collect();
        if peers.len() > self.eager_peers {
            return Ok(());
        }
        for &peer in &peers {
            self.need(peer)?;
        }
        // Whoever dials is the first to know why it cannot, and has the time to say so.
        self.await_all(&peers, deadline.min(Instant::now() + CONNECT_PATIENCE + Duration::from_secs(2)))
    }

    /// What carries the messages, for people: `tcp (sockets at 10.88.0.1)`.
    pub fn description(&self) -> String {
        format!("tcp (sockets at {})", self.address.ip())
    }

    fn unreachable(&self, peer: Rank, cause: String) -> TransportError {
        let address = self.peers.get(peer.index()).and_then(Option::as_ref).map(|peer| peer.contact.address);
        TransportError::Unreachable { peer, address: address.unwrap_or(self.address), cause }
    }

    fn peer(&mut self, rank: Rank) -> Result<&mut Peer, TransportError> {
        let peer = self.peers.get_mut(rank.index()).and_then(Option::as_mut);
        peer.ok_or(TransportError::NoRoute { peer: rank })
    }

    fn check_open(&self) -> Result<(), TransportError> {
        if self.is_closed { Err(TransportError::Closed) } else { Ok(()) }
    }

    /// Tells a peer how much it may send, if that cannot wait for the next message to it.
    fn announce_if_due(&mut self, rank: Rank) {
        let Ok(peer) = self.peer(rank) else { return };
        if let Line::Up(link) = &mut peer.line
            && peer.flows.inward.is_announcement_due()
            && let Err(cause) = link.send_credit(peer.flows.inward.announce())
        {
            self.lose_after_reading(rank, cause);
        }
    }

    /// Reads from a peer.
    fn receive(&mut self, rank: Rank, extent: Extent) {
        let Some(peer) = self.peers.get_mut(rank.index()).and_then(Option::as_mut) else { return };
        if let Line::Up(link) = &mut peer.line
            && let Err(cause) = link.receive(extent, &mut peer.flows)
        {
            self.lose(rank, TransportError::PeerLost { peer: rank, cause });
        }
    }

    /// Gives a connection up that takes nothing any more: what it had sent before is still delivered.
    fn lose_after_reading(&mut self, rank: Rank, cause: String) {
        self.receive(rank, Extent::All);
        self.lose(rank, TransportError::PeerLost { peer: rank, cause });
    }

    fn lose(&mut self, rank: Rank, error: TransportError) {
        let Ok(peer) = self.peer(rank) else { return };
        if matches!(peer.line, Line::Lost(_)) {
            return;
        }
        let owes_tokens = matches!(&peer.line, Line::Up(link) if link.owes_tokens());
        peer.line = Line::Lost(error.clone());
        if owes_tokens {
            // Their tokens never come: nothing that waits for these sends can end well.
            self.failure.get_or_insert(error);
        }
    }

    /// Awaits room in the sockets that did not take all of what is queued for them.
    fn watch_room(&mut self) {
        for index in 0..self.used.len() {
            let rank = self.used[index];
            let Some(peer) = self.peers.get_mut(rank.index()).and_then(Option::as_mut) else { continue };
            let Line::Up(link) = &peer.line else { continue };
            if link.is_sending() != peer.awaits_room {
                peer.awaits_room = link.is_sending();
                if let Err(errno) = self.watch.await_room(rank, link, peer.awaits_room) {
                    let text = format_args!("the connection to rank {rank} is not awaited: {}", errno.desc());
                    crate::warning::tell("tcp: not awaited", text);
                }
            }
        }
    }

    /// Reads what has come. What stayed in a socket would end the next sleep at once, whoever it is from.
    fn receive_from_all(&mut self) {
        for rank in self.watch.readable() {
            self.receive(rank, Extent::All);
        }
    }

    /// Sends what is queued; says whether something still is.
    fn flush(&mut self) -> bool {
        let mut is_sending = false;
        for index in 0..self.used.len() {
            let rank = self.used[index];
            let Some(peer) = self.peers.get_mut(rank.index()).and_then(Option::as_mut) else { continue };
            let Line::Up(link) = &mut peer.line else { continue };
            if link.is_sending() {
                match link.flush(&mut self.completed) {
                    Ok(()) => is_sending |= link.is_sending(),
                    Err(cause) => self.lose_after_reading(rank, cause),
                }
            }
        }
        is_sending
    }
}

impl Transport for TcpTransport {
    fn slot_bytes(&self) -> usize {
        SLOT_BYTES
    }

    fn credits(&self) -> usize {
        CREDITS
    }

    /// Measured between two hosts of one machine: up to here longer messages were faster, by 1.5 from 32 KiB to 128 KiB,
    /// and from here on by little. A link of 25 Gb/s carries it in 40 microseconds, ten times what a call takes.
    fn min_segment_bytes(&self) -> usize {
        128 << 10
    }

    /// What one call sends is moved through the kernel in larger pieces, with fewer wakings and acknowledgements. Two
    /// bare sockets, as above, exchanged 1 MiB in 310 us by calls of 128 KiB, 250 by 256 KiB, 200 by 512 KiB and 160 by
    /// one; and 8 MiB in 3.1, 2.5, 2.2 and, by 1 MiB, 2.2 ms, where what is reduced is no longer in the cache.
    fn min_exchange_bytes(&self) -> usize {
        SLOT_BYTES
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError> {
        self.check_open()?;
        for &rank in sends_to {
            self.peer(rank)?.is_send_open = true;
            self.need(rank)?;
        }
        for &rank in receives_from {
            let peer = self.peer(rank)?;
            if !peer.flows.inward.is_open() {
                peer.flows.inward.open();
                self.need(rank)?;
                self.announce_if_due(rank);
            }
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "the trait's contract")]
    unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError> {
        self.check_open()?;
        assert!(payload.len() <= SLOT_BYTES, "a message fits a slot");
        let peer = self.peer(to)?;
        if !peer.is_send_open {
            return Err(TransportError::NoRoute { peer: to });
        }
        let link = match &mut peer.line {
            Line::Up(link) => link,
            Line::Lost(error) => return Err(error.clone()),
            Line::Idle | Line::Awaited | Line::Dialling(_) => return Ok(false),
        };
        let Some(number) = peer.flows.out.send(payload.len()) else {
            self.is_short_of_credit = true;
            return Ok(false);
        };
        let frame = Frame::message(header, number, peer.flows.inward.announce());
        // SAFETY: the caller keeps the memory until the token is out or `close` has returned. A link drops a payload
        // before it gives its token back, and the links are dropped in `close`.
        let payload = unsafe { Payload::new(payload) };
        match link.send_message(frame, payload, token) {
            Ok(completed) => {
                self.completed.extend(completed);
                Ok(true)
            }
            Err(cause) => {
                let error = TransportError::PeerLost { peer: to, cause: cause.clone() };
                self.lose_after_reading(to, cause);
                Err(error)
            }
        }
    }

    #[expect(unsafe_code, reason = "the trait's contract")]
    unsafe fn expect(&mut self, from: Rank, len_bytes: usize, landing: Option<*mut [u8]>) {
        let Some(peer) = self.peers.get_mut(from.index()).and_then(Option::as_mut) else { return };
        let Line::Up(link) = &peer.line else { return };
        // What is here, or has begun to arrive, has its place.
        if len_bytes > SLOT_BYTES || link.is_receiving() || !peer.flows.arrived.is_empty() {
            return;
        }
        let landing = landing.filter(|landing| landing.len() == len_bytes);
        // SAFETY: the caller leaves the memory alone until `arrived` shows a message of this peer, which is the next one, or
        // until `close` has returned; and does not change it before that message is released. Links and flows write to it
        // until the message is whole, and are dropped in `close`.
        let landing = landing.map(|landing| unsafe { Landing::new(landing) });
        peer.flows.expected = Some(Expected { len_bytes, landing });
    }

    fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.check_open()?;
        if self.is_connecting() {
            self.make_connections();
        }
        let is_sending = self.flush();
        if std::mem::take(&mut self.is_short_of_credit) || is_sending {
            // A peer that takes nothing may be waiting until we take what it has sent.
            for index in 0..self.used.len() {
                self.receive(self.used[index], Extent::All);
            }
        }
        completed.append(&mut self.completed);
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        self.check_open()?;
        let peer = self.peer(from)?;
        if !peer.flows.inward.is_open() {
            return Err(TransportError::NoRoute { peer: from });
        }
        if peer.flows.arrived.is_empty() {
            self.receive(from, Extent::OneMessage);
        }
        let peer = self.peer(from)?;
        match (peer.flows.arrived.front(), &peer.line) {
            (Some(message), _) => {
                Ok(Some(Message { header: message.header, payload: peer.flows.payload(message) }))
            }
            (None, Line::Lost(error)) => Err(error.clone()),
            (None, _) => Ok(None),
        }
    }

    fn look_ahead(&mut self, from: Rank) -> bool {
        // A connection that is lost stays so.
        !matches!(self.arrived(from), Ok(None))
    }

    fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        self.check_open()?;
        let peer = self.peer(from)?;
        let released = peer.flows.arrived.pop_front().ok_or(TransportError::NoRoute { peer: from })?;
        let len_bytes = released.header.len_bytes as usize;
        released.place.release(&mut peer.flows.room, len_bytes);
        peer.flows.inward.release(len_bytes);
        self.announce_if_due(from);
        Ok(())
    }

    fn wait(&mut self, timeout: Duration) {
        if self.is_closed || !self.completed.is_empty() {
            return;
        }
        self.watch_room();
        let until = Instant::now() + timeout;
        let (mut fds, until) = self.connecting(until);
        let left = TimeSpec::from_duration(until.saturating_duration_since(Instant::now()));
        let watched = PollFd::new(self.watch.as_fd(), PollFlags::POLLIN);
        let ready = if fds.is_empty() {
            ppoll(&mut [watched], Some(left), None)
        } else {
            fds.push(watched);
            ppoll(&mut fds, Some(left), None)
        };
        // Interrupted, or nothing happened: the wait is over early, which it may be, or over.
        if ready.unwrap_or(0) > 0 {
            self.receive_from_all();
        }
    }

    fn begin_sleep(&mut self) -> Sleep<'_> {
        if self.is_closed || !self.completed.is_empty() {
            return Sleep::Over;
        }
        if self.door.is_some() || self.is_connecting() {
            return Sleep::Alone;
        }
        self.watch_room();
        Sleep::On(self.watch.as_fd())
    }

    fn end_sleep(&mut self) {
        self.receive_from_all();
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.door = None;
        self.peers.clear();
        self.used.clear();
        self.completed.clear();
    }
}

/// Up to how many remote peers are connected at the start: it costs a handshake of 0.2 ms each, and shows at once, and
/// with the right words, where a firewall is in the way.
pub const EAGER_PEERS: usize = 64;
