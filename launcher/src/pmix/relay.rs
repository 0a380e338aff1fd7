//! The agent's part of a PMIx server: what libpmix on this node says to the nodes' other ones, by way of the job's
//! out-of-band layer. No I/O, no clock.
//!
//! - A fence is one allgather. A node's contribution is spread over its ranks, in order, so that it is bounded as the ranks'
//!   own would be; the result is the nodes' contributions, one behind the other, in the order of nodes.
//! - A group is one as well, in which each node proposes a number for it.
//! - What a rank of another node tells about itself is asked of that node when somebody wants it.
//! - An event goes to every other node with ranks as a question whose answer nobody waits for.
//! - What is published is kept by node 0.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use efarun_wire::message::{
    GatherKey, JobMap, OobDown, OobUp, Participants, SpawnOrder, SpawnedWorld, Target,
};
use efarun_wire::oob::{MAX_OPEN_GATHERS, blob_limit_bytes};
use efarun_wire::{NodeId, Rank};

use super::protocol::{Event, Group, Order, Published, Purpose, Report};
use crate::exchange::{self, Asks, Family, NAME_KEEPER, Names, Rounds};

/// What the owner of a relay does next, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Order this from the helper.
    Order(Order),
    /// Say this to the job's other relays, or to the head.
    Up(OobUp),
    /// Have a further world started. The answer goes to [`Relay::spawned`].
    Spawn(SpawnOrder),
    /// A rank does not do its part, so that the others cannot go on.
    Broke {
        /// The rank.
        rank: Rank,
        /// What it did, as a fragment that fits "rank 3 …".
        how: String,
    },
    /// Tell the user, one line.
    Note(String),
    /// All that a rank has said to its server has been told.
    HeardOut(Rank),
}

/// The relay of one node.
#[derive(Debug)]
pub struct Relay {
    node: NodeId,
    /// The ranks of each node, in all worlds.
    ranks: Vec<BTreeSet<Rank>>,
    /// How many ranks the world has that the job began with.
    first_size: u32,
    /// How many ranks there are in all worlds.
    rank_count: u32,
    states: BTreeMap<Rank, State>,
    /// What the nodes meet for, with the helper's token.
    fences: BTreeMap<GatherKey, (u64, Meeting)>,
    /// How many groups this node has named.
    group_count: u32,
    /// An event could not be passed on, which is said once.
    has_lost_event: bool,
    rounds: Rounds,
    asks: Asks<Ask>,
    /// Whose cards the helper is looking for, and for whom, by the tokens that it was given.
    asked_cards: BTreeMap<u64, (Rank, Target, u64)>,
    /// Ranks whose processes have ended with code 0.
    ended: BTreeSet<Rank>,
    /// What ranks called and is not served, as far as it has been said.
    said_not_served: BTreeSet<String>,
    /// The helper's tokens of the worlds that its ranks have asked for, by those of the orders.
    spawns: BTreeMap<u64, u64>,
    /// What is published, on the node that keeps it.
    names: Names<Published>,
    /// Who waits there for what is not published yet.
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
    subject: Subject,
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

/// What nodes meet for, which says what they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meeting {
    Fence,
    Group,
}

/// What a question is about, which says what no answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Card,
    Lookup,
    Deed,
    Event,
}

/// What one relay asks another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Question {
    Card(Rank),
    Publish(Vec<Published>),
    Lookup {
        keys: Vec<Vec<u8>>,
        waits: bool,
    },
    /// Tell it to the node's ranks.
    Event(Event),
    /// No keys are all of the rank's.
    Unpublish {
        rank: Rank,
        keys: Vec<Vec<u8>>,
    },
}

/// The answers, each to its question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Card(Option<Vec<u8>>),
    Done(bool),
    Found(Vec<Published>),
}

impl Relay {
    /// The relay of this node.
    pub fn new(node: NodeId, map: &JobMap) -> Relay {
        let mut relay = Relay {
            node,
            ranks: Vec::new(),
            first_size: map.size(),
            rank_count: 0,
            states: BTreeMap::new(),
            fences: BTreeMap::new(),
            group_count: 0,
            has_lost_event: false,
            rounds: Rounds::default(),
            asks: Asks::new(node, Family::Pmix),
            asked_cards: BTreeMap::new(),
            ended: BTreeSet::new(),
            said_not_served: BTreeSet::new(),
            names: Names::new(),
            spawns: BTreeMap::new(),
            name_waits: Vec::new(),
        };
        relay.admit(map);
        relay
    }

