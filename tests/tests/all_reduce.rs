//! A checked all_reduce by `efa-perf` under the launcher: over SSH hosts with sockets and with
//! either libfabric, and on this machine.

use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Need, Outcome, Testbed, is_full_matrix, libfabric_2_folder, program, require};

/// Sizes that end every algorithm's path: below and above a segment, and one that divides by nothing.
const SWEEP: [&str; 6] = ["-b", "8", "-e", "16M", "-f", "2"];
/// With `--all`: longer, and every type and reduction as far as algorithms differ by size.
const FULL_SWEEPS: [&[&str]; 2] =
    [&["-b", "8", "-e", "64M", "-f", "2"], &["-b", "8", "-e", "512K", "-f", "2", "-d", "all", "-o", "all"]];
const EFFORT: [&str; 4] = ["-n", "3", "-w", "1"];

fn sweeps() -> &'static [&'static [&'static str]] {
    if is_full_matrix() { &FULL_SWEEPS } else { &[&SWEEP] }
}

fn assert_all_right(outcome: &Outcome, transport: &str) {
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    assert!(stdout.contains("# Out of bounds values : 0 OK"), "{}", outcome.shown());
    assert!(stdout.contains(transport), "{}", outcome.shown());
    let rows = stdout.lines().filter(|line| line.starts_with(' ')).count();
    assert!(rows >= 22, "{rows} rows\n{}", outcome.shown());
}

/// Eight ranks on four hosts; `options` chooses how they are joined, and `transport` is how they say so.
fn over_hosts(algo: &str, options: &[String], transport: &str) {
    require!(Need::Testbed);
    let testbed = Testbed::up(4);
    for sweep in sweeps() {
        let job = Job::on(&testbed, program!("efarun-under-test"))
            .options(["-n", "8", "-N", "2", "--hostfile"])
            .options([testbed.hostfile(2)])
            .options(options)
            .deadline(Duration::from_secs(if is_full_matrix() { 400 } else { 100 }));
        let args = [&["all_reduce", "--algo", algo], *sweep, &EFFORT].concat();
        let outcome = job.program(program!("efa-perf-under-test"), args).run();
        assert_all_right(&outcome, transport);
        assert!(outcome.stdout().contains("8 ranks on 4 nodes"), "{}", outcome.shown());
    }
}

fn with_libfabric(algo: &str, library_path: Option<&Path>, version: &str) {
    let mut options: Vec<String> = ["-x", "EFARUN_PROVIDER=fabric-tcp"].map(str::to_owned).into();
    if let Some(folder) = library_path {
        options.extend(["-x".to_owned(), format!("LD_LIBRARY_PATH={}", folder.display())]);
    }
    over_hosts(algo, &options, &format!("(libfabric {version}"));
}

/// No machine of the testbed has an EFA device, so that nothing needs to be asked for.
const SOCKETS: &str = "tcp (sockets at 10.88.0.1; no EFA device on h1) to 6 peers";

#[test]
fn ring_over_four_hosts_with_sockets() {
    over_hosts("ring", &[], SOCKETS);
}

#[test]
fn tree_over_four_hosts_with_sockets() {
    over_hosts("tree", &[], SOCKETS);
}

#[test]
fn sockets_need_no_libfabric() {
    let nothing = tempfile::tempdir().unwrap();
    // A folder in front of all others, in which the library is a file that is none.
    std::fs::write(nothing.path().join("libfabric.so.1"), b"not a library").unwrap();
    over_hosts("ring", &["-x".to_owned(), format!("LD_LIBRARY_PATH={}", nothing.path().display())], SOCKETS);
}

/// Two hosts, the second of which cannot reach the first: how the job ends.
fn with_a_barrier_between_hosts(make_barrier: &str) -> Outcome {
    let testbed = Testbed::up(2);
    testbed.sh("h2", make_barrier);
    let outcome = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-n", "2", "-N", "1", "--hostfile"])
        .options([testbed.hostfile(1)])
        .deadline(Duration::from_secs(60))
        .program(program!("efa-perf-under-test"), ["all_reduce", "-b", "8", "-e", "8"])
        .run();
    assert!(!outcome.status.success(), "{}", outcome.shown());
    outcome
}

