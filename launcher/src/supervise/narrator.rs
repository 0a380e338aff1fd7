//! What the dispatcher tells of a running job to whoever reads `--events`.
//!
//! It knows the map, so that every event about a rank names its host and GPU, and the dispatcher need not. Writes nothing
//! by itself: [`EventLog`] does.

use efarun_wire::message::{Clue, RankExit};
use efarun_wire::{NodeId, Rank};
use serde_json::{Value, json};

use super::events::EventLog;
use super::final_report::{clues_json, status_fields};
use super::report;
use super::verdict::Failure;
use crate::binding::RankBinding;
use crate::error::LaunchError;
use crate::mapping::Placement;

/// Tells of one job.
#[derive(Debug)]
pub struct Narrator<'a> {
    /// Where it is told.
    pub log: &'a EventLog,
    /// Where ranks are.
    pub placement: Placement,
    /// What each has of its node.
    pub bindings: Vec<RankBinding>,
}

impl Narrator<'_> {
    /// A rank runs.
    pub fn rank_started(&self, rank: Rank, pid: i32) {
        self.tell_of_rank("rank-started", rank, json!({ "pid": pid }));
    }

    /// A rank has asked for a further world, and its ranks are being started.
    pub fn spawning(&self, by: Rank, world: u32, size: u32) {
        self.tell_of_rank("spawning", by, json!({ "world": world, "ranks": size }));
    }

    /// A failure, in the words of every other error.
    pub fn error_of(&self, failure: &Failure) -> LaunchError {
        report::error_of(failure, &self.placement, &self.bindings)
    }

    /// Every rank runs.
    pub fn running(&self) {
        self.log.tell("running", json!({ "ranks": self.placement.world_size() }));
    }

    /// Something speaks for a cause of a rank's failure, which is about to be told.
    pub fn clues(&self, rank: Rank, clues: &[Clue]) {
        self.tell_of_rank("clues", rank, json!({ "clues": clues_json(clues) }));
    }

    /// A rank has ended.
    pub fn rank_ended(&self, exit: &RankExit) {
        let mut fields = status_fields(exit.status);
        fields.insert("ran_ms".to_owned(), json!(exit.ran_ms));
        fields.insert("ended_by_launcher".to_owned(), json!(exit.ended_by_launcher));
        self.tell_of_rank("rank-ended", exit.rank, Value::Object(fields));
    }

    /// The failure that decides how the job ends.
    pub fn first_failure(&self, failure: &Failure) {
        let error = self.error_of(failure);
        let cause = error.exit_cause();
        let fields =
            json!({ "error": error.to_string(), "exit": { "cause": cause.name(), "code": cause.code() } });
        match failure {
            Failure::Rank(exit) => self.tell_of_rank("first-failure", exit.rank, fields),
            Failure::NotStarted { rank, .. }
            | Failure::Aborted { rank, .. }
            | Failure::Unserved { rank, .. }
            | Failure::Broke { rank, .. } => {
                self.tell_of_rank("first-failure", *rank, fields);
            }
            Failure::NodeLost { node, .. } => self.tell_of_node("first-failure", *node, fields),
            Failure::TimedOut { .. } | Failure::NotStartedInTime { .. } | Failure::Interrupted { .. } => {
                self.log.tell("first-failure", fields);
            }
        }
    }

    /// Ranks are asked to end.
    pub fn ending(&self, signal: i32, grace_ms: u32) {
        self.log.tell("ending", json!({ "signal": signal, "grace_ms": grace_ms }));
    }

    /// A node has nothing of the job left.
    pub fn node_reaped(&self, node: NodeId, strays: u32) {
        self.tell_of_node("host-reaped", node, json!({ "strays": strays }));
    }

    /// A node cannot be heard any more before it said that.
    pub fn node_lost(&self, node: NodeId, cause: &str) {
        self.tell_of_node("host-lost", node, json!({ "cause": cause }));
    }

    /// A signal came for the launcher.
    pub fn signal(&self, number: i32) {
        self.log.tell("signal", json!({ "number": number }));
    }

    /// A rank says where it is.
    pub fn stacks(&self, rank: Rank, text: &str) {
        self.tell_of_rank("stacks", rank, json!({ "text": text }));
    }

    fn tell_of_rank(&self, event: &str, rank: Rank, mut fields: Value) {
        // What agents say of ranks is not checked before it comes here.
        let Some(place) = self.placement.ranks.get(rank.index()) else { return };
        fields["rank"] = json!(rank.0);
        fields["host"] = json!(self.placement.nodes[place.node.index()].host.to_string());
        if let Some(gpu) = &self.bindings[rank.index()].gpu {
            fields["gpu"] = json!(gpu);
        }
        self.log.tell(event, fields);
    }

    fn tell_of_node(&self, event: &str, node: NodeId, mut fields: Value) {
        fields["host"] = json!(self.placement.nodes[node.index()].host.to_string());
        self.log.tell(event, fields);
    }
}
