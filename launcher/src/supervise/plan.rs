//! What each node is told to run: its programs, its ranks and what they get.
//!
//! Made of what has been decided about the whole job; nothing is decided here but how it is said.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use efarun_wire::message::{AppPlan, LaunchPlan, RankPlan};
use efarun_wire::{JobId, Rank};

use super::writer::OUTPUT_CREDIT_BYTES;
use crate::binding::RankBinding;
use crate::env::JobEnv;
use crate::job::{JobSpec, StdinTo};
use crate::keeper::limits;
use crate::mapping::{self, Placement};
use crate::torchrun;

pub(super) fn of_node(
    spec: &JobSpec,
    job: JobId,
    placement: &Placement,
    place: &mapping::NodePlace,
    bindings: &[RankBinding],
    env: &[JobEnv],
) -> LaunchPlan {
    let apps = spec.apps.iter().zip(env).map(|(app, env)| {
        let here = || std::env::current_dir().unwrap_or_else(|_| "/".into());
        let wdir = app.wdir.clone().unwrap_or_else(here);
        let (program, args) = torchrun::command(spec, app);
        AppPlan {
            program: program.into_vec(),
            args: args.into_iter().map(OsString::into_vec).collect(),
            search_path: app
                .search_path
                .as_ref()
                .map_or_else(Vec::new, |path| path.as_os_str().as_bytes().to_vec()),
            env: env.node_env(place.node),
            wdir: wdir.as_os_str().as_bytes().to_vec(),
            wdir_required: app.wdir.is_some(),
        }
    });
    let ranks = place.ranks.iter().map(|rank| {
        let rank_place = &placement.ranks[rank.index()];
        RankPlan {
            rank: *rank,
            local_rank: rank_place.local_rank,
            app: u32::try_from(rank_place.app).expect("every program has one of at most MAX_RANKS ranks"),
            cpus: bindings[rank.index()].cpus.clone(),
            env: env[rank_place.app].per_rank(*rank),
        }
    });
    let mut plan = LaunchPlan {
        node: place.node,
        apps: apps.collect(),
        ranks: ranks.collect(),
        world_size: placement.world_size(),
        map: placement.job_map(),
        keys: Vec::new(),
        stdin_ranks: stdin_readers(spec, placement)
            .into_iter()
            .filter(|rank| placement.ranks[rank.index()].node == place.node)
            .collect(),
        merge_stderr: spec.output.merge_stderr,
        output_credit: OUTPUT_CREDIT_BYTES,
        limits: limits::own(),
        master_port: spec
            .torchrun
            .as_ref()
            .and_then(|torchrun| torchrun.master_port)
            .filter(|_| place.node.0 == 0),
        folders: spec
            .torchrun
            .as_ref()
            .map(|torchrun| torchrun::folders(torchrun, job, place.node, &place.ranks)),
    };
    // The other nodes do the same, each with its own.
    if spec.is_by_hand() && place.node.0 == 0 {
        torchrun::by_hand::own::complete(&mut plan, spec);
    }
    plan
}

/// The ranks that read standard input.
pub(super) fn stdin_readers(spec: &JobSpec, placement: &Placement) -> Vec<Rank> {
    match spec.stdin {
        StdinTo::None => Vec::new(),
        StdinTo::Rank(rank) => vec![rank],
        StdinTo::All => placement.ranks.iter().map(|place| place.rank).collect(),
    }
}
