//! Node 0: it waits for the others at the endpoint, and is the head.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use efarun_wire::message::{AgentMessage, HeadMessage};
use efarun_wire::secure::{LinkKey, SecureError};
use efarun_wire::{NodeId, PROTOCOL_VERSION};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::meeting::{Answer, Guest, Hello, LineOfNode, Meeting, Reception};
use super::{ByHand, ByHandError};
use crate::bootstrap::node_link::{self, NotIntroduced, STDIN_IN_FLIGHT_BYTES};
use crate::bootstrap::{Arrival, Joined, Listener};
use crate::build_id;
use crate::job::{Host, JobSpec};
use crate::link_io::{self, LinkReceiver, LinkSender};
use crate::output::Terminal;
use crate::spawn::Spawner;
use crate::spawn::local::LocalSpawner;
use crate::supervise::connect::{self, Connected, Identity};
use crate::supervise::{self, Crew, signals};
use crate::torchrun::Torchrun;

/// Nodes that have come, and the ways to tell them how the job ended.
#[derive(Debug)]
pub(crate) struct Hosted {
    /// All nodes, this one first.
    pub(crate) crew: Crew,
    /// The others.
    pub(crate) guests: Guests,
}

/// The nodes that joined.
#[derive(Debug)]
pub(crate) struct Guests(Vec<LinkSender<HeadMessage>>);

impl Guests {
    /// Tells them what the job came to, and whether they should join again.
    pub(crate) async fn tell(self, code: u8, again: bool, text: &str) {
        for guest in self.0 {
            guest.send(&HeadMessage::Over { code, again, text: text.to_owned() });
            // One that does not read is not waited for.
            let _ = timeout(FAREWELL_PATIENCE, guest.finish()).await;
        }
    }
}

