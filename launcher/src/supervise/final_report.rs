//! The end of a job as data: what `--json` prints and `--report` writes.
//!
//! Given what the dispatcher found, or the errors of a job that never ran, gives JSON, and writes nothing.
//! docs/events.md describes the keys; they are only ever added.

use efarun_wire::Rank;
use efarun_wire::message::{Clue, RankExit, RankStatus};
use serde_json::{Map, Value, json};

use super::dispatcher::Ended;
use super::writer::Writer;
use crate::binding::RankBinding;
use crate::error::{LaunchError, status_text};
use crate::exit_code::ExitCause;
use crate::job::JobSpec;
use crate::mapping::Placement;
use crate::torchrun::Torchrun;

/// The `schema` of every report.
pub const SCHEMA: &str = "efarun-report/1";

/// When things happened, in milliseconds since the launcher began the job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Milestones {
    /// Every agent had reported.
    pub connected_ms: u64,
    /// Every agent had been told what to start.
    pub launched_ms: u64,
}

/// Reports on a job that was launched.
pub fn of_job(
    ended: &Ended,
    placement: &Placement,
    bindings: &[RankBinding],
    error: Option<&LaunchError>,
    milestones: Milestones,
    writer: &Writer,
) -> Value {
    let mut described = 0;
    let ranks = placement.ranks.iter().zip(bindings).map(|(place, binding)| {
        let exit = ended.verdict.exits()[place.rank.index()];
        let mut rank = json!({
            "rank": place.rank.0,
            "host": placement.nodes[place.node.index()].host.to_string(),
            "gpu": binding.gpu,
            "status": exit.map(|exit| status_text(exit.status)),
            "ran_ms": exit.map(|exit| exit.ran_ms),
            "ended_by_launcher": exit.map(|exit| exit.ended_by_launcher),
        });
        let fields = rank.as_object_mut().expect("it has just been made one");
        fields.extend(exit.map(|exit| status_fields(exit.status)).unwrap_or_default());
        if let Some([said, told]) = ended.servers.pmi_bytes.get(&place.rank) {
            fields.insert("pmi_bytes".to_owned(), json!({ "said": said, "told": told }));
        }
        if exit.is_some_and(has_failed) && described < DESCRIBED_RANKS {
            described += 1;
            fields.extend(words_of(place.rank, ended, writer));
        }
        rank
    });
    let ranks: Vec<Value> = ranks.collect();
    let mut report = common(error);
    let running_ms = ended.running_after.map(|after| milestones.launched_ms + after.as_millis() as u64);
    report.extend([
        ("echoes".to_owned(), json!(ended.verdict.echoes())),
        ("deserter".to_owned(), json!(ended.verdict.deserter().map(|rank| rank.0))),
        ("took_ms".to_owned(), json!(ended.took.as_millis() as u64)),
        (
            "startup".to_owned(),
            json!({
                "connected_ms": milestones.connected_ms,
                "launched_ms": milestones.launched_ms,
                "running_ms": running_ms,
            }),
        ),
        ("reaped".to_owned(), json!(ended.reaped)),
        ("strays".to_owned(), json!(ended.strays)),
        ("agents_gone".to_owned(), json!(ended.acknowledged)),
        (
            "unacknowledged".to_owned(),
            ended.unacknowledged.iter().map(|(host, pids)| json!({ "host": host, "pids": pids })).collect(),
        ),
        (
            "exchange_bytes".to_owned(),
            ended
                .servers
                .exchange_bytes
                .iter()
                .map(|(node, [said, told])| {
                    let host = placement.nodes[node.index()].host.to_string();
                    json!({ "host": host, "said": said, "told": told })
                })
                .collect(),
        ),
        ("ranks".to_owned(), Value::Array(ranks)),
    ]);
    Value::Object(report)
}

/// Reports on a job that was not launched.
pub fn of_errors(errors: &[LaunchError]) -> Value {
    let mut report = common(errors.first());
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    report.insert("errors".to_owned(), json!(texts));
    report.insert("ranks".to_owned(), json!([]));
    Value::Object(report)
}

/// Adds which attempt it was, and what became of those before it, to the report of a job that may be started again.
pub fn with_attempts(mut report: Value, spec: &JobSpec) -> Value {
    let restartable = spec.torchrun.as_ref().filter(|torchrun| torchrun.max_restarts > 0);
    if let Some(Torchrun { attempt, .. }) = restartable {
        report["attempt"] = attempt.number.into();
        // Of an attempt, what it itself came to: those before it stand beside it.
        let mut earlier = attempt.earlier.clone();
        for report in earlier.iter_mut().filter_map(Value::as_object_mut) {
            report.remove(EARLIER);
        }
        report[EARLIER] = earlier.into();
    }
    report
}

/// How a rank ended, in the form of reports and events.
pub fn status_fields(status: RankStatus) -> Map<String, Value> {
    let fields = match status {
        RankStatus::Code(code) => json!({ "code": code, "signal": null }),
        RankStatus::Signal { number, core } => json!({ "code": null, "signal": number, "core": core }),
    };
    let Value::Object(fields) = fields else { unreachable!("both are objects") };
    fields
}

/// Clues in the form of reports and events.
pub fn clues_json(clues: &[Clue]) -> Value {
    let clue = |clue: &Clue| match clue {
        Clue::OutOfMemory(text) => json!({ "kind": "out-of-memory", "text": text }),
        Clue::GpuFault(text) => json!({ "kind": "gpu-fault", "text": text }),
    };
    clues.iter().map(clue).collect()
}

fn common(error: Option<&LaunchError>) -> Map<String, Value> {
    let cause = error.map_or(ExitCause::Success, LaunchError::exit_cause);
    let value = json!({
        "schema": SCHEMA,
        "exit": { "cause": cause.name(), "code": cause.code() },
        "error": error.map(ToString::to_string),
    });
    let Value::Object(fields) = value else { unreachable!("it is written as an object") };
    fields
}

fn has_failed(exit: RankExit) -> bool {
    exit.status != RankStatus::Code(0) && !exit.ended_by_launcher
}

fn words_of(rank: Rank, ended: &Ended, writer: &Writer) -> Map<String, Value> {
    let clues = ended.clues.get(&rank).map_or(&[][..], Vec::as_slice);
    let mut fields = Map::new();
    fields.insert("clues".to_owned(), clues_json(clues));
    fields.insert("last_stderr".to_owned(), json!(writer.last_stderr(rank)));
    fields
}

/// The key of an attempt's predecessors.
const EARLIER: &str = "earlier_attempts";

/// Ranks whose last words a report has: where thousands fail, one says what all do.
const DESCRIBED_RANKS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_not_launched_has_its_errors_and_code() {
        let errors = [
            LaunchError::HostLost { host: "h2".to_owned(), cause: "cable".to_owned() },
            LaunchError::GivenUp { waiting_for: vec!["h3: connecting".to_owned()] },
        ];
        let report = of_errors(&errors);
        assert_eq!((&report["schema"], &report["exit"]["code"]), (&json!(SCHEMA), &json!(69)));
        assert_eq!(report["errors"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_signal_is_no_code() {
        assert_eq!(json!(status_fields(RankStatus::Code(3))), json!({ "code": 3, "signal": null }));
        let signal = RankStatus::Signal { number: 9, core: false };
        assert_eq!(json!(status_fields(signal)), json!({ "code": null, "signal": 9, "core": false }));
    }
}
