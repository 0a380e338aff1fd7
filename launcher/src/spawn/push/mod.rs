//! Finding the launcher on a host, or installing it there: what is said to the shell on the other side.
//!
//! Given a stream to a remote shell that runs [`Launcher::remote_command`], `hand_over` talks to it until the
//! agent has the stream for itself. The shell looks for this build in private caches; where none has it, it asks
//! for the executable and writes it into the first cache that will do. The steps and their words are in
//! `script`, what the answers mean is decided in `dialogue`, without I/O.
//!
//! The file is written under a temporary name and renamed, so two jobs may push at once and a cut connection
//! leaves nothing that could be run. That its content is right needs no checksum here: SSH has one for what is on its
//! way, the file's size is compared, and the agent refuses to work for a head of another build ([`build_id`]).
//!
//! It cannot push to another CPU architecture: that is told instead.

pub(crate) mod dialogue;
pub(crate) mod script;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use efarun_wire::BuildId;

use crate::build_id;
use crate::job::Host;
use crate::spawn::{ChannelEnd, SpawnError};
use dialogue::{Dialogue, Reply};

/// The executable that agents are made of.
#[derive(Debug, Clone)]
pub struct Launcher {
    build: BuildId,
    executable: Arc<Executable>,
    remote_command: Arc<str>,
}

/// The file, read when the first host needs it: most launches push nothing.
#[derive(Debug)]
struct Executable {
    path: PathBuf,
    bytes: Mutex<Option<Arc<[u8]>>>,
}

impl Launcher {
    /// The executable that this process runs, also when its file has been replaced or deleted since.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of_this_executable() -> io::Result<Launcher> {
        Launcher::new(Path::new("/proc/self/exe"), build_id::of_this_executable()?)
    }

    /// Any executable, whose file stays as it is.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn from_file(path: &Path) -> io::Result<Launcher> {
        Launcher::new(path, build_id::of_file(path)?)
    }

    fn new(path: &Path, build: BuildId) -> io::Result<Launcher> {
        let remote_command = script::remote_command(build, std::fs::metadata(path)?.len()).into();
        let executable = Arc::new(Executable { path: path.to_owned(), bytes: Mutex::new(None) });
        Ok(Launcher { build, executable, remote_command })
    }

    /// The executable's bytes. Blocks for the time that reading it takes, the first time.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    fn bytes(&self) -> io::Result<Arc<[u8]>> {
        let mut bytes = self.executable.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = &*bytes {
            return Ok(Arc::clone(bytes));
        }
        let read: Arc<[u8]> = std::fs::read(&self.executable.path)?.into();
        Ok(Arc::clone(bytes.insert(read)))
    }

    /// The build's id.
    pub fn build(&self) -> BuildId {
        self.build
    }

    /// What is run on the other side: one line, the same for every host and job of this build, and one word of
    /// any login shell's language.
    pub fn remote_command(&self) -> &str {
        &self.remote_command
    }
}

/// Why the agent did not get the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PushError {
    /// The stream ended before the shell had spoken its last word.
    #[error("the remote shell {} before the agent was started{}", ended(.end), after(.heard))]
    Ended {
        /// How, where that is known.
        end: Option<ChannelEnd>,
        /// The last lines that were no answer: what start-up files printed, or a wrapper's complaint.
        heard: String,
    },
    /// The shell did not come to its first word.
    #[error("the remote shell said nothing in {waited_s} s (a third of --start-timeout){}", after(.heard))]
    Silent {
        /// How long it was waited for.
        waited_s: u64,
        /// The last lines that were no answer.
        heard: String,
    },
    /// The host's CPU is of another kind.
    #[error("the host is {theirs}, this launcher is built for {}", script::ARCHITECTURE)]
    OtherArchitecture {
        /// Its `uname -m`.
        theirs: String,
    },
    /// No cache would do; folder and reason of each.
    #[error("no folder there can hold the launcher:{}", .0.iter().map(|reason| format!("\n    {reason}")).collect::<String>())]
    NoCache(Vec<String>),
    /// Something printed so much that an answer is not to be expected.
    #[error("more than {limit_bytes} bytes came from start-up files of the shell there and no answer{}", after(.heard))]
    Noise {
        /// The limit.
        limit_bytes: usize,
        /// The last of it.
        heard: String,
    },
    /// Bytes followed the last answer, where the agent must be silent until it gets its order.
    #[error("something wrote to the agent's standard output before the agent: {0:?}")]
    Stray(String),
    /// The stream failed.
    #[error("the connection to the remote shell failed: {0}")]
    Stream(String),
}

impl PushError {
    /// The same, about a host.
    pub(crate) fn on_host(self, host: &Host) -> SpawnError {
        let host = host.mention();
        match self {
            PushError::OtherArchitecture { theirs } => {
                SpawnError::OtherArchitecture { host, theirs, ours: script::ARCHITECTURE.to_owned() }
            }
            other => {
                SpawnError::AgentNotStarted { host, cause: other.to_string(), hint: other.hint().to_owned() }
            }
        }
    }