/// Opens the endpoint and waits until all nodes are there, each with its agent's facts.
///
/// # Errors
///
/// When nodes are missing at the deadline, lines differ, or a signal comes. Whoever is there is told.
pub(crate) async fn gather(
    spec: &JobSpec,
    by_hand: &ByHand,
    key: &LinkKey,
    at: SocketAddr,
    signals: &mut mpsc::UnboundedReceiver<i32>,
) -> Result<Hosted, ByHandError> {
    let Some(torchrun) = &spec.torchrun else {
        return Err(ByHandError::Head("there is no meeting without torchrun's line".to_owned()));
    };
    let (listener, arrivals) = Listener::welcoming(key.clone());
    listener.listen_at(at).map_err(|error| cannot_listen(by_hand, &error))?;
    let own = own_hello(spec, by_hand)?;
    let mut door = Door::new(by_hand, torchrun, own, arrivals);
    let waited = tokio::select! {
        waited = door.wait() => waited,
        number = ending_signal(signals) => Err(ByHandError::Stopped(number)),
    };
    // Nobody who comes now is waited for, and rank 0 may listen here.
    listener.close().await;
    let hosted = match waited {
        Ok(()) => introduce(spec, at, &mut door).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &hosted {
        door.dismiss(error).await;
    }
    hosted
}

/// What this node says of itself.
pub(super) fn own_hello(spec: &JobSpec, by_hand: &ByHand) -> Result<Hello, ByHandError> {
    let failed = |what: &str, error: std::io::Error| ByHandError::Head(format!("{what}: {error}"));
    let hostname = hostname::get().map_err(|error| failed("asking for this machine's name", error))?;
    Ok(Hello {
        protocol: PROTOCOL_VERSION,
        build: build_id::of_this_executable().map_err(|error| failed("reading this executable", error))?,
        hostname: hostname.to_string_lossy().into_owned(),
        node_rank: by_hand.node_rank,
        line: LineOfNode::of(spec),
    })
}

/// Keeps a connection that says nothing for minutes from outliving the machine at its other end.
pub(super) fn keep_alive(stream: &tokio::net::TcpStream) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    // Without it a lost machine is noticed at the deadline.
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// The first signal that asks for the end.
pub(super) async fn ending_signal(received: &mut mpsc::UnboundedReceiver<i32>) -> i32 {
    loop {
        match received.recv().await {
            Some(number) if signals::ends_the_job(number) => return number,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn cannot_listen(by_hand: &ByHand, error: &std::io::Error) -> ByHandError {
    let hint = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "\n  hint: another program listens there: choose another --master-port (or port of --rdzv-endpoint) on every node"
        }
        _ => "",
    };
    ByHandError::Listen { place: by_hand.place(), cause: crate::agent::dial::fragment(error), hint }
}

/// What happens at the door.
enum Event {
    /// Somebody said who he is.
    Hello { link: u64, hello: Box<Hello>, waiting: Box<Waiting> },
    /// Somebody who was in has left.
    Left { link: u64 },
}

/// The link of a node that waits for the others.
struct Waiting {
    sender: LinkSender<Answer>,
    receiver: LinkReceiver<Hello>,
    peer: SocketAddr,
}

/// The link of a node that is in: its receiver is watched for the node's end until it is asked for.
struct Held {
    sender: LinkSender<Answer>,
    peer: SocketAddr,
    wanted: oneshot::Sender<()>,
    watch: JoinHandle<Option<LinkReceiver<Hello>>>,
}

/// The door at which node 0 waits.
struct Door<'a> {
    by_hand: &'a ByHand,
    torchrun: &'a Torchrun,
    meeting: Meeting,
    arrivals: mpsc::Receiver<Arrival>,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    held: BTreeMap<u64, Held>,
    turned_away: BTreeMap<IpAddr, String>,
    /// Refusals that are on their way.
    refusals: Vec<JoinHandle<()>>,
    links: u64,
}

impl<'a> Door<'a> {
    fn new(
        by_hand: &'a ByHand,
        torchrun: &'a Torchrun,
        own: Hello,
        arrivals: mpsc::Receiver<Arrival>,
    ) -> Door<'a> {
        Door {
            by_hand,
            torchrun,
            meeting: Meeting::new(own, torchrun.nodes),
            arrivals,
            events: mpsc::unbounded_channel(),
            held: BTreeMap::new(),
            turned_away: BTreeMap::new(),
            refusals: Vec::new(),
            links: 0,
        }
    }

    /// Waits for the nodes.
    async fn wait(&mut self) -> Result<(), ByHandError> {
        let started = Instant::now();
        let deadline = started + self.by_hand.patience;
        let mut last_call = None;
        let mut next_word = started + FIRST_WORD;
        while !self.meeting.is_full() {
            if !self.meeting.is_enough() {
                last_call = None;
            } else if last_call.is_none() {
                last_call = Some(Instant::now() + self.by_hand.last_call);
            }
            let until = last_call.unwrap_or(deadline).min(deadline);
            tokio::select! {
                Some(arrival) = self.arrivals.recv() => self.arrived(arrival),
                Some(event) = self.events.1.recv() => self.happened(event)?,
                () = sleep_until(next_word) => {
                    next_word = Instant::now() + WORD_INTERVAL;
                    self.say_what_is_waited_for();
                }
                () = sleep_until(until) => {
                    if self.meeting.is_enough() {
                        return Ok(());
                    }
                    return Err(self.missing());
                }
            }
        }
        Ok(())
    }

    fn say_what_is_waited_for(&self) {
        let (count, place) = (self.meeting.count(), self.by_hand.place());
        let nodes = self.wanted();
        Terminal::process().note(format!("{count} of {nodes} nodes are here; waiting at {place}"));
    }

    fn wanted(&self) -> String {
        let nodes = self.torchrun.nodes;
        if nodes.least == nodes.most {
            nodes.least.to_string()
        } else {
            format!("{} to {}", nodes.least, nodes.most)
        }
    }

    fn missing(&self) -> ByHandError {
        ByHandError::Missing {
            came: self.meeting.count(),
            wanted: self.wanted(),
            waited_s: self.by_hand.patience.as_secs(),
            missing: self.meeting.missing(),
            turned_away: self.turned_away.values().cloned().collect(),
        }
    }

    fn arrived(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Joined(joined) => {
                self.links += 1;
                tokio::spawn(hear(self.links, joined, self.events.0.clone()));
            }
            Arrival::TurnedAway { peer, cause } => {
                let is_new = !self.turned_away.contains_key(&peer.ip());
                if is_new && self.turned_away.len() < REMEMBERED {
                    let why = match cause {
                        SecureError::OtherVersion { .. } => cause.to_string(),
                        _ => "it has another key (is the file of --key-file the same there?)".to_owned(),
                    };
                    let text = format!("{} was turned away: {why}", peer.ip());
                    Terminal::process().note(&text);
                    self.turned_away.insert(peer.ip(), text);
                }
            }
        }
    }

    fn happened(&mut self, event: Event) -> Result<(), ByHandError> {
        match event {
            Event::Left { link } => {
                self.held.remove(&link);
                if let Some(guest) = self.meeting.left(link) {
                    Terminal::process().note(format!("{guest} has left"));
                }
                Ok(())
            }
            Event::Hello { link, hello, waiting } => {
                let from = waiting.peer.ip().to_string();
                match self.meeting.receive(link, from.clone(), &hello) {
                    Reception::Welcome => {
                        self.hold(link, *waiting);
                        Ok(())
                    }
                    Reception::Refused(reason) => {
                        Terminal::process().note(format!("{from} was refused: {reason}"));
                        self.refusals.push(refuse(waiting.sender, reason));
                        Ok(())
                    }
                    Reception::OtherLine { there, here } => {
                        self.refusals.push(refuse(waiting.sender, there));
                        Err(ByHandError::OtherLine(here))
                    }
                }
            }
        }
    }

    fn hold(&mut self, link: u64, waiting: Waiting) {
        let Waiting { sender, mut receiver, peer } = waiting;
        let (wanted, is_wanted) = oneshot::channel();
        let events = self.events.0.clone();
        let watch = tokio::spawn(async move {
            tokio::select! {
                biased;
                Ok(()) = is_wanted => Some(receiver),
                // It has nothing to say before it is welcome.
                _ = receiver.receive() => {
                    // Without a receiver the meeting is over.
                    let _ = events.send(Event::Left { link });
                    None
                }
            }
        });
        self.held.insert(link, Held { sender, peer, wanted, watch });
    }

    /// Sends everybody away who is still here.
    async fn dismiss(&mut self, error: &ByHandError) {
        let reason = format!("node 0 has given up: {error}");
        for held in std::mem::take(&mut self.held).into_values() {
            held.sender.send(&Answer::Refused(reason.clone()));
            // One that does not read is not waited for.
            let _ = timeout(FAREWELL_PATIENCE, held.sender.finish()).await;
        }
        for refusal in self.refusals.drain(..) {
            // It has a deadline of its own.
            let _ = refusal.await;
        }
    }
}

