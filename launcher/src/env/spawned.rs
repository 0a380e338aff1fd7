//! The environment of ranks that another rank has asked for: that of the one who asks, but for who they are.
//!
//! Libraries ask their process manager who they are, and scripts read it from the environment; both get numbers within the
//! new world. efarun's own names for them are left out: a World of the runtime is the job's first world.

use std::collections::BTreeMap;

use efarun_wire::env as wire;
use efarun_wire::message::SpawnProgram;

use super::NameValue;

/// Returns what the ranks of one of a spawned world's programs share, given what the asker's program has on the node and
/// how many ranks each program of the world gets.
pub fn spawned_app(base: &[NameValue], program: &SpawnProgram, counts: &[u32]) -> Vec<NameValue> {
    let of_base = base.iter().filter(|(name, _)| !OF_THE_RUNTIME.iter().any(|own| own.as_bytes() == name));
    let mut env: BTreeMap<Vec<u8>, Vec<u8>> = of_base.cloned().collect();
    env.extend(program.env.iter().cloned());
    let firsts = counts.iter().scan(0, |next, count| {
        let first = *next;
        *next += count;
        Some(first)
    });
    let listed = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let size = counts.iter().sum::<u32>().to_string();
    let own = [
        ("PMI_SPAWNED", "1".to_owned()),
        ("PMI_SIZE", size.clone()),
        ("OMPI_COMM_WORLD_SIZE", size.clone()),
        ("OMPI_NUM_APP_CTX", counts.len().to_string()),
        ("OMPI_FIRST_RANKS", listed(&firsts.collect::<Vec<_>>())),
        ("OMPI_APP_CTX_NUM_PROCS", listed(counts)),
        ("WORLD_SIZE", size.clone()),
        ("ROLE_WORLD_SIZE", size),
    ];
    env.extend(own.map(|(name, value)| (name.into(), value.into_bytes())));
    env.insert(b"OMPI_COMMAND".to_vec(), program.program.clone());
    env.remove(&b"OMPI_ARGV"[..]);
    env.into_iter().collect()
}

/// Returns what one rank of a spawned world has of its own: its number there, and among the world's ranks of its node.
pub fn spawned_rank(within: u32, local_rank: u32, local_size: u32) -> Vec<NameValue> {
    let variables = [
        ("OMPI_COMM_WORLD_RANK", within),
        ("OMPI_COMM_WORLD_LOCAL_RANK", local_rank),
        ("OMPI_COMM_WORLD_NODE_RANK", local_rank),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", local_size),
        ("PMI_RANK", within),
        ("MPI_LOCALRANKID", local_rank),
        ("MPI_LOCALNRANKS", local_size),
        ("RANK", within),
        ("LOCAL_RANK", local_rank),
        ("LOCAL_WORLD_SIZE", local_size),
        ("ROLE_RANK", within),
    ];
    variables.map(|(name, value)| (name.into(), value.to_string().into_bytes())).into()
}

const OF_THE_RUNTIME: [&str; 6] = [
    wire::EFARUN_RANK,
    wire::EFARUN_LOCAL_RANK,
    wire::EFARUN_LOCAL_WORLD_SIZE,
    wire::EFARUN_NODE_RANK,
    wire::EFARUN_WORLD_SIZE,
    wire::EFARUN_NODE_COUNT,
];
