//! Proves a schedule.
//!
//! [`check`] runs every rank's steps on symbols instead of numbers: an element is the expression that made it. It
//! shows that
//! - every element of every rank's output has in it the inputs that the collective says, each exactly once, at its
//!   position; and after an all_reduce the same expression on all ranks, so that the results agree in every bit;
//! - a reduction that is said to complete an element does, and no other does;
//! - nobody ends a barrier before all have begun it;
//! - nobody waits for ever, with the given credits per pair of ranks;
//! - both ends of a message state one length, and every message is received;
//! - each rank keeps the rules of the `ledger`: bounds, slots, open sends, aliasing.
//!
//! It does so in place and out of place, and twice each: with sends that complete at once, and with sends that
//! complete only when the receiver has taken the message, which is as late as a transport can be.
//!
//! # Why one order of delivery stands for all
//! A rank's steps are a fixed list, and each wait names what it waits for: message k of one peer, a credit of one
//! peer, a number of sends. No step can see what else has arrived. Such a network is determinate (Kahn, 1974): which
//! steps get done, and with what values, does not depend on timing, and if one order of events ends with nobody able
//! to go on, all do. What timing can change is when the network reads a sent span; as no rule of the ledger lets a
//! rank write to it before the wait that covers the send, every reading finds the same.
//!
//! Memory and time grow with world size times count: this is for tests and tools. [`super::sim`] is for large worlds.

mod expression;

use std::collections::{HashMap, HashSet, VecDeque};

use efarun_wire::Rank;

use self::expression::{Expression, Expressions};
use super::collective::Collective;
use super::fault::{Fault, Problem, Wait};
use super::ledger::Ledger;
use super::schedule::{Buffer, Operand, Placement, Schedule, Span, Step, Steps};

/// Checks a schedule against its collective, with so many credits per ordered pair of ranks.
///
/// # Errors
///
/// The first [`Fault`] that it meets.
pub fn check(schedule: &dyn Schedule, credits: usize) -> Result<(), Fault> {
    for is_in_place in [false, true] {
        for completes_late in [false, true] {
            World::new(schedule, credits, is_in_place, completes_late).run()?;
        }
    }
    Ok(())
}

/// All ranks of a schedule.
struct World<'s> {
    schedule: &'s dyn Schedule,
    credits: usize,
    completes_late: bool,
    ranks: Vec<RankState<'s>>,
    pairs: HashMap<(Rank, Rank), Pair>,
    expressions: Expressions,
}

/// One rank.
struct RankState<'s> {
    ledger: Ledger,
    placement: Placement,
    steps: Steps<'s>,
    /// The step to be done, and its number.
    next: Option<Step>,
    step: usize,
    memory: Memory,
    /// For each send, in order: the receiver and the message's number.
    sends: Vec<(Rank, usize)>,
    /// The ranks that this one knows to have begun.
    heard: HashSet<Rank>,
}

/// What a rank's buffers hold.
struct Memory {
    /// In place the vector, in which input and output lie; else the input.
    input: Vec<Option<Expression>>,
    /// Not there in place.
    output: Option<Vec<Option<Expression>>>,
    scratch: Vec<Option<Expression>>,
    accumulator: Vec<Option<Expression>>,
}

impl Memory {
    fn of(&mut self, placement: &Placement, span: Span) -> &mut [Option<Expression>] {
        let (memory, start) = match (span.buffer, &mut self.output) {
            (Buffer::Input, None) => (&mut self.input, placement.input_at + span.start),
            (Buffer::Input, Some(_)) => (&mut self.input, span.start),
            (Buffer::Output, None) => (&mut self.input, placement.output_at + span.start),
            (Buffer::Output, Some(output)) => (output, span.start),
            (Buffer::Scratch, _) => (&mut self.scratch, span.start),
            (Buffer::Accumulator, _) => (&mut self.accumulator, span.start),
        };
        &mut memory[start..start + span.len]
    }
}

/// The messages from one rank to another.
#[derive(Default)]
struct Pair {
    /// Those that are not released; the first one may be held.
    in_flight: VecDeque<Letter>,
    posted: usize,
    is_held: bool,
}

/// A message, and whom its sender had heard of.
struct Letter {
    elements: Vec<Expression>,
    heard: HashSet<Rank>,
}

impl Pair {
    fn received(&self) -> usize {
        self.posted - self.in_flight.len() + usize::from(self.is_held)
    }
}

