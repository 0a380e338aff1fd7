//! Tests that need a given libfabric: where it is, what happens when it is missing, and how a test runs on it.
//!
//! A process can hold one libfabric, so such a test is two: a body that runs on whatever `libfabric.so.1` the process
//! opens, and one test per library that runs the body in a child process of this same test binary.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A libfabric that a test asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The one that the process would open by itself.
    Installed,
    /// The 2.x that `scripts/fetch-libfabric` fetches, or the folder that `EFARUN_TEST_LIBFABRIC_2` names.
    Fetched2,
}

/// Says that a test did not run and why; a failure when `EFARUN_TEST_REQUIRE` lists `libfabric`.
pub(crate) fn skip(test: &str, missing: &str) {
    let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name.trim() == "libfabric"),
        "{test} is required to run (EFARUN_TEST_REQUIRE={required}): {missing}"
    );
    println!("SKIPPED: {test}: {missing}");
}

/// Runs the test `body` of this binary in a process of its own that opens the wanted library, and fails with what it
/// printed. `test` is the asking test, for the report when the library is missing.
pub(crate) fn run_on(wanted: Wanted, test: &str, body: &str) {
    let mut environment = Vec::new();
    match wanted {
        Wanted::Installed => {
            if let Err(error) = libfabric_sys::Library::open() {
                return skip(test, &error.to_string());
            }
        }
        Wanted::Fetched2 => {
            let folder = fetched_folder();
            if !folder.join("libfabric.so.1").exists() {
                let missing =
                    format!("no libfabric.so.1 in {}: run scripts/fetch-libfabric", folder.display());
                return skip(test, &missing);
            }
            environment.push(("LD_LIBRARY_PATH".to_owned(), folder.display().to_string()));
        }
    }
    run_in(&environment, wanted, body);
}

/// Runs the test `body` of this binary in a process of its own with these variables, and fails with what it printed.
pub(crate) fn run_in(environment: &[(String, String)], wanted: Wanted, body: &str) {
    let mut child = child(body);
    child.env(BODY_VARIABLE, format!("{wanted:?}"));
    child.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = child.output().expect("a test binary can be run again");
    let stdout = String::from_utf8_lossy(&output.stdout);
    for skipped in stdout.lines().filter_map(|line| line.find("SKIPPED: ").map(|start| &line[start..])) {
        println!("{skipped}");
    }
    assert!(
        output.status.success() && stdout.contains(&format!("test {body} ... ")),
        "{body} on {wanted:?} with {environment:?}: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// This test binary again, to run one test.
pub(crate) fn child(test: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("a test has a path"));
    child.args(["--exact", test, "--nocapture"]);
    child
}

/// Which library this process was started for, when it runs a body. Such a process ends by itself when it hangs.
pub(crate) fn body_runs_on() -> Option<Wanted> {
    let wanted = match std::env::var(BODY_VARIABLE).ok()?.as_str() {
        "Installed" => Wanted::Installed,
        "Fetched2" => Wanted::Fetched2,
        other => panic!("{BODY_VARIABLE}={other}"),
    };
    std::thread::spawn(|| {
        std::thread::sleep(BODY_LIMIT);
        println!("not done in {BODY_LIMIT:?}");
        std::process::abort();
    });
    Some(wanted)
}

fn fetched_folder() -> PathBuf {
    match std::env::var_os("EFARUN_TEST_LIBFABRIC_2") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .find(|folder| folder.join("Cargo.lock").exists())
            .expect("the packages lie in a workspace")
            .join(".cache/libfabric-2.5.1"),
    }
}

const BODY_LIMIT: Duration = Duration::from_secs(150);
const BODY_VARIABLE: &str = "EFARUN_TEST_BODY_ON";
