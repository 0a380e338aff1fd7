//! The agent's part of a PMIx server: what libpmix on this node says to the nodes' other ones, by way of the job's
//! out-of-band layer. No I/O, no clock.
//!
//! - A fence is one allgather. A node's contribution is spread over its ranks, in order, so that it is bounded as the ranks'
//!   own would be; the result is the nodes' contributions, one behind the other, in the order of nodes.
//! - What a rank of another node tells about itself is asked of that node when somebody wants it.
//! - What is published is kept by node 0.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use efarun_wire::message::{GatherKey, JobMap, Participants, Target};
use efarun_wire::oob::{MAX_REQUEST_BYTES, blob_limit_bytes};
use efarun_wire::{NodeId, Rank};

use super::protocol::{Order, Published, Purpose, Report};

/// What the owner of a relay does next, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Order this from the helper.
    Order(Order),
    /// Contribute this to an allgather, for all its ranks that are on this node.
    Gather {
        /// Which allgather.
        key: GatherKey,
        /// One blob per rank, ascending.
        blobs: Vec<(Rank, Vec<u8>)>,
    },
    /// Ask the relay of another node. The answer goes to [`Relay::answered`].
    Ask {
        /// The other node.
        node: NodeId,
        /// Goes with the answer; see [`is_own_token`].
        token: u64,
        /// The question.
        body: Vec<u8>,
    },
    /// Answer a question that [`Relay::asked`] was given.
    Reply {
        /// Who had asked.
        to: Target,
        /// Theirs.
        token: u64,
        /// The answer.
        body: Result<Vec<u8>, String>,
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
    /// All that a rank has said to its server has been told.
    HeardOut(Rank),
}

/// The relay of one node.
#[derive(Debug)]
pub struct Relay {
    node: NodeId,
    map: JobMap,
    world_size: u32,
    states: BTreeMap<Rank, State>,
    fences: BTreeMap<GatherKey, u64>,
    counts: BTreeMap<(String, Participants), u32>,
    asks: BTreeMap<u64, Ask>,
    /// Questions that wait until fewer are open.
    unasked: VecDeque<Ask>,
    /// Whose cards the helper is looking for, by the tokens that it was given.
    asked_cards: BTreeMap<u64, (Target, u64)>,
    next_token: u64,
    names: BTreeMap<Vec<u8>, Published>,
    /// Who waits for names that are not published yet, on node 0.
    name_waits: Vec<NameWait>,
}

/// How far a rank is with PMIx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    Within,
    Left,
}

#[derive(Debug)]
struct Ask {
    node: NodeId,
    question: Question,
    /// The helper's token, under which it waits.
    for_token: u64,
}

#[derive(Debug)]
struct NameWait {
    who: Asker,
    keys: Vec<Vec<u8>>,
}

/// Who asks node 0 for names.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// The helper of node 0 itself, by its token.
    Here(u64),
    /// Another node.
    There(Target, u64),
}

/// What one relay asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Question {
    Card(Rank),
    Publish(Vec<Published>),
    Lookup { keys: Vec<Vec<u8>>, waits: bool },
    Unpublish(Vec<Vec<u8>>),
}

/// The answers, each to its question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Card(Option<Vec<u8>>),
    Done(bool),
    Found(Vec<Published>),
}

/// Says whether a token is a relay's: PMI's servers, which ask over the same links, never get so far.
pub fn is_own_token(token: u64) -> bool {
    token & OWN_TOKENS != 0
}

impl Relay {
    /// The relay of this node.
    pub fn new(node: NodeId, map: JobMap) -> Relay {
        let own = map.nodes.get(node.index()).map_or(&[][..], |node| &node.ranks);
        Relay {
            node,
            world_size: map.nodes.iter().map(|node| node.ranks.len() as u32).sum(),
            states: own.iter().map(|rank| (*rank, State::Outside)).collect(),
            map,
            fences: BTreeMap::new(),
            counts: BTreeMap::new(),
            asks: BTreeMap::new(),
            unasked: VecDeque::new(),
            asked_cards: BTreeMap::new(),
            next_token: OWN_TOKENS,
            names: BTreeMap::new(),
            name_waits: Vec::new(),
        }
    }

    /// Handles what the helper reports, once it serves.
    pub fn reported(&mut self, report: Report) -> Vec<Action> {
        let mut actions = Vec::new();
        match report {
            Report::Ready { .. } | Report::Unready { .. } => {}
            Report::Connected(rank) => self.enter(rank, State::Within),
            Report::Finalized(rank) => self.enter(rank, State::Left),
            Report::Aborted { rank, code, reason } => {
                let reason = if reason.is_empty() { "by MPI_Abort".to_owned() } else { one_line(&reason) };
                actions.push(Action::Abort { rank, code, reason });
            }
            Report::Fence { token, purpose, participants, blob } => {
                self.fence(token, purpose, participants, blob, &mut actions);
            }
            Report::WantCard { token, rank } => match self.node_of(rank) {
                Some(node) if node != self.node => self.ask(node, Question::Card(rank), token, &mut actions),
                _ => actions.push(Action::Order(Order::Card { token, blob: None })),
            },
            Report::Card { token, blob } => {
                if let Some((to, theirs)) = self.asked_cards.remove(&token) {
                    actions.push(reply(to, theirs, &Answer::Card(blob)));
                }
            }
            Report::Publish { token, values } => {
                self.at_name_keeper(Question::Publish(values), token, &mut actions)
            }
            Report::Lookup { token, keys, waits } => {
                self.at_name_keeper(Question::Lookup { keys, waits }, token, &mut actions);
            }
            Report::Unpublish { token, keys } => {
                self.at_name_keeper(Question::Unpublish(keys), token, &mut actions);
            }
            Report::HeardOut(rank) => actions.push(Action::HeardOut(rank)),
        }
        actions
    }

