//! SSH, built in: what `ssh host` would reach, without an ssh to be installed.
//!
//! Given hosts and the user's own configuration ([`config`]), it connects, checks the host's key, authenticates
//! (`connect`, `known_hosts`, `auth`), runs the constant command of [`super::push`] (`prompt`), and carries bytes until
//! the agent ends (`pump`). libssh2 blocks, so each host has a thread of its own, with a small stack; at most
//! [`PARALLEL_HANDSHAKES`] of them start a connection at the same time.
//!
//! What libssh2 cannot do (jump hosts, proxy commands, certificates, …) is recognised beforehand, and such a host is
//! reached by the system's `ssh`: [`SshSpawner::system_ssh_reason`] says why, so that the user can be told once.
//! Nothing is ever asked on the terminal, no agent is forwarded, no terminal is allocated.

pub(crate) mod auth;
mod banner;
pub mod config;
pub(crate) mod connect;
pub(crate) mod known_hosts;
pub(crate) mod prompt;
pub(crate) mod pump;

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout_at;

use crate::job::Host;
use crate::spawn::command::CommandSpawner;
use crate::spawn::lines::LineSink;
use crate::spawn::push::{self, Launcher};
use crate::spawn::{AgentChannel, ChannelEnd, SpawnError, Spawner, fragment};
use config::{AddressFamily, HostConfig, SshEnvironment};
use connect::{Connection, Phase, Target};
use known_hosts::{KnownHosts, RecordName};
use pump::Pump;

/// Starts agents over SSH.
#[derive(Debug, Clone)]
pub struct SshSpawner {
    environment: SshEnvironment,
    launcher: Launcher,
    window: Arc<Semaphore>,
    system_ssh: CommandSpawner,
}

/// A session whose remote shell runs, handed from its thread to the caller.
struct Opened {
    stderr: mpsc::Receiver<String>,
    ended: oneshot::Receiver<ChannelEnd>,
    peer: SocketAddr,
    local: std::net::IpAddr,
}

impl SshSpawner {
    /// A spawner that installs this launcher, with the configuration found in this environment.
    pub fn new(launcher: Launcher, environment: SshEnvironment) -> Self {
        SshSpawner {
            system_ssh: CommandSpawner::system_ssh(launcher.clone()),
            environment,
            launcher,
            window: Arc::new(Semaphore::new(PARALLEL_HANDSHAKES)),
        }
    }

    /// Says why this host will be reached by the system's `ssh`, if it will: `ProxyJump bastion (FILE:LINE)`.
    pub fn system_ssh_reason(&self, host: &Host) -> Option<String> {
        reason(&HostConfig::resolve(host, &self.environment))
    }

    /// What the configuration sets for this host and the built-in SSH need not act on, each with its reason.
    pub fn no_difference(&self, host: &Host) -> Vec<String> {
        HostConfig::resolve(host, &self.environment).no_difference
    }

    async fn start_by(&self, host: &Host, allowed: Duration) -> Result<AgentChannel, SpawnError> {
        let deadline = Instant::now() + allowed;
        let config = HostConfig::resolve(host, &self.environment);
        if let Some(reason) = reason(&config) {
            if !self.system_ssh.is_installed() {
                return Err(SpawnError::NoSystemSsh { host: host.mention(), reason });
            }
            return self.system_ssh.start(host, allowed).await;
        }
        let phase = Phase::default();
        let user = config.user.clone();
        let (addresses, mention) = (Vec::new(), host.mention());
        let mut target = Target { mention, config, addresses, deadline, allowed, phase: phase.clone() };
        target.phase.enter("its turn".to_owned());
        let destination = target.destination();
        let in_time = async {
            let window = Arc::clone(&self.window);
            let permit = window.acquire_owned().await.expect("the window is never closed");
            target.addresses = resolve(&target).await?;
            let (ours, theirs) = StdUnixStream::pair().map_err(|error| no_channel(host, &error))?;
            ours.set_nonblocking(true).map_err(|error| no_channel(host, &error))?;
            let mut stream = UnixStream::from_std(ours).map_err(|error| no_channel(host, &error))?;

            let mut opened =
                on_thread(target, theirs, self.launcher.remote_command().to_owned(), permit).await?;
            phase.enter(format!("the remote shell at {}", opened.peer));
            match push::hand_over(&mut stream, &self.launcher, allowed).await {
                Ok(installed) => {
                    push::skip_greetings(&mut opened.stderr).await;
                    Ok(AgentChannel {
                        stream,
                        stderr: opened.stderr,
                        ended: opened.ended,
                        head_address: Some(opened.local),
                        route: format!("ssh {user}@{}", opened.peer),
                        carrier: None,
                        notes: installed.notes(),
                    })
                }
                Err(error) => {
                    drop(stream);
                    let end = tokio::time::timeout(LAST_WORDS, opened.ended).await.ok().and_then(Result::ok);
                    let error = error.with_end(end).on_host(host);
                    Err(push::with_last_words(error, &push::waiting_lines(&mut opened.stderr)))
                }
            }
        };
        // The thread minds the deadline too and has the better words, but it may be stuck in a call that does not.
        match timeout_at((deadline + THREAD_GRACE).into(), in_time).await {
            Ok(result) => result,
            Err(_) => Err(connect::timed_out(&host.mention(), &phase, allowed, &destination)),
        }
    }
}

impl Spawner for SshSpawner {
    fn start<'a>(
        &'a self,
        host: &'a Host,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<AgentChannel, SpawnError>> + Send + 'a>> {
        Box::pin(self.start_by(host, timeout))
    }
}

