//! What is kept of a job beside what is shown: events as they happen, a report at the end, JUnit's XML.
//!
//! Files are made before anything runs, so that one that cannot be made is known then, and is no surprise after a night of
//! training.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::connect::{Connected, Identity};
use super::events::{self, EventLog};
use super::writer::Writer;
use super::{Prepared, junit};
use crate::error::LaunchError;
use crate::exit_code::ExitCause;
use crate::job::{EventsTo, Host, JobSpec};

/// The records of one job.
#[derive(Debug)]
pub struct Records {
    /// Where events go.
    pub log: EventLog,
    report: Option<PathBuf>,
    junit: Option<PathBuf>,
}

impl Records {
    /// Makes the files that the job asks for; nothing for one that is only to be shown.
    ///
    /// # Errors
    ///
    /// [`LaunchError::Record`], with the option at fault.
    pub fn open(spec: &JobSpec) -> Result<Records, LaunchError> {
        let is_run = spec.dry_run.is_none();
        let at_fault =
            |option, subject: String| move |source| LaunchError::Record { option, subject, source };
        let make = |option, path: &Option<PathBuf>| match path {
            Some(path) if is_run => {
                File::create(path).map_err(at_fault(option, path.display().to_string()))?;
                Ok::<_, LaunchError>(Some(path.clone()))
            }
            _ => Ok(None),
        };
        let events = spec.events.as_ref().filter(|_| is_run);
        let restartable = spec.torchrun.as_ref().filter(|torchrun| torchrun.max_restarts > 0);
        let attempt = restartable.map(|torchrun| torchrun.attempt.number);
        let subject = events.map(EventsTo::to_string).unwrap_or_default();
        Ok(Records {
            log: EventLog::open(events, attempt).map_err(at_fault("--events", subject))?,
            report: make("--report", &spec.report)?,
            junit: make("--junit", &spec.junit)?,
        })
    }

    /// Writes what is left. What cannot be written is told, and changes no exit code: the job is over.
    pub fn close(self, cause: ExitCause, report: Option<&Value>, writer: &Writer) {
        if let Some(report) = report {
            let write = |option: &str, path: &Option<PathBuf>, text: String| {
                let Some(path) = path else { return };
                if let Err(error) = fs::write(path, &text) {
                    writer.error(format!("{option} {}: {error}", path.display()));
                }
            };
            write("--report", &self.report, format!("{report:#}\n"));
            write("--junit", &self.junit, junit::document(report));
            let fields =
                json!({ "exit": report["exit"], "error": report["error"], "took_ms": report["took_ms"] });
            self.log.tell("end", fields);
        } else {
            self.log.tell("end", json!({ "exit": { "cause": cause.name(), "code": cause.code() } }));
        }
        if let Err(error) = self.log.finish(EVENTS_PATIENCE) {
            writer.error(format!("--events: not all was written: {error}"));
        }
    }
}

/// The first event: what is about to run.
pub fn start_json(identity: &Identity, spec: &JobSpec, hosts: &[Host]) -> Value {
    let programs = spec.apps.iter().map(|app| app.program.to_string_lossy());
    json!({
        "schema": events::SCHEMA,
        "efarun": env!("CARGO_PKG_VERSION"),
        "build": identity.build.to_string(),
        "job": identity.job.to_string(),
        "time": jiff::Timestamp::now().to_string(),
        "hosts": hosts.iter().map(Host::to_string).collect::<Vec<_>>(),
        "programs": programs.collect::<Vec<_>>(),
    })
}

/// Every host has an agent: how each was reached, and when.
pub fn connected_json(hosts: &[Host], connected: &[Connected]) -> Value {
    let host = |(host, connected): (&Host, &Connected)| {
        json!({
            "host": host.to_string(),
            "route": connected.agent.route,
            "took_ms": connected.took.as_millis() as u64,
            "cores": connected.agent.facts.cores,
            "gpus": connected.agent.facts.gpus.len(),
            "efa_devices": connected.agent.facts.efa_devices.len(),
        })
    };
    json!({ "hosts": hosts.iter().zip(connected).map(host).collect::<Vec<_>>() })
}

/// Where each rank goes, and what it gets there.
pub fn map_json(job: &Prepared) -> Value {
    let rank = |(place, binding): (&crate::mapping::RankPlace, &crate::binding::RankBinding)| {
        json!({
            "rank": place.rank.0,
            "host": job.placement.nodes[place.node.index()].host.to_string(),
            "local_rank": place.local_rank,
            "cpus": crate::binding::ranges(&binding.cpus),
            "gpu": binding.gpu,
            "nics": binding.nics,
        })
    };
    json!({ "ranks": job.placement.ranks.iter().zip(&job.bindings).map(rank).collect::<Vec<_>>() })
}

/// How long a reader of events may pause at the end of a job before what is left is dropped.
const EVENTS_PATIENCE: Duration = Duration::from_secs(10);
