//! How jobs end: by signals, by time, by failures; who is told, who is asked, and that nothing is left.
//!
//! Beside these: `kill_matrix` kills each of a job's processes, `silence` pulls a host's cable.

mod failures;
mod limits;
mod records;
mod signals;
mod status;
mod timeout;

use std::path::{Path, PathBuf};

use efarun_tests::{Job, Testbed, program};

/// The launcher on this machine, which may have fewer cores than a test has ranks.
fn here() -> Job<'static> {
    Job::here(program!("efarun-under-test")).options(["--oversubscribe"])
}

/// The launcher on the head of a testbed.
fn on(testbed: &Testbed) -> Job<'_> {
    Job::on(testbed, program!("efarun-under-test"))
}

/// The job's program: a shell with this script.
fn shell<'a>(job: Job<'a>, script: &str) -> Job<'a> {
    job.program(Path::new("/bin/sh"), ["-c", script])
}

/// A launcher that does `first` in a shell before it becomes efarun.
fn launcher_after(folder: &Path, first: &str) -> PathBuf {
    let script = format!("#!/bin/sh\n{first}\nexec '{}' \"$@\"\n", program!("efarun-under-test").display());
    executable(&folder.join("launcher"), &script)
}

/// Writes a program, and says where.
fn executable(path: &Path, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).expect("the folder is the test's");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .expect("the file was just written");
    path.to_owned()
}
