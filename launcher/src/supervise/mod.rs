//! A job from its specification to its end.
//!
//! [`run`] takes the phases in order: name the hosts, connect, place, make the environment, launch, watch, report.
//! What can be decided without contacting anybody is decided before anybody is contacted. The work of each phase is
//! elsewhere: [`crew`] has the first contact, [`dispatcher`] the running job, [`verdict`] the question which
//! failure was the first, [`report`] the words about the end, [`records`] the files in which it is kept. Every wait has
//! a deadline and a sentence.

pub mod connect;
pub mod crew;
pub mod dispatcher;
pub mod dry_run;
pub mod events;
pub mod final_report;
pub mod junit;
pub mod narrator;
mod plan;
pub mod progress;
pub mod records;
pub mod report;
pub mod signals;
pub mod spawning;
pub mod stacks;
mod stages;
pub mod status;
pub mod stdin;
pub mod this_machine;
pub mod verdict;
pub mod writer;

use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use efarun_wire::JobId;
use efarun_wire::facts::NodeFacts;
use efarun_wire::oob::RootHub;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::binding::{self, RankBinding};
use crate::env::{self, JobEnv};
use crate::error::LaunchError;
use crate::exit_code::ExitCause;
use crate::job::{App, DryRun, Host, JobSpec, OutputSpec, StdinTo};
use crate::mapping::{self, Placement};
use crate::output::{LineStyle, RankFiles, Terminal};
use crate::torchrun;

use connect::{Connected, Identity};
use dispatcher::{Inputs, Limits, Node};
use events::EventLog;
use final_report::Milestones;
use narrator::Narrator;
use records::Records;
use spawning::Spawner;
use writer::{Writer, Written};

pub use crew::Crew;
pub(crate) use crew::{THIS_EXECUTABLE, identity};

/// How long a reader of the launcher's output may pause at the end of a job before what is left is dropped.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs a job, or shows what would be run, and says with which exit code to end. Everything a user should know has
/// been written when it returns.
pub async fn run(spec: JobSpec) -> ExitCause {
    match signals::listen(&spec.forwarded) {
        Ok(signals) => attempt(&spec, None, signals).await.cause,
        Err(source) => {
            Terminal::process().error(head("installing signal handlers", source));
            ExitCause::Internal
        }
    }
}

/// What one run of a job came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempted {
    /// Its exit code's cause.
    pub cause: ExitCause,
    /// What failed first.
    pub error: Option<String>,
    /// It came as far as starting ranks.
    pub has_launched: bool,
    /// Its final report, which one that was only to be shown does not have.
    pub report: Option<serde_json::Value>,
}

/// As [`run`], for a job that may be run again, or whose agents came by themselves: whoever calls listens to signals.
pub async fn attempt(spec: &JobSpec, crew: Option<Crew>, signals: mpsc::UnboundedReceiver<i32>) -> Attempted {
    let failed = |cause, error: Option<&LaunchError>| {
        let error = error.map(LaunchError::to_string);
        Attempted { cause, error, has_launched: false, report: None }
    };
    let Ok((writer, written)) = Writer::start(line_style(spec)) else {
        return failed(ExitCause::Internal, None);
    };
    let attempted = match Records::open(spec) {
        Ok(records) => {
            let came_to = try_run(spec, crew, signals, &writer, &records.log, written).await;
            let attempted = match came_to {
                Ok(CameTo { error, report }) => {
                    let cause = error.as_ref().map_or(ExitCause::Success, LaunchError::exit_cause);
                    let error = error.map(|error| error.to_string());
                    Attempted { cause, error, has_launched: spec.dry_run.is_none(), report }
                }
                Err(errors) => {
                    errors.iter().for_each(|error| writer.error(error.to_string()));
                    let cause = errors.first().map_or(ExitCause::Internal, LaunchError::exit_cause);
                    let report = final_report::with_attempts(final_report::of_errors(&errors), spec);
                    Attempted { report: Some(report), ..failed(cause, errors.first()) }
                }
            };
            records.close(attempted.cause, attempted.report.as_ref(), &writer);
            attempted
        }
        Err(error) => {
            writer.error(error.to_string());
            failed(error.exit_cause(), Some(&error))
        }
    };
    writer.finish(OUTPUT_PATIENCE);
    attempted
}

