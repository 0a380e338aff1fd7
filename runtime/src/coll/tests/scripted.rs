//! Schedules made by hand, and schedules with a step missing.

use efarun_wire::Rank;

use crate::coll::schedule::{Schedule, Step};

/// A schedule that is a list of steps per rank. Every rank may talk to every other.
#[derive(Debug)]
pub(super) struct Scripted {
    steps: Vec<Vec<Step>>,
    count: usize,
}

impl Scripted {
    pub(super) fn new(steps: Vec<Vec<Step>>, count: usize) -> Self {
        Scripted { steps, count }
    }
}

impl Schedule for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn world_size(&self) -> u32 {
        self.steps.len() as u32
    }

    fn count(&self) -> usize {
        self.count
    }

    fn segment_len(&self) -> usize {
        self.count
    }

    fn step_count(&self, rank: Rank) -> usize {
        self.steps[rank.index()].len()
    }

    fn step(&self, rank: Rank, index: usize) -> Step {
        self.steps[rank.index()][index]
    }

    fn max_open_sends(&self, rank: Rank) -> usize {
        self.step_count(rank)
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
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn world_size(&self) -> u32 {
        self.inner.world_size()
    }

    fn count(&self) -> usize {
        self.inner.count()
    }

    fn segment_len(&self) -> usize {
        self.inner.segment_len()
    }

    fn step_count(&self, rank: Rank) -> usize {
        self.inner.step_count(rank) - usize::from(rank == self.rank)
    }

    fn step(&self, rank: Rank, index: usize) -> Step {
        let is_after = rank == self.rank && index >= self.index;
        self.inner.step(rank, index + usize::from(is_after))
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
