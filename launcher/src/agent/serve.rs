//! The agent's loop: one `select!` over the head, the keeper, the ranks' sockets, the clock and TERM.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use efarun_wire::message::{AgentMessage, AgentOrder, HeadMessage, LaunchPlan};

use super::dial;
use super::introduction::{Introduced, introduce};
use super::keeper_link::KeeperLink;
use super::lease::Lease;
use super::master_port::MasterPort;
use super::pmi_links::PmiEvent;
use super::pmix_helper::PmixEvent;
use super::rank_links::RankEvent;
use super::ranks::{Events, Ranks, StreamsEnded};
use super::setup::KeeperProcess;
use super::stacks;
use crate::keeper::protocol::{KeeperOrder, KeeperReport};
use crate::link_io::{self, LinkEnd, LinkReceiver, LinkSender};

/// Runs the agent to its end.
pub(super) async fn serve(keeper: KeeperProcess) -> ExitCode {
    let Some(introduced) = introduce(keeper).await else { return ExitCode::FAILURE };
    let mut agent = match Agent::new(introduced) {
        Ok(agent) => agent,
        Err(error) => {
            super::complain(&format!("the agent cannot watch for signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let leaving = agent.work().await;
    agent.leave(leaving).await
}

/// The agent at work.
pub(super) struct Agent {
    pub(super) order: AgentOrder,
    pub(super) keeper: KeeperLink,
    /// Kept to the agent's end.
    _master_port: Option<MasterPort>,
    /// The way to the head that is used now: the channel's or that of the TCP link.
    pub(super) head: LinkSender<AgentMessage>,
    pub(super) channel: LinkSender<AgentMessage>,
    from_channel: LinkReceiver<HeadMessage>,
    from_tcp: Option<LinkReceiver<HeadMessage>>,
    /// What arrived while the head was dialled, or ranks were launched.
    backlog: VecDeque<HeadMessage>,
    lease: Option<Lease>,
    terminated: Signal,
    pub(super) ranks: Option<Ranks>,
    rank_events: (mpsc::Sender<RankEvent>, mpsc::Receiver<RankEvent>),
    pmi_events: (mpsc::Sender<PmiEvent>, mpsc::Receiver<PmiEvent>),
    pmix_events: (mpsc::Sender<PmixEvent>, mpsc::Receiver<PmixEvent>),
    pub(super) output: Output,
    /// What is to be said when the output is out, or at the time given.
    unsaid_reaped: Option<(AgentMessage, Instant)>,
    has_goodbye: bool,
    said_stuck: bool,
    /// Ranks were launched, and it is not known yet that all are gone.
    pub(super) is_unreaped: bool,
}

/// How far the ranks' output is.
pub(super) enum Output {
    /// There are no ranks, or all that they wrote has been sent.
    Done,
    /// Ranks write.
    Flowing(StreamsEnded),
    /// No process of the job is left; what they wrote is still being sent. Resolves when it has been.
    Draining(Pin<Box<dyn Future<Output = ()>>>),
}

/// Why the loop ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leaving {
    /// The head is done.
    Goodbye,
    /// The head cannot be heard any more, or talks nonsense; how, as a sentence.
    HeadLost(String),
    /// Somebody sent TERM.
    Terminated,
    /// The keeper is gone.
    KeeperDied,
}

enum Event {
    Terminated,
    Head(Result<HeadMessage, (&'static str, LinkEnd)>),
    Keeper(Option<KeeperReport>),
    Rank(RankEvent),
    Pmi(PmiEvent),
    Pmix(PmixEvent),
    Drained,
    Clock,
}

impl Agent {
    fn new(introduced: Introduced) -> std::io::Result<Agent> {
        let Introduced { order, keeper, master_port, sender, receiver } = introduced;
        Ok(Agent {
            order,
            keeper,
            _master_port: master_port,
            head: sender.clone(),
            channel: sender,
            from_channel: receiver,
            from_tcp: None,
            backlog: VecDeque::new(),
            lease: None,
            terminated: signal(SignalKind::terminate())?,
            ranks: None,
            rank_events: mpsc::channel(RANK_EVENTS),
            pmi_events: mpsc::channel(RANK_EVENTS),
            pmix_events: mpsc::channel(RANK_EVENTS),
            output: Output::Done,
            unsaid_reaped: None,
            has_goodbye: false,
            said_stuck: false,
            is_unreaped: false,
        })
    }

    /// Whether the link has left the channel.
    pub(super) fn is_over_tcp(&self) -> bool {
        self.from_tcp.is_some()
    }

    async fn work(&mut self) -> Leaving {
        loop {
            let event = match self.backlog.pop_front() {
                Some(message) => Event::Head(Ok(message)),
                None => self.next_event().await,
            };
            if let Some(leaving) = self.handle(event).await {
                return leaving;
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let wake_at = self.wake_at();
        tokio::select! {
            biased;
            Some(()) = self.terminated.recv() => Event::Terminated,
            received = receive(&mut self.from_tcp) => {
                Event::Head(received.map_err(|end| ("TCP link", end)))
            }
            received = self.from_channel.receive() => {
                Event::Head(received.map_err(|end| ("channel", end)))
            }
            report = self.keeper.report() => Event::Keeper(report),
            () = drained(&mut self.output) => Event::Drained,
            () = sleep_until(wake_at) => Event::Clock,
            event = next_of_ranks(&mut self.rank_events.1, &mut self.pmi_events.1, &mut self.pmix_events.1) => event,
        }
    }

    fn wake_at(&self) -> Instant {
        let lease = self.lease.as_ref().map(|lease| lease.due_at(Instant::now()));
        let reaped = self.unsaid_reaped.as_ref().map(|(_, at)| *at);
        lease.into_iter().chain(reaped).min().unwrap_or_else(|| Instant::now() + IDLE)
    }

    async fn handle(&mut self, event: Event) -> Option<Leaving> {
        match event {
            Event::Terminated => Some(Leaving::Terminated),
            Event::Head(Ok(message)) => self.handle_head(message).await,
            Event::Head(Err(_)) if self.has_goodbye => Some(Leaving::Goodbye),
            Event::Head(Err((which, end))) => {
                Some(Leaving::HeadLost(format!("the {which} to the head {end}")))
            }
            Event::Keeper(None) => Some(Leaving::KeeperDied),
            Event::Keeper(Some(report)) => {
                self.handle_keeper(report);
                None
            }
            Event::Rank(event) => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.handle_link(event);
                }
                None
            }
            Event::Pmi(event) => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.handle_pmi(event);
                }
                None
            }
            Event::Pmix(event) => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.handle_pmix(event);
                }
                self.launch_admitted().await
            }
            Event::Drained => {
                self.output = Output::Done;
                self.say_reaped();
                self.has_goodbye.then_some(Leaving::Goodbye)
            }
            Event::Clock => self.handle_clock(),
        }
    }

    async fn handle_head(&mut self, message: HeadMessage) -> Option<Leaving> {
        let ordered = match message {
            HeadMessage::Ping { number } => {
                self.head.send(&AgentMessage::Pong { number });
                self.start_lease();
                Ok(())
            }
            HeadMessage::Dial { addresses, timeout_ms } => {
                return self.dial(addresses, Duration::from_millis(timeout_ms.into())).await;
            }
            HeadMessage::Launch(plan) => return self.launch(*plan).await,
            HeadMessage::Oob(down) => {
                let received = self.ranks.as_mut().map_or(Ok(()), |ranks| ranks.receive_down(down));
                let mad =
                    |error| Leaving::HeadLost(format!("the head does not follow the protocol: {error}"));
                return received.err().map(mad);
            }
            HeadMessage::Spawned { token, outcome } => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.spawned(token, &outcome);
                }
                Ok(())
            }
            HeadMessage::Stdin { rank, bytes } => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.feed(rank, bytes);
                }
                Ok(())
            }
            HeadMessage::OutputCredit { bytes } => {
                self.head.grant(bytes);
                Ok(())
            }
            HeadMessage::Signal { number } => {
                if let (libc::SIGCONT, Some(lease)) = (number, &mut self.lease) {
                    lease.resume(Instant::now());
                }
                self.keeper.order(&KeeperOrder::Signal { number }).await
            }
            HeadMessage::Suspend => {
                let ordered = self.keeper.order(&KeeperOrder::Signal { number: libc::SIGTSTP }).await;
                if let Some(lease) = &mut self.lease {
                    lease.suspend();
                }
                self.head.send(&AgentMessage::Suspended);
                ordered
            }
            HeadMessage::CollectStacks => {
                if let Some(ranks) = &self.ranks {
                    tokio::spawn(stacks::collect(ranks.running(), self.head.clone()));
                }
                Ok(())
            }
            HeadMessage::TellEnds => {
                match &mut self.ranks {
                    Some(ranks) => ranks.tell_ends(),
                    None => self.head.send(&AgentMessage::EndsTold),
                }
                Ok(())
            }
            HeadMessage::End { grace_ms, signal } => {
                self.keeper.order(&KeeperOrder::End { grace_ms, signal }).await
            }
            // For whoever stands between; an agent knows by its goodbye.
            HeadMessage::Over { .. } => Ok(()),
            HeadMessage::Goodbye => {
                self.has_goodbye = true;
                return (!matches!(self.output, Output::Draining(_))).then_some(Leaving::Goodbye);
            }
        };
        ordered.is_err().then_some(Leaving::KeeperDied)
    }

    /// Dials the head. Meanwhile the channel is watched, and what else arrives there waits.
    async fn dial(&mut self, addresses: Vec<SocketAddr>, patience: Duration) -> Option<Leaving> {
        let mut dialing = std::pin::pin!(dial::dial(&addresses, patience, &self.order));
        let outcome = loop {
            tokio::select! {
                outcome = &mut dialing => break outcome,
                received = self.from_channel.receive() => match received {
                    Ok(HeadMessage::Ping { number }) => self.head.send(&AgentMessage::Pong { number }),
                    Ok(message) => self.backlog.push_back(message),
                    Err(end) => return Some(Leaving::HeadLost(format!("the channel to the head {end}"))),
                },
            }
        };
        match outcome {
            Ok(dialed) => {
                self.channel.send(&AgentMessage::Dialed(Ok(dialed.address)));
                let (source, sink) = dialed.stream.into_split();
                let (sender, receiver) =
                    link_io::open(Box::new(source), Box::new(sink), Some(dialed.authenticated), 0);
                (self.head, self.from_tcp) = (sender, Some(receiver));
            }
            Err(failure) => self.channel.send(&AgentMessage::Dialed(Err(failure))),
        }
        None
    }

    async fn launch(&mut self, plan: LaunchPlan) -> Option<Leaving> {
        if let Some(ranks) = &mut self.ranks {
            if plan.map.world == 0 {
                return Some(Leaving::HeadLost("the head ordered a second launch".to_owned()));
            }
            ranks.admit(plan);
            return self.launch_admitted().await;
        }
        self.is_unreaped = true;
        self.start_lease();
        let events = Events {
            links: self.rank_events.0.clone(),
            pmi: self.pmi_events.0.clone(),
            pmix: self.pmix_events.0.clone(),
        };
        // It waits for file systems, and for a foreign library. Meanwhile the head hears that this agent lives.
        let mut launching =
            std::pin::pin!(Ranks::launch(&self.order, plan, &self.head, events, &self.keeper));
        let launched = loop {
            let received = tokio::select! {
                launched = &mut launching => break launched,
                received = receive(&mut self.from_tcp) => received.map_err(|end| ("TCP link", end)),
                received = self.from_channel.receive() => received.map_err(|end| ("channel", end)),
            };
            match received {
                Ok(HeadMessage::Ping { number }) => self.head.send(&AgentMessage::Pong { number }),
                Ok(message) => self.backlog.push_back(message),
                Err((which, end)) => {
                    return Some(Leaving::HeadLost(format!("the {which} to the head {end}")));
                }
            }
        };
        match launched {
            Ok((ranks, streams_ended)) => {
                self.ranks = Some(ranks);
                self.output = Output::Flowing(streams_ended);
                None
            }
            Err(_) => Some(Leaving::KeeperDied),
        }
    }

    /// Starts the ranks of further worlds for which all is there.
    async fn launch_admitted(&mut self) -> Option<Leaving> {
        let launched = match &mut self.ranks {
            Some(ranks) => ranks.launch_admitted(&self.keeper).await,
            None => Ok(()),
        };
        launched.is_err().then_some(Leaving::KeeperDied)
    }

    fn start_lease(&mut self) {
        self.lease.get_or_insert_with(|| Lease::new(&self.order, Instant::now()));
    }

    pub(super) fn handle_keeper(&mut self, report: KeeperReport) {
        match report {
            KeeperReport::Reaped { ranks, strays } => self.reaped(ranks, strays),
            KeeperReport::Stuck { survivors } => self.stuck(&survivors),
            report => {
                if let Some(ranks) = &mut self.ranks {
                    ranks.handle(report);
                }
            }
        }
    }

    /// Takes note that no process of the job is left. The head is told once what they wrote is out, but not later
    /// than [`DRAIN_PATIENCE`]: a terminal that takes its time does not make processes live longer.
    pub(super) fn reaped(&mut self, rank_count: u32, strays: u32) {
        self.is_unreaped = false;
        if let Some(ranks) = &mut self.ranks {
            ranks.all_reaped();
            self.head.send(&AgentMessage::ExchangeBytes { bytes: ranks.exchanged() });
        }
        let message = AgentMessage::Reaped { ranks: rank_count, strays };
        self.unsaid_reaped = Some((message, Instant::now() + DRAIN_PATIENCE));
        match std::mem::replace(&mut self.output, Output::Done) {
            Output::Flowing(mut streams_ended) => {
                let head = self.head.clone();
                self.output = Output::Draining(Box::pin(async move {
                    // Nothing is ever sent: this is the end of the last sender.
                    let _ = streams_ended.recv().await;
                    head.all_sent().await;
                }));
            }
            Output::Done => self.say_reaped(),
            draining @ Output::Draining(_) => self.output = draining,
        }
    }

    /// Waits until what the ranks wrote is out, and says that they are reaped; as [`Agent::reaped`] promises.
    pub(super) async fn drain(&mut self) {
        if let Some((_, at)) = &self.unsaid_reaped {
            // Late or not, it is said now.
            let _ = tokio::time::timeout_at(*at, drained(&mut self.output)).await;
        }
        self.say_reaped();
    }

    fn say_reaped(&mut self) {
        if let Some((reaped, _)) = self.unsaid_reaped.take() {
            self.head.send(&reaped);
        }
    }

    pub(super) fn stuck(&mut self, survivors: &[String]) {
        if !std::mem::replace(&mut self.said_stuck, true) {
            let text = format!("SIGKILL did not end {}: still trying", survivors.join(", "));
            self.head.send(&AgentMessage::Failed(text));
        }
    }

    fn handle_clock(&mut self) -> Option<Leaving> {
        if self.unsaid_reaped.as_ref().is_some_and(|(_, at)| *at <= Instant::now()) {
            self.say_reaped();
        }
        let lease = self.lease.as_mut()?;
        let tcp_heard = self.from_tcp.as_ref().map(LinkReceiver::last_heard);
        let heard = tcp_heard.unwrap_or(self.from_channel.last_heard()).max(self.from_channel.last_heard());
        let silence = lease.lost_after(Instant::now(), Instant::from_std(heard))?;
        Some(Leaving::HeadLost(format!("the head gave no sign of life for {:.1} s", silence.as_secs_f32())))
    }
}

