//! Further worlds that ranks ask for: they are numbered, told to every node, and answered when all their ranks run.
//!
//! Where none of them can be started nothing has happened, and the asker is told why. Where some can and others cannot, the
//! job ends as it would if that had been so at its beginning.

use std::collections::BTreeSet;

use efarun_wire::message::{HeadMessage, SpawnOrder, SpawnedWorld};
use efarun_wire::oob::Member;
use efarun_wire::{NodeId, Rank};

use super::{Job, NodeState};
use crate::binding::RankBinding;
use crate::supervise::spawning::Spawning;
use crate::supervise::verdict::Failure;

/// A world not all of whose ranks are known to run.
#[derive(Debug)]
pub(super) struct PendingWorld {
    world: SpawnedWorld,
    /// Whose agent is answered, and with what.
    node: NodeId,
    token: u64,
    waiting: BTreeSet<Rank>,
    /// Nodes whose servers do not know of it yet: ranks there may be told of it by others and ask.
    unaware: BTreeSet<NodeId>,
    /// Those that could not be started.
    failures: Vec<Failure>,
}

impl Job<'_> {
    /// Starts the world that a rank asks for, or says why not.
    pub(super) fn spawn(&mut self, node: NodeId, order: &SpawnOrder) {
        let token = order.token;
        if !self.nodes[node.index()].ranks.contains(&order.by) {
            return self.writer.note(format!(
                "{}: asked for ranks in the name of rank {}, which is not there",
                self.nodes[node.index()].host,
                order.by
            ));
        }
        if !self.is_before_the_end() {
            return self.answer(node, token, Err("the job is ending".to_owned()));
        }
        let is_running = |rank: Rank| !self.verdict.has_ended(rank);
        match self.spawner.spawn(order, &self.narrator.placement, is_running) {
            Ok(spawning) => self.start_world(node, order, spawning),
            Err(reason) => {
                self.writer.note(&reason);
                self.answer(node, token, Err(reason));
            }
        }
    }

    fn start_world(&mut self, node: NodeId, order: &SpawnOrder, spawning: Spawning) {
        let Spawning { world, places, plans, unknown } = spawning;
        for name in unknown.into_iter().filter(|name| self.said_unknown.insert(name.clone())) {
            self.writer.note(format!("MPI_Comm_spawn: `{name}` is not acted on"));
        }
        let size = u32::try_from(places.len()).expect("a job has at most MAX_RANKS ranks");
        self.verdict.admit(size);
        self.pids.extend(places.iter().map(|_| None));
        for place in &places {
            self.nodes[place.node.index()].ranks.push(place.rank);
            self.hub.admit(Member::Node(place.node), [place.rank]);
            self.narrator.placement.nodes[place.node.index()].ranks.push(place.rank);
            self.narrator.bindings.push(RankBinding::default());
        }
        let waiting = places.iter().map(|place| place.rank).collect();
        self.narrator.placement.ranks.extend(places);
        self.narrator.spawning(order.by, world, size);
        let mut unaware = BTreeSet::new();
        for plan in plans {
            if self.states[plan.node.index()] == NodeState::Active {
                unaware.insert(plan.node);
                self.nodes[plan.node.index()].link.send(HeadMessage::Launch(Box::new(plan)));
            }
        }
        let world = SpawnedWorld { world, size };
        let (token, failures) = (order.token, Vec::new());
        self.pending_worlds.push(PendingWorld { world, node, token, waiting, unaware, failures });
    }

    /// Takes note that a node's servers know of a world.
    pub(super) fn admitted(&mut self, node: NodeId, world: u32) {
        let is_it = |pending: &PendingWorld| pending.world.world == world;
        if let Some(index) = self.pending_worlds.iter().position(is_it) {
            self.pending_worlds[index].unaware.remove(&node);
            self.go_on_with_world(index);
        }
    }

    /// Takes note that a rank runs, or of why it does not. Gives the failure back where the rank is of no pending world.
    pub(super) fn has_started(&mut self, rank: Rank, failure: Option<Failure>) -> Option<Failure> {
        let is_its = |pending: &PendingWorld| pending.waiting.contains(&rank);
        let Some(index) = self.pending_worlds.iter().position(is_its) else { return failure };
        let pending = &mut self.pending_worlds[index];
        pending.waiting.remove(&rank);
        pending.failures.extend(failure);
        self.go_on_with_world(index);
        None
    }

    fn go_on_with_world(&mut self, index: usize) {
        let pending = &self.pending_worlds[index];
        if pending.waiting.is_empty() && pending.unaware.is_empty() {
            let pending = self.pending_worlds.remove(index);
            self.world_has_started(pending);
        }
    }

    fn world_has_started(&mut self, pending: PendingWorld) {
        let PendingWorld { world, node, token, failures, .. } = pending;
        let Some(first) = failures.first() else { return self.answer(node, token, Ok(world)) };
        let of_rank = |failure: &Failure| match failure {
            Failure::NotStarted { rank, .. } => Some(*rank),
            _ => None,
        };
        failures.iter().filter_map(of_rank).for_each(|rank| self.verdict.lost(rank));
        if !self.is_before_the_end() {
            return;
        }
        if failures.len() < world.size as usize {
            return self.failed(first.clone());
        }
        let reason = self.narrator.error_of(first).to_string();
        self.writer.note(&reason);
        self.answer(node, token, Err(reason.lines().next().unwrap_or_default().to_owned()));
        if self.verdict.all_ended() {
            self.end();
        }
    }

    fn answer(&self, node: NodeId, token: u64, outcome: Result<SpawnedWorld, String>) {
        self.nodes[node.index()].link.send(HeadMessage::Spawned { token, outcome });
    }
}
