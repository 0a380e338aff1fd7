//! The one loop of a running job.
//!
//! Everything that can happen to a job arrives here as an event, one after the other: what agents report, signals,
//! what ranks read and wrote, deadlines. The loop owns the job's state, so there is one order of events and one
//! first failure. It never blocks: links queue, output has a thread of its own.
//!
//! # Phases
//! *Starting* until every rank runs; *running*; *ending* from the first failure, or from the last rank's exit, until
//! every agent has acknowledged that nothing is left; then *done*. Each phase has a deadline but running, whose
//! deadline is the user's `--timeout`; when that is over the ranks are asked where they are before they are ended.

mod interruptions;
mod servers;
mod spawns;
mod weighing;
mod worlds;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use efarun_wire::message::{
    AgentMessage, Clue, EventKind, HeadMessage, LaunchPlan, RankExit, RankStatus, STDIN_CREDIT_BYTES,
};
use efarun_wire::oob::{Action, Member, RootHub};
use efarun_wire::torchrun::MAX_ERROR_FILE_BYTES;
use efarun_wire::{NodeId, Rank};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::narrator::Narrator;
use super::signals;
use super::spawning::Spawner;
use super::stacks::Collection;
use super::status::Status;
use super::verdict::{Failure, Verdict};
use super::writer::{Writer, Written};
use crate::binding::RankBinding;
use crate::bootstrap::{NodeEvent, NodeLink};
use crate::error::status_text;
use crate::job::OnFailure;
use crate::mapping::Placement;
pub use servers::Servers;
use spawns::PendingWorld;
use weighing::Weighing;
use worlds::Worlds;

/// Beyond the grace, how long agents may take to acknowledge that everything is reaped.
const REAP_PATIENCE: Duration = Duration::from_secs(4);

/// How long the agents' processes may take to go once all is reaped.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// How long others have to end too after a rank that ended with code 0 within its World. Ranks that leave together end
/// within this time of each other; one that waits for the deserter is told well before its own patience ends.
const DESERTION_PATIENCE: Duration = Duration::from_millis(500);

/// How many error files are kept: the first failure's is among the first.
const KEPT_ERROR_FILES: usize = 64;

/// A node that takes part in the job.
#[derive(Debug)]
pub struct Node {
    /// The host as the user wrote it.
    pub host: String,
    /// The link to its agent.
    pub link: NodeLink,
    /// Its ranks.
    pub ranks: Vec<Rank>,
    /// What it is to start; taken when it is sent.
    pub plan: Option<LaunchPlan>,
}

/// How far a node has come towards the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeState {
    /// Its ranks are starting, running or ending.
    Active,
    /// It has acknowledged that nothing of the job is left.
    Reaped { strays: u32 },
    /// The link is gone before that.
    Lost,
    /// Its agent is gone after that.
    Gone { strays: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    Ending,
    Done,
}

/// What a job came to.
#[derive(Debug)]
pub struct Ended {
    /// The first failure and all exits.
    pub verdict: Verdict,
    /// What ranks that failed had written to their error files.
    pub error_files: BTreeMap<Rank, Vec<u8>>,
    /// What nodes' PMI and PMIx servers were told and told each other.
    pub servers: Servers,
    /// Ranks that ran, and are known to have ended.
    pub reaped: u32,
    /// Processes that ranks had left behind and that were killed.
    pub strays: u32,
    /// Nodes whose agents have acknowledged that nothing is left.
    pub acknowledged: u32,
    /// Nodes that did not, with their ranks' process ids as far as they are known: (host, ids).
    pub unacknowledged: Vec<(String, Vec<i32>)>,
    /// From launch to the last acknowledgement.
    pub took: Duration,
    /// From launch to the moment in which every rank ran, where that came.
    pub running_after: Option<Duration>,
    /// What speaks for causes of failures, by rank.
    pub clues: BTreeMap<Rank, Vec<Clue>>,
    /// The ranks that did not fail were left to themselves.
    pub went_on: bool,
    /// Where ranks were, those that came later among them.
    pub placement: Placement,
    /// What each had of its node.
    pub bindings: Vec<RankBinding>,
}

/// What the dispatcher listens to.
#[derive(Debug)]
pub struct Inputs {
    /// From all links.
    pub nodes: mpsc::UnboundedReceiver<(NodeId, NodeEvent)>,
    /// Signals to the launcher.
    pub signals: mpsc::UnboundedReceiver<i32>,
    /// From the output thread.
    pub written: mpsc::UnboundedReceiver<Written>,
    /// Standard input, where a rank reads it.
    pub stdin: Option<mpsc::Receiver<Vec<u8>>>,
    /// The ranks that read it.
    pub stdin_readers: Vec<Rank>,
}

