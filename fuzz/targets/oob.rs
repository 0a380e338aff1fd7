//! The out-of-band hubs of a job of two nodes with two ranks each, whose ranks say anything. Whatever they say: no hub
//! panics or keeps more than its limits, a rank cannot make its agent say to the head what the head refuses, and what
//! comes of an allgather or a request is what was put in. Input chooses who does what next.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use efarun_fuzz::within_bytes;
use efarun_wire::message::{EventKind, GatherKey, OobDown, OobUp, Participants, Target};
use efarun_wire::oob::{Action, Hub, MAX_BLOB_BYTES, MAX_REQUEST_BYTES, Member, RelayHub, RootHub};
use efarun_wire::{NodeId, Rank};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    within_bytes(MEMORY_BYTES, || {
        let mut job = Job::new();
        let mut input = Unstructured::new(input);
        while !input.is_empty() && job.step(&mut input).is_ok() {}
        job.settle();
    });
});

struct Job {
    head: RootHub,
    agents: [RelayHub; 2],
    /// What is on its way between head and agents, in order.
    up: [VecDeque<OobUp>; 2],
    down: [VecDeque<OobDown>; 2],
    speaks: BTreeSet<Rank>,
    /// What ranks contributed and their agents took.
    contributed: BTreeMap<(GatherKey, Rank), Vec<u8>>,
    /// Tokens of requests that wait for a reply.
    asked: BTreeSet<(Rank, u64)>,
}

impl Job {
    fn new() -> Job {
        let ranks = |node: u32| [Rank(2 * node), Rank(2 * node + 1)];
        let mut head = Hub::for_head([0, 1].map(|node| (NodeId(node), ranks(node).to_vec())));
        for node in [0, 1].map(NodeId) {
            assert_eq!(head.member_joined(Member::Node(node)), Ok(Vec::new()));
        }
        Job {
            head,
            agents: [0, 1].map(|node| Hub::for_agent(NodeId(node), ranks(node), WORLD_SIZE)),
            up: Default::default(),
            down: Default::default(),
            speaks: BTreeSet::new(),
            contributed: BTreeMap::new(),
            asked: BTreeSet::new(),
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let act: u8 = input.arbitrary()?;
        let who = u32::from(act >> 5) % WORLD_SIZE;
        let (rank, node) = (Rank(who), (who / 2) as usize);
        match act % 16 {
            0..2 => self.deliver_up(node),
            2..4 => self.deliver_down(node),
            4 => self.join(rank),
            5 => self.end(rank),
            6 => {
                let actions = self.head.publish(EventKind::RankLost { rank, cause: "was killed".to_owned() });
                self.act_at_head(actions);
            }
            7 => {
                let actions = self.head.publish(EventKind::Dump);
                self.act_at_head(actions);
            }
            _ => {
                let message = message(input, rank)?;
                self.say(rank, message);
            }
        }
        Ok(())
    }

    fn join(&mut self, rank: Rank) {
        let node = (rank.0 / 2) as usize;
        if let Ok(actions) = self.agents[node].member_joined(Member::Rank(rank)) {
            self.speaks.insert(rank);
            self.act_at_agent(node, actions);
        }
    }

    fn end(&mut self, rank: Rank) {
        let node = (rank.0 / 2) as usize;
        self.speaks.remove(&rank);
        self.asked.retain(|(asker, _)| *asker != rank);
        let actions = self.agents[node].member_gone(Member::Rank(rank), "left");
        self.act_at_agent(node, actions);
    }

    /// A rank that is refused is not listened to any more, as by its agent.
    fn say(&mut self, rank: Rank, message: OobUp) {
        let node = (rank.0 / 2) as usize;
        if !self.speaks.contains(&rank) {
            assert!(self.agents[node].receive_up(Member::Rank(rank), message).is_err(), "it has not joined");
            return;
        }
        match self.agents[node].receive_up(Member::Rank(rank), message.clone()) {
            Ok(actions) => {
                match message {
                    OobUp::Gather { key, blobs } => {
                        assert!(blobs.iter().all(|(of, _)| *of == rank), "rank {rank} spoke for another");
                        let blobs = blobs.into_iter().map(|(rank, blob)| ((key.clone(), rank), blob));
                        self.contributed.extend(blobs);
                    }
                    OobUp::Request { token, .. } => assert!(self.asked.insert((rank, token)), "twice"),
                    OobUp::Reply { .. } | OobUp::Abort { .. } => {}
                }
                self.act_at_agent(node, actions);
            }
            Err(_) => self.end(rank),
        }
    }

    fn deliver_up(&mut self, node: usize) {
        if let Some(message) = self.up[node].pop_front() {
            let received = self.head.receive_up(Member::Node(NodeId(node as u32)), message);
            let actions = received.unwrap_or_else(|error| panic!("the head refuses an agent: {error}"));
            self.act_at_head(actions);
        }
    }

    fn deliver_down(&mut self, node: usize) {
        if let Some(message) = self.down[node].pop_front() {
            let received = self.agents[node].receive_down(message);
            let actions = received.unwrap_or_else(|error| panic!("an agent refuses the head: {error}"));
            self.act_at_agent(node, actions);
        }
    }

    fn act_at_head(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::ToMember(Member::Node(node), down) => self.down[node.index()].push_back(down),
                Action::RequestForMe { from, token, body } => {
                    let actions = self.head.reply(from, token, Ok(body));
                    self.act_at_head(actions);
                }
                Action::AbortAsked { rank, .. } => assert!(rank.0 < WORLD_SIZE),
                other => panic!("a root asked for {other:?}"),
            }
        }
    }

    fn act_at_agent(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::ToUpstream(up) => self.up[node].push_back(up),
                Action::ToMember(Member::Rank(rank), down) => self.arrive(rank, down),
                Action::RequestForMe { from, token, .. } => {
                    let actions = self.agents[node].reply(from, token, Err("no".to_owned()));
                    self.act_at_agent(node, actions);
                }
                other => panic!("a relay asked for {other:?}"),
            }
        }
    }

    fn arrive(&mut self, rank: Rank, message: OobDown) {
        assert!(self.speaks.contains(&rank), "{message:?} for rank {rank}, which is not linked");
        match message {
            OobDown::Gathered { key, blobs } => {
                assert_eq!(blobs.len(), key.participants.count(WORLD_SIZE), "{key:?}");
                assert!(blobs.is_sorted_by(|a, b| a.0 < b.0), "{key:?}");
                for (from, blob) in blobs {
                    assert_eq!(self.contributed.get(&(key.clone(), from)), Some(&blob), "{key:?} of {from}");
                }
            }
            OobDown::Reply { to, token, .. } => {
                assert_eq!(to, Target::Rank(rank));
                assert!(self.asked.remove(&(rank, token)), "a reply to what rank {rank} did not ask");
            }
            OobDown::Request { to, .. } => assert_eq!(to, Target::Rank(rank)),
            OobDown::Event(_) => {}
        }
    }

    fn settle(&mut self) {
        while self.up.iter().any(|queue| !queue.is_empty()) || self.down.iter().any(|queue| !queue.is_empty())
        {
            for node in [0, 1] {
                self.deliver_up(node);
                self.deliver_down(node);
            }
        }
    }
}

