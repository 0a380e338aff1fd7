//! Programs on soft EFA devices, as `scripts/soft-efa` puts them there.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

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

    /// One more variable for its programs.
    pub(crate) fn with(mut self, name: &str, value: &str) -> SoftEfa {
        self.env.push((name.to_owned(), value.to_owned()));
        self
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

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// A program that runs; it is ended when it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    pid: Pid,
    name: String,
    output: Receiver<std::io::Result<Output>>,
    is_over: bool,
}

impl Guest {
    /// Starts a program, its output kept.
    pub(crate) fn start(mut command: Command) -> Guest {
        let name = format!("{:?}", command.get_program());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let pid = Pid::from_raw(child.id() as i32);
        let (sender, output) = channel();
        // Reads while the program runs, so that it never waits for us.
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        Guest { pid, name, output, is_over: false }
    }

    /// Its process, as this machine sees it.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it by a signal that it cannot catch.
    pub(crate) fn kill(&self) {
        kill(self.pid, Signal::SIGKILL).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self, within: Duration) -> Output {
        match self.output.recv_timeout(within) {
            Ok(output) => {
                self.is_over = true;
                output.unwrap()
            }
            Err(_) => {
                self.kill();
                let output = self.output.recv().unwrap().unwrap();
                self.is_over = true;
                let (stdout, stderr) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                panic!("{} is not done after {within:?}\n{stdout}\n{stderr}", self.name)
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.is_over && self.output.try_recv().is_err() {
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

/// Runs libfabric's ping-pong between two programs, `server` and `client`, and gives what the client printed.
///
/// `address` is where the client finds the server's control port.
pub(crate) fn pingpong(server: Command, client: Command, address: &str, options: &[&str]) -> String {
    let port = free_port().to_string();
    let mut server = server;
    server.args(options).args(["-B", &port]);
    let server = Guest::start(server);
    wait_until_listening(&server);
    let mut client = client;
    client.args(options).args(["-P", &port, address]);
    let client = Guest::start(client).finish(LIMIT);
    let client = succeeded("fi_pingpong, the client", &client);
    succeeded("fi_pingpong, the server", &server.finish(LIMIT));
    client
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The server cannot say that it listens, so it is asked until it does.
fn wait_until_listening(server: &Guest) {
    let deadline = Instant::now() + LIMIT;
    while efarun_tests::listening_port(server.pid().as_raw()).is_none() {
        assert!(Instant::now() < deadline, "the server listens within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What no step of a test takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
