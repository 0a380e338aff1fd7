use std::collections::BTreeMap;

use efarun_wire::message::{GatherKey, JobMap, Participants};
use efarun_wire::oob::{MAX_OPEN_GATHERS, blob_limit_bytes};
use efarun_wire::{JobId, NodeId, Rank};

use super::client::{Client, Phase};
use super::groups::Group;
use super::keys::{KeySpace, MAX_VALUE_BYTES, Pairs, Unsent};
use super::peers::{self, Answer, Question};
use super::process_mapping::process_mapping;
use super::request::{Address, Dialect, Fault, Reply, Request};
use super::{pmi1, pmi2};

/// What the owner of a server does next, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write these bytes to a rank's socket.
    Send(Rank, Vec<u8>),
    /// Contribute this to an allgather, for all its ranks that are on this node.
    Gather {
        /// Which allgather.
        key: GatherKey,
        /// One blob per rank, ascending.
        blobs: Vec<(Rank, Vec<u8>)>,
    },
    /// Ask the server of another node. The answer goes to [`Server::answered`].
    Ask {
        /// The other node.
        node: NodeId,
        /// Goes with the answer.
        token: u64,
        /// The question.
        body: Vec<u8>,
    },
    /// A rank ends the job.
    Abort {
        /// The rank.
        rank: Rank,
        /// The exit code that it asks for.
        code: i32,
        /// Why, one line.
        reason: String,
    },
    /// A rank does not do its part, so that the others cannot go on.
    Broke {
        /// The rank.
        rank: Rank,
        /// What it did, as a fragment that fits "rank 3 …".
        how: String,
    },
    /// Close a rank's socket.
    Close(Rank),
    /// Tell the user, as a fragment that fits "rank 3 …".
    Note(Rank, String),
}

/// The PMI server of one node.
#[derive(Debug)]
pub struct Server {
    job: JobId,
    node: NodeId,
    map: JobMap,
    world_size: u32,
    process_mapping: Option<String>,
    clients: BTreeMap<Rank, Client>,
    spaces: BTreeMap<u32, KeySpace>,
    barriers: BTreeMap<GatherKey, Vec<Address>>,
    asks: BTreeMap<u64, Ask>,
    next_token: u64,
    /// Published names, on node 0.
    names: Pairs,
    /// A rank that others wait for in vain has been named.
    has_named_missing: bool,
}

/// A rank's request that others are asked for.
#[derive(Debug)]
struct Ask {
    address: Address,
    question: Question,
    /// Who is asked if this one has found nothing.
    nodes: Vec<NodeId>,
}

impl Server {
    /// The server of this node, with these ranks, each with the number of its program among the job's.
    pub fn new(
        job: JobId,
        node: NodeId,
        map: JobMap,
        ranks: impl IntoIterator<Item = (Rank, u32)>,
    ) -> Server {
        let world_size = map.nodes.iter().map(|node| node.ranks.len() as u32).sum();
        Server {
            job,
            node,
            world_size,
            process_mapping: process_mapping(&map, MAX_VALUE_BYTES),
            map,
            clients: ranks.into_iter().map(|(rank, app)| (rank, Client::new(app))).collect(),
            spaces: BTreeMap::new(),
            barriers: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_token: 1,
            names: Pairs::new(),
            has_named_missing: false,
        }
    }

    /// Handles what a rank wrote to its socket.
    pub fn receive(&mut self, rank: Rank, bytes: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(client) = self.clients.get_mut(&rank).filter(|client| !client.is_closed) else {
            return actions;
        };
        client.received_bytes += bytes.len() as u64;
        client.inbox.push(bytes);
        while let Some(client) = self.clients.get_mut(&rank).filter(|client| !client.is_closed) {
            let dialect = client.dialect;
            let handled = match client.next_request() {
                Ok(None) => break,
                Ok(Some((request, thread))) => {
                    self.handle(Address { rank, dialect, thread }, request, &mut actions)
                }
                Err(fault) => Err(fault),
            };
            if let Err(fault) = handled {
                self.refuse(rank, &fault.to_string(), &mut actions);
            }
        }
        actions
    }

