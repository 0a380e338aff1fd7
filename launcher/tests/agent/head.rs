//! A head made for tests: it starts the real launcher as an agent, speaks the real link, and looks at /proc.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use efarun::build_id;
use efarun::link_io::{self, LinkEnd, LinkReceiver, LinkSender};
use efarun_wire::env::EFARUN_JOB_ID;
use efarun_wire::facts::NodeFacts;
use efarun_wire::frame;
use efarun_wire::message::{
    AgentMessage, AgentOrder, AppPlan, HeadMessage, JobMap, LaunchPlan, MappedNode, RankExit, RankPlan,
    RankStatus, Stream,
};
use efarun_wire::secure::LinkKey;
use efarun_wire::{BuildId, JobId, NodeId, PROTOCOL_VERSION, Rank};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;

/// Every wait of these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Within this time no process of a job may be left, whatever was killed.
pub(crate) const ALL_GONE_WITHIN: Duration = Duration::from_secs(5);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// The head of one agent.
pub(crate) struct Head {
    pub(crate) link: LinkSender<HeadMessage>,
    receiver: LinkReceiver<AgentMessage>,
    pub(crate) facts: NodeFacts,
    pub(crate) order: AgentOrder,
    child: Child,
    job: String,
    pub(crate) seen: Seen,
}

/// What the agent has said so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) spawned: BTreeMap<Rank, i32>,
    pub(crate) spawn_failures: BTreeMap<Rank, (String, String, i32)>,
    pub(crate) output: BTreeMap<(Rank, bool), Vec<u8>>,
    pub(crate) streams_ended: u32,
    pub(crate) exits: BTreeMap<Rank, RankExit>,
    pub(crate) error_files: BTreeMap<Rank, Vec<u8>>,
    pub(crate) stdin_credit: u64,
    pub(crate) notes: Vec<String>,
    pub(crate) failed: Vec<String>,
    pub(crate) reaped: Option<(u32, u32)>,
    pub(crate) oob: Vec<efarun_wire::message::OobUp>,
    pub(crate) pongs: u32,
    pub(crate) suspended: bool,
    pub(crate) ends_told: u32,
    pub(crate) clues: BTreeMap<Rank, Vec<efarun_wire::message::Clue>>,
    pub(crate) stacks: BTreeMap<Rank, String>,
    pub(crate) dialed: Option<Result<std::net::SocketAddr, efarun_wire::message::DialFailure>>,
}

/// An order for an agent of this build. The head of these tests never pings, so its lease is long.
pub(crate) fn order() -> AgentOrder {
    AgentOrder {
        protocol: PROTOCOL_VERSION,
        job: JobId([9; 8]),
        node: NodeId(0),
        build: launcher_build(),
        key: LinkKey::generate().unwrap(),
        heartbeat_ms: 200,
        lease_ms: 60_000,
        host: "here".to_owned(),
    }
}

fn launcher_build() -> BuildId {
    build_id::of_file(std::path::Path::new(env!("CARGO_BIN_EXE_efarun"))).unwrap()
}

/// Starts an agent; gives it, the head's end of its channel, and what is written there first.
fn start_agent(order: &AgentOrder) -> (Child, UnixStream) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_efarun"))
        .arg("__agent")
        .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
        .stdout(OwnedFd::from(theirs))
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut &ours, &frame::encode(order)).unwrap();
    ours.set_nonblocking(true).unwrap();
    (child, UnixStream::from_std(ours).unwrap())
}

/// Starts an agent with this order and gives what it says first.
pub(crate) async fn first_word(order: &AgentOrder) -> (AgentMessage, ExitStatus) {
    let (mut child, stream) = start_agent(order);
    let (source, sink) = stream.into_split();
    let (_link, mut receiver) =
        link_io::open::<AgentMessage, HeadMessage>(Box::new(source), Box::new(sink), None, 0);
    let word = soon("the first word", receiver.receive()).await.unwrap();
    (word, wait_for(&mut child).await)
}

