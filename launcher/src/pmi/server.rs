use std::collections::{BTreeMap, BTreeSet};

use efarun_wire::message::{GatherKey, JobMap, OobUp, SpawnOrder};
use efarun_wire::oob::blob_limit_bytes;
use efarun_wire::{JobId, NodeId, Rank};

use super::client::{Client, Phase};
use super::greeting::welcome;
use super::keys::{KeySpace, MAX_VALUE_BYTES};
use super::peers::{Ask, Generation, Question};
use super::process_mapping::process_mapping;
use super::request::{Address, Dialect, Fault, Reply, Request};
use super::{pmi1, pmi2};
use crate::exchange::{Asks, Family, Names};

/// What the owner of a server does next, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write these bytes to a rank's socket.
    Send(Rank, Vec<u8>),
    /// Say this to the job's other servers, or to the head.
    Up(OobUp),
    /// A rank does not do its part, so that the others cannot go on.
    Broke {
        /// The rank.
        rank: Rank,
        /// What it did, as a fragment that fits "rank 3 …".
        how: String,
    },
    /// Have a further world started. The answer goes to [`Server::spawned`].
    Spawn(SpawnOrder),
    /// Close a rank's socket.
    Close(Rank),
    /// Tell the user, as a fragment that fits "rank 3 …".
    Note(Rank, String),
}

/// The PMI server of one node.
#[derive(Debug)]
pub struct Server {
    job: JobId,
    pub(super) node: NodeId,
    /// By their numbers.
    pub(super) worlds: BTreeMap<u32, World>,
    /// How many ranks the world has that the job began with.
    pub(super) first_size: u32,
    pub(super) clients: BTreeMap<Rank, Client>,
    pub(super) spaces: BTreeMap<Generation, KeySpace>,
    pub(super) barriers: BTreeMap<GatherKey, Vec<Address>>,
    pub(super) asks: Asks<Ask>,
    /// Who waits for the worlds that were asked for, by the tokens of the orders.
    pub(super) spawns: BTreeMap<u64, Address>,
    /// Published names, on the node that keeps them.
    pub(super) names: Names<Vec<u8>>,
    /// A rank that others wait for in vain has been named.
    pub(super) has_named_missing: bool,
    /// What ranks asked for and is not served, as far as it has been said.
    said_not_served: BTreeSet<String>,
}

/// A world of the job.
#[derive(Debug)]
pub(super) struct World {
    pub(super) map: JobMap,
    process_mapping: Option<String>,
}

impl World {
    pub(super) fn new(map: JobMap) -> World {
        World { process_mapping: process_mapping(&map, MAX_VALUE_BYTES), map }
    }
}

impl Server {
    /// The server of this node, with these ranks, each with the number of its program among the job's.
    pub fn new(
        job: JobId,
        node: NodeId,
        map: JobMap,
        ranks: impl IntoIterator<Item = (Rank, u32)>,
    ) -> Server {
        Server {
            job,
            node,
            first_size: map.size(),
            clients: ranks.into_iter().map(|(rank, app)| (rank, Client::new(map.world, app))).collect(),
            worlds: BTreeMap::from([(map.world, World::new(map))]),
            spaces: BTreeMap::new(),
            barriers: BTreeMap::new(),
            asks: Asks::new(node, Family::Pmi),
            spawns: BTreeMap::new(),
            names: Names::new(),
            has_named_missing: false,
            said_not_served: BTreeSet::new(),
        }
    }

