//! The agents of a job: which hosts are meant, how each is reached, and one agent on each that is needed.
//!
//! Given the job's specification, it promises a [`Crew`] whose every agent has told its node's facts, or what kept which
//! host from it. A signal, or the end of the job's time, ends the wait. Where ranks go is not known here; which hosts
//! will have any is.

use std::sync::Arc;
use std::time::Duration;

use efarun_wire::JobId;
use efarun_wire::secure::JobKey;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connect::{self, ConnectError, Connected, Identity, Patience, Route};
use super::dispatcher::Limits;
use super::events::EventLog;
use super::progress::Progress;
use super::writer::Writer;
use super::{head, records, report, request, signals, this_machine};
use crate::bootstrap::Listener;
use crate::error::LaunchError;
use crate::job::{Host, JobSpec};
use crate::spawn::Spawner;
use crate::spawn::command::CommandSpawner;
use crate::spawn::local::LocalSpawner;
use crate::spawn::push::Launcher;
use crate::spawn::ssh::SshSpawner;
use crate::spawn::ssh::config::SshEnvironment;
use crate::{build_id, hostfile, mapping, torchrun};

/// A job's agents, each with its node's facts.
#[derive(Debug)]
pub struct Crew {
    /// The job that they have been told of.
    pub identity: Identity,
    /// Their hosts, in order of node.
    pub hosts: Vec<Host>,
    /// They themselves.
    pub connected: Vec<Connected>,
}

/// Starts an agent on every host that is needed, and has its facts.
pub(super) async fn start(
    spec: &JobSpec,
    hosts: Vec<Host>,
    signals: &mut mpsc::UnboundedReceiver<i32>,
    limits: Limits,
    writer: &Writer,
    log: &EventLog,
) -> Result<Crew, Vec<LaunchError>> {
    let needed = mapping::hosts_needed(&request(spec, &hosts)?, &hosts);
    let hosts: Vec<Host> =
        hosts.into_iter().zip(needed).filter(|(_, needed)| *needed).map(|(host, _)| host).collect();
    let identity = identity()?;
    log.tell("start", records::start_json(&identity, spec, &hosts));
    let listener = Arc::new(Listener::new(identity.job));
    let connected = tokio::select! {
        connected = connect_all(spec, &hosts, &identity, &listener, writer) => connected?,
        number = ending_signal(signals) => return Err(vec![LaunchError::Stopped { number }]),
        () = until(limits.job) => return Err(vec![timed_out(spec)]),
    };
    // Every agent that is awaited has joined, or stays in its channel: the port closes.
    drop(listener);
    Ok(Crew { identity, hosts, connected })
}

/// Names the job's hosts: those of the hostfile, or those of every program's `-H`; of both, where every program has
/// a list.
pub(super) fn hosts_of(spec: &JobSpec) -> Result<Vec<Host>, LaunchError> {
    let content = match &spec.hostfile {
        None => None,
        Some(path) => {
            let unreadable = |source| LaunchError::HostfileUnreadable { path: path.clone(), source };
            Some((path.as_path(), std::fs::read(path).map_err(unreadable)?))
        }
    };
    let hostfile = content.as_ref().map(|(path, bytes)| (*path, bytes.as_slice()));
    let some_run_anywhere = spec.apps.iter().any(|app| app.host_list.is_empty());
    let lists = spec.apps.iter().filter(|_| hostfile.is_none() || !some_run_anywhere);
    let mut list: Vec<String> = lists.flat_map(|app| &app.host_list).cloned().collect();
    if let (Some(rankfile), None, true) = (&spec.rankfile, hostfile, list.is_empty()) {
        list = rankfile.hosts();
    }
    let mut hosts = torchrun::chosen_hosts(spec, hostfile::hosts(hostfile, &list)?)?;
    if spec.nolocal {
        let named = hosts.len();
        hosts.retain(|host| !this_machine::is_meant_by(host));
        if hosts.is_empty() {
            return Err(LaunchError::NoHostButThis { named });
        }
    }
    if let Some(slots) = spec.default_slots {
        for host in hosts.iter_mut().filter(|host| host.slots.is_none()) {
            host.slots = Some(slots);
            host.origin = format!("{}, --default-slots", host.origin);
        }
    }
    Ok(hosts)
}

/// Makes a new job's identity.
pub(crate) fn identity() -> Result<Identity, LaunchError> {
    let no_random =
        |error: efarun_wire::secure::NoRandomness| head("making the job's key", std::io::Error::other(error));
    Ok(Identity {
        job: JobId::generate().map_err(no_random)?,
        key: JobKey::generate().map_err(no_random)?,
        build: build_id::of_this_executable().map_err(|source| head("reading this executable", source))?,
    })
}

