//! The helper: a process of the agent's in which libpmix runs, so that what goes wrong there ends a job and not its agent.
//!
//! It is given its agent's orders on standard input, which is a socket, and reports there. One thread reads orders, libpmix's
//! own bring its calls, and this one does one thing after the other. When the agent is gone the helper removes its folder
//! and ends at once, whatever libpmix is doing.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::frame::{self, FrameReader};
use efarun_wire::message::{JobMap, Participants};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::description;
use super::library::{Call, Cards, Facts, Finds, Library, Operation, PmixError, Spawns};
use super::protocol::{Order, Purpose, Report, Start, nspace};
use crate::keeper::{self, sys};

/// The launcher's first argument that makes it a helper.
pub const ARGUMENT: &str = "__helper";

/// Runs a helper for the agent that started it, until the agent is gone.
pub fn helper_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::agent::complain(&format!("the helper cannot go on: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    nix::sys::prctl::set_name(c"efarun-helper")?;
    // Whoever wants the node's part of the job to end asks the agent.
    sys::ignore_signal(nix::sys::signal::Signal::SIGTERM);
    let socket = keeper::from_standard_input()?;
    let mut orders = Orders { socket: UnixStream::from(socket), frames: FrameReader::default() };
    let reports = orders.socket.try_clone()?;
    let Some(Order::Start(start)) = orders.next() else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA)?;
    setrlimit(Resource::RLIMIT_DATA, start.memory_bytes.min(hard), hard)?;
    let (events, incoming) = mpsc::channel();
    let folder = start.folder.clone();
    let of_agent = events.clone();
    thread::Builder::new().name("orders".to_owned()).spawn(move || {
        while let Some(order) = orders.next() {
            if of_agent.send(Event::Order(order)).is_err() {
                break;
            }
        }
        if of_agent.send(Event::AgentGone).is_ok() {
            thread::sleep(LAST_PATIENCE);
        }
        end(&folder)
    })?;
    let folder = start.folder.clone();
    let mut server = match Server::start(*start, &events, reports.try_clone()?) {
        Ok(server) => server,
        Err(tried) => {
            (&reports).write_all(&frame::encode(&Report::Unready { tried }))?;
            // The agent closes the socket.
            loop {
                thread::park();
            }
        }
    };
    loop {
        let event = match incoming.recv_timeout(BEAT_INTERVAL) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                server.beat()?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match event {
            Event::AgentGone => {
                // The process ends whether or not libpmix comes back.
                for world in 0..server.world_count {
                    let _ = server.library.forget_world(&nspace(&server.start.job, world));
                }
                break;
            }
            event => server.handle(event)?,
        }
    }
    end(&folder)
}

/// Ends this process.
fn end(folder: &str) -> ! {
    // What cannot be removed is the agent's to remove, if it lives.
    let _ = std::fs::remove_dir_all(folder);
    sys::end_at_once(0)
}

/// The agent's orders.
struct Orders {
    socket: UnixStream,
    frames: FrameReader,
}

