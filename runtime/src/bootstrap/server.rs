//! The server of a world without a launcher: a thread beside rank 0 that all ranks are linked to.
//!
//! It listens until every rank has joined, and no longer. Whoever connects must prove within
//! [`HANDSHAKE_TIMEOUT_MS`] and a few hundred bytes that it has the key; until then it is one of at most
//! [`MAX_HALF_OPEN`] connections, and nothing that it sends is parsed but the greeting. A connection that does not
//! belong costs a slot for two seconds and disturbs nobody.
//!
//! Afterwards it carries out what the [`RootHub`] says. A rank whose link ends without goodbye is lost to all
//! others. When ranks are missing at the deadline, the others are told which.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use efarun_wire::message::{EventKind, RankMessage, RankReply};
use efarun_wire::oob::{self, Action, Member, RootHub};
use efarun_wire::secure::{Authenticated, HANDSHAKE_TIMEOUT_MS, LinkKey, MAX_HALF_OPEN, Responder, Standing};
use efarun_wire::{JobId, PROTOCOL_VERSION, Rank};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::error::list_ranks;
use super::link::{Link, LinkError, wait_for};

/// A running server. Dropping it gives the ranks a moment to hear the last messages.
#[derive(Debug)]
pub(super) struct Server {
    seen_at: Arc<Mutex<Option<IpAddr>>>,
    stop: Arc<AtomicBool>,
    has_begun: Arc<AtomicBool>,
    ended: mpsc::Receiver<()>,
}

/// Where the ranks come from.
pub(super) struct Doors {
    /// Others connect here.
    pub(super) listener: Option<TcpListener>,
    /// These ranks are in this process.
    pub(super) inside: Vec<(Rank, UnixStream)>,
}

impl Server {
    /// Starts serving a world. `timeout` is how long it may take to be complete.
    pub(super) fn start(world_size: u32, key: LinkKey, doors: Doors, timeout: Duration) -> io::Result<Self> {
        Server::start_with(world_size, key, doors, timeout, None)
    }

    /// Starts serving a world of as many ranks as the first that joins says. `idle` is how long nobody may come.
    pub(super) fn start_for_anybody(
        key: LinkKey,
        doors: Doors,
        timeout: Duration,
        idle: Duration,
    ) -> io::Result<Self> {
        Server::start_with(0, key, doors, timeout, Some(Instant::now() + idle))
    }

    fn start_with(
        world_size: u32,
        key: LinkKey,
        doors: Doors,
        timeout: Duration,
        idle_until: Option<Instant>,
    ) -> io::Result<Self> {
        if let Some(listener) = &doors.listener {
            listener.set_nonblocking(true)?;
        }
        // Ranks of this process introduce themselves one after the other, and are no strangers.
        let inside = doors
            .inside
            .into_iter()
            .map(|(rank, stream)| Ok(Peer::new(rank, Link::plain(stream, LIMIT)?, timeout)));
        let seen_at = Arc::new(Mutex::new(None));
        let serving = Serving {
            hub: RootHub::for_server(world_size),
            world_size,
            job: key.job_id(),
            key,
            listener: doors.listener,
            accept_after: Instant::now(),
            half_open: Vec::new(),
            peers: inside.collect::<io::Result<_>>()?,
            joined: vec![false; world_size as usize],
            seen_at: Arc::clone(&seen_at),
            gone: 0,
            deadline: idle_until.is_none().then(|| Instant::now() + timeout),
            timeout,
            idle_until,
            has_begun: Arc::new(AtomicBool::new(idle_until.is_none())),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let has_begun = Arc::clone(&serving.has_begun);
        let (ending, ended) = mpsc::channel();
        // The thread inherits a mask in which everything is blocked: the program's signals are the program's.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let spawned = std::thread::Builder::new().name("efarun-meeting".into()).spawn(move || {
            serving.run(&stopped);
            drop(ending);
        });
        before.thread_set_mask()?;
        spawned?;
        Ok(Server { seen_at, stop, has_begun, ended })
    }

    /// Whether it serves a world, and does not wait for the first rank any more.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Waits until it has ended by itself, for `timeout` at most. False when it has not.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        // There are no messages: the channel's end is what is waited for.
        self.ended.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    /// The address of this machine by which ranks came; one that is not loopback, if any came by such.
    pub(super) fn seen_at(&self) -> Option<IpAddr> {
        *self.seen_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The end of the channel is what is waited for; there are no messages.
        let _ = self.ended.recv_timeout(GRACE);
    }
}

