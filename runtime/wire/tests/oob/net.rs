//! A job without processes: one hub per agent, one for the head, one client per rank, and a queue for each direction
//! of each link. Nothing moves until the test says which queue is next.

use std::collections::{BTreeMap, VecDeque};

use efarun_wire::message::{EventKind, OobDown, OobUp, Participants, Target};
use efarun_wire::oob::{Action, Client, ClientEvent, Member, RelayHub, RootHub};
use efarun_wire::{NodeId, Rank};

/// Where the ranks of a job are.
#[derive(Debug, Clone)]
pub(crate) enum Topology {
    /// Under the launcher: the node of each rank.
    Nodes(Vec<u32>),
    /// Without one: so many ranks, linked to the root itself.
    Server(u32),
}

impl Topology {
    pub(crate) fn world_size(&self) -> u32 {
        match self {
            Topology::Nodes(node_of) => node_of.len() as u32,
            Topology::Server(world_size) => *world_size,
        }
    }

    pub(crate) fn ranks_of(&self, node: u32) -> Vec<Rank> {
        match self {
            Topology::Nodes(node_of) => {
                (0..self.world_size()).filter(|rank| node_of[*rank as usize] == node).map(Rank).collect()
            }
            Topology::Server(_) => Vec::new(),
        }
    }

    pub(crate) fn node_count(&self) -> u32 {
        match self {
            Topology::Nodes(node_of) => node_of.iter().max().map_or(0, |node| node + 1),
            Topology::Server(_) => 0,
        }
    }
}

/// One direction of one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Queue {
    FromMember(Member),
    ToMember(Member),
}

#[derive(Debug)]
enum Packet {
    Up(OobUp),
    Down(OobDown),
}

pub(crate) struct Net {
    topology: Topology,
    pub(crate) head: RootHub,
    pub(crate) agents: Vec<RelayHub>,
    pub(crate) clients: Vec<Client>,
    queues: BTreeMap<Queue, VecDeque<Packet>>,
    /// What each rank learned, in order.
    pub(crate) learned: Vec<Vec<ClientEvent>>,
    /// What was left to the owners of hubs, in order, but for requests, which are answered at once.
    pub(crate) owned: Vec<(Target, Action)>,
    /// A rank that may be refused; whatever it sends, nothing else may.
    pub(crate) hostile: Option<Rank>,
}

impl Net {
    /// A job whose agents are linked and whose ranks have yet to join.
    pub(crate) fn new(topology: Topology) -> Net {
        let world_size = topology.world_size();
        let nodes: Vec<u32> = (0..topology.node_count()).collect();
        let mut head = match &topology {
            Topology::Nodes(_) => {
                RootHub::for_head(nodes.iter().map(|node| (NodeId(*node), topology.ranks_of(*node))))
            }
            Topology::Server(_) => RootHub::for_server(world_size),
        };
        for node in &nodes {
            assert_eq!(head.member_joined(Member::Node(NodeId(*node))), Ok(Vec::new()));
        }
        let agent = |node: &u32| RelayHub::for_agent(NodeId(*node), topology.ranks_of(*node), world_size);
        let agents = nodes.iter().map(agent).collect();
        let clients = (0..world_size).map(|rank| Client::new(Rank(rank), world_size)).collect();
        let learned = vec![Vec::new(); world_size as usize];
        Net {
            topology,
            head,
            agents,
            clients,
            queues: BTreeMap::new(),
            learned,
            owned: Vec::new(),
            hostile: None,
        }
    }

    /// A job in which everybody has joined.
    pub(crate) fn joined(topology: Topology) -> Net {
        let mut net = Net::new(topology);
        (0..net.topology.world_size()).for_each(|rank| net.join(Rank(rank)));
        net
    }

    pub(crate) fn join(&mut self, rank: Rank) {
        let hub = self.hub_of(rank);
        let actions = match hub {
            Target::Node(node) => self.agents[node.index()].member_joined(Member::Rank(rank)),
            _ => self.head.member_joined(Member::Rank(rank)),
        };
        self.carry_out(hub, actions.expect("a rank joins once"));
    }

    pub(crate) fn send(&mut self, rank: Rank, message: OobUp) {
        self.push(Queue::FromMember(Member::Rank(rank)), Packet::Up(message));
    }

    pub(crate) fn gather(&mut self, rank: Rank, id: &str, participants: &Participants, blob: &[u8]) {
        let (_, message) = self.clients[rank.index()]
            .gather(id, participants.clone(), blob.to_vec())
            .expect("the call is right");
        self.send(rank, message);
    }

    pub(crate) fn request(&mut self, rank: Rank, to: Target, body: &[u8]) -> u64 {
        let (token, message) =
            self.clients[rank.index()].request(to, body.to_vec()).expect("the call is right");
        self.send(rank, message);
        token
    }

    pub(crate) fn publish(&mut self, kind: EventKind) {
        let actions = self.head.publish(kind);
        self.carry_out(Target::Head, actions);
    }

