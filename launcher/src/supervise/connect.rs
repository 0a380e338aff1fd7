//! Connecting: an agent on every host, its facts in hand, its link where it will stay.
//!
//! All hosts at once; the spawners bound how many handshakes run together. The first host that fails does not hide
//! the others: they get a moment to fail or succeed as well, because a user who mends one host at a time pays a
//! launch for each. Whatever takes longer than three seconds says what it is waiting for, by host. With
//! `--wait-for-hosts` a host that looks as if it were not up yet has not failed: it is tried again.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use efarun_wire::message::AgentOrder;
use efarun_wire::secure::{JobKey, LinkKey};
use efarun_wire::{BuildId, JobId, NodeId, PROTOCOL_VERSION};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::progress::Progress;
use super::stages::{Stage, Stages};
use crate::bootstrap::node_link::{self, HEARTBEAT, Introduced, LEASE, NotIntroduced};
use crate::bootstrap::{Joined, Listener};
use crate::job::Host;
use crate::spawn::{AgentChannel, SpawnError, Spawner};

/// How long the other hosts are given once one has failed.
const FAILURE_PATIENCE: Duration = Duration::from_secs(3);

/// How long after `--start-timeout` a spawner may take to say what it was waiting for: it knows better than we do.
const LAST_WORD_PATIENCE: Duration = Duration::from_millis(800);

/// The pause after a host's first try, which doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest: an instance takes half a minute to boot, and a try costs a packet.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long hosts are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// `--start-timeout`: for each that is up.
    pub start: Duration,
    /// `--wait-for-hosts`: for those that are not up yet.
    pub hosts: Option<Duration>,
}

impl Patience {
    /// The longest that connecting may take.
    fn in_all(&self) -> Duration {
        self.start.saturating_add(self.hosts.unwrap_or_default())
    }
}

/// What connecting needs to know.
#[derive(Debug)]
pub struct Identity {
    /// The job.
    pub job: JobId,
    /// Its key, from which each node's is derived.
    pub key: JobKey,
    /// This executable.
    pub build: BuildId,
}

/// Why a host has no agent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It could not be reached or the agent not started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The agent was started but did not report.
    #[error("host {host}: {source}")]
    NotIntroduced {
        /// The host as written.
        host: String,
        /// What happened.
        source: NotIntroduced,
    },
    /// The agent is another build.
    #[error(
        "host {host}: the agent there is build {theirs}, this is build {ours}: remove the stale copy from its cache"
    )]
    OtherBuild {
        /// The host as written.
        host: String,
        /// Its build.
        theirs: BuildId,
        /// Ours.
        ours: BuildId,
    },
    /// Others failed, and these hosts were not waited for any longer.
    #[error("not connected yet: {}", .waiting_for.join("; "))]
    GivenUp {
        /// Each such host, and what was being waited for.
        waiting_for: Vec<String>,
    },
    /// `--start-timeout` passed.
    #[error("host {host}: not connected after {waited_s} s: {waiting_for}")]
    TimedOut {
        /// The host as written.
        host: String,
        /// What was being waited for.
        waiting_for: String,
        /// `--start-timeout`.
        waited_s: u64,
    },
}

/// A connected host.
#[derive(Debug)]
pub struct Connected {
    /// The agent.
    pub agent: Introduced,
    /// What the user should know about the way there.
    pub notes: Vec<String>,
    /// Our address that this host can reach, where one was proved.
    pub head_address: Option<IpAddr>,
    /// The agent is a child of this process.
    pub is_here: bool,
    /// How long it took to connect.
    pub took: Duration,
}

/// How one host is reached.
pub struct Route {
    /// The host. Its node is the route's place in the list.
    pub host: Host,
    /// What starts its agent.
    pub spawner: Arc<dyn Spawner>,
    /// The agent is a child of this process: its channel is a socket pair, and no port is needed.
    pub is_here: bool,
    /// What the user should know about this way.
    pub note: Option<String>,
}