struct Serving {
    hub: RootHub,
    /// 0 until a rank has said it.
    world_size: u32,
    key: LinkKey,
    job: JobId,
    listener: Option<TcpListener>,
    /// Not before this: the system had no descriptor left.
    accept_after: Instant,
    half_open: Vec<HalfOpen>,
    peers: Vec<Peer>,
    joined: Vec<bool>,
    seen_at: Arc<Mutex<Option<IpAddr>>>,
    /// How many ranks have joined and gone.
    gone: u32,
    /// Until when all must have joined; none once they have, or were told otherwise.
    deadline: Option<Instant>,
    timeout: Duration,
    /// Until when a rank must have come where the world's size is not known before.
    idle_until: Option<Instant>,
    has_begun: Arc<AtomicBool>,
}

/// A connection that has proved nothing yet.
struct HalfOpen {
    stream: TcpStream,
    responder: Responder,
    deadline: Instant,
}

/// A link to a rank, authenticated.
struct Peer {
    rank: Rank,
    link: Link,
    state: PeerState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PeerState {
    /// It has not introduced itself.
    Silent { deadline: Instant },
    /// It is a member of the hub.
    Joined,
    /// It said goodbye; the end of its link is no loss.
    Left,
    /// It was refused; the link stays until it has read why.
    Refused { deadline: Instant },
}

impl Peer {
    /// One that is to introduce itself in that time.
    fn new(rank: Rank, link: Link, patience: Duration) -> Self {
        Peer { rank, link, state: PeerState::Silent { deadline: Instant::now() + patience } }
    }
}

impl Serving {
    fn run(mut self, stop: &AtomicBool) {
        let mut stop_at = None;
        loop {
            if stop.load(Ordering::Relaxed) && stop_at.is_none() {
                stop_at = Some(Instant::now() + GRACE);
            }
            let all_gone = self.world_size > 0 && self.gone == self.world_size;
            let is_idle = self.idle_until.is_some_and(|until| Instant::now() >= until);
            if all_gone || is_idle || stop_at.is_some_and(|at| Instant::now() >= at || self.peers.is_empty())
            {
                return;
            }
            let ready = self.sleep();
            self.accept();
            self.advance_handshakes();
            self.serve(&ready);
            self.keep_deadlines();
        }
    }

    /// Sleeps until something can be done; says which peers are ready.
    fn sleep(&self) -> Vec<bool> {
        let mut fds: Vec<PollFd<'_>> =
            self.peers.iter().map(|peer| PollFd::new(peer.link.as_fd(), peer.link.interest())).collect();
        fds.extend(self.half_open.iter().map(|half| PollFd::new(half.stream.as_fd(), PollFlags::POLLIN)));
        if let Some(listener) = self.listener.as_ref().filter(|_| Instant::now() >= self.accept_after) {
            fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        }
        // Deadlines are seconds away; being late by this much does not matter.
        wait_for(&mut fds, Duration::from_millis(100));
        fds[..self.peers.len()].iter().map(|fd| fd.any() != Some(false)).collect()
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        while Instant::now() >= self.accept_after {
            match listener.accept() {
                // Dropped at once: a rank among them tries again.
                Ok(_) if self.half_open.len() >= MAX_HALF_OPEN => {}
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        let deadline = Instant::now() + Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
                        self.half_open.push(HalfOpen {
                            stream,
                            responder: Responder::new(self.job),
                            deadline,
                        });
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(_) => self.accept_after = Instant::now() + Duration::from_millis(200),
            }
        }
    }

    fn advance_handshakes(&mut self) {
        let now = Instant::now();
        for mut half in std::mem::take(&mut self.half_open) {
            match self.advance_handshake(&mut half) {
                Ok(None) if now < half.deadline => self.half_open.push(half),
                Ok(Some(authenticated)) => {
                    let rank = Rank(authenticated.member);
                    self.note_address(&half.stream);
                    if let Ok(link) = Link::sealed(half.stream, authenticated, LIMIT) {
                        self.peers.push(Peer::new(rank, link, GRACE));
                    }
                }
                Ok(None) | Err(()) => {}
            }
        }
    }

    fn note_address(&self, stream: &TcpStream) {
        let Ok(address) = stream.local_addr() else { return };
        let mut seen_at = self.seen_at.lock().unwrap_or_else(PoisonError::into_inner);
        if seen_at.is_none_or(|seen| seen.is_loopback()) {
            *seen_at = Some(address.ip());
        }
    }

