//! Which variables reach ranks without being asked for: the head's that say how programs run, and the node's that
//! describe the node.

use efarun_wire::env as wire;
use efarun_wire::facts::NodeFacts;

use super::{Origin, Variable, rank};

/// Says whether a variable of the head's is passed to ranks.
///
/// `everything` is for a job on the head's own machine alone: its ranks are children like any other, but for what an
/// outer launcher told *us* about ourselves.
pub(crate) fn goes_along(name: &[u8], everything: bool) -> bool {
    let listed = FORWARDED_NAMES.iter().any(|listed| listed.as_bytes() == name)
        || FORWARDED_PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    let well_formed = !name.is_empty() && !name.contains(&b'=');
    well_formed && (listed || everything) && !is_about_another_process(name)
}

/// Returns what a node adds of its own.
pub(super) fn node_own(facts: &NodeFacts) -> Vec<Variable> {
    let is_own =
        |name: &[u8]| NODE_NAMES.iter().any(|listed| listed.as_bytes() == name) || name.starts_with(b"LC_");
    let variable = |name: &[u8], value: &[u8]| Variable {
        name: name.to_vec(),
        value: value.to_vec(),
        origin: Origin::Node,
    };
    let mut own: Vec<Variable> = facts
        .env
        .iter()
        .filter(|(name, _)| is_own(name))
        .map(|(name, value)| variable(name, value))
        .collect();
    if !own.iter().any(|known| known.name == b"HOME") {
        own.push(variable(b"HOME", facts.home.as_bytes()));
    }
    own.sort_by(|a, b| a.name.cmp(&b.name));
    own
}

/// Says whether a variable describes the process that has it, and would be a lie in another: what an outer launcher
/// gave its own ranks, and what a shell keeps for itself. An MPI library that finds the former tries to reach a
/// server that is not ours.
pub(super) fn is_about_another_process(name: &[u8]) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    let users_own_parameter = name.starts_with(b"OMPI_MCA_") && !starts(OPEN_MPI_LAUNCHER_PARAMETERS);
    rank::is_identity(name)
        || ANOTHERS_NAMES.iter().any(|listed| listed.as_bytes() == name)
        || (starts(ANOTHERS_PREFIXES) && !users_own_parameter)
}

const FORWARDED_NAMES: &[&str] = &["PATH", "LD_LIBRARY_PATH"];

/// EFARUN_ carries the runtime's settings, OMPI_MCA_ a program's own parameters, which mpirun passes too.
const FORWARDED_PREFIXES: &[&str] = &[
    "FI_",
    "NCCL_",
    "OFI_NCCL_",
    "EFA_",
    "RDMAV_",
    "CUDA_",
    "OMP_",
    "PYTHON",
    "HF_",
    "EFARUN_",
    "OMPI_MCA_",
];

/// PATH is here for a head that has none. SSH_* is not: it would speak of the launcher's own connection.
const NODE_NAMES: &[&str] =
    &["HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "LANG", "LANGUAGE", "TZ", "XDG_RUNTIME_DIR", "PATH"];

const ANOTHERS_PREFIXES: &[&str] =
    &["PMI_", "PMIX_", "PRTE_", "OMPI_", "HYDI_", "MV2_COMM_WORLD_", "TORCHELASTIC_", "SLURM_STEP"];

/// Seen in the ranks of Open MPI 4.1.8's mpirun.
const OPEN_MPI_LAUNCHER_PARAMETERS: &[&str] = &[
    "OMPI_MCA_ess",
    "OMPI_MCA_orte_",
    "OMPI_MCA_pmix",
    "OMPI_MCA_initial_wdir",
    "OMPI_MCA_mpi_oversubscribe",
    "OMPI_MCA_shmem_RUNTIME_QUERY_hint",
];

/// Beside what [`rank::is_identity`] knows: who a rank is, by the names that efarun itself gives.
const ANOTHERS_NAMES: &[&str] = &[
    "MPIR_CVAR_CH3_INTERFACE_HOSTNAME",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
    "SLURM_NTASKS",
    "SLURM_NPROCS",
    "MASTER_ADDR",
    "MASTER_PORT",
    wire::EFARUN_BOOTSTRAP,
    wire::EFARUN_KEY_FILE,
    wire::EFARUN_INSECURE,
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
];