/// Connects to all hosts.
///
/// # Errors
///
/// One error for each host that failed, in the order of the hosts; then one for all that were still on their way.
pub async fn connect(
    routes: Vec<Route>,
    identity: &Identity,
    listener: &Arc<Listener>,
    patience: Patience,
    progress: &Progress<'_>,
) -> Result<Vec<Connected>, Vec<ConnectError>> {
    let hosts: Vec<String> = routes.iter().map(|route| route.host.mention()).collect();
    let stages = Stages::new(&hosts);
    let mut deadline = Instant::now() + patience.in_all() + LAST_WORD_PATIENCE;
    let mut attempts = JoinSet::new();
    for (index, route) in routes.into_iter().enumerate() {
        let node = NodeId(index as u32);
        let attempt = Attempt {
            order: order(identity, node, &route.host),
            link_key: identity.key.node_key(node),
            route,
            listener: Arc::clone(listener),
            stages: stages.clone(),
            patience,
        };
        attempts.spawn(async move { (node, attempt.run().await) });
    }
    let mut done: BTreeMap<NodeId, Result<Connected, ConnectError>> = BTreeMap::new();
    while done.len() < hosts.len() {
        progress.connecting(done.len(), hosts.len(), || stages.slowest());
        tokio::select! {
            Some(joined) = attempts.join_next() => {
                let (node, result) = joined.expect("an attempt neither panics nor is cancelled while awaited");
                if result.is_err() {
                    deadline = deadline.min(Instant::now() + FAILURE_PATIENCE);
                }
                done.insert(node, result);
            }
            () = tokio::time::sleep(progress.redraw_in()) => {}
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    progress.connected();
    let mut connected = Vec::new();
    let mut errors = Vec::new();
    let mut waiting_for = Vec::new();
    let has_failed = done.values().any(Result::is_err);
    for (index, host) in hosts.into_iter().enumerate() {
        let node = NodeId(index as u32);
        match done.remove(&node) {
            Some(Ok(host)) => connected.push(host),
            Some(Err(error)) => errors.push(error),
            None if has_failed => waiting_for.push(format!("{host}: {}", stages.of(node))),
            None => errors.push(ConnectError::TimedOut {
                host,
                waiting_for: stages.of(node),
                waited_s: patience.in_all().as_secs(),
            }),
        }
    }
    if !waiting_for.is_empty() {
        errors.push(ConnectError::GivenUp { waiting_for });
    }
    if errors.is_empty() { Ok(connected) } else { Err(errors) }
}

/// Makes the order of a node's agent.
pub(crate) fn order(identity: &Identity, node: NodeId, host: &Host) -> AgentOrder {
    AgentOrder {
        protocol: PROTOCOL_VERSION,
        job: identity.job,
        node,
        build: identity.build,
        key: identity.key.node_key(node),
        heartbeat_ms: HEARTBEAT.as_millis() as u32,
        lease_ms: LEASE.as_millis() as u32,
        host: host.name.clone(),
    }
}

/// One host on its way.
struct Attempt {
    route: Route,
    order: AgentOrder,
    link_key: LinkKey,
    listener: Arc<Listener>,
    stages: Stages,
    patience: Patience,
}

impl Attempt {
    async fn run(mut self) -> Result<Connected, ConnectError> {
        let (node, began) = (self.order.node, Instant::now());
        let mut channel = self.start_agent(began).await?;
        let head_address = channel.head_address;
        let mut notes: Vec<String> = self.route.note.take().into_iter().collect();
        notes.append(&mut channel.notes);
        self.stages.set(node, Stage::Step("its agent runs, waiting for its facts"));
        let not_introduced = |source| ConnectError::NotIntroduced { host: self.route.host.mention(), source };
        let is_here = self.route.is_here;
        // Where the connection has proved an address of ours the agent is told of it with its order.
        let mut waiting = head_address.filter(|_| !is_here).map(|address| self.listen_for(address));
        let bound = waiting.as_ref().and_then(|waiting| Some(waiting.as_ref().ok()?.0));
        let agent = node_link::introduce(channel, &self.order, bound).await.map_err(not_introduced)?;
        if agent.facts.build != self.order.build {
            let (host, theirs, ours) = (self.route.host.mention(), agent.facts.build, self.order.build);
            return Err(ConnectError::OtherBuild { host, theirs, ours });
        }
        let proved = head_address.or_else(|| ssh_client_of_ours(&agent)).filter(|_| !is_here);
        let Some(address) = proved else {
            self.stages.set(node, Stage::CONNECTED);
            notes.extend((!is_here).then(|| no_address(&agent)));
            return Ok(Connected { agent, notes, head_address: None, is_here, took: began.elapsed() });
        };
        let (agent, note) = match waiting.take().unwrap_or_else(|| self.listen_for(address)) {
            Ok((bound, joined)) => {
                self.stages.set(node, Stage::Step("its agent is dialling this machine"));
                agent.dial(&self.listener, joined, bound).await.map_err(not_introduced)?
            }
            Err(error) => (
                agent,
                Some(format!(
                    "cannot listen on {address} ({error}): staying in the connection that started the agent"
                )),
            ),
        };
        self.stages.set(node, Stage::CONNECTED);
        notes.extend(note);
        Ok(Connected { agent, notes, head_address: Some(address), is_here: false, took: began.elapsed() })
    }

    /// Starts the host's agent; where hosts are waited for, again and again as long as this one is not up. The last try
    /// begins when the time is over.
    async fn start_agent(&self, began: Instant) -> Result<AgentChannel, SpawnError> {
        for tries in 1_u32.. {
            let error = match self.route.spawner.start(&self.route.host, self.patience.start).await {
                Ok(channel) => return Ok(channel),
                Err(error) => error,
            };
            let Some(cause) = error.not_up(tries > 1) else { return Err(error) };
            let last = Box::new(error);
            let Some(wait) = self.patience.hosts else {
                return Err(SpawnError::NotUp { last, waited: None });
            };
            let waited = began.elapsed();
            if waited >= wait {
                return Err(SpawnError::NotUp { last, waited: Some((tries, waited.as_secs())) });
            }
            let stage = Stage::NotUp { cause, next_try: tries + 1, since: began, wait };
            self.stages.set(self.order.node, stage);
            tokio::time::sleep(pause_after(tries).min(wait - waited)).await;
        }
        unreachable!("nobody tries as often")
    }

    /// Opens a port on this address of ours, and awaits this host's agent there.
    fn listen_for(&self, address: IpAddr) -> std::io::Result<(SocketAddr, oneshot::Receiver<Joined>)> {
        let bound = self.listener.listen_on(address)?;
        Ok((bound, self.listener.expect(self.order.node, self.link_key.clone())))
    }
}

/// How long to wait after so many tries.
fn pause_after(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(tries - 1)).min(LONGEST_PAUSE)
}

/// Why an agent does not dial the head: nobody knows an address of ours that it could reach.
fn no_address(agent: &Introduced) -> String {
    let seen = match &agent.facts.ssh_client {
        Some(client) => format!("its SSH connection comes from {client}, which is not this machine"),
        None => "the connection does not tell which address of this machine is seen there".to_owned(),
    };
    format!("cannot dial this machine ({seen}): staying in the connection that started the agent")
}

/// The address that the node saw our SSH connection come from, if it is ours and not that of a gateway between.
fn ssh_client_of_ours(agent: &Introduced) -> Option<IpAddr> {
    let address: IpAddr = agent.facts.ssh_client.as_ref()?.parse().ok()?;
    super::this_machine::has_address(address).then_some(address)
}
