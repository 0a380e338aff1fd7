//! Starting an agent by any command with ssh's shape: `--launch-agent CMD…`, and the system's own `ssh`.
//!
//! Given the words of a command, it runs `CMD… [-p PORT] [USER@]HOST REMOTE_COMMAND` and speaks with the remote shell
//! through the command's standard input and output, which must carry bytes unchanged: no terminal in between.
//! When the command fails before the agent runs, the well-known complaints of ssh are turned into the same
//! [`SpawnError`]s that the built-in SSH gives; of other commands the exit and the last lines are told.
//!
//! It does not know which address of ours the host can reach.

mod complaint;

use std::borrow::Cow;
use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::job::Host;
use crate::spawn::child::{self, Started};
use crate::spawn::push::{self, Installed, Launcher, PushError};
use crate::spawn::ssh::connect::START_TIMEOUT;
use crate::spawn::{AgentChannel, ChannelEnd, SpawnError, Spawner, fragment};

/// Starts agents by a command with ssh's shape.
#[derive(Debug, Clone)]
pub struct CommandSpawner {
    words: Vec<OsString>,
    launcher: Launcher,
    window: Arc<Semaphore>,
}

impl CommandSpawner {
    /// A spawner that runs these words, then the host, then the remote command.
    ///
    /// # Panics
    ///
    /// When there is no word.
    pub fn new(words: Vec<OsString>, launcher: Launcher) -> Self {
        assert!(!words.is_empty(), "a command has at least one word");
        CommandSpawner { words, launcher, window: Arc::new(Semaphore::new(PARALLEL_STARTS)) }
    }

    /// A spawner that runs the system's `ssh`: it cannot ask questions, and forwards nothing. A connection that its
    /// ControlPath names is used, but none is left open.
    pub fn system_ssh(launcher: Launcher) -> Self {
        let options = [
            "BatchMode=yes",
            "ServerAliveInterval=5",
            "ClearAllForwardings=yes",
            "ControlMaster=no",
            "EscapeChar=none",
            "RemoteCommand=none",
        ];
        let words =
            ["ssh", "-T", "-x", "-a"].into_iter().chain(options.iter().flat_map(|option| ["-o", option]));
        CommandSpawner::new(words.map(OsString::from).collect(), launcher)
    }

    /// Whether the command is there to be run.
    pub fn is_installed(&self) -> bool {
        let command = Path::new(&self.words[0]);
        let is_program = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
        if command.components().count() > 1 {
            return is_program(command);
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| is_program(&folder.join(command)))
    }