    /// Takes note of a further world.
    pub fn admit(&mut self, map: &JobMap) {
        self.ranks.resize(map.nodes.len().max(self.ranks.len()), BTreeSet::new());
        for (known, node) in self.ranks.iter_mut().zip(&map.nodes) {
            known.extend(&node.ranks);
        }
        self.rank_count = self.rank_count.max(map.first_rank.0 + map.size());
        let own = map.nodes.get(self.node.index()).map_or(&[][..], |node| &node.ranks);
        self.states.extend(own.iter().map(|rank| (*rank, State::Outside)));
    }

    /// Handles the answer to [`Action::Spawn`].
    pub fn spawned(&mut self, token: u64, outcome: &Result<SpawnedWorld, String>) -> Vec<Action> {
        let world = outcome.as_ref().ok().map(|spawned| spawned.world);
        let order = |token| Action::Order(Order::Spawned { token, world });
        self.spawns.remove(&token).map(order).into_iter().collect()
    }

    /// Handles what the helper reports, once it serves.
    pub fn reported(&mut self, report: Report) -> Vec<Action> {
        let mut actions = Vec::new();
        match report {
            Report::Ready { .. } | Report::Unready { .. } | Report::Registered { .. } => {}
            // What a helper says of other nodes' ranks is nothing to anybody.
            Report::Aborted { rank, .. } if !self.states.contains_key(&rank) => {}
            Report::Spawn { token, rank, .. } if !self.states.contains_key(&rank) => {
                actions.push(Action::Order(Order::Spawned { token, world: None }));
            }
            Report::Spawn { token, rank, programs } => {
                let own = self.asks.new_token();
                self.spawns.insert(own, token);
                let order = SpawnOrder { by: rank, token: own, programs, keys: Vec::new() };
                actions.push(Action::Spawn(order));
            }
            Report::Connected(rank) => self.enter(rank, State::Within),
            Report::Finalized(rank) => self.enter(rank, State::Left),
            Report::NotServed { call } => {
                let call = one_line(&call.chars().take(LONGEST_NAME).collect::<String>());
                if self.said_not_served.len() < MAX_NOTES && self.said_not_served.insert(call.clone()) {
                    actions.push(Action::Note(format!("a rank called {call}, which is not served here")));
                }
            }
            Report::Aborted { rank, code, reason } => {
                let reason = if reason.is_empty() { "by MPI_Abort".to_owned() } else { one_line(&reason) };
                actions.push(Action::Up(OobUp::Abort { rank, code, reason }));
            }
            Report::Fence { token, purpose, participants, blob } => {
                self.fence(token, purpose, participants, blob, &mut actions);
            }
            Report::WantCard { token, rank } => match self.node_of(rank) {
                Some(node) if node != self.node => self.ask(node, &Question::Card(rank), token, &mut actions),
                _ => actions.push(Action::Order(Order::Card { token, blob: None })),
            },
            Report::Card { token, blob } => {
                if let Some((_, to, theirs)) = self.asked_cards.remove(&token) {
                    actions.push(Action::Up(exchange::reply(to, theirs, &Answer::Card(blob))));
                }
            }
            Report::Publish { token, values } => {
                self.at_name_keeper(Question::Publish(values), token, &mut actions)
            }
            Report::Lookup { token, keys, waits } => {
                self.at_name_keeper(Question::Lookup { keys, waits }, token, &mut actions);
            }
            Report::Unpublish { token, rank, keys } => {
                self.at_name_keeper(Question::Unpublish { rank, keys }, token, &mut actions);
            }
            Report::Notify(event) if self.states.contains_key(&event.source) => {
                self.spread(event, &mut actions)
            }
            Report::Notify(_) => {}
            Report::Group { token, name, is_over, participants, blob } => {
                self.group(token, &name, is_over, participants, &blob, &mut actions);
            }
            Report::Unresponsive { seconds } => {
                let awaits = |(rank, state): &(&Rank, &State)| {
                    **state == State::Within || **state == State::Outside && !self.ended.contains(rank)
                };
                // Whose first words it stands still over is not within yet.
                if let Some((rank, _)) = self.states.iter().find(awaits) {
                    let how = format!(
                        "has no answer from its PMIx server, in which libpmix has stood still for {seconds} s: a rank that stops \
                         within a message to it does that"
                    );
                    actions.push(Action::Broke { rank: *rank, how });
                }
            }
            Report::HeardOut(rank) => actions.push(Action::HeardOut(rank)),
        }
        actions
    }

