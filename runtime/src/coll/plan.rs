//! A schedule made ready to run on one rank.
//!
//! A [`Plan`] is what a World keeps between calls. Making one takes the rank's steps through the `ledger` once; where
//! there are not too many it keeps them, and running them needs neither the generator nor the ledger again: the same
//! steps keep the same rules. Longer lists are made and checked anew in every run, in memory that does not grow with them;
//! a step of theirs moves so much that its check, some 10 ns, does not show.

use efarun_wire::Rank;

use super::fault::{Fault, Problem};
use super::ledger::Ledger;
use super::schedule::{Placement, Schedule, Step};

/// A schedule made ready to run on one rank.
#[derive(Debug)]
pub struct Plan<'s> {
    schedule: Box<dyn Schedule + 's>,
    rank: Rank,
    placement: Placement,
    receives_from: Vec<Rank>,
    sends_to: Vec<Rank>,
    max_open_sends: usize,
    step_count: usize,
    kept: Option<Vec<Step>>,
}

impl<'s> Plan<'s> {
    /// Makes a rank's plan, and keeps its steps if they are few.
    ///
    /// # Errors
    ///
    /// The first [`Fault`] of the rank's steps.
    pub fn new(schedule: Box<dyn Schedule + 's>, rank: Rank) -> Result<Self, Fault> {
        Plan::with_room(schedule, rank, MAX_KEPT_STEPS)
    }

    /// As [`Plan::new`], and keeps at most so many steps.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`].
    pub(super) fn with_room(
        schedule: Box<dyn Schedule + 's>,
        rank: Rank,
        max_kept: usize,
    ) -> Result<Self, Fault> {
        if rank.0 >= schedule.world_size() {
            return Err(Fault { rank, step: 0, problem: Problem::NotAPeer { peer: rank } });
        }
        let mut ledger = Ledger::default();
        ledger.start(&*schedule, rank);
        let mut kept = Some(Vec::new());
        let mut step_count = 0;
        for step in schedule.steps(rank) {
            ledger.enter(&step).map_err(|problem| Fault { rank, step: step_count, problem })?;
            step_count += 1;
            kept = kept.filter(|_| step_count <= max_kept);
            kept.iter_mut().for_each(|kept| kept.push(step));
        }
        ledger.finish().map_err(|problem| Fault { rank, step: step_count, problem })?;
        Ok(Plan {
            rank,
            placement: *ledger.placement(),
            receives_from: ledger.receives_from().to_vec(),
            sends_to: ledger.sends_to().to_vec(),
            max_open_sends: ledger.max_open_sends(),
            step_count,
            kept,
            schedule,
        })
    }

    /// The schedule.
    pub fn schedule(&self) -> &(dyn Schedule + 's) {
        &*self.schedule
    }

    /// The rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// How many steps the rank has.
    pub fn step_count(&self) -> usize {
        self.step_count
    }

    /// The steps, where they were kept. They are what the ledger has seen.
    pub(super) fn kept(&self) -> Option<&[Step]> {
        self.kept.as_deref()
    }

    pub(super) fn placement(&self) -> &Placement {
        &self.placement
    }

    pub(super) fn receives_from(&self) -> &[Rank] {
        &self.receives_from
    }

    pub(super) fn sends_to(&self) -> &[Rank] {
        &self.sends_to
    }

    pub(super) fn max_open_sends(&self) -> usize {
        self.max_open_sends
    }
}

/// 200 KiB of steps at most: an exchange of 100 MiB between two ranks.
const MAX_KEPT_STEPS: usize = 2048;