    /// Handles the result of an allgather.
    pub fn gathered(&mut self, key: &GatherKey, blobs: &[(Rank, Vec<u8>)]) -> Vec<Action> {
        let Some(token) = self.fences.remove(key) else { return Vec::new() };
        let by_rank: BTreeMap<Rank, &Vec<u8>> = blobs.iter().map(|(rank, blob)| (*rank, blob)).collect();
        let ranks = self.map.nodes.iter().flat_map(|node| ascending(&node.ranks));
        let blob =
            ranks.filter_map(|rank| by_rank.get(&rank)).flat_map(|blob| blob.iter().copied()).collect();
        vec![Action::Order(Order::Fenced { token, blob: Some(blob) })]
    }

    /// Handles a question of another node's relay.
    pub fn asked(&mut self, from: Target, token: u64, body: &[u8]) -> Vec<Action> {
        let Ok(question) = postcard::from_bytes(body) else {
            let body = Err("this is no question for a PMIx server".to_owned());
            return vec![Action::Reply { to: from, token, body }];
        };
        let mut actions = Vec::new();
        match question {
            Question::Card(rank) if self.states.contains_key(&rank) => {
                let own = self.new_token();
                self.asked_cards.insert(own, (from, token));
                actions.push(Action::Order(Order::FindCard { token: own, rank }));
            }
            Question::Card(_) => actions.push(reply(from, token, &Answer::Card(None))),
            question => self.keep_names(question, Asker::There(from, token), &mut actions),
        }
        actions
    }

