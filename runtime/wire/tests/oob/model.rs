//! Random jobs with random interleavings, against a model that knows nothing of hubs.

use std::collections::{BTreeMap, BTreeSet};

use efarun_wire::message::{Event, EventKind, GatherKey, Participants, Target};
use efarun_wire::oob::{ClientEvent, OobError};
use efarun_wire::{NodeId, Rank};
use proptest::prelude::*;

use crate::net::{Net, Topology, echo};

#[derive(Debug, Clone)]
enum Op {
    Deliver(usize),
    Join(u32),
    Gather { rank: u32, group: usize },
    Request { rank: u32, to: u32 },
    Publish,
    LoseRank(u32),
    LoseNode(u32),
}

/// What should come of a random job.
#[derive(Default)]
struct Model {
    /// Who contributed what, by allgather.
    gathers: BTreeMap<GatherKey, BTreeMap<Rank, Vec<u8>>>,
    /// Body of each request and whom it was for, by asker and token.
    requests: BTreeMap<(Rank, u64), (Target, Vec<u8>)>,
    published: Vec<Event>,
    ended: BTreeSet<Rank>,
    joined: BTreeSet<Rank>,
}

struct Job {
    net: Net,
    model: Model,
    topology: Topology,
    groups: Vec<Participants>,
}

impl Job {
    fn apply(&mut self, op: &Op) {
        let world_size = self.topology.world_size();
        match *op {
            Op::Deliver(choice) => {
                self.net.deliver(choice);
            }
            Op::Join(rank) => self.join(Rank(rank % world_size)),
            Op::Gather { rank, group } => self.gather(Rank(rank % world_size), group % self.groups.len()),
            Op::Request { rank, to } => self.request(Rank(rank % world_size), to),
            Op::Publish => self.publish(EventKind::Dump),
            Op::LoseRank(rank) => self.lose_rank(Rank(rank % world_size)),
            Op::LoseNode(node) => self.lose_node(node),
        }
    }

    fn join(&mut self, rank: Rank) {
        if !self.model.ended.contains(&rank) && self.model.joined.insert(rank) {
            self.net.join(rank);
        }
    }

    fn can_speak(&self, rank: Rank) -> bool {
        self.model.joined.contains(&rank) && !self.model.ended.contains(&rank)
    }