/// What a rank may say: mostly what is nearly right.
fn message(input: &mut Unstructured<'_>, rank: Rank) -> Result<OobUp> {
    let kind: u8 = input.arbitrary()?;
    let token = u64::from(kind >> 6);
    Ok(match kind % 8 {
        0..4 => {
            let mut blobs = vec![(rank, blob(input, MAX_BLOB_BYTES)?)];
            if input.ratio(1, 16)? {
                blobs.push((any_rank(input)?, Vec::new()));
            }
            let id = if kind & 32 == 0 { "a".to_owned() } else { "b".repeat(input.int_in_range(0..=140)?) };
            let participants = participants(input)?;
            OobUp::Gather { key: GatherKey { id, epoch: token as u32, participants }, blobs }
        }
        4 | 5 => {
            let from = if input.ratio(15, 16)? { Target::Rank(rank) } else { target(input)? };
            OobUp::Request { from, to: target(input)?, token, body: blob(input, MAX_REQUEST_BYTES)? }
        }
        6 => OobUp::Reply { to: target(input)?, token, body: Ok(blob(input, MAX_REQUEST_BYTES)?) },
        _ => OobUp::Abort {
            rank: any_rank(input)?,
            code: 3,
            reason: "ä".repeat(input.arbitrary::<u8>()?.into()),
        },
    })
}

fn participants(input: &mut Unstructured<'_>) -> Result<Participants> {
    let mask: u8 = input.arbitrary()?;
    Ok(match mask {
        0..64 => Participants::World,
        64..240 => Participants::Ranks((0..4).filter(|rank| mask >> rank & 1 == 1).map(Rank).collect()),
        _ => Participants::Ranks((0..mask % 5).map(|_| any_rank(input)).collect::<Result<_>>()?),
    })
}

fn target(input: &mut Unstructured<'_>) -> Result<Target> {
    Ok(match input.arbitrary::<u8>()? % 4 {
        0 => Target::Head,
        1 => Target::Node(NodeId(input.arbitrary::<u8>()? as u32 % 3)),
        _ => Target::Rank(any_rank(input)?),
    })
}

/// One of the world, or one beyond it.
fn any_rank(input: &mut Unstructured<'_>) -> Result<Rank> {
    Ok(Rank(u32::from(input.arbitrary::<u8>()?) % (WORLD_SIZE + 2)))
}

/// A few bytes, or seldom one more than the limit.
fn blob(input: &mut Unstructured<'_>, limit_bytes: usize) -> Result<Vec<u8>> {
    let first: u8 = input.arbitrary()?;
    Ok(if first == u8::MAX { vec![0; limit_bytes + 1] } else { vec![first; usize::from(first % 4)] })
}

const WORLD_SIZE: u32 = 4;
/// What is too large is here once as it is said, and is kept by nobody.
const MEMORY_BYTES: usize = 16 << 20;
