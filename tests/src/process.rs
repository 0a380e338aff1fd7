//! Processes of the machine as /proc shows them, the hosts' ones among them: what belongs to a job, and what is left.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pidfd;

/// A process, by its id in the machine's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id, as this machine sees it.
    pub pid: i32,
    /// Command line, joined by spaces; in brackets the short name where there is none.
    pub command: String,
    /// PID namespace.
    pub(crate) namespace: String,
    environ: Vec<u8>,
}

impl Process {
    /// All processes that are not zombies.
    pub fn all() -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("/proc is readable");
        entries
            .flatten()
            .filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
            .collect()
    }

    /// None when it is gone, or gone but for its status.
    fn read(pid: i32) -> Option<Process> {
        let folder = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let (name, state) = stat.rsplit_once(')')?;
        if state.trim_start().starts_with(['Z', 'X']) {
            return None;
        }
        let namespace = fs::read_link(folder.join("ns/pid")).ok()?.to_string_lossy().into_owned();
        let command = fs::read(folder.join("cmdline")).ok()?;
        let command = match command.split(|b| *b == 0).filter(|word| !word.is_empty()).collect::<Vec<_>>() {
            words if words.is_empty() => format!("[{}]", name.split_once('(')?.1),
            words => String::from_utf8_lossy(&words.join(&b' ')).into_owned(),
        };
        Some(Process {
            pid,
            command,
            namespace,
            environ: fs::read(folder.join("environ")).unwrap_or_default(),
        })
    }

    /// Whether it was started with this variable set to this value.
    pub fn has_env(&self, name: &str, value: &str) -> bool {
        let wanted = format!("{name}={value}");
        self.environ.split(|b| *b == 0).any(|entry| entry == wanted.as_bytes())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it is gone already: the test meant to disturb a running one.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap_or_else(|error| panic!("{signal} to {self:?}: {error}"));
    }
}

/// A TCP port that a process listens on, in whatever network namespace it is.
pub fn listening_port(pid: i32) -> Option<u16> {
    let folder = Path::new("/proc").join(pid.to_string());
    let links =
        fs::read_dir(folder.join("fd")).ok()?.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let sockets: Vec<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    ["net/tcp", "net/tcp6"].iter().find_map(|table| {
        let table = fs::read_to_string(folder.join(table)).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let is_ours = *state == LISTEN && sockets.contains(&format!("socket:[{inode}]"));
            is_ours.then(|| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()).flatten()
        })
    })
}

/// Whether anybody listens on a TCP port in the network of this process.
pub(crate) fn is_listening(pid: i32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(3) == Some(&LISTEN)
                && fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
        })
    })
}

/// Waits until `list` finds no process any more, and says how long that took; after `within`, who is still there.
pub fn wait_until_gone(within: Duration, list: impl Fn() -> Vec<Process>) -> Result<Duration, Vec<Process>> {
    let start = Instant::now();
    loop {
        let left = list();
        if left.is_empty() {
            return Ok(start.elapsed());
        }
        let remaining = within.saturating_sub(start.elapsed());
        if remaining.is_zero() {
            return Err(left);
        }
        let opened: Vec<_> = left.iter().filter_map(|process| pidfd::open(process.pid)).collect();
        if opened.len() == left.len() {
            pidfd::wait_for_any(&opened, remaining);
        }
    }
}

/// TCP_LISTEN, as /proc/net/tcp writes it.
const LISTEN: &str = "0A";