    /// Handles what the head passes on.
    ///
    /// # Errors
    ///
    /// Gives back what is not for this relay.
    pub fn hear(&mut self, down: OobDown) -> Result<Vec<Action>, OobDown> {
        if !exchange::is_for(&down, self.node, Family::Pmix) {
            return Err(down);
        }
        Ok(match down {
            OobDown::Gathered { key, blobs } => self.gathered(&key, &blobs),
            OobDown::Request { from, token, body, .. } => self.asked(from, token, &body),
            OobDown::Reply { token, body, .. } => self.answered(token, &body),
            OobDown::Event(_) => Vec::new(),
        })
    }

    fn gathered(&mut self, key: &GatherKey, blobs: &[(Rank, Vec<u8>)]) -> Vec<Action> {
        let Some((token, meeting)) = self.fences.remove(key) else { return Vec::new() };
        let by_rank: BTreeMap<Rank, &[u8]> = blobs.iter().map(|(rank, blob)| (*rank, &blob[..])).collect();
        let of_node = |ranks: &BTreeSet<Rank>| {
            let blobs: Vec<&[u8]> = ranks.iter().filter_map(|rank| by_rank.get(rank).copied()).collect();
            (!blobs.is_empty()).then(|| blobs.concat())
        };
        let contributions: Vec<Vec<u8>> = self.ranks.iter().filter_map(of_node).collect();
        vec![met(token, meeting, Some(&contributions))]
    }

    fn asked(&mut self, from: Target, token: u64, body: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        match exchange::decode(body) {
            Some(Question::Card(rank)) if self.may_have_card(rank) => {
                let own = self.asks.new_token();
                self.asked_cards.insert(own, (rank, from, token));
                actions.push(Action::Order(Order::FindCard { token: own, rank }));
            }
            Some(Question::Card(_)) => {
                actions.push(Action::Up(exchange::reply(from, token, &Answer::Card(None))))
            }
            Some(Question::Event(event)) => {
                actions.push(Action::Order(Order::Notify(event)));
                actions.push(Action::Up(exchange::reply(from, token, &Answer::Done(true))));
            }
            Some(question) => self.keep_names(question, Asker::There(from, token), &mut actions),
            None => {
                let body = Err("this is no question for a PMIx server".to_owned());
                actions.push(Action::Up(OobUp::Reply { to: from, token, body }));
            }
        }
        actions
    }

    /// An error is a question that could not be asked.
    fn answered(&mut self, token: u64, body: &Result<Vec<u8>, String>) -> Vec<Action> {
        let Some((ask, next)) = self.asks.answered(token) else { return Vec::new() };
        let mut actions: Vec<Action> = next.map(Action::Up).into_iter().collect();
        let answer = body.as_ref().ok().and_then(|body| exchange::decode(body));
        actions.extend(told(&ask, answer));
        actions
    }

    /// Takes note that a rank's process has ended by itself with code 0, all that it said having been told.
    pub fn ended_well(&mut self, rank: Rank) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.states.contains_key(&rank) {
            self.ended.insert(rank);
        }
        // libpmix, which has been heard out, would go on waiting for what nobody will tell it any more.
        self.asked_cards.retain(|_, (of, to, token)| {
            if *of == rank {
                actions.push(Action::Up(exchange::reply(*to, *token, &Answer::Card(None))));
            }
            *of != rank
        });
        if self.states.get(&rank) == Some(&State::Within) {
            let how = "ended with code 0 after MPI_Init and without MPI_Finalize".to_owned();
            actions.push(Action::Broke { rank, how });
        }
        actions
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

    /// Whether there is any sense in looking for a rank's card: what one that came to PMIx has said outlives it.
    fn may_have_card(&self, rank: Rank) -> bool {
        self.states.contains_key(&rank) && (self.has_connected(rank) || !self.ended.contains(&rank))
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
        let id = format!("{}{}", Family::Pmix.id_prefix(), name_of(purpose));
        self.meet((token, Meeting::Fence), id, participants, blob, actions);
    }

