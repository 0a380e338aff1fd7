//! Every order of delivery, in small worlds.
//!
//! The checker proves a schedule in one order of events and argues that it stands for all; this tries all. An explorer
//! takes a world from state to state: a rank does its next step, the network delivers a message, of those that are on
//! their way any, or it completes a send, at the moment that it likes. A state that was seen is not gone on from again.
//!
//! Steps that no other event can hinder, and that hinder none, are done at once: their order makes no difference. These
//! are all but writes to what the network may still read. So every order of deliveries and completions is tried, and of
//! such writes among them.
//!
//! An element is a number with a digit per rank, so that a sum tells whose inputs are in it, and how often.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use efarun_wire::Rank;

use super::scripted::Without;
use super::world::{all_algorithms, built};
use crate::coll::collective::{Collective, Contributors};
use crate::coll::schedule::{Buffer, Operand, Placement, Schedule, Span, Step};
use crate::coll::select::Algorithm;

/// What the network may do besides delivering in any order.
#[derive(Debug, Clone, Copy)]
struct Network {
    credits: usize,
    /// Whether a send completes only when its receiver has taken the message, or any time later; else as soon as the
    /// message was delivered.
    completes_late: bool,
}

/// What is the same in all states.
struct World<'s> {
    schedule: &'s dyn Schedule,
    network: Network,
    is_in_place: bool,
    steps: Vec<Vec<Step>>,
    placements: Vec<Placement>,
}

#[derive(Clone, Hash)]
struct State {
    ranks: Vec<RankState>,
    /// From one rank to another, by number.
    letters: Vec<Vec<Letter>>,
}

#[derive(Clone, Hash)]
struct RankState {
    step: usize,
    /// Whom the rank's sends were for, and their numbers there.
    sends: Vec<(Rank, usize)>,
    /// Input and output, in place both in one; scratch; accumulator.
    memory: [Vec<u64>; 4],
    /// Messages taken and released, by sender.
    taken: Vec<usize>,
    released: Vec<usize>,
}

#[derive(Clone, Hash)]
struct Letter {
    span: Span,
    /// What was posted.
    payload: Vec<u64>,
    is_delivered: bool,
    is_complete: bool,
}

/// What is wrong with a schedule.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Nobody can go on.
    Deadlock,
    /// The network found something else in a span than was posted.
    Overwritten { by: Rank },
    /// A rank ended with another result than the collective's.
    Result { rank: Rank },
}

impl<'s> World<'s> {
    fn new(schedule: &'s dyn Schedule, network: Network, is_in_place: bool) -> Self {
        let ranks = || (0..schedule.world_size()).map(Rank);
        World {
            schedule,
            network,
            is_in_place,
            steps: ranks().map(|rank| schedule.steps(rank).collect()).collect(),
            placements: ranks().map(|rank| Placement::of(schedule, rank)).collect(),
        }
    }

    /// Tries all orders; gives the number of states.
    fn explore(&self) -> Result<usize, Wrong> {
        let mut seen = HashSet::new();
        let mut open = vec![self.start()];
        while let Some(state) = open.pop() {
            assert!(seen.len() < MAX_STATES, "{:?} has more than {MAX_STATES} states", self.schedule);
            let next = self.next(&state)?;
            if next.is_empty() {
                self.check_end(&state)?;
            }
            open.extend(next.into_iter().filter(|state| seen.insert(fingerprint(state))));
        }
        Ok(seen.len())
    }

