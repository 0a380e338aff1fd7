//! The sockets between ranks and their node's PMI server: one end of a pair, or a connection to its port.
//!
//! One task per socket moves bytes, in both directions, and reads no further while what it has to write is not taken: a
//! rank that floods its server with requests and reads no answers stops itself, and is told of after a while. What the server decides is carried out
//! here; what it has to say to the servers of other nodes goes through the head.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use efarun_wire::message::{AgentMessage, LaunchPlan, OobDown, RankExit, RankStatus, SpawnedWorld};
use efarun_wire::{JobId, Rank};

use super::pmi_port::{self, Arrival, PmiPort};
use crate::env::{NameValue, PMI_FD};
use crate::exchange;
use crate::link_io::LinkSender;
use crate::pmi::{Action, Server};

/// What happened on a rank's PMI socket.
#[derive(Debug)]
pub(super) enum Heard {
    /// It has come to the port.
    Came(Arrival),
    /// It wrote these.
    Bytes(Vec<u8>),
    /// It, and everybody else who had its end, is gone from it.
    Closed,
    /// [`STALL`] has passed since it had sent so many bytes.
    StallDue(u64),
    /// It has taken nothing for [`STALL`], with more than [`UNREAD_BYTES`] waiting for it.
    Unread,
    /// [`CLOSED_PATIENCE`] has passed since it closed its socket.
    ClosedDue,
    /// [`MISSING_PATIENCE`] has passed since a rank was missing after this one's doing.
    MissingDue,
}

pub(super) type PmiEvent = (Rank, Heard);

/// All PMI sockets of the node's ranks.
#[derive(Debug)]
pub(super) struct PmiLinks {
    server: Server,
    /// Those that are open.
    sockets: BTreeMap<Rank, Socket>,
    /// Where one was asked for.
    port: Option<PmiPort>,
    /// The ranks that come there.
    by_port: BTreeSet<Rank>,
    /// Those that came again, before it was seen that they had gone.
    next_arrivals: BTreeMap<Rank, Arrival>,
    head: LinkSender<AgentMessage>,
    events: mpsc::Sender<PmiEvent>,
    /// What each rank has said and been told, in bytes.
    bytes: BTreeMap<Rank, [u64; 2]>,
    /// What this server has said to those of other nodes and been told by them, in bytes.
    exchanged: [u64; 2],
    /// [`Heard::MissingDue`] is on its way.
    waits_for_missing: bool,
}

/// A rank's socket, which a task has.
#[derive(Debug)]
struct Socket {
    /// What is to be written.
    answers: mpsc::UnboundedSender<Vec<u8>>,
    /// It is not read, as too much waits to be written.
    is_held: Arc<AtomicBool>,
}

impl PmiLinks {
    /// No sockets yet. What they bring goes to `events`, and from there to [`PmiLinks::handle`].
    pub(super) fn new(
        job: JobId,
        plan: &LaunchPlan,
        head: LinkSender<AgentMessage>,
        events: mpsc::Sender<PmiEvent>,
    ) -> PmiLinks {
        let ranks = plan.ranks.iter().map(|rank| (rank.rank, rank.app));
        let server = Server::new(job, plan.node, plan.map.clone(), ranks);
        PmiLinks {
            server,
            sockets: BTreeMap::new(),
            port: None,
            by_port: BTreeSet::new(),
            next_arrivals: BTreeMap::new(),
            head,
            events,
            bytes: BTreeMap::new(),
            exchanged: [0; 2],
            waits_for_missing: false,
        }
    }

    /// Takes note of a further world.
    pub(super) fn admit(&mut self, plan: &LaunchPlan) {
        let ranks = plan.ranks.iter().map(|rank| (rank.rank, rank.app));
        self.server.admit(plan.map.clone(), ranks, &plan.keys);
    }

    /// Passes on what came of an order for a world.
    pub(super) fn spawned(&mut self, token: u64, outcome: &Result<SpawnedWorld, String>) {
        let actions = self.server.spawned(token, outcome);
        self.act(actions);
    }

    /// Tells a rank of the port, instead of its descriptor, where its environment asks for that.
    ///
    /// # Errors
    ///
    /// When there is no port.
    pub(super) async fn complete(&mut self, rank: Rank, env: &mut Vec<NameValue>) -> io::Result<()> {
        if !pmi_port::is_asked_for(env) {
            return Ok(());
        }
        let port = match &mut self.port {
            Some(port) => port,
            none => none.insert(PmiPort::open(self.events.clone(), self.head.clone()).await?),
        };
        let own = port.environment(rank)?;
        env.retain(|(name, _)| name != PMI_FD.as_bytes() && !own.iter().any(|(own, _)| own == name));
        env.extend(own);
        self.by_port.insert(rank);
        Ok(())
    }