fn reason(config: &HostConfig) -> Option<String> {
    let mut reasons: Vec<String> = config.needs_system_ssh().map(str::to_owned).into_iter().collect();
    reasons.extend(connect::unknown_algorithms(&config.algorithms));
    let name = RecordName::new(&config.host_name, config.port, config.host_key_alias.as_deref());
    if KnownHosts::read(&config.known_hosts).needs_certificate(&name) {
        reasons.push(format!("its host key is known by a certificate authority alone ({})", name.name));
    }
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// Runs a command on a host by a session of its own, without the launcher, and waits for its end. What it writes is
/// dropped. This is what a launch over SSH cannot be faster than; `ssh_floor` measures it.
///
/// # Errors
///
/// As for [`Spawner::start`]; hosts that need the system's `ssh` are not told apart.
pub async fn run_command(
    host: &Host,
    environment: &SshEnvironment,
    command: &str,
    allowed: Duration,
) -> Result<ChannelEnd, SpawnError> {
    let config = HostConfig::resolve(host, environment);
    let deadline = Instant::now() + allowed;
    let (mention, addresses) = (host.mention(), Vec::new());
    let mut target = Target { mention, config, addresses, deadline, allowed, phase: Phase::default() };
    let (phase, destination) = (target.phase.clone(), target.destination());
    let in_time = async {
        target.addresses = resolve(&target).await?;
        let (ours, theirs) = StdUnixStream::pair().map_err(|error| no_channel(host, &error))?;
        let alone = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("the semaphore is never closed");
        let opened = on_thread(target, theirs, command.to_owned(), alone).await?;
        drop(ours);
        Ok(opened.ended.await.unwrap_or_else(|_| ChannelEnd::Lost("its thread is gone".to_owned())))
    };
    match timeout_at((deadline + THREAD_GRACE).into(), in_time).await {
        Ok(result) => result,
        Err(_) => Err(connect::timed_out(&host.mention(), &phase, allowed, &destination)),
    }
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, SpawnError> {
    let config = &target.config;
    target.phase.enter(format!("the address of `{}`", config.host_name));
    let unknown = |error: std::io::Error| {
        SpawnError::unknown_host(target.mention.clone(), &config.host_name, &error.to_string())
    };
    let found = tokio::net::lookup_host((config.host_name.as_str(), config.port)).await.map_err(unknown)?;
    let wanted = |address: &SocketAddr| match config.address_family {
        AddressFamily::Any => true,
        AddressFamily::V4 => address.is_ipv4(),
        AddressFamily::V6 => address.is_ipv6(),
    };
    Ok(found.filter(wanted).collect())
}

/// Runs the session on a thread of its own, until its channel ends; returns when the remote shell runs.
async fn on_thread(
    target: Target,
    head: StdUnixStream,
    command: String,
    permit: OwnedSemaphorePermit,
) -> Result<Opened, SpawnError> {
    let (host, mention) = (target.config.host.clone(), target.mention.clone());
    let (opened, outcome) = oneshot::channel();
    let session = move || {
        let started = open_shell(&target, head, &command);
        drop(permit);
        match started {
            Err(error) => drop(opened.send(Err(error))),
            Ok((pump, stderr, peer, local)) => {
                let (end, ended) = oneshot::channel();
                // A caller that has given up drops its end of the socket pair too, and the pump sees that.
                let _ = opened.send(Ok(Opened { stderr, ended, peer, local }));
                let _ = end.send(pump.run());
            }
        }
    };
    let thread =
        std::thread::Builder::new().name(format!("ssh {host}")).stack_size(STACK_BYTES).spawn(session);
    let failed = |cause: String| SpawnError::Connection {
        host: mention,
        what: "its session's thread".to_owned(),
        cause,
        hint: String::new(),
    };
    match thread {
        Err(error) => Err(failed(error.to_string())),
        Ok(_detached) => outcome.await.unwrap_or_else(|_| Err(failed("it panicked".to_owned()))),
    }
}

type Shell = (Pump, mpsc::Receiver<String>, SocketAddr, std::net::IpAddr);

fn open_shell(target: &Target, head: StdUnixStream, command: &str) -> Result<Shell, SpawnError> {
    let Connection { session, tcp, peer, local } = connect::establish(target)?;
    target.phase.enter(format!("the remote shell at {peer}"));
    let failed = |error: ssh2::Error| target.session_error(&error, peer, "the session");
    let deadline = target.deadline;
    let mut channel = prompt::call(&session, &tcp, deadline, || session.channel_session()).map_err(failed)?;
    for (name, value) in &target.config.set_env {
        // A server takes what its AcceptEnv lists, and ssh does not mind either.
        let _ = prompt::call(&session, &tcp, deadline, || channel.setenv(name, value));
    }
    prompt::call(&session, &tcp, deadline, || channel.exec(command)).map_err(failed)?;
    let (sink, stderr) = LineSink::new();
    let pump = Pump::new(session, channel, tcp, head, sink).map_err(|error| SpawnError::Connection {
        host: target.mention.clone(),
        what: "its channel".to_owned(),
        cause: fragment(&error),
        hint: String::new(),
    })?;
    Ok((pump, stderr, peer, local))
}

fn no_channel(host: &Host, error: &std::io::Error) -> SpawnError {
    SpawnError::Connection {
        host: host.mention(),
        what: "making a channel".to_owned(),
        cause: fragment(error),
        hint: String::new(),
    }
}

/// Hosts that may be in name lookup, handshake or authentication at once. sshd is not the limit, for each host has its
/// own: this head's CPU is, at some 10 ms per handshake.
pub const PARALLEL_HANDSHAKES: usize = 32;

/// libssh2 keeps its buffers on the heap; OpenSSL's deepest calls need some tens of KiB.
const STACK_BYTES: usize = 512 << 10;

const LAST_WORDS: Duration = Duration::from_secs(2);
const THREAD_GRACE: Duration = Duration::from_millis(300);