    fn start(&self) -> State {
        let world_size = self.schedule.world_size() as usize;
        let (collective, count) = (self.schedule.collective(), self.schedule.count());
        let rank_state = |rank: Rank| {
            let placement = &self.placements[rank.index()];
            let input: Vec<u64> = (0..placement.input_len).map(|_| digit(rank)).collect();
            let (scratch, accumulator) =
                (vec![RUBBISH; placement.scratch_len], vec![RUBBISH; placement.accumulator_len]);
            let memory = if self.is_in_place {
                let mut vector = vec![RUBBISH; collective.vector_len(world_size as u32, count)];
                vector[placement.input_at..][..placement.input_len].copy_from_slice(&input);
                [vector, Vec::new(), scratch, accumulator]
            } else {
                [input, vec![RUBBISH; placement.output_len], scratch, accumulator]
            };
            let none = vec![0; world_size];
            RankState { step: 0, sends: Vec::new(), memory, taken: none.clone(), released: none }
        };
        State {
            ranks: (0..world_size as u32).map(|rank| rank_state(Rank(rank))).collect(),
            letters: vec![Vec::new(); world_size * world_size],
        }
    }

    /// The states that follow: one, where a step can be done that hinders nothing; else one for each event.
    fn next(&self, state: &State) -> Result<Vec<State>, Wrong> {
        let ranks = || (0..self.schedule.world_size()).map(Rank);
        let mut writers = Vec::new();
        for rank in ranks() {
            match self.step_of(state, rank) {
                Some(Step::Reduce { into, .. } | Step::Copy { into, .. })
                    if self.is_being_sent(state, rank, into) =>
                {
                    writers.push(rank);
                }
                Some(step) if self.can(state, rank, step) => return Ok(vec![self.done(state, rank, step)]),
                _ => {}
            }
        }
        let mut next = Vec::new();
        for rank in writers {
            let step = self.step_of(state, rank).expect("a writer has a step");
            next.push(self.done(state, rank, step));
        }
        for (from, to) in ranks().flat_map(|from| ranks().map(move |to| (from, to))) {
            let pair = self.pair(from, to);
            for (number, letter) in state.letters[pair].iter().enumerate() {
                let is_taken = number < state.ranks[to.index()].taken[from.index()];
                if letter.is_complete || (letter.is_delivered && !is_taken) {
                    continue;
                }
                // The network reads what it was given until the send is complete.
                if self.at(&state.ranks[from.index()].memory, from, letter.span) != letter.payload {
                    return Err(Wrong::Overwritten { by: from });
                }
                let mut state = state.clone();
                let letter = &mut state.letters[pair][number];
                letter.is_complete = letter.is_delivered || !self.network.completes_late;
                letter.is_delivered = true;
                next.push(state);
            }
        }
        Ok(next)
    }

    fn step_of(&self, state: &State, rank: Rank) -> Option<Step> {
        self.steps[rank.index()].get(state.ranks[rank.index()].step).copied()
    }

    /// Whether the network may still read some of a span.
    fn is_being_sent(&self, state: &State, rank: Rank, span: Span) -> bool {
        let (buffer, start) = self.place(rank, span);
        let overlaps = |letter: &&Letter| {
            let (other, other_start) = self.place(rank, letter.span);
            other == buffer && start < other_start + letter.span.len && other_start < start + span.len
        };
        let receivers = (0..self.schedule.world_size()).map(Rank);
        let mut letters = receivers.flat_map(|to| &state.letters[self.pair(rank, to)]);
        letters.any(|letter| !letter.is_complete && overlaps(&letter))
    }

    fn pair(&self, from: Rank, to: Rank) -> usize {
        from.index() * self.schedule.world_size() as usize + to.index()
    }

    fn can(&self, state: &State, rank: Rank, step: Step) -> bool {
        let me = &state.ranks[rank.index()];
        match step {
            Step::Send { to, .. } => {
                let sent = state.letters[self.pair(rank, to)].len();
                sent - state.ranks[to.index()].released[rank.index()] < self.network.credits
            }
            Step::WaitSends { count } => me.sends[..count]
                .iter()
                .all(|&(to, number)| state.letters[self.pair(rank, to)][number].is_complete),
            Step::Recv { from, .. } => {
                let next = state.letters[self.pair(from, rank)].get(me.taken[from.index()]);
                next.is_some_and(|letter| letter.is_delivered)
            }
            Step::Reduce { .. } | Step::Copy { .. } | Step::Release { .. } => true,
        }
    }

