//! The head's port, open while agents are awaited.
//!
//! A listener is bound to the addresses that connections to hosts have proved, not to all of them. Who connects is a
//! stranger until it has shown that it holds the key of a node that is awaited: it may send a handshake, nothing
//! more, and has two seconds to begin it; who began it rightly has eight for the rest. Only so many strangers are let be at once; one more pushes out the one that has
//! been there longest, so that a scanner which opens connections and says nothing cannot keep an agent out. What a
//! stranger sends is looked at by [`Responder`] alone.
//!
//! Once every awaited agent has joined, or the listener is dropped, the ports close.
//!
//! Where nodes come by themselves nobody knows beforehand who will come: [`Listener::welcoming`] takes in whoever holds a
//! key that all of them have, and tells of those who hold another.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use efarun_wire::secure::{
    Authenticated, HANDSHAKE_TIMEOUT_MS, LinkKey, MAX_HALF_OPEN, Responder, SecureError, Standing,
};
use efarun_wire::{JobId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

/// An agent that dialled and proved who it is.
#[derive(Debug)]
pub struct Joined {
    /// The connection.
    pub stream: TcpStream,
    /// The link on it, and what had already arrived.
    pub authenticated: Authenticated,
    /// The agent's address, as this end sees it.
    pub peer: SocketAddr,
}

/// Listens for the agents of one job.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    ports: Mutex<HashMap<IpAddr, (SocketAddr, JoinHandle<()>)>>,
}

/// Somebody at the port of a listener that takes in whoever holds its key.
#[derive(Debug)]
pub enum Arrival {
    /// He holds it.
    Joined(Joined),
    /// He speaks our protocol and does not hold it, or speaks another version.
    TurnedAway {
        /// Where he came from.
        peer: SocketAddr,
        /// Why.
        cause: SecureError,
    },
}

#[derive(Debug)]
struct Shared {
    job: JobId,
    awaited: Mutex<HashMap<u32, Awaited>>,
    anybody: Option<(LinkKey, mpsc::Sender<Arrival>)>,
    half_open: Mutex<VecDeque<AbortHandle>>,
}

#[derive(Debug)]
struct Awaited {
    key: LinkKey,
    joined: Option<oneshot::Sender<Joined>>,
}

impl Listener {
    /// A listener that does not listen yet.
    pub fn new(job: JobId) -> Listener {
        Listener::of(job, None)
    }

    /// A listener that takes in whoever holds this key, as any member; it does not listen yet.
    pub fn welcoming(key: LinkKey) -> (Listener, mpsc::Receiver<Arrival>) {
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        (Listener::of(key.job_id(), Some((key, sender))), arrivals)
    }

    fn of(job: JobId, anybody: Option<(LinkKey, mpsc::Sender<Arrival>)>) -> Listener {
        let shared = Shared { job, awaited: Mutex::default(), anybody, half_open: Mutex::default() };
        Listener { shared: Arc::new(shared), ports: Mutex::default() }
    }

    /// Opens a port on this address of ours, once; gives where it is. Must be called on the runtime.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub fn listen_on(&self, address: IpAddr) -> io::Result<SocketAddr> {
        let known = lock(&self.ports).get(&address).map(|(bound, _)| *bound);
        known.map_or_else(|| self.listen_at((address, 0).into()), Ok)
    }

    /// Opens this port; gives where it is. Must be called on the runtime. Whoever listens there later may reuse it at once.
    ///
    /// # Errors
    ///
    /// When it cannot be bound.
    pub fn listen_at(&self, at: SocketAddr) -> io::Result<SocketAddr> {
        let mut ports = lock(&self.ports);
        let address = at.ip();
        let socket = std::net::TcpListener::bind(at)?;
        socket.set_nonblocking(true)?;
        let bound = socket.local_addr()?;
        let accepting = tokio::spawn(accept(TcpListener::from_std(socket)?, Arc::clone(&self.shared)));
        ports.insert(address, (bound, accepting));
        Ok(bound)
    }

    /// Awaits the agent of this node; what it dialled with arrives in the receiver.
    pub fn expect(&self, node: NodeId, key: LinkKey) -> oneshot::Receiver<Joined> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.shared.awaited).insert(node.0, Awaited { key, joined: Some(sender) });
        receiver
    }

    /// Closes the ports, and returns when they are closed.
    pub async fn close(self) {
        let ports: Vec<JoinHandle<()>> =
            lock(&self.ports).drain().map(|(_, (_, accepting))| accepting).collect();
        for accepting in ports {
            accepting.abort();
            // It ends by being aborted, and its socket with it.
            let _ = accepting.await;
        }
    }

    /// Awaits this node no longer: its link stays in the channel.
    pub fn give_up(&self, node: NodeId) {
        lock(&self.shared.awaited).remove(&node.0);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for (_, accepting) in lock(&self.ports).values() {
            accepting.abort();
        }
        for stranger in lock(&self.shared.half_open).drain(..) {
            stranger.abort();
        }
    }
}