    /// How many bytes a rank had sent when it stopped within a message; none where it has not.
    pub fn stopped_within_message(&self, rank: Rank) -> Option<u64> {
        let client = self.clients.get(&rank).filter(|client| !client.is_closed)?;
        client.inbox.has_partial().then_some(client.received_bytes)
    }

    /// Takes note that a rank has been within a message for a time in which a write of a few bytes is always over; nothing
    /// where it has sent something since it had sent so many bytes.
    pub fn stalled(&mut self, rank: Rank, received_bytes: u64, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stopped_within_message(rank) == Some(received_bytes) {
            let how = format!("sent the beginning of a PMI message and then nothing for {seconds} s");
            self.refuse(rank, &how, &mut actions);
        }
        actions
    }

    /// Whether others may wait for a rank: it has initialised and not finalised.
    pub fn is_within(&self, rank: Rank) -> bool {
        self.clients.get(&rank).is_some_and(|client| client.phase != Phase::Outside && !client.is_closed)
    }

    /// Whether a rank has initialised PMI, now or before.
    pub fn has_initialised(&self, rank: Rank) -> bool {
        self.clients.get(&rank).is_some_and(|client| client.has_initialised)
    }

    /// Takes note that a rank has closed its socket and yet goes on for so long.
    pub fn closed(&mut self, rank: Rank, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_within(rank) && !self.clients[&rank].has_ended {
            let how = format!("closed its PMI socket before MPI_Finalize and went on for {seconds} s");
            self.refuse(rank, &how, &mut actions);
        }
        actions
    }