    async fn start_by(&self, host: &Host, allowed: Duration) -> Result<AgentChannel, SpawnError> {
        let deadline = Instant::now() + allowed;
        let timed_out = |what: String, hint: String| SpawnError::TimedOut {
            host: host.mention(),
            what,
            waited_s: allowed.as_secs(),
            limit: START_TIMEOUT.to_owned(),
            hint,
        };
        let permit = timeout_at(deadline, self.window.acquire()).await;
        let _permit = permit
            .map_err(|_| {
                timed_out("its turn".to_owned(), "the hosts before it took all the time".to_owned())
            })?
            .expect("the window is never closed");

        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]);
        if let Some(port) = host.port {
            command.arg("-p").arg(port.to_string());
        }
        command.args(self.address_option(host));
        command.arg(self.destination(host)).arg(self.launcher.remote_command());
        let mut started = child::start(command).map_err(|error| SpawnError::Connection {
            host: host.mention(),
            what: format!("the launch agent `{}`", self.name()),
            cause: fragment(&error),
            hint: "--launch-agent takes a command with ssh's shape, by its path or from PATH".to_owned(),
        })?;

        match timeout_at(deadline, push::hand_over(&mut started.stream, &self.launcher, allowed)).await {
            Ok(Ok(installed)) => Ok(self.channel(host, started, &installed).await),
            Ok(Err(error)) => Err(self.explain(host, error, started).await),
            // Dropping `started` ends the command.
            Err(_) => Err(timed_out(
                format!("`{} {}`", self.name(), self.destination(host)),
                match &push::waiting_lines(&mut started.stderr)[..] {
                    [] => format!("does `{} {} true` work?", self.name(), self.destination(host)),
                    lines => format!("its last words: {}", push::last_of(lines)),
                },
            )),
        }
    }

    /// ssh itself is told the address beside the name, so that what its configuration says of the name holds.
    fn address_option(&self, host: &Host) -> Option<OsString> {
        let address = host.address.as_ref().filter(|_| self.is_ssh())?;
        Some(format!("-oHostName={address}").into())
    }

    fn is_ssh(&self) -> bool {
        Path::new(&self.words[0]).file_name().is_some_and(|name| name == "ssh")
    }

    /// What is typed after ssh.
    fn destination(&self, host: &Host) -> String {
        let name = if self.is_ssh() { &host.name } else { host.destination() };
        host.user.as_ref().map_or_else(|| name.to_owned(), |user| format!("{user}@{name}"))
    }

    async fn channel(&self, host: &Host, mut started: Started, installed: &Installed) -> AgentChannel {
        started.guard.release();
        push::skip_greetings(&mut started.stderr).await;
        AgentChannel {
            stream: started.stream,
            stderr: started.stderr,
            ended: started.ended,
            head_address: None,
            route: format!("command {} {}", self.name(), self.destination(host)),
            carrier: Some(format!("{} {}", self.name(), self.destination(host))),
            notes: installed.notes(),
        }
    }

    /// Finds the cause of a failed start in the command's end and words.
    async fn explain(&self, host: &Host, error: PushError, started: Started) -> SpawnError {
        let Started { stream, mut stderr, ended, guard } = started;
        match error {
            PushError::OtherArchitecture { .. } | PushError::NoCache(_) => return error.on_host(host),
            PushError::Silent { .. } => {
                return push::with_last_words(error.on_host(host), &push::waiting_lines(&mut stderr));
            }
            _ => drop(stream),
        }
        let end = timeout(LAST_WORDS, ended).await;
        drop(guard);
        let lines = push::waiting_lines(&mut stderr);
        if let Some(known) = complaint::classify(&host.mention(), &self.destination(host), &lines) {
            return known;
        }
        let (name, destination) = (self.name(), self.destination(host));
        let said =
            if lines.is_empty() { String::new() } else { format!(", saying: {}", push::last_of(&lines)) };
        let host = host.mention();
        let end = match end {
            // ssh's own, for whatever is wrong before the remote shell runs.
            Ok(Ok(ChannelEnd::Code(255))) => {
                return SpawnError::AgentNotStarted {
                    host,
                    cause: format!("`{name} {destination}` failed with code 255{said}"),
                    hint: format!("`{name} {destination} true` shows the same"),
                };
            }
            Ok(Ok(ChannelEnd::Code(code))) => format!(" and returned {code}"),
            Ok(Ok(ChannelEnd::Signal(name))) => format!(" and was ended by {name}"),
            _ => String::new(),
        };
        let cause = format!("`{name} {destination}` failed{end}{said} ({error})");
        SpawnError::AgentNotStarted { host, cause, hint: error.hint().to_owned() }
    }

    fn name(&self) -> Cow<'_, str> {
        self.words[0].to_string_lossy()
    }
}

impl Spawner for CommandSpawner {
    fn start<'a>(
        &'a self,
        host: &'a Host,
        timeout: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<AgentChannel, SpawnError>> + Send + 'a>> {
        Box::pin(self.start_by(host, timeout))
    }
}

/// Commands that may be starting an agent at once; OpenSSH at the head costs a process and 20 ms of CPU each.
const PARALLEL_STARTS: usize = 32;

