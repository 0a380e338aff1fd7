//! The head's link to one agent.
//!
//! [`introduce`] speaks the first words in the agent's channel, among them where the head can be dialled if that is known,
//! and waits for the node's facts; [`Introduced::dial`] moves the link to TCP where the agent can dial the head, and leaves
//! it in the channel where not;
//! [`Introduced::start`] hands the link to a task that reads it, keeps it alive, and turns whatever happens into
//! [`NodeEvent`]s. The channel is watched to the end also when the link has left it: its end is the agent's end.

use std::net::SocketAddr;
use std::time::Duration;

use efarun_wire::NodeId;
use efarun_wire::facts::NodeFacts;
use efarun_wire::frame;
use efarun_wire::heartbeat::Heartbeat;
use efarun_wire::message::{AgentMessage, AgentOrder, HeadMessage};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::listener::{Joined, Listener};
use crate::link_io::{self, LinkEnd, LinkReceiver, LinkSender};
use crate::spawn::{AgentChannel, ChannelEnd};

/// How often each end of a link says that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// After how long a silence the other end counts as lost.
pub const LEASE: Duration = Duration::from_secs(10);
/// How long an agent may try to dial the head before the link stays in the channel.
const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// How long the end of a handshake that the agent takes for done may take to be seen here: this machine may have much to do.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long the last words of an agent are waited for once its link has ended.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(300);

/// Something that happened at a node.
#[derive(Debug)]
pub enum NodeEvent {
    /// Its agent said something.
    Message(AgentMessage),
    /// A line on the standard error of its agent, or of the command that carries it.
    Stderr(String),
    /// The link is over, and why, as a fragment. The last event of a node.
    Lost(String),
}

/// The way to tell a node's agent something. Never waits; what is told to a lost node is dropped.
#[derive(Debug)]
pub struct NodeLink {
    sender: LinkSender<HeadMessage>,
}

impl NodeLink {
    /// Queues a message.
    pub fn send(&self, message: HeadMessage) {
        match &message {
            HeadMessage::Stdin { bytes, .. } => {
                let cost_bytes = bytes.len();
                self.sender.send_bulk(&message, cost_bytes).expect("standard input is read in small chunks");
            }
            _ => self.sender.send(&message),
        }
    }
}

/// An agent that has reported its node's facts.
#[derive(Debug)]
pub struct Introduced {
    /// What it found.
    pub facts: Box<NodeFacts>,
    /// How it was reached.
    pub route: String,
    /// Where the agent's end of the TCP link is, once it has dialled.
    pub peer: Option<SocketAddr>,
    node: NodeId,
    /// It was told to dial this address with its order.
    is_dialling: Option<SocketAddr>,
    sender: LinkSender<HeadMessage>,
    receiver: LinkReceiver<AgentMessage>,
    /// The channel, once the link has left it. The sender is kept: dropping it would be end of file for the agent.
    channel: Option<(LinkSender<HeadMessage>, LinkReceiver<AgentMessage>)>,
    stderr: mpsc::Receiver<String>,
    end: AgentEnd,
}

/// How an agent's end is learned, and whose it is.
#[derive(Debug)]
struct AgentEnd {
    ended: oneshot::Receiver<ChannelEnd>,
    /// The command that carries the channel, where there is one: what ends is it, and the agent behind it.
    carrier: Option<String>,
}

/// Why an agent was not heard of after its channel was there.
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", last_words(.stderr))]
pub struct NotIntroduced {
    /// What happened, as a fragment about the host: `its agent ended with code 1`.
    pub cause: String,
    /// What it said on standard error.
    pub stderr: Vec<String>,
}

fn last_words(stderr: &[String]) -> String {
    stderr.iter().map(|line| format!("\n  it said: {line}")).collect()
}