    /// Handles the answer to [`Action::Ask`]; an error is one that could not be asked.
    pub fn answered(&mut self, token: u64, body: &Result<Vec<u8>, String>) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(ask) = self.asks.remove(&token) else { return actions };
        if let Some(next) = self.unasked.pop_front() {
            self.ask(next.node, next.question, next.for_token, &mut actions);
        }
        let token = ask.for_token;
        let answer = body.as_ref().ok().and_then(|body| postcard::from_bytes(body).ok());
        actions.push(Action::Order(match (ask.question, answer) {
            (Question::Card(_), Some(Answer::Card(blob))) => Order::Card { token, blob },
            (Question::Card(_), _) => Order::Card { token, blob: None },
            (Question::Lookup { .. }, Some(Answer::Found(values))) => Order::Found { token, values },
            (Question::Lookup { .. }, _) => Order::Found { token, values: Vec::new() },
            (_, answer) => Order::Done { token, is_done: matches!(answer, Some(Answer::Done(true))) },
        }));
        actions
    }

    /// Takes note that a rank's process has ended by itself with code 0, all that it said having been told.
    pub fn ended_well(&mut self, rank: Rank) -> Vec<Action> {
        if self.states.get(&rank) != Some(&State::Within) {
            return Vec::new();
        }
        let how = "ended with code 0 after MPI_Init and without MPI_Finalize".to_owned();
        vec![Action::Broke { rank, how }]
    }

    /// Takes note that the helper is gone, and how, as a fragment that fits "…, which …".
    pub fn lost(&mut self, how: &str) -> Vec<Action> {
        let within = self.states.iter().find(|(_, state)| **state == State::Within);
        let how = |rank| Action::Broke {
            rank,
            how: format!("has lost its PMIx server, a process of efarun's that {how}"),
        };
        within.map(|(rank, _)| how(*rank)).into_iter().collect()
    }

    /// Whether a rank has initialised PMIx, now or before.
    pub fn has_connected(&self, rank: Rank) -> bool {
        self.states.get(&rank).is_some_and(|state| *state != State::Outside)
    }

    fn enter(&mut self, rank: Rank, state: State) {
        if let Some(known) = self.states.get_mut(&rank) {
            *known = state;
        }
    }

    fn fence(
        &mut self,
        token: u64,
        purpose: Purpose,
        participants: Participants,
        blob: Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let local: BTreeSet<Rank> =
            self.states.keys().copied().filter(|rank| participants.contains(*rank)).collect();
        let limit_bytes = blob_limit_bytes(participants.count(self.world_size));
        let is_whole = match &participants {
            Participants::World => true,
            Participants::Ranks(ranks) => ranks.last().is_some_and(|rank| rank.0 < self.world_size),
        };
        if local.is_empty() || !is_whole || blob.len() > limit_bytes * local.len() {
            actions.push(Action::Order(Order::Fenced { token, blob: None }));
            return;
        }
        if local.len() == participants.count(self.world_size) {
            actions.push(Action::Order(Order::Fenced { token, blob: Some(blob) }));
            return;
        }
        let id = format!("{ID_PREFIX}{}", name_of(purpose));
        let count = self.counts.entry((id.clone(), participants.clone())).or_default();
        let key = GatherKey { id, epoch: *count, participants };
        *count += 1;
        self.fences.insert(key.clone(), token);
        let mut parts = blob.chunks(limit_bytes);
        let blobs = local.into_iter().map(|rank| (rank, parts.next().unwrap_or_default().to_vec())).collect();
        actions.push(Action::Gather { key, blobs });
    }

    fn node_of(&self, rank: Rank) -> Option<NodeId> {
        let found = self.map.nodes.iter().position(|node| node.ranks.contains(&rank))?;
        Some(NodeId(u32::try_from(found).expect("nodes are numbered by 32 bits")))
    }

    fn ask(&mut self, node: NodeId, question: Question, for_token: u64, actions: &mut Vec<Action>) {
        let ask = Ask { node, question, for_token };
        if self.asks.len() >= MAX_OPEN_ASKS {
            self.unasked.push_back(ask);
            return;
        }
        let token = self.new_token();
        let body = encode(&ask.question);
        self.asks.insert(token, ask);
        if body.len() > MAX_REQUEST_BYTES {
            actions.extend(self.answered(token, &Err("too long".to_owned())));
        } else {
            actions.push(Action::Ask { node, token, body });
        }
    }

    fn new_token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }

    fn at_name_keeper(&mut self, question: Question, token: u64, actions: &mut Vec<Action>) {
        if self.node == NAME_KEEPER {
            self.keep_names(question, Asker::Here(token), actions);
        } else {
            self.ask(NAME_KEEPER, question, token, actions);
        }
    }

    /// Answers questions about names, on node 0.
    fn keep_names(&mut self, question: Question, who: Asker, actions: &mut Vec<Action>) {
        let answer = match question {
            Question::Publish(values) => {
                let is_new = values.iter().all(|value| !self.names.contains_key(&value.key));
                let has_room = self.names.len() + values.len() <= MAX_NAMES;
                let is_done = is_new && has_room;
                if is_done {
                    self.names.extend(values.into_iter().map(|value| (value.key.clone(), value)));
                }
                tell(who, Answer::Done(is_done), actions);
                let waits = std::mem::take(&mut self.name_waits);
                for wait in waits {
                    self.look_up(wait, true, actions);
                }
                return;
            }
            Question::Unpublish(keys) if keys.is_empty() => Answer::Done(true),
            Question::Unpublish(keys) => {
                Answer::Done(keys.iter().all(|key| self.names.remove(key).is_some()))
            }
            Question::Lookup { keys, waits } => return self.look_up(NameWait { who, keys }, waits, actions),
            Question::Card(_) => Answer::Card(None),
        };
        tell(who, answer, actions);
    }

    fn look_up(&mut self, wait: NameWait, waits: bool, actions: &mut Vec<Action>) {
        let found: Vec<Published> = wait.keys.iter().filter_map(|key| self.names.get(key)).cloned().collect();
        if found.len() < wait.keys.len() && waits && self.name_waits.len() < MAX_NAMES {
            self.name_waits.push(wait);
        } else {
            tell(wait.who, Answer::Found(found), actions);
        }
    }
}

fn tell(who: Asker, answer: Answer, actions: &mut Vec<Action>) {
    actions.push(match (who, answer) {
        (Asker::There(to, token), answer) => reply(to, token, &answer),
        (Asker::Here(token), Answer::Found(values)) => Action::Order(Order::Found { token, values }),
        (Asker::Here(token), Answer::Done(is_done)) => Action::Order(Order::Done { token, is_done }),
        (Asker::Here(token), Answer::Card(blob)) => Action::Order(Order::Card { token, blob }),
    });
}

fn reply(to: Target, token: u64, answer: &Answer) -> Action {
    let body = encode(answer);
    let body = if body.len() <= MAX_REQUEST_BYTES { Ok(body) } else { Err("too long an answer".to_owned()) };
    Action::Reply { to, token, body }
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("these types can always be written")
}

fn ascending(ranks: &[Rank]) -> Vec<Rank> {
    let mut ranks = ranks.to_vec();
    ranks.sort_unstable();
    ranks
}

fn one_line(text: &str) -> String {
    text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn name_of(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Fence => "fence",
        Purpose::Connect => "connect",
        Purpose::Disconnect => "disconnect",
    }
}

/// What the ids of PMIx's allgathers begin with. No rank may contribute to one by itself.
pub const ID_PREFIX: &str = "pmix/";

const NAME_KEEPER: NodeId = NodeId(0);
const OWN_TOKENS: u64 = 1 << 63;
/// Fewer than a hub lets an asker have open: PMI's server asks by the same name.
const MAX_OPEN_ASKS: usize = 24;
/// Published names that are kept, and lookups that wait for some.
const MAX_NAMES: usize = 4096;
