//! What reaches a job from outside: signals to the launcher, and deadlines.
//!
//! A first signal that asks for the end is passed on to the ranks, a second kills them, a third leaves. TSTP stops ranks and
//! launcher; every agent's word is awaited before the launcher stops. When `--timeout` is over the ranks are asked where
//! they are, and then to end.

use std::collections::BTreeSet;
use std::time::Duration;

use efarun_wire::message::HeadMessage;
use efarun_wire::{NodeId, Rank};
use tokio::time::Instant;

use super::{Job, Node, NodeState, Phase};
use crate::supervise::signals;
use crate::supervise::stacks::{self, Collection};
use crate::supervise::verdict::Failure;

impl Job<'_> {
    pub(super) fn signal(&mut self, number: i32) {
        self.narrator.signal(number);
        if number == signals::STOPPING {
            return self.ask_to_suspend();
        }
        if !signals::ends_the_job(number) {
            for node in &self.nodes {
                node.link.send(HeadMessage::Signal { number });
            }
            return;
        }
        self.interrupts += 1;
        match self.interrupts {
            1 => {
                let name = signals::name(number);
                self.writer.note(format!("{name}: ending all ranks (again to kill them at once)"));
                self.record(Failure::Interrupted { number });
                if self.is_before_the_end() {
                    self.end_by(number, self.limits.grace);
                }
            }
            2 => {
                self.writer.note("killing all ranks (again to leave without their hosts' word)");
                self.end_by(libc::SIGKILL, Duration::ZERO);
            }
            // The third leaves; who is left is listed by the report.
            _ => self.phase = Phase::Done,
        }
    }

    /// Has every rank stopped before this process stops itself. Once ranks are being ended there is nothing to stop.
    fn ask_to_suspend(&mut self) {
        let active = self.states.iter().enumerate().filter(|(_, state)| **state == NodeState::Active);
        let awaited: BTreeSet<NodeId> = active.map(|(index, _)| NodeId(index as u32)).collect();
        if !self.is_before_the_end() || awaited.is_empty() {
            return signals::stop_this_process();
        }
        for node in &awaited {
            self.nodes[node.index()].link.send(HeadMessage::Suspend);
        }
        self.suspending = Some((awaited, Instant::now() + SUSPEND_PATIENCE));
    }

    pub(super) fn agent_suspended(&mut self, node: NodeId) {
        if let Some((awaited, _)) = &mut self.suspending
            && awaited.remove(&node)
            && awaited.is_empty()
        {
            self.suspend();
        }
    }

    /// Stops this process. Whoever lets it go on does so by CONT, which arrives here as a signal and goes to the ranks.
    pub(super) fn suspend(&mut self) {
        self.suspending = None;
        signals::stop_this_process();
    }

    pub(super) fn phase_deadline_passed(&mut self) {
        match self.phase {
            Phase::Starting => {
                let waiting_for = self.not_yet_started();
                self.failed(Failure::NotStartedInTime { waiting_for, limit: self.limits.start.1 });
            }
            Phase::Running => self.deadline = None,
            Phase::Ending | Phase::Done => self.phase = Phase::Done,
        }
    }

    pub(super) fn job_deadline_passed(&mut self) {
        let Some((_, limit)) = self.limits.job.take() else { return };
        self.record(Failure::TimedOut { limit });
        let active = self.nodes.iter().zip(&self.states).filter(|(_, state)| **state == NodeState::Active);
        let mut running = Vec::new();
        for (node, _) in active {
            let here = node.ranks.iter().copied().filter(|rank| self.is_running(*rank));
            let known = running.len();
            running.extend(here);
            if running.len() > known {
                node.link.send(HeadMessage::CollectStacks);
            }
        }
        if running.is_empty() {
            return self.end();
        }
        self.stacks = Some((Collection::of(running), Instant::now() + stacks::PATIENCE));
    }

    fn is_running(&self, rank: Rank) -> bool {
        self.pids[rank.index()].is_some() && self.verdict.exits()[rank.index()].is_none()
    }

    /// Tells the collection of stacks, if there is one, what happened. Once it is complete the ranks are ended.
    pub(super) fn follow_stacks(&mut self, tell: impl FnOnce(&mut Collection)) {
        let Some((collection, _)) = &mut self.stacks else { return };
        tell(collection);
        if collection.is_complete() {
            self.end();
        }
    }

    /// While ranks run the terminal is theirs.
    pub(super) fn show_status(&mut self) {
        let text = match self.phase {
            Phase::Starting => {
                let up = self.pids.iter().flatten().count();
                format!("starting: {up}/{} ranks up; waiting for {}", self.pids.len(), self.not_yet_started())
            }
            Phase::Ending => {
                let states = self.nodes.iter().zip(&self.states);
                let active = states.filter(|(_, state)| **state == NodeState::Active);
                let hosts: Vec<&str> = active.map(|(node, _)| node.host.as_str()).collect();
                let ended = self.verdict.ended_count();
                format!("ending: {ended}/{} ranks ended; waiting for {}", self.pids.len(), hosts.join(", "))
            }
            Phase::Running | Phase::Done => return self.status.clear(),
        };
        self.status.show(&text);
    }

    fn not_yet_started(&self) -> String {
        let missing = |node: &Node| {
            node.ranks
                .iter()
                .filter(|rank| self.pids[rank.index()].is_none())
                .map(Rank::to_string)
                .collect::<Vec<_>>()
        };
        let waiting =
            self.nodes.iter().map(|node| (node, missing(node))).filter(|(_, ranks)| !ranks.is_empty());
        let parts: Vec<String> = waiting
            .map(|(node, ranks)| format!("{} to start rank {}", node.host, ranks.join(", ")))
            .collect();
        parts.join("; ")
    }
}

/// How long agents may take to say that their ranks are stopped, before the launcher stops without it.
const SUSPEND_PATIENCE: Duration = Duration::from_secs(2);
