//! Every operation, measured and checked by `efa-perf` under the launcher, and what it reports beside the table.

use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Need, Outcome, Testbed, is_full_matrix, program, require};
use serde_json::Value;

const COLLECTIVES: [&str; 6] =
    ["all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter", "barrier"];

/// A run on this machine.
fn here(ranks: &str, args: &[&str]) -> Outcome {
    Job::here(program!("efarun-under-test"))
        .options(["--oversubscribe", "-n", ranks])
        .deadline(Duration::from_secs(120))
        .program(program!("efa-perf-under-test"), args)
        .run()
}

/// A run over all hosts of a testbed, two ranks on each.
fn over(testbed: &Testbed, args: &[&str]) -> Outcome {
    let ranks = (2 * testbed.hosts().len()).to_string();
    Job::on(testbed, program!("efarun-under-test"))
        .options(["-n", &ranks, "-N", "2", "--hostfile"])
        .options([testbed.hostfile(2)])
        .deadline(Duration::from_secs(if is_full_matrix() { 900 } else { 150 }))
        .program(program!("efa-perf-under-test"), args)
        .run()
}

/// Each collective's table says that nothing was wrong.
#[track_caller]
fn assert_all_right(outcome: &Outcome) {
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    for collective in COLLECTIVES {
        let table = stdout.split(&format!("# Collective test starting: {collective}\n")).nth(1);
        let table = table.unwrap_or_else(|| panic!("no table of {collective}\n{}", outcome.shown()));
        let verdict = table.lines().find(|line| line.starts_with("# Out of bounds values"));
        assert_eq!(verdict, Some("# Out of bounds values : 0 OK"), "{collective}\n{}", outcome.shown());
        assert!(table.contains("# Avg bus bandwidth"), "{collective}\n{}", outcome.shown());
    }
}