/// Tells an agent who it is and, where it is known already, which address of the head to dial; waits for its facts. The
/// caller holds the deadline, and calls [`Introduced::dial`] with the same address.
///
/// Told in one go, as each message takes its way through sshd and wakes five processes on it.
///
/// # Errors
///
/// When the channel ends first, or the agent refuses.
pub async fn introduce(
    channel: AgentChannel,
    order: &AgentOrder,
    dial: Option<SocketAddr>,
) -> Result<Introduced, NotIntroduced> {
    let AgentChannel { stream, mut stderr, ended, route, carrier, .. } = channel;
    let mut agent_end = AgentEnd { ended, carrier };
    let (source, mut sink) = stream.into_split();
    let mut first_words = frame::encode(order);
    if let Some(address) = dial {
        first_words.extend(frame::encode(&dial_order(address)));
    }
    // A channel that is closed already says so when it is read.
    let _ = sink.write_all(&first_words).await;
    let (sender, mut receiver) = link_io::open::<AgentMessage, HeadMessage>(
        Box::new(source),
        Box::new(sink),
        None,
        STDIN_IN_FLIGHT_BYTES,
    );
    let cause = match receiver.receive().await {
        Ok(AgentMessage::Facts(facts)) => {
            let node = order.node;
            return Ok(Introduced {
                facts,
                route,
                peer: None,
                node,
                is_dialling: dial,
                sender,
                receiver,
                channel: None,
                stderr,
                end: agent_end,
            });
        }
        Ok(AgentMessage::Failed(text)) => format!("its agent refused: {text}"),
        Ok(_) => "its agent began with something else than its facts".to_owned(),
        Err(end) => agent_end.told(&end).await,
    };
    Err(NotIntroduced { cause, stderr: drain(&mut stderr).await })
}

fn dial_order(address: SocketAddr) -> HeadMessage {
    HeadMessage::Dial { addresses: vec![address], timeout_ms: DIAL_PATIENCE.as_millis() as u32 }
}

/// Takes over a link that a node opened by itself, and waits for its agent's facts. The caller holds the deadline.
///
/// # Errors
///
/// When the link ends first, or the agent refuses.
pub async fn introduce_joined(
    sender: LinkSender<HeadMessage>,
    mut receiver: LinkReceiver<AgentMessage>,
    peer: SocketAddr,
    node: NodeId,
) -> Result<Introduced, NotIntroduced> {
    let cause = match receiver.receive().await {
        Ok(AgentMessage::Facts(facts)) => {
            // Its end and its standard error are that node's own; the link's end is all that is seen here.
            let (_, ended) = oneshot::channel();
            let (_, stderr) = mpsc::channel(1);
            let end = AgentEnd { ended, carrier: None };
            let (route, peer) = (format!("{peer}, by hand"), Some(peer));
            let (is_dialling, channel) = (None, None);
            return Ok(Introduced {
                facts,
                route,
                peer,
                node,
                is_dialling,
                sender,
                receiver,
                channel,
                stderr,
                end,
            });
        }
        Ok(AgentMessage::Failed(text)) => format!("its agent refused: {text}"),
        Ok(_) => "its agent began with something else than its facts".to_owned(),
        Err(end) => format!("its link {end}"),
    };
    Err(NotIntroduced { cause, stderr: Vec::new() })
}

/// Standard input has credit of its own, per rank, so that the link's bulk credit need never hold it.
pub const STDIN_IN_FLIGHT_BYTES: u32 = u32::MAX;

impl Introduced {
    /// Moves the link to TCP, if the agent can dial this address where `listener` listens. Gives a line for the user
    /// where it cannot; the link then stays in the channel, and works.
    ///
    /// # Errors
    ///
    /// When the channel ends meanwhile.
    pub async fn dial(
        mut self,
        listener: &Listener,
        joined: oneshot::Receiver<Joined>,
        address: SocketAddr,
    ) -> Result<(Introduced, Option<String>), NotIntroduced> {
        if self.is_dialling != Some(address) {
            self.sender.send(&dial_order(address));
        }
        let outcome = loop {
            match self.receiver.receive().await {
                Ok(AgentMessage::Dialed(outcome)) => break outcome,
                Ok(_) => {}
                Err(end) => {
                    let cause = self.end.told(&end).await;
                    return Err(NotIntroduced { cause, stderr: drain(&mut self.stderr).await });
                }
            }
        };
        let reason = match outcome {
            Ok(_) => match tokio::time::timeout(JOIN_PATIENCE, joined).await {
                Ok(Ok(joined)) => return Ok((self.over_tcp(joined), None)),
                _ => {
                    let cause =
                        "its agent dialled this machine, but the connection was not seen here".to_owned();
                    return Err(NotIntroduced { cause, stderr: drain(&mut self.stderr).await });
                }
            },
            Err(failure) => failure.reason,
        };
        listener.give_up(self.node);
        let note = format!(
            "cannot dial this machine at {address} ({reason}): staying in the connection that started the agent\n  hint: a security group that takes all TCP from its own members allows the faster way; ranks that talk to each other over the network need that too"
        );
        Ok((self, Some(note)))
    }

