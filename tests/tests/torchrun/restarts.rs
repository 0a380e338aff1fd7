//! --max-restarts: the whole group again, and what a rank left in its error file.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{here, run, words, worker};

#[test]
fn the_group_is_started_again_until_it_goes_well() {
    let outcome = run(here(), "--nproc-per-node 2 --max-restarts 3", "fail-until 2");
    outcome.assert_code(0).assert_says(&[
        "rank 1 on localhost exited with code 3",
        "exception: ValueError: bad batch",
        "File \"train.py\", line 7",
        "starting the group again (1 of 3 restarts",
        "starting the group again (2 of 3 restarts",
    ]);
    let stdout = outcome.stdout();
    for attempt in 0..3 {
        for rank in 0..2 {
            let line = format!("rank {rank} of attempt {attempt}\n");
            // Rank 0 may be ended before it has said a word.
            assert!(stdout.contains(&line) || (rank == 0 && attempt < 2), "{line} is not in {stdout}");
        }
    }
    assert!(!stdout.contains("attempt 3"), "{stdout}");
}

#[test]
fn the_last_failure_decides_when_no_restart_is_left() {
    let outcome = run(here(), "--nproc-per-node 2 --max-restarts 1", "fail-until 9");
    outcome.assert_code(3);
    assert_eq!(outcome.stderr().matches("exited with code 3").count(), 2, "{}", outcome.shown());
    run(here(), "--nproc-per-node 1", "fail-until 9").assert_code(3);
}

#[test]
fn events_of_all_attempts_are_kept_with_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    std::fs::write(&file, "left from before\n").unwrap();
    let options = format!("--max-restarts 3 --events {}", file.display());
    // Three interpreters, one after the other, on a machine that may have much else to do.
    run(here().deadline(Duration::from_secs(120)), &options, "fail-until 2").assert_code(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let events =
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
    let ends = events.filter(|event| event["event"] == "end");
    let told: Vec<_> = ends.map(|end| (end["attempt"].as_u64(), end["exit"]["code"].as_u64())).collect();
    let failed = told[0].1;
    assert_ne!(failed, Some(0));
    assert_eq!(told, [(Some(0), failed), (Some(1), failed), (Some(2), Some(0))]);
}

#[test]
fn reports_have_every_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let options = format!("--max-restarts 3 --report {}", file.display());
    run(here().deadline(Duration::from_secs(120)), &options, "fail-until 2").assert_code(0);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&report["attempt"], &report["exit"]["code"]), (&2.into(), &0.into()));
    let earlier = report["earlier_attempts"].as_array().expect("there were two");
    let numbers: Vec<_> = earlier.iter().map(|report| report["attempt"].as_u64()).collect();
    assert_eq!(numbers, [Some(0), Some(1)]);
    for report in earlier {
        assert_eq!(report["ranks"][0]["code"], 3, "{report}");
        assert_eq!(report.get("earlier_attempts"), None, "each is told once");
    }
}

#[test]
fn each_attempt_has_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        format!("--nproc-per-node 1 --max-restarts 1 --redirects 1 --log-dir {}", folder.path().display());
    run(here(), &options, "fail-until 1").assert_code(0);
    let runs: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [run] = &runs[..] else { panic!("{runs:?}") };
    let text = |path: &str| std::fs::read_to_string(run.join(path)).unwrap();
    assert_eq!(text("attempt_0/0/stdout.log"), "rank 0 of attempt 0\n");
    assert_eq!(text("attempt_1/0/stdout.log"), "rank 0 of attempt 1\n");
    assert!(text("attempt_0/0/error.json").contains("bad batch"));
}

#[test]
fn a_program_that_is_not_there_and_a_signal_start_nothing_again() {
    let missing =
        here().options(words("--no-python --max-restarts 5")).program(Path::new("/no/such"), [""; 0]).run();
    missing.assert_code(127);
    assert!(!missing.stderr().contains("starting the group again"));
    let job =
        here().options(words("--nproc-per-node 2 --max-restarts 5")).program(&worker(), ["hang"]).start();
    job.wait_for_output("hangs", 2);
    job.signal(Signal::SIGINT);
    let outcome = job.wait();
    outcome.assert_code(130);
    assert!(!outcome.stderr().contains("starting the group again"), "{}", outcome.shown());
}

#[test]
fn a_time_limit_is_no_reason_to_start_again() {
    let outcome = run(here(), "--nproc-per-node 1 --max-restarts 5 --timeout 1", "hang");
    outcome.assert_code(110);
    assert!(!outcome.stderr().contains("starting the group again"), "{}", outcome.shown());
}
