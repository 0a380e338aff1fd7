//! `scripts/bench` works and cleans up: a short run without peers, which would come from PyPI.
#![expect(clippy::unwrap_used, reason = "this is a test to its last function")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use efarun_tests::{Need, libfabric_2_folder, program, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn collectives_are_measured_and_peers_that_are_absent_are_named() {
    require!(Need::Testbed);
    let out = tempfile::tempdir().unwrap();
    let words =
        ["collectives", "--no-peers", "--rounds", "1", "--sizes", "8,64K", "--collectives", "all_reduce"];
    let output = bench(out.path(), &words).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = json(&out.path().join("collectives.json"));
    let ours = &report["collectives"]["all_reduce"]["efarun/default"];
    for size in ["8", "65536"] {
        assert!(ours["times_us"][size][0].as_f64().is_some_and(|us| us > 0.0), "{report:#}");
    }
    for peer in ["MPICH 5.0.2", "Open MPI 5.0.11", "Open MPI 4.1.8"] {
        assert_eq!(report["facts"][peer], "not asked for");
    }
    let table = std::fs::read_to_string(out.path().join("collectives.md")).unwrap();
    assert!(table.contains("| 64 KiB |") && table.contains("none measured"), "{table}");
}

/// Without time it measures once what comes first, so that whoever wants an answer soon gets one.
#[test]
fn a_quick_bench_of_one_host_ends_when_its_time_is_over_and_names_what_it_left_out() {
    let out = tempfile::tempdir().unwrap();
    let output = bench(out.path(), &["host", "--quick", "--no-peers", "--minutes", "0", "--sizes", "8,32K"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = &json(&out.path().join("host.json"))["2 ranks"];
    for size in ["8", "32768"] {
        let times = &report["collectives"]["all_reduce"]["efarun/default"]["times_us"][size];
        assert_eq!(times.as_array().map(Vec::len), Some(1), "{report:#}");
        assert!(times[0].as_f64().is_some_and(|us| us > 0.0), "{report:#}");
    }
    let short = report["facts"]["rounds where time was short"].as_str().unwrap();
    assert!(short.starts_with("all_reduce of 2 ranks 1; barrier of 2 ranks 0;"), "{short}");
    let table = std::fs::read_to_string(out.path().join("host.md")).unwrap();
    assert!(table.contains(short) && table.contains("### all_reduce, 2 ranks"), "{table}");
}

/// Its ranks share nodes and cores, and its peers' settings are others than between two nodes of one rank.
#[test]
fn collectives_between_nodes_of_several_ranks_are_measured() {
    require!(Need::Testbed);
    let out = tempfile::tempdir().unwrap();
    let words = ["nodes", "--quick", "--no-peers", "--minutes", "0", "--layouts", "2x2", "--sizes", "8,64K"];
    let output = bench(out.path(), &words).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = &json(&out.path().join("nodes.json"))["2 nodes of 2 ranks"];
    for size in ["8", "65536"] {
        let times = &report["collectives"]["all_reduce"]["efarun/default"]["times_us"][size];
        assert_eq!(times.as_array().map(Vec::len), Some(1), "{report:#}");
        assert!(times[0].as_f64().is_some_and(|us| us > 0.0), "{report:#}");
    }
    let short = report["facts"]["rounds where time was short"].as_str().unwrap();
    assert!(
        short.starts_with("all_reduce of 2 nodes of 2 ranks 1; broadcast of 2 nodes of 2 ranks 0;"),
        "{short}"
    );
    let table = std::fs::read_to_string(out.path().join("nodes.md")).unwrap();
    assert!(table.contains("### all_reduce, 2 nodes of 2 ranks"), "{table}");
    assert!(out.path().join("nodes-2-nodes-of-2-ranks.svg").exists());
    let elsewhere = tempfile::tempdir().unwrap();
    let refused = bench(elsewhere.path(), &["nodes", "--layouts", "1x2"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", shown(&refused));
    assert!(
        shown(&refused).contains("`1x2` is not a list of nodes and ranks on each"),
        "{}",
        shown(&refused)
    );
}

/// What the machine allows is measured in the same rounds as ours, and both are times.
#[test]
fn large_collectives_are_measured_beside_what_the_machine_allows() {
    require!(Need::Testbed);
    let out = tempfile::tempdir().unwrap();
    let output = bench(out.path(), &["floors", "--rounds", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = json(&out.path().join("floors.json"));
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5, "{report:#}");
    for row in rows {
        assert!(row["floor_us"][0].as_f64().is_some_and(|us| us > 0.0), "{row:#}");
        assert!(row["ours_us"]["heap"][0].as_f64().is_some_and(|us| us > 0.0), "{row:#}");
    }
    assert!(rows[1]["ours_us"]["World::alloc"][0].as_f64().is_some_and(|us| us > 0.0), "{report:#}");
    let table = std::fs::read_to_string(out.path().join("floors.md")).unwrap();
    assert!(table.contains("| all_reduce, one host | 64 MiB | World::alloc |"), "{table}");
    assert!(table.contains("| all_gather, two hosts | 32 MiB | heap |"), "{table}");
}

#[test]
fn launches_are_timed_and_their_table_goes_between_the_marks_of_a_document() {
    require!(Need::Testbed);
    let out = tempfile::tempdir().unwrap();
    let document = out.path().join("DOCUMENT.md");
    std::fs::write(&document, "before\n<!-- bench:launch -->\nold\n<!-- /bench:launch -->\nafter\n").unwrap();
    let words =
        ["launch", "--no-peers", "--hosts", "2,3", "--rounds", "1", "--update", document.to_str().unwrap()];
    let output = bench(out.path(), &words).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = json(&out.path().join("launch.json"));
    assert_eq!(report["launches"][1]["hosts"], 3, "{report:#}");
    let starts = report["launches"][0]["starts"].as_array().unwrap();
    assert!(starts.len() >= 8, "{report:#}");
    for start in starts {
        assert!(start["failure"].is_null() && start["median_s"].as_f64().is_some(), "{start:#}");
    }
    let text = std::fs::read_to_string(&document).unwrap();
    assert!(text.starts_with("before\n<!-- bench:launch -->\n"), "{text}");
    assert!(text.ends_with("<!-- /bench:launch -->\nafter\n"), "{text}");
    assert!(text.contains("| efarun |") && !text.contains("old"), "{text}");
}

#[test]
fn output_is_timed_beside_cat() {
    let out = tempfile::tempdir().unwrap();
    let output = bench(out.path(), &["output", "--rounds", "1", "--mib", "2"]).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = json(&out.path().join("output.json"));
    let ways = report["ways"].as_array().unwrap();
    assert_eq!(ways.len(), 6, "{report:#}");
    assert!(ways.iter().all(|way| way["rates"][0].as_f64().is_some_and(|rate| rate > 0.0)), "{report:#}");
    let table = std::fs::read_to_string(out.path().join("output.md")).unwrap();
    assert!(table.contains("| efarun `--tag-output` | 65536 |"), "{table}");
}

/// fabtests are nobody's package: what stands in for them says figures of its own, which must come out as theirs.
#[test]
fn the_runtime_is_measured_beside_programs_of_libfabric_on_both_kinds_of_cards() {
    require!(Need::SoftEfa);
    let out = tempfile::tempdir().unwrap();
    let fabtests = out.path().join("fabtests");
    std::fs::create_dir(&fabtests).unwrap();
    for (number, name) in FABTESTS.into_iter().enumerate() {
        let program = fabtests.join(name);
        std::fs::write(&program, FABTEST.replace("FIGURE", &format!("{}.5", 7 + number))).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let words = ["fabric", "--quick", "--rounds", "1", "--fabtests", fabtests.to_str().unwrap()];
    let output = on_soft_efa(bench(out.path(), &words)).output().unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let report = json(&out.path().join("fabric.json"));
    for (device, theirs) in [
        ("p4d", vec![("fi_rdm_tagged_pingpong", 7.5), ("fi_rdm_tagged_bw", 9.5), ("fi_rdm_tagged_bw", 9.5)]),
        ("p5", vec![("fi_rdm_pingpong", 8.5), ("fi_rma_bw -o writedata", 10.5)]),
    ] {
        let rows = report["devices"][device].as_array().unwrap();
        let of = |wanted: &str| -> Vec<(String, f64)> {
            let of_it = rows.iter().filter(|row| row["program"].as_str().unwrap().starts_with(wanted));
            let value = |row: &serde_json::Value| row["values"][0].as_f64().unwrap();
            of_it.map(|row| (row["program"].as_str().unwrap().to_owned(), value(row))).collect()
        };
        let theirs: Vec<_> = theirs.into_iter().map(|(name, figure)| (name.to_owned(), figure)).collect();
        assert_eq!(of("fi_r"), theirs, "{report:#}");
        // A broadcast of either size also into memory of the World.
        for (program, count) in [("fi_pingpong", 1), ("efarun", 5), ("efarun --arena", 2)] {
            let values = of(program);
            assert!(values.len() == count && values.iter().all(|row| row.1 > 0.0), "{program}: {report:#}");
        }
    }
    let table = std::fs::read_to_string(out.path().join("fabric.md")).unwrap();
    assert!(table.contains("| broadcast of 16 MiB | `efarun` |"), "{table}");
    assert!(table.contains("| 1 MiB after 1 MiB | `fi_rma_bw -o writedata` | 10.5 MB/s |"), "{table}");
}

#[test]
fn programs_of_libfabric_that_are_not_there_are_named_before_anything_is_measured() {
    require!(Need::SoftEfa);
    let out = tempfile::tempdir().unwrap();
    let fabtests = out.path().join("fabtests");
    std::fs::create_dir(&fabtests).unwrap();
    let words = ["fabric", "--quick", "--fabtests", fabtests.to_str().unwrap()];
    let output = on_soft_efa(bench(out.path(), &words)).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("there is no {}: ", FABTESTS.join(", "))), "{said}");
    assert!(
        said.contains("./configure --with-libfabric=") && !out.path().join("fabric.json").exists(),
        "{said}"
    );
}

const FABTESTS: [&str; 4] = ["fi_rdm_tagged_pingpong", "fi_rdm_pingpong", "fi_rdm_tagged_bw", "fi_rma_bw"];

/// A server waits for its client, which says a figure where each of the programs has its own.
const FABTEST: &str = r#"#!/usr/bin/python3
import socket, sys
port = next(int(word[3:]) for word in sys.argv if word.startswith("-E="))
if sys.argv[-1] == "127.0.0.1":
    socket.create_connection(("127.0.0.1", port), timeout=30).close()
    bandwidth = "bw" in sys.argv[0]
    print("bytes #sent #ack total time MB/sec usec/xfer Mxfers/sec")
    print("64 300 =300 37k 0.01s", "FIGURE 1.25 0.75" if bandwidth else "1.25 FIGURE 0.75")
else:
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(30)
        server.accept()
"#;

/// The script, with the device and the libfabric of the tests.
fn on_soft_efa(mut command: Command) -> Command {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap().join("libsoftefa.so");
    command.env("SOFTEFA_LIBRARY", library).env("SOFTEFA_LIBFABRIC", libfabric_2_folder().unwrap());
    command
}

#[test]
fn interrupted_bench_leaves_no_hosts() {
    require!(Need::Testbed);
    let out = tempfile::tempdir().unwrap();
    let words =
        ["collectives", "--no-peers", "--rounds", "1000", "--sizes", "8", "--collectives", "all_reduce"];
    let mut child = bench(out.path(), &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let folder = testbed_of(&child);
    wait_until("a round is written", &mut child, || out.path().join("collectives.json").exists());
    assert!(folder.exists());
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(!folder.exists(), "{} is left", folder.display());
}

/// The script with our binaries under the names that it looks for.
fn bench(out: &Path, words: &[&str]) -> Command {
    let bin = out.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let programs = [
        ("efarun", program!("efarun-under-test")),
        ("efa-perf", program!("efa-perf-under-test")),
        ("ssh_floor", program!("ssh_floor")),
        ("rank_flood", program!("rank_flood")),
        ("socket_floor", program!("socket_floor")),
        ("memory_floor", program!("memory_floor")),
    ];
    for (name, path) in programs {
        symlink(path, bin.join(name)).unwrap();
    }
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/bench"));
    command.args(words).arg("--bin").arg(bin).arg("--out").arg(out);
    command
}

/// The folder of the testbed of a bench, which is named after its process.
fn testbed_of(child: &Child) -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    base.join(format!("efarun-testbed-bench-{}", child.id()))
}

fn wait_until(what: &str, child: &mut Child, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_true() {
        assert!(Instant::now() < deadline, "waited 60 s: {what}");
        assert_eq!(child.try_wait().unwrap(), None, "it ended before: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn shown(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
