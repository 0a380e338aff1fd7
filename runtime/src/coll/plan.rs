//! A schedule made ready to run on one rank.
//!
//! A [`Plan`] is what a World keeps between calls. Making one takes the rank's steps through the `ledger` once; where
//! there are not too many it keeps them, and running them needs neither the generator nor the ledger again: the same
//! steps keep the same rules. Longer lists are made and checked anew in every run, in memory that does not grow with them;
//! a step of theirs moves so much that its check, some 10 ns, does not show.

use std::ops::Range;

use efarun_wire::Rank;

use super::collective::Collective;
use super::fault::{Fault, Problem};
use super::hierarchy::stage::Stage;
use super::hierarchy::{Hierarchy, once_each};
use super::leaf::Leaf;
use super::ledger::Ledger;
use super::schedule::{Placement, Schedule, Span, Step};

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
    longest_message: usize,
    kept: Option<Vec<Step>>,
    taken_over: Vec<TakenOver>,
}

/// A stage of a hierarchy that is not done by messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenOver {
    /// What takes its place, among the ranks of this one's node.
    pub(crate) leaf: Leaf,
    /// What it does, by their numbers on the node.
    pub(crate) collective: Collective,
    /// Its input and output in the buffers of the whole.
    pub(crate) input: Span,
    pub(crate) output: Span,
    /// The steps in whose place it is done, and how many of them are sends.
    pub(super) steps: Range<usize>,
    pub(super) sends: usize,
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
        let (mut step_count, mut longest_message) = (0, 0);
        for step in schedule.steps(rank) {
            ledger.enter(&step).map_err(|problem| Fault { rank, step: step_count, problem })?;
            step_count += 1;
            if let Step::Send { span: Span { len, .. }, .. } | Step::Recv { len, .. } = step {
                longest_message = longest_message.max(len);
            }
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
            longest_message,
            kept,
            taken_over: Vec::new(),
            schedule,
        })
    }

    /// Makes a rank's plan of a hierarchy in which leaves take over what is done within the node. On a node with one rank there
    /// is nothing to take over.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`].
    ///
    /// # Panics
    ///
    /// When a stage within the node is of an algorithm that has no leaf.
    pub fn with_leaves(hierarchy: Hierarchy, rank: Rank, element_bytes: usize) -> Result<Self, Fault> {
        let (mut taken_over, mut receives_from, mut sends_to) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for (stage, (steps, sends)) in hierarchy.stages(rank).zip(hierarchy.stage_lens(rank)) {
            if stage.is_local && stage.schedule.world_size() > 1 {
                taken_over.push(TakenOver::of(&stage, start..start + steps, sends, element_bytes));
            } else {
                receives_from.extend(stage.receives_from());
                sends_to.extend(stage.sends_to());
            }
            start += steps;
        }
        let plan = Plan::new(Box::new(hierarchy), rank)?;
        let (receives_from, sends_to) = [receives_from, sends_to].map(|it| once_each(it.into_iter())).into();
        Ok(Plan { taken_over, receives_from, sends_to, ..plan })
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

    /// The most elements of a message that the rank sends or receives.
    pub(super) fn longest_message(&self) -> usize {
        self.longest_message
    }

    /// The steps, where they were kept. They are what the ledger has seen.
    pub(super) fn kept(&self) -> Option<&[Step]> {
        self.kept.as_deref()
    }

    /// What leaves do in the place of some steps, in order of these.
    pub(super) fn taken_over(&self) -> &[TakenOver] {
        &self.taken_over
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

impl TakenOver {
    fn of(stage: &Stage<'_>, steps: Range<usize>, sends: usize, element_bytes: usize) -> Self {
        let (schedule, collective) = (stage.schedule, stage.collective());
        let size = schedule.world_size();
        let len_bytes = collective.vector_len(size, schedule.count()).saturating_mul(element_bytes);
        let leaf = Leaf::of_name(schedule.name(), collective, size, len_bytes);
        let (input, output) = stage.spans();
        TakenOver {
            leaf: leaf.expect("what is done within nodes has a leaf"),
            collective,
            input,
            output,
            steps,
            sends,
        }
    }
}

/// 200 KiB of steps at most: an exchange of 100 MiB between two ranks.
const MAX_KEPT_STEPS: usize = 2048;