/// How long things may take, and what a failure means.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// When every rank must run, and the span that was allowed for it.
    pub start: (Instant, Duration),
    /// When the job must have ended, and the span.
    pub job: Option<(Instant, Duration)>,
    /// What ranks have between the signal that asks them to end and KILL.
    pub grace: Duration,
    /// What the failure of a rank means for the others.
    pub on_failure: OnFailure,
}

/// Runs a job whose agents are all connected, from launch to the last acknowledgement.
pub async fn run(
    nodes: Vec<Node>,
    hub: RootHub,
    writer: &Writer,
    narrator: Narrator<'_>,
    inputs: Inputs,
    limits: Limits,
    spawner: Spawner,
) -> Ended {
    let world_size = nodes.iter().map(|node| node.ranks.len() as u32).sum();
    let mut job = Job {
        first_size: world_size,
        states: vec![NodeState::Active; nodes.len()],
        pids: vec![None; world_size as usize],
        nodes,
        hub,
        writer,
        narrator,
        spawner,
        pending_worlds: Vec::new(),
        said_unknown: BTreeSet::new(),
        status: Status::new(writer),
        clues: BTreeMap::new(),
        running_after: None,
        verdict: Verdict::new(world_size),
        phase: Phase::Starting,
        deadline: None,
        interrupts: 0,
        stacks: None,
        weighing: None,
        worlds: Worlds::default(),
        suspending: None,
        deserters: VecDeque::new(),
        stdin_credit: inputs.stdin_readers.iter().map(|rank| (*rank, STDIN_CREDIT_BYTES as usize)).collect(),
        error_files: BTreeMap::new(),
        servers: Servers::default(),
        started: Instant::now(),
        limits,
    };
    job.launch();
    job.dispatch(inputs).await;
    job.into_ended()
}

struct Job<'a> {
    nodes: Vec<Node>,
    states: Vec<NodeState>,
    /// How many ranks the world has that the job began with.
    first_size: u32,
    /// Process ids by rank, for a job whose end nobody acknowledges.
    pids: Vec<Option<i32>>,
    hub: RootHub,
    writer: &'a Writer,
    narrator: Narrator<'a>,
    spawner: Spawner,
    pending_worlds: Vec<PendingWorld>,
    /// What ranks wanted of further worlds that makes no difference here, as far as it has been said.
    said_unknown: BTreeSet<String>,
    status: Status<'a>,
    clues: BTreeMap<Rank, Vec<Clue>>,
    running_after: Option<Duration>,
    verdict: Verdict,
    phase: Phase,
    /// When the present phase must be over; the user's limits are apart.
    deadline: Option<Instant>,
    /// Signals so far that asked for the end.
    interrupts: u32,
    /// The time is over, and the ranks are being asked where they are.
    stacks: Option<(Collection, Instant)>,
    /// The first failure may be the effect of an end that is still on its way here.
    weighing: Option<Weighing>,
    worlds: Worlds,
    /// The launcher is about to stop, and awaits the word of these nodes' agents, until then.
    suspending: Option<(BTreeSet<NodeId>, Instant)>,
    /// Ranks that ended with code 0 within their World, and when the others are told.
    deserters: VecDeque<(Instant, Rank)>,
    /// What each rank that reads standard input may still be sent.
    stdin_credit: BTreeMap<Rank, usize>,
    error_files: BTreeMap<Rank, Vec<u8>>,
    servers: Servers,
    started: Instant,
    limits: Limits,
}

