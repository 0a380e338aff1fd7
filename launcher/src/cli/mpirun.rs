//! Options of mpirun that efarun does not take yet.
//!
//! They are listed so that a line that carries one fails by that option's name. Taken for an unknown option without
//! values, `--mca pml ^cm ./prog` would run a program called `pml`.

/// An option of Open MPI's mpirun (4.1 or 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Its names, without dashes.
    pub(super) names: &'static [&'static str],
    /// How many words after it are its values.
    pub(super) values: usize,
    /// What to do without it.
    pub(super) hint: &'static str,
}

/// Finds an option by its name without dashes.
pub(super) fn find(name: &str) -> Option<&'static Foreign> {
    FOREIGN.iter().find(|foreign| foreign.names.contains(&name))
}

const LEAVE_OUT: &str = "leave it out";

const FOREIGN: &[Foreign] = &[
    Foreign {
        names: &["mca", "gmca", "omca", "gomca", "prtemca", "pmixmca"],
        values: 2,
        hint: "leave it out with both its words; a program's own MCA parameter can be set by `-x OMPI_MCA_NAME=VALUE`",
    },
    Foreign { names: &["am", "amca", "tune"], values: 1, hint: "leave it out; set what it sets by -x" },
    Foreign {
        names: &["prefix", "app-prefix"],
        values: 1,
        hint: "add its lib folder to LD_LIBRARY_PATH and its bin folder to PATH; both are passed to every rank",
    },
    Foreign {
        names: &["path"],
        values: 1,
        hint: "give PROGRAM's path, or set PATH, which is passed to every rank",
    },
    Foreign {
        names: &["map-by", "rank-by", "rankfile", "rf"],
        values: 1,
        hint: "hosts are filled in order; -N limits the ranks on each",
    },
    Foreign { names: &["ppr", "npersocket"], values: 1, hint: "use -N, ranks per host" },
    Foreign { names: &["pernode"], values: 0, hint: "use -N 1" },
    Foreign { names: &["nooversubscribe"], values: 0, hint: "leave it out: that is how it is" },
    Foreign { names: &["nolocal"], values: 0, hint: "leave this machine out of the hosts" },
    Foreign {
        names: &["bynode", "byslot", "bycore", "bysocket", "bind-to-core", "bind-to-socket", "bind-to-none"],
        values: 0,
        hint: LEAVE_OUT,
    },
    Foreign { names: &["report-bindings"], values: 0, hint: "leave it out: ranks are not bound" },
    Foreign {
        names: &["cpu-set", "cpu-list", "cpus-per-proc", "cpus-per-rank"],
        values: 1,
        hint: "leave it out: ranks are not bound",
    },
    Foreign {
        names: &["display-map", "display-allocation", "do-not-launch"],
        values: 0,
        hint: "use --dry-run",
    },
    Foreign { names: &["display", "runtime-options"], values: 1, hint: "use --dry-run or --verbose" },
    Foreign { names: &["output"], values: 1, hint: "use --tag-output" },
    Foreign {
        names: &["timestamp-output", "merge-stderr-to-stdout", "xml", "show-progress", "stream-buffering"],
        values: 0,
        hint: LEAVE_OUT,
    },
    Foreign { names: &["output-filename"], values: 1, hint: "redirect efarun's output, with --tag-output" },
    Foreign { names: &["stdin"], values: 1, hint: "leave it out: rank 0 reads standard input" },
    Foreign { names: &["app"], values: 1, hint: "one program for all ranks is supported" },
    Foreign { names: &["default-hostfile"], values: 1, hint: "use --hostfile" },
    Foreign {
        names: &["set-env", "prepend-env", "append-env", "env-merge"],
        values: 1,
        hint: "use -x NAME=VALUE",
    },
    Foreign { names: &["unset-env"], values: 1, hint: "run efarun under `env -u NAME`" },
    Foreign { names: &["max-restarts"], values: 1, hint: LEAVE_OUT },
    Foreign { names: &["spawn-timeout"], values: 1, hint: "use --start-timeout" },
    Foreign {
        names: &[
            "get-stack-traces",
            "report-state-on-timeout",
            "continuous",
            "enable-recovery",
            "disable-recovery",
        ],
        values: 0,
        hint: LEAVE_OUT,
    },
    Foreign { names: &["preload-binary", "s"], values: 0, hint: "copy the program to the hosts first" },
    Foreign { names: &["preload-files"], values: 1, hint: "copy the files to the hosts first" },
    Foreign { names: &["quiet", "q"], values: 0, hint: "leave it out: nothing is said unless it matters" },
    Foreign {
        names: &["debug-devel", "d", "debug-daemons", "leave-session-attached", "debug"],
        values: 0,
        hint: "use --verbose",
    },
    Foreign {
        names: &["report-uri", "ompi-server", "personality", "with-ft", "forward-signals"],
        values: 1,
        hint: LEAVE_OUT,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_that_is_taken_is_not_listed_as_refused() {
        let command = crate::cli::definition();
        for name in FOREIGN.iter().flat_map(|foreign| foreign.names) {
            let is_taken = |arg: &clap::Arg| {
                arg.get_long() == Some(name)
                    || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(name))
                    || arg.get_short().is_some_and(|short| short.to_string() == *name)
            };
            assert!(!command.get_arguments().any(is_taken), "{name}");
        }
    }
}
