//! How a line is read: names with `_`, short names, variables, and words that are refused.

use super::{Report, here, run};

#[test]
fn names_may_have_underscores_be_cut_short_or_stand_in_variables() {
    let size = |options: &str| Report::all(&run(here(), options, "report")).len();
    assert_eq!(size("--nproc_per_node=2"), 2);
    assert_eq!(size("--nproc 2"), 2);
    let by_variable = || here().env("PET_NPROC_PER_NODE", "3").env("PET_STANDALONE", "1");
    assert_eq!(Report::all(&run(by_variable(), "", "report")).len(), 3);
    assert_eq!(Report::all(&run(by_variable(), "--nproc-per-node 2", "report")).len(), 2, "the line wins");
}

#[test]
fn of_an_option_that_is_repeated_the_last_counts_and_that_is_said() {
    let outcome = run(here(), "--nproc-per-node 4 --nproc-per-node 2", "report");
    assert_eq!(Report::all(&outcome).len(), 2);
    outcome.assert_says(&["`--nproc-per-node 4` is replaced by `--nproc-per-node 2`"]);
}

#[test]
fn what_is_behind_the_script_is_the_scripts() {
    let reports = Report::all(&run(here(), "--nproc-per-node 1", "report --nnodes 9 : -r -- x"));
    assert_eq!(reports[0].args(), ["report", "--nnodes", "9", ":", "-r", "--", "x"]);
}

#[test]
fn what_is_not_acted_on_is_said_once() {
    let options = "--event-log-handler console --logs-specs mine --rdzv-conf timeout=30,read_timeout=5 --signals-to-handle SIGTERM,SIGALRM";
    let outcome = run(here(), options, "report");
    outcome.assert_code(0).assert_says(&[
        "`--event-log-handler console` is not acted on",
        "`--logs-specs mine` is not acted on",
        "efarun has no read_timeout",
        "efarun does not pass on SIGALRM",
    ]);
    let outcome = run(here(), "--monitor-interval 5 --start-method fork -v", "report");
    outcome
        .assert_code(0)
        .assert_says(&["`--monitor-interval 5` changes nothing", "`--start-method fork` changes nothing"]);
}

#[test]
fn lines_that_cannot_be_followed_are_refused_by_word() {
    let cases = [
        ("--nnodes 2", "nothing says where they are"),
        ("--nnodes 2 --node-rank 1", "without a place where nodes meet"),
        ("--nnodes 2 --node-rank 2 --master-addr 10.0.0.1", "nodes are numbered from 0, and there are 2"),
        (
            "--nnodes 2 --master-addr 10.0.0.1 --dry-run",
            "`--dry-run` is for hosts that are started from here",
        ),
        ("--nnodes 0", "MIN:MAX"),
        ("--nproc-per-node many", "gpu, cpu or auto"),
        ("--node-rank 1", "there are 1 (--nnodes)"),
        ("-np 4", "`-np` is not taken by `efarun torchrun`"),
        ("-z", "unknown option `-z`"),
        ("--npernode 4", "`--npernode` is not taken by `efarun torchrun`"),
        ("--rdzv-backend zookeeper", "static"),
        ("--rdzv", "may be --rdzv-"),
        ("--tee 9", "standard output"),
        ("--standalone -H h1", "contradicts"),
        ("--master-port 0", "port from 1 to 65535"),
    ];
    for (options, said) in cases {
        let outcome = run(here(), options, "report");
        outcome.assert_code(64);
        assert!(outcome.stderr().contains(said), "{options}: {}", outcome.stderr());
    }
    let nothing = here().run();
    nothing.assert_code(64).assert_says(&["no script to run"]);
}