impl Orders {
    /// Waits for the next one. None when the agent is gone, or does not follow the protocol.
    fn next(&mut self) -> Option<Order> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(order) = self.frames.next_message().ok()? {
                return Some(order);
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read_bytes) => self.frames.push(&buffer[..read_bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

/// What happens to a server.
enum Event {
    Order(Order),
    Call(Call),
    /// A rank's card was found, or was not.
    CardFound {
        token: u64,
        blob: Option<Vec<u8>>,
    },
    /// libpmix has come to what it was asked to see whether it stands still.
    Beaten,
    AgentGone,
}

/// A PMIx server, and what libpmix waits for.
struct Server {
    library: Library,
    start: Start,
    /// Their numbers begin at 0.
    world_count: u32,
    events: Sender<Event>,
    agent: UnixStream,
    waiting: BTreeMap<u64, Waiting>,
    next_token: u64,
    /// When libpmix was asked, where it has not come to it.
    beat: Option<Instant>,
    said_unresponsive: bool,
}

enum Waiting {
    Cards(Cards),
    Operation(Operation),
    Finds(Finds),
    Spawns(Spawns),
    /// A group, with its members.
    Group(Facts, Vec<Rank>),
}

impl Server {
    /// Opens the first library that will do, and tells the agent. Otherwise says what was wrong with each.
    fn start(start: Start, events: &Sender<Event>, agent: UnixStream) -> Result<Server, Vec<String>> {
        let mut tried = Vec::new();
        for path in &start.libraries {
            let name = String::from_utf8_lossy(path).into_owned();
            let library = match Library::open(path) {
                Ok(library) => library,
                Err(error) => {
                    tried.push(if error.contains(&name) { error } else { format!("{name}: {error}") });
                    continue;
                }
            };
            let version = library.version();
            let mut server = Server {
                library,
                start: start.clone(),
                world_count: 0,
                events: events.clone(),
                agent,
                waiting: BTreeMap::new(),
                next_token: 1,
                beat: None,
                said_unresponsive: false,
            };
            // A second one cannot be tried in a process that has one.
            return match server.serve() {
                Ok(environments) => {
                    let ready = Report::Ready { library: name, version, environments };
                    server.report(&ready).map_err(|error| vec![error.to_string()])?;
                    Ok(server)
                }
                Err(error) => {
                    tried.push(format!("{name} ({version}): {error}"));
                    Err(tried)
                }
            };
        }
        Err(tried)
    }

    fn serve(&mut self) -> Result<Vec<RankEnvironment>, PmixError> {
        // Into the very queue that orders go to: what a rank said before its end is told before `HeardOut`.
        let events = self.events.clone();
        let take = Box::new(move |call| events.send(Event::Call(call)).is_ok());
        self.library.serve(&description::of_server(&self.start), take)?;
        let map = self.start.map.clone();
        self.register(&map)
    }

    /// Tells libpmix of a world, and gives what its ranks of this node need in their environment.
    fn register(&mut self, map: &JobMap) -> Result<Vec<RankEnvironment>, PmixError> {
        self.world_count = self.world_count.max(map.world + 1);
        let (name, infos) = (nspace(&self.start.job, map.world), description::of_world(&self.start, map));
        let own = map.nodes.get(self.start.node.index()).map_or(&[][..], |node| &node.ranks);
        self.library.register_world(&name, map, own.len(), &infos)?;
        own.iter().map(|rank| Ok((*rank, self.library.register_rank(*rank)?))).collect()
    }

    fn handle(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Call(call) => self.called(call),
            Event::Order(order) => self.obey(order),
            Event::CardFound { token, blob } => self.report(&Report::Card { token, blob }),
            Event::Beaten => {
                self.beat = None;
                Ok(())
            }
            Event::AgentGone => Ok(()),
        }
    }

    /// Sees to it that libpmix goes on: it reads a stranger's first words, or a rank's, without doing anything else, and so
    /// may stand still for as long as they are not whole.
    fn beat(&mut self) -> io::Result<()> {
        match self.beat {
            None => {
                self.beat = Some(Instant::now());
                let events = self.events.clone();
                let beaten = move || {
                    // The receiver lives as long as the process.
                    let _ = events.send(Event::Beaten);
                };
                self.library.reach(Box::new(beaten));
                Ok(())
            }
            Some(since) if since.elapsed() >= STILL_PATIENCE && !self.said_unresponsive => {
                self.said_unresponsive = true;
                self.report(&Report::Unresponsive { seconds: STILL_PATIENCE.as_secs() })
            }
            Some(_) => Ok(()),
        }
    }

    fn called(&mut self, call: Call) -> io::Result<()> {
        let report = match call {
            Call::NotServed(call) => Report::NotServed { call: call.to_owned() },
            Call::Connected(rank) => Report::Connected(rank),
            Call::Finalized(rank) => Report::Finalized(rank),
            Call::Aborted { rank, code, reason } => Report::Aborted { rank, code, reason },
            Call::Fence { participants, blob, answer } => {
                let token = self.wait(Waiting::Cards(answer));
                Report::Fence { token, purpose: Purpose::Fence, participants, blob }
            }
            Call::Meeting { purpose, participants, answer } => {
                let token = self.wait(Waiting::Operation(answer));
                Report::Fence { token, purpose, participants, blob: Vec::new() }
            }
            Call::WantCard { rank, answer } => {
                Report::WantCard { token: self.wait(Waiting::Cards(answer)), rank }
            }
            Call::Publish { values, answer } => {
                Report::Publish { token: self.wait(Waiting::Operation(answer)), values }
            }
            Call::Lookup { keys, waits, answer } => {
                Report::Lookup { token: self.wait(Waiting::Finds(answer)), keys, waits }
            }
            Call::Spawn { rank, programs, answer } => {
                Report::Spawn { token: self.wait(Waiting::Spawns(answer)), rank, programs }
            }
            Call::Unpublish { rank, keys, answer } => {
                Report::Unpublish { token: self.wait(Waiting::Operation(answer)), rank, keys }
            }
            Call::Notify { event } => Report::Notify(event),
            Call::Query { keys, answer } => return self.tell(&keys, answer),
            Call::Group { name, is_over, participants, blob, answer } => {
                let members = match &participants {
                    Participants::World => (0..self.start.map.size()).map(Rank).collect(),
                    Participants::Ranks(ranks) => ranks.clone(),
                };
                let token = self.wait(Waiting::Group(answer, members));
                Report::Group { token, name, is_over, participants, blob }
            }
        };
        self.report(&report)
    }

    /// Answers what was asked about the job, as far as it is known.
    fn tell(&self, keys: &[Vec<u8>], answer: Facts) -> io::Result<()> {
        let mut found = Vec::new();
        for key in keys {
            match description::known(key, &self.start.job, self.world_count) {
                Some(info) => found.push(info),
                None => {
                    let call = format!("PMIx_Query_info for {}", String::from_utf8_lossy(key));
                    self.report(&Report::NotServed { call })?;
                }
            }
        }
        answer.give(&found, keys.len());
        Ok(())
    }

    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Start(_) => return Err(io::Error::other("it was told to start twice")),
            Order::Fenced { token, blob } => match self.waiting.remove(&token) {
                Some(Waiting::Cards(cards)) => cards.give(blob),
                Some(Waiting::Operation(operation)) => operation.done(blob.is_some()),
                Some(Waiting::Finds(_) | Waiting::Spawns(_) | Waiting::Group(..)) | None => {}
            },
            Order::Card { token, blob } => {
                if let Some(Waiting::Cards(cards)) = self.waiting.remove(&token) {
                    cards.give(blob);
                }
            }
            Order::Done { token, is_done } => {
                if let Some(Waiting::Operation(operation)) = self.waiting.remove(&token) {
                    operation.done(is_done);
                }
            }
            Order::Found { token, values } => {
                if let Some(Waiting::Finds(finds)) = self.waiting.remove(&token) {
                    finds.give(&values);
                }
            }
            Order::FindCard { token, rank } => {
                let events = self.events.clone();
                let found = move |blob| {
                    // The receiver lives as long as the process.
                    let _ = events.send(Event::CardFound { token, blob });
                };
                self.library.find_card(rank, Box::new(found));
            }
            Order::Admit(map) => {
                let environments = self.register(&map).map_err(io::Error::other)?;
                return self.report(&Report::Registered { world: map.world, environments });
            }
            Order::Spawned { token, world } => {
                if let Some(Waiting::Spawns(spawns)) = self.waiting.remove(&token) {
                    spawns.give(world.map(|world| nspace(&self.start.job, world)).as_deref());
                }
            }
            Order::Notify(event) => {
                if !self.library.notify(&event) {
                    let call = "PMIx_Notify_event on a node whose libpmix writes infos otherwise".to_owned();
                    return self.report(&Report::NotServed { call });
                }
            }
            Order::Grouped { token, group } => {
                if let Some(Waiting::Group(facts, members)) = self.waiting.remove(&token) {
                    match group {
                        Some(group) => facts.give(&description::of_group(&group, &members), 0),
                        None => facts.refuse(),
                    }
                }
            }
            Order::HearOut(rank) => return self.report(&Report::HeardOut(rank)),
        }
        Ok(())
    }

    fn wait(&mut self, waiting: Waiting) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.insert(token, waiting);
        token
    }

    fn report(&self, report: &Report) -> io::Result<()> {
        (&self.agent).write_all(&frame::encode(report))
    }
}

/// How long libpmix may take over its last deed.
const LAST_PATIENCE: Duration = Duration::from_millis(500);
/// How long nothing happens before libpmix is asked whether it goes on.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How long libpmix may stand still: what it does takes it milliseconds.
const STILL_PATIENCE: Duration = Duration::from_secs(10);

type RankEnvironment = (Rank, Vec<crate::env::NameValue>);