impl Shared {
    fn standing(&self, member: u32) -> Standing {
        if let Some((key, _)) = &self.anybody {
            return Standing::Expected(key.clone());
        }
        match lock(&self.awaited).get(&member) {
            None => Standing::Unknown,
            Some(Awaited { joined: None, .. }) => Standing::Joined,
            Some(Awaited { key, joined: Some(_) }) => Standing::Expected(key.clone()),
        }
    }

    fn joined(&self, joined: Joined) {
        let waiter = lock(&self.awaited)
            .get_mut(&joined.authenticated.member)
            .and_then(|awaited| awaited.joined.take());
        if let Some(waiter) = waiter {
            // A receiver that was dropped has given the node up; the connection is dropped with the message.
            let _ = waiter.send(joined);
        }
    }

    /// Makes room for one more stranger and lets it in.
    fn admit(&self, stranger: AbortHandle) {
        let mut half_open = lock(&self.half_open);
        half_open.retain(|other| !other.is_finished());
        // All agents of a large job may dial at once, and each of them is a stranger until it has shown its key.
        let most = MAX_HALF_OPEN + lock(&self.awaited).len();
        while half_open.len() >= most {
            if let Some(oldest) = half_open.pop_front() {
                oldest.abort();
            }
        }
        half_open.push_back(stranger);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let greeting = tokio::spawn(greet(stream, peer, Arc::clone(&shared)));
                shared.admit(greeting.abort_handle());
            }
            // Out of file descriptors, or a connection that was gone before it was taken: neither is the end.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// How long accepting rests after an error, so that a lasting one does not burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Lets one stranger show who it is. Whatever goes wrong ends in dropping the connection, without a word to the
/// user: strangers are none of his concern, and an agent that failed says so in its channel.
async fn greet(mut stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    match (shake_hands(&mut stream, &shared).await, &shared.anybody) {
        (Ok(authenticated), anybody) => {
            // Small frames must not wait for each other. A socket that cannot do it is merely slower.
            let _ = stream.set_nodelay(true);
            let joined = Joined { stream, authenticated, peer };
            match anybody {
                // Without a receiver the connection is dropped with the message.
                Some((_, arrivals)) => drop(arrivals.send(Arrival::Joined(joined)).await),
                None => shared.joined(joined),
            }
        }
        (Err(Dropped::Handshake(cause)), Some((_, arrivals))) if is_ours(&cause) => {
            // One that finds no room was one of many.
            let _ = arrivals.try_send(Arrival::TurnedAway { peer, cause });
        }
        _ => {}
    }
}

/// Whether an efarun was turned away, and not a scanner.
fn is_ours(cause: &SecureError) -> bool {
    matches!(
        cause,
        SecureError::OtherJob { .. } | SecureError::OtherVersion { .. } | SecureError::NotAuthentic { .. }
    )
}

/// How many arrivals may wait to be looked at.
const ARRIVALS: usize = 64;

async fn shake_hands(stream: &mut TcpStream, shared: &Shared) -> Result<Authenticated, Dropped> {
    let mut responder = Responder::new(shared.job);
    let members = |member| shared.standing(member);
    let mut arrived = [0; Responder::HANDSHAKE_BYTES];
    let mut deadline = Instant::now() + Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let mut is_answered = false;
    loop {
        let read = tokio::time::timeout_at(deadline, stream.read(&mut arrived)).await;
        let len = read.map_err(|_| Dropped::TooSlow)??;
        if len == 0 {
            return Err(responder.end().into());
        }
        let mut answer = Vec::new();
        let received = responder.receive(&arrived[..len], &members, &mut answer);
        // It is sent at once: it is shorter than any socket's buffer.
        stream.write_all(&answer).await?;
        if !answer.is_empty() && !std::mem::replace(&mut is_answered, true) {
            // It is sealed under the node's key: an agent, on a machine that may have much to do, or a recording of one.
            deadline = Instant::now() + PROOF_PATIENCE;
        }
        if let Some(authenticated) = received? {
            return Ok(authenticated);
        }
    }
}

/// Why a stranger was dropped.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error(transparent)]
    Handshake(#[from] SecureError),
    #[error(transparent)]
    Connection(#[from] io::Error),
    #[error("nothing came in time")]
    TooSlow,
}

/// How long who has begun a handshake rightly may take to end it.
const PROOF_PATIENCE: Duration = Duration::from_secs(8);

/// Nothing that holds these locks can panic half way; a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
