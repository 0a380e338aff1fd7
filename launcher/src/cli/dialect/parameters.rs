//! MCA parameters that speak to the launcher, and not to the program.
//!
//! mpirun takes any name and says nothing about one that it does not know, so that a setting that was renamed is lost in
//! silence. Here a parameter of a framework of the launcher either has a row, or is named once.

use std::ffi::OsStr;

use super::Meaning::{AlwaysTrue, Means, NoDifference, Refused, Switch, Unused};
use super::{Meaning, likely};

/// A parameter, by all the names that it has had.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct ParameterRow {
    /// Its names in Open MPI 4.1 and in PRRTE.
    pub(in crate::cli) names: &'static [&'static str],
    /// What it means here.
    pub(in crate::cli) meaning: Meaning,
}

/// What is known about a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Known {
    /// It speaks to the launcher, and its row says what.
    Launcher(usize),
    /// It speaks to the launcher, by a name that nobody knows; perhaps this one is meant.
    Unknown(Option<&'static str>),
    /// It speaks to the program.
    Program,
}

/// Looks a parameter up.
pub(in crate::cli) fn look_up(name: &OsStr) -> Known {
    let Some(name) = name.to_str() else { return Known::Program };
    if let Some(index) = PARAMETERS.iter().position(|row| row.names.contains(&name)) {
        return Known::Launcher(index);
    }
    let framework = name.split('_').next().unwrap_or_default();
    if !FRAMEWORKS.contains(&framework)
        && !name.starts_with("hwloc_base_")
        && !name.starts_with("hwloc_default_")
    {
        return Known::Program;
    }
    Known::Unknown(likely(name, PARAMETERS.iter().flat_map(|row| row.names).copied()))
}

const fn row(names: &'static [&'static str], meaning: Meaning) -> ParameterRow {
    ParameterRow { names, meaning }
}

