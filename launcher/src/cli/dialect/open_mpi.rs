//! mpirun's options, of Open MPI 4.1 and 5, beside those that efarun has under the same name.

use super::Meaning::{List, Means, NoDifference, Parameter, Refused, Unused};
use super::{ForeignFlag, ListWord, Meaning};

const fn flag(names: &'static [&'static str], values: usize, meaning: Meaning) -> ForeignFlag {
    ForeignFlag { names, values, meaning }
}

const fn word(names: &'static [&'static str], meaning: Meaning) -> ListWord {
    ListWord { names, meaning }
}

/// The table.
pub(in crate::cli) const FLAGS: &[ForeignFlag] = &[
    // Which hosts.
    flag(&["default-hostfile"], 1, Means(&["--hostfile={}"])),
    flag(&["use-regexp", "enable-instant-on-support", "novm", "no-ready-msg"], 0, NoDifference(ITS_OWN_WAY)),
    flag(&["tree-spawn"], 0, NoDifference("hosts are reached from here, and no host needs SSH to another")),
    flag(&["arch"], 1, Unused("every node must run the same PROGRAM")),
    flag(&["dvm", "hnp", "ompi-server", "dvm-uri"], 1, Unused("efarun has no daemons that outlive a job")),
    // How many ranks, and where.
    flag(&["pernode"], 0, Means(&["--npernode=1"])),
    flag(&["npersocket"], 1, Means(&["--map-by=ppr:{}:socket", "--bind-to=socket"])),
    flag(&["ppr"], 1, Means(&["--map-by=ppr:{}"])),
    flag(&["bynode"], 0, Means(&["--map-by=node"])),
    flag(&["byslot"], 0, Means(&["--map-by=slot"])),
    flag(&["bycore"], 0, Means(&["--map-by=core"])),
    flag(&["bysocket"], 0, Means(&["--map-by=socket"])),
    flag(&["bynuma"], 0, Means(&["--map-by=numa"])),
    flag(&["bind-to-core"], 0, Means(&["--bind-to=core"])),
    flag(&["bind-to-socket"], 0, Means(&["--bind-to=socket"])),
    flag(&["bind-to-none"], 0, Means(&["--bind-to=none"])),
    flag(
        &["cpu-set", "cpu-list", "slot-list"],
        1,
        Refused("--bind-to chooses among the CPUs that efarun may use there: start it under `taskset`"),
    ),
    flag(
        &["nooversubscribe"],
        0,
        NoDifference("more ranks than slots is an error unless --oversubscribe is given"),
    ),
    flag(
        &["use-hwthread-cpus"],
        0,
        Unused("a host without slots has one per GPU or core: give slots to have more"),
    ),
    flag(&["soft"], 1, Unused("-n is a number, not a set of numbers")),
    // What the program gets.
    flag(&["mca", "gmca", "omca", "gomca"], 2, Parameter("OMPI_MCA_")),
    flag(&["prtemca", "gprtemca"], 2, Parameter("PRTE_MCA_")),
    flag(&["pmixmca", "gpmixmca"], 2, Parameter("PMIX_MCA_")),
    flag(
        &["am", "amca", "tune"],
        1,
        Refused("leave it out; set what it sets by --mca NAME VALUE or -x NAME=VALUE"),
    ),
    flag(&["app-prefix"], 1, Means(&["--prefix={}"])),
    flag(&["noprefix", "no-app-prefix"], 0, NoDifference("without --prefix efarun puts nothing before PATH")),
    flag(&["set-env"], 1, Means(&["--export={}"])),
    flag(&["fwd-environment"], 0, Means(&["--export=*"])),
    flag(&["unset-env"], 1, Refused("run efarun under `env -u NAME`")),
    flag(&["prepend-env", "append-env", "env-merge"], 1, Refused("use -x NAME=VALUE with the whole value")),
    flag(
        &["preload-binary", "s"],
        0,
        Refused("copy the program to the hosts first, or use a folder that they share"),
    ),
    flag(
        &["preload-files"],
        1,
        Refused("copy the files to the hosts first, or use a folder that they share"),
    ),
    flag(&["set-cwd-to-session-dir"], 0, Unused("efarun keeps no session folder")),
    flag(&["tmpdir"], 1, Unused("efarun keeps no session folder; -x TMPDIR=DIR is the program's")),
    flag(&["xterm"], 1, Refused("use --output-filename, or a terminal per rank by hand")),
    // What is shown.
    flag(&["display"], 1, List(DISPLAY)),
    flag(&["output"], 1, List(OUTPUT)),
    flag(
        &["display-devel-map", "display-devel-allocation", "display-diffable-map", "display-topo"],
        0,
        Means(&["--display-map"]),
    ),
    flag(&["do-not-launch"], 0, Means(&["--dry-run"])),
    flag(&["runtime-options"], 1, List(RUNTIME_OPTIONS)),
    flag(&["xml"], 0, Unused("efarun writes no XML: --json has the map and the report")),
    flag(&["show-progress"], 0, NoDifference("progress is shown on a terminal")),
    flag(&["quiet", "q"], 0, NoDifference("nothing is said unless it matters")),
    flag(
        &["stream-buffering"],
        1,
        Unused("a program's own buffers are its own: `stdbuf -oL PROGRAM` sets them"),
    ),
    flag(
        &[
            "d",
            "debug-devel",
            "debug-daemons",
            "debug-daemons-file",
            "leave-session-attached",
            "no-daemonize",
        ],
        0,
        Unused("efarun says what it does by --verbose"),
    ),
    flag(&["debug-verbose"], 1, Unused("efarun says what it does by --verbose")),
    flag(
        &["report-uri", "report-pid", "report-events", "report-child-jobs-separately"],
        1,
        Unused("efarun has no service to connect to"),
    ),
    // Limits and endings.
    flag(&["spawn-timeout"], 1, Means(&["--start-timeout={}"])),
    flag(&["report-state-on-timeout", "get-stack-traces"], 0, NoDifference(STACKS_IN_ANY_CASE)),
    flag(&["max-restarts"], 1, Unused("a rank that fails is not started again")),
    flag(&["enable-recovery", "continuous"], 0, Means(&["--on-failure=continue"])),
    flag(&["disable-recovery"], 0, NoDifference("a rank that fails ends the job")),
    flag(&["with-ft"], 1, List(WITH_FT)),
    flag(&["personality", "cf", "mpi-personality"], 1, Unused("efarun is neither of them")),
    // Debuggers.
    flag(
        &["debug", "tv", "stop-on-exec", "stop-in-init", "stop-in-app", "output-proctable", "attach-file"],
        0,
        Refused("start the debugger as PROGRAM: `efarun … gdb --args ./prog`"),
    ),
    flag(&["debugger"], 1, Refused("start the debugger as PROGRAM: `efarun … gdb --args ./prog`")),
];