    fn advance_handshake(&self, half: &mut HalfOpen) -> Result<Option<Authenticated>, ()> {
        let standing = |member: u32| match self.joined.get(member as usize) {
            None if self.world_size == 0 => Standing::Expected(self.key.clone()),
            None => Standing::Unknown,
            Some(_) if self.peers.iter().any(|peer| peer.rank.0 == member) => Standing::Joined,
            Some(true) => Standing::Joined,
            Some(false) => Standing::Expected(self.key.clone()),
        };
        let mut bytes = [0; Responder::HANDSHAKE_BYTES];
        loop {
            let len = match half.stream.read(&mut bytes) {
                Ok(0) => return Err(()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Err(()),
            };
            let mut out = Vec::new();
            let result = half.responder.receive(&bytes[..len], &standing, &mut out);
            // Less than a hundred bytes into an empty buffer: taken whole, or the connection is of no use.
            let sent = out.is_empty() || half.stream.write(&out).is_ok_and(|taken| taken == out.len());
            match result {
                Ok(None) if sent => {}
                Ok(Some(authenticated)) if sent => return Ok(Some(authenticated)),
                _ => return Err(()),
            }
        }
    }

    fn serve(&mut self, ready: &[bool]) {
        // By rank, not by place: what one rank says can end the link of another. New peers have no entry yet, and
        // may have spoken already.
        let ranks: Vec<Rank> = self
            .peers
            .iter()
            .enumerate()
            .filter(|(index, _)| ready.get(*index).copied().unwrap_or(true))
            .map(|(_, peer)| peer.rank)
            .collect();
        for rank in ranks {
            while let Some(index) = self.peers.iter().position(|peer| peer.rank == rank) {
                let link = &mut self.peers[index].link;
                let sent = link.flush();
                // What a rank said last is heard before its end, which shows first where it is sent something: a goodbye.
                let heard = match link.receive() {
                    Ok(None) => sent.map(|()| None),
                    heard => heard,
                };
                match heard {
                    Ok(Some(message)) => self.heard(index, message),
                    Ok(None) => break,
                    Err(error) => self.link_ended(index, &error.to_string()),
                }
            }
        }
    }

    fn heard(&mut self, index: usize, message: RankMessage) {
        let peer = &mut self.peers[index];
        let rank = peer.rank;
        match (peer.state, message) {
            (PeerState::Silent { .. }, RankMessage::Join { protocol, rank: claimed, world_size }) => {
                if self.world_size == 0 && (1..=WORLD_SIZE_MAX).contains(&world_size) {
                    self.begin(world_size);
                }
                let refusal = if claimed != rank {
                    Some(format!("it introduced itself as rank {rank} and then as rank {claimed}"))
                } else if protocol != PROTOCOL_VERSION {
                    Some(format!("it has protocol {protocol}, rank 0 has {PROTOCOL_VERSION}"))
                } else if world_size != self.world_size || rank.0 >= world_size {
                    Some(format!(
                        "it takes the world size to be {world_size}, rank 0 to be {}",
                        self.world_size
                    ))
                } else {
                    None
                };
                match refusal {
                    Some(reason) => self.refuse(index, reason),
                    None => self.join(index),
                }
            }
            (PeerState::Joined | PeerState::Left, RankMessage::Oob(message)) => {
                match self.hub.receive_up(Member::Rank(rank), message) {
                    Ok(actions) => self.carry_out(actions),
                    Err(error) => {
                        self.refuse(index, error.to_string());
                        self.lose(rank, &format!("it broke the protocol: {error}"));
                    }
                }
            }
            (PeerState::Joined, RankMessage::Leave) => peer.state = PeerState::Left,
            // Ranks that meet without a launcher answer for themselves.
            (PeerState::Refused { .. }, _) | (PeerState::Joined, RankMessage::Page(_)) => {}
            _ => self.link_ended(index, "it spoke out of turn"),
        }
    }

    /// Makes this the meeting of so many ranks.
    fn begin(&mut self, world_size: u32) {
        self.world_size = world_size;
        self.hub = RootHub::for_server(world_size);
        self.joined = vec![false; world_size as usize];
        self.deadline = Some(Instant::now() + self.timeout);
        self.idle_until = None;
        self.has_begun.store(true, Ordering::Relaxed);
    }

    fn join(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let rank = peer.rank;
        let actions = match self.hub.member_joined(Member::Rank(rank)) {
            Ok(actions) => actions,
            Err(error) => return self.refuse(index, error.to_string()),
        };
        peer.state = PeerState::Joined;
        self.joined[rank.index()] = true;
        let welcome =
            RankReply::Welcome { protocol: PROTOCOL_VERSION, job: self.job, world_size: self.world_size };
        self.send(rank, &welcome);
        self.carry_out(actions);
        if self.joined.iter().all(|&joined| joined) {
            self.deadline = None;
            self.listener = None;
            self.half_open.clear();
        }
    }

    fn refuse(&mut self, index: usize, reason: String) {
        let peer = &mut self.peers[index];
        peer.state = PeerState::Refused { deadline: Instant::now() + GRACE };
        let rank = peer.rank;
        self.send(rank, &RankReply::Refused(reason));
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::ToMember(Member::Rank(rank), message) => self.send(rank, &RankReply::Oob(message)),
                Action::RequestForMe { from, token, body } => {
                    let answer = if body == ASK_MISSING {
                        Ok(self.missing().iter().flat_map(|rank| rank.0.to_le_bytes()).collect())
                    } else {
                        Err("the meeting point does not know this question".to_owned())
                    };
                    actions.extend(self.hub.reply(from, token, answer));
                }
                Action::AbortAsked { rank, reason, .. } => {
                    actions.extend(self.hub.publish(EventKind::Abort { rank: Some(rank), reason }));
                }
                // A root has nobody above, its members are ranks, and this one asks nothing.
                Action::ToUpstream(_) | Action::ToMember(Member::Node(_), _) | Action::ReplyForMe { .. } => {}
            }
        }
    }