impl<'s> World<'s> {
    fn new(schedule: &'s dyn Schedule, credits: usize, is_in_place: bool, completes_late: bool) -> Self {
        let mut expressions = Expressions::new(schedule.world_size());
        let mut rank_state = |rank| {
            let mut ledger = Ledger::default();
            ledger.start(schedule, rank);
            let placement = *ledger.placement();
            let inputs = placement.input_at..placement.input_at + placement.input_len;
            let inputs = inputs.map(|element| (element, Some(expressions.input(rank, element))));
            let (input, output) = if is_in_place {
                let vector_len = schedule.collective().vector_len(schedule.world_size(), schedule.count());
                let mut vector = vec![None; vector_len];
                inputs.for_each(|(element, input)| vector[element] = input);
                (vector, None)
            } else {
                (inputs.map(|(_, input)| input).collect(), Some(vec![None; placement.output_len]))
            };
            let (scratch, accumulator) =
                (vec![None; placement.scratch_len], vec![None; placement.accumulator_len]);
            let mut steps = schedule.steps(rank);
            RankState {
                ledger,
                placement,
                next: steps.next(),
                steps,
                step: 0,
                memory: Memory { input, output, scratch, accumulator },
                sends: Vec::new(),
                heard: HashSet::from([rank]),
            }
        };
        let ranks = (0..schedule.world_size()).map(|rank| rank_state(Rank(rank))).collect();
        World { schedule, credits, completes_late, ranks, pairs: HashMap::new(), expressions }
    }

    fn run(mut self) -> Result<(), Fault> {
        self.check_peers()?;
        loop {
            let mut has_moved = false;
            let mut first_stuck = None;
            for rank in (0..self.schedule.world_size()).map(Rank) {
                match self.advance(rank)? {
                    Progress::Moved => has_moved = true,
                    Progress::Stuck(wait) => {
                        first_stuck.get_or_insert((rank, wait));
                    }
                    Progress::Done => {}
                }
            }
            match first_stuck {
                _ if has_moved => {}
                Some((rank, wait)) => return Err(self.fault(rank, Problem::Deadlock { wait })),
                None => break,
            }
        }
        self.check_end()
    }

    /// Both ends of a pair must know of it, or it is never opened.
    fn check_peers(&self) -> Result<(), Fault> {
        for (rank, state) in (0..).map(Rank).zip(&self.ranks) {
            let knows = |peer: &Rank, of: fn(&Ledger) -> &[Rank]| {
                *peer != rank
                    && self.ranks.get(peer.index()).is_some_and(|state| of(&state.ledger).contains(&rank))
            };
            let receives = state.ledger.receives_from().iter();
            let sends = state.ledger.sends_to().iter();
            let unknown = receives
                .filter(|peer| !knows(peer, Ledger::sends_to))
                .chain(sends.filter(|peer| !knows(peer, Ledger::receives_from)))
                .next();
            if let Some(&peer) = unknown {
                return Err(self.fault(rank, Problem::NotAPeer { peer }));
            }
        }
        Ok(())
    }

    /// Does as many steps of a rank as it can.
    fn advance(&mut self, rank: Rank) -> Result<Progress, Fault> {
        let before = self.ranks[rank.index()].step;
        loop {
            let state = &self.ranks[rank.index()];
            let Some(step) = state.next else {
                return Ok(if state.step > before { Progress::Moved } else { Progress::Done });
            };
            if let Some(wait) = self.waits_for(rank, &step) {
                let has_moved = self.ranks[rank.index()].step > before;
                return Ok(if has_moved { Progress::Moved } else { Progress::Stuck(wait) });
            }
            let state = &mut self.ranks[rank.index()];
            let entered = state.ledger.enter(&step);
            entered.and_then(|()| self.perform(rank, &step)).map_err(|problem| self.fault(rank, problem))?;
            let state = &mut self.ranks[rank.index()];
            state.step += 1;
            state.next = state.steps.next();
        }
    }

    /// What keeps a rank from doing this step now.
    fn waits_for(&self, rank: Rank, step: &Step) -> Option<Wait> {
        match *step {
            Step::Send { to, .. } => {
                let in_flight = self.pairs.get(&(rank, to)).map_or(0, |pair| pair.in_flight.len());
                (in_flight >= self.credits).then_some(Wait::Credit { to })
            }
            Step::Recv { from, .. } => {
                // A second message of a peer is not here while the first is held; the ledger says so.
                let pair = self.pairs.get(&(from, rank));
                pair.is_none_or(|pair| pair.in_flight.is_empty()).then_some(Wait::Message { from })
            }
            Step::WaitSends { count } if self.completes_late => {
                let sends = self.ranks[rank.index()].sends.iter().take(count);
                let is_open = |(to, number): &&(Rank, usize)| self.pairs[&(rank, *to)].received() <= *number;
                sends.clone().find(is_open).map(|&(to, _)| Wait::Completion { to })
            }
            _ => None,
        }
    }

