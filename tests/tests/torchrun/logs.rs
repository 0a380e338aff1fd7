//! --log-dir, --redirects, --tee and --local-ranks-filter: what is in which file, and what is shown.

use std::path::{Path, PathBuf};

use super::{here, run};

/// The folder of a run's first attempt: the only one below the folder of logs.
#[track_caller]
fn attempt(folder: &Path, run_id: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("logs were asked for");
    let runs: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder is the test's").path()).collect();
    let [run] = &runs[..] else { panic!("not one run but {runs:?}") };
    let name = run.file_name().and_then(|name| name.to_str()).expect("the run has a name of letters");
    let suffix = name.strip_prefix(&format!("{run_id}_")).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(suffix.len(), 8, "{name}");
    run.join("attempt_0")
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> =
        text.lines().filter(|line| line.contains("out") || line.contains("err")).collect();
    lines.sort();
    lines
}

#[test]
fn redirected_streams_are_in_torchruns_files_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        format!("--nproc-per-node 2 --rdzv-id exp --redirects 0:1,1:3 --log-dir {}", folder.path().display());
    let outcome = run(here(), &options, "streams");
    outcome.assert_code(0);
    let attempt = attempt(folder.path(), "exp");
    assert_eq!(text(attempt.join("0/stdout.log")), "out 0\n");
    assert!(!attempt.join("0/stderr.log").exists());
    assert_eq!(text(attempt.join("1/stdout.log")), "out 1\n");
    assert_eq!(text(attempt.join("1/stderr.log")), "err 1\n");
    assert_eq!((outcome.stdout().as_str(), sorted(&outcome.stderr())), ("", vec!["err 0"]));
}

#[test]
fn teed_streams_are_in_files_and_shown_with_role_and_local_rank() {
    let folder = tempfile::tempdir().unwrap();
    let options = format!("--nproc-per-node 2 --role trainer -t 3 --log-dir {}", folder.path().display());
    let outcome = run(here(), &options, "streams");
    outcome.assert_code(0);
    let attempt = attempt(folder.path(), "none");
    assert_eq!(text(attempt.join("1/stdout.log")), "out 1\n");
    assert_eq!(text(attempt.join("0/stderr.log")), "err 0\n");
    assert_eq!(sorted(&outcome.stdout()), ["[trainer0]:out 0", "[trainer1]:out 1"]);
    assert_eq!(sorted(&outcome.stderr()), ["[trainer0]:err 0", "[trainer1]:err 1"]);
    let job = here().env("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE", "<${rank}>");
    assert_eq!(sorted(&run(job, &options, "streams").stdout()), ["<0>out 0", "<1>out 1"]);
}

#[test]
fn only_the_ranks_of_the_filter_are_shown_and_files_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let options =
        format!("--nproc-per-node 3 --local-ranks-filter 1 --tee 2:1 --log-dir {}", folder.path().display());
    let outcome = run(here(), &options, "streams");
    outcome.assert_code(0);
    assert_eq!((outcome.stdout().as_str(), sorted(&outcome.stderr())), ("out 1\n", vec!["err 1"]));
    assert_eq!(text(attempt(folder.path(), "none").join("2/stdout.log")), "out 2\n");
}

#[test]
fn logs_without_a_folder_are_in_one_that_stays_and_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let job = || here().env("TMPDIR", temporary.path());
    let outcome = run(job(), "--redirects 1", "streams");
    outcome.assert_code(0).assert_says(&["ranks' logs are in ", "--log-dir"]);
    let stderr = outcome.stderr();
    let place = stderr.split("ranks' logs are in ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(place.starts_with(temporary.path().to_str().unwrap()), "{place}");
    assert_eq!(text(Path::new(place).join("0/stdout.log")), "out 0\n");
    let kept = std::fs::read_dir(temporary.path()).unwrap().count();
    run(job(), "", "streams").assert_code(0);
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), kept, "without logs nothing stays");
}

#[test]
fn a_folder_that_cannot_be_made_is_named_before_anything_runs() {
    let outcome = run(here(), "--nproc-per-node 2 --log-dir /proc/no/such --redirects 3", "hang");
    outcome.assert_code(69).assert_says(&["mkdir /proc/no/such/"]);
}

#[test]
fn merged_streams_share_a_redirected_file() {
    let folder = tempfile::tempdir().unwrap();
    let options = format!("--redirects 1 --merge-stderr-to-stdout --log-dir {}", folder.path().display());
    let outcome = run(here(), &options, "streams");
    outcome.assert_code(0);
    assert_eq!(text(attempt(folder.path(), "none").join("0/stdout.log")), "out 0\nerr 0\n");
}
