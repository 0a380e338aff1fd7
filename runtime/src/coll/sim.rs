//! Runs a schedule on a model of the network, for any number of ranks.
//!
//! [`simulate`] takes every rank through its steps without data: it keeps a step number, a clock and a few short
//! queues per rank, whose memory it counts. It says how long the collective takes on the [`Model`] and what is sent.
//! It keeps every rank to the rules of the `ledger`, finds a deadlock, a message that nobody takes or that has
//! another length than expected, and a collective in which too little is reduced or written. What it cannot tell is
//! whether the right things are reduced; [`super::check`] can.
//!
//! # The model
//! A rank has one port out and one port in, which work side by side. A message of m bytes keeps the sender's port
//! busy for `message_s` and m times `byte_s`, arrives `latency_s` later, and keeps the receiver's port busy as long, so that two
//! messages at once take twice as long to come in. Posting is free; a send is complete when it has left. Reducing and
//! copying take `memory_byte_s` per byte. A credit comes back `latency_s` after the release. The network between the
//! ports is never full.
//!
//! A rank is taken as far as it can go, then the next that can. That gives one set of times whatever the order, as
//! no step depends on anything but what it names.

use std::collections::VecDeque;
use std::fmt;

use efarun_wire::Rank;

use super::fault::{Fault, Problem, Wait};
use super::ledger::Ledger;
use super::schedule::{Schedule, Span, Step, Steps};

/// What things cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// From the end of a message at the sender to its end at the receiver.
    pub latency_s: f64,
    /// A message in a port, besides its bytes.
    pub message_s: f64,
    /// A byte in a port.
    pub byte_s: f64,
    /// A byte reduced or copied.
    pub memory_byte_s: f64,
}

impl Model {
    /// Shared memory between cores of one machine.
    pub const SHARED_MEMORY: Model =
        Model { latency_s: 0.5e-6, message_s: 0.2e-6, byte_s: 0.1e-9, memory_byte_s: 0.05e-9 };
    /// TCP between hosts: two system calls per message, and 2 GB/s in a stream.
    pub const TCP: Model =
        Model { latency_s: 10e-6, message_s: 3e-6, byte_s: 0.5e-9, memory_byte_s: 0.05e-9 };
    /// EFA: what AWS's own tuner takes for a message, and one card of 100 Gb/s. Not measured here.
    pub const EFA: Model =
        Model { latency_s: 18e-6, message_s: 0.5e-6, byte_s: 0.08e-9, memory_byte_s: 0.05e-9 };
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Model { latency_s, message_s, byte_s, memory_byte_s } = *self;
        let (us, ns) =
            (|seconds: f64| (seconds * 1e9).round() / 1e3, |seconds: f64| (seconds * 1e12).round() / 1e3);
        write!(
            f,
            "{} us of latency, {} us per message and {} ns per byte sent, {} ns per byte reduced or copied",
            us(latency_s),
            us(message_s),
            ns(byte_s),
            ns(memory_byte_s)
        )
    }
}

/// What a collective took.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// From the start, which is the same for all ranks, to the end of the last.
    pub time_s: f64,
    /// Messages, all ranks together.
    pub messages: u64,
    /// Bytes sent, all ranks together.
    pub bytes: u64,
    /// Steps, all ranks together.
    pub steps: u64,
    /// The most messages that one rank held at once.
    pub max_held: usize,
    /// Memory that the simulation took at most.
    pub peak_state_bytes: usize,
    /// Each rank's part.
    pub ranks: Vec<RankReport>,
}

/// What a collective took on one rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankReport {
    /// From the start to this rank's end.
    pub time_s: f64,
    /// Messages that it sent.
    pub messages: u64,
    /// Bytes that it sent.
    pub bytes: u64,
}

/// Simulates a collective on elements of this size, with so many credits per ordered pair of ranks.
///
/// # Errors
///
/// The first [`Fault`] that it meets.
pub fn simulate(
    schedule: &dyn Schedule,
    element_bytes: usize,
    credits: usize,
    model: &Model,
) -> Result<Report, Fault> {
    Simulation::new(schedule, element_bytes, credits, model).run()
}

struct Simulation<'s> {
    schedule: &'s dyn Schedule,
    element_bytes: usize,
    model: &'s Model,
    ranks: Vec<RankState<'s>>,
    /// Ranks that can go on.
    ready: Vec<Rank>,
    finished: usize,
}