    fn done(&self, state: &State, rank: Rank, step: Step) -> State {
        let mut state = state.clone();
        let me = &mut state.ranks[rank.index()];
        me.step += 1;
        match step {
            Step::Send { to, span } => {
                let payload = self.at(&me.memory, rank, span).to_vec();
                let letters = &mut state.letters[self.pair(rank, to)];
                me.sends.push((to, letters.len()));
                letters.push(Letter { span, payload, is_delivered: false, is_complete: false });
            }
            Step::WaitSends { .. } => {}
            Step::Recv { from, .. } => me.taken[from.index()] += 1,
            Step::Release { from } => me.released[from.index()] += 1,
            Step::Reduce { into, left, right, .. } => {
                let [left, right] = [left, right].map(|operand| self.read(&state, rank, operand));
                let sums = left.iter().zip(right).map(|(left, right)| left.wrapping_add(right)).collect();
                self.write(&mut state.ranks[rank.index()].memory, rank, into, sums);
            }
            Step::Copy { into, source } => {
                let copy = self.read(&state, rank, source);
                self.write(&mut state.ranks[rank.index()].memory, rank, into, copy);
            }
        }
        state
    }

    fn read(&self, state: &State, rank: Rank, operand: Operand) -> Vec<u64> {
        let me = &state.ranks[rank.index()];
        match operand {
            Operand::Span(span) => self.at(&me.memory, rank, span).to_vec(),
            // What was released is gone.
            Operand::Slot(from) if me.taken[from.index()] == me.released[from.index()] => Vec::new(),
            Operand::Slot(from) => {
                state.letters[self.pair(from, rank)][me.taken[from.index()] - 1].payload.clone()
            }
        }
    }

    fn place(&self, rank: Rank, span: Span) -> (usize, usize) {
        let placement = &self.placements[rank.index()];
        match (span.buffer, self.is_in_place) {
            (Buffer::Input, true) => (0, placement.input_at + span.start),
            (Buffer::Output, true) => (0, placement.output_at + span.start),
            (Buffer::Input, false) => (0, span.start),
            (Buffer::Output, false) => (1, span.start),
            (Buffer::Scratch, _) => (2, span.start),
            (Buffer::Accumulator, _) => (3, span.start),
        }
    }

    fn at<'m>(&self, memory: &'m [Vec<u64>; 4], rank: Rank, span: Span) -> &'m [u64] {
        let (buffer, start) = self.place(rank, span);
        &memory[buffer][start..start + span.len]
    }

    fn write(&self, memory: &mut [Vec<u64>; 4], rank: Rank, span: Span, elements: Vec<u64>) {
        let (buffer, start) = self.place(rank, span);
        memory[buffer][start..start + elements.len()].copy_from_slice(&elements);
    }

    fn check_end(&self, state: &State) -> Result<(), Wrong> {
        let (collective, world_size, count) =
            (self.schedule.collective(), self.schedule.world_size(), self.schedule.count());
        for rank in (0..world_size).map(Rank) {
            if self.step_of(state, rank).is_some() {
                return Err(Wrong::Deadlock);
            }
            let output = collective.output(rank, world_size, count);
            let span = Span::output(0, output.len());
            let expected = output.map(|element| match collective.contributors(element, count) {
                Contributors::Only(rank) => digit(rank),
                Contributors::All => (0..world_size).map(|rank| digit(Rank(rank))).sum(),
            });
            if !self.at(&state.ranks[rank.index()].memory, rank, span).iter().copied().eq(expected) {
                return Err(Wrong::Result { rank });
            }
        }
        Ok(())
    }
}