/// `--display`, of Open MPI 5.
const DISPLAY: &[ListWord] = &[
    word(&["map", "map-devel", "allocation", "alloc", "topo", "cpus"], Means(&["--display-map"])),
    word(&["bind", "bindings"], Means(&["--report-bindings"])),
    word(&["parsable", "parseable"], Unused("--json has the map as data")),
];

/// `--output`, of Open MPI 5.
const OUTPUT: &[ListWord] = &[
    word(&["tag", "tag-detailed", "tag-fullname", "rank"], Means(&["--tag-output"])),
    word(&["timestamp"], Means(&["--timestamp-output"])),
    word(&["merge-stderr-to-stdout", "merge"], Means(&["--merge-stderr-to-stdout"])),
    word(&["dir", "directory"], Means(&["--output-filename={}"])),
    word(&["file", "filename"], Refused("use --output-filename DIR, which makes DIR/1/rank.N/stdout")),
    word(&["xml"], Unused("efarun writes no XML: --json has the map and the report")),
    word(&["copy"], NoDifference("output is shown on the terminal in any case")),
];

/// `--with-ft`, of Open MPI 5.
const WITH_FT: &[ListWord] = &[
    word(&["ulfm", "mpi", "yes", "true", "1"], Means(&["--on-failure=continue"])),
    word(&["none", "no", "false", "0"], NoDifference("a rank that fails ends the job")),
];

/// `--runtime-options`, of Open MPI 5.
const RUNTIME_OPTIONS: &[ListWord] = &[
    word(&["donotlaunch"], Means(&["--dry-run"])),
    word(&["recoverable", "continuous"], Means(&["--on-failure=continue"])),
    word(&["show-progress"], NoDifference("progress is shown on a terminal")),
    word(&["error-nonzero-status", "abort-nonzero-exit"], Meaning::AlwaysTrue(FAILURE_ENDS)),
    word(
        &["notifyerrors", "autorestart", "max-restarts", "exec-agent", "output-proctable", "fwd-environment"],
        Unused(FAILURE_ENDS),
    ),
];

const STACKS_IN_ANY_CASE: &str = "--timeout asks every rank where it is in any case";
const FAILURE_ENDS: &str = "a rank that fails ends the job";
const ITS_OWN_WAY: &str = "efarun starts its agents in a way of its own";
