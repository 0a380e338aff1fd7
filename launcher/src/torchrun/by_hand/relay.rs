//! The process that joined, between node 0 and its own agent.
//!
//! What the head and the agent say to each other passes through, but for what the node's ranks write: that is shown here,
//! and the credit for it is given here. The plan of the ranks gets what is this node's own ([`super::own`]).
//!
//! The agent is a child of this process, and its channel ends with it. When node 0 is lost, the agent is: it ends its
//! ranks, and this process ends with it. A signal to this process asks node 0 for the end of the job; a second one kills the ranks here.

use std::time::Duration;

use efarun_wire::message::{AgentMessage, HeadMessage};
use efarun_wire::{NodeId, frame};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::join::Welcomed;
use super::{ByHand, ByHandError, own};
use crate::bootstrap::node_link::LEASE;
use crate::exit_code::ExitCause;
use crate::job::{Host, JobSpec};
use crate::link_io::{self, LinkEnd, LinkReceiver, LinkSender};
use crate::spawn::local::LocalSpawner;
use crate::spawn::{AgentChannel, Spawner};
use crate::supervise::writer::{Writer, Written};
use crate::supervise::{self, signals};

/// How a job ended that this node took part in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over {
    /// As node 0 ends.
    pub(crate) cause: ExitCause,
    /// Whether the group starts again, and this node is to join once more.
    pub(crate) again: bool,
}

/// Starts this node's agent and stands between it and node 0 until the job is over.
pub(super) async fn run(
    spec: &JobSpec,
    by_hand: &ByHand,
    welcomed: Welcomed,
    signals: &mut mpsc::UnboundedReceiver<i32>,
) -> Result<Over, ByHandError> {
    let failed = |what: &str, cause: String| ByHandError::Head(format!("{what}: {cause}"));
    let Welcomed { order, nodes, sender, receiver } = welcomed;
    let node = order.node;
    let here = Host {
        name: order.host.clone(),
        address: None,
        user: None,
        port: None,
        slots: None,
        max_slots: None,
        places: Vec::new(),
        origin: Host::BY_DEFAULT.to_owned(),
    };
    let spawner = LocalSpawner::new(supervise::THIS_EXECUTABLE);
    let channel = spawner.start(&here, AGENT_PATIENCE).await;
    let channel = channel.map_err(|error| failed("starting the agent", error.to_string()))?;
    let AgentChannel { stream, stderr, .. } = channel;
    let (source, mut sink) = stream.into_split();
    // A channel that is closed already says so when it is read.
    let _ = sink.write_all(&frame::encode(&order)).await;
    let (to_agent, from_agent) =
        link_io::open::<AgentMessage, HeadMessage>(Box::new(source), Box::new(sink), None, u32::MAX);
    let (writer, written) = Writer::start(supervise::line_style(spec))
        .map_err(|error| failed("starting the thread of output", error.to_string()))?;
    if spec.verbose {
        writer.note(format!("this is node {node} of {nodes}; node 0 is at {}", by_hand.place()));
    }
    let mut relay = Relay {
        spec,
        node,
        head: sender.carrying(),
        from_head: receiver.expecting(),
        to_agent: Some(to_agent),
        from_agent,
        stderr,
        written,
        writer: &writer,
        interrupts: 0,
        last_cause: None,
        over: None,
    };
    let ended = relay.work(signals).await;
    let over = relay.over.take();
    let last_cause = relay.last_cause.take();
    drop(relay);
    let result = match (over, ended) {
        (Some((over, text)), _) => {
            match (over.again, over.cause) {
                (true, _) => writer.note(format!("{text}; the group is started again")),
                (false, ExitCause::Success) => {}
                (false, _) => writer.error(format!("node 0 at {}: {text}", by_hand.place())),
            }
            Ok(over)
        }
        (None, Ended::Interrupted(number)) => Err(ByHandError::Stopped(number)),
        (None, Ended::Silence) => {
            let cause = last_cause
                .unwrap_or_else(|| "the agent here has ended, and nothing comes from it".to_owned());
            let cause = format!("{cause}; the ranks here were ended");
            Err(ByHandError::NodeLost { host: format!("node 0 at {}", by_hand.place()), cause })
        }
        (None, Ended::Head(end)) => {
            let cause = format!("its link {end}; the ranks here were ended");
            Err(ByHandError::NodeLost { host: format!("node 0 at {}", by_hand.place()), cause })
        }
    };
    writer.finish(OUTPUT_PATIENCE);
    result
}

/// Why the work is over.
enum Ended {
    /// The link to node 0 is.
    Head(LinkEnd),
    /// The agent here has ended, and node 0 says nothing.
    Silence,
    /// A third signal came.
    Interrupted(i32),
}

