//! Starting an agent on a host: one trait, and the ways to do it.
//!
//! A [`Spawner`] reaches a host and starts an agent there. What it gives back is the agent's *channel*: one stream
//! that is the agent's standard input and output, its standard error, and a word about its end. The head's only
//! way to end an agent is to close the channel; the agent sees the end of its input and ends its ranks.
//!
//! [`local`] starts a child of this process. [`ssh`] has SSH built in. [`command`] runs any command with ssh's shape.
//! The last two reach a shell on the other side, where [`push`] finds or installs the launcher before the channel
//! is handed over.

mod child;
pub mod command;
#[cfg(test)]
mod fixture;
mod lines;
pub mod local;
pub mod push;
pub mod ssh;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::job::Host;

/// A running agent, as the head holds it. The agent has been found or pushed, and reads [`efarun_wire::message::AgentOrder`]
/// from `stream` next.
#[derive(Debug)]
pub struct AgentChannel {
    /// Written bytes reach the agent's standard input, what it writes to standard output is read here.
    /// Dropping it, or shutting its write half down, is end of file for the agent.
    pub stream: UnixStream,
    /// Lines that arrived on standard error, without their end of line.
    pub stderr: mpsc::Receiver<String>,
    /// Arrives once, when the channel has ended.
    pub ended: oneshot::Receiver<ChannelEnd>,
    /// The address of ours that this connection proved to be reachable from there, where one was.
    pub head_address: Option<IpAddr>,
    /// How it was reached, for messages: `ssh root@10.0.0.2:22`, `this machine`, `command kubexec`.
    pub route: String,
}

/// How a channel ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEnd {
    /// The agent, or the command that carried it, returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(String),
    /// The connection under it was lost.
    Lost(String),
}

/// A way to start agents.
pub trait Spawner: Send + Sync {
    /// Starts an agent on the host within `timeout`, which covers everything: name, connection, authentication,
    /// retries, pushing the launcher.
    fn start<'a>(
        &'a self,
        host: &'a Host,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<AgentChannel, SpawnError>> + Send + 'a>>;
}

/// Why no agent runs on a host: what failed, where, the value at fault, what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The name has no address.
    #[error("host {host}: the name `{name}` has no address: {cause}")]
    UnknownHost {
        /// The host as written.
        host: String,
        /// The name that was looked up.
        name: String,
        /// The resolver's word.
        cause: String,
    },
    /// Nothing listens there.
    #[error("host {host}: {address} refused the connection: is sshd running there, on this port?")]
    Refused {
        /// The host as written.
        host: String,
        /// `address:port`.
        address: String,
    },
    /// No answer in time.
    #[error("host {host}: {what} gave no answer in {waited_s} s: {hint}")]
    TimedOut {
        /// The host as written.
        host: String,
        /// What was waited for: `10.0.0.2:22`, `the SSH handshake with 10.0.0.2:22`, …
        what: String,
        /// How long.
        waited_s: u64,
        /// What to look at.
        hint: String,
    },
    /// The connection failed in another way.
    #[error("host {host}: {what}: {cause}")]
    Connection {
        /// The host as written.
        host: String,
        /// What was tried.
        what: String,
        /// What went wrong.
        cause: String,
    },
    /// The host key is not known.
    #[error(
        "host {host}: its {key_type} host key {fingerprint} is not in {files}: run `ssh {destination}` once to accept it, or `ssh-keyscan`"
    )]
    UnknownHostKey {
        /// The host as written.
        host: String,
        /// What to type after ssh.
        destination: String,
        /// `ssh-ed25519`, …
        key_type: String,
        /// `SHA256:…`
        fingerprint: String,
        /// The known_hosts files that were read.
        files: String,
    },
    /// The host key is not the one on record.
    #[error(
        "host {host}: its {key_type} host key {fingerprint} is not the one on record in {file}: it was reinstalled, or somebody is in between; if you trust it, remove the old one by `ssh-keygen -R {name}`"
    )]
    ChangedHostKey {
        /// The host as written.
        host: String,
        /// The name on record.
        name: String,
        /// `ssh-ed25519`, …
        key_type: String,
        /// `SHA256:…`
        fingerprint: String,
        /// The known_hosts file.
        file: String,
    },
    /// No key was accepted.
    #[error(
        "host {host}: {user} was not let in; tried {tried}: add one of these keys to {user}'s authorized_keys there, or name another by IdentityFile"
    )]
    NotAuthenticated {
        /// The host as written.
        host: String,
        /// The user name there.
        user: String,
        /// Which keys and methods were tried, in order.
        tried: String,
    },
    /// The launcher could not be installed or started there.
    #[error("host {host}: the agent did not start: {cause}")]
    AgentNotStarted {
        /// The host as written.
        host: String,
        /// What the other side said.
        cause: String,
    },
    /// The host runs on another CPU architecture.
    #[error(
        "host {host} is {theirs}, this efarun is built for {ours}: install a build for {theirs} there, or run the head on such a machine"
    )]
    OtherArchitecture {
        /// The host as written.
        host: String,
        /// Its `uname -m`.
        theirs: String,
        /// Ours.
        ours: String,
    },
}

impl SpawnError {
    /// The host that this is about.
    pub fn host(&self) -> &str {
        match self {
            SpawnError::UnknownHost { host, .. }
            | SpawnError::Refused { host, .. }
            | SpawnError::TimedOut { host, .. }
            | SpawnError::Connection { host, .. }
            | SpawnError::UnknownHostKey { host, .. }
            | SpawnError::ChangedHostKey { host, .. }
            | SpawnError::NotAuthenticated { host, .. }
            | SpawnError::AgentNotStarted { host, .. }
            | SpawnError::OtherArchitecture { host, .. } => host,
        }
    }
}
