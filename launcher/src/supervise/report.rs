//! What is said when a job is over.
//!
//! The first failure in full, with the last words of the rank; its echoes as a count; then whether anything is left.
//! Given what the dispatcher found; gives text, and writes nothing.

use efarun_wire::Rank;
use efarun_wire::message::{Clue, RankStatus};

use super::dispatcher::Ended;
use super::verdict::Failure;
use super::writer::Writer;
use crate::binding::RankBinding;
use crate::error::LaunchError;
use crate::job::Host;
use crate::mapping::Placement;
use crate::torchrun::error_file;

/// The failure that ended the job, in the words and with the exit code of every other error.
pub fn error_of(failure: &Failure, placement: &Placement, bindings: &[RankBinding]) -> LaunchError {
    let host_of = |rank: Rank| placement.nodes[placement.ranks[rank.index()].node.index()].host.to_string();
    match failure.clone() {
        Failure::Rank(exit) => LaunchError::RankFailed {
            rank: exit.rank,
            host: host_of(exit.rank),
            gpu: bindings[exit.rank.index()].gpu.clone(),
            status: exit.status,
            ran_ms: exit.ran_ms,
        },
        Failure::NotStarted { rank, call, subject, errno } => {
            LaunchError::RankNotStarted { rank, host: host_of(rank), call, subject, errno }
        }
        Failure::Aborted { rank, code, reason } => {
            LaunchError::RankAborted { rank, host: host_of(rank), code, reason }
        }
        Failure::Unserved { rank, library, tried } => {
            let world_size = placement.world_size();
            LaunchError::Unserved { host: host_of(rank), rank, library, tried, world_size }
        }
        Failure::Broke { rank, how } => LaunchError::RankBroke { rank, host: host_of(rank), how },
        Failure::NodeLost { node, cause } => {
            LaunchError::HostLost { host: placement.nodes[node.index()].host.to_string(), cause }
        }
        Failure::TimedOut { limit } => LaunchError::TimedOut { seconds: limit.as_secs_f64() },
        Failure::NotStartedInTime { waiting_for, limit } => {
            LaunchError::StartTimedOut { waited_s: limit.as_secs(), waiting_for: vec![waiting_for] }
        }
        Failure::Interrupted { number } => LaunchError::Stopped { number },
    }
}

/// Puts what is to be said of several hosts into one note each: `h1, h2: TEXT`, in the order of the hosts.
pub fn notes_by_text<'a>(notes: impl Iterator<Item = (&'a Host, &'a [String])>) -> Vec<String> {
    let mut hosts_by_text: Vec<(&str, Vec<String>)> = Vec::new();
    for (host, text) in notes.flat_map(|(host, texts)| texts.iter().map(move |text| (host, text))) {
        match hosts_by_text.iter_mut().find(|(known, _)| known == text) {
            Some((_, hosts)) => hosts.push(host.to_string()),
            None => hosts_by_text.push((text, vec![host.to_string()])),
        }
    }
    hosts_by_text.into_iter().map(|(text, hosts)| format!("{}: {text}", shortened(&hosts))).collect()
}

fn shortened(hosts: &[String]) -> String {
    match hosts.get(..NAMED_HOSTS) {
        Some(first) if hosts.len() > NAMED_HOSTS => {
            format!("{} and {} more", first.join(", "), hosts.len() - NAMED_HOSTS)
        }
        _ => hosts.join(", "),
    }
}

/// How many hosts a note names before it counts them.
const NAMED_HOSTS: usize = 8;

/// Makes the lines that tell a user how a failed job ended; the first is the error itself.
pub fn failure_lines(error: &LaunchError, ended: &Ended, writer: &Writer) -> Vec<String> {
    let mut first = error.to_string();
    let others = ended.verdict.exits().len().saturating_sub(1);
    if let (LaunchError::RankFailed { .. }, 1.., false) = (error, others, ended.went_on) {
        let plural = if others == 1 { "rank" } else { "ranks" };
        first += &format!("; {others} other {plural} ended");
    }
    let mut lines = vec![first];
    if let Some(rank) = ended.verdict.deserter() {
        lines.push(format!(
            "  before it, rank {rank} ended with code 0 without closing its World, while others were in it: a rank stays \
             until World::close returns"
        ));
    }
    if let LaunchError::RankFailed { rank, .. }
    | LaunchError::RankAborted { rank, .. }
    | LaunchError::RankBroke { rank, .. } = error
    {
        lines.extend(error_file::lines(*rank, &ended.error_files));
        let clues = ended.clues.get(rank).map_or(&[][..], Vec::as_slice);
        lines.extend(clues.iter().map(clue_line));
        let last_words = writer.last_stderr(*rank);
        lines.extend(last_words.iter().map(|line| format!("  last stderr: {line}")));
        if let LaunchError::RankFailed { host, status: RankStatus::Code(127), .. } = error {
            lines.extend(last_words.iter().find_map(|line| missing_library_hint(host, line)));
        }
    }
    match ended.verdict.echoes() {
        0 => {}
        1 => lines.push("  1 further failure followed it".to_owned()),
        echoes => lines.push(format!("  {echoes} further failures followed it")),
    }
    lines
}

fn clue_line(clue: &Clue) -> String {
    match clue {
        Clue::OutOfMemory(text) => format!("  out of memory: {text}"),
        Clue::GpuFault(text) => format!("  GPU fault: {text}"),
    }
}

/// What to do about a library that the dynamic loader did not find, whose words these are.
fn missing_library_hint(host: &str, line: &str) -> Option<String> {
    let (_, rest) = line.split_once(": error while loading shared libraries: ")?;
    let (library, _) = rest.split_once(": cannot open shared object file")?;
    Some(format!(
        "  hint: {host} has no {library} in the folders that its loader looks in: install it there, or name its folder by `-x LD_LIBRARY_PATH=DIR`"
    ))
}

/// Says whether anything of the job is left anywhere.
pub fn leftovers_line(ended: &Ended, world_size: u32, node_count: usize) -> String {
    let mut line = format!(
        "{}/{world_size} ranks reaped, {}/{node_count} agents gone",
        ended.reaped, ended.acknowledged
    );
    if ended.strays > 0 {
        line += &format!(", {} left-over processes of ranks ended", ended.strays);
    }
    for (host, pids) in &ended.unacknowledged {
        let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
        let pids = if pids.is_empty() { "none known".to_owned() } else { pids.join(", ") };
        line += &format!(
            "\n  {host} did not acknowledge: its keeper ends the ranks there by itself; process ids that were running: {pids}"
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_many_hosts_is_said_once() {
        let host = |name: String| Host {
            name,
            address: None,
            user: None,
            port: None,
            slots: None,
            max_slots: None,
            places: Vec::new(),
            origin: "-H".to_owned(),
        };
        let hosts: Vec<Host> = (1..=10).map(|number| host(format!("h{number}"))).collect();
        let both = ["slow".to_owned(), "through ssh".to_owned()];
        let texts = |index: usize| if index == 1 { &both[..] } else { &both[..1] };
        let notes = notes_by_text(hosts.iter().enumerate().map(|(index, host)| (host, texts(index))));
        assert_eq!(notes, ["h1, h2, h3, h4, h5, h6, h7, h8 and 2 more: slow", "h2: through ssh"]);
    }
}
