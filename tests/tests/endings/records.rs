//! What is kept of a job: events, reports.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use efarun_tests::{Job, Need, Testbed, program, require};
use nix::sys::stat::Mode;
use serde_json::Value;

use super::{here, launcher_after, on, shell};

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

fn events(path: impl AsRef<Path>) -> Vec<Value> {
    text(path).lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("each event has a name")).collect()
}

#[test]
fn events_tell_a_job_from_start_to_end_in_order_and_are_documented() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let file = testbed.folder().join("events");
    let script = "if [ $EFARUN_RANK = 1 ]; then exit 7; else sleep 1000; fi";
    let job = on(&testbed).options(["-H", "h1,h2", "--events"]).options([&file]);
    shell(job, script).run().assert_code(7);
    let events = events(&file);
    let names = names(&events);
    assert_eq!(names[..4], ["start", "connected", "map", "launched"], "{names:?}");
    assert_eq!(names.last(), Some(&"end"));
    let times: Vec<u64> = events.iter().map(|event| event["t_ms"].as_u64().expect("a time")).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(events[0]["schema"], "efarun-events/1");
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!((of("rank-started").len(), of("rank-ended").len(), of("host-reaped").len()), (2, 2, 2));
    let [failure] = of("first-failure")[..] else { panic!("not one first failure: {names:?}") };
    assert_eq!((&failure["rank"], &failure["host"]), (&1.into(), &"h2".into()));
    assert_eq!(failure["exit"]["code"], 7);
    let failed = of("rank-ended").into_iter().find(|event| event["rank"] == 1).unwrap();
    assert_eq!((&failed["code"], &failed["ended_by_launcher"]), (&7.into(), &false.into()));
    assert_eq!(of("end")[0]["exit"]["code"], 7);
    let documented = text(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md"));
    for name in names.iter().collect::<BTreeSet<_>>() {
        assert!(documented.contains(&format!("| `{name}` |")), "docs/events.md lacks {name}");
    }
}

#[test]
fn events_go_to_a_descriptor_that_the_launcher_was_started_with() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events");
    let launcher = launcher_after(folder.path(), &format!("exec 7>{}", file.display()));
    let job = Job::here(&launcher).options(["-n", "1", "--events", "7"]);
    // Ranks have nothing of it.
    shell(job, "[ ! -e /proc/self/fd/7 ]").run().assert_code(0);
    let events = events(&file);
    assert_eq!((names(&events).first(), names(&events).last()), (Some(&"start"), Some(&"end")));
}

#[test]
fn report_and_junit_tell_who_failed_and_with_what_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let (report, junit) = (folder.path().join("report.json"), folder.path().join("junit.xml"));
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let job = here().options(["-n", "2", "--json", "--report"]).options([&report]).options(["--junit"]);
    let args = [OsStr::new("1"), OsStr::new("9"), fifo.as_os_str()];
    let job = job.options([&junit]).program(program!("rank_exit"), args).start();
    // A job whose rank fails before the other one has started never runs as a whole.
    job.wait_for_output("is up", 2);
    drop(File::options().write(true).open(&fifo).unwrap());
    let outcome = job.wait();
    outcome.assert_code(9);
    let written: Value = serde_json::from_str(&text(&report)).unwrap();
    let printed: Value = outcome.stdout().lines().find_map(|line| serde_json::from_str(line).ok()).unwrap();
    assert_eq!(written, printed, "--json prints what --report writes");
    assert_eq!((&written["schema"], &written["exit"]["code"]), (&"efarun-report/1".into(), &9.into()));
    let rank = &written["ranks"][1];
    assert_eq!((&rank["code"], &rank["ended_by_launcher"]), (&9.into(), &false.into()));
    assert_eq!(rank["last_stderr"][0], "last words of rank 1", "{rank}");
    assert!(written["startup"]["running_ms"].as_u64() >= written["startup"]["connected_ms"].as_u64());
    let document = text(&junit);
    let document = roxmltree::Document::parse(&document).expect("it is XML");
    let cases: Vec<_> = document.descendants().filter(|node| node.has_tag_name("testcase")).collect();
    assert_eq!(cases.len(), 2);
    let failure = cases[1].children().find(|node| node.has_tag_name("failure")).expect("rank 1 failed");
    assert_eq!(failure.attribute("message"), Some("exited with code 9"));
    assert!(failure.text().is_some_and(|text| text.contains("last words of rank 1")));
}

#[test]
fn job_that_cannot_be_launched_has_a_report_too() {
    let folder = tempfile::tempdir().unwrap();
    let (report, file) = (folder.path().join("report.json"), folder.path().join("events"));
    let job =
        here().options(["-H", "localhost:1", "--hostfile", "/no/such/hosts", "--report"]).options([&report]);
    shell(job.options(["--events"]).options([&file]), "true").run().assert_code(65);
    let written: Value = serde_json::from_str(&text(&report)).unwrap();
    assert_eq!(written["exit"]["cause"], "data");
    assert!(written["error"].as_str().unwrap().contains("/no/such/hosts"), "{written}");
    assert_eq!(names(&events(&file)), ["end"]);
}

#[test]
fn record_that_cannot_be_written_is_named_before_anything_runs() {
    for option in ["--events", "--report", "--junit"] {
        let job = here().options(["-n", "1", option, "/no/such/folder/file"]);
        let outcome = shell(job, "echo ran").run();
        outcome.assert_code(65).assert_says(&[option, "/no/such/folder/file", "no such file or directory"]);
        assert_eq!(outcome.stdout(), "", "{}", outcome.shown());
    }
}

#[test]
fn lines_that_all_ranks_write_are_shown_once() {
    let script = "echo hello; echo mine $EFARUN_RANK; echo oops >&2; echo bye";
    let outcome = shell(here().options(["-n", "3", "--fold-output=20"]), script).run();
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    for line in ["[0-2] hello\n", "[0] mine 0\n", "[1] mine 1\n", "[2] mine 2\n", "[0-2] bye\n"] {
        assert_eq!(stdout.matches(line).count(), 1, "{line:?}: {}", outcome.shown());
    }
    assert!(outcome.stderr().contains("[0-2] oops\n"), "{}", outcome.shown());
    let tagged = shell(here().options(["-n", "2", "--fold-output=20", "--tag-output"]), "echo same").run();
    assert_eq!(tagged.stdout(), "[1,0-1]<stdout>:same\n");
}
