//! Worlds of processes that no launcher started: they meet on loopback and share memory, or do not.
//!
//! Each rank is this test binary again, told by its environment to run [`rank_body`] only.

#![expect(clippy::print_stdout, reason = "ranks are judged by what they print")]

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use efarun_rt::{Algorithm, Choice, Error, Options, ReduceOp, World};

/// What each rank does, by the word in the variable [`BODY`]; nothing in the process that runs the tests.
#[test]
fn rank_body() {
    let Ok(body) = std::env::var(BODY) else { return };
    let result = match body.as_str() {
        "reduce" => reduce(),
        "rank 1 dies" => die_in_all_reduce(),
        "rank 1 aborts" => abort(),
        other => panic!("no body {other}"),
    };
    if let Err(error) = result {
        panic!("error: {error}");
    }
}

fn reduce() -> Result<(), Error> {
    let mut world = World::init()?;
    let ranks = world.world_size() as usize;
    for algorithm in [Algorithm::Ring, Algorithm::Tree, Algorithm::Doubling] {
        for count in [1, 1000, 300_000] {
            let mut data: Vec<i64> =
                (0..count).map(|index| (index * (world.rank().index() + 1)) as i64).collect();
            let options = Options { algorithm: Some(Choice::Fixed(algorithm)), ..Options::default() };
            world.all_reduce_with(&mut data, ReduceOp::Sum, &options)?;
            let factor = ranks * (ranks + 1) / 2;
            assert!(data.iter().enumerate().all(|(index, &sum)| sum == (index * factor) as i64));
        }
    }
    world.barrier()?;
    println!("transports: {:?}", world.transport_report());
    world.close()
}

/// Rank 1 dies once the others are through the barrier, of which it hears outside the World: it may be through first.
fn die_in_all_reduce() -> Result<(), Error> {
    let mut world = World::init()?;
    let place = std::env::var(THROUGH).expect("the test sets it");
    let through = if world.rank().0 == 1 { UnixDatagram::bind(&place) } else { UnixDatagram::unbound() };
    let through = through.expect("a socket");
    world.barrier()?;
    if world.rank().0 == 1 {
        through.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        for _ in 0..2 {
            through.recv(&mut [0]).expect("the others come through the barrier");
        }
        std::process::abort();
    }
    through.send_to(&[1], &place).expect("rank 1 listens");
    world.all_reduce(&mut vec![1.0f32; 1 << 20], ReduceOp::Sum)
}

fn abort() -> Result<(), Error> {
    let mut world = World::init()?;
    if world.rank().0 == 1 {
        world.abort(3, "the input is empty");
        return Ok(());
    }
    world.all_reduce(&mut [1u8], ReduceOp::Sum)
}

/// A world of processes, as its test sets it up.
struct Launch {
    body: &'static str,
    world_size: u32,
    /// The ranks that are really started.
    started: Vec<u32>,
    variables: Vec<(&'static str, String)>,
}

impl Launch {
    fn new(body: &'static str, world_size: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let variables = vec![("EFARUN_BOOTSTRAP", address), ("EFARUN_DEADLINE", "30".to_owned())];
        Launch { body, world_size, started: (0..world_size).collect(), variables }
    }

    fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs all ranks to their ends. Gives, per rank, whether it succeeded, and what it printed.
    fn run(&self) -> Vec<(bool, String)> {
        self.run_each(|_, _| {})
    }

    fn run_each(&self, adjust: impl Fn(u32, &mut Command)) -> Vec<(bool, String)> {
        let start = |&rank: &u32| {
            let mut command = Command::new(std::env::current_exe().expect("this binary"));
            command.args(["--exact", "rank_body", "--nocapture"]).env_clear();
            // What the dynamic linker and the tests' own machinery need.
            let kept = std::env::vars_os().filter(|(name, _)| name == "LD_LIBRARY_PATH" || name == "PATH");
            command.envs(kept).envs(self.variables.iter().map(|(name, value)| (name, value)));
            command.env(BODY, self.body).env("RANK", rank.to_string());
            command.env("WORLD_SIZE", self.world_size.to_string());
            adjust(rank, &mut command);
            let stdio = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            finish_in_thread(stdio.spawn().expect("a process"))
        };
        let running: Vec<_> = self.started.iter().map(start).collect();
        running.into_iter().map(|(pid, ended)| wait_or_kill(pid, &ended)).collect()
    }
}

type Ended = mpsc::Receiver<(bool, String)>;

fn finish_in_thread(child: Child) -> (u32, Ended) {
    let pid = child.id();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let output = child.wait_with_output().expect("it ends");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        (&output.stderr[..]).read_to_string(&mut text).expect("text");
        sender.send((output.status.success(), text))
    });
    (pid, ended)
}

fn wait_or_kill(pid: u32, ended: &Ended) -> (bool, String) {
    ended.recv_timeout(LIMIT).unwrap_or_else(|_| {
        // Not reaped before its thread has seen it end, so that the id is still its own.
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        (false, format!("still running after {LIMIT:?}"))
    })
}

fn key_file(text: &str, mode: u32) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("its mode");
    file
}

fn path_of(file: &tempfile::NamedTempFile) -> String {
    file.path().to_str().expect("text").to_owned()
}

#[test]
fn processes_meet_on_loopback_and_reduce_in_shared_memory() {
    for (succeeded, text) in Launch::new("reduce", 3).run() {
        assert!(succeeded && text.contains("shm (") && !text.contains("libfabric"), "{text}");
    }
}