    /// Takes note that a rank's process has ended by itself with code 0, all that it wrote having been received.
    pub fn ended_well(&mut self, rank: Rank) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_within = self.is_within(rank);
        let Some(client) = self.clients.get_mut(&rank) else { return actions };
        client.has_ended = true;
        if is_within {
            let how = "ended with code 0 after MPI_Init and without MPI_Finalize".to_owned();
            self.refuse(rank, &how, &mut actions);
        } else if !client.is_closed {
            self.check_barriers(&mut actions);
        }
        actions
    }

    /// Whether a rank of this node has ended with code 0 outside of the generation that another one is in, which may wait
    /// for it without saying so: in shared memory.
    pub fn misses_a_rank(&self) -> bool {
        !self.has_named_missing && self.missing().is_some()
    }

    /// Takes note that a rank has been missing for a time in which programs that do not need each other would be through.
    pub fn missed(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.misses_a_rank()
            && let Some((rank, waiting)) = self.missing()
        {
            self.name_missing(rank, waiting, &mut actions);
        }
        actions
    }

    /// A rank that is missing, and one that is within its generation.
    fn missing(&self) -> Option<(Rank, Rank)> {
        let within = |(_, client): &(&Rank, &Client)| client.phase == Phase::Within && !client.is_closed;
        let (waiting, generation) =
            self.clients.iter().find(within).map(|(rank, client)| (*rank, client.generation))?;
        let is_missing = |(_, client): &(&Rank, &Client)| client.has_ended && client.generation <= generation;
        let (rank, _) = self.clients.iter().find(is_missing)?;
        Some((*rank, waiting))
    }

    /// Handles the result of an allgather.
    pub fn gathered(&mut self, key: &GatherKey, blobs: &[(Rank, Vec<u8>)]) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(generation) = peers::generation_of(&key.id) else { return actions };
        let space = self.spaces.entry(generation).or_default();
        for (rank, blob) in blobs.iter().filter(|(rank, _)| !self.clients.contains_key(rank)) {
            let pairs = peers::pairs_of(blob).unwrap_or_default();
            if pairs.iter().any(|(name, value)| space.put(name, value).is_err()) {
                let how = "put more keys than a node of the job has room for".to_owned();
                actions.push(Action::Broke { rank: *rank, how });
            }
        }
        self.complete(key, &mut actions);
        actions
    }

    /// Answers the server of another node.
    ///
    /// # Errors
    ///
    /// A question that no server asks, as a lowercase fragment.
    pub fn asked(&mut self, body: &[u8]) -> Result<Vec<u8>, String> {
        let question = peers::decode(body).ok_or("this is no question for a PMI server")?;
        Ok(peers::encode(&self.find(&question)))
    }

    /// Handles the answer to [`Action::Ask`]; an error is one that could not be asked.
    pub fn answered(&mut self, token: u64, body: &Result<Vec<u8>, String>) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(mut ask) = self.asks.remove(&token) else { return actions };
        let answer: Answer = body.as_ref().ok().and_then(|body| peers::decode(body)).flatten();
        if answer.is_none()
            && let Some(node) = ask.nodes.pop()
        {
            self.ask(node, ask, &mut actions);
            return actions;
        }
        if let Some(client) = self.clients.get_mut(&ask.address.rank) {
            client.open_asks -= 1;
        }
        let refused = |why| answer.as_ref().map(|_| ()).ok_or(why);
        let reply = match &ask.question {
            Question::Key { .. } => Reply::Get(answer),
            Question::Lookup { .. } => Reply::Lookup(answer),
            Question::Publish { .. } => Reply::Publish(refused(PUBLISHED_ALREADY)),
            Question::Unpublish { .. } => Reply::Unpublish(refused(NOT_PUBLISHED)),
        };
        self.reply(&ask.address, &reply, &mut actions);
        actions
    }

    fn handle(&mut self, address: Address, request: Request, actions: &mut Vec<Action>) -> Result<(), Fault> {
        let client = self.clients.get_mut(&address.rank).expect("its message has just been read");
        let generation = client.generation;
        let space = self.spaces.entry(generation).or_default();
        let reply = match request {
            Request::Init { version, subversion } => {
                let known = if version == 2 { (2, 0) } else { (1, subversion.min(LAST_SUBVERSION)) };
                let is_known = matches!(version, 1 | 2);
                if is_known {
                    client.phase = if version == 2 { Phase::Greeted } else { Phase::Within };
                    client.has_initialised = true;
                }
                if version == 2 {
                    client.speak(Dialect::Pmi2);
                }
                Reply::Init { version: known.0, subversion: known.1, is_known }
            }
            Request::FullInit => {
                client.phase = Phase::Within;
                Reply::FullInit { rank: address.rank.0, size: self.world_size, app: client.app }
            }
            Request::Limits => Reply::Limits,
            Request::AppNumber => Reply::AppNumber(client.app),
            Request::SpaceName => Reply::SpaceName(self.space_name(generation)),
            Request::UniverseSize => Reply::UniverseSize(self.map.universe_size),
            Request::Put { key, value } => {
                let limit_bytes = blob_limit_bytes(self.world_size as usize) - BLOB_MARGIN_BYTES;
                Reply::Put(if !client.unsent.has_room_for(&key, &value, limit_bytes) {
                    Err("too_much_before_a_barrier")
                } else {
                    space.put(&key, &value).map(|()| client.unsent.put(key, value))
                })
            }
            Request::Get { key } => match self.known(generation, &key) {
                value @ Some(_) => Reply::Get(value),
                None if key.starts_with(RESERVED) => Reply::Get(None),
                None => {
                    let nodes = (0..self.map.nodes.len() as u32).map(NodeId);
                    let others = nodes.filter(|node| *node != self.node).collect();
                    return self.look(address, Question::Key { generation, key }, others, actions);
                }
            },
            Request::Barrier { group, tag } => return self.wait(address, group, tag, actions),
            Request::PutOnNode { key, value } => Reply::PutOnNode(match space.put_on_node(&key, &value) {
                Ok(served) => {
                    let reply = Reply::GetOnNode(Some(value));
                    served.iter().for_each(|waiting| self.reply(waiting, &reply, actions));
                    Ok(())
                }
                Err(reason) => Err(reason),
            }),
            Request::GetOnNode { key, waits } => {
                let value = space.value_on_node(&key).map(<[u8]>::to_vec);
                if value.is_none() && waits && space.wait_on_node(address.clone(), key) {
                    return Ok(());
                }
                Reply::GetOnNode(value)
            }
            Request::JobAttribute { key } => Reply::JobAttribute(self.job_attribute(&key)),
            Request::Publish { name, port } => {
                return self.at_name_keeper(address, Question::Publish { name, port }, actions);
            }
            Request::Unpublish { name } => {
                return self.at_name_keeper(address, Question::Unpublish { name }, actions);
            }
            Request::Lookup { name } => {
                return self.at_name_keeper(address, Question::Lookup { name }, actions);
            }
            Request::Finalize => {
                client.finalise();
                self.forget_left_generations();
                Reply::Finalize
            }
            Request::Abort { code, reason } => {
                client.is_closed = true;
                let reason = if reason.is_empty() { "by MPI_Abort".to_owned() } else { reason };
                actions.push(Action::Abort { rank: address.rank, code, reason });
                return Ok(());
            }
            Request::Other { name } => {
                actions
                    .push(Action::Note(address.rank, format!("asked PMI for `{name}`, which is not served")));
                Reply::Other { name }
            }
        };
        self.reply(&address, &reply, actions);
        Ok(())
    }

    /// Lets a rank wait for others.
    fn wait(
        &mut self,
        address: Address,
        group: Group,
        tag: Option<u32>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        let rank = address.rank;
        let local = self.clients.keys().copied();
        let participants = group.participants(rank, local, self.world_size).ok_or(Fault::Group)?;
        let client = self.clients.get_mut(&rank).expect("it is waiting");
        if client.open_barriers >= MAX_OPEN_GATHERS {
            return Err(Fault::TooManyBarriers { limit: MAX_OPEN_GATHERS });
        }
        client.open_barriers += 1;
        let key = client.next_barrier(participants, tag);
        let waiting = self.barriers.entry(key.clone()).or_default();
        waiting.push(address);
        let arrived = waiting.len();
        let local: Vec<Rank> =
            self.clients.keys().copied().filter(|rank| key.participants.contains(*rank)).collect();
        if arrived < local.len() {
            self.check_barriers(actions);
            return Ok(());
        }
        if local.len() == key.participants.count(self.world_size) {
            self.complete(&key, actions);
            return Ok(());
        }
        let blobs = local.into_iter().map(|rank| (rank, self.contribution(rank, &key))).collect();
        actions.push(Action::Gather { key, blobs });
        Ok(())
    }

    /// What a rank takes along to a barrier. Beyond one over some ranks there are those who have not seen it, so that it
    /// stays for the next one of the world.
    fn contribution(&mut self, rank: Rank, key: &GatherKey) -> Vec<u8> {
        let client = self.clients.get_mut(&rank).expect("it is one of this node's");
        let blob = peers::blob(client.unsent.pairs());
        if key.participants == Participants::World {
            client.unsent = Unsent::default();
        }
        blob
    }

    fn complete(&mut self, key: &GatherKey, actions: &mut Vec<Action>) {
        let tag = peers::tag_of(&key.id);
        for address in self.barriers.remove(key).unwrap_or_default() {
            if let Some(client) = self.clients.get_mut(&address.rank) {
                client.open_barriers -= 1;
            }
            self.reply(&address, &Reply::Barrier { tag }, actions);
        }
    }

    /// Names a rank of this node that has ended and that others of this node wait for.
    fn check_barriers(&mut self, actions: &mut Vec<Action>) {
        if self.has_named_missing {
            return;
        }
        let missing = self.barriers.iter().find_map(|(key, waiting)| {
            let has_arrived = |rank: Rank| waiting.iter().any(|address| address.rank == rank);
            let is_missing = |(rank, client): &(&Rank, &Client)| {
                client.has_ended && key.participants.contains(**rank) && !has_arrived(**rank)
            };
            let (rank, _) = self.clients.iter().find(is_missing)?;
            Some((*rank, waiting[0].rank))
        });
        if let Some((rank, waiting)) = missing {
            self.name_missing(rank, waiting, actions);
        }
    }

    fn name_missing(&mut self, rank: Rank, waiting: Rank, actions: &mut Vec<Action>) {
        self.has_named_missing = true;
        let how = match self.has_initialised(rank) {
            true => format!("ended with code 0 after MPI_Finalize, where rank {waiting} waits for it"),
            false => format!("ended with code 0 without MPI_Init, where rank {waiting} waits for it"),
        };
        actions.push(Action::Broke { rank, how });
    }

    fn at_name_keeper(
        &mut self,
        address: Address,
        question: Question,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        self.look(address, question, vec![NAME_KEEPER], actions)
    }

    /// Looks for something at these nodes, one after the other; at this one it is looked for at once.
    fn look(
        &mut self,
        address: Address,
        question: Question,
        mut nodes: Vec<NodeId>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        let token = self.next_token;
        let client = self.clients.get_mut(&address.rank).expect("it is asking");
        client.open_asks += 1;
        let has_room = client.open_asks <= MAX_OPEN_ASKS;
        let first = if has_room { nodes.pop() } else { None };
        let ask = Ask { address, question, nodes: if has_room { nodes } else { Vec::new() } };
        match first {
            Some(node) if node != self.node => self.ask(node, ask, actions),
            here => {
                let answer = here.and_then(|_| self.find(&ask.question));
                self.next_token += 1;
                self.asks.insert(token, ask);
                actions.extend(self.answered(token, &Ok(peers::encode(&answer))));
            }
        }
        Ok(())
    }

    fn ask(&mut self, node: NodeId, ask: Ask, actions: &mut Vec<Action>) {
        let token = self.next_token;
        self.next_token += 1;
        actions.push(Action::Ask { node, token, body: peers::encode(&ask.question) });
        self.asks.insert(token, ask);
    }

    fn find(&mut self, question: &Question) -> Answer {
        let done = || Some(Vec::new());
        match question {
            Question::Key { generation, key } => self.spaces.get(generation)?.value(key).map(<[u8]>::to_vec),
            Question::Publish { name, port } => {
                let has_room = self.names.len() < MAX_NAMES && name.len() + port.len() <= 2 * MAX_VALUE_BYTES;
                let is_new = has_room && !self.names.contains_key(name);
                is_new.then(|| drop(self.names.insert(name.clone(), port.clone()))).and_then(|()| done())
            }
            Question::Unpublish { name } => self.names.remove(name).and_then(|_| done()),
            Question::Lookup { name } => self.names.get(name).cloned(),
        }
    }

    fn known(&self, generation: u32, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.job_attribute(key) {
            return Some(value);
        }
        self.spaces.get(&generation)?.value(key).map(<[u8]>::to_vec)
    }

    /// What describes the job. Other keys of libraries' own that begin as these do may be missing.
    fn job_attribute(&self, key: &[u8]) -> Option<Vec<u8>> {
        match key {
            b"PMI_process_mapping" => self.process_mapping.clone().map(String::into_bytes),
            b"universeSize" => Some(self.map.universe_size.to_string().into_bytes()),
            _ => None,
        }
    }

    /// The name of a generation's keys: libraries name shared memory and sockets by it, so that it is another in each job.
    fn space_name(&self, generation: u32) -> String {
        format!("efarun-{}-{generation}", self.job)
    }

    fn forget_left_generations(&mut self) {
        let oldest = self.clients.values().map(|client| client.generation).min().unwrap_or(0);
        self.spaces = self.spaces.split_off(&oldest);
    }

    /// Answers a rank that is still listened to: one that was refused may have been waiting for a barrier.
    fn reply(&self, address: &Address, reply: &Reply, actions: &mut Vec<Action>) {
        if self.clients.get(&address.rank).is_none_or(|client| client.is_closed) {
            return;
        }
        let bytes = match address.dialect {
            Dialect::Pmi1 => pmi1::render(reply),
            Dialect::Pmi2 => pmi2::render(reply, address.thread.as_deref()),
        };
        actions.push(Action::Send(address.rank, bytes));
    }

    /// Listens to a rank no longer. If others may wait for it the job cannot go on.
    fn refuse(&mut self, rank: Rank, how: &str, actions: &mut Vec<Action>) {
        let is_within = self.is_within(rank);
        if let Some(client) = self.clients.get_mut(&rank) {
            client.is_closed = true;
        }
        let how = how.to_owned();
        actions.push(if is_within { Action::Broke { rank, how } } else { Action::Note(rank, how) });
        actions.push(Action::Close(rank));
    }
}

/// The newest PMI-1 that is spoken: 1.2 has barriers over some ranks.
const LAST_SUBVERSION: u32 = 2;
/// Keys that libraries ask launchers for: nobody puts one.
const RESERVED: &[u8] = b"PMI_";
const NAME_KEEPER: NodeId = NodeId(0);
const PUBLISHED_ALREADY: &str = "published_already";
const NOT_PUBLISHED: &str = "not_published";
const MAX_NAMES: usize = 4096;
/// What a rank may have others asked for at a time.
const MAX_OPEN_ASKS: usize = 16;
/// The count of pairs in front of a blob.
const BLOB_MARGIN_BYTES: usize = 16;