fn rows(json: &Value) -> &[Value] {
    json["results"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn json_of(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("efa-perf writes JSON")
}

#[test]
fn every_operation_is_right_on_this_machine_from_every_root() {
    let outcome = here("4", &["all", "-b", "8", "-e", "1M", "-f", "4", "-n", "2", "-r", "-1"]);
    assert_all_right(&outcome);
    outcome.assert_says(&["all_gather: sizes below 32 B leave a rank without a float"]);
}

#[test]
fn every_type_and_reduction_is_right_on_this_machine() {
    // 52 bytes divide into no whole elements of three ranks, 64K into more than a segment.
    let sizes: &[&str] = if is_full_matrix() {
        &["-b", "52", "-e", "1M", "-f", "2"]
    } else {
        &["-b", "52", "-e", "64K", "-f", "35"]
    };
    let args = [&["all", "-d", "all", "-o", "all", "-n", "1", "-w", "0", "-r", "-1"], sizes].concat();
    assert_all_right(&here("3", &args));
}

#[test]
fn every_operation_is_right_over_hosts_and_measured_against_their_link() {
    require!(Need::Testbed);
    let testbed = Testbed::up(if is_full_matrix() { 4 } else { 2 });
    let (json, plot) = (testbed.folder().join("x.json"), testbed.folder().join("x.svg"));
    let (json_flag, plot_flag) = (json.display().to_string(), plot.display().to_string());
    let matrix: &[&str] = if is_full_matrix() {
        &["-e", "256K", "-f", "2", "-d", "all", "-o", "all", "-r", "-1"]
    } else {
        &["-e", "8M", "-f", "32", "-r", "1"]
    };
    let args = [
        &[
            "all",
            "-b",
            "8",
            "-n",
            "3",
            "--bound",
            "--percentiles",
            "--json",
            &json_flag,
            "--plot",
            &plot_flag,
        ],
        matrix,
    ]
    .concat();
    let outcome = over(&testbed, &args);
    assert_all_right(&outcome);
    let said = outcome.stdout();
    assert!(said.contains("GB/s each way at once"), "{}", outcome.shown());
    assert!(said.contains("(rank 0) and "), "{}", outcome.shown());

    let json = json_of(&json);
    let link = &json["config"]["link"];
    assert!(link["latency_us"].as_f64() > Some(0.0), "{link}");
    assert!(link["bandwidth"]["network"]["both_ways"].as_f64() > Some(0.0), "{link}");
    for row in rows(&json) {
        assert!(row["bound_us"].as_f64() >= link["latency_us"].as_f64(), "{row}");
        let half = &row["out_of_place"];
        assert!(half["bound_fraction"].as_f64() > Some(0.0), "{row}");
        assert!(half["p50_us"].as_f64() <= half["p99_us"].as_f64() && half["p50_us"].is_f64(), "{row}");
    }
    let svg = std::fs::read_to_string(plot).unwrap();
    let svg = roxmltree::Document::parse(&svg).unwrap();
    let texts: Vec<_> = svg.descendants().filter_map(|node| node.text()).collect();
    // The legend of hundreds of curves ends with how many more there are.
    let labels = if is_full_matrix() { ["all_reduce", "and "] } else { ["all_reduce", "broadcast"] };
    for label in [labels[0], labels[1], "bound, in the colour of each"] {
        assert!(texts.iter().any(|text| text.starts_with(label)), "{label}: {texts:?}");
    }
}

#[test]
fn on_one_node_the_bound_is_memory_and_buffers_are_turned_over() {
    let outcome = here(
        "2",
        &["all_reduce", "-b", "1K", "-e", "1M", "-f", "32", "--bound", "--rotate", "auto", "-n", "2"],
    );
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    for text in
        ["#  rotate: auto, more than ", "by copies of memory on all 2 ranks at once", "#  bound: latency "]
    {
        assert!(stdout.contains(text), "{text}\n{}", outcome.shown());
    }
}

#[test]
fn buffers_of_the_world_are_measured_and_checked_as_others_are() {
    let outcome = here("2", &["all", "-b", "1K", "-e", "1M", "-f", "32", "--arena", "-n", "2"]);
    outcome.assert_code(0);
    for text in
        ["#  buffers: the World's, which ranks of a node reach in each other", "Out of bounds values : 0 OK"]
    {
        assert!(outcome.stdout().contains(text), "{text}\n{}", outcome.shown());
    }
}

#[test]
fn bound_that_is_given_is_not_measured_and_a_world_of_one_has_none() {
    let given = [
        "all_gather",
        "-b",
        "1M",
        "-e",
        "1M",
        "--bound",
        "--link-gbps",
        "100",
        "--link-us",
        "15",
        "--json",
        "-",
    ];
    let outcome = here("2", &given);
    outcome.assert_code(0);
    let json: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    // 15 us, and half of 1 MiB at 12.5 GB/s.
    let bound_us = rows(&json)[0]["bound_us"].as_f64().unwrap();
    assert!((bound_us - (15.0 + 524_288.0 / 12_500.0)).abs() < 1e-6, "{bound_us}");
    let outcome = here("1", &["all_reduce", "-b", "1K", "-e", "1K", "--bound"]);
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("#  bound: none in a world of one rank"), "{}", outcome.shown());
}

#[test]
fn what_makes_no_run_is_refused_once_with_the_values_and_code_2() {
    for (args, texts) in [
        (&["broadcast", "-r", "3"][..], &["-r 3: there is no such rank in a world of 3"][..]),
        (&["all_gather", "-b", "8", "-e", "8"], &["each of 3 ranks an element of float", "-e 12"]),
        (&["all_reduce", "-e", "200000G", "-f", "2", "--rotate", "4"], &["buffers need", "TiB", "--rotate"]),
    ] {
        let outcome = here("3", args);
        outcome.assert_code(2).assert_says(texts);
        let said = outcome.stderr().lines().filter(|line| line.starts_with("efa-perf: error: ")).count();
        assert_eq!(said, 1, "{}", outcome.shown());
    }
}

#[test]
fn explain_tells_the_algorithm_of_worlds_that_are_there_and_of_others_and_measures_nothing() {
    let calls = ["all_reduce", "-b", "8", "-e", "8M", "-f", "1024", "--explain"];
    let outcome = here("2", &calls);
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("over 2 ranks\n  algorithm ").count(), 3, "{}", outcome.shown());
    let mut alone = std::process::Command::new(program!("efa-perf-under-test"));
    let output = alone.args(calls).args(["--world", "1000", "--nodes", "125"]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout.matches("over 1000 ranks\n  algorithm ").count(), 3, "{stdout}");
    assert!(!stdout.contains("busbw"), "{stdout}");
}

#[test]
fn results_that_cannot_be_written_end_the_run_before_it_measures() {
    let outcome = here("2", &["all_reduce", "-b", "8", "-e", "8", "--plot", "/no/such/folder/x.svg"]);
    outcome.assert_code(1).assert_says(&["/no/such/folder/x.svg: No such file or directory"]);
    assert!(outcome.stdout.is_empty(), "{}", outcome.shown());
}