    /// What a rank is told first that came by the port, and not over a descriptor.
    pub fn welcome(&self, rank: Rank) -> Vec<u8> {
        let client = self.clients.get(&rank);
        let map = client.and_then(|client| self.worlds.get(&client.generation.world)).map(|world| &world.map);
        let place = map.and_then(|map| Some((map.within(rank)?, map.size())));
        place.map(|(within, size)| welcome(within, size)).unwrap_or_default()
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
                let map = &self.worlds[&generation.world].map;
                let rank = map.within(address.rank).unwrap_or_default();
                Reply::FullInit { rank, size: map.size(), app: client.app }
            }
            Request::Limits => Reply::Limits,
            Request::AppNumber => Reply::AppNumber(client.app),
            Request::SpaceName => Reply::SpaceName(self.space_name(generation)),
            Request::UniverseSize => Reply::UniverseSize(self.worlds[&generation.world].map.universe_size),
            Request::Put { key, value } => {
                let world_size = self.worlds[&generation.world].map.size();
                let limit_bytes = blob_limit_bytes(world_size as usize) - BLOB_MARGIN_BYTES;
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
                    let nodes = (0..self.worlds[&generation.world].map.nodes.len() as u32).map(NodeId);
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
            Request::JobAttribute { key } => Reply::JobAttribute(self.job_attribute(generation.world, &key)),
            Request::Publish { name, port } => {
                return self.at_name_keeper(address, Question::Publish { name, port }, actions);
            }
            Request::Unpublish { name } => {
                return self.at_name_keeper(address, Question::Unpublish { name }, actions);
            }
            Request::Lookup { name } => {
                return self.at_name_keeper(address, Question::Lookup { name }, actions);
            }
            Request::Spawn(part) => return self.spawn(address, part, actions),
            Request::Finalize => {
                client.finalise();
                self.forget_left_generations();
                Reply::Finalize
            }
            Request::Abort { code, reason } => {
                client.is_closed = true;
                let reason = if reason.is_empty() { "by MPI_Abort".to_owned() } else { reason };
                actions.push(Action::Up(OobUp::Abort { rank: address.rank, code, reason }));
                return Ok(());
            }
            Request::Other { name } => {
                if self.said_not_served.len() < MAX_NOTES && self.said_not_served.insert(name.clone()) {
                    let what = format!("asked PMI for `{name}`, which is not served");
                    actions.push(Action::Note(address.rank, what));
                }
                Reply::Other { name }
            }
        };
        self.reply(&address, &reply, actions);
        Ok(())
    }

    fn known(&self, generation: Generation, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.job_attribute(generation.world, key) {
            return Some(value);
        }
        self.spaces.get(&generation)?.value(key).map(<[u8]>::to_vec)
    }

    /// What describes the job. Other keys of libraries' own that begin as these do may be missing.
    fn job_attribute(&self, world: u32, key: &[u8]) -> Option<Vec<u8>> {
        let world = &self.worlds[&world];
        match key {
            b"PMI_process_mapping" => world.process_mapping.clone().map(String::into_bytes),
            b"universeSize" => Some(world.map.universe_size.to_string().into_bytes()),
            _ => None,
        }
    }

    /// The name of a generation's keys: libraries name shared memory and sockets by it, so that it is another in each job.
    pub(super) fn space_name(&self, Generation { world, number }: Generation) -> String {
        match world {
            0 => format!("efarun-{}-{number}", self.job),
            _ => format!("efarun-{}-w{world}-{number}", self.job),
        }
    }

    /// The names that there have been.
    pub fn space_names(&self) -> Vec<String> {
        let of = |client: &Client| {
            let Generation { world, number } = client.generation;
            (0..=number).map(move |number| Generation { world, number })
        };
        let generations: BTreeSet<Generation> = self.clients.values().flat_map(of).collect();
        generations.into_iter().map(|generation| self.space_name(generation)).collect()
    }

    fn forget_left_generations(&mut self) {
        let clients = &self.clients;
        self.spaces.retain(|space, _| {
            let mut of_world = clients.values().filter(|client| client.generation.world == space.world);
            of_world.any(|client| client.generation <= *space)
        });
    }

    /// Answers a rank that is still listened to: one that was refused may have been waiting for a barrier.
    pub(super) fn reply(&self, address: &Address, reply: &Reply, actions: &mut Vec<Action>) {
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
    pub(super) fn refuse(&mut self, rank: Rank, how: &str, actions: &mut Vec<Action>) {
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
/// The count of pairs in front of a blob.
const BLOB_MARGIN_BYTES: usize = 16;
/// How many things that are not served are named.
const MAX_NOTES: usize = 16;
