//! Hosts to run on: `scripts/testbed` under a name of our own, taken down when dropped.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::process::{Process, is_listening};
use crate::require::workspace;

/// Several hosts, and the head that sees them.
#[derive(Debug)]
pub struct Testbed {
    name: String,
    folder: PathBuf,
    head_address: String,
    hosts: Vec<Host>,
    /// Process ids of servers that were started for a test.
    residents: Mutex<Vec<i32>>,
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
        let mut testbed = Testbed {
            name,
            folder: PathBuf::new(),
            head_address: String::new(),
            hosts: Vec::new(),
            residents: Mutex::default(),
        };
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

    /// Runs a shell script on a host, or on `head`, and gives what it wrote.
    ///
    /// # Panics
    ///
    /// When it fails, with what it said.
    #[track_caller]
    pub fn sh(&self, host: &str, script: &str) -> String {
        let output =
            self.command(host, "sh").args(["-c", script]).output().expect("the testbed runs commands");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "on {host}: {script}: {}: {stderr}", output.status);
        String::from_utf8(output.stdout).expect("scripts of tests write UTF-8")
    }

    /// The home folder, which has one path everywhere. What lies there here is the head's.
    pub fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// Writes the head's `~/.ssh/config`, and says where.
    pub fn ssh_config(&self, text: &str) -> PathBuf {
        let path = self.home().join(".ssh/config");
        fs::write(&path, text).expect("the testbed's folder is writable");
        path
    }

    /// Starts another sshd on a host, with these options beside those of the first. It does not count as a guest.
    ///
    /// # Panics
    ///
    /// When it does not listen within 10 s.
    pub fn sshd(&self, host: &str, port: u16, options: &[&str]) {
        let options: String = options.iter().map(|option| format!(" -o {option}")).collect();
        let config = self.folder.join(host).join("sshd_config");
        let sshd = format!("/usr/sbin/sshd{options} -o Port={port} -f {}", config.display());
        self.sh(host, &format!("{sshd} </dev/null >/dev/null 2>&1"));
        let deadline = Instant::now() + Duration::from_secs(10);
        // It goes into the background before it listens, and cannot say when it does.
        while !is_listening(self.host(host).sshd_pid, port) {
            assert!(Instant::now() < deadline, "{sshd} does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.settle();
    }

    /// From now on, what runs on hosts does not count as guests.
    pub fn settle(&self) {
        let guests = self.guests();
        self.residents.lock().expect("no holder panics").extend(guests.iter().map(|guest| guest.pid));
    }

    /// A listener of the test's own on a host.
    ///
    /// # Panics
    ///
    /// When there is one already.
    pub fn listen(&self, host: &str, port: u16) -> TcpListener {
        self.in_network_of(host, move || TcpListener::bind(("0.0.0.0", port)).expect("nobody listens there"))
    }

    /// A connection of the test's own, from the head to a host.
    ///
    /// # Panics
    ///
    /// When nobody answers within 10 s.
    pub fn connect(&self, host: &str, port: u16) -> TcpStream {
        let address =
            format!("{}:{port}", self.host(host).address).parse().expect("hosts have plain addresses");
        self.in_network_of("head", move || {
            TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("the host answers")
        })
    }

    /// A socket belongs to the network of the thread that made it.
    fn in_network_of<T: Send + 'static>(&self, host: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
        let record = self.folder.join(host).join("process");
        let record = fs::read_to_string(record).expect("the testbed has this host");
        let pid = record.split(' ').next().expect("a process id comes first");
        let network = fs::File::open(format!("/proc/{pid}/ns/net")).expect("the host runs");
        let making = std::thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("making hosts took root");
            make()
        });
        making.join().expect("the socket could be made")
    }

    /// Moves a host's cable from the head to another host, which forwards nothing.
    pub fn hide(&self, host: &str, via: &str) {
        self.script(["hide", host, via]);
    }

    /// Lets the head drop whatever a host begins; what the head begins goes on.
    pub fn wall(&self, host: &str) {
        self.script(["wall", host]);
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

    /// What runs on all hosts beyond the sshd that every host has, and those that the test started.
    pub fn guests(&self) -> Vec<Process> {
        let residents = self.residents.lock().expect("no holder panics");
        let is_guest = |process: &Process| {
            !residents.contains(&process.pid) && self.hosts.iter().any(|host| host.is_guest(process))
        };
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