    /// Takes a rank's socket over, unless the rank is to come to the port.
    pub(super) fn add(&mut self, rank: Rank, socket: UnixStream) {
        if !self.by_port.contains(&rank) {
            self.take_over(rank, socket);
        }
    }

    fn came(&mut self, rank: Rank, Arrival { stream, said }: Arrival) {
        self.take_over(rank, stream);
        let welcome = Action::Send(rank, self.server.welcome(rank));
        self.act(vec![welcome]);
        self.handle((rank, Heard::Bytes(said)));
    }

    fn take_over(&mut self, rank: Rank, socket: impl AsyncRead + AsyncWrite + Send + 'static) {
        let (answers, to_write) = mpsc::unbounded_channel();
        let is_held = Arc::new(AtomicBool::new(false));
        self.sockets.insert(rank, Socket { answers, is_held: Arc::clone(&is_held) });
        tokio::spawn(carry(rank, socket, to_write, is_held, self.head.clone(), self.events.clone()));
    }

    /// Whether a rank's socket is there, and neither it nor the agent has closed it.
    pub(super) fn is_open(&self, rank: Rank) -> bool {
        self.sockets.contains_key(&rank)
    }

    /// Whether a rank has asked this server for a world.
    pub(super) fn has_initialised(&self, rank: Rank) -> bool {
        self.server.has_initialised(rank)
    }

    /// The names that ranks were told of the spaces of their keys.
    pub(super) fn space_names(&self) -> Vec<String> {
        self.server.space_names()
    }

    /// Handles what happened on a socket.
    pub(super) fn handle(&mut self, (rank, heard): PmiEvent) {
        let actions = match heard {
            // Its program before this one has closed its socket, which is heard of soon.
            Heard::Came(arrival) if self.sockets.contains_key(&rank) => {
                self.next_arrivals.entry(rank).or_insert(arrival);
                return;
            }
            Heard::Came(arrival) => return self.came(rank, arrival),
            Heard::Bytes(bytes) => {
                self.bytes.entry(rank).or_default()[0] += bytes.len() as u64;
                let actions = self.server.receive(rank, &bytes);
                if let Some(received_bytes) = self.server.stopped_within_message(rank) {
                    self.tell_later(STALL, (rank, Heard::StallDue(received_bytes)));
                }
                actions
            }
            Heard::Closed => {
                self.sockets.remove(&rank);
                if self.server.is_within(rank) {
                    self.tell_later(CLOSED_PATIENCE, (rank, Heard::ClosedDue));
                }
                if let Some(arrival) = self.next_arrivals.remove(&rank) {
                    self.came(rank, arrival);
                }
                Vec::new()
            }
            // What it has sent since is not read yet.
            Heard::StallDue(_) if self.is_held(rank) => {
                self.tell_later(STALL, (rank, heard));
                Vec::new()
            }
            Heard::StallDue(received_bytes) => self.server.stalled(rank, received_bytes, STALL.as_secs()),
            Heard::Unread => self.server.unread(rank, STALL.as_secs()),
            Heard::MissingDue => {
                self.waits_for_missing = false;
                self.server.missed()
            }
            Heard::ClosedDue => self.server.closed(rank, CLOSED_PATIENCE.as_secs()),
        };
        self.act(actions);
        self.watch_for_missing(rank);
    }

    /// Takes what the head passes on for this server; gives back what is not.
    pub(super) fn receive_down(&mut self, down: OobDown) -> Option<OobDown> {
        let len_bytes = exchange::len_down(&down) as u64;
        match self.server.hear(down) {
            Ok(actions) => {
                self.exchanged[1] += len_bytes;
                self.act(actions);
                None
            }
            Err(other) => Some(other),
        }
    }

    /// What this server has said to those of other nodes and been told by them, in bytes.
    pub(super) fn exchanged(&self) -> [u64; 2] {
        self.exchanged
    }

    /// Takes note of a rank's end, once all that it wrote has been handled. What is wrong with it is told before the end
    /// itself is.
    pub(super) fn ended(&mut self, exit: &RankExit) {
        self.sockets.remove(&exit.rank);
        self.next_arrivals.remove(&exit.rank);
        if let Some(bytes) = self.bytes.remove(&exit.rank) {
            self.head.send(&AgentMessage::PmiBytes { rank: exit.rank, bytes });
        }
        if exit.status == RankStatus::Code(0) && !exit.ended_by_launcher {
            let actions = self.server.ended_well(exit.rank);
            self.act(actions);
            self.watch_for_missing(exit.rank);
        }
    }