impl Job<'_> {
    /// Sends every node its plan.
    fn launch(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(plan) = node.plan.take() {
                node.link.send(HeadMessage::Launch(Box::new(plan)));
            }
            let joined = self.hub.member_joined(Member::Node(NodeId(index as u32)));
            joined.expect("every node is a member of the hub, and joins once");
        }
        self.deadline = Some(self.limits.start.0);
    }

    async fn dispatch(&mut self, mut inputs: Inputs) {
        while self.phase != Phase::Done {
            let phase_deadline = self.deadline;
            let desertion = self.deserters.front().map(|(at, _)| *at).filter(|_| self.is_before_the_end());
            let job_deadline = self.limits.job.map(|(at, _)| at).filter(|_| self.is_before_the_end());
            let stacks = self.stacks.as_ref().map(|(_, at)| *at);
            let suspending = self.suspending.as_ref().map(|(_, at)| *at);
            let weighing = self.weighing.as_ref().map(|weighing| weighing.until);
            let status = self.status.due_at().filter(|_| self.phase != Phase::Running);
            let stdin_open = inputs.stdin.is_some() && self.has_stdin_credit() && self.is_before_the_end();
            tokio::select! {
                biased;
                Some(number) = inputs.signals.recv() => self.signal(number),
                Some((node, event)) = inputs.nodes.recv() => self.node_event(node, event),
                Some(written) = inputs.written.recv() => self.written(written),
                chunk = next_chunk(&mut inputs.stdin), if stdin_open => self.stdin(chunk, &mut inputs.stdin),
                () = until(phase_deadline), if phase_deadline.is_some() => self.phase_deadline_passed(),
                () = until(desertion), if desertion.is_some() => self.tell_of_deserter(),
                () = until(job_deadline), if job_deadline.is_some() => self.job_deadline_passed(),
                () = until(stacks), if stacks.is_some() => self.end(),
                () = until(weighing), if weighing.is_some() => self.end(),
                () = until(suspending), if suspending.is_some() => self.suspend(),
                () = until(status), if status.is_some() => self.show_status(),
            }
        }
        self.status.clear();
    }

    fn is_before_the_end(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Running)
    }

    fn node_event(&mut self, node: NodeId, event: NodeEvent) {
        match event {
            NodeEvent::Message(message) => self.message(node, message),
            NodeEvent::Stderr(line) => {
                self.writer.note(format!("{}: {line}", self.nodes[node.index()].host));
            }
            NodeEvent::Lost(cause) => self.node_lost(node, cause),
        }
    }

    fn message(&mut self, node: NodeId, message: AgentMessage) {
        match message {
            AgentMessage::Spawned { rank, pid } => self.spawned(rank, pid),
            AgentMessage::SpawnFailed { rank, call, subject, errno } => {
                let failure = Failure::NotStarted { rank, call, subject, errno };
                if let Some(failure) = self.has_started(rank, Some(failure)) {
                    self.failed(failure);
                }
            }
            AgentMessage::Output { rank, stream, bytes } => self.writer.output(node, rank, stream, bytes),
            AgentMessage::StdinCredit { rank, bytes } => {
                if let Some(credit) = self.stdin_credit.get_mut(&rank) {
                    *credit = credit.saturating_add(bytes as usize);
                }
            }
            AgentMessage::ErrorFile { rank, bytes } => {
                if self.error_files.len() < KEPT_ERROR_FILES && bytes.len() <= MAX_ERROR_FILE_BYTES {
                    self.error_files.insert(rank, bytes);
                }
            }
            AgentMessage::Exited(exit) => self.rank_ended(exit),
            AgentMessage::Oob(up) => {
                match self.hub.receive_up(Member::Node(node), up) {
                    Ok(actions) => self.act(actions),
                    // What a rank says is untrusted, and so is what its agent passes on.
                    Err(error) => self.writer.note(format!("{}: {error}", self.nodes[node.index()].host)),
                }
                self.name_missing();
            }
            AgentMessage::Unserved { rank, library, tried } => {
                self.failed(Failure::Unserved { rank, library, tried })
            }
            AgentMessage::RankBroke { rank, how } => self.rank_failed(Failure::Broke { rank, how }),
            AgentMessage::EndsTold => self.ends_told(node),
            AgentMessage::Alone { rank, library } => self.worlds.ended_alone(rank, library),
            AgentMessage::PmiBytes { rank, bytes } => drop(self.servers.pmi_bytes.insert(rank, bytes)),
            AgentMessage::ExchangeBytes { bytes } => drop(self.servers.exchange_bytes.insert(node, bytes)),
            AgentMessage::LinksMpi { app, file, len_bytes } => self.links_mpi(node, app, &file, len_bytes),
            AgentMessage::ServesPmix { version } => self.serves_pmix(node, &version),
            AgentMessage::Admitted { world } => self.admitted(node, world),
            AgentMessage::Spawn(order) => self.spawn(node, &order),
            AgentMessage::Reaped { strays, .. } => {
                self.narrator.node_reaped(node, strays);
                self.states[node.index()] = NodeState::Reaped { strays };
                self.nodes[node.index()].link.send(HeadMessage::Goodbye);
                self.advance();
            }
            AgentMessage::Note(text) => {
                self.writer.note(format!("{}: {text}", self.nodes[node.index()].host));
            }
            AgentMessage::Failed(cause) => self.node_failed(node, cause),
            AgentMessage::Interrupted { number } => {
                let (host, name) = (&self.nodes[node.index()].host, signals::name(number));
                self.writer.note(format!("{host}: {name} to the launcher there: ending all ranks"));
                self.failed(Failure::Interrupted { number });
            }
            AgentMessage::Clues { rank, clues } if self.pids.len() > rank.index() => {
                self.narrator.clues(rank, &clues);
                self.clues.insert(rank, clues);
            }
            AgentMessage::Clues { .. } => {}
            AgentMessage::Stacks { rank, text } => {
                self.narrator.stacks(rank, &text);
                self.follow_stacks(|collection| collection.told(rank, text))
            }
            AgentMessage::Suspended => self.agent_suspended(node),
            // The link answers pings and has seen facts and dialling; a second copy of these says nothing new.
            AgentMessage::Pong { .. } | AgentMessage::Facts(_) | AgentMessage::Dialed(_) => {}
        }
    }

    fn spawned(&mut self, rank: Rank, pid: i32) {
        let Some(slot) = self.pids.get_mut(rank.index()) else { return };
        *slot = Some(pid);
        self.narrator.rank_started(rank, pid);
        self.has_started(rank, None);
        if self.phase == Phase::Starting && self.pids.iter().all(Option::is_some) {
            self.narrator.running();
            self.running_after = Some(self.started.elapsed());
            self.status.clear();
            self.phase = Phase::Running;
            self.deadline = None;
        }
    }

    fn rank_ended(&mut self, exit: RankExit) {
        self.narrator.rank_ended(&exit);
        let is_first_failure = self.verdict.rank_ended(exit);
        let ends_the_job = is_first_failure && self.limits.on_failure == OnFailure::Abort;
        if is_first_failure && !ends_the_job {
            self.narrator.first_failure(&Failure::Rank(exit));
        }
        if exit.status != RankStatus::Code(0) && !exit.ended_by_launcher {
            self.tell_of_lost(exit.rank, status_text(exit.status));
        }
        self.follow_stacks(|collection| collection.ended(exit.rank));
        if exit.status == RankStatus::Code(0) && exit.within_world && !exit.ended_by_launcher {
            self.deserters.push_back((Instant::now() + DESERTION_PATIENCE, exit.rank));
        }
        if ends_the_job {
            self.weigh();
        }
        if exit.status == RankStatus::Code(0) && !exit.ended_by_launcher {
            self.worlds.ended_well(exit.rank);
            self.name_missing();
        }
        if self.verdict.all_ended() {
            self.end();
        }
    }

    /// Tells the ranks that still run who is missing: whoever waits for it in a collective gets an error now.
    fn tell_of_deserter(&mut self) {
        let Some((_, rank)) = self.deserters.pop_front() else { return };
        self.verdict.deserted(rank);
        self.tell_of_lost(rank, "ended with code 0 without closing its World".to_owned());
    }

    /// Tells Worlds of a lost rank, where it is one of theirs.
    fn tell_of_lost(&mut self, rank: Rank, cause: String) {
        if rank.0 < self.first_size {
            let actions = self.hub.publish(EventKind::RankLost { rank, cause });
            self.act(actions);
        }
    }

    fn failed(&mut self, failure: Failure) {
        self.record(failure);
        self.end();
    }

    fn record(&mut self, failure: Failure) {
        if self.verdict.failed(failure.clone()) {
            self.narrator.first_failure(&failure);
        }
    }

    /// Begins the end, unless it has begun: ranks are asked by TERM.
    fn end(&mut self) {
        if self.is_before_the_end() {
            self.end_by(libc::SIGTERM, self.limits.grace);
        }
    }

    /// Tells every node to end its ranks. Called once with the grace, and again with none when the user insists.
    fn end_by(&mut self, signal: i32, grace: Duration) {
        if let Some((collection, _)) = self.stacks.take() {
            self.writer.note(collection.text());
        }
        self.decide();
        self.note_worlds_of_one();
        self.phase = Phase::Ending;
        self.status.clear();
        self.deadline = Some(Instant::now() + grace + REAP_PATIENCE);
        let grace_ms = grace.as_millis() as u32;
        self.narrator.ending(signal, grace_ms);
        for (node, state) in self.nodes.iter().zip(&self.states) {
            if *state == NodeState::Active {
                node.link.send(HeadMessage::End { grace_ms, signal });
            }
        }
        self.advance();
    }

    /// A node's agent said that it cannot go on: it still ends its ranks and acknowledges.
    fn node_failed(&mut self, node: NodeId, cause: String) {
        self.failed(Failure::NodeLost { node, cause });
    }

    fn node_lost(&mut self, node: NodeId, cause: String) {
        let state = &mut self.states[node.index()];
        match *state {
            NodeState::Reaped { strays } => *state = NodeState::Gone { strays },
            NodeState::Gone { .. } | NodeState::Lost => return,
            NodeState::Active => {
                *state = NodeState::Lost;
                self.narrator.node_lost(node, &cause);
                let actions = self.hub.member_gone(Member::Node(node), &cause);
                self.act(actions);
                for rank in self.nodes[node.index()].ranks.clone() {
                    self.verdict.lost(rank);
                    self.follow_stacks(|collection| collection.ended(rank));
                    self.tell_of_lost(rank, cause.clone());
                }
                self.record(Failure::NodeLost { node, cause });
                let goes_on = self.phase == Phase::Running && self.limits.on_failure == OnFailure::Continue;
                if !goes_on || self.verdict.all_ended() {
                    self.end();
                }
            }
        }
        self.agent_suspended(node);
        self.ends_told(node);
        self.advance();
    }

    /// Moves on from ending when every node has answered, and from that when every agent is gone.
    fn advance(&mut self) {
        let Phase::Ending = self.phase else { return };
        if self.states.contains(&NodeState::Active) {
            return;
        }
        if self.states.iter().any(|state| matches!(state, NodeState::Reaped { .. })) {
            let goodbye = Instant::now() + GOODBYE_PATIENCE;
            self.deadline = Some(self.deadline.map_or(goodbye, |deadline| deadline.min(goodbye)));
            return;
        }
        self.phase = Phase::Done;
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::ToMember(Member::Node(node), down) => {
                    self.nodes[node.index()].link.send(HeadMessage::Oob(down));
                }
                Action::AbortAsked { rank, code, reason } => self.abort(rank, code, reason),
                // The head's members are nodes, it has no upstream, and it asks nothing.
                Action::ToMember(Member::Rank(_), _) | Action::ToUpstream(_) | Action::ReplyForMe { .. } => {}
                Action::RequestForMe { from, token, .. } => {
                    let answer = self.hub.reply(from, token, Err("the head answers no requests".into()));
                    self.act(answer);
                }
            }
        }
    }

    fn abort(&mut self, rank: Rank, code: i32, reason: String) {
        let actions = self.hub.publish(EventKind::Abort { rank: Some(rank), reason: reason.clone() });
        self.act(actions);
        self.rank_failed(Failure::Aborted { rank, code, reason });
    }

    fn written(&mut self, written: Written) {
        match written {
            Written::Bytes(node, bytes) => {
                self.nodes[node.index()].link.send(HeadMessage::OutputCredit { bytes })
            }
            Written::Closed => self.failed(Failure::Interrupted { number: libc::SIGPIPE }),
        }
    }

    fn stdin(&mut self, chunk: Option<Vec<u8>>, source: &mut Option<mpsc::Receiver<Vec<u8>>>) {
        let bytes = chunk.unwrap_or_default();
        if bytes.is_empty() {
            *source = None;
        }
        for (rank, credit) in &mut self.stdin_credit {
            *credit = credit.saturating_sub(bytes.len());
            if let Some(node) = self.nodes.iter().find(|node| node.ranks.contains(rank)) {
                node.link.send(HeadMessage::Stdin { rank: *rank, bytes: bytes.clone() });
            }
        }
    }

    /// Whether every reader may be sent more: the slowest sets the pace.
    fn has_stdin_credit(&self) -> bool {
        self.stdin_credit.values().all(|credit| *credit > 0)
    }

    fn into_ended(self) -> Ended {
        let mut ended = Ended {
            error_files: self.error_files,
            servers: self.servers,
            reaped: self.verdict.ended_count(),
            strays: 0,
            acknowledged: 0,
            unacknowledged: Vec::new(),
            took: self.started.elapsed(),
            running_after: self.running_after,
            clues: self.clues,
            went_on: self.limits.on_failure == OnFailure::Continue,
            verdict: self.verdict,
            placement: self.narrator.placement,
            bindings: self.narrator.bindings,
        };
        for (node, state) in self.nodes.iter().zip(&self.states) {
            match state {
                NodeState::Reaped { strays } | NodeState::Gone { strays } => {
                    ended.acknowledged += 1;
                    ended.strays += strays;
                }
                NodeState::Active | NodeState::Lost => {
                    let running = |rank: &&Rank| ended.verdict.exits()[rank.index()].is_none();
                    let pids = node.ranks.iter().filter(running).filter_map(|rank| self.pids[rank.index()]);
                    ended.unacknowledged.push((node.host.clone(), pids.collect()));
                }
            }
        }
        ended
    }
}

async fn next_chunk(stdin: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match stdin {
        Some(chunks) => chunks.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
