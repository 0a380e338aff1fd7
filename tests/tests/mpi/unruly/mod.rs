//! Ranks that do not follow the protocol of their MPI library's launcher. Each harms its own job, which ends with a sentence,
//! and not another one on the same hosts.

mod pmi;
mod pmix;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Outcome, Running, Testbed, wait_until_gone};

/// A job on the same hosts that must not notice: both of its ranks meet, write "there", and go on when the others are over.
struct Bystander<'a> {
    running: Running<'a>,
    gates: Gates,
}

/// What ranks 0 and 1 wait for: each reads a line from the file of this folder that has its number.
pub(crate) struct Gates {
    folder: tempfile::TempDir,
    /// Open both ways, so that nobody who has ended is waited for.
    files: [File; 2],
}

impl Gates {
    pub(crate) fn new() -> Gates {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let files = ["0", "1"].map(|rank| {
            let path = folder.path().join(rank);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a new name in a new folder");
            File::options().read(true).write(true).open(path).expect("it has just been made")
        });
        Gates { folder, files }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets both go on.
    pub(crate) fn open(&self) {
        for mut file in &self.files {
            file.write_all(b"go\n").expect("a pipe has room for a line");
        }
    }
}

impl<'a> Bystander<'a> {
    fn start(job: Job<'a>, gates: Gates) -> Bystander<'a> {
        let running = job.start();
        running.wait_for_output("there", 2);
        Bystander { running, gates }
    }

    /// It ends as if it had been alone, and nothing of any job stays. Its session's sshd may still be on its way out.
    fn ends_well(self, testbed: &Testbed) {
        self.gates.open();
        let outcome = self.running.wait();
        outcome.assert_code(0);
        assert_eq!(outcome.stdout().matches("through").count(), 2, "{}", outcome.shown());
        wait_until_gone(Duration::from_secs(60), || testbed.guests()).expect("every job is over");
    }
}

/// Waits for jobs that each end with a code and a sentence, and leave nothing.
fn end_with<'a>(jobs: Vec<Running<'_>>, ends: impl Iterator<Item = (i32, &'a str)>) -> Vec<Outcome> {
    let end = |(job, (code, sentence)): (Running<'_>, (i32, &str))| {
        let outcome = job.wait();
        outcome.assert_code(code).assert_says(&[sentence]);
        assert_eq!(outcome.left_behind, [], "{}", outcome.shown());
        outcome
    };
    jobs.into_iter().zip(ends).map(end).collect()
}

/// How many jobs run beside each other and the bystander.
const AT_ONCE: usize = 4;