    fn is_held(&self, rank: Rank) -> bool {
        self.sockets.get(&rank).is_some_and(|socket| socket.is_held.load(Ordering::Relaxed))
    }

    fn watch_for_missing(&mut self, rank: Rank) {
        if !self.waits_for_missing && self.server.misses_a_rank() {
            self.waits_for_missing = true;
            self.tell_later(MISSING_PATIENCE, (rank, Heard::MissingDue));
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(rank, bytes) => {
                    if let Some(socket) = self.sockets.get(&rank) {
                        self.bytes.entry(rank).or_default()[1] += bytes.len() as u64;
                        // Its task ends when the socket does, which is heard of.
                        let _ = socket.answers.send(bytes);
                    }
                }
                Action::Up(up) => {
                    self.exchanged[0] += exchange::len_up(&up) as u64;
                    self.head.send(&AgentMessage::Oob(up));
                }
                Action::Broke { rank, how } => self.head.send(&AgentMessage::RankBroke { rank, how }),
                Action::Spawn(order) => self.head.send(&AgentMessage::Spawn(Box::new(order))),
                Action::Close(rank) => drop(self.sockets.remove(&rank)),
                Action::Note(rank, what) => {
                    self.head.send(&AgentMessage::Note(format!("rank {rank} {what}")))
                }
            }
        }
    }

    fn tell_later(&self, delay: Duration, event: PmiEvent) {
        let events = self.events.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            // The receiver lives as long as the agent.
            let _ = events.send(event).await;
        });
    }
}

/// Moves a rank's bytes until either end closes the socket. Reads as fast as the head takes what comes of it, and
/// nothing while more than [`UNREAD_BYTES`] of answers wait for the rank.
async fn carry(
    rank: Rank,
    socket: impl AsyncRead + AsyncWrite,
    mut answers: mpsc::UnboundedReceiver<Vec<u8>>,
    is_held: Arc<AtomicBool>,
    head: LinkSender<AgentMessage>,
    events: mpsc::Sender<PmiEvent>,
) {
    let (mut source, mut sink) = tokio::io::split(socket);
    let mut unwritten: Vec<u8> = Vec::new();
    let mut buffer = [0; READ_BYTES];
    // Counted from the last time that it took something; what is told once is not told again.
    let mut unread = std::pin::pin!(sleep(STALL));
    let mut said_unread = false;
    loop {
        head.control_space().await;
        is_held.store(unwritten.len() >= UNREAD_BYTES, Ordering::Relaxed);
        tokio::select! {
            biased;
            answer = answers.recv() => match answer {
                Some(answer) => unwritten.extend(answer),
                // The server is done with it; what it answered last still gets there.
                None => return drop(sink.write_all(&unwritten).await),
            },
            written = sink.write(&unwritten), if !unwritten.is_empty() => match written {
                Ok(written_bytes) => {
                    unwritten.drain(..written_bytes);
                    unread.as_mut().reset(Instant::now() + STALL);
                }
                Err(_) => unwritten.clear(),
            },
            () = &mut unread, if unwritten.len() >= UNREAD_BYTES && !said_unread => {
                said_unread = true;
                if events.send((rank, Heard::Unread)).await.is_err() {
                    return;
                }
            }
            read = source.read(&mut buffer), if unwritten.len() < UNREAD_BYTES => {
                let heard = match read {
                    Ok(0) | Err(_) => Heard::Closed,
                    Ok(read_bytes) => Heard::Bytes(buffer[..read_bytes].to_vec()),
                };
                let is_over = matches!(heard, Heard::Closed);
                if events.send((rank, heard)).await.is_err() || is_over {
                    return;
                }
            }
        }
    }
}

/// How long a rank may be within a message: it writes one by one call, of a few hundred bytes.
const STALL: Duration = Duration::from_secs(10);
/// How long a rank may go on after it closed its socket without having finalised. One that is ending needs a moment; one
/// that goes on is waited for by others in vain.
const CLOSED_PATIENCE: Duration = Duration::from_secs(2);
/// How long a rank may have ended without what another of its node has begun. A library waits in shared memory for the ranks
/// of its node, which no server sees.
const MISSING_PATIENCE: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4 << 10;
/// Answers that a rank has not read.
const UNREAD_BYTES: usize = 64 << 10;
