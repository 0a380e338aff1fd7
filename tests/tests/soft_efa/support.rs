//! Programs on soft EFA devices, as `scripts/soft-efa` puts them there.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use efarun_tests::{Process, Testbed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Devices of one kind, for any number of programs that shall see each other and nobody else.
#[derive(Clone, Debug)]
pub(crate) struct SoftEfa {
    env: Vec<(String, String)>,
}

impl SoftEfa {
    /// Devices by the options of `scripts/soft-efa`.
    pub(crate) fn new(options: &[&str]) -> SoftEfa {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Tests that run at once share this machine, but not their devices.
        let fabric = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let output = script()
            .args(["--fabric", &fabric, "--print-env"])
            .args(options)
            .output()
            .expect("scripts/soft-efa can be run");
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let env = lines.lines().map(|line| line.split_once('=').expect("VAR=VALUE lines"));
        SoftEfa { env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    /// Which devices see each other.
    pub(crate) fn fabric(&self) -> &str {
        let fabric = self.env.iter().find(|(name, _)| name == "SOFTEFA_FABRIC");
        &fabric.expect("every test has a fabric of its own").1
    }

    /// One more variable for its programs.
    pub(crate) fn with(mut self, name: &str, value: &str) -> SoftEfa {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, by another profile.
    pub(crate) fn with_device(self, profile: &str) -> SoftEfa {
        self.with("SOFTEFA_DEVICE", profile)
    }

    /// The same, with other choices.
    pub(crate) fn with_seed(self, seed: u32) -> SoftEfa {
        self.with("SOFTEFA_SEED", &seed.to_string())
    }

    /// Whether its programs have this variable.
    pub(crate) fn sets(&self, name: &str) -> bool {
        self.env.iter().any(|(set, _)| set == name)
    }

    /// A program on a host of a testbed.
    pub(crate) fn command_on(&self, testbed: &Testbed, host: &str, program: impl AsRef<OsStr>) -> Command {
        // By `env`, so that only the program itself gets the variables, not what leads to it.
        let mut command = testbed.command(host, "env");
        command.args(self.variables()).arg(program);
        command
    }

    /// What puts a program on the devices, as `env` takes it.
    pub(crate) fn variables(&self) -> impl Iterator<Item = String> + '_ {
        self.env.iter().map(|(name, value)| format!("{name}={value}"))
    }

    /// Two runs of `soft-efa-program` on this machine that talk to each other; what the initiator said.
    pub(crate) fn run(&self, program: &str, options: &[&str]) -> String {
        let (target, initiator) = self.try_run(program, options);
        both_succeeded(program, &target, &initiator)
    }

    /// The same; how they ended.
    pub(crate) fn try_run(&self, program: &str, options: &[&str]) -> (Output, Output) {
        let (target, initiator) = self.start(program, options);
        (target.finish(LIMIT), initiator.finish(LIMIT))
    }

    /// The same, running.
    pub(crate) fn start(&self, program: &str, options: &[&str]) -> (Guest, Guest) {
        self.start_as([program, program], options)
    }

    /// The target and the initiator, each by its program.
    pub(crate) fn start_as(&self, programs: [&str; 2], options: &[&str]) -> (Guest, Guest) {
        meet([self.program(), self.program()], programs, "127.0.0.1", options)
    }

    /// A sender on these devices, and what it sends to on those.
    pub(crate) fn start_sender_to(&self, target: &SoftEfa) -> (Guest, Guest) {
        let programs = ["wait", "send-until-failure"];
        meet([target.program(), self.program()], programs, "127.0.0.1", &[])
    }

    fn program(&self) -> Command {
        self.command(efarun_tests::program!("soft-efa-program"))
    }

    /// The same, the target on h1 and the initiator on h2.
    pub(crate) fn start_between(&self, testbed: &Testbed, programs: [&str; 2]) -> (Guest, Guest) {
        let program = |host| self.command_on(testbed, host, efarun_tests::program!("soft-efa-program"));
        meet([program("h1"), program("h2")], programs, &testbed.host("h1").address, &["--rounds", "1"])
    }

    /// A program on this machine.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// `scripts/soft-efa`, with the library that was built beside this test.
pub(crate) fn script() -> Command {
    let mut command = Command::new(workspace().join("scripts/soft-efa"));
    command.env("SOFTEFA_LIBRARY", library());
    if let Ok(folder) = efarun_tests::libfabric_2_folder() {
        command.env("SOFTEFA_LIBFABRIC", folder);
    }
    command
}

fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().expect("a test lies in a folder").join("libsoftefa.so");
    assert!(library.exists(), "cargo builds {} with the tests", library.display());
    library
}

/// The repository.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// A program that runs; it is ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    pid: Pid,
    name: String,
    lines: Receiver<String>,
    seen: String,
    end: Receiver<(ExitStatus, Vec<u8>)>,
    is_over: bool,
}

impl Guest {
    /// Starts a program, its output kept.
    pub(crate) fn start(mut command: Command) -> Guest {
        let name = format!("{:?}", command.get_program());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let pid = Pid::from_raw(child.id() as i32);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        // Both are read while the program runs, so that it never waits for us.
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let (sender, end) = channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            sender.send((child.wait().unwrap(), text))
        });
        Guest { pid, name, lines, seen: String::new(), end, is_over: false }
    }

    /// Ends it by a signal that it cannot catch.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Its id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for a line of its output that begins with this; the rest of it.
    pub(crate) fn wait_for_line(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let end = self.end.recv_timeout(Duration::from_secs(1));
                let end = end.map(|(status, stderr)| (status, String::from_utf8_lossy(&stderr).into_owned()));
                panic!("{} does not say `{wanted}`, but\n{}{end:?}", self.name, self.seen);
            };
            self.seen += &line;
            self.seen.push('\n');
            if let Some(rest) = line.strip_prefix(wanted) {
                return rest.to_owned();
            }
        }
    }

    /// Waits for the end of one that was killed.
    pub(crate) fn end(mut self) {
        self.end.recv_timeout(LIMIT).expect("nobody survives that signal");
        self.is_over = true;
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self, within: Duration) -> Output {
        let ended = self.end.recv_timeout(within);
        if ended.is_err() {
            self.kill();
        }
        let (status, stderr) = ended.clone().unwrap_or_else(|_| self.end.recv().unwrap());
        self.is_over = true;
        for line in self.lines.iter() {
            self.seen += &line;
            self.seen.push('\n');
        }
        assert!(
            ended.is_ok(),
            "{} is not done after {within:?}\n{}\n{}",
            self.name,
            self.seen,
            String::from_utf8_lossy(&stderr)
        );
        Output { status, stdout: std::mem::take(&mut self.seen).into_bytes(), stderr }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.is_over && self.end.try_recv().is_err() {
            // Not waited for yet, hence still its id.
            let _ = kill(self.pid, Signal::SIGKILL);
        }
    }
}

