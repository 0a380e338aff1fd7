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
mod error;
#[cfg(test)]
mod fixture;
mod lines;
pub mod local;
pub mod push;
pub mod ssh;

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::job::Host;

pub use error::SpawnError;
pub(crate) use error::{fragment, key_hint};

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
    /// The command whose end is the channel's end, where there is one between the agent and us: `ssh h2`.
    pub carrier: Option<String>,
    /// What the user should know about the agent's start.
    pub notes: Vec<String>,
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

/// As a fragment that fits a subject: `ended with code 3`.
impl fmt::Display for ChannelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelEnd::Code(code) => write!(f, "ended with code {code}"),
            ChannelEnd::Signal(signal) => write!(f, "was ended by {signal}"),
            ChannelEnd::Lost(cause) => write!(f, "was lost: {cause}"),
        }
    }
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
