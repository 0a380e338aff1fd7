//! A rank's end of the out-of-band primitives, over whatever link it has.
//!
//! No thread stands behind it: bytes move within its calls. Blocking calls sleep in poll(2) with a deadline;
//! [`OobConnection::check_events`] is for loops that wait for something else, and never sleeps.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use efarun_wire::message::{
    Event, EventKind, GatherKey, OobUp, Participants, RankMessage, RankReply, Target,
};
use efarun_wire::oob::{Client, ClientEvent, MAX_OPEN_REQUESTS};
use efarun_wire::position::{Position, Positions, Question};
use efarun_wire::{NodeId, PROTOCOL_VERSION, Rank};
use nix::poll::PollFd;

use super::error::BootstrapError;
use super::link::{Link, LinkError, wait_for};
use super::page::Page;
use super::server::{ASK_MISSING, Server};

/// One World's use of its rank's connection.
#[derive(Debug)]
pub struct OobConnection {
    shared: Arc<Shared>,
    /// Counts the Worlds on this connection, in the order in which they were made: the same on all ranks.
    world_number: u32,
    has_left: bool,
    /// Beside rank 0 of a world without a launcher. Held to be dropped, and after the link: it waits until all
    /// links have ended.
    server: Option<Server>,
}

impl OobConnection {
    pub(super) fn new(shared: Arc<Shared>, server: Option<Server>) -> Self {
        let world_number = shared.made_worlds.fetch_add(1, Ordering::Relaxed);
        shared.open_worlds.fetch_add(1, Ordering::Relaxed);
        if let Some(page) = &shared.page {
            page.begin(world_number, 0, 0);
        }
        OobConnection { shared, world_number, has_left: false, server }
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.shared.rank
    }

    /// World size.
    pub fn world_size(&self) -> u32 {
        self.shared.world_size
    }

    /// The address of this node by which it met the others, where the link shows one: not under efarun, whose links
    /// stay on the node. Of rank 0 it is known once all ranks have joined.
    pub fn local_address(&self) -> Option<IpAddr> {
        match &self.server {
            Some(server) => server.seen_at(),
            None => self.shared.lock().link.local_address(),
        }
    }