#[test]
fn a_firewall_that_drops_what_ranks_send_is_told_with_what_to_do() {
    require!(Need::Testbed);
    // As a security group does: what is sent to the other host goes nowhere, and nobody says so.
    let nobody = "ip neigh replace 10.88.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent";
    let outcome = with_a_barrier_between_hosts(nobody);
    outcome.assert_says(&["rank 0 cannot be reached at 10.88.0.1:", "no answer in 10 s", "security group"]);
}

#[test]
fn a_host_that_has_no_route_to_another_is_told_with_what_to_do() {
    require!(Need::Testbed);
    let outcome = with_a_barrier_between_hosts("ip route add unreachable 10.88.0.1/32");
    outcome.assert_says(&["rank 0 cannot be reached at 10.88.0.1:", "EFARUN_NODE_ADDRESS"]);
}

#[test]
fn ring_over_four_hosts_with_the_systems_libfabric() {
    require!(Need::Libfabric1);
    with_libfabric("ring", None, "1.");
}

#[test]
fn tree_over_four_hosts_with_the_systems_libfabric() {
    require!(Need::Libfabric1);
    with_libfabric("tree", None, "1.");
}

#[test]
fn ring_over_four_hosts_with_libfabric_2() {
    require!(Need::Libfabric2);
    with_libfabric("ring", libfabric_2_folder().ok().as_deref(), "2.");
}

#[test]
fn tree_over_four_hosts_with_libfabric_2() {
    require!(Need::Libfabric2);
    with_libfabric("tree", libfabric_2_folder().ok().as_deref(), "2.");
}

fn here(ranks: &str, args: &[&str]) -> Outcome {
    Job::here(program!("efarun-under-test"))
        .options(["--oversubscribe", "-n", ranks])
        .deadline(Duration::from_secs(100))
        .program(program!("efa-perf-under-test"), [&["all_reduce"], args].concat())
        .run()
}

#[test]
fn a_rank_without_a_gpu_is_named_with_the_reason_and_what_to_try() {
    // As on a machine without a driver: there is no such device.
    let outcome = Job::here(program!("efarun-under-test"))
        .options(["--oversubscribe", "-n", "2", "-x", "CUDA_VISIBLE_DEVICES=none"])
        .deadline(Duration::from_secs(60))
        .program(program!("efa-perf-under-test"), ["all_reduce", "-g", "1", "-b", "8", "-e", "8"])
        .run();
    outcome.assert_code(1).assert_says(&["error: rank 0 on ", "without -g buffers are the host's"]);
}

#[test]
fn every_type_and_reduction_is_right_on_this_machine() {
    for algo in ["ring", "tree"] {
        let args = ["-b", "8", "-e", "64K", "-f", "8", "-d", "all", "-o", "all", "-n", "2", "--algo", algo];
        let outcome = here("3", &args);
        outcome.assert_code(0);
        assert!(outcome.stdout().contains("# Out of bounds values : 0 OK"), "{}", outcome.shown());
    }
}

#[test]
fn sizes_that_no_chunk_divides_are_right() {
    let outcome = here("5", &["-b", "4", "-e", "300", "-i", "4", "-n", "1", "-d", "int32"]);
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("# Out of bounds values : 0 OK"), "{}", outcome.shown());
}

#[test]
fn a_world_of_one_needs_nothing() {
    let outcome = here("1", &["-b", "8", "-e", "64K", "-f", "2"]);
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("# Out of bounds values : 0 OK"), "{}", outcome.shown());
}

#[test]
fn results_as_json_are_one_document() {
    let outcome = here("2", &["-b", "8", "-e", "8K", "-f", "4", "--json", "-"]);
    outcome.assert_code(0);
    let json: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!(json["out_of_bounds"], 0);
    assert_eq!(json["config"]["ranks"], 2);
    assert_eq!(json["results"].as_array().map(Vec::len), Some(6));
}

#[test]
fn arguments_that_make_no_run_are_refused_with_the_values() {
    let outcome = here("2", &["-b", "2K", "-e", "1K"]);
    assert!(!outcome.status.success());
    outcome.assert_says(&["2048", "1024"]);
}