/// Fails with all that a program said, unless it ended well; all that it said otherwise.
pub(crate) fn succeeded(what: &str, output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned() + &stderr
}

/// Fails with all that both said, unless both ended well; all that the initiator said otherwise.
pub(crate) fn both_succeeded(program: &str, target: &Output, initiator: &Output) -> String {
    let ended_well = target.status.success() && initiator.status.success();
    assert!(ended_well, "{program}, the target: {target:?}\n{program}, the initiator: {initiator:?}");
    succeeded(program, initiator)
}

/// Whether a sender's peer was heard once and then no more: EFA's 13. The provider has two codes of its own for that, one
/// for when it had been through its handshake with the peer, and one for when it had not.
pub(crate) fn is_unresponsive(said: &str) -> bool {
    ["failed: 103 4124\n", "failed: 103 4126\n"].iter().any(|line| said.contains(line))
}

/// Runs libfabric's ping-pong between two programs, `server` and `client`, and gives what the client printed.
///
/// `address` is where the client finds the server's control port.
pub(crate) fn pingpong(server: Command, client: Command, address: &str, options: &[&str]) -> String {
    let port = free_port();
    let text = port.to_string();
    let mut server = server;
    server.args(options).args(["-B", &text]);
    let server = Guest::start(server);
    wait_until_listening(port);
    let mut client = client;
    client.args(options).args(["-P", &text, address]);
    let client = Guest::start(client).finish(LIMIT);
    let client = succeeded("fi_pingpong, the client", &client);
    succeeded("fi_pingpong, the server", &server.finish(LIMIT));
    client
}

/// Starts a target at an address of its host, and, once it listens, an initiator.
fn meet(commands: [Command; 2], programs: [&str; 2], address: &str, options: &[&str]) -> (Guest, Guest) {
    let [mut target, mut initiator] = commands;
    target.args([programs[0], "--listen", &format!("{address}:0")]).args(options);
    let mut target = Guest::start(target);
    let address = target.wait_for_line("listening on ");
    initiator.args([programs[1], "--connect", &address]).args(options);
    (target, Guest::start(initiator))
}

/// A port for a program that cannot choose one by itself: one that nobody has here, and that the kernel gives to nobody
/// who asks for any, be it on another host.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id();
    (0..PORTS.len() as u32)
        .map(|_| start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32)
        .map(|place| PORTS.start + place as u16)
        .find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .expect("some of five thousand ports are free")
}

/// Above those of queue pairs, below those that the kernel gives.
const PORTS: std::ops::Range<u16> = 27_000..32_000;

/// The server cannot say that it listens, so it is asked until it does; wherever it runs.
fn wait_until_listening(port: u16) {
    let deadline = Instant::now() + LIMIT;
    let listens = |process: &Process| {
        process.command.contains("fi_pingpong") && efarun_tests::listening_port(process.pid) == Some(port)
    };
    while !Process::all().iter().any(listens) {
        assert!(Instant::now() < deadline, "the server listens within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What no step of a test takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(100);