    /// Makes a group with the other nodes of its members, or undoes it. Each proposes a number, and the first node's is
    /// taken.
    fn group(
        &mut self,
        token: u64,
        name: &[u8],
        is_over: bool,
        participants: Participants,
        blob: &[u8],
        actions: &mut Vec<Action>,
    ) {
        if self.rounds.len() >= MAX_ROUNDS {
            actions.push(met(token, Meeting::Group, None));
            return;
        }
        // A name may be longer than an allgather's.
        let deed = if is_over { "ungroup" } else { "group" };
        let id = format!("{}{deed}/{}", Family::Pmix.id_prefix(), blake3::hash(name).to_hex());
        self.group_count = self.group_count.wrapping_add(1);
        let number = (u64::from(self.node.0) + 1) << 32 | u64::from(self.group_count);
        let blob = [&number.to_le_bytes()[..], blob].concat();
        self.meet((token, Meeting::Group), id, participants, blob, actions);
    }

    /// Tells the job's other nodes of an event.
    fn spread(&mut self, event: Event, actions: &mut Vec<Action>) {
        let (rank, code) = (event.source, event.code);
        let has_ranks = |(node, ranks): &(u32, &BTreeSet<Rank>)| !ranks.is_empty() && *node != self.node.0;
        let others: Vec<u32> = (0..).zip(&self.ranks).filter(has_ranks).map(|(node, _)| node).collect();
        let body = exchange::encode(&Question::Event(event));
        for node in others {
            match self.asks.ask(NodeId(node), body.clone(), Ask { subject: Subject::Event, for_token: 0 }) {
                Ok(said) => actions.extend(said.map(Action::Up)),
                Err(_) if self.has_lost_event => {}
                Err(_) => {
                    self.has_lost_event = true;
                    actions.push(Action::Note(format!(
                        "rank {rank} tells of PMIx events faster than they go to node {node}, which does not hear of all \
                         (the first that is lost has code {code}): let it tell of fewer"
                    )));
                }
            }
        }
    }

    fn meet(
        &mut self,
        (token, meeting): (u64, Meeting),
        id: String,
        participants: Participants,
        blob: Vec<u8>,
        actions: &mut Vec<Action>,
    ) {
        let takes_part = |rank: &Rank| participants.contains(*rank, self.first_size);
        let local: BTreeSet<Rank> = self.states.keys().copied().filter(takes_part).collect();
        let limit_bytes = blob_limit_bytes(participants.count(self.first_size));
        let is_whole = match &participants {
            Participants::World => true,
            Participants::Ranks(ranks) => {
                ranks.is_sorted_by(|a, b| a < b) && ranks.last().is_some_and(|rank| rank.0 < self.rank_count)
            }
        };
        let open_count = |rank: &Rank| {
            self.fences.keys().filter(|key| key.participants.contains(*rank, self.first_size)).count()
        };
        // The head lets no rank take part in more at a time.
        let has_room = local.iter().all(|rank| open_count(rank) < MAX_OPEN_GATHERS);
        if local.is_empty() || !is_whole || !has_room || blob.len() > limit_bytes * local.len() {
            actions.push(met(token, meeting, None));
            return;
        }
        if local.len() == participants.count(self.first_size) {
            actions.push(met(token, meeting, Some(&[blob])));
            return;
        }
        let key = self.rounds.next(id, participants);
        self.fences.insert(key.clone(), (token, meeting));
        let mut parts = blob.chunks(limit_bytes);
        let blobs = local.into_iter().map(|rank| (rank, parts.next().unwrap_or_default().to_vec())).collect();
        actions.push(Action::Up(OobUp::Gather { key, blobs }));
    }

    fn node_of(&self, rank: Rank) -> Option<NodeId> {
        let found = self.ranks.iter().position(|ranks| ranks.contains(&rank))?;
        Some(NodeId(u32::try_from(found).expect("nodes are numbered by 32 bits")))
    }

    fn ask(&mut self, node: NodeId, question: &Question, for_token: u64, actions: &mut Vec<Action>) {
        let subject = match question {
            Question::Card(_) => Subject::Card,
            Question::Lookup { .. } => Subject::Lookup,
            Question::Publish(_) | Question::Unpublish { .. } => Subject::Deed,
            Question::Event(_) => Subject::Event,
        };
        match self.asks.ask(node, exchange::encode(question), Ask { subject, for_token }) {
            Ok(said) => actions.extend(said.map(Action::Up)),
            Err(unasked) => actions.extend(told(&unasked, None)),
        }
    }

