//! A job from its specification to its end.
//!
//! [`run`] takes the phases in order: name the hosts, connect, place, make the environment, launch, watch, report.
//! What can be decided without contacting anybody is decided before anybody is contacted. The work of each phase is
//! elsewhere: [`connect`] has the first contact, [`dispatcher`] the running job, [`verdict`] the question which
//! failure was the first, [`report`] the words about the end. Every wait has a deadline and a sentence.

pub mod connect;
pub mod dispatcher;
pub mod dry_run;
pub mod progress;
pub mod report;
pub mod signals;
pub mod stacks;
pub mod stdin;
pub mod this_machine;
pub mod verdict;
pub mod writer;

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::Duration;

use efarun_wire::facts::NodeFacts;
use efarun_wire::message::{AppPlan, LaunchPlan, RankPlan};
use efarun_wire::oob::RootHub;
use efarun_wire::secure::JobKey;
use efarun_wire::{JobId, Rank};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::binding::{self, RankBinding};
use crate::bootstrap::Listener;
use crate::env::{self, JobEnv};
use crate::error::LaunchError;
use crate::exit_code::ExitCause;
use crate::job::{App, DryRun, Host, JobSpec, OutputSpec, StdinTo};
use crate::keeper::limits;
use crate::mapping::{self, Placement};
use crate::output::{LineStyle, RankFiles, Terminal};
use crate::spawn::Spawner;
use crate::spawn::command::CommandSpawner;
use crate::spawn::local::LocalSpawner;
use crate::spawn::push::Launcher;
use crate::spawn::ssh::SshSpawner;
use crate::spawn::ssh::config::SshEnvironment;
use crate::{build_id, hostfile, torchrun};

use connect::{ConnectError, Connected, Identity, Route};
use dispatcher::{Inputs, Limits, Node};
use progress::Progress;
use writer::{OUTPUT_CREDIT_BYTES, Writer, Written};

/// How long a reader of the launcher's output may pause at the end of a job before what is left is dropped.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);

/// Runs a job, or shows what would be run, and says with which exit code to end. Everything a user should know has
/// been written when it returns.
pub async fn run(spec: JobSpec) -> ExitCause {
    match signals::listen() {
        Ok(signals) => attempt(&spec, None, signals).await.cause,
        Err(source) => {
            Terminal::process().error(head("installing signal handlers", source));
            ExitCause::Internal
        }
    }
}

/// Agents that came by themselves, each with its node's facts.
#[derive(Debug)]
pub struct Crew {
    /// The job that they were told of.
    pub identity: Identity,
    /// Their hosts, in order of node.
    pub hosts: Vec<Host>,
    /// They themselves.
    pub connected: Vec<Connected>,
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
}

/// As [`run`], for a job that may be run again, or whose agents came by themselves: whoever calls listens to signals.
pub async fn attempt(spec: &JobSpec, crew: Option<Crew>, signals: mpsc::UnboundedReceiver<i32>) -> Attempted {
    let failed = Attempted { cause: ExitCause::Internal, error: None, has_launched: false };
    let Ok((writer, written)) = Writer::start(line_style(spec)) else { return failed };
    let attempted = match try_run(spec, crew, signals, &writer, written).await {
        Ok((cause, error)) => {
            let error = error.map(|error| error.to_string());
            Attempted { cause, error, has_launched: spec.dry_run.is_none() }
        }
        Err(errors) => {
            errors.iter().for_each(|error| writer.error(error.to_string()));
            let cause = errors.first().map_or(ExitCause::Internal, LaunchError::exit_cause);
            let error = errors.first().map(LaunchError::to_string);
            Attempted { cause, error, has_launched: false }
        }
    };
    writer.finish(OUTPUT_PATIENCE);
    attempted
}

pub(crate) fn line_style(spec: &JobSpec) -> LineStyle {
    let OutputSpec { tag, timestamp, merge_stderr, .. } = spec.output;
    LineStyle { tag, timestamp, merged: merge_stderr }
}

async fn try_run(
    spec: &JobSpec,
    crew: Option<Crew>,
    mut signals: mpsc::UnboundedReceiver<i32>,
    writer: &Writer,
    written: mpsc::UnboundedReceiver<Written>,
) -> Result<(ExitCause, Option<LaunchError>), Vec<LaunchError>> {
    spec.notes.iter().for_each(|note| writer.note(note));
    let limits = limits_of(spec);
    let crew = match crew {
        Some(crew) => crew,
        None => {
            let hosts = hosts_of(spec)?;
            if spec.dry_run == Some(DryRun::Offline) {
                return Ok((dry_run::offline(spec, &hosts, writer)?, None));
            }
            start_crew(spec, hosts, &mut signals, limits, writer).await?
        }
    };
    let Crew { identity, hosts, connected } = crew;
    let job = prepare(spec, &hosts, &identity, connected, writer)?;
    if spec.dry_run == Some(DryRun::Online) {
        return Ok((dry_run::online(spec, &job, writer), None));
    }
    make_files(spec, &job.placement, writer)?;
    show_placement(spec, &job, writer);
    Ok(watch(spec, job, signals, written, limits, writer).await)
}