    /// The same, with how the shell ended, where that is what is wrong.
    pub(crate) fn with_end(self, channel_end: Option<ChannelEnd>) -> PushError {
        match self {
            PushError::Ended { end: None, heard } => PushError::Ended { end: channel_end, heard },
            other => other,
        }
    }

    /// What to look at.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            PushError::Ended { .. } => {
                "does a start-up file of the shell there (~/.bashrc, ~/.profile, ~/.cshrc) end it, or is the account closed? `ssh` to it with a command, such as `true`, shows the same"
            }
            PushError::Silent { .. } => {
                "does a start-up file of the shell there (~/.bashrc, ~/.profile, ~/.cshrc) read its input, or start another shell? `ssh` to it with a command, such as `true`, shows the same"
            }
            PushError::NoCache(_) => {
                "make room in one of them, or let a start-up file there set XDG_CACHE_HOME to a folder of your own from which programs may be run"
            }
            PushError::Noise { .. } | PushError::Stray(_) => {
                "start-up files of the shell there may print, but not without end, and nothing that runs on in the background"
            }
            PushError::OtherArchitecture { .. } | PushError::Stream(_) => "",
        }
    }
}

/// Where the launcher is on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    /// Its executable.
    pub(crate) path: String,
    /// Folders that would have come first, each with the reason why it would not do. Empty when it was there already.
    pub(crate) skipped: Vec<String>,
}

impl Installed {
    /// What the user should know.
    pub(crate) fn notes(&self) -> Vec<String> {
        let folder = Path::new(&self.path).ancestors().nth(2).unwrap_or(Path::new("")).display();
        match &self.skipped[..] {
            [] => Vec::new(),
            skipped => {
                vec![format!("the launcher was put into {folder}, not into {}", skipped.join(", nor into "))]
            }
        }
    }
}

fn ended(end: &Option<ChannelEnd>) -> String {
    end.as_ref().map_or_else(|| "ended".to_owned(), ToString::to_string)
}

fn after(heard: &str) -> String {
    if heard.is_empty() { String::new() } else { format!("; it printed: {heard}") }
}

/// Reads standard error up to where the agent's own begins: greetings of start-up files and remarks of ssh are not for
/// the user.
///
/// A wrapper that carries no standard error has none of the agent's either, so the wait is short.
pub(crate) async fn skip_greetings(stderr: &mut mpsc::Receiver<String>) {
    let begins = async { while stderr.recv().await.is_some_and(|line| !line.contains(script::MARKER)) {} };
    // Too late is no error: then some greeting is shown.
    let _ = tokio::time::timeout(STDERR_LAG, begins).await;
}

/// The lines that wait on standard error, without the shell's own.
pub(crate) fn waiting_lines(stderr: &mut mpsc::Receiver<String>) -> Vec<String> {
    std::iter::from_fn(|| stderr.try_recv().ok()).filter(|line| !line.contains(script::MARKER)).collect()
}

/// The last few lines, as one.
pub(crate) fn last_of(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(3)..].join(" / ")
}

/// Adds what waits on standard error to an error that has no cause from there.
pub(crate) fn with_last_words(error: SpawnError, said: &[String]) -> SpawnError {
    match error {
        SpawnError::AgentNotStarted { host, cause, hint } if !said.is_empty() => {
            let cause = format!("{cause}, saying: {}", last_of(said));
            SpawnError::AgentNotStarted { host, cause, hint }
        }
        other => other,
    }
}

/// Talks to the remote shell until the agent has been started.
///
/// Nothing of the agent's own output is read. The shell's first word is waited for as long as a third of `allowed`; the
/// rest of the clock is the caller's, who drops this when time is up.
pub(crate) async fn hand_over(
    stream: &mut UnixStream,
    launcher: &Launcher,
    allowed: Duration,
) -> Result<Installed, PushError> {
    let failed = |error: io::Error| PushError::Stream(error.to_string());
    let mut dialogue = Dialogue::new();
    let mut buffer = [0; 4096];
    let first_word_until = Instant::now() + allowed / 3;
    loop {
        let read = match dialogue.has_heard_a_word() {
            true => stream.read(&mut buffer).await,
            false => match timeout_at(first_word_until, stream.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => return Err(dialogue.silent((allowed / 3).as_secs())),
            },
        };
        let len = match read {
            Ok(0) => return Err(dialogue.ended()),
            Ok(len) => len,
            // The command that carried the shell is gone: its own words say more than the error number.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(dialogue.ended()),
            Err(error) => return Err(failed(error)),
        };
        dialogue.push(&buffer[..len])?;
        while let Some(reply) = dialogue.next_reply()? {
            match reply {
                Reply::SendExecutable => {
                    let launcher = launcher.clone();
                    let read = tokio::task::spawn_blocking(move || launcher.bytes());
                    let bytes = read.await.map_err(io::Error::from).and_then(|read| read).map_err(failed)?;
                    match stream.write_all(&bytes).await {
                        // The reason, if there is one, is still to be read.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                        sent => sent.map_err(failed)?,
                    }
                }
                Reply::Started(installed) => return Ok(installed),
            }
        }
    }
}

/// How much later than standard output standard error may arrive.
const STDERR_LAG: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
