//! Hosts to reach, from `scripts/testbed`, and a way to be on their network.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use efarun::job::Host;
use efarun::spawn::push::Launcher;
use efarun::spawn::ssh::config::SshEnvironment;
use nix::sched::{CloneFlags, setns};

/// Hosts h1, h2, …, taken down when dropped.
pub(crate) struct Testbed {
    name: String,
    env: String,
    folder: tempfile::TempDir,
}

impl Testbed {
    /// Makes hosts, or says why that cannot be done here.
    pub(crate) fn up(hosts: usize) -> Option<Testbed> {
        let missing = if !nix::unistd::geteuid().is_root() {
            Some("making namespaces needs root")
        } else if !Path::new("/usr/sbin/sshd").exists() {
            Some("there is no /usr/sbin/sshd")
        } else {
            None
        };
        if let Some(missing) = missing {
            let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|word| word == "testbed"), "EFARUN_TEST_REQUIRE: {missing}");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            println!("SKIPPED: {test}: {missing}");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("spawn-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut testbed = Testbed { name, env: String::new(), folder: tempfile::tempdir().unwrap() };
        testbed.script(["up", &hosts.to_string()]);
        testbed.env = testbed.script(["env"]);
        Some(testbed)
    }

    /// Runs `scripts/testbed` on this testbed.
    #[track_caller]
    pub(crate) fn script<const N: usize>(&self, args: [&str; N]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/testbed");
        let output = Command::new(script).arg("--name").arg(&self.name).args(args).output().unwrap();
        assert!(output.status.success(), "testbed {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a shell command on a host.
    #[track_caller]
    pub(crate) fn on(&self, host: &str, command: &str) -> String {
        self.script(["exec", host, "sh", "-c", command])
    }

    /// A value that `testbed env` prints.
    pub(crate) fn value(&self, key: &str) -> &str {
        let line = self.env.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {key} in {}", self.env))
    }

    /// A file under the head's home folder.
    pub(crate) fn home(&self, path: &str) -> PathBuf {
        Path::new(self.value("TESTBED_HOME")).join(path)
    }

    /// A file of its own state: `h1/host_ed25519.pub`.
    pub(crate) fn state(&self, path: &str) -> PathBuf {
        Path::new(self.value("TESTBED_DIR")).join(path)
    }

    /// A folder for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The head's SSH configuration, and nobody's agent.
    pub(crate) fn environment(&self) -> SshEnvironment {
        SshEnvironment {
            home: self.value("TESTBED_HOME").into(),
            local_user: "root".into(),
            user_config: self.home(".ssh/config"),
            system_config: self.home("no-such-file"),
            agent_socket: None,
        }
    }

    /// Runs a test on the head's network, with a deadline.
    pub(crate) fn run(&self, test: impl Future<Output = ()> + Send) {
        let network = File::open(format!("/proc/{}/ns/net", self.value("TESTBED_HEAD_PID"))).unwrap();
        // What a thread starts, threads and processes, inherits its network.
        std::thread::scope(|scope| {
            let on_head = scope.spawn(|| {
                setns(&network, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let done =
                    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await });
                // A thread in a hung system call must not hold the test.
                runtime.shutdown_background();
                done.expect("the test ends in time");
            });
            if let Err(panic) = on_head.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.env.lines().find_map(|line| line.strip_prefix("TESTBED_DIR="));
            let logs = logs.and_then(|folder| std::fs::read_to_string(Path::new(folder).join("h1/log")).ok());
            println!("sshd of h1 said:\n{}", logs.unwrap_or_default());
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/testbed");
            let _ = Command::new(script).arg("--name").arg(&self.name).arg("down").status();
        } else {
            self.script(["down"]);
        }
    }
}

/// The n-th host, by address: the head's names are not this process's.
pub(crate) fn host(number: u8) -> Host {
    let name = format!("10.88.0.{number}");
    Host {
        name,
        address: None,
        user: None,
        port: None,
        slots: None,
        max_slots: None,
        places: Vec::new(),
        origin: "test".into(),
    }
}

/// A launcher that is a shell script, whose agent does this.
pub(crate) fn agent(testbed: &Testbed, body: &str) -> Launcher {
    let path = testbed.folder().join("agent");
    std::fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = __agent ] || exit 9\n{body}\n")).unwrap();
    Launcher::from_file(&path).unwrap()
}
