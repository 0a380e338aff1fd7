//! Schedules made by hand, and schedules with a step missing.

use efarun_wire::Rank;

use crate::coll::collective::Collective;
use crate::coll::schedule::{Schedule, Step, Steps};
use crate::coll::shape::Shape;

/// A schedule that is a list of steps per rank. Every rank may talk to every other.
#[derive(Debug)]
pub(super) struct Scripted {
    shape: Shape,
    steps: Vec<Vec<Step>>,
}

impl Scripted {
    /// An all_reduce.
    pub(super) fn new(steps: Vec<Vec<Step>>, count: usize) -> Self {
        Scripted::of(Collective::AllReduce, steps, count)
    }

    pub(super) fn of(collective: Collective, steps: Vec<Vec<Step>>, count: usize) -> Self {
        let shape =
            Shape { collective, world_size: steps.len() as u32, count, segment_len: count, credits: 1 };
        Scripted { shape, steps }
    }
}

impl Schedule for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn scratch_len(&self, _rank: Rank) -> usize {
        self.shape.count
    }

    fn accumulator_len(&self, _rank: Rank) -> usize {
        self.shape.count
    }

    fn steps(&self, rank: Rank) -> Steps<'_> {
        Box::new(self.steps[rank.index()].iter().copied())
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        self.steps[rank.index()].len()
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        (0..self.world_size()).map(Rank).filter(|&peer| peer != rank).collect()
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        self.receives_from(rank)
    }
}

/// A schedule without one step of one rank.
#[derive(Debug)]
pub(super) struct Without<'s> {
    pub(super) inner: &'s dyn Schedule,
    pub(super) rank: Rank,
    pub(super) index: usize,
}

impl Schedule for Without<'_> {
    fn steps(&self, rank: Rank) -> Steps<'_> {
        let missing = (rank == self.rank).then_some(self.index);
        let steps = self.inner.steps(rank).enumerate();
        Box::new(steps.filter(move |(index, _)| Some(*index) != missing).map(|(_, step)| step))
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn shape(&self) -> &Shape {
        self.inner.shape()
    }

    fn scratch_len(&self, rank: Rank) -> usize {
        self.inner.scratch_len(rank)
    }

    fn accumulator_len(&self, rank: Rank) -> usize {
        self.inner.accumulator_len(rank)
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        self.inner.max_open_sends(rank)
    }

    fn receives_from(&self, rank: Rank) -> Vec<Rank> {
        self.inner.receives_from(rank)
    }

    fn sends_to(&self, rank: Rank) -> Vec<Rank> {
        self.inner.sends_to(rank)
    }
}