    fn gather(&mut self, rank: Rank, group: usize) {
        let participants = self.groups[group].clone();
        if !self.can_speak(rank) || !participants.contains(rank, self.topology.world_size()) {
            return;
        }
        let id = format!("group {group}");
        let times = |key: &&GatherKey| key.id == id && self.model.gathers[*key].contains_key(&rank);
        let epoch = self.model.gathers.keys().filter(times).count() as u32;
        let blob = format!("{rank} gives {epoch}").into_bytes();
        match self.net.clients[rank.index()].gather(&id, participants.clone(), blob.clone()) {
            Ok((key, message)) => {
                assert_eq!(key, GatherKey { id, epoch, participants });
                self.model.gathers.entry(key).or_default().insert(rank, blob);
                self.net.send(rank, message);
            }
            Err(OobError::ParticipantLost { rank: lost, .. }) => {
                assert!(
                    self.model.ended.contains(&lost)
                        && participants.contains(lost, self.topology.world_size())
                );
            }
            Err(OobError::TooManyOpenGathers { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn request(&mut self, rank: Rank, to: u32) {
        if !self.can_speak(rank) {
            return;
        }
        // Ranks and nodes that exist, some that do not, and the head.
        let to = match to % 4 {
            0 => Target::Head,
            1 => Target::Node(NodeId(to / 4 % (self.topology.node_count() + 1))),
            _ => Target::Rank(Rank(to / 4 % (self.topology.world_size() + 1))),
        };
        let body = format!("{rank} asks {to} number {}", self.model.requests.len()).into_bytes();
        match self.net.clients[rank.index()].request(to, body.clone()) {
            Ok((token, message)) => {
                self.net.send(rank, message);
                let fresh = self.model.requests.insert((rank, token), (to, body)).is_none();
                assert!(fresh, "a token was given twice");
            }
            Err(OobError::TooManyOpenRequests { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn publish(&mut self, kind: EventKind) {
        let sequence = self.model.published.len() as u64 + 1;
        self.model.published.push(Event { sequence, kind: kind.clone() });
        self.net.publish(kind);
    }

    fn lose_rank(&mut self, rank: Rank) {
        if self.model.ended.insert(rank) {
            self.net.end_rank(rank, "was killed");
            self.publish(EventKind::RankLost { rank, cause: "killed".to_owned() });
        }
    }

    fn lose_node(&mut self, node: u32) {
        let Some(node) = node.checked_rem(self.topology.node_count()) else { return };
        // Some ranks remain, so that there is something to look at.
        if node == 0 {
            return;
        }
        self.net.end_node(NodeId(node), "does not answer");
        for rank in self.topology.ranks_of(node) {
            if self.model.ended.insert(rank) {
                self.publish(EventKind::RankLost { rank, cause: "its node is gone".to_owned() });
            }
        }
    }

    /// Lets everybody join and everything arrive.
    fn settle(&mut self, choices: &[usize]) {
        (0..self.topology.world_size()).for_each(|rank| self.join(Rank(rank)));
        for choice in choices.iter().cycle() {
            if !self.net.deliver(*choice) {
                break;
            }
        }
    }

    fn check(&self) {
        let world_size = self.topology.world_size();
        let mut settled = BTreeMap::<GatherKey, BTreeSet<bool>>::new();
        for rank in (0..world_size).map(Rank).filter(|rank| !self.model.ended.contains(rank)) {
            let mut events = Vec::new();
            let mut gathers = BTreeSet::new();
            let mut replies = BTreeSet::new();
            for learned in &self.net.learned[rank.index()] {
                match learned {
                    ClientEvent::Happened(event) => events.push(event.clone()),
                    ClientEvent::Gathered { key, blobs } => {
                        assert!(gathers.insert(key.clone()), "rank {rank}: twice {key:?}");
                        settled.entry(key.clone()).or_default().insert(true);
                        self.check_result(key, blobs);
                    }
                    ClientEvent::GatherFailed { key, lost, .. } => {
                        assert!(gathers.insert(key.clone()), "rank {rank}: twice {key:?}");
                        settled.entry(key.clone()).or_default().insert(false);
                        assert!(
                            key.participants.contains(*lost, world_size) && self.model.ended.contains(lost)
                        );
                    }
                    ClientEvent::Replied { token, body } => {
                        assert!(replies.insert((rank, *token)), "rank {rank}: two replies to {token}");
                        self.check_reply(rank, *token, body);
                    }
                    ClientEvent::Requested { .. } => {}
                }
            }
            assert_eq!(events, self.model.published, "rank {rank}: all events, in order, once");
            let asked = self.model.requests.keys().filter(|(asker, _)| *asker == rank).copied();
            assert_eq!(replies, asked.collect(), "rank {rank}: one reply per request");
            assert_eq!(gathers, self.expected_ends(rank), "rank {rank}: ends of allgathers");
        }
        for (key, outcomes) in settled {
            assert_eq!(outcomes.len(), 1, "complete on some ranks, failed on others: {key:?}");
        }
    }

    /// The allgathers that must have come to an end on this rank: the complete ones, and those of lost ranks.
    fn expected_ends(&self, rank: Rank) -> BTreeSet<GatherKey> {
        let world_size = self.topology.world_size();
        let is_over = |key: &GatherKey, blobs: &BTreeMap<Rank, Vec<u8>>| {
            let is_complete = blobs.len() == key.participants.count(world_size);
            is_complete || self.model.ended.iter().any(|lost| key.participants.contains(*lost, world_size))
        };
        let mine = self.model.gathers.iter().filter(|(_, blobs)| blobs.contains_key(&rank));
        mine.filter(|(key, blobs)| is_over(key, blobs)).map(|(key, _)| key.clone()).collect()
    }

    fn check_result(&self, key: &GatherKey, blobs: &[(Rank, Vec<u8>)]) {
        let expected: Vec<_> = self.model.gathers[key].clone().into_iter().collect();
        assert_eq!(expected.len(), key.participants.count(self.topology.world_size()));
        assert_eq!(blobs, expected, "{key:?}");
    }

    fn check_reply(&self, asker: Rank, token: u64, body: &Result<Vec<u8>, String>) {
        let (to, question) = &self.model.requests[&(asker, token)];
        match body {
            Ok(answer) => assert_eq!(*answer, echo(*to, question)),
            Err(reason) => {
                let may_fail = match to {
                    Target::Head => false,
                    Target::Node(node) => {
                        node.0 >= self.topology.node_count()
                            || self.topology.ranks_of(node.0).iter().all(|r| self.model.ended.contains(r))
                    }
                    Target::Rank(rank) => {
                        rank.0 >= self.topology.world_size() || self.model.ended.contains(rank)
                    }
                };
                let was_full = reason.contains("has not joined yet");
                assert!(may_fail || was_full, "{to} is there, and did not answer: {reason}");
            }
        }
    }
}

fn topology() -> impl Strategy<Value = Topology> {
    // Ranks need not be in blocks, and nodes need not be of one size.
    let nodes = (1u32..=6).prop_flat_map(|node_count| {
        let more = proptest::collection::vec(0..node_count, 0..8);
        let order = (0..node_count).collect::<Vec<_>>();
        more.prop_map(move |more| Topology::Nodes([order.as_slice(), &more].concat())).boxed()
    });
    prop_oneof![3 => nodes, 1 => (1u32..=6).prop_map(Topology::Server)]
}

fn op(with_losses: bool) -> impl Strategy<Value = Op> {
    let losses = u32::from(with_losses);
    prop_oneof![
        30 => any::<usize>().prop_map(Op::Deliver),
        4 => any::<u32>().prop_map(Op::Join),
        16 => (any::<u32>(), any::<usize>()).prop_map(|(rank, group)| Op::Gather { rank, group }),
        8 => (any::<u32>(), any::<u32>()).prop_map(|(rank, to)| Op::Request { rank, to }),
        1 => Just(Op::Publish),
        losses => any::<u32>().prop_map(Op::LoseRank),
        losses => any::<u32>().prop_map(Op::LoseNode),
    ]
}

/// Groups to gather among: the world, and some subsets of it.
fn groups(world_size: u32, masks: &[u16]) -> Vec<Participants> {
    let subset = |mask: &u16| {
        let ranks: Vec<Rank> = (0..world_size).filter(|rank| mask >> rank & 1 == 1).map(Rank).collect();
        if ranks.is_empty() { Participants::World } else { Participants::Ranks(ranks) }
    };
    std::iter::once(Participants::World).chain(masks.iter().map(subset)).collect()
}

fn run(topology: Topology, masks: &[u16], early: u16, ops: &[Op], choices: &[usize]) {
    let groups = groups(topology.world_size(), masks);
    let mut job = Job { net: Net::new(topology.clone()), model: Model::default(), topology, groups };
    for rank in (0..job.topology.world_size()).filter(|rank| early >> rank & 1 == 1) {
        job.join(Rank(rank));
    }
    ops.iter().for_each(|op| job.apply(op));
    job.settle(choices);
    job.check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn jobs_in_good_order_end_as_the_model_says(
        topology in topology(),
        masks in proptest::collection::vec(any::<u16>(), 0..3),
        early in any::<u16>(),
        ops in proptest::collection::vec(op(false), 0..250),
        choices in proptest::collection::vec(any::<usize>(), 1..50),
    ) {
        run(topology, &masks, early, &ops, &choices);
    }

    #[test]
    fn jobs_that_lose_ranks_and_nodes_end_as_the_model_says(
        topology in topology(),
        masks in proptest::collection::vec(any::<u16>(), 0..3),
        early in any::<u16>(),
        ops in proptest::collection::vec(op(true), 0..250),
        choices in proptest::collection::vec(any::<usize>(), 1..50),
    ) {
        run(topology, &masks, early, &ops, &choices);
    }
}