    fn perform(&mut self, rank: Rank, step: &Step) -> Result<(), Problem> {
        match *step {
            Step::Send { to, span } => {
                let elements = self.read(rank, span)?;
                let letter = Letter { elements, heard: self.ranks[rank.index()].heard.clone() };
                let pair = self.pairs.entry((rank, to)).or_default();
                pair.in_flight.push_back(letter);
                pair.posted += 1;
                self.ranks[rank.index()].sends.push((to, pair.posted - 1));
            }
            Step::Recv { from, len } => {
                let pair = self.pairs.entry((from, rank)).or_default();
                let Some(letter) = pair.in_flight.front() else { return Err(Problem::NotHeld { from }) };
                let sent = letter.elements.len();
                if sent != len {
                    return Err(Problem::MessageLen { from, expected: len, sent });
                }
                self.ranks[rank.index()].heard.extend(&letter.heard);
                pair.is_held = true;
            }
            Step::Reduce { into, left, right, completes } => {
                let (left, right) = (self.operand(rank, left)?, self.operand(rank, right)?);
                let operands = left.into_iter().zip(right);
                let reduced = operands.map(|(left, right)| self.expressions.reduce(left, right));
                let reduced = reduced.collect::<Result<Vec<_>, _>>()?;
                for &value in &reduced {
                    self.expressions.check_completion(value, completes)?;
                }
                self.write(rank, into, reduced);
            }
            Step::Copy { into, source } => {
                let copied = self.operand(rank, source)?;
                self.write(rank, into, copied);
            }
            Step::Release { from } => {
                let pair = self.pairs.entry((from, rank)).or_default();
                pair.in_flight.pop_front();
                pair.is_held = false;
            }
            Step::WaitSends { .. } => {}
        }
        Ok(())
    }

    fn operand(&mut self, rank: Rank, operand: Operand) -> Result<Vec<Expression>, Problem> {
        match operand {
            Operand::Span(span) => self.read(rank, span),
            Operand::Slot(from) => {
                let held = self.pairs.get(&(from, rank)).filter(|pair| pair.is_held);
                let letter = held.and_then(|pair| pair.in_flight.front());
                letter.map(|letter| letter.elements.clone()).ok_or(Problem::NotHeld { from })
            }
        }
    }

    fn read(&mut self, rank: Rank, span: Span) -> Result<Vec<Expression>, Problem> {
        let state = &mut self.ranks[rank.index()];
        let elements = state.memory.of(&state.placement, span).iter().zip(span.start..);
        let written = |(value, element): (&Option<Expression>, usize)| {
            value.ok_or(Problem::ReadsUnwritten { buffer: span.buffer, element })
        };
        elements.map(written).collect()
    }

    fn write(&mut self, rank: Rank, into: Span, values: Vec<Expression>) {
        let state = &mut self.ranks[rank.index()];
        let places = state.memory.of(&state.placement, into);
        for (place, value) in places.iter_mut().zip(values) {
            *place = Some(value);
        }
    }

    fn check_end(&mut self) -> Result<(), Fault> {
        for rank in (0..self.schedule.world_size()).map(Rank) {
            let state = &self.ranks[rank.index()];
            state.ledger.finish().map_err(|problem| self.fault(rank, problem))?;
            self.check_output(rank).map_err(|problem| self.fault(rank, problem))?;
        }
        let unreceived = self.pairs.iter().filter(|(_, pair)| !pair.in_flight.is_empty());
        match unreceived.min_by_key(|(pair, _)| **pair) {
            Some((&(from, to), pair)) => {
                Err(self.fault(to, Problem::NotReceived { from, messages: pair.in_flight.len() }))
            }
            None => Ok(()),
        }
    }

    fn check_output(&mut self, rank: Rank) -> Result<(), Problem> {
        let (collective, count) = (self.schedule.collective(), self.schedule.count());
        let Placement { output_at, output_len, .. } = self.ranks[rank.index()].placement;
        let whole = Span::output(0, output_len);
        let output = self.read(rank, whole)?;
        for (&value, element) in output.iter().zip(output_at..) {
            self.expressions.check_contributors(value, element, collective.contributors(element, count))?;
        }
        match collective {
            Collective::AllReduce => {
                let first = self.read(Rank(0), whole)?;
                let other = output.iter().zip(first).position(|(&value, first)| value != first);
                other.map_or(Ok(()), |element| Err(Problem::Order { element, other: Rank(0) }))
            }
            Collective::Barrier => {
                let heard = &self.ranks[rank.index()].heard;
                let unheard = (0..self.schedule.world_size()).map(Rank).find(|other| !heard.contains(other));
                unheard.map_or(Ok(()), |other| Err(Problem::Unheard { other }))
            }
            _ => Ok(()),
        }
    }

    fn fault(&self, rank: Rank, problem: Problem) -> Fault {
        Fault { rank, step: self.ranks[rank.index()].step, problem }
    }
}

/// How far a rank came.
enum Progress {
    Moved,
    Stuck(Wait),
    Done,
}