pub(crate) fn line_style(spec: &JobSpec) -> LineStyle {
    let OutputSpec { tag, timestamp, merge_stderr, .. } = spec.output;
    LineStyle { tag, timestamp, merged: merge_stderr }
}

/// What failed first in a job, and its report, which one that was only to be shown does not have.
#[derive(Default)]
struct CameTo {
    error: Option<LaunchError>,
    report: Option<serde_json::Value>,
}

async fn try_run(
    spec: &JobSpec,
    crew: Option<Crew>,
    mut signals: mpsc::UnboundedReceiver<i32>,
    writer: &Writer,
    log: &EventLog,
    written: mpsc::UnboundedReceiver<Written>,
) -> Result<CameTo, Vec<LaunchError>> {
    spec.notes.iter().for_each(|note| writer.note(note));
    let mut limits = limits_of(spec);
    let crew = match crew {
        Some(crew) => {
            log.tell("start", records::start_json(&crew.identity, spec, &crew.hosts));
            crew
        }
        None => {
            let hosts = crew::hosts_of(spec)?;
            if spec.dry_run == Some(DryRun::Offline) {
                dry_run::offline(spec, &hosts, writer)?;
                return Ok(CameTo::default());
            }
            crew::start(spec, hosts, &mut signals, limits, writer, log).await?
        }
    };
    if spec.wait_for_hosts.is_some() {
        // The time to start is not that to boot.
        limits.start = limits_of(spec).start;
    }
    let Crew { identity, hosts, connected } = crew;
    let connected_ms = log.elapsed_ms();
    log.tell("connected", records::connected_json(&hosts, &connected));
    let job = prepare(spec, &hosts, &identity, connected, writer)?;
    if spec.dry_run == Some(DryRun::Online) {
        dry_run::online(spec, &job, writer);
        return Ok(CameTo::default());
    }
    make_files(spec, &job.placement, writer)?;
    show_placement(spec, &job, writer);
    log.tell("map", records::map_json(&job));
    if let Some(age) = spec.output.fold {
        writer.fold(job.placement.world_size(), age);
    }
    let outside = Outside { signals, written, limits, connected_ms };
    Ok(watch(spec, job, outside, log, writer).await)
}

/// A job that is ready to be launched.
#[derive(Debug)]
pub struct Prepared {
    /// Its name.
    pub job: JobId,
    /// Where its ranks go.
    pub placement: Placement,
    /// What each gets of its node's cores and cards, by rank.
    pub bindings: Vec<RankBinding>,
    /// What they find in their environment, program by program.
    pub env: Vec<JobEnv>,
    /// The agents, by node.
    pub agents: Vec<Connected>,
}

fn request(spec: &JobSpec, hosts: &[Host]) -> Result<mapping::Request, LaunchError> {
    Ok(mapping::Request::new(spec, hosts)?)
}

fn limits_of(spec: &JobSpec) -> Limits {
    let now = Instant::now();
    Limits {
        start: (now + spec.start_timeout, spec.start_timeout),
        job: spec.timeout.map(|limit| (now + limit, limit)),
        grace: spec.grace,
        on_failure: spec.on_failure,
    }
}