/// Starts an agent on every host that is needed, and has its facts.
async fn start_crew(
    spec: &JobSpec,
    hosts: Vec<Host>,
    signals: &mut mpsc::UnboundedReceiver<i32>,
    limits: Limits,
    writer: &Writer,
) -> Result<Crew, Vec<LaunchError>> {
    let needed = mapping::hosts_needed(&request(spec, &hosts)?, &hosts);
    let hosts: Vec<Host> =
        hosts.into_iter().zip(needed).filter(|(_, needed)| *needed).map(|(host, _)| host).collect();
    let identity = identity()?;
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

/// Names the job's hosts: those of the hostfile, or those of every program's `-H`; of both, where every program has
/// a list.
fn hosts_of(spec: &JobSpec) -> Result<Vec<Host>, LaunchError> {
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
    let list: Vec<String> = lists.flat_map(|app| &app.host_list).cloned().collect();
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

fn request(spec: &JobSpec, hosts: &[Host]) -> Result<mapping::Request, LaunchError> {
    Ok(mapping::Request::new(spec, hosts)?)
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

fn limits_of(spec: &JobSpec) -> Limits {
    let now = Instant::now();
    Limits {
        start: (now + spec.start_timeout, spec.start_timeout),
        job: spec.timeout.map(|limit| (now + limit, limit)),
        grace: spec.grace,
        on_failure: spec.on_failure,
    }
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
    let connected = connect::connect(routes, identity, listener, spec.start_timeout, &progress).await;
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
        for (rank, binding) in node.ranks.iter().zip(of_node) {
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

/// The ranks that read standard input.
fn stdin_readers(spec: &JobSpec, placement: &Placement) -> Vec<Rank> {
    match spec.stdin {
        StdinTo::None => Vec::new(),
        StdinTo::Rank(rank) => vec![rank],
        StdinTo::All => placement.ranks.iter().map(|place| place.rank).collect(),
    }
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

/// Launches, watches and reports.
async fn watch(
    spec: &JobSpec,
    job: Prepared,
    signals: mpsc::UnboundedReceiver<i32>,
    written: mpsc::UnboundedReceiver<Written>,
    limits: Limits,
    writer: &Writer,
) -> (ExitCause, Option<LaunchError>) {
    let (node_events, nodes_receiver) = mpsc::unbounded_channel();
    let Prepared { job: job_id, placement, bindings, env, agents } = job;
    let mut nodes = Vec::with_capacity(agents.len());
    for (place, agent) in placement.nodes.iter().zip(agents) {
        nodes.push(Node {
            host: place.host.to_string(),
            link: agent.agent.start(place.node, node_events.clone()),
            ranks: place.ranks.clone(),
            plan: Some(launch_plan(spec, job_id, &placement, place, &bindings, &env)),
        });
    }
    drop(node_events);
    let hub = RootHub::for_head(placement.nodes.iter().map(|place| (place.node, place.ranks.clone())));
    let stdin_readers = stdin_readers(spec, &placement);
    let stdin = if stdin_readers.is_empty() { None } else { stdin::read() };
    let inputs = Inputs { nodes: nodes_receiver, signals, written, stdin, stdin_readers };
    let node_count = nodes.len();
    let ended = dispatcher::run(nodes, hub, writer, inputs, limits).await;
    let error = ended.verdict.first_failure().map(|failure| report::error_of(failure, &placement));
    if let Some(error) = &error {
        writer.error(report::failure_lines(error, &ended, writer).join("\n"));
    }
    if error.is_some() || spec.verbose || !ended.unacknowledged.is_empty() {
        writer.note(report::leftovers_line(&ended, placement.world_size(), node_count));
    }
    if spec.json {
        writer.print(report::to_json(&ended, &placement, error.as_ref()).to_string());
    }
    (error.as_ref().map_or(ExitCause::Success, LaunchError::exit_cause), error)
}

fn launch_plan(
    spec: &JobSpec,
    job: JobId,
    placement: &Placement,
    place: &mapping::NodePlace,
    bindings: &[RankBinding],
    env: &[JobEnv],
) -> LaunchPlan {
    let apps = spec.apps.iter().zip(env).map(|(app, env)| {
        let here = || std::env::current_dir().unwrap_or_else(|_| "/".into());
        let wdir = app.wdir.clone().unwrap_or_else(here);
        let (program, args) = torchrun::command(spec, app);
        AppPlan {
            program: program.into_vec(),
            args: args.into_iter().map(OsString::into_vec).collect(),
            search_path: app
                .search_path
                .as_ref()
                .map_or_else(Vec::new, |path| path.as_os_str().as_bytes().to_vec()),
            env: env.node_env(place.node),
            wdir: wdir.as_os_str().as_bytes().to_vec(),
            wdir_required: app.wdir.is_some(),
        }
    });
    let ranks = place.ranks.iter().map(|rank| {
        let rank_place = &placement.ranks[rank.index()];
        RankPlan {
            rank: *rank,
            local_rank: rank_place.local_rank,
            app: u32::try_from(rank_place.app).expect("every program has one of at most MAX_RANKS ranks"),
            cpus: bindings[rank.index()].cpus.clone(),
            env: env[rank_place.app].per_rank(*rank),
        }
    });
    let mut plan = LaunchPlan {
        node: place.node,
        apps: apps.collect(),
        ranks: ranks.collect(),
        world_size: placement.world_size(),
        map: placement.job_map(),
        stdin_ranks: stdin_readers(spec, placement)
            .into_iter()
            .filter(|rank| placement.ranks[rank.index()].node == place.node)
            .collect(),
        merge_stderr: spec.output.merge_stderr,
        output_credit: OUTPUT_CREDIT_BYTES,
        limits: limits::own(),
        master_port: spec
            .torchrun
            .as_ref()
            .and_then(|torchrun| torchrun.master_port)
            .filter(|_| place.node.0 == 0),
        folders: spec
            .torchrun
            .as_ref()
            .map(|torchrun| torchrun::folders(torchrun, job, place.node, &place.ranks)),
    };
    // The other nodes do the same, each with its own.
    if spec.is_by_hand() && place.node.0 == 0 {
        torchrun::by_hand::own::complete(&mut plan, spec);
    }
    plan
}

fn head(what: &str, source: std::io::Error) -> LaunchError {
    LaunchError::Head { what: what.to_owned(), source }
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
