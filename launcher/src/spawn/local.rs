//! Starting an agent on this machine: a child of this process, no shell and no network.
//!
//! The agent sees the end of its input when the channel is dropped or this process dies, whatever way it dies: both
//! ends of the socket pair are close-on-exec, so no other child keeps it open.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::process::Command;

use crate::agent;
use crate::job::Host;
use crate::spawn::{AgentChannel, SpawnError, Spawner, child};

/// Starts agents as children of this process.
#[derive(Debug, Clone)]
pub struct LocalSpawner {
    executable: PathBuf,
}

impl LocalSpawner {
    /// A spawner that runs `executable` as the agent; the launcher gives `/proc/self/exe`, which stays right when
    /// the file it was started from is replaced.
    pub fn new(executable: impl Into<PathBuf>) -> Self {
        LocalSpawner { executable: executable.into() }
    }

    fn start_now(&self, host: &Host) -> Result<AgentChannel, SpawnError> {
        let mut command = Command::new(&self.executable);
        command.arg(agent::ARGUMENT);
        let started = child::start(command).map_err(|error| SpawnError::AgentNotStarted {
            host: host.mention(),
            cause: format!("{}: {error}", self.executable.display()),
            hint: String::new(),
        })?;
        started.guard.release();
        Ok(AgentChannel {
            stream: started.stream,
            stderr: started.stderr,
            ended: started.ended,
            head_address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            route: "this machine".to_owned(),
            carrier: None,
            notes: Vec::new(),
        })
    }
}

impl Spawner for LocalSpawner {
    fn start<'a>(
        &'a self,
        host: &'a Host,
        _timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<AgentChannel, SpawnError>> + Send + 'a>> {
        Box::pin(async move { self.start_now(host) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::spawn::{ChannelEnd, fixture};

    const DEADLINE: Duration = Duration::from_secs(10);

    fn this_machine() -> Host {
        fixture::host("here")
    }

    fn script(body: &str) -> (tempfile::TempDir, LocalSpawner) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent");
        fixture::script(&path, body);
        (folder, LocalSpawner::new(path))
    }

    #[tokio::test]
    async fn the_channel_is_the_childs_input_and_output() {
        let (_folder, spawner) = script(r#"[ "$1" = __agent ] && echo complaint >&2 && exec cat"#);
        let mut channel = spawner.start(&this_machine(), DEADLINE).await.unwrap();
        channel.stream.write_all(b"order").await.unwrap();
        channel.stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, channel.stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, b"order");
        assert_eq!(channel.stderr.recv().await.as_deref(), Some("complaint"));
        assert_eq!(channel.ended.await, Ok(ChannelEnd::Code(0)));
    }

    #[tokio::test]
    async fn dropping_the_stream_ends_the_child() {
        let (_folder, spawner) = script("cat >/dev/null; exit 7");
        let channel = spawner.start(&this_machine(), DEADLINE).await.unwrap();
        drop(channel.stream);
        let end = tokio::time::timeout(DEADLINE, channel.ended).await.unwrap();
        assert_eq!(end, Ok(ChannelEnd::Code(7)));
    }

    #[tokio::test]
    async fn the_child_leads_its_own_session_and_its_signal_is_named() {
        let (_folder, spawner) =
            script(r#"set -- $(cut -d" " -f1,6 /proc/$$/stat); echo "$1 $2" >&2; kill -SEGV $$"#);
        let mut channel = spawner.start(&this_machine(), DEADLINE).await.unwrap();
        let line = channel.stderr.recv().await.unwrap();
        let (process, session) = line.split_once(' ').unwrap();
        assert_eq!(process, session);
        assert_eq!(channel.ended.await, Ok(ChannelEnd::Signal("SIGSEGV".into())));
    }

    #[tokio::test]
    async fn an_executable_that_is_missing_is_named() {
        let error = LocalSpawner::new("/no/such/efarun").start(&this_machine(), DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/efarun"), "{error}");
    }
}
