//! `scripts/bench` works and cleans up: a short run without peers, which would come from PyPI.
#![expect(clippy::unwrap_used, reason = "this is a test to its last function")]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use efarun_tests::{Need, program, require};
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
    let report = &json(&out.path().join("host.json"))["2"];
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