struct Relay<'a> {
    spec: &'a JobSpec,
    node: NodeId,
    head: LinkSender<AgentMessage>,
    from_head: LinkReceiver<HeadMessage>,
    /// None once the agent is not to be told anything more: that ends its ranks.
    to_agent: Option<LinkSender<HeadMessage>>,
    from_agent: LinkReceiver<AgentMessage>,
    stderr: mpsc::Receiver<String>,
    written: mpsc::UnboundedReceiver<Written>,
    writer: &'a Writer,
    interrupts: u32,
    /// Why the agent here ended its ranks, where it was not told to.
    last_cause: Option<String>,
    /// What node 0 said at the end.
    over: Option<(Over, String)>,
}

impl Relay<'_> {
    async fn work(&mut self, signals: &mut mpsc::UnboundedReceiver<i32>) -> Ended {
        let mut agent_is_there = true;
        let mut last_word_by = None;
        loop {
            tokio::select! {
                biased;
                Some(number) = signals.recv() => {
                    if self.signal(number) {
                        return Ended::Interrupted(number);
                    }
                }
                received = self.from_head.receive() => match received {
                    Ok(message) => self.head_said(message),
                    Err(end) => {
                        self.end_agent(agent_is_there).await;
                        return Ended::Head(end);
                    }
                },
                received = self.from_agent.receive(), if agent_is_there => match received {
                    Ok(message) => self.agent_said(message).await,
                    Err(_) => {
                        agent_is_there = false;
                        // Node 0 sees the end of what is said here, and answers with its last word.
                        let _ = timeout(LAST_WORD_PATIENCE, self.head.finish()).await;
                        // Where the network between is gone neither of the two is ever seen.
                        last_word_by = Some(Instant::now() + LEASE);
                    }
                },
                () = tokio::time::sleep_until(last_word_by.unwrap_or_else(Instant::now)), if last_word_by.is_some() => {
                    return Ended::Silence;
                }
                Some(written) = self.written.recv() => self.written(written),
                Some(line) = self.stderr.recv() => self.writer.note(line),
            }
        }
    }

    fn head_said(&mut self, message: HeadMessage) {
        let message = match message {
            HeadMessage::Over { code, again, text } => {
                let cause = if code == 0 { ExitCause::Success } else { ExitCause::RankCode(i32::from(code)) };
                self.over = Some((Over { cause, again }, text));
                return;
            }
            HeadMessage::Launch(mut plan) => {
                own::complete(&mut plan, self.spec);
                HeadMessage::Launch(plan)
            }
            message => message,
        };
        if let Some(agent) = &self.to_agent {
            agent.send(&message);
        }
    }

    async fn agent_said(&mut self, message: AgentMessage) {
        match message {
            AgentMessage::Output { rank, stream, bytes } => {
                self.writer.output(self.node, rank, stream, bytes)
            }
            message => {
                if let AgentMessage::Failed(cause) = &message {
                    self.last_cause = Some(cause.clone());
                }
                self.head.send(&message);
                self.head.control_space().await;
            }
        }
    }

    fn written(&mut self, written: Written) {
        match written {
            Written::Bytes(_, bytes) => {
                if let Some(agent) = &self.to_agent {
                    agent.send(&HeadMessage::OutputCredit { bytes });
                }
            }
            Written::Closed => self.ask_for_the_end(libc::SIGPIPE),
        }
    }

    /// Says whether to leave at once.
    fn signal(&mut self, number: i32) -> bool {
        if !signals::ends_the_job(number) {
            if let Some(agent) = &self.to_agent {
                agent.send(&HeadMessage::Signal { number });
            }
            return false;
        }
        self.interrupts += 1;
        match self.interrupts {
            1 => {
                let name = signals::name(number);
                self.writer
                    .note(format!("{name}: asking node 0 to end the job (again to kill the ranks here)"));
                self.ask_for_the_end(number);
            }
            2 => {
                if let Some(agent) = &self.to_agent {
                    agent.send(&HeadMessage::End { grace_ms: 0, signal: libc::SIGTERM });
                }
            }
            _ => return true,
        }
        false
    }

    /// Ends the job for all.
    fn ask_for_the_end(&mut self, number: i32) {
        self.head.send(&AgentMessage::Interrupted { number });
    }

    /// Ends the ranks here, and waits until the agent has.
    async fn end_agent(&mut self, is_there: bool) {
        // Dropping the last sender is the end of the agent's input.
        self.to_agent = None;
        let ending = async {
            while let Ok(message) = self.from_agent.receive().await {
                if let AgentMessage::Output { rank, stream, bytes } = message {
                    self.writer.output(self.node, rank, stream, bytes);
                }
            }
        };
        if is_there {
            // An agent that takes longer is one whose ranks cannot be killed; it goes on trying.
            let _ = timeout(AGENT_PATIENCE, ending).await;
        }
    }
}

/// How long an agent may take to start, or to end its ranks.
const AGENT_PATIENCE: Duration = Duration::from_secs(10);
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(2);
/// How long a reader of what is shown here may pause at the end before what is left is dropped.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(30);
