//! `scripts/accept`, which owners of instances run: between hosts with soft EFA devices it passes and leaves its two files,
//! and what is wrong with hosts it names.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use efarun_tests::{Need, Testbed, program, require};
use serde_json::Value;

use crate::support::{Guest, SoftEfa, succeeded, workspace};

#[test]
fn two_hosts_pass_and_leave_a_file_and_a_page() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(2);
    // /dev/shm is each host's own, and so are its counters there.
    let devices =
        SoftEfa::new(&["--device", "p4d", "--nics", "2", "--sysfs", SYSFS]).with("SYSFS_PATH", SYSFS);
    let out = testbed.folder().join("accepted");
    let mut accept = testbed.command("head", workspace().join("scripts/accept"));
    accept.args(["h1,h2", "--quick", "--bin"]).arg(programs(testbed.folder()));
    accept.arg("--out").arg(&out).arg("--");
    accept.args(devices.variables().flat_map(|variable| ["-x".to_owned(), variable]));
    // Soft devices need little; each endpoint would take a hundred megabytes.
    accept.args(["-x", "FI_EFA_TX_SIZE=256", "-x", "FI_EFA_RX_SIZE=512"]);
    let ended = Guest::start(accept).finish(PATIENCE);
    let (report, page) = left(&out);
    assert_eq!(ended.status.code(), Some(0), "{page}\n{}", String::from_utf8_lossy(&ended.stderr));

    assert_eq!((&report["schema"], &report["passed"]), (&"efarun-accept/1".into(), &true.into()));
    let parts: Vec<_> = report["parts"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
    assert_eq!(parts, ["checks", "pairs", "operations", "sweep", "counters", "crowd"]);
    let part = |name: &str| &report["parts"][parts.iter().position(|part| *part == name).unwrap()]["result"];
    for card in ["rdmap16s27", "rdmap32s27"] {
        let of_card = &part("pairs")["cards"][card];
        assert!(of_card["fi_pingpong"]["h2"][0]["one_way_us"].as_f64() > Some(0.0), "{of_card}");
        assert!(is_all_right(&of_card["efarun"]), "{of_card}");
        for host in ["h1", "h2"] {
            let sent = part("counters")["hosts"][host][card]["tx_bytes"].as_u64();
            assert!(sent > Some(1 << 20), "{host} {card}: {sent:?}");
        }
    }
    assert!(is_all_right(&part("operations")["1 rank per host"]));
    assert!(is_all_right(&part("sweep")["1 rank per host"]));
    assert!(is_all_right(&part("crowd")["2 ranks per host"]));
    for text in ["**Passed.**", "soft EFA devices, no hardware", "| rdmap32s27 | h2 |", "| reduce_scatter | "]
    {
        assert!(page.contains(text), "{text}: {page}");
    }
    let folders = testbed.sh("h1", "ls -d /tmp/efarun-accept-* 2>/dev/null | wc -l");
    assert_eq!(folders.trim(), "0", "what was brought to the hosts is taken away");
}

#[test]
fn hosts_that_cannot_be_reached_are_told_and_the_files_are_there() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let out = testbed.folder().join("refused");
    let mut accept = testbed.command("head", workspace().join("scripts/accept"));
    accept.args(["h1,nowhere", "--quick", "--bin"]).arg(programs(testbed.folder())).arg("--out").arg(&out);
    let ended = Guest::start(accept).finish(PATIENCE);
    let (report, page) = left(&out);
    assert_eq!(ended.status.code(), Some(1), "{page}");
    assert_eq!((&report["passed"], &report["finished"]), (&false.into(), &true.into()));
    assert!(page.contains("**Did not pass.**") && page.contains("nowhere"), "{page}");
}

