//! Who a rank is, in the names that programs look for: Open MPI's, MPICH's, torchrun's and efarun's own.
//!
//! PMIX_* are not among them: a library that finds them connects to a server, and none answers. Where PMI_FD leads is
//! known to the agent, which sets it.

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use efarun_wire::env as wire;

use super::{Inputs, NameValue, Origin, Variables};
use crate::mapping::RankPlace;

/// Returns what one rank has of its own.
pub(super) fn own(place: RankPlace, local_size: u32, address: Option<IpAddr>) -> Vec<NameValue> {
    let (rank, local, node) = (place.rank.0, place.local_rank, place.node.0);
    // Open MPI's "node rank" counts a node's processes over all its jobs, so it is the local rank, not the node.
    let variables = [
        ("OMPI_COMM_WORLD_RANK", rank),
        ("OMPI_COMM_WORLD_LOCAL_RANK", local),
        ("OMPI_COMM_WORLD_NODE_RANK", local),
        ("OMPI_COMM_WORLD_LOCAL_SIZE", local_size),
        ("PMI_RANK", rank),
        ("MPI_LOCALRANKID", local),
        ("MPI_LOCALNRANKS", local_size),
        ("RANK", rank),
        ("LOCAL_RANK", local),
        ("LOCAL_WORLD_SIZE", local_size),
        ("GROUP_RANK", node),
        ("ROLE_RANK", rank),
        (wire::EFARUN_RANK, rank),
        (wire::EFARUN_LOCAL_RANK, local),
        (wire::EFARUN_LOCAL_WORLD_SIZE, local_size),
        (wire::EFARUN_NODE_RANK, node),
    ];
    let numbers = variables.map(|(name, value)| (name, value.to_string()));
    let address = address.map(|address| (wire::EFARUN_NODE_ADDRESS, address.to_string()));
    numbers.into_iter().chain(address).map(|(name, value)| (name.into(), value.into_bytes())).collect()
}

/// Adds what all ranks know alike about the job.
pub(super) fn add_shared(inputs: &Inputs<'_>, variables: &mut Variables) {
    let nodes = &inputs.placement.nodes;
    let world_size = inputs.placement.world_size().to_string();
    let universe = inputs.placement.universe_size().to_string();
    let node_count = nodes.len().to_string();
    let job = inputs.job.to_string();
    let AppNumbers { count: app_count, first_ranks, rank_counts } = app_numbers(inputs);
    let fixed = [
        ("OMPI_COMM_WORLD_SIZE", world_size.as_str(), OPEN_MPI),
        ("OMPI_UNIVERSE_SIZE", &universe, OPEN_MPI),
        ("OMPI_NUM_APP_CTX", &app_count, OPEN_MPI),
        ("OMPI_FIRST_RANKS", &first_ranks, OPEN_MPI),
        ("OMPI_APP_CTX_NUM_PROCS", &rank_counts, OPEN_MPI),
        ("PMI_SIZE", &world_size, MPICH),
        ("WORLD_SIZE", &world_size, TORCHRUN),
        ("GROUP_WORLD_SIZE", &node_count, TORCHRUN),
        ("ROLE_NAME", "default", TORCHRUN),
        ("ROLE_WORLD_SIZE", &world_size, TORCHRUN),
        ("TORCHELASTIC_RESTART_COUNT", "0", TORCHRUN),
        ("TORCHELASTIC_MAX_RESTARTS", "0", TORCHRUN),
        ("TORCHELASTIC_RUN_ID", &job, TORCHRUN),
        ("TORCHELASTIC_USE_AGENT_STORE", "False", TORCHRUN),
        (wire::EFARUN_WORLD_SIZE, &world_size, EFARUN),
        (wire::EFARUN_NODE_COUNT, &node_count, EFARUN),
        (wire::EFARUN_JOB_ID, &job, EFARUN),
    ];
    for (name, value, reason) in fixed {
        variables.set(name.as_bytes(), value.as_bytes(), Origin::Efarun(reason));
    }
    add_command(inputs, variables);
    variables.set_by_default("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", TORCHRUN);
    if let Some(Some(address)) = inputs.addresses.first() {
        variables.set_by_default("MASTER_ADDR", &address.to_string(), "torchrun's name for rank 0's node");
    }
    if let Some(port) = inputs.master_port {
        variables.set_by_default(
            "MASTER_PORT",
            &port.to_string(),
            "torchrun's name for a port on rank 0's node",
        );
    }
}

/// How a job's ranks are shared out among its programs, as Open MPI writes it: numbers with blanks between.
struct AppNumbers {
    count: String,
    first_ranks: String,
    rank_counts: String,
}

fn app_numbers(inputs: &Inputs<'_>) -> AppNumbers {
    let apps = 0..inputs.spec.apps.len().max(1);
    let places = &inputs.placement.ranks;
    let first = |app: usize| places.iter().find(|place| place.app == app).map_or(0, |place| place.rank.0);
    let count = |app: usize| places.iter().filter(|place| place.app == app).count();
    AppNumbers {
        count: apps.len().to_string(),
        first_ranks: apps.clone().map(|app| first(app).to_string()).collect::<Vec<_>>().join(" "),
        rank_counts: apps.map(|app| count(app).to_string()).collect::<Vec<_>>().join(" "),
    }
}

/// Says whether a variable tells a rank who it is, so that `-x` must not set it, and an outer job's is not passed on.
pub(super) fn is_identity(name: &[u8]) -> bool {
    IDENTITY.iter().any(|listed| listed.as_bytes() == name) || name.starts_with(b"OMPI_COMM_WORLD_")
}

/// The kernel refuses to start a program with one variable above 128 KiB, so a long line goes without OMPI_ARGV.
fn add_command(inputs: &Inputs<'_>, variables: &mut Variables) {
    let args: Vec<&[u8]> = inputs.app.args.iter().map(|arg| arg.as_bytes()).collect();
    let argv = args.join(&b' ');
    variables.set(b"OMPI_COMMAND", inputs.app.program.as_bytes(), Origin::Efarun(OPEN_MPI));
    if !args.is_empty() && argv.len() <= LONGEST_ARGV_BYTES {
        variables.set(b"OMPI_ARGV", &argv, Origin::Efarun(OPEN_MPI));
    }
}

const LONGEST_ARGV_BYTES: usize = 64 * 1024;

const OPEN_MPI: &str = "as under Open MPI";
const MPICH: &str = "as under MPICH's mpiexec";
const TORCHRUN: &str = "as under torchrun";
const EFARUN: &str = "the job";

/// The descriptor over which MPICH and its like talk to their launcher.
pub const PMI_FD: &str = "PMI_FD";

const IDENTITY: &[&str] = &[
    PMI_FD,
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_PORT",
    "PMI_ID",
    "PMI_SPAWNED",
    "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_NUM_APP_CTX",
    "OMPI_FIRST_RANKS",
    "OMPI_APP_CTX_NUM_PROCS",
    "OMPI_COMMAND",
    "OMPI_ARGV",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_NAME",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    wire::EFARUN_NODE_ADDRESS,
    wire::EFARUN_RANK,
    wire::EFARUN_WORLD_SIZE,
    wire::EFARUN_LOCAL_RANK,
    wire::EFARUN_LOCAL_WORLD_SIZE,
    wire::EFARUN_NODE_RANK,
    wire::EFARUN_NODE_COUNT,
    wire::EFARUN_JOB_ID,
    wire::EFARUN_AGENT_FD,
];
