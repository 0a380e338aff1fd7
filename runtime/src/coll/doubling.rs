//! All-reduce by recursive doubling.
//!
//! With a power of two of ranks, in round k each rank exchanges what it has with the rank whose number differs in bit k,
//! and both reduce: after log2 n rounds all have all. With other numbers the first ranks of even number give their
//! vector to their successor before, and get the result after. Operands stay in order of ranks, as what two partners
//! have comes from neighbouring ranges: so the results agree in every bit, though every rank computes its own.
//!
//! # Cost
//! log2 n rounds, rounded down, and two more where n is no power of two; in each the whole vector goes both ways. So it
//! is for short vectors. Between two ranks it is one exchange, and no other algorithm sends less or takes fewer steps.
//!
//! # Pipelining
//! A round is cut into segments: a window of them leaves before the first is awaited, so that a segment is reduced while
//! others are on their way in both directions.

use efarun_wire::Rank;

use super::pace::{exchange, steps_of};
use super::schedule::{Operand, Schedule, Span, Step, Steps};
use super::shape::Shape;

/// All-reduce by recursive doubling. The module's page has its steps and bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubling {
    shape: Shape,
    /// The largest power of two that is not above the world size: so many ranks take part in the rounds.
    active: u32,
}

/// What a rank does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Gives its vector to this rank and gets the result from it.
    Passive { active: Rank },
    /// Takes part in the rounds by this number, for another rank too.
    Active { number: u32, passive: Option<Rank> },
}

impl Doubling {
    /// Makes the schedule.
    ///
    /// # Panics
    ///
    /// When world size, segment length or credits are 0.
    pub fn new(shape: Shape) -> Self {
        shape.check();
        Doubling { active: 1 << shape.world_size.ilog2(), shape }
    }

    fn part(&self, rank: Rank) -> Part {
        let passive = self.shape.world_size - self.active;
        match rank.0 {
            number if number >= 2 * passive => Part::Active { number: number - passive, passive: None },
            number if number % 2 == 0 => Part::Passive { active: Rank(number + 1) },
            number => Part::Active { number: number / 2, passive: Some(Rank(number - 1)) },
        }
    }

    /// The rank that takes part by this number.
    fn rank_of(&self, number: u32) -> Rank {
        let passive = self.shape.world_size - self.active;
        Rank(if number < passive { 2 * number + 1 } else { number + passive })
    }

    fn partners(&self, number: u32) -> impl Iterator<Item = Rank> + use<'_> {
        (0..self.active.ilog2()).map(move |round| self.rank_of(number ^ (1 << round)))
    }

    fn peers(&self, rank: Rank) -> Vec<Rank> {
        if !self.shape.has_messages() {
            return Vec::new();
        }
        match self.part(rank) {
            Part::Passive { active } => vec![active],
            Part::Active { number, passive } => passive.into_iter().chain(self.partners(number)).collect(),
        }
    }

    fn active_steps(
        &self,
        number: u32,
        passive: Option<Rank>,
    ) -> impl Iterator<Item = Step> + Send + use<'_> {
        let segments = self.shape.whole();
        let count = segments.count();
        let rounds = self.active.ilog2();
        let gift = move |from| {
            (0..count).flat_map(move |segment| {
                let (start, len) = segments.get(segment);
                let (left, right) = (Operand::Slot(from), Operand::Span(Span::input(start, len)));
                let into = Span::output(start, len);
                Step::take(from, len, Step::Reduce { into, left, right, completes: false })
            })
        };
        let round = move |round: u32| {
            let peer = self.rank_of(number ^ (1 << round));
            let is_first = round == 0 && passive.is_none();
            let own = move |segment| {
                let (start, len) = segments.get(segment);
                if is_first { Span::input(start, len) } else { Span::output(start, len) }
            };
            let is_above = number >> round & 1 == 1;
            let completes = round + 1 == rounds;
            let send = move |segment| Step::Send { to: peer, span: own(segment) };
            let receive = move |segment| {
                let (start, len) = segments.get(segment);
                let (slot, own) = (Operand::Slot(peer), Operand::Span(own(segment)));
                let (left, right) = if is_above { (slot, own) } else { (own, slot) };
                let into = Span::output(start, len);
                Step::take(peer, len, Step::Reduce { into, left, right, completes })
            };
            exchange(self.shape.window(), count, count, None, send, receive)
        };
        let result = move |to| {
            (0..count).map(move |segment| {
                let (start, len) = segments.get(segment);
                Step::Send { to, span: Span::output(start, len) }
            })
        };
        let gifts = passive.into_iter().flat_map(gift);
        let results = passive.into_iter().flat_map(result);
        gifts.chain((0..rounds).flat_map(round)).chain(results)
    }

    fn passive_steps(&self, active: Rank) -> impl Iterator<Item = Step> + Send + use<> {
        let segments = self.shape.whole();
        let give = move |segment| {
            let (start, len) = segments.get(segment);
            Step::Send { to: active, span: Span::input(start, len) }
        };
        let take = move |segment| {
            let (start, len) = segments.get(segment);
            Step::take_to(Span::output(start, len), active)
        };
        (0..segments.count()).map(give).chain((0..segments.count()).flat_map(take))
    }
}

impl Schedule for Doubling {
    fn name(&self) -> &'static str {
        "doubling"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        match self.part(rank) {
            Part::Passive { active } => steps_of(self, rank, || self.passive_steps(active)),
            Part::Active { number, passive } => steps_of(self, rank, || self.active_steps(number, passive)),
        }
    }

    fn max_open_sends(&self, _rank: Rank) -> usize {
        self.shape.max_open_sends()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        self.peers(rank)
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        self.peers(rank)
    }
}
