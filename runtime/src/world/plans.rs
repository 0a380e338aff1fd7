//! The plans of a World's recent calls.
//!
//! A program calls the same few collectives again and again. Their plans are kept, so that a repeated call neither
//! chooses nor builds nor checks anything: it finds its plan by comparing a few numbers.

use efarun_wire::Rank;

use super::setup::Limits;
use crate::coll::collective::Collective;
use crate::coll::fault::Fault;
use crate::coll::plan::Plan;
use crate::coll::select::{self, Algorithm};
use crate::coll::shape::Shape;

/// What a plan depends on, within one World.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) collective: Collective,
    pub(super) algorithm: Algorithm,
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
    pub(super) fn plan(
        &mut self,
        key: Key,
        rank: Rank,
        world_size: u32,
        limits: Limits,
    ) -> Result<&Plan<'static>, Fault> {
        match self.kept.iter().position(|(kept, _)| *kept == key) {
            Some(0) => {}
            Some(found) => self.kept[..=found].rotate_right(1),
            None => {
                let plan = Plan::new(select::build(key.algorithm, shape(key, world_size, limits)), rank)?;
                self.kept.truncate(MAX_KEPT - 1);
                self.kept.insert(0, (key, plan));
            }
        }
        Ok(&self.kept[0].1)
    }
}

/// What the schedule of a call is made from.
pub(super) fn shape(key: Key, world_size: u32, limits: Limits) -> Shape {
    let Key { collective, algorithm, count, element_bytes } = key;
    let [slot_len, least_len] =
        [limits.slot_bytes, limits.min_segment_bytes].map(|bytes| bytes as usize / element_bytes);
    let segment_len =
        select::segment_len(algorithm, world_size, count, element_bytes, limits.slot_bytes as usize)
            .max(least_len.min(slot_len));
    Shape { collective, world_size, count, segment_len, credits: limits.credits as usize }
}

/// More than the sizes that one loop of a program alternates between; 200 KiB each at most.
const MAX_KEPT: usize = 16;