    fn over_tcp(self, joined: Joined) -> Introduced {
        let (source, sink) = joined.stream.into_split();
        let authenticated = Some(joined.authenticated);
        let (sender, receiver) =
            link_io::open(Box::new(source), Box::new(sink), authenticated, STDIN_IN_FLIGHT_BYTES);
        let channel = Some((self.sender, self.receiver));
        Introduced { sender, receiver, channel, peer: Some(joined.peer), ..self }
    }

    /// Starts the task that reads the link; everything that happens there goes to `events` under the number that the
    /// node has in the job.
    pub fn start(self, node: NodeId, events: mpsc::UnboundedSender<(NodeId, NodeEvent)>) -> NodeLink {
        let link = NodeLink { sender: self.sender.clone() };
        tokio::spawn(read_until_lost(self, node, events));
        link
    }
}

async fn read_until_lost(
    mut link: Introduced,
    node: NodeId,
    events: mpsc::UnboundedSender<(NodeId, NodeEvent)>,
) {
    let tell = |event| {
        // The supervisor outlives its links, but for the moment in which the process ends.
        let _ = events.send((node, event));
    };
    let start = Instant::now();
    let mut heartbeat = Heartbeat::new(HEARTBEAT, LEASE, Duration::ZERO);
    let mut pings = 0;
    let cause = loop {
        let due_in = heartbeat.due_in(start.elapsed());
        tokio::select! {
            biased;
            received = link.receiver.receive() => {
                heartbeat.on_heard(start.elapsed());
                match received {
                    Ok(AgentMessage::Pong { .. }) => {}
                    Ok(message) => tell(NodeEvent::Message(message)),
                    Err(end) => break link.end.told(&end).await,
                }
            }
            end = end_of_channel(&mut link.channel) => break link.end.told(&end).await,
            Some(line) = link.stderr.recv() => tell(NodeEvent::Stderr(line)),
            () = tokio::time::sleep(due_in) => {
                if let Some(silence) = heartbeat.is_lost(start.elapsed()) {
                    break format!("its agent gave no sign of life for {} s", silence.as_secs());
                }
                if heartbeat.ping_due(start.elapsed()) {
                    pings += 1;
                    link.sender.send(&HeadMessage::Ping { number: pings });
                }
            }
        }
    };
    for line in drain(&mut link.stderr).await {
        tell(NodeEvent::Stderr(line));
    }
    tell(NodeEvent::Lost(cause));
}

/// Waits for the end of the channel that the link has left; for ever, where the link is still in it.
async fn end_of_channel(
    channel: &mut Option<(LinkSender<HeadMessage>, LinkReceiver<AgentMessage>)>,
) -> LinkEnd {
    let Some((_, receiver)) = channel else { return std::future::pending().await };
    loop {
        match receiver.receive().await {
            // Nothing is said in the channel any more; what was on its way when the link left it is of no use.
            Ok(_) => {}
            Err(end) => return end,
        }
    }
}

impl AgentEnd {
    /// Says how a link ended, with what became of the agent where that is known a moment later.
    async fn told(&mut self, link_end: &LinkEnd) -> String {
        let known =
            tokio::time::timeout(LAST_WORDS_PATIENCE, &mut self.ended).await.ok().and_then(Result::ok);
        match known {
            Some(end) => end_text(&end, self.carrier.as_deref()),
            None => format!("its agent was lost: its link {link_end}"),
        }
    }
}