async fn wait_for(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(start.elapsed() < DEADLINE, "the agent does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Head {
    /// Starts an agent and hears its facts.
    pub(crate) async fn start() -> Head {
        Head::start_by(order()).await
    }

    /// The same with an order of the test's own.
    pub(crate) async fn start_by(order: AgentOrder) -> Head {
        let (child, stream) = start_agent(&order);
        let (source, sink) = stream.into_split();
        let (link, mut receiver) =
            link_io::open::<AgentMessage, HeadMessage>(Box::new(source), Box::new(sink), None, u32::MAX);
        let first = soon("facts", receiver.receive()).await.unwrap();
        let AgentMessage::Facts(facts) = first else { panic!("no facts but {first:?}") };
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let job = format!("agent-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Head { link, receiver, facts: *facts, order, child, job, seen: Seen::default() }
    }

    /// A plan for this many ranks of `sh -c SCRIPT`.
    pub(crate) fn plan(&self, rank_count: u32, script: &str) -> LaunchPlan {
        let rank_plan = |rank: u32| RankPlan {
            rank: Rank(rank),
            local_rank: rank,
            app: 0,
            cpus: Vec::new(),
            env: vec![(b"EFARUN_RANK".to_vec(), rank.to_string().into_bytes())],
        };
        let path = std::env::var("PATH").unwrap();
        let app = AppPlan {
            program: b"sh".to_vec(),
            args: vec![b"-c".to_vec(), script.as_bytes().to_vec()],
            search_path: Vec::new(),
            env: vec![
                (EFARUN_JOB_ID.as_bytes().to_vec(), self.job.clone().into_bytes()),
                (b"PATH".to_vec(), path.into_bytes()),
            ],
            wdir: b"/".to_vec(),
            wdir_required: true,
        };
        LaunchPlan {
            node: self.order.node,
            apps: vec![app],
            ranks: (0..rank_count).map(rank_plan).collect(),
            world_size: rank_count,
            map: JobMap {
                nodes: vec![MappedNode {
                    host: "here".to_owned(),
                    ranks: (0..rank_count).map(Rank).collect(),
                }],
                universe_size: rank_count,
                app_sizes: vec![rank_count],
                ..JobMap::default()
            },
            keys: Vec::new(),
            stdin_ranks: Vec::new(),
            merge_stderr: false,
            output_credit: 1 << 20,
            limits: Vec::new(),
            master_port: None,
            folders: None,
        }
    }

    /// Launches `sh -c SCRIPT` in this many ranks.
    pub(crate) fn launch(&self, rank_count: u32, script: &str) {
        self.link.send(&HeadMessage::Launch(Box::new(self.plan(rank_count, script))));
    }

    /// Takes in messages until `done`; credit for output is given back as it comes.
    pub(crate) async fn until(&mut self, what: &str, done: impl Fn(&Seen) -> bool) {
        while !done(&self.seen) {
            let message = tokio::time::timeout(DEADLINE, self.receiver.receive()).await;
            let message =
                message.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}: {:?}", self.seen));
            self.take(message.unwrap_or_else(|end| panic!("{what}: the link {end}: {:?}", self.seen)));
        }
    }

    /// Takes in messages until the link ends.
    pub(crate) async fn until_closed(&mut self) -> LinkEnd {
        loop {
            match soon("the end of the link", self.receiver.receive()).await {
                Ok(message) => self.take(message),
                Err(end) => return end,
            }
        }
    }

    fn take(&mut self, message: AgentMessage) {
        let seen = &mut self.seen;
        match message {
            AgentMessage::Spawned { rank, pid } => drop(seen.spawned.insert(rank, pid)),
            AgentMessage::SpawnFailed { rank, call, subject, errno } => {
                seen.spawn_failures.insert(rank, (call, subject, errno));
            }
            AgentMessage::Output { bytes, .. } if bytes.is_empty() => seen.streams_ended += 1,
            AgentMessage::Output { rank, stream, bytes } => {
                self.link.send(&HeadMessage::OutputCredit { bytes: bytes.len() as u32 });
                seen.output.entry((rank, stream == Stream::Stderr)).or_default().extend(bytes);
            }
            AgentMessage::Interrupted { .. } => panic!("an agent is no launcher"),
            AgentMessage::ErrorFile { rank, bytes } => drop(seen.error_files.insert(rank, bytes)),
            AgentMessage::Exited(exit) => {
                assert_eq!(seen.exits.insert(exit.rank, exit), None, "an exit comes once");
            }
            AgentMessage::Reaped { ranks, strays } => seen.reaped = Some((ranks, strays)),
            AgentMessage::StdinCredit { bytes, .. } => seen.stdin_credit += u64::from(bytes),
            AgentMessage::Note(text) => seen.notes.push(text),
            AgentMessage::Unserved { rank, library, tried } => {
                seen.notes.push(format!("rank {rank} needs {library}: {tried}"))
            }
            AgentMessage::RankBroke { rank, how } => seen.notes.push(format!("rank {rank} {how}")),
            AgentMessage::Failed(text) => seen.failed.push(text),
            AgentMessage::Oob(up) => seen.oob.push(up),
            AgentMessage::Pong { .. } => seen.pongs += 1,
            AgentMessage::Suspended => seen.suspended = true,
            AgentMessage::Alone { rank, library } => {
                seen.notes.push(format!("rank {rank} alone with {library}"))
            }
            AgentMessage::EndsTold => seen.ends_told += 1,
            AgentMessage::Clues { rank, clues } => drop(seen.clues.insert(rank, clues)),
            AgentMessage::Stacks { rank, text } => drop(seen.stacks.insert(rank, text)),
            AgentMessage::Dialed(outcome) => seen.dialed = Some(outcome),
            AgentMessage::Facts(_) => panic!("facts come once"),
            AgentMessage::PmiBytes { .. }
            | AgentMessage::ExchangeBytes { .. }
            | AgentMessage::LinksMpi { .. }
            | AgentMessage::ServesPmix { .. } => {}
            AgentMessage::Spawn(_) | AgentMessage::Admitted { .. } => {
                panic!("no rank here asks for more")
            }
        }
    }

    /// Gives one message as it is, without giving credit back.
    pub(crate) async fn receive(&mut self) -> AgentMessage {
        soon("a message", self.receiver.receive()).await.unwrap()
    }

    /// Goes on over this link.
    pub(crate) fn switch(
        &mut self,
        link: LinkSender<HeadMessage>,
        receiver: LinkReceiver<AgentMessage>,
    ) -> OldLink {
        OldLink {
            link: std::mem::replace(&mut self.link, link),
            receiver: std::mem::replace(&mut self.receiver, receiver),
        }
    }

    /// Waits until so many ranks have been spawned.
    pub(crate) async fn until_spawned(&mut self, rank_count: usize) {
        self.until("ranks start", |seen| seen.spawned.len() == rank_count).await;
    }

    /// Waits until rank 0 has written this line.
    pub(crate) async fn until_line(&mut self, line: &str) {
        let wanted = format!("{line}\n");
        self.until(line, |seen| seen.text(0).contains(&wanted)).await;
    }

    /// Waits for all ranks to end by themselves, ends the job in good order, and gives what was seen.
    pub(crate) async fn finish(mut self, rank_count: usize) -> Seen {
        self.until("ranks end", |seen| seen.exits.len() + seen.spawn_failures.len() == rank_count).await;
        self.end(Duration::from_secs(1)).await;
        self.goodbye().await
    }

    /// Orders the end of all ranks and waits for its acknowledgement.
    pub(crate) async fn end(&mut self, grace: Duration) {
        self.link.send(&HeadMessage::End { grace_ms: grace.as_millis() as u32, signal: libc::SIGTERM });
        self.until("all is reaped", |seen| seen.reaped.is_some()).await;
        assert_eq!(self.processes(), Vec::<String>::new(), "reaped means that nothing is left");
    }

    /// Says goodbye, and gives what was seen until the link's end.
    pub(crate) async fn goodbye(mut self) -> Seen {
        self.link.send(&HeadMessage::Goodbye);
        self.until_closed().await;
        assert_eq!(wait_for(&mut self.child).await.code(), Some(0));
        self.expect_all_gone(Instant::now()).await;
        std::mem::take(&mut self.seen)
    }

    /// Closes the channel without a word, in both directions.
    pub(crate) async fn close_channel(mut self, since: Instant) {
        let (link, receiver) =
            link_io::open(Box::new(tokio::io::empty()), Box::new(tokio::io::sink()), None, 0);
        drop(self.switch(link, receiver));
        self.expect_all_gone(since).await;
    }

    /// Goes back to a link that was left, and gives the one that is left now.
    pub(crate) fn switch_back(&mut self, old: OldLink) -> OldLink {
        let OldLink { link, receiver } = old;
        self.switch(link, receiver)
    }

    /// Waits until no process of the job, no keeper and no agent is left, at most so long after `since`.
    pub(crate) async fn expect_all_gone(&mut self, since: Instant) {
        let pids = [self.facts.agent_pid, self.facts.keeper_pid];
        expect_all_gone(&self.job, pids, &mut self.child, since).await;
    }

    /// The job's processes.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes_of(&self.job)
    }

    /// Waits until so many processes of the job run this command, and gives all of the job's.
    pub(crate) async fn until_running(&self, command: &str, count: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            let processes = self.processes();
            if processes.iter().filter(|process| process.ends_with(&format!(": {command}"))).count() == count
            {
                return processes;
            }
            assert!(start.elapsed() < DEADLINE, "{count} `{command}` are awaited, not {processes:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a process has been stopped.
    pub(crate) async fn until_stopped(&self, pid: i32) {
        let start = Instant::now();
        while state_of(pid) != Some('T') {
            assert!(start.elapsed() < DEADLINE, "process {pid} was never stopped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a process that was stopped goes on.
    pub(crate) async fn until_going_on(&self, pid: i32) {
        let start = Instant::now();
        while state_of(pid) != Some('S') {
            assert!(start.elapsed() < DEADLINE, "process {pid} does not go on: {:?}", state_of(pid));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills one of the node's processes.
    pub(crate) fn kill(&self, pid: i32) -> Instant {
        signal(pid, Signal::SIGKILL);
        Instant::now()
    }
}

/// A link that the head has left and keeps open.
pub(crate) struct OldLink {
    link: LinkSender<HeadMessage>,
    receiver: LinkReceiver<AgentMessage>,
}

impl Drop for Head {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind either: the keeper sees its agent's end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Seen {
    /// What a rank wrote to its standard output.
    pub(crate) fn text(&self, rank: u32) -> String {
        String::from_utf8_lossy(self.output.get(&(Rank(rank), false)).map_or(&[], |bytes| bytes)).into_owned()
    }

    /// What a rank wrote to its standard error.
    pub(crate) fn errors(&self, rank: u32) -> String {
        String::from_utf8_lossy(self.output.get(&(Rank(rank), true)).map_or(&[], |bytes| bytes)).into_owned()
    }

    /// How a rank ended.
    pub(crate) fn status(&self, rank: u32) -> RankStatus {
        self.exits[&Rank(rank)].status
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

async fn expect_all_gone(job: &str, pids: [i32; 2], child: &mut Child, since: Instant) {
    loop {
        // Reaps the agent, so that its zombie does not count.
        let _ = child.try_wait().unwrap();
        let left = processes_of(job);
        let living: Vec<i32> = pids.into_iter().filter(|pid| is_living(*pid)).collect();
        if left.is_empty() && living.is_empty() {
            return;
        }
        let waited = since.elapsed();
        assert!(
            waited < ALL_GONE_WITHIN,
            "after {waited:?} there are {left:?}, agent and keeper: {living:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn is_living(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The state of a process as /proc has it; `None` when it is gone.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The processes that were started with the job's mark in their environment and have not ended.
fn processes_of(job: &str) -> Vec<String> {
    let mark = format!("{EFARUN_JOB_ID}={job}");
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_marked = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) && is_living(*pid)
    };
    let command = |pid: i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("{pid}: {}", String::from_utf8_lossy(&command).replace('\0', " ").trim_end())
    };
    pids.filter(is_marked).map(command).collect()
}