/// How long a command that has failed may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::spawn::fixture;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A wrapper that has ssh's shape, and an agent that echoes.
    struct Wrapper {
        folder: tempfile::TempDir,
    }

    impl Wrapper {
        fn new(body: &str) -> Wrapper {
            let folder = tempfile::tempdir().unwrap();
            fixture::script(&folder.path().join("wrapper"), body);
            fixture::script(&folder.path().join("agent"), "echo own >&2; exec cat");
            Wrapper { folder }
        }

        /// Runs the remote command on this machine, with a home folder of its own.
        fn here(prefix: &str) -> Wrapper {
            let wrapper = Wrapper::new("");
            let home = wrapper.folder.path().display().to_string();
            let body = format!("{prefix}\nexport HOME={home}; unset XDG_CACHE_HOME; exec sh -c \"$command\"");
            fixture::script(
                &wrapper.folder.path().join("wrapper"),
                &format!("for command; do :; done\n{body}"),
            );
            wrapper
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            Path::join(self.folder.path(), name)
        }

        async fn start(&self, host: &Host, allowed: Duration) -> Result<AgentChannel, SpawnError> {
            let launcher = Launcher::from_file(&self.path("agent")).unwrap();
            let words = vec![self.path("wrapper").into(), "--word".into()];
            tokio::time::timeout(DEADLINE, CommandSpawner::new(words, launcher).start(host, allowed))
                .await
                .unwrap()
        }
    }

    #[tokio::test]
    async fn the_agent_has_the_streams_after_noise_and_a_push() {
        let wrapper = Wrapper::here("echo greeting; echo remark >&2");
        let mut channel = wrapper.start(&fixture::host("a"), DEADLINE).await.unwrap();
        channel.stream.write_all(b"order").await.unwrap();
        channel.stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        channel.stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"order");
        assert_eq!(channel.ended.await, Ok(ChannelEnd::Code(0)));
        assert_eq!(channel.stderr.recv().await.as_deref(), Some("own"), "and not the remark");
    }

    #[tokio::test]
    async fn user_port_and_host_are_given_as_ssh_wants_them() {
        let wrapper = Wrapper::new(r#"echo "$# $1 $2 $3 $4" >&2; exit 3"#);
        let host = Host { user: Some("ann".into()), port: Some(2222), ..fixture::host("node-7") };
        let error = wrapper.start(&host, DEADLINE).await.unwrap_err().to_string();
        assert!(error.contains("returned 3, saying: 5 --word -p 2222 ann@node-7"), "{error}");
    }

    #[tokio::test]
    async fn what_ssh_says_becomes_the_same_error_as_the_built_in_one() {
        let wrapper =
            Wrapper::new("echo 'ssh: connect to host 10.0.0.9 port 22: Connection refused' >&2; exit 255");
        let error = wrapper.start(&fixture::host("a"), DEADLINE).await.unwrap_err();
        assert_eq!(error, SpawnError::Refused { host: "a (test)".into(), address: "10.0.0.9:22".into() });
    }

    #[tokio::test]
    async fn a_command_that_never_answers_is_ended_and_its_last_words_told() {
        let wrapper = Wrapper::new(r#"echo $$ >"${0%/*}/pid"; echo still waiting >&2; exec sleep 1000"#);
        let error = wrapper.start(&fixture::host("a"), Duration::from_millis(500)).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("said nothing in 0 s (a third of --start-timeout), saying: still waiting"),
            "{error}"
        );
        let process = std::fs::read_to_string(wrapper.path("pid")).unwrap();
        let gone = async {
            while Path::new("/proc").join(process.trim()).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, gone).await.expect("the command was ended and reaped");
    }

    #[tokio::test]
    async fn a_command_that_drops_in_the_middle_of_a_push_is_an_error() {
        let wrapper = Wrapper::new(&format!(
            "echo '{} arch {}'; echo '{0} need'; head -c 3 >/dev/null; echo lost it >&2; exit 1",
            push::script::MARKER,
            push::script::ARCHITECTURE,
        ));
        let error = wrapper.start(&fixture::host("a"), DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("lost it"), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_named() {
        let launcher = Launcher::from_file(Path::new("/proc/self/cmdline")).unwrap();
        let spawner = CommandSpawner::new(vec!["/no/such/wrapper".into()], launcher);
        let error = spawner.start(&fixture::host("a"), DEADLINE).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/wrapper"), "{error}");
    }
}