/// How an agent ended, as a fragment about its host.
fn end_text(end: &ChannelEnd, carrier: Option<&str>) -> String {
    let killed = ", which nothing of efarun sends it: was it the out-of-memory killer? `dmesg` there tells";
    match (end, carrier) {
        (ChannelEnd::Lost(cause), _) => format!("the connection to its agent was lost: {cause}"),
        // ssh's own code for whatever is wrong with a connection, and for a command that a signal ended.
        (ChannelEnd::Code(255), Some(carrier)) => {
            format!(
                "`{carrier}` ended with code 255: its connection broke, or a signal ended the agent there"
            )
        }
        (end, Some(carrier)) => format!("`{carrier}`, which carries its agent, {end}"),
        (ChannelEnd::Signal(signal), None) if signal == "SIGKILL" => {
            format!("its agent was ended by {signal}{killed}")
        }
        // As a shell between sshd and the agent tells it.
        (ChannelEnd::Code(137), None) => format!("its agent was ended by SIGKILL{killed}"),
        (ChannelEnd::Code(255), None) => {
            "its agent, or the sshd session that carries it, was ended".to_owned()
        }
        (end, None) => format!("its agent {end}"),
    }
}

/// Gives what was said on standard error, to its end or until nothing comes for a moment.
async fn drain(stderr: &mut mpsc::Receiver<String>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Ok(Some(line)) = tokio::time::timeout(LAST_WORDS_PATIENCE, stderr.recv()).await {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use efarun_wire::secure::LinkKey;
    use efarun_wire::{BuildId, JobId, PROTOCOL_VERSION};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn an_agent_is_told_where_to_dial_before_it_has_said_anything() {
        let (stream, agents) = UnixStream::pair().unwrap();
        let (_, stderr) = mpsc::channel(1);
        let (_, ended) = oneshot::channel();
        let (route, head_address, carrier, notes) = ("a test".to_owned(), None, None, Vec::new());
        let channel = AgentChannel { stream, stderr, ended, head_address, route, carrier, notes };
        let order = AgentOrder {
            protocol: PROTOCOL_VERSION,
            job: JobId([1; 8]),
            node: NodeId(4),
            build: BuildId([2; 16]),
            key: LinkKey::generate().unwrap(),
            heartbeat_ms: 1000,
            lease_ms: 5000,
            host: "here".to_owned(),
        };
        let address: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let agent = async move {
            let (source, sink) = agents.into_split();
            let (_sender, mut receiver) =
                link_io::open::<AgentOrder, AgentMessage>(Box::new(source), Box::new(sink), None, 0);
            let node = receiver.receive().await.unwrap().node;
            (node, receiver.expecting::<HeadMessage>().receive().await.unwrap())
        };
        let both = async { tokio::join!(introduce(channel, &order, Some(address)), agent) };
        let (introduced, (node, message)) = tokio::time::timeout(DEADLINE, both).await.unwrap();
        assert!(introduced.is_err(), "the agent left without a word: {introduced:?}");
        assert_eq!(node, NodeId(4));
        assert!(
            matches!(&message, HeadMessage::Dial { addresses, .. } if *addresses == [address]),
            "{message:?}"
        );
    }

    const DEADLINE: Duration = Duration::from_secs(60);

    #[test]
    fn the_end_of_an_agent_says_what_ended() {
        let killed = end_text(&ChannelEnd::Signal("SIGKILL".into()), None);
        assert!(
            killed.starts_with("its agent was ended by SIGKILL, ") && killed.contains("dmesg"),
            "{killed}"
        );
        assert_eq!(end_text(&ChannelEnd::Code(1), None), "its agent ended with code 1");
        let carried = end_text(&ChannelEnd::Code(255), Some("ssh h2"));
        assert!(carried.starts_with("`ssh h2` ended with code 255: its connection broke"), "{carried}");
        let lost = end_text(&ChannelEnd::Lost("reset".into()), None);
        assert_eq!(lost, "the connection to its agent was lost: reset");
    }
}