    /// Ends a rank's process: what it had sent and not delivered is lost with it. Nobody is told but its hub.
    pub(crate) fn end_rank(&mut self, rank: Rank, cause: &str) {
        let member = Member::Rank(rank);
        self.cut(member);
        let hub = self.hub_of(rank);
        let actions = match hub {
            Target::Node(node) => self.agents[node.index()].member_gone(member, cause),
            _ => self.head.member_gone(member, cause),
        };
        self.carry_out(hub, actions);
    }

    /// Ends a node with all that is on it, as its head sees it.
    pub(crate) fn end_node(&mut self, node: NodeId, cause: &str) {
        self.topology.ranks_of(node.0).into_iter().for_each(|rank| self.cut(Member::Rank(rank)));
        self.cut(Member::Node(node));
        let actions = self.head.member_gone(Member::Node(node), cause);
        self.carry_out(Target::Head, actions);
    }

    /// Delivers the oldest message of one of the queues that have any. `false` when none has.
    pub(crate) fn deliver(&mut self, choice: usize) -> bool {
        self.queues.retain(|_, packets| !packets.is_empty());
        let Some(index) = choice.checked_rem(self.queues.len()) else { return false };
        let (queue, packets) = self.queues.iter_mut().nth(index).expect("the index is below the length");
        let (queue, packet) = (*queue, packets.pop_front().expect("empty queues were removed"));
        match (queue, packet) {
            (Queue::FromMember(member), Packet::Up(message)) => {
                let hub = match member {
                    Member::Rank(rank) => self.hub_of(rank),
                    Member::Node(_) => Target::Head,
                };
                let actions = match hub {
                    Target::Node(node) => self.agents[node.index()].receive_up(member, message),
                    _ => self.head.receive_up(member, message),
                };
                match actions {
                    Ok(actions) => self.carry_out(hub, actions),
                    Err(error) => {
                        let is_hostile = self.hostile.is_some_and(|rank| member == Member::Rank(rank));
                        assert!(is_hostile, "{member} is honest and was refused: {error}");
                    }
                }
            }
            (Queue::ToMember(Member::Node(node)), Packet::Down(message)) => {
                let actions = self.agents[node.index()].receive_down(message);
                self.carry_out(Target::Node(node), actions.expect("an honest head is not refused"));
            }
            (Queue::ToMember(Member::Rank(rank)), Packet::Down(message)) => self.arrive(rank, message),
            (queue, packet) => panic!("{packet:?} is in {queue:?}"),
        }
        true
    }

    pub(crate) fn deliver_all(&mut self) {
        while self.deliver(0) {}
    }

    /// How many messages are on their way to a rank from its hub.
    pub(crate) fn waiting_for(&self, rank: Rank) -> usize {
        self.queues.get(&Queue::ToMember(Member::Rank(rank))).map_or(0, VecDeque::len)
    }

    /// How many messages are on their way to an agent from the head.
    pub(crate) fn waiting_for_node(&self, node: NodeId) -> usize {
        self.queues.get(&Queue::ToMember(Member::Node(node))).map_or(0, VecDeque::len)
    }

    /// Carries out what a hub asks for. Requests to owners are answered at once, by [`echo`].
    pub(crate) fn carry_out(&mut self, hub: Target, actions: Vec<Action>) {
        for action in actions {
            match (hub, action) {
                (Target::Node(node), Action::ToUpstream(message)) => {
                    self.push(Queue::FromMember(Member::Node(node)), Packet::Up(message));
                }
                (_, Action::ToMember(member, message)) => {
                    self.push(Queue::ToMember(member), Packet::Down(message));
                }
                (_, Action::RequestForMe { from, token, body }) => {
                    let reply = Ok(echo(hub, &body));
                    let actions = match hub {
                        Target::Node(node) => self.agents[node.index()].reply(from, token, reply),
                        _ => self.head.reply(from, token, reply),
                    };
                    self.carry_out(hub, actions);
                }
                (_, action) => self.owned.push((hub, action)),
            }
        }
    }

    /// The hub that a rank is linked to, by its owner.
    pub(crate) fn hub_of(&self, rank: Rank) -> Target {
        match &self.topology {
            Topology::Nodes(node_of) => Target::Node(NodeId(node_of[rank.index()])),
            Topology::Server(_) => Target::Head,
        }
    }

    fn arrive(&mut self, rank: Rank, message: OobDown) {
        let client = &mut self.clients[rank.index()];
        let learned = client.receive(message).expect("an honest hub is not refused");
        let mut replies = Vec::new();
        for event in &learned {
            if let ClientEvent::Requested { from, token, body } = event {
                let body = Ok(echo(Target::Rank(rank), body));
                replies.push(client.reply(*from, *token, body).expect("an echo is small"));
            }
        }
        self.learned[rank.index()].extend(learned);
        replies.into_iter().for_each(|reply| self.send(rank, reply));
    }

    fn push(&mut self, queue: Queue, packet: Packet) {
        self.queues.entry(queue).or_default().push_back(packet);
    }

    fn cut(&mut self, member: Member) {
        self.queues.remove(&Queue::FromMember(member));
        self.queues.remove(&Queue::ToMember(member));
    }
}

/// What everybody in this job answers to a request.
pub(crate) fn echo(by: Target, body: &[u8]) -> Vec<u8> {
    [by.to_string().as_bytes(), b" heard ", body].concat()
}