/// Places ranks and makes their environment from what all nodes reported.
fn prepare(
    spec: &JobSpec,
    hosts: &[Host],
    identity: &Identity,
    mut connected: Vec<Connected>,
    writer: &Writer,
) -> Result<Prepared, LaunchError> {
    let facts: Vec<&NodeFacts> = connected.iter().map(|connected| &*connected.agent.facts).collect();
    let spec = &*torchrun::resolved(spec, hosts, &facts)?;
    let slots: Vec<mapping::HostWithSlots> = hosts
        .iter()
        .zip(&connected)
        .map(|(host, connected)| mapping::slots_of(host.clone(), Some(&connected.agent.facts)))
        .collect();
    let placement = mapping::place(&request(spec, hosts)?, &slots)?;
    if let StdinTo::Rank(rank) = spec.stdin
        && rank.0 >= placement.world_size()
    {
        return Err(LaunchError::NoSuchReader { rank, world_size: placement.world_size() });
    }
    // Hosts that got no rank are let go: dropping the channel ends the agent.
    let mut indices = placement.nodes.iter().map(|node| node.host_index).peekable();
    let mut index = 0..;
    connected.retain(|_| indices.next_if_eq(&index.next().expect("it has no end")).is_some());
    let noted =
        placement.nodes.iter().zip(&connected).map(|(node, connected)| (&node.host, &connected.notes[..]));
    for note in report::notes_by_text(noted) {
        writer.note(note);
    }
    let facts: Vec<NodeFacts> = connected.iter().map(|connected| (*connected.agent.facts).clone()).collect();
    let (head_env, addresses) = (head_env(), addresses(&connected));
    let env_of = |app: &App| {
        env::job_env(&env::Inputs {
            spec,
            app,
            head_env: &head_env,
            facts: &facts,
            placement: &placement,
            job: identity.job,
            addresses: &addresses,
            master_port: facts.first().and_then(|facts| facts.free_port),
            only_this_machine: facts.len() == 1 && connected[0].is_here,
        })
    };
    let env = spec.apps.iter().map(env_of).collect::<Result<Vec<_>, _>>()?;
    let mut said: Vec<&String> = Vec::new();
    for note in env.iter().flat_map(|env| &env.notes) {
        if !said.contains(&note) {
            said.push(note);
            writer.note(note);
        }
    }
    let bindings = bindings(spec, &placement, &facts)?;
    Ok(Prepared { job: identity.job, placement, bindings, env, agents: connected })
}

/// Chooses every rank's cores, GPU and cards.
fn bindings(
    spec: &JobSpec,
    placement: &Placement,
    facts: &[NodeFacts],
) -> Result<Vec<RankBinding>, LaunchError> {
    let mut bindings = vec![RankBinding::default(); placement.ranks.len()];
    for (node, facts) in placement.nodes.iter().zip(facts) {
        let count = u32::try_from(node.ranks.len()).expect("there are at most MAX_RANKS ranks");
        let of_node = binding::bind(spec.binding(), &facts.topology, count, &node.host.to_string())?;
        for (rank, mut binding) in node.ranks.iter().zip(of_node) {
            let named = spec.rankfile.as_ref().and_then(|file| file.places[rank.index()].cores.as_ref());
            if let Some(cores) = named {
                binding.cpus = binding::cpus_of(cores, &facts.topology, &node.host.to_string())?;
            }
            bindings[rank.index()] = binding;
        }
    }
    Ok(bindings)
}

/// Shows the map and the bindings of a job that is about to start, where that is asked for.
fn show_placement(spec: &JobSpec, job: &Prepared, writer: &Writer) {
    if spec.display_map {
        writer.print(job.placement.to_text());
    }
    if spec.report_bindings {
        for (place, binding) in job.placement.ranks.iter().zip(&job.bindings) {
            let host = &job.placement.nodes[place.node.index()].host;
            writer.note(format!("rank {} on {host}: {}", place.rank, binding::describe(binding)));
        }
    }
}

/// Makes the files that ranks' output goes to.
fn make_files(spec: &JobSpec, placement: &Placement, writer: &Writer) -> Result<(), LaunchError> {
    let Some(folder) = &spec.output.folder else { return Ok(()) };
    let stderr = !spec.output.merge_stderr;
    let files = RankFiles::create(&folder.path, folder.by_job, stderr, placement.world_size())?;
    writer.files(files, !folder.copy);
    Ok(())
}

