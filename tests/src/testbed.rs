//! Hosts to run on: `scripts/testbed` under a name of our own, taken down when dropped.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::Process;
use crate::require::workspace;

/// Several hosts, and the head that sees them.
#[derive(Debug)]
pub struct Testbed {
    name: String,
    folder: PathBuf,
    head_address: String,
    hosts: Vec<Host>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Host {
    /// `h1`, …; the head knows it by this name.
    pub name: String,
    /// Its address.
    pub address: String,
    /// Its first process, sshd, as this machine sees it.
    sshd_pid: i32,
    /// Its PID namespace.
    namespace: String,
}

impl Testbed {
    /// Makes `count` hosts, h1, h2, ….
    ///
    /// # Panics
    ///
    /// When that fails, with what the script said.
    pub fn up(count: usize) -> Testbed {
        take_down_left_overs();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{NAME_PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut testbed =
            Testbed { name, folder: PathBuf::new(), head_address: String::new(), hosts: Vec::new() };
        testbed.script(["up", &count.to_string()]);
        let env = testbed.script(["env"]);
        let value = |key: &str| {
            let found = env.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {key} in {env}")).to_owned()
        };
        testbed.folder = value("TESTBED_DIR").into();
        testbed.head_address = value("TESTBED_HEAD_ADDRESS");
        let (names, addresses) = (value("TESTBED_HOSTS"), value("TESTBED_ADDRESSES"));
        let hosts = names.split(',').zip(addresses.split(','));
        testbed.hosts = hosts.map(|(name, address)| Host::read(&testbed.folder, name, address)).collect();
        testbed
    }

    /// The hosts, in order.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    /// The address of the head, as hosts see it.
    pub fn head_address(&self) -> &str {
        &self.head_address
    }

    /// A folder that is the testbed's and goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a hostfile with all hosts and `slots` slots each, and says where.
    pub fn hostfile(&self, slots: u32) -> PathBuf {
        self.hostfile_of(self.hosts.iter().map(|host| format!("{} slots={slots}\n", host.name)).collect())
    }

    /// Writes this text as a hostfile, and says where.
    pub fn hostfile_of(&self, text: String) -> PathBuf {
        let path = self.folder.join("hostfile");
        fs::write(&path, text).expect("the testbed's folder is writable");
        path
    }

    /// A command that runs this program on a host, or on `head`. On the head it keeps its process id.
    pub fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.script_command();
        command.args(["exec", host]).arg(program);
        command
    }

    /// Stops every process of a host.
    pub fn pause(&self, host: &str) {
        self.script(["pause", host]);
    }

    /// Pulls a host's cable.
    pub fn cut(&self, host: &str) {
        self.script(["cut", host]);
    }

    /// Undoes [`Testbed::pause`] and [`Testbed::cut`].
    pub fn heal(&self, host: &str) {
        self.script(["heal", host]);
    }

    /// What runs on all hosts beyond the sshd that every host has.
    pub fn guests(&self) -> Vec<Process> {
        let is_guest = |process: &Process| self.hosts.iter().any(|host| host.is_guest(process));
        Process::all().into_iter().filter(is_guest).collect()
    }

    fn script_command(&self) -> Command {
        let mut command = Command::new(workspace().join("scripts/testbed"));
        command.args(["--name", &self.name]);
        command
    }

    fn script<const N: usize>(&self, args: [&str; N]) -> String {
        let output = self.script_command().args(args).output().expect("scripts/testbed can be run");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/testbed {args:?}: {}: {stderr}", output.status);
        String::from_utf8(output.stdout).expect("scripts/testbed writes UTF-8")
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        down(&self.name);
    }
}

impl Host {
    fn read(folder: &Path, name: &str, address: &str) -> Host {
        let record = folder.join(name).join("process");
        let text =
            fs::read_to_string(&record).unwrap_or_else(|error| panic!("{}: {error}", record.display()));
        let sshd_pid =
            text.split(' ').next().and_then(|pid| pid.parse().ok()).expect("a process id comes first");
        let namespace = fs::read_link(format!("/proc/{sshd_pid}/ns/pid")).expect("sshd of a new host runs");
        let namespace = namespace.to_string_lossy().into_owned();
        Host { name: name.to_owned(), address: address.to_owned(), sshd_pid, namespace }
    }

    /// What runs on it beyond its sshd.
    pub fn guests(&self) -> Vec<Process> {
        Process::all().into_iter().filter(|process| self.is_guest(process)).collect()
    }

    fn is_guest(&self, process: &Process) -> bool {
        process.namespace == self.namespace && process.pid != self.sshd_pid
    }
}

/// Takes down testbeds of test processes that are gone: one that was killed could not do it itself.
fn take_down_left_overs() {
    let root = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(|name| name.strip_prefix("efarun-testbed-")) else {
            continue;
        };
        let owner = name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            down(name);
        }
    }
}

/// As far as it goes: it is called while a test may be panicking already.
fn down(name: &str) {
    let _ = Command::new(workspace().join("scripts/testbed")).args(["--name", name, "down"]).status();
}

const NAME_PREFIX: &str = "test-";