async fn connect_all(
    spec: &JobSpec,
    hosts: &[Host],
    identity: &Identity,
    listener: &Arc<Listener>,
    writer: &Writer,
) -> Result<Vec<Connected>, Vec<LaunchError>> {
    let routes = routes(spec, hosts, writer)?;
    let progress = Progress::new(writer);
    let patience = Patience { start: spec.start_timeout, hosts: spec.wait_for_hosts };
    let connected = connect::connect(routes, identity, listener, patience, &progress).await;
    connected.map_err(|errors| errors.into_iter().map(launch_error).collect())
}

/// Decides how each host is reached.
fn routes(spec: &JobSpec, hosts: &[Host], writer: &Writer) -> Result<Vec<Route>, LaunchError> {
    let local: Arc<dyn Spawner> = Arc::new(LocalSpawner::new(THIS_EXECUTABLE));
    let some_are_elsewhere = !hosts.iter().all(this_machine::is_meant_by);
    let remote = some_are_elsewhere.then(|| Remote::new(spec)).transpose();
    let remote = remote.map_err(|source| head("reading this executable", source))?;
    let route = |host: &Host| match &remote {
        Some(remote) if !this_machine::is_meant_by(host) => {
            let (spawner, note) = remote.route_to(host);
            Route { host: host.clone(), spawner, is_here: false, note }
        }
        _ => Route { host: host.clone(), spawner: Arc::clone(&local), is_here: true, note: None },
    };
    if let (true, Some(Remote::Ssh(spawner))) = (spec.verbose, &remote) {
        let unused: Vec<Vec<String>> = hosts.iter().map(|host| spawner.no_difference(host)).collect();
        for note in report::notes_by_text(hosts.iter().zip(unused.iter().map(Vec::as_slice))) {
            writer.note(format!("{note}; not acted on"));
        }
    }
    Ok(hosts.iter().map(route).collect())
}

/// The way to hosts that are not this machine.
enum Remote {
    Ssh(Arc<SshSpawner>),
    Command(Arc<CommandSpawner>),
}

impl Remote {
    fn new(spec: &JobSpec) -> std::io::Result<Remote> {
        let launcher = Launcher::of_this_executable()?;
        Ok(match &spec.launch_agent {
            Some(words) => Remote::Command(Arc::new(CommandSpawner::new(words.clone(), launcher))),
            None => Remote::Ssh(Arc::new(SshSpawner::new(launcher, SshEnvironment::of_this_process()))),
        })
    }

    fn route_to(&self, host: &Host) -> (Arc<dyn Spawner>, Option<String>) {
        match self {
            Remote::Command(spawner) => (Arc::<CommandSpawner>::clone(spawner), None),
            Remote::Ssh(spawner) => {
                let reason = spawner.system_ssh_reason(host);
                let note = reason.map(|reason| format!("reached by the system's ssh: {reason}"));
                (Arc::<SshSpawner>::clone(spawner), note)
            }
        }
    }
}

/// Stays right when the file that the launcher was started from is replaced or removed.
pub(crate) const THIS_EXECUTABLE: &str = "/proc/self/exe";

fn launch_error(error: ConnectError) -> LaunchError {
    match error {
        ConnectError::Spawn(error) => LaunchError::Spawn(error),
        ConnectError::NotIntroduced { host, source } => {
            LaunchError::HostLost { host, cause: source.to_string() }
        }
        ConnectError::OtherBuild { .. } => LaunchError::Internal { what: error.to_string() },
        ConnectError::GivenUp { waiting_for } => LaunchError::GivenUp { waiting_for },
        ConnectError::TimedOut { host, waiting_for, waited_s } => {
            LaunchError::StartTimedOut { waited_s, waiting_for: vec![format!("{host}: {waiting_for}")] }
        }
    }
}

fn timed_out(spec: &JobSpec) -> LaunchError {
    LaunchError::TimedOut { seconds: spec.timeout.unwrap_or_default().as_secs_f64() }
}

async fn ending_signal(signals: &mut mpsc::UnboundedReceiver<i32>) -> i32 {
    while let Some(number) = signals.recv().await {
        if signals::ends_the_job(number) {
            return number;
        }
        if number == signals::STOPPING {
            // No rank runs, and no agent has a lease yet.
            signals::stop_this_process();
        }
    }
    std::future::pending().await
}

async fn until(limit: Option<(Instant, Duration)>) {
    match limit {
        Some((at, _)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
