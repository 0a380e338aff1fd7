//! mpiexec's options, of MPICH's and Intel MPI's Hydra, beside those that efarun or Open MPI's mpirun has under the same
//! name.

use super::Meaning::{Each, Means, NoDifference, Refused, Unused, Variable};
use super::{ForeignFlag, Meaning};

const fn flag(names: &'static [&'static str], values: usize, meaning: Meaning) -> ForeignFlag {
    ForeignFlag { names, values, meaning }
}

/// The table.
pub(in crate::cli) const FLAGS: &[ForeignFlag] = &[
    // Which hosts.
    flag(&["f"], 1, Means(&["--hostfile={}"])),
    flag(&["hosts", "hostlist", "machine", "machines"], 1, Means(&["--host={}"])),
    flag(&["launcher", "bootstrap"], 1, Unused(ITS_OWN_WAY)),
    flag(&["launcher-exec", "bootstrap-exec"], 1, Means(&["--launch-agent={}"])),
    flag(&["rmk"], 1, Unused("hosts come from --hostfile, -H, or the variables of Slurm and PBS")),
    flag(&["iface"], 1, NoDifference("agents dial the address that their SSH connection came from")),
    flag(&["hosts-group", "demux", "ckpoint-interval", "ckpointlib", "usize"], 1, Unused(NOTHING_LIKE_IT)),
    flag(&["skip-launch-node"], 0, Means(&["--nolocal"])),
    flag(&["order-nodes"], 1, Unused("hosts are taken in the order in which they are named")),
    // How many ranks, and where.
    flag(&["ppn", "perhost", "grr"], 1, Means(&["--npernode={}"])),
    flag(&["rr"], 0, Means(&["--map-by=node"])),
    flag(&["rankmap", "membind"], 1, Unused("--map-by, --rank-by and --bind-to place ranks")),
    flag(&["binding"], 1, Unused("--bind-to binds ranks")),
    flag(&["gpus-per-proc", "gpu-subdevs-per-proc"], 1, Unused("each rank is told its GPU in any case")),
    flag(&["configfile"], 1, Means(&["--app={}"])),
    // What the program gets.
    flag(&["genv", "env"], 2, Variable),
    flag(&["genvlist", "envlist"], 1, Each(&["--export={}"])),
    flag(&["genvall", "envall"], 0, Means(&["--export=*"])),
    flag(
        &["genvnone", "envnone"],
        0,
        Unused("--export adds variables, and nothing takes away what is passed anyway"),
    ),
    flag(&["umask"], 1, Unused("ranks have the umask of the SSH session")),
    // What is shown.
    flag(&["l", "prepend-rank"], 0, Means(&["--tag-output"])),
    flag(
        &["prepend-pattern"],
        1,
        Unused("--tag-output and --timestamp-output say what stands before a line"),
    ),
    flag(&["output-from"], 1, Unused("--output-filename and --fold-output order what ranks write")),
    flag(
        &["outfile-pattern", "outfile", "errfile-pattern", "errfile"],
        1,
        Refused("use --output-filename DIR, which makes DIR/1/rank.N/stdout and stderr"),
    ),
    flag(&["print-all-exitcodes"], 0, NoDifference("--report has every rank's end")),
    flag(&["print-rank-map"], 0, Means(&["--display-map"])),
    flag(&["profile", "info"], 0, Unused(NOTHING_LIKE_IT)),
    // Limits and endings.
    flag(&["disable-auto-cleanup"], 0, Means(&["--on-failure=continue"])),
    flag(&["enable-auto-cleanup"], 0, NoDifference("a rank that fails ends the job")),
    flag(&["pmi-port"], 0, Means(&["--export=EFARUN_PMI_PORT=1"])),
    flag(&["disable-hostname-propagation"], 0, NoDifference(ITS_OWN_WAY)),
];

const ITS_OWN_WAY: &str = "efarun reaches hosts in a way of its own: SSH, or the command of --launch-agent";
const NOTHING_LIKE_IT: &str = "efarun has nothing like it";
