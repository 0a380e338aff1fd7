//! The plans of a World's recent calls.
//!
//! A program calls the same few collectives again and again. Their plans are kept, so that a repeated call neither
//! chooses nor builds nor checks anything: it finds its plan by comparing a few numbers.

use efarun_wire::Rank;

use super::setup::Limits;
use crate::coll::collective::Collective;
use crate::coll::fault::Fault;
use crate::coll::plan::Plan;
use crate::coll::select::{self, Choice, MessageLimits, NoSuchAlgorithm};
use crate::coll::shape::Shape;
use crate::coll::sim::Model;

/// What a plan depends on, within one World.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) collective: Collective,
    pub(super) choice: Choice,
    /// Elements, as the collective counts them.
    pub(super) count: usize,
    pub(super) element_bytes: usize,
}

/// The plans of recent calls, the last used first.
#[derive(Debug, Default)]
pub(super) struct Plans {
    kept: Vec<(Key, Plan<'static>)>,
}

impl Plans {
    /// The plan for a call, made if it is not among those kept.
    ///
    /// # Errors
    ///
    /// When the collective does not have the algorithm that was chosen; within, when its schedule is wrong.
    pub(super) fn plan(
        &mut self,
        key: Key,
        rank: Rank,
        world_size: u32,
        limits: Limits,
        model: &Model,
    ) -> Result<Result<&Plan<'static>, Fault>, NoSuchAlgorithm> {
        match self.kept.iter().position(|(kept, _)| *kept == key) {
            Some(0) => {}
            Some(found) => self.kept[..=found].rotate_right(1),
            None => match make(key, rank, world_size, limits, model)? {
                Ok(plan) => {
                    self.kept.truncate(MAX_KEPT - 1);
                    self.kept.insert(0, (key, plan));
                }
                Err(fault) => return Ok(Err(fault)),
            },
        }
        Ok(Ok(&self.kept[0].1))
    }

    /// Refuses an algorithm that the collective does not have, where no plan is needed.
    pub(super) fn check(choice: Choice, collective: Collective) -> Result<(), NoSuchAlgorithm> {
        let none = MessageLimits { slot_bytes: 1, min_segment_bytes: 1, min_exchange_bytes: 1, credits: 1 };
        select::select(choice, collective, 1, 0, 1, none, &Model::SHARED_MEMORY).map(drop)
    }
}

fn make(
    key: Key,
    rank: Rank,
    world_size: u32,
    limits: Limits,
    model: &Model,
) -> Result<Result<Plan<'static>, Fault>, NoSuchAlgorithm> {
    let Key { collective, choice, count, element_bytes } = key;
    let messages = limits.messages();
    let selection = select::select(choice, collective, world_size, count, element_bytes, messages, model)?;
    let algorithm = selection.algorithm;
    let segment_len = select::segment_len(algorithm, collective, world_size, count, element_bytes, messages);
    let credits = messages.credits;
    let shape = Shape { collective, world_size, count, segment_len, credits };
    Ok(Plan::new(select::build(algorithm, shape), rank))
}

/// More than the sizes that one loop of a program alternates between; 200 KiB each at most.
const MAX_KEPT: usize = 16;