/// The launcher's own environment, exactly as it has it.
fn head_env() -> Vec<env::NameValue> {
    std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())).collect()
}

/// Where each node can be reached by the others: the address that its agent dialled from, or else the one that its sshd
/// was reached at; for this machine the one that another host reached it by, or loopback where there is no other.
fn addresses(connected: &[Connected]) -> Vec<Option<IpAddr>> {
    let proved = connected.iter().find_map(|connected| connected.head_address);
    let loopback = (connected.len() == 1).then_some(IpAddr::from([127, 0, 0, 1]));
    let address = |node: &Connected| match node.agent.peer {
        Some(peer) => Some(peer.ip()),
        None if node.is_here => proved.or(loopback),
        None => node.agent.facts.ssh_server.as_ref().and_then(|address| address.parse().ok()),
    };
    connected.iter().map(address).collect()
}

/// What a running job hears beside its agents.
struct Outside {
    signals: mpsc::UnboundedReceiver<i32>,
    written: mpsc::UnboundedReceiver<Written>,
    limits: Limits,
    connected_ms: u64,
}

/// Launches, watches and reports.
async fn watch(spec: &JobSpec, job: Prepared, outside: Outside, log: &EventLog, writer: &Writer) -> CameTo {
    let Outside { signals, written, limits, connected_ms } = outside;
    let (node_events, nodes_receiver) = mpsc::unbounded_channel();
    let Prepared { job: job_id, placement, bindings, env, agents } = job;
    let mut nodes = Vec::with_capacity(agents.len());
    for (place, agent) in placement.nodes.iter().zip(agents) {
        nodes.push(Node {
            host: place.host.to_string(),
            link: agent.agent.start(place.node, node_events.clone()),
            ranks: place.ranks.clone(),
            plan: Some(plan::of_node(spec, job_id, &placement, place, &bindings, &env)),
        });
    }
    drop(node_events);
    let plans = nodes.iter().filter_map(|node| node.plan.as_ref());
    let spawner = Spawner::new(plans, spec.oversubscribe, spec.torchrun.is_some());
    let hub = RootHub::for_head(placement.nodes.iter().map(|place| (place.node, place.ranks.clone())));
    let stdin_readers = plan::stdin_readers(spec, &placement);
    let stdin = if stdin_readers.is_empty() { None } else { stdin::read() };
    let inputs = Inputs { nodes: nodes_receiver, signals, written, stdin, stdin_readers };
    let node_count = nodes.len();
    let milestones = Milestones { connected_ms, launched_ms: log.elapsed_ms() };
    log.tell("launched", serde_json::json!({ "ranks": placement.world_size() }));
    let narrator = Narrator { log, placement, bindings };
    let ended = dispatcher::run(nodes, hub, writer, narrator, inputs, limits, spawner).await;
    let (placement, bindings) = (&ended.placement, &ended.bindings);
    let failure = ended.verdict.first_failure();
    let error = failure.map(|failure| report::error_of(failure, placement, bindings));
    if let Some(error) = &error {
        writer.error(report::failure_lines(error, &ended, writer).join("\n"));
    }
    if error.is_some() || spec.verbose || !ended.unacknowledged.is_empty() {
        writer.note(report::leftovers_line(&ended, placement.world_size(), node_count));
    }
    let report = final_report::of_job(&ended, placement, bindings, error.as_ref(), milestones, writer);
    let report = final_report::with_attempts(report, spec);
    if spec.json {
        writer.print(report.to_string());
    }
    CameTo { error, report: Some(report) }
}

fn head(what: &str, source: std::io::Error) -> LaunchError {
    LaunchError::Head { what: what.to_owned(), source }
}