/// One rank.
struct RankState<'s> {
    ledger: Ledger,
    steps: Steps<'s>,
    /// The step to be done, and its number.
    next: Option<Step>,
    step: usize,
    clock_s: f64,
    /// When the port out is free.
    out_free_s: f64,
    /// When the port in is free.
    in_free_s: f64,
    /// When each open send is complete.
    completions: VecDeque<f64>,
    channels: Vec<Channel>,
    waiting: Option<Wait>,
    messages: u64,
    bytes: u64,
}

/// What one peer sends to a rank.
struct Channel {
    from: Rank,
    /// Not released; the first one may be held.
    messages: VecDeque<Message>,
    /// When each free credit came back to the sender.
    credits: VecDeque<f64>,
}

struct Message {
    arrives_s: f64,
    len: usize,
}

impl<'s> Simulation<'s> {
    fn new(schedule: &'s dyn Schedule, element_bytes: usize, credits: usize, model: &'s Model) -> Self {
        let ranks =
            (0..schedule.world_size()).map(|rank| RankState::new(schedule, Rank(rank), credits)).collect();
        let ready = (0..schedule.world_size()).rev().map(Rank).collect();
        Simulation { schedule, element_bytes, model, ranks, ready, finished: 0 }
    }

    fn run(mut self) -> Result<Report, Fault> {
        while let Some(rank) = self.ready.pop() {
            self.advance(rank).map_err(|problem| self.fault(rank, problem))?;
        }
        if self.finished < self.ranks.len() {
            let stuck = self.ranks.iter().position(|state| state.waiting.is_some());
            let stuck = stuck.expect("a rank that is neither done nor ready waits");
            let wait = self.ranks[stuck].waiting.expect("it was found for waiting");
            return Err(self.fault(Rank(stuck as u32), Problem::Deadlock { wait }));
        }
        self.check_end()?;
        Ok(self.report())
    }

    /// Takes a rank as far as it can go.
    fn advance(&mut self, rank: Rank) -> Result<(), Problem> {
        while let Some(step) = self.state(rank).next {
            self.state(rank).waiting = self.waits_for(rank, &step)?;
            if self.state(rank).waiting.is_some() {
                return Ok(());
            }
            self.state(rank).ledger.enter(&step)?;
            self.perform(rank, &step)?;
            let state = self.state(rank);
            state.step += 1;
            state.next = state.steps.next();
        }
        self.finished += 1;
        self.state(rank).ledger.finish()
    }

    fn waits_for(&mut self, rank: Rank, step: &Step) -> Result<Option<Wait>, Problem> {
        Ok(match *step {
            Step::Send { to, .. } => {
                let is_empty = self.channel(rank, to, to)?.credits.is_empty();
                is_empty.then_some(Wait::Credit { to })
            }
            Step::Recv { from, .. } => {
                let is_empty = self.channel(from, rank, from)?.messages.is_empty();
                is_empty.then_some(Wait::Message { from })
            }
            _ => None,
        })
    }

    fn perform(&mut self, rank: Rank, step: &Step) -> Result<(), Problem> {
        let Model { latency_s, message_s, byte_s, memory_byte_s } = *self.model;
        match *step {
            Step::Send { to, span } => {
                let bytes = span.len * self.element_bytes;
                let credit_s = self.channel(rank, to, to)?.credits.pop_front();
                let credit_s = credit_s.expect("a send with no credit waits");
                let state = self.state(rank);
                state.clock_s = state.clock_s.max(credit_s);
                state.out_free_s = state.out_free_s.max(state.clock_s) + message_s + bytes as f64 * byte_s;
                state.completions.push_back(state.out_free_s);
                state.messages += 1;
                state.bytes += bytes as u64;
                let message = Message { arrives_s: state.out_free_s + latency_s, len: span.len };
                self.channel(rank, to, to)?.messages.push_back(message);
                self.wake(to, Wait::Message { from: rank });
            }
            Step::WaitSends { .. } => {
                let state = self.state(rank);
                let covered = state.completions.len() - state.ledger.open_sends();
                let last_s = state.completions.drain(..covered).fold(state.clock_s, f64::max);
                state.clock_s = last_s;
            }
            Step::Recv { from, len } => {
                let bytes = len * self.element_bytes;
                let message = self.channel(from, rank, from)?.messages.front();
                let message = message.expect("a receive with no message waits");
                let (arrives_s, sent) = (message.arrives_s, message.len);
                if sent != len {
                    return Err(Problem::MessageLen { from, expected: len, sent });
                }
                let state = self.state(rank);
                state.in_free_s = arrives_s.max(state.in_free_s + message_s + bytes as f64 * byte_s);
                state.clock_s = state.clock_s.max(state.in_free_s);
            }
            Step::Reduce { into, .. } | Step::Copy { into, .. } => {
                let bytes = into.len * self.element_bytes;
                self.state(rank).clock_s += bytes as f64 * memory_byte_s;
            }
            Step::Release { from } => {
                let credit_s = self.state(rank).clock_s + latency_s;
                let channel = self.channel(from, rank, from)?;
                channel.messages.pop_front();
                channel.credits.push_back(credit_s);
                self.wake(from, Wait::Credit { to: rank });
            }
        }
        Ok(())
    }

