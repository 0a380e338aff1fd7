//! MPI's data goes from rank to rank, and not by the agents: their counters say so.

use efarun_tests::{Need, Testbed, require};
use serde_json::Value;

use crate::support::{Library, Program, on};

/// Runs an all-to-all of 64 MiB in each of four ranks on two hosts; gives the report.
fn all_to_all(library: Library) -> Value {
    let program = Program::of_source("alltoall.c", library);
    let testbed = Testbed::up(2);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let report = folder.path().join("report.json");
    let job = on(&testbed, &["-H", "h1:2,h2:2", "--report"]).options([&report]);
    let outcome = program.job(job, &[]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), "4 ranks, 0 wrong\n", "{}", outcome.shown());
    let report = std::fs::read(report).expect("the job has written it");
    serde_json::from_slice(&report).expect("a report is JSON")
}

/// What a counter of the report has, both ways.
fn both_ways(counter: &Value) -> u64 {
    let bytes = |way: &str| counter[way].as_u64().expect("it counts both ways");
    bytes("said") + bytes("told")
}

/// What the servers of both hosts told each other: something, and little of 256 MiB.
fn assert_little_was_exchanged(report: &Value) {
    let hosts = report["exchange_bytes"].as_array().expect("a list of hosts");
    assert_eq!(hosts.len(), 2, "{report}");
    for host in hosts {
        let bytes = both_ways(host);
        assert!((1..FEW_BYTES).contains(&bytes), "{host}");
    }
}

#[test]
fn an_all_to_all_of_mpichs_does_not_go_by_the_agents() {
    require!(Need::Mpich, Need::Testbed);
    let report = all_to_all(Library::Mpich);
    assert_little_was_exchanged(&report);
    for rank in report["ranks"].as_array().expect("a list of ranks") {
        let bytes = both_ways(&rank["pmi_bytes"]);
        assert!((1..FEW_BYTES).contains(&bytes), "{rank}");
    }
}

#[test]
fn an_all_to_all_of_open_mpis_does_not_go_by_the_agents() {
    require!(Need::OpenMpi, Need::Testbed);
    let report = all_to_all(Library::OpenMpi5);
    assert_little_was_exchanged(&report);
    let asks_pmi = |rank: &&Value| rank.get("pmi_bytes").is_some();
    assert_eq!(report["ranks"].as_array().expect("a list of ranks").iter().find(asks_pmi), None);
}

/// Addresses of four ranks are a few kilobytes.
const FEW_BYTES: u64 = 64 << 10;
