//! How a World does its recent calls.
//!
//! A program calls the same few collectives again and again. What was chosen for them is kept, so that a repeated call
//! neither chooses nor builds nor checks anything: it finds its way by comparing a few numbers.

use efarun_wire::Rank;

use super::setup::Limits;
use crate::coll::collective::Collective;
use crate::coll::executor::signature::Unnumbered;
use crate::coll::fault::Fault;
use crate::coll::leaf::Leaf;
use crate::coll::plan::Plan;
use crate::coll::select::{self, Choice, MessageLimits, NoSuchAlgorithm, Sizes};
use crate::coll::shape::Shape;
use crate::coll::sim::Model;
use crate::element::{ElementType, ReduceOp};

/// What the way of a call depends on, within one World.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) collective: Collective,
    pub(super) choice: Choice,
    /// Elements, as the collective counts them.
    pub(super) count: usize,
    pub(super) element: ElementType,
    pub(super) op: ReduceOp,
}

/// How a call is done.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its signature, but for the call's number.
    pub(super) signature: Unnumbered,
    pub(super) way: Way,
}

/// Which way.
#[derive(Debug)]
pub(super) enum Way {
    /// By messages.
    Messages(Plan<'static>),
    /// Without.
    Leaf(Leaf),
}

/// What a World's ways depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) rank: Rank,
    pub(super) world_size: u32,
    pub(super) limits: Limits,
    pub(super) leaves: bool,
    pub(super) model: &'a Model,
}

/// The ways of recent calls, the last used first.
#[derive(Debug, Default)]
pub(super) struct Plans {
    kept: Vec<(Key, Kept)>,
}

impl Plans {
    /// The way of a call, made if it is not among those kept.
    ///
    /// # Errors
    ///
    /// When the collective does not have the algorithm that was chosen; within, when its schedule is wrong.
    pub(super) fn find(
        &mut self,
        key: Key,
        surroundings: Surroundings<'_>,
    ) -> Result<Result<&Kept, Fault>, NoSuchAlgorithm> {
        match self.kept.iter().position(|(kept, _)| *kept == key) {
            Some(0) => {}
            Some(found) => self.kept[..=found].rotate_right(1),
            None => match make(key, surroundings)? {
                Ok(made) => {
                    self.kept.truncate(MAX_KEPT - 1);
                    self.kept.insert(0, (key, made));
                }
                Err(fault) => return Ok(Err(fault)),
            },
        }
        Ok(Ok(&self.kept[0].1))
    }

    /// Refuses an algorithm that the collective does not have, where no way is needed.
    pub(super) fn check(choice: Choice, collective: Collective) -> Result<(), NoSuchAlgorithm> {
        let messages =
            MessageLimits { slot_bytes: 1, min_segment_bytes: 1, min_exchange_bytes: 1, credits: 1 };
        let (world_size, count, element_bytes) = (1, 0, 1);
        let sizes = Sizes { collective, world_size, count, element_bytes, messages, leaves: false };
        select::select(choice, &sizes, &Model::SHARED_MEMORY).map(drop)
    }
}

fn make(key: Key, surroundings: Surroundings<'_>) -> Result<Result<Kept, Fault>, NoSuchAlgorithm> {
    let Key { collective, choice, count, element, op } = key;
    let Surroundings { rank, world_size, limits, leaves, model } = surroundings;
    let (element_bytes, messages) = (element.size_bytes(), limits.messages());
    let sizes = Sizes { collective, world_size, count, element_bytes, messages, leaves };
    let selection = select::select(choice, &sizes, model)?;
    let algorithm = selection.algorithm;
    let segment_len = select::segment_len(algorithm, collective, world_size, count, element_bytes, messages);
    let credits = messages.credits;
    let shape = Shape { collective, world_size, count, segment_len, credits };
    let schedule = select::build(algorithm, shape);
    let signature = Unnumbered::of(&*schedule, element, op);
    let way = match selection.leaf {
        Some(leaf) => Ok(Way::Leaf(leaf)),
        None => Plan::new(schedule, rank).map(Way::Messages),
    };
    Ok(way.map(|way| Kept { signature, way }))
}

/// More than the sizes that one loop of a program alternates between; 200 KiB each at most.
const MAX_KEPT: usize = 16;