async fn receive(link: &mut Option<LinkReceiver<HeadMessage>>) -> Result<HeadMessage, LinkEnd> {
    match link {
        Some(link) => link.receive().await,
        None => std::future::pending().await,
    }
}

/// What comes over any kind of socket: none keeps the others waiting.
async fn next_of_ranks(
    links: &mut mpsc::Receiver<RankEvent>,
    pmi: &mut mpsc::Receiver<PmiEvent>,
    pmix: &mut mpsc::Receiver<PmixEvent>,
) -> Event {
    tokio::select! {
        Some(event) = links.recv() => Event::Rank(event),
        Some(event) = pmi.recv() => Event::Pmi(event),
        Some(event) = pmix.recv() => Event::Pmix(event),
        // The agent holds a sender of each.
        else => std::future::pending().await,
    }
}

async fn drained(output: &mut Output) {
    match output {
        Output::Draining(draining) => draining.await,
        Output::Done | Output::Flowing(_) => std::future::pending().await,
    }
}

/// Between TERM and KILL when the head is lost.
pub(super) const HEAD_LOST_GRACE: Duration = Duration::from_secs(1);
/// How long the news that all is reaped waits for output to be sent.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// What ranks said and the agent has not looked at yet, in messages.
const RANK_EVENTS: usize = 64;
/// How long the loop sleeps when it waits for nothing that has a time.
const IDLE: Duration = Duration::from_secs(3600);
