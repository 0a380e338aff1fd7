//! Other launchers' options: each asks for the very job that an option of efarun's asks for.
//!
//! That the latter do to real ranks what they say is tested where ranks run; so an option here cannot lose its effect
//! unseen. The list is written out, and every option that means another one must be in it.

use std::collections::BTreeSet;

use super::*;
use crate::cli::dialect::{self, Meaning, parameters};

/// A line of another launcher's, and efarun's.
const PAIRS: &[(&str, &str)] = &[
    // Open MPI: hosts.
    ("--default-hostfile h", "--hostfile h"),
    // Open MPI: how many, and where.
    ("--pernode", "--npernode 1"),
    ("--npersocket 2", "--map-by ppr:2:socket --bind-to socket"),
    ("--ppr 2:node", "--map-by ppr:2:node"),
    ("--bynode", "--map-by node"),
    ("--byslot", "--map-by slot"),
    ("--bycore", "--map-by core"),
    ("--bysocket", "--map-by socket"),
    ("--bynuma", "--map-by numa"),
    ("--bind-to-core", "--bind-to core"),
    ("--bind-to-socket", "--bind-to socket"),
    ("--bind-to-none", "--bind-to none"),
    // Open MPI: what the program gets.
    ("--app-prefix /p", "--prefix /p"),
    ("--set-env A=b", "--export A=b"),
    ("--fwd-environment", "--export *"),
    // Open MPI: what is shown.
    ("--display map", "--display-map"),
    ("--display alloc", "--display-map"),
    ("--display bind", "--report-bindings"),
    ("--output tag", "--tag-output"),
    ("--output timestamp", "--timestamp-output"),
    ("--output merge-stderr-to-stdout", "--merge-stderr-to-stdout"),
    ("--output dir=d", "--output-filename d"),
    ("--display-devel-map", "--display-map"),
    ("--do-not-launch", "--dry-run"),
    ("--runtime-options donotlaunch", "--dry-run"),
    ("--runtime-options recoverable", "--on-failure continue"),
    // Open MPI: limits and endings.
    ("--spawn-timeout 7", "--start-timeout 7"),
    ("--enable-recovery", "--on-failure continue"),
    ("--with-ft ulfm", "--on-failure continue"),
    // Hydra.
    ("-f h", "--hostfile h"),
    ("-hosts a:2,b", "--host a:2,b"),
    ("-launcher-exec ssh", "--launch-agent ssh"),
    ("-skip-launch-node", "--nolocal"),
    ("-ppn 2", "--npernode 2"),
    ("-rr", "--map-by node"),
    ("-genv A b", "--export A=b"),
    ("-env A b", "--export A=b"),
    ("-genvlist A,B", "--export A --export B"),
    ("-envlist A", "--export A"),
    ("-genvall", "--export *"),
    ("-l", "--tag-output"),
    ("-prepend-rank", "--tag-output"),
    ("-print-rank-map", "--display-map"),
    ("-disable-auto-cleanup", "--on-failure continue"),
    ("-pmi-port", "-x EFARUN_PMI_PORT=1"),
];

/// A parameter with its value, and efarun's option.
const PARAMETER_PAIRS: &[(&str, &str)] = &[
    ("plm_rsh_agent ssh", "--launch-agent ssh"),
    ("plm_rsh_args -v", "--ssh-args -v"),
    ("orte_default_hostfile h", "--hostfile h"),
    ("orte_set_default_slots 3", "--default-slots 3"),
    ("rmaps_base_mapping_policy node", "--map-by node"),
    ("rmaps_base_ranking_policy node", "--rank-by node"),
    ("hwloc_base_binding_policy core", "--bind-to core"),
    ("rmaps_base_cpus_per_rank 2", "--cpus-per-rank 2"),
    ("rmaps_ppr_pattern 2:node", "--map-by ppr:2:node"),
    ("rmaps_base_display_map 1", "--display-map"),
    ("hwloc_base_report_bindings 1", "--report-bindings"),
    ("rmaps_base_oversubscribe 1", "--oversubscribe"),
    ("rmaps_base_no_schedule_local 1", "--nolocal"),
    ("rmaps_base_pernode 1", "--npernode 1"),
    ("rmaps_base_n_pernode 2", "--npernode 2"),
    ("orte_tag_output 1", "--tag-output"),
    ("orte_timestamp_output 1", "--timestamp-output"),
    ("orte_output_filename d", "--output-filename d"),
    ("orte_do_not_launch 1", "--dry-run"),
    ("orte_startup_timeout 7", "--start-timeout 7"),
    ("orte_enable_recovery 1", "--on-failure continue"),
    ("odls_base_sigkill_timeout 7", "--grace 7"),
];

/// Without what is said about the line, and what ranks are told of parameters.
fn asked_for(options: &str) -> JobSpec {
    JobSpec { notes: Vec::new(), parameters: Vec::new(), ..job(&format!("{options} p")) }
}

#[test]
fn options_of_other_launchers_ask_for_the_same_job() {
    for (theirs, ours) in PAIRS {
        assert_eq!(asked_for(theirs), asked_for(ours), "{theirs}");
    }
    for (theirs, ours) in PARAMETER_PAIRS {
        assert_eq!(asked_for(&format!("--mca {theirs}")), asked_for(ours), "{theirs}");
    }
}

#[test]
fn every_option_that_means_another_one_is_in_the_list() {
    let theirs = PAIRS.iter().map(|(theirs, _)| theirs.trim_start_matches('-').split(' ').next().unwrap());
    let theirs: BTreeSet<&str> = theirs.collect();
    let is_mapped = |meaning| matches!(meaning, Meaning::Means(_) | Meaning::Variable | Meaning::Each(_));
    for flag in dialect::flags().filter(|flag| is_mapped(flag.meaning) && flag.names != ["configfile"]) {
        assert!(flag.names.iter().any(|name| theirs.contains(name)), "{:?}", flag.names);
    }
    let known: BTreeSet<&str> =
        PARAMETER_PAIRS.iter().map(|(theirs, _)| theirs.split(' ').next().unwrap()).collect();
    let is_mapped = |meaning| matches!(meaning, Meaning::Means(_) | Meaning::Switch(_));
    for row in parameters::PARAMETERS.iter().filter(|row| is_mapped(row.meaning)) {
        assert!(row.names.iter().any(|name| known.contains(name)), "{:?}", row.names);
    }
}

/// A value that a row of one value may have.
fn value_of(name: &str) -> &'static str {
    if name.contains("timeout") { "1" } else { "x" }
}

#[test]
fn what_other_launchers_options_do_not_do_is_said() {
    for flag in dialect::flags() {
        for name in flag.names {
            let values = [value_of(name)].repeat(flag.values).join(" ");
            let line = format!("--{name} {values} p");
            match flag.meaning {
                Meaning::Unused(why) => {
                    let [note] = &job(&line).notes[..] else { panic!("{line}: not one note") };
                    assert!(note.starts_with(&format!("`--{name}")) && note.ends_with(why), "{line}: {note}");
                }
                Meaning::NoDifference(why) => {
                    assert_eq!(job(&line), job("p"), "{line}");
                    let notes = job(&format!("-v {line}")).notes;
                    assert!(notes.iter().any(|note| note.ends_with(why)), "{line}: {notes:?}");
                }
                Meaning::Refused(instead) => {
                    let refusal = parse_line(&line).unwrap_err().to_string();
                    assert!(refusal.contains(name) && refusal.contains(instead), "{line}: {refusal}");
                }
                _ => {}
            }
        }
    }
}
