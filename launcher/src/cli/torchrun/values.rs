//! What the values of torchrun's options mean, one parser per kind of value.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use crate::mapping::MAX_RANKS;
use crate::torchrun::{NodeRange, PerNode, StreamChoice, Streams};

use super::super::values as efaruns;

/// `N` or `MIN:MAX`.
pub(super) fn nodes(text: &str) -> Result<NodeRange, String> {
    let wanted = || "it must be a number of nodes, such as 2, or MIN:MAX, such as 1:4".to_owned();
    let (least, most) = text.split_once(':').unwrap_or((text, text));
    let count = |text: &str| number(text).filter(|count| (1..=MAX_RANKS).contains(count));
    match (count(least), count(most)) {
        (Some(least), Some(most)) if least <= most => Ok(NodeRange { least, most }),
        (Some(least), Some(most)) => {
            Err(format!("MIN must not be more than MAX, and {least} is more than {most}"))
        }
        _ => Err(wanted()),
    }
}

/// `N`, `gpu`, `cpu` or `auto`.
pub(super) fn per_node(text: &str) -> Result<PerNode, String> {
    match text {
        "gpu" => Ok(PerNode::Gpu),
        "cpu" => Ok(PerNode::Cpu),
        "auto" => Ok(PerNode::Auto),
        "xpu" => Err("efarun finds NVIDIA's GPUs only: give the number of ranks".to_owned()),
        number => {
            let wanted = |_| format!("it must be a number from 1 to {MAX_RANKS}, gpu, cpu or auto");
            efaruns::rank_count(number).map(PerNode::Count).map_err(wanted)
        }
    }
}

/// A node's number.
pub(super) fn node_rank(text: &str) -> Result<u32, String> {
    number(text)
        .filter(|rank| *rank < MAX_RANKS)
        .ok_or_else(|| "it must be a node's number, from 0 on".to_owned())
}

/// A host's name or address.
pub(super) fn address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let plain = |c: char| c.is_ascii_alphanumeric() || ".:-_%".contains(c);
    if bare.is_empty() || !bare.chars().all(plain) {
        return Err("it must be a host's name or address".to_owned());
    }
    Ok(bare.to_owned())
}

/// A TCP port.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let port = number(text).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| "it must be a port from 1 to 65535".to_owned())
}

/// `HOST`, `HOST:PORT` or `[v6]:PORT`.
pub(super) fn endpoint(text: &str) -> Result<(String, Option<u16>), String> {
    let is_bare_v6 = text.parse::<std::net::Ipv6Addr>().is_ok();
    match text.rsplit_once(':').filter(|(_, rest)| !is_bare_v6 && !rest.ends_with(']')) {
        // torchrun takes 0 for "any port": only the node that chooses it would know it.
        Some((host, number)) => Ok((address(host)?, Some(port(number)?))),
        None => Ok((address(text)?, None)),
    }
}

/// A name that becomes a part of a folder's name and a variable.
pub(super) fn run_id(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > LONGEST_NAME || text.contains(['/', '\0', '\n']) {
        return Err(format!(
            "it must be a name of at most {LONGEST_NAME} bytes, without `/`: folders are named by it"
        ));
    }
    Ok(text.to_owned())
}

/// A role's name.
pub(super) fn role(text: &str) -> Result<String, String> {
    if text.len() > LONGEST_NAME || text.contains(['\0', '\n']) {
        return Err(format!("it must be a name of at most {LONGEST_NAME} bytes"));
    }
    Ok(text.to_owned())
}

/// How often to start again.
pub(super) fn restarts(text: &str) -> Result<u32, String> {
    number(text)
        .filter(|count| *count <= MOST_RESTARTS)
        .ok_or_else(|| format!("it must be a number from 0 to {MOST_RESTARTS}"))
}

/// Seconds, 0 or more.
pub(super) fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    seconds.ok_or_else(|| "it must be a number of seconds, such as 0.1".to_owned())
}

/// A folder.
pub(super) fn folder(text: &OsStr) -> Result<PathBuf, String> {
    efaruns::path(text)
}

/// `3`, or `0:1,1:2`.
pub(super) fn streams(text: &str) -> Result<StreamChoice, String> {
    let wanted = || {
        "it must be 0, 1 (standard output), 2 (standard error) or 3 (both), or such numbers by local rank: 0:1,1:2".to_owned()
    };
    let of = |text: &str| match text {
        "0" => Ok(Streams { stdout: false, stderr: false }),
        "1" => Ok(Streams { stdout: true, stderr: false }),
        "2" => Ok(Streams { stdout: false, stderr: true }),
        "3" => Ok(Streams { stdout: true, stderr: true }),
        _ => Err(wanted()),
    };
    if !text.contains(':') {
        return of(text).map(StreamChoice::Every);
    }
    let item = |item: &str| {
        let (rank, choice) = item.split_once(':').ok_or_else(wanted)?;
        Ok((number(rank).filter(|rank| *rank < MAX_RANKS).ok_or_else(wanted)?, of(choice)?))
    };
    text.split(',').map(item).collect::<Result<_, String>>().map(StreamChoice::Of)
}