    /// Sends to a rank. A link that fails here fails again when it is read, which is where it ends.
    fn send(&mut self, rank: Rank, message: &RankReply) {
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.rank == rank)
            && let Err(LinkError::Stuck(_)) = peer.link.send(message)
        {
            peer.state = PeerState::Refused { deadline: Instant::now() };
        }
    }

    fn link_ended(&mut self, index: usize, cause: &str) {
        let peer = self.peers.swap_remove(index);
        if !self.joined.get(peer.rank.index()).is_some_and(|&joined| joined) {
            return;
        }
        self.gone += 1;
        let has_left = peer.state == PeerState::Left;
        let actions = self.hub.member_gone(Member::Rank(peer.rank), if has_left { "left" } else { cause });
        self.carry_out(actions);
        if !has_left {
            self.lose(peer.rank, cause);
        }
    }

    fn lose(&mut self, rank: Rank, cause: &str) {
        let actions = self.hub.publish(EventKind::RankLost { rank, cause: cause.to_owned() });
        self.carry_out(actions);
    }

    fn keep_deadlines(&mut self) {
        let now = Instant::now();
        let is_late = |peer: &Peer| match peer.state {
            PeerState::Silent { deadline } | PeerState::Refused { deadline } => now >= deadline,
            PeerState::Joined | PeerState::Left => false,
        };
        while let Some(index) = self.peers.iter().position(is_late) {
            self.link_ended(index, "it did not answer in time");
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            let missing = self.missing();
            let (waited, size) = (self.timeout.as_secs_f64(), self.world_size);
            let joined = size as usize - missing.len();
            let missing = list_ranks(&missing);
            let reason =
                format!("after {waited:.0} s {joined} of {size} ranks have joined, missing: {missing}");
            let actions = self.hub.publish(EventKind::Abort { rank: None, reason });
            self.carry_out(actions);
        }
    }

    fn missing(&self) -> Vec<Rank> {
        (0..).map(Rank).zip(&self.joined).filter(|(_, joined)| !**joined).map(|(rank, _)| rank).collect()
    }
}

/// A request to the server: which ranks have not joined? The answer has four bytes per rank, little endian.
pub(super) const ASK_MISSING: &[u8] = b"missing";

/// The largest message that a rank has reason to send.
const LIMIT: usize = 2 * if oob::MAX_BLOB_BYTES > oob::MAX_REQUEST_BYTES {
    oob::MAX_BLOB_BYTES
} else {
    oob::MAX_REQUEST_BYTES
};

/// More ranks than any world has that meets without a launcher.
const WORLD_SIZE_MAX: u32 = 1 << 16;

/// For what is a matter of milliseconds when all is well: an introduction, a goodbye.
const GRACE: Duration = Duration::from_secs(2);