/// Lets somebody who holds the key say who he is.
async fn hear(link: u64, joined: Joined, events: mpsc::UnboundedSender<Event>) {
    let Joined { stream, authenticated, peer } = joined;
    keep_alive(&stream);
    let (source, sink) = stream.into_split();
    let (sender, mut receiver) = link_io::open::<Hello, Answer>(
        Box::new(source),
        Box::new(sink),
        Some(authenticated),
        STDIN_IN_FLIGHT_BYTES,
    );
    if let Ok(Ok(hello)) = timeout(HELLO_PATIENCE, receiver.receive()).await {
        let waiting = Box::new(Waiting { sender, receiver, peer });
        // Without a receiver the meeting is over, and the connection is dropped.
        let _ = events.send(Event::Hello { link, hello: Box::new(hello), waiting });
    }
}

fn refuse(sender: LinkSender<Answer>, reason: String) -> JoinHandle<()> {
    sender.send(&Answer::Refused(reason));
    tokio::spawn(async move {
        // One that does not read is not waited for.
        let _ = timeout(FAREWELL_PATIENCE, sender.finish()).await;
    })
}

/// Makes nodes of all who are there: this one with an agent of its own, the others with the agents that they start.
async fn introduce(spec: &JobSpec, at: SocketAddr, door: &mut Door<'_>) -> Result<Hosted, ByHandError> {
    let failed = |error: crate::error::LaunchError| ByHandError::Head(error.to_string());
    let identity = supervise::identity().map_err(failed)?;
    let ordered = door.meeting.in_order();
    let nodes = door.meeting.count();
    let own = host_of(&own_name());
    let mut hosts = vec![own.clone()];
    let mut connected = vec![own_agent(&identity, &own).await?];
    let mut guests = Vec::new();
    for (number, guest) in (1..).zip(&ordered) {
        let host = host_of(&guest.hostname);
        let lost = |cause: String| ByHandError::NodeLost { host: guest.to_string(), cause };
        let Some(held) = door.held.remove(&guest.link) else { return Err(lost("it has left".to_owned())) };
        let began = Instant::now();
        let (agent, sender) =
            guest_agent(&identity, NodeId(number), nodes, &host, held).await.map_err(lost)?;
        let took = began.elapsed();
        let head_address = Some(at.ip());
        connected.push(Connected { agent, notes: Vec::new(), head_address, is_here: false, took });
        guests.push(sender);
        hosts.push(host);
    }
    say_who_is_there(spec, &hosts, &ordered);
    Ok(Hosted { crew: Crew { identity, hosts, connected }, guests: Guests(guests) })
}

