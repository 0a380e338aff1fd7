//! What each host is being waited for while hosts are connected.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use efarun_wire::NodeId;
use tokio::time::Instant;

/// How far one host has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// A step of its start.
    Step(&'static str),
    /// It was not up when it was last tried.
    NotUp {
        /// What it looked like.
        cause: String,
        /// The number of the next try, from 1.
        next_try: u32,
        /// When it was first tried.
        since: Instant,
        /// `--wait-for-hosts`.
        wait: Duration,
    },
}

impl Stage {
    /// Nothing is waited for any more.
    pub(super) const CONNECTED: Stage = Stage::Step("connected");
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Step(step) => f.write_str(step),
            Stage::NotUp { cause, next_try, since, wait } => {
                let waited_s = since.elapsed().as_secs();
                write!(f, "{cause}, try {next_try}, {waited_s} s of {}", wait.as_secs_f64())
            }
        }
    }
}

/// The stage of every host, by node.
#[derive(Debug, Clone)]
pub(super) struct Stages(Arc<Mutex<Vec<(String, Stage)>>>);

impl Stages {
    /// Stages of these hosts, all at their beginning.
    pub(super) fn new(hosts: &[String]) -> Stages {
        let stage = |host: &String| (host.clone(), Stage::Step("connecting"));
        Stages(Arc::new(Mutex::new(hosts.iter().map(stage).collect())))
    }

    /// Says how far a host has come.
    pub(super) fn set(&self, node: NodeId, stage: Stage) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[node.index()].1 = stage;
    }

    /// What a host is waited for.
    pub(super) fn of(&self, node: NodeId) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[node.index()].1.to_string()
    }

    /// The hosts that are not connected, a few of them by name.
    pub(super) fn slowest(&self) -> String {
        let stages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting: Vec<&(String, Stage)> =
            stages.iter().filter(|(_, stage)| *stage != Stage::CONNECTED).collect();
        let named: Vec<String> =
            waiting.iter().take(3).map(|(host, stage)| format!("{host}: {stage}")).collect();
        let more =
            if waiting.len() > 3 { format!("; and {} more", waiting.len() - 3) } else { String::new() };
        named.join("; ") + &more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_waited_for_are_told_with_cause_try_and_time() {
        let stages = Stages::new(&["a".to_owned(), "b".to_owned()]);
        let since = Instant::now().checked_sub(Duration::from_millis(23_100)).expect("it runs for longer");
        let cause = "connection refused".to_owned();
        let wait = Duration::from_secs(120);
        stages.set(NodeId(1), Stage::NotUp { cause, next_try: 7, since, wait });
        assert_eq!(stages.slowest(), "a: connecting; b: connection refused, try 7, 23 s of 120");
        stages.set(NodeId(0), Stage::CONNECTED);
        assert_eq!(stages.slowest(), "b: connection refused, try 7, 23 s of 120");
    }
}