/// A rank's input: a digit of its own.
fn digit(rank: Rank) -> u64 {
    1 << (8 * rank.0)
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn messages(schedule: &dyn Schedule) -> usize {
    let steps = (0..schedule.world_size()).flat_map(|rank| schedule.steps(Rank(rank)));
    steps.filter(|step| matches!(step, Step::Send { .. })).count()
}

/// Each more multiplies the states by about three. The rest is for the checker, and for the double with chance.
pub(super) const MAX_MESSAGES: usize = 8;
/// What was not written.
const RUBBISH: u64 = 0xBAD0_0000_0000_0000;
/// More than a test has time for.
const MAX_STATES: usize = 2_000_000;

/// Tries all orders of a schedule on all networks; gives the number of states.
pub(super) fn explore(schedule: &dyn Schedule, credits: usize) -> Result<usize, Wrong> {
    let mut states = 0;
    for is_in_place in [false, true] {
        for completes_late in [false, true] {
            states += World::new(schedule, Network { credits, completes_late }, is_in_place).explore()?;
        }
    }
    Ok(states)
}

/// World size, elements, elements of a segment. Schedules of more messages than can be tried are left out.
fn explore_all(shapes: &[(u32, usize, usize)]) {
    for &(world_size, count, segment_len) in shapes {
        let mut states = 0;
        for algorithm in all_algorithms(world_size) {
            for credits in [1, 2] {
                let schedule = built(algorithm, world_size, count, segment_len, credits);
                if world_size > 2 && messages(&*schedule) > MAX_MESSAGES {
                    continue;
                }
                let explored = explore(&*schedule, credits);
                assert!(explored.is_ok(), "{schedule:?} with {credits} credits: {explored:?}");
                states += explored.unwrap_or_default();
            }
        }
        println!("{states} states of {world_size} ranks, {count} elements by {segment_len}");
    }
}

#[test]
fn every_order_of_delivery_gives_the_result_in_small_worlds() {
    explore_all(&[(2, 1, 1), (2, 4, 2), (2, 3, 1), (3, 1, 1), (3, 2, 1), (4, 1, 1)]);
}

#[test]
fn a_write_to_what_is_being_sent_is_found_in_the_one_order_that_shows_it() {
    let (world_size, count, credits) = (2, 4, 2);
    let schedule = built((Collective::AllReduce, Algorithm::Doubling), world_size, count, 1, credits);
    let waits =
        schedule.steps(Rank(0)).enumerate().filter(|(_, step)| matches!(step, Step::WaitSends { .. }));
    let waits: Vec<usize> = waits.map(|(index, _)| index).collect();
    assert!(waits.len() > 1, "it waits in between");
    for &index in &waits[..waits.len() - 1] {
        let broken = Without { inner: &*schedule, rank: Rank(0), index };
        let network = Network { credits, completes_late: true };
        // Out of place nothing is overwritten. In place the results are written over what is sent.
        assert!(World::new(&broken, network, false).explore().is_ok());
        assert_eq!(
            World::new(&broken, network, true).explore(),
            Err(Wrong::Overwritten { by: Rank(0) }),
            "without step {index}"
        );
    }
}

#[test]
fn a_schedule_with_fewer_credits_than_it_was_made_for_is_found_to_stand_still() {
    let ring = built((Collective::AllReduce, Algorithm::Ring), 4, 16, 1, 4);
    let network = Network { credits: 1, completes_late: true };
    assert_eq!(World::new(&*ring, network, false).explore(), Err(Wrong::Deadlock));
}

#[test]
fn a_missing_reduction_is_found_in_the_result() {
    let schedule = built((Collective::AllReduce, Algorithm::Doubling), 2, 1, 1, 2);
    for rank in [Rank(0), Rank(1)] {
        let reduces = schedule.steps(rank).position(|step| matches!(step, Step::Reduce { .. }));
        let broken = Without { inner: &*schedule, rank, index: reduces.expect("both reduce") };
        assert_eq!(explore(&broken, 2), Err(Wrong::Result { rank }));
    }
}