fn say_who_is_there(spec: &JobSpec, hosts: &[Host], ordered: &[Guest]) {
    if spec.verbose {
        for (number, (host, guest)) in (1..).zip(hosts.iter().skip(1).zip(ordered)) {
            Terminal::process().note(format!("node {number} is {host} ({})", guest.from));
        }
    }
}

async fn own_agent(identity: &Identity, host: &Host) -> Result<Connected, ByHandError> {
    let lost = |cause: String| ByHandError::NodeLost { host: host.to_string(), cause };
    let spawner = LocalSpawner::new(supervise::THIS_EXECUTABLE);
    let began = Instant::now();
    let channel = spawner
        .start(host, INTRODUCTION_PATIENCE)
        .await
        .map_err(|error| ByHandError::Head(error.to_string()))?;
    let order = connect::order(identity, NodeId(0), host);
    let introduced = timeout(INTRODUCTION_PATIENCE, node_link::introduce(channel, &order, None)).await;
    let agent = told(introduced).map_err(lost)?;
    let took = began.elapsed();
    Ok(Connected { agent, notes: Vec::new(), head_address: None, is_here: true, took })
}

async fn guest_agent(
    identity: &Identity,
    node: NodeId,
    nodes: u32,
    host: &Host,
    held: Held,
) -> Result<(node_link::Introduced, LinkSender<HeadMessage>), String> {
    let Held { sender, peer, wanted, watch } = held;
    let has_left = || "it has left".to_owned();
    wanted.send(()).map_err(|()| has_left())?;
    let receiver = watch.await.ok().flatten().ok_or_else(has_left)?;
    sender.send(&Answer::Welcome { order: Box::new(connect::order(identity, node, host)), nodes });
    let sender = sender.carrying::<HeadMessage>();
    let receiver = receiver.expecting::<AgentMessage>();
    let introduced = node_link::introduce_joined(sender.clone(), receiver, peer, node);
    Ok((told(timeout(INTRODUCTION_PATIENCE, introduced).await)?, sender))
}

fn told(
    introduced: Result<Result<node_link::Introduced, NotIntroduced>, tokio::time::error::Elapsed>,
) -> Result<node_link::Introduced, String> {
    match introduced {
        Ok(introduced) => introduced.map_err(|error| error.to_string()),
        Err(_) => Err(format!("its agent said nothing in {} s", INTRODUCTION_PATIENCE.as_secs())),
    }
}

fn own_name() -> String {
    hostname::get().map_or_else(|_| "node 0".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn host_of(name: &str) -> Host {
    Host {
        name: name.to_owned(),
        address: None,
        user: None,
        port: None,
        slots: None,
        max_slots: None,
        places: Vec::new(),
        origin: "joined by hand".to_owned(),
    }
}

/// When the first word about waiting comes, and how often after that.
const FIRST_WORD: Duration = Duration::from_secs(3);
const WORD_INTERVAL: Duration = Duration::from_secs(30);
/// How long somebody who holds the key may take to say who he is.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long an agent may take to report its node's facts.
const INTRODUCTION_PATIENCE: Duration = Duration::from_secs(30);
/// How long a last word may take to be read.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How many addresses that were turned away are remembered.
const REMEMBERED: usize = 8;