    /// Lets a rank go on if this is what it waits for.
    fn wake(&mut self, rank: Rank, event: Wait) {
        let state = self.state(rank);
        if state.waiting == Some(event) {
            state.waiting = None;
            self.ready.push(rank);
        }
    }

    fn check_end(&self) -> Result<(), Fault> {
        for (rank, state) in (0..).map(Rank).zip(&self.ranks) {
            if let Some(channel) = state.channels.iter().find(|channel| !channel.messages.is_empty()) {
                let (from, messages) = (channel.from, channel.messages.len());
                return Err(self.fault(rank, Problem::NotReceived { from, messages }));
            }
        }
        let reduced = self.ranks.iter().map(|state| state.ledger.reduced() as u128).sum();
        let needed =
            self.schedule.collective().least_reduced(self.schedule.world_size(), self.schedule.count());
        if reduced < needed {
            return Err(self.fault(Rank(0), Problem::TooLittleReduced { reduced, needed }));
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let report = |state: &RankState| RankReport {
            time_s: state.clock_s,
            messages: state.messages,
            bytes: state.bytes,
        };
        let ranks: Vec<RankReport> = self.ranks.iter().map(report).collect();
        Report {
            time_s: ranks.iter().map(|rank| rank.time_s).fold(0.0, f64::max),
            messages: ranks.iter().map(|rank| rank.messages).sum(),
            bytes: ranks.iter().map(|rank| rank.bytes).sum(),
            steps: self.ranks.iter().map(|state| state.step as u64).sum(),
            max_held: self.ranks.iter().map(|state| state.ledger.max_held()).max().unwrap_or(0),
            peak_state_bytes: self.state_bytes(),
            ranks,
        }
    }

    /// All memory behind the simulation. Nothing of it shrinks, so at the end this is the most there was.
    fn state_bytes(&self) -> usize {
        self.ranks.capacity() * size_of::<RankState>()
            + self.ready.capacity() * size_of::<Rank>()
            + self.ranks.iter().map(RankState::heap_bytes).sum::<usize>()
    }

    fn state(&mut self, rank: Rank) -> &mut RankState<'s> {
        &mut self.ranks[rank.index()]
    }

    /// What `from` sends to `to`; `peer` is the one of them that is at fault if they do not know each other.
    fn channel(&mut self, from: Rank, to: Rank, peer: Rank) -> Result<&mut Channel, Problem> {
        let channels = self.ranks.get_mut(to.index()).map(|state| &mut state.channels);
        let channel = channels.and_then(|channels| channels.iter_mut().find(|channel| channel.from == from));
        channel.ok_or(Problem::NotAPeer { peer })
    }

    fn fault(&self, rank: Rank, problem: Problem) -> Fault {
        Fault { rank, step: self.ranks[rank.index()].step, problem }
    }
}

impl<'s> RankState<'s> {
    fn new(schedule: &'s dyn Schedule, rank: Rank, credits: usize) -> Self {
        let mut ledger = Ledger::default();
        ledger.start(schedule, rank);
        let channel = |&from: &Rank| Channel {
            from,
            messages: VecDeque::with_capacity(credits),
            credits: VecDeque::from(vec![0.0; credits]),
        };
        let mut steps = schedule.steps(rank);
        RankState {
            channels: ledger.receives_from().iter().map(channel).collect(),
            completions: VecDeque::with_capacity(ledger.max_open_sends()),
            step: 0,
            next: steps.next(),
            steps,
            ledger,
            clock_s: 0.0,
            out_free_s: 0.0,
            in_free_s: 0.0,
            waiting: None,
            messages: 0,
            bytes: 0,
        }
    }

    fn heap_bytes(&self) -> usize {
        let channel_bytes = |channel: &Channel| {
            channel.messages.capacity() * size_of::<Message>() + channel.credits.capacity() * size_of::<f64>()
        };
        self.ledger.heap_bytes()
            + self.completions.capacity() * size_of::<f64>()
            + self.channels.capacity() * size_of::<Channel>()
            + self.channels.iter().map(channel_bytes).sum::<usize>()
            // What the steps are made from, and the spans that a generator may keep of open sends.
            + size_of_val(&*self.steps)
            + self.ledger.max_open_sends() * size_of::<Span>()
    }
}