    fn at_name_keeper(&mut self, question: Question, token: u64, actions: &mut Vec<Action>) {
        if self.node == NAME_KEEPER {
            self.keep_names(question, Asker::Here(token), actions);
        } else {
            self.ask(NAME_KEEPER, &question, token, actions);
        }
    }

    /// Answers questions about names, on node 0.
    fn keep_names(&mut self, question: Question, who: Asker, actions: &mut Vec<Action>) {
        let answer = match question {
            Question::Publish(values) if values.iter().any(Published::is_too_long) => Answer::Done(false),
            Question::Publish(values) => {
                let values = values.into_iter().map(|value| (value.key.clone(), value)).collect();
                let is_done = self.names.publish(values);
                tell(who, Answer::Done(is_done), actions);
                let waits = std::mem::take(&mut self.name_waits);
                for wait in waits {
                    self.look_up(wait, true, actions);
                }
                return;
            }
            Question::Unpublish { rank, keys } if keys.is_empty() => {
                self.names.forget(|value| value.rank == rank);
                Answer::Done(true)
            }
            Question::Unpublish { keys, .. } => Answer::Done(self.names.unpublish(&keys)),
            Question::Lookup { keys, waits } => return self.look_up(NameWait { who, keys }, waits, actions),
            Question::Card(_) => Answer::Card(None),
            Question::Event(_) => Answer::Done(false),
        };
        tell(who, answer, actions);
    }

    fn look_up(&mut self, wait: NameWait, waits: bool, actions: &mut Vec<Action>) {
        let found = self.names.find(&wait.keys);
        if found.len() < wait.keys.len() && waits && self.name_waits.len() < MAX_WAITS {
            self.name_waits.push(wait);
        } else {
            tell(wait.who, Answer::Found(found), actions);
        }
    }
}

fn tell(who: Asker, answer: Answer, actions: &mut Vec<Action>) {
    actions.push(match (who, answer) {
        (Asker::There(to, token), answer) => Action::Up(exchange::reply(to, token, &answer)),
        (Asker::Here(token), Answer::Found(values)) => Action::Order(Order::Found { token, values }),
        (Asker::Here(token), Answer::Done(is_done)) => Action::Order(Order::Done { token, is_done }),
        (Asker::Here(token), Answer::Card(blob)) => Action::Order(Order::Card { token, blob }),
    });
}

/// What the helper is told of what the nodes met for, by their contributions; nothing where they could not meet.
fn met(token: u64, meeting: Meeting, contributions: Option<&[Vec<u8>]>) -> Action {
    Action::Order(match meeting {
        Meeting::Fence => Order::Fenced { token, blob: contributions.map(<[Vec<u8>]>::concat) },
        Meeting::Group => Order::Grouped { token, group: contributions.and_then(group_of) },
    })
}

/// What nodes have made together, each of whose contributions begins with the number that it proposes.
fn group_of(contributions: &[Vec<u8>]) -> Option<Group> {
    let parts: Option<Vec<_>> = contributions.iter().map(|part| part.split_first_chunk::<8>()).collect();
    let parts = parts?;
    let id = u64::from_le_bytes(*parts.first()?.0);
    Some(Group { id, blob: parts.iter().flat_map(|(_, blob)| blob.iter().copied()).collect() })
}

/// What the helper is told of an answer, or of there being none; nothing where it does not wait.
fn told(ask: &Ask, answer: Option<Answer>) -> Option<Action> {
    let token = ask.for_token;
    let order = match (ask.subject, answer) {
        (Subject::Card, Some(Answer::Card(blob))) => Order::Card { token, blob },
        (Subject::Card, _) => Order::Card { token, blob: None },
        (Subject::Lookup, Some(Answer::Found(values))) => Order::Found { token, values },
        (Subject::Lookup, _) => Order::Found { token, values: Vec::new() },
        (Subject::Deed, answer) => Order::Done { token, is_done: answer == Some(Answer::Done(true)) },
        (Subject::Event, _) => return None,
    };
    Some(Action::Order(order))
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

const LONGEST_NAME: usize = 100;
const MAX_NOTES: usize = 16;
/// Kinds of meetings that are counted: a group's name makes one.
const MAX_ROUNDS: usize = 16_384;
/// Lookups that wait for what is not published.
const MAX_WAITS: usize = 4096;