#[test]
fn what_is_missing_on_hosts_is_told_with_its_remedy() {
    let facts = "\
        accept|0|host|a\n\
        accept|1|host|b\n\
        of another program\n\
        accept|0|memlock_kib|unlimited\n\
        accept|1|memlock_kib|64\n\
        accept|0|fi_info_tool|/usr/bin/fi_info\n\
        accept|0|libfabric|2.1.0amzn3.0\n\
        accept|1|libfabric|1.22.0\n\
        accept|0|fi_info|    domain: rdmap16s27-rdm\n\
        accept|0|device.state|rdmap16s27 ACTIVE\n\
        accept|0|device.gid|rdmap16s27 fe80:0000:0000:0000:0001:0002:0003:0004\n\
        accept|0|device.state|rdmap32s27 DOWN\n\
        accept|0|device.gid|rdmap32s27 0000:0000:0000:0000:0000:0000:0000:0000\n\
        accept|0|efa_functions|2\n\
        accept|1|efa_functions|4\n\
        accept|0|instance_type|p4d.24xlarge\n\
        accept|1|instance_type|p4d.24xlarge\n\
        accept|0|zone|us-east-1a\n\
        accept|1|zone|us-east-1b\n\
        accept|1|gpus|8\n\
        accept|1|kernel|5.10.227-219.884.amzn2.x86_64\n\
        accept|1|denied|/dev/infiniband/uverbs0\n";
    let script = "import sys\nfrom accept import checks, probe\n\
        for lines in checks.look_at(probe.parse(sys.stdin.read())): print('\\n'.join(lines))";
    let said = python(script, facts);
    for text in [
        "b: locked memory is limited to 64 KiB",
        "a: the port of rdmap32s27 is DOWN, not ACTIVE",
        "a: rdmap32s27 has no address",
        "a: libfabric 2.1.0amzn3.0 (/usr/bin/fi_info) does not offer rdmap32s27: LD_LIBRARY_PATH",
        "b: 4 EFA interfaces are attached, but the driver has 0 devices",
        "b: this user may not use /dev/infiniband/uverbs0",
        "b: there is no fi_info",
        "b: GPUs without GPUDirect",
        "different libfabric versions: a has 2.1.0amzn3.0, b has 1.22.0",
        "different availability zones (EFA does not cross them): a has us-east-1a, b has us-east-1b",
        "a: 2 EFA devices, where a p4d.24xlarge can have 4",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn counters_that_do_not_fit_are_told() {
    let script = "import json, sys\nfrom accept import counters\n\
        before, after = json.load(sys.stdin)\n\
        print('\\n'.join(sum(counters.compare(before, after)[1:], [])))";
    let host = |name: &str, sent: [&str; 2], dropped: &str| {
        let card =
            |sent: &str| serde_json::json!({ "state": "ACTIVE", "tx_bytes": sent, "rx_drops": dropped });
        serde_json::json!({ "host": name, "devices": { "rdmap16s27": card(sent[0]), "rdmap32s27": card(sent[1]) } })
    };
    let before =
        [host("idle", ["5", "5"], "0"), host("uneven", ["0", "0"], "1"), host("good", ["0", "0"], "0")];
    let after = [
        host("idle", ["5", "5"], "0"),
        host("uneven", ["1000", "100"], "4"),
        host("good", ["1000", "900"], "0"),
    ];
    let said = python(script, &serde_json::json!([before, after]).to_string());
    assert!(said.contains("idle: no card sent anything: traffic was not on EFA"), "{said}");
    assert!(said.contains("uneven: the cards did not share the traffic evenly"), "{said}");
    assert!(said.contains("uneven: rdmap16s27: rx_drops 3"), "{said}");
    assert!(!said.contains("good"), "{said}");
}

/// Whether a run of efa-perf has results, and none of them wrong.
fn is_all_right(run: &Value) -> bool {
    run["results"].as_array().is_some_and(|rows| !rows.is_empty()) && run["out_of_bounds"] == 0
}

/// A folder with efarun and efa-perf, by their names.
fn programs(folder: &Path) -> PathBuf {
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    symlink(program!("efarun-under-test"), bin.join("efarun")).unwrap();
    symlink(program!("efa-perf-under-test"), bin.join("efa-perf")).unwrap();
    bin
}

/// The two files.
fn left(out: &Path) -> (Value, String) {
    let file = |extension: &str| {
        let mut files = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|path| path.extension().is_some_and(|found| found == extension)).unwrap();
        std::fs::read_to_string(file).unwrap()
    };
    (serde_json::from_str(&file("json")).unwrap(), file("md"))
}

/// What a script in the accept package's language prints of a text.
fn python(script: &str, input: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let mut command = Command::new("python3");
    command.args(["-B", "-c", script]).env("PYTHONPATH", workspace().join("tests"));
    let output = command.stdin(Stdio::from(file.reopen().unwrap())).output().unwrap();
    succeeded("python3", &output)
}

const SYSFS: &str = "/dev/shm/soft-efa-sys";
/// A quick run takes a quarter of it on a busy machine.
const PATIENCE: Duration = Duration::from_secs(150);