/// The table.
pub(in crate::cli) const PARAMETERS: &[ParameterRow] = &[
    row(&["plm_rsh_agent", "plm_ssh_agent", "pls_rsh_agent"], Means(&["--launch-agent={}"])),
    row(&["plm_rsh_args", "plm_ssh_args"], Means(&["--ssh-args={}"])),
    row(
        &[
            "plm_rsh_num_concurrent",
            "plm_ssh_num_concurrent",
            "plm_rsh_no_tree_spawn",
            "plm_ssh_no_tree_spawn",
            "plm_rsh_delay",
            "plm_ssh_delay",
            "plm_rsh_assume_same_shell",
            "plm_ssh_assume_same_shell",
            "plm_rsh_force_rsh",
            "plm_ssh_disable_qrsh",
            "plm_rsh_disable_qrsh",
            "plm",
            "routed",
            "routed_radix",
            "rml_base_radix",
            "orte_launch_agent",
            "prte_launch_agent",
        ],
        NoDifference(
            "hosts are reached from here at once, no host needs SSH to another, and no daemon is installed there",
        ),
    ),
    row(
        &[
            "oob_tcp_if_include",
            "oob_tcp_if_exclude",
            "prte_if_include",
            "prte_if_exclude",
            "oob",
            "oob_tcp_disable_ipv6_family",
            "oob_tcp_disable_ipv4_family",
        ],
        NoDifference(
            "agents dial the address that their SSH connection came from: there is no interface to choose",
        ),
    ),
    row(
        &[
            "oob_tcp_static_ipv4_ports",
            "oob_tcp_dynamic_ipv4_ports",
            "oob_tcp_static_ports",
            "oob_tcp_dynamic_ports",
            "prte_static_ipv4_ports",
            "prte_dynamic_ipv4_ports",
        ],
        Unused(
            "the head listens on any free port; where agents cannot dial it, they stay in the SSH connection",
        ),
    ),
    row(&["orte_default_hostfile", "prte_default_hostfile"], Means(&["--hostfile={}"])),
    row(&["orte_set_default_slots", "prte_set_default_slots"], Means(&["--default-slots={}"])),
    row(
        &["orte_keep_fqdn_hostnames", "prte_keep_fqdn_hostnames"],
        NoDifference("a host's name is used as it is written"),
    ),
    row(
        &["orte_strip_prefix", "prte_strip_prefix", "orte_hostname_cutoff", "prte_hostname_cutoff"],
        NoDifference("a host's name is used as it is written"),
    ),
    row(&["rmaps_base_mapping_policy", "rmaps_default_mapping_policy"], Means(&["--map-by={}"])),
    row(&["rmaps_base_ranking_policy", "rmaps_default_ranking_policy"], Means(&["--rank-by={}"])),
    row(&["hwloc_base_binding_policy", "hwloc_default_binding_policy"], Means(&["--bind-to={}"])),
    row(&["rmaps_base_cpus_per_rank", "rmaps_base_cpus_per_proc"], Means(&["--cpus-per-rank={}"])),
    row(&["rmaps_ppr_pattern"], Means(&["--map-by=ppr:{}"])),
    row(
        &["rmaps_base_display_map", "orte_display_alloc", "ras_base_display_alloc"],
        Switch(&["--display-map"]),
    ),
    row(&["hwloc_base_report_bindings"], Switch(&["--report-bindings"])),
    row(&["rmaps_base_oversubscribe"], Switch(&["--oversubscribe"])),
    row(
        &["rmaps_base_no_oversubscribe"],
        NoDifference("more ranks than slots is an error unless --oversubscribe is given"),
    ),
    row(&["rmaps_base_no_schedule_local"], Switch(&["--nolocal"])),
    row(&["rmaps_base_pernode", "rmaps_ppr_pernode"], Switch(&["--npernode=1"])),
    row(&["rmaps_base_n_pernode", "rmaps_ppr_n_pernode"], Means(&["--npernode={}"])),
    row(&["orte_tag_output"], Switch(&["--tag-output"])),
    row(&["orte_timestamp_output"], Switch(&["--timestamp-output"])),
    row(&["orte_output_filename"], Means(&["--output-filename={}"])),
    row(&["orte_xml_output"], Unused("efarun writes no XML: --json has the map and the report")),
    row(
        &["orte_abort_on_non_zero_status", "orte_abort_non_zero_exit", "prte_abort_on_non_zero_status"],
        AlwaysTrue("a rank that fails ends the job"),
    ),
    row(&["orte_do_not_launch"], Switch(&["--dry-run"])),
    row(&["orte_startup_timeout", "prte_startup_timeout"], Means(&["--start-timeout={}"])),
    row(&["orte_enable_recovery", "prte_enable_recovery"], Switch(&["--on-failure=continue"])),
    row(&["orte_max_restarts", "prte_max_restarts"], Unused("a rank that fails is not started again")),
    row(&["odls_base_sigkill_timeout"], Means(&["--grace={}"])),
    row(
        &[
            "orte_base_help_aggregate",
            "prte_base_help_aggregate",
            "orte_allowed_exit_without_sync",
            "prte_allowed_exit_without_sync",
            "orte_leave_session_attached",
            "prte_leave_session_attached",
            "orte_no_session_dirs",
        ],
        NoDifference("it is so in any case"),
    ),
    row(
        &["orte_tmpdir_base", "prte_tmpdir_base", "orte_local_tmpdir_base", "orte_remote_tmpdir_base"],
        Unused("efarun keeps no session folder"),
    ),
    row(
        &[
            "plm_base_verbose",
            "oob_base_verbose",
            "rmaps_base_verbose",
            "ras_base_verbose",
            "odls_base_verbose",
            "iof_base_verbose",
            "ess_base_verbose",
            "orte_debug",
            "orte_debug_daemons",
            "prte_debug_daemons",
            "state_base_verbose",
            "errmgr_base_verbose",
            "routed_base_verbose",
        ],
        Unused("efarun says what it does by --verbose"),
    ),
    row(
        &["orte_fork_agent", "odls_exec_agent"],
        Refused("name the agent as PROGRAM, with the program as its first argument"),
    ),
];

/// The launcher's frameworks, as parameters' names begin.
const FRAMEWORKS: &[&str] = &[
    "orte", "prte", "plm", "pls", "rmaps", "ras", "oob", "rml", "routed", "odls", "iof", "ess", "state",
    "errmgr", "grpcomm", "schizo", "filem", "rtc", "regx", "notifier", "prteif",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_parameters_are_told_from_the_launchers() {
        for name in
            ["btl", "pml", "mtl", "btl_tcp_if_exclude", "coll_hcoll_enable", "hwloc_x", "opal_cuda_support"]
        {
            assert_eq!(look_up(name.as_ref()), Known::Program, "{name}");
        }
        assert!(matches!(look_up("plm_rsh_agent".as_ref()), Known::Launcher(_)));
        assert_eq!(look_up("plm_rsh_agnet".as_ref()), Known::Unknown(Some("plm_rsh_agent")));
        assert_eq!(look_up("ras_qqqqq".as_ref()), Known::Unknown(None));
    }
}
