//! Where the streams of a node's ranks go, and by which names.

use std::os::unix::ffi::OsStrExt;

use efarun_wire::torchrun::{RankFolders, StreamWay, StreamWays};
use efarun_wire::{JobId, NodeId, Rank};

use super::spec::{Logs, Torchrun};

/// Plans the folders of a node's ranks, which are given in order of local rank.
pub fn folders(torchrun: &Torchrun, job: JobId, node: NodeId, ranks: &[Rank]) -> RankFolders {
    let ways = (0..).zip(ranks).map(|(local, rank)| ways(&torchrun.logs, &torchrun.role, local, *rank));
    RankFolders {
        folder: torchrun.logs.folder.as_ref().map(|folder| folder.as_os_str().as_bytes().to_vec()),
        run_folder: run_folder(torchrun, job, node),
        attempt: torchrun.attempt.number,
        ways: ways.collect(),
    }
}

/// The run's name and eight characters that are the job's and the node's alone: nodes may share the folder above.
fn run_folder(torchrun: &Torchrun, job: JobId, node: NodeId) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(&torchrun.attempt.folder_seed).update(&node.0.to_le_bytes());
    let digits = hash.finalize().to_hex();
    let run_id = torchrun.run_id.clone().unwrap_or_else(|| job.to_string());
    format!("{run_id}_{}", &digits[..8])
}

fn ways(logs: &Logs, role: &str, local: u32, rank: Rank) -> StreamWays {
    let (redirected, teed) = (logs.redirects.of(local), logs.tee.of(local));
    let is_shown = logs.shown.as_ref().is_none_or(|shown| shown.contains(&local));
    let way = |redirected: bool, teed: bool| match (redirected, teed, is_shown) {
        (_, true, true) => StreamWay::Both { prefix: prefix(logs, role, local, rank).into_bytes() },
        (true, ..) | (_, true, false) => StreamWay::File,
        (false, false, true) => StreamWay::Shown,
        (false, false, false) => StreamWay::Nowhere,
    };
    StreamWays { stdout: way(redirected.stdout, teed.stdout), stderr: way(redirected.stderr, teed.stderr) }
}

fn prefix(logs: &Logs, role: &str, local: u32, rank: Rank) -> String {
    let mut prefix =
        logs.prefix_template.clone().unwrap_or_else(|| "[${role_name}${local_rank}]:".to_owned());
    let values =
        [("role_name", role.to_owned()), ("local_rank", local.to_string()), ("rank", rank.to_string())];
    for (name, value) in values {
        prefix = prefix.replace(&format!("${{{name}}}"), &value).replace(&format!("${name}"), &value);
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torchrun::{StreamChoice, Streams};

    const STDOUT: Streams = Streams { stdout: true, stderr: false };
    const BOTH: Streams = Streams { stdout: true, stderr: true };

    #[test]
    fn streams_go_as_redirects_tee_and_filter_say() {
        let mut logs = Logs {
            redirects: StreamChoice::Every(BOTH),
            tee: StreamChoice::Of(vec![(0, STDOUT)]),
            ..Logs::default()
        };
        let teed = StreamWay::Both { prefix: b"[trainer0]:".to_vec() };
        assert_eq!(ways(&logs, "trainer", 0, Rank(4)), StreamWays { stdout: teed, stderr: StreamWay::File });
        let files = StreamWays { stdout: StreamWay::File, stderr: StreamWay::File };
        assert_eq!(ways(&logs, "trainer", 1, Rank(5)), files);
        logs.shown = Some(vec![1]);
        assert_eq!(ways(&logs, "trainer", 0, Rank(4)), files);
        let logs = Logs { shown: Some(vec![1]), ..Logs::default() };
        assert_eq!(ways(&logs, "trainer", 0, Rank(0)).stdout, StreamWay::Nowhere);
        assert_eq!(ways(&logs, "trainer", 1, Rank(1)).stdout, StreamWay::Shown);
    }

    #[test]
    fn lines_begin_as_the_template_says() {
        let template = |text: &str| Logs { prefix_template: Some(text.to_owned()), ..Logs::default() };
        assert_eq!(prefix(&template("<${rank}/$local_rank $role_name>"), "r", 1, Rank(9)), "<9/1 r>");
    }
}