    /// Gives every participant's blob to every participant, ascending by rank. The n-th call with an id and
    /// participants meets the n-th call with the same on the other ranks.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`] when a rank is lost, somebody aborts, the connection ends, or `timeout` passes.
    pub fn allgather(
        &mut self,
        id: &str,
        participants: Participants,
        blob: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<(Rank, Vec<u8>)>, BootstrapError> {
        let what = format!("all ranks to reach `{id}`");
        let id = format!("world-{}/{id}", self.world_number);
        let count = participants.count(self.world_size());
        let key = {
            let mut state = self.shared.lock();
            let (key, message) = state.client.gather(&id, participants, blob)?;
            state.send(message);
            key
        };
        let blobs = self.wait(&what, timeout, |state| state.gathered.remove(&key))?;
        if blobs.len() == count {
            Ok(blobs)
        } else {
            let cause = format!("it sent {} of {count} contributions to `{id}`", blobs.len());
            Err(self.shared.server_gone(&cause))
        }
    }

    /// Returns once all ranks have called it.
    ///
    /// # Errors
    ///
    /// As [`OobConnection::allgather`].
    pub fn barrier(&mut self, id: &str, timeout: Duration) -> Result<(), BootstrapError> {
        self.allgather(id, Participants::World, Vec::new(), timeout).map(|_| ())
    }

    /// Asks a rank, a node's agent or the head. The inner error is the answerer's, or says why nobody answers.
    ///
    /// # Errors
    ///
    /// As [`OobConnection::allgather`].
    pub fn request(
        &mut self,
        to: Target,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<Result<Vec<u8>, String>, BootstrapError> {
        let token = self.shared.lock().ask(to, body)?;
        self.wait("the answer to a request", timeout, |state| state.replies.remove(&token))
    }

    /// Tells every rank that this one gives up, and the launcher which exit code the job should have. Does not end
    /// this process, and never fails: where nobody can be told, nobody is left to tell.
    pub fn abort(&mut self, code: i32, reason: &str) {
        let mut state = self.shared.lock();
        let message = state.client.abort(code, reason);
        state.send(message);
        drop(state);
        self.flush(ABORT_TIMEOUT);
    }

    /// Takes in what has arrived, without sleeping.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`] once a rank is lost, somebody aborted, or the connection has ended; the same every time.
    pub fn check_events(&mut self) -> Result<(), BootstrapError> {
        let mut state = self.shared.lock();
        state.progress();
        self.shared.check(&state)
    }

    /// Sleeps until something may have arrived, for `timeout` at most. May return early.
    pub fn sleep(&self, timeout: Duration) {
        self.shared.sleep(timeout);
    }

    /// Shows that this rank begins an operation of its World, for whoever asks where it is.
    pub(crate) fn begin(&self, sequence: u32, signature: u64) {
        if let Some(page) = &self.shared.page {
            page.begin(self.world_number, u64::from(sequence) + 1, signature);
        }
    }

    /// Asks how far the World's ranks have come: their nodes' agents, who know it whatever the ranks do; or, without a
    /// launcher, the ranks themselves, of which those answer that wait for something. Returns what was answered within
    /// `timeout`, ascending by rank.
    pub(crate) fn positions(&mut self, node_count: u32, timeout: Duration) -> Vec<(Rank, Option<Position>)> {
        let started = Instant::now();
        let question = Question::Positions { world: self.world_number }.to_bytes();
        let targets: Vec<Target> = if self.shared.asks_agents.load(Ordering::Relaxed) {
            (0..node_count).map(|node| Target::Node(NodeId(node))).collect()
        } else {
            (0..self.world_size()).map(|rank| Target::Rank(Rank(rank))).collect()
        };
        let mut positions = BTreeMap::new();
        for some in targets.chunks(MAX_ASKED) {
            let mut state = self.shared.lock();
            let mut tokens: Vec<u64> =
                some.iter().filter_map(|&target| state.ask(target, question.clone()).ok()).collect();
            drop(state);
            while !tokens.is_empty() && started.elapsed() < timeout {
                let mut state = self.shared.lock();
                state.progress();
                tokens.retain(|token| match state.replies.remove(token) {
                    Some(reply) => {
                        positions.extend(
                            reply.ok().and_then(|body| Positions::from_bytes(&body)).unwrap_or_default().0,
                        );
                        false
                    }
                    None => true,
                });
                if state.failure.is_some() {
                    return positions.into_iter().collect();
                }
                drop(state);
                if !tokens.is_empty() {
                    self.shared.sleep(timeout.saturating_sub(started.elapsed()));
                }
            }
        }
        positions.into_iter().collect()
    }

    /// Says goodbye: the end of this rank's link is no failure from now on. Returns when it was said or cannot be.
    ///
    /// Of several Worlds on one connection the last to be closed says it. One that ends without it keeps the connection
    /// from being left: should the process end then, others may wait for it.
    pub fn leave(&mut self) {
        let was_last = !std::mem::replace(&mut self.has_left, true)
            && self.shared.open_worlds.fetch_sub(1, Ordering::Relaxed) == 1;
        if was_last {
            self.shared.lock().send_message(&RankMessage::Leave);
            self.flush(ABORT_TIMEOUT);
        }
    }

    fn wait<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, BootstrapError> {
        let started = Instant::now();
        loop {
            {
                let mut state = self.shared.lock();
                state.progress();
                if let Some(value) = ready(&mut state) {
                    return Ok(value);
                }
                self.shared.check(&state)?;
            }
            let waited = started.elapsed();
            if waited >= timeout {
                let (what, missing) = (what.to_owned(), self.missing());
                return Err(BootstrapError::Timeout { what, waited, missing, world_size: self.world_size() });
            }
            self.shared.sleep(timeout - waited);
        }
    }

    /// The ranks that have not joined, where that can be asked.
    fn missing(&self) -> Vec<Rank> {
        let Ok(token) = self.shared.lock().ask(Target::Head, ASK_MISSING.to_vec()) else { return Vec::new() };
        let started = Instant::now();
        while started.elapsed() < ASK_TIMEOUT {
            let mut state = self.shared.lock();
            state.progress();
            if let Some(reply) = state.replies.remove(&token) {
                let ranks = reply.unwrap_or_default();
                return ranks
                    .chunks_exact(4)
                    .map(|rank| Rank(u32::from_le_bytes([rank[0], rank[1], rank[2], rank[3]])))
                    .collect();
            }
            if state.failure.is_some() {
                break;
            }
            drop(state);
            self.shared.sleep(ASK_TIMEOUT);
        }
        Vec::new()
    }

    fn flush(&self, timeout: Duration) {
        let started = Instant::now();
        while started.elapsed() < timeout {
            let mut state = self.shared.lock();
            state.progress();
            if state.failure.is_some() || state.link.is_flushed() {
                return;
            }
            drop(state);
            self.shared.sleep(timeout);
        }
    }
}

/// The connection itself; the Worlds of one process under efarun share it.
#[derive(Debug)]
pub(super) struct Shared {
    rank: Rank,
    world_size: u32,
    /// Who is at the other end, for messages.
    server: String,
    state: Mutex<State>,
    /// The link's socket again, to be waited for without holding the lock.
    socket: OwnedFd,
    made_worlds: AtomicU32,
    /// How many of them were not left.
    open_worlds: AtomicU32,
    /// None where the system has no memory for it.
    page: Option<Arc<Page>>,
    /// Whether agents know where ranks are.
    asks_agents: AtomicBool,
}

#[derive(Debug)]
struct State {
    link: Link,
    client: Client,
    welcomed: Option<Result<(), String>>,
    gathered: HashMap<GatherKey, Vec<(Rank, Vec<u8>)>>,
    replies: HashMap<u64, Result<Vec<u8>, String>>,
    /// What ends the world: the first such event.
    fatal: Option<EventKind>,
    /// How the connection ended.
    failure: Option<String>,
    page: Option<Arc<Page>>,
}

impl Shared {
    /// Introduces this rank and waits to be welcomed.
    pub(super) fn join(
        link: Link,
        server: &str,
        rank: Rank,
        world_size: u32,
        deadline: Instant,
    ) -> Result<Arc<Self>, BootstrapError> {
        let socket = link
            .as_fd()
            .try_clone_to_owned()
            .map_err(|cause| BootstrapError::System { call: "dup", cause })?;
        let page = Page::new()
            .map(Arc::new)
            .inspect_err(|error| log::info!("no page to say where this rank is: {error}"))
            .ok();
        let state = State {
            page: page.clone(),
            link,
            client: Client::new(rank, world_size),
            welcomed: None,
            gathered: HashMap::new(),
            replies: HashMap::new(),
            fatal: None,
            failure: None,
        };
        let shared = Shared {
            rank,
            world_size,
            server: server.to_owned(),
            state: Mutex::new(state),
            socket,
            made_worlds: AtomicU32::new(0),
            open_worlds: AtomicU32::new(0),
            page,
            asks_agents: AtomicBool::new(false),
        };
        let join = RankMessage::Join { protocol: PROTOCOL_VERSION, rank, world_size };
        shared.lock().send_message(&join);
        shared.await_welcome(deadline)?;
        Ok(Arc::new(shared))
    }

    /// Tells the agent at the other end where this rank shows how far it has come.
    pub(super) fn offer_page(&self) {
        if let Some(page) = &self.page {
            self.lock().send_message(&RankMessage::Page(page.offer()));
        }
        self.asks_agents.store(true, Ordering::Relaxed);
    }

    fn await_welcome(&self, deadline: Instant) -> Result<(), BootstrapError> {
        let started = Instant::now();
        loop {
            let mut state = self.lock();
            state.progress();
            match state.welcomed.take() {
                Some(Ok(())) => return Ok(()),
                Some(Err(reason)) => {
                    return Err(BootstrapError::Refused {
                        server: self.server.clone(),
                        rank: self.rank,
                        reason,
                    });
                }
                None => self.check(&state)?,
            }
            drop(state);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BootstrapError::Timeout {
                    what: format!("{} to answer", self.server),
                    waited: started.elapsed(),
                    missing: Vec::new(),
                    world_size: self.world_size,
                });
            }
            self.sleep(left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state as it was between two messages.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, state: &State) -> Result<(), BootstrapError> {
        match &state.fatal {
            Some(EventKind::RankLost { rank, cause }) => {
                return Err(BootstrapError::RankLost { rank: *rank, cause: cause.clone() });
            }
            Some(EventKind::Abort { rank, reason }) => {
                return Err(BootstrapError::Aborted { rank: *rank, reason: reason.clone() });
            }
            Some(EventKind::Stop) => return Err(BootstrapError::Stopped),
            Some(EventKind::Dump) | None => {}
        }
        match &state.failure {
            Some(cause) => Err(self.server_gone(cause)),
            None => Ok(()),
        }
    }

    fn server_gone(&self, cause: &str) -> BootstrapError {
        BootstrapError::ServerGone { server: self.server.clone(), cause: cause.to_owned() }
    }

    /// Sleeps until the link is ready. Not long: another World of this process may take the bytes in meanwhile.
    fn sleep(&self, timeout: Duration) {
        let interest = self.lock().link.interest();
        wait_for(&mut [PollFd::new(self.socket.as_fd(), interest)], timeout.min(Duration::from_millis(50)));
    }
}

impl State {
    fn send(&mut self, message: OobUp) {
        self.send_message(&RankMessage::Oob(message));
    }

    fn send_message(&mut self, message: &RankMessage) {
        if self.failure.is_none()
            && let Err(error) = self.link.send(message)
        {
            self.fail(&error);
        }
    }

    fn ask(&mut self, to: Target, body: Vec<u8>) -> Result<u64, BootstrapError> {
        let (token, message) = self.client.request(to, body)?;
        self.send(message);
        Ok(token)
    }

    /// Moves what can be moved without waiting. Failures are kept for whoever asks next.
    fn progress(&mut self) {
        while self.failure.is_none() {
            match self.link.flush().and_then(|()| self.link.receive::<RankReply>()) {
                Ok(Some(message)) => self.heard(message),
                Ok(None) => return,
                Err(error) => self.fail(&error),
            }
        }
    }

    fn heard(&mut self, message: RankReply) {
        match message {
            RankReply::Welcome { .. } => self.welcomed = Some(Ok(())),
            RankReply::Refused(reason) => {
                self.failure = Some(format!("it refused this rank: {reason}"));
                self.welcomed = Some(Err(reason));
            }
            RankReply::Oob(message) => match self.client.receive(message) {
                Ok(events) => events.into_iter().for_each(|event| self.learned(event)),
                Err(error) => self.failure = Some(error.to_string()),
            },
        }
    }

    fn learned(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Gathered { key, blobs } => {
                self.gathered.insert(key, blobs);
            }
            // The event that came with it has ended the world, unless one before had, which then is the cause.
            ClientEvent::GatherFailed { .. } => {}
            ClientEvent::Replied { token, body } => {
                self.replies.insert(token, body);
            }
            ClientEvent::Requested { from, token, body } => {
                let answer = match Question::from_bytes(&body) {
                    Some(Question::Positions { world }) => {
                        let position = self.page.as_ref().and_then(|page| page.position(world));
                        Ok(Positions(vec![(self.client.rank(), position)]).to_bytes())
                    }
                    None => Err("a rank does not know this question".to_owned()),
                };
                if let Ok(reply) = self.client.reply(from, token, answer) {
                    self.send(reply);
                }
            }
            // Where a rank is, is for a later protocol to tell.
            ClientEvent::Happened(Event { kind: EventKind::Dump, .. }) => {}
            ClientEvent::Happened(Event { kind, .. }) => {
                self.fatal.get_or_insert(kind);
            }
        }
    }

    fn fail(&mut self, error: &LinkError) {
        self.failure = Some(error.to_string());
    }
}

const ABORT_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How many are asked at a time; fewer than may be.
const MAX_ASKED: usize = MAX_OPEN_REQUESTS / 2;