#[test]
fn processes_with_a_key_meet() {
    let key = key_file(&"5a".repeat(32), 0o600);
    for (succeeded, text) in Launch::new("reduce", 2).set("EFARUN_KEY_FILE", path_of(&key)).run() {
        assert!(succeeded, "{text}");
    }
}

#[test]
fn processes_reduce_over_libfabric_where_shared_memory_is_not_wanted() {
    if let Err(missing) = efarun_rt::fabric::Library::open() {
        println!("SKIPPED: {missing}");
        return;
    }
    for (name, value) in [("EFARUN_PROVIDER", "fabric-tcp"), ("FI_PROVIDER", "tcp,net")] {
        let launch = Launch::new("reduce", 3).set("EFARUN_LOCAL_TRANSPORT", "network").set(name, value);
        for (succeeded, text) in launch.run() {
            assert!(succeeded && text.contains("libfabric") && !text.contains("shm"), "{text}");
        }
    }
}

#[test]
fn processes_reduce_over_sockets_where_shared_memory_is_not_wanted() {
    let launch =
        Launch::new("reduce", 3).set("EFARUN_LOCAL_TRANSPORT", "network").set("EFARUN_PROVIDER", "tcp");
    for (succeeded, text) in launch.run() {
        assert!(succeeded && text.contains("tcp (sockets at 127.0.0.1; asked for)"), "{text}");
        assert!(!text.contains("libfabric") && !text.contains("shm"), "{text}");
    }
}

#[test]
fn processes_of_different_nodes_reduce_over_both_transports() {
    let place = |rank: u32, command: &mut Command| {
        command.env("EFARUN_NODE_RANK", (rank / 2).to_string());
    };
    for (succeeded, text) in Launch::new("reduce", 4).run_each(place) {
        assert!(succeeded && text.contains("sockets at 127.0.0.1") && text.contains("shm"), "{text}");
    }
}

#[test]
fn a_process_that_dies_in_a_collective_is_named_to_the_others() {
    assert_rank_1_is_named(Launch::new("rank 1 dies", 3));
}

#[test]
fn a_process_that_dies_in_a_collective_over_sockets_is_named_to_the_others() {
    assert_rank_1_is_named(Launch::new("rank 1 dies", 3).set("EFARUN_LOCAL_TRANSPORT", "network"));
}

fn assert_rank_1_is_named(launch: Launch) {
    let folder = tempfile::tempdir().expect("a folder");
    let ends = launch.set(THROUGH, folder.path().join("through").to_str().expect("a path of ASCII")).run();
    for rank in [0, 2] {
        let (succeeded, text) = &ends[rank];
        assert!(!succeeded && text.contains("rank 1 is lost"), "{text}");
        assert!(text.contains("all_reduce (operation 1 of this World) on rank"), "{text}");
    }
}

#[test]
fn an_abort_ends_the_others_collective_with_its_reason() {
    let ends = Launch::new("rank 1 aborts", 3).run();
    for rank in [0, 2] {
        let (succeeded, text) = &ends[rank];
        assert!(!succeeded && text.contains("rank 1 ended the job: the input is empty"), "{text}");
    }
}

#[test]
fn a_process_that_never_comes_is_named() {
    let mut launch = Launch::new("reduce", 3).set("EFARUN_BOOTSTRAP_TIMEOUT", "1.5");
    launch.started = vec![0, 2];
    for (succeeded, text) in launch.run() {
        assert!(!succeeded && text.contains("2 of 3 ranks have joined, missing: 1"), "{text}");
    }
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let key = key_file(&"5a".repeat(32), 0o644);
    for (succeeded, text) in Launch::new("reduce", 2).set("EFARUN_KEY_FILE", path_of(&key)).run() {
        assert!(!succeeded && text.contains("its mode is 0644"), "{text}");
    }
}

#[test]
fn processes_with_different_keys_do_not_meet() {
    let keys = ["5a", "5b"].map(|pair| key_file(&pair.repeat(32), 0o600));
    let launch = Launch::new("reduce", 2).set("EFARUN_BOOTSTRAP_TIMEOUT", "2");
    let ends = launch.run_each(|rank, command| {
        command.env("EFARUN_KEY_FILE", keys[rank as usize].path());
    });
    assert!(ends[0].1.contains("missing: 1"), "{}", ends[0].1);
    assert!(ends[1].1.contains("EFARUN_KEY_FILE must have the same content"), "{}", ends[1].1);
}

#[test]
fn settings_that_differ_are_named() {
    for (setting, values) in
        [("EFARUN_LOCAL_TRANSPORT", ["auto", "network"]), ("EFARUN_SHARED_GPUS", ["1", "0"])]
    {
        let ends = Launch::new("reduce", 2).run_each(|rank, command| {
            command.env(setting, values[rank as usize]);
        });
        for (succeeded, text) in ends {
            assert!(!succeeded && text.contains(&format!("{setting}=\"")), "{text}");
            assert!(text.contains("rank 0") && text.contains("rank 1"), "{text}");
            assert!(text.contains("set it alike on all ranks"), "{text}");
        }
    }
}

const BODY: &str = "EFARUN_TEST_BODY";
/// Where rank 1 hears who is through the barrier.
const THROUGH: &str = "EFARUN_TEST_THROUGH";
const LIMIT: Duration = Duration::from_secs(60);