/// Local ranks, as `--local-ranks-filter` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalRanks(pub(super) Vec<u32>);

/// `0,1,2`.
pub(super) fn local_ranks(text: &str) -> Result<LocalRanks, String> {
    let wanted = || "it must be local ranks with commas between, such as 0,1".to_owned();
    let rank = |text: &str| number(text.trim()).ok_or_else(wanted);
    text.split(',').map(rank).collect::<Result<_, _>>().map(LocalRanks)
}

/// What `--rdzv-conf` sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RendezvousSettings {
    /// `join_timeout`, or `timeout`: how long nodes are waited for.
    pub(super) join_timeout: Option<Duration>,
    /// `last_call_timeout`: how long more nodes than are needed are waited for.
    pub(super) last_call: Option<Duration>,
    /// Keys that nothing acts on.
    pub(super) unused: Vec<String>,
}

/// `KEY=VALUE,…`.
pub(super) fn rendezvous_settings(text: &str) -> Result<RendezvousSettings, String> {
    let mut settings = RendezvousSettings::default();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("`{item}` is not KEY=VALUE"))?;
        let seconds = || efaruns::seconds(value.trim()).map_err(|problem| format!("{key}: {problem}"));
        match key.trim() {
            "timeout" | "join_timeout" => settings.join_timeout = Some(seconds()?),
            "last_call_timeout" => settings.last_call = Some(seconds()?),
            key => settings.unused.push(key.to_owned()),
        }
    }
    Ok(settings)
}

/// Signals of `--signals-to-handle` that efarun treats otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtherSignals(pub(super) Vec<String>);

/// `SIGTERM,SIGUSR1`.
pub(super) fn signals(text: &str) -> Result<OtherSignals, String> {
    let known = |name: &str| name.parse::<nix::sys::signal::Signal>().is_ok();
    let names = || text.split(',').map(str::trim).filter(|name| !name.is_empty());
    if let Some(unknown) = names().find(|name| !known(name)) {
        return Err(format!("`{unknown}` is no signal: they are called SIGTERM, SIGUSR1, …"));
    }
    let others = names().filter(|name| !HANDLED.contains(name)).map(str::to_owned);
    Ok(OtherSignals(others.collect()))
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

const HANDLED: &[&str] = &["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"];
const LONGEST_NAME: usize = 128;
const MOST_RESTARTS: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torchruns_values_are_understood() {
        assert_eq!(nodes("2"), Ok(NodeRange { least: 2, most: 2 }));
        assert_eq!(nodes("1:4"), Ok(NodeRange { least: 1, most: 4 }));
        assert_eq!((per_node("8"), per_node("gpu")), (Ok(PerNode::Count(8)), Ok(PerNode::Gpu)));
        assert_eq!(endpoint("h1:29400"), Ok(("h1".to_owned(), Some(29400))));
        assert_eq!(endpoint("[fd00::1]:7"), Ok(("fd00::1".to_owned(), Some(7))));
        assert_eq!(endpoint("fd00::1"), Ok(("fd00::1".to_owned(), None)));
        let by_rank = streams("0:1,1:2,1:3").unwrap();
        assert_eq!(by_rank.of(0), Streams { stdout: true, stderr: false });
        assert_eq!(by_rank.of(1), Streams { stdout: true, stderr: true });
        assert_eq!(by_rank.of(2), Streams::default());
        assert_eq!(streams("2").unwrap().of(7), Streams { stdout: false, stderr: true });
        let settings = rendezvous_settings("timeout=90,read_timeout=5").unwrap();
        assert_eq!(settings.join_timeout, Some(Duration::from_secs(90)));
        assert_eq!(settings.unused, ["read_timeout"]);
        assert_eq!(signals("SIGTERM,SIGALRM").unwrap().0, ["SIGALRM"]);
    }

    #[test]
    fn other_values_are_refused() {
        for text in ["0", "2:1", "1:", "a", "1:2:3", "+1", ""] {
            assert!(nodes(text).is_err(), "{text}");
        }
        for text in ["0", "gpus", "-1"] {
            assert!(per_node(text).is_err(), "{text}");
        }
        for text in ["", "h1:", "h1:0", "h1:70000", "a b:1"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
        for text in ["4", "0:4", "x:1", "0:1,"] {
            assert!(streams(text).is_err(), "{text}");
        }
        assert!(run_id("a/b").is_err() && run_id("").is_err());
        assert!(signals("TERMINATE").is_err() && rendezvous_settings("timeout").is_err());
    }
}
