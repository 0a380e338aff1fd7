//! How a World does its recent calls.
//!
//! A program calls the same few collectives again and again. What was chosen for them is kept, so that a repeated call
//! neither chooses nor builds nor checks anything: it finds its way by comparing a few numbers, which lie together, so
//! that a program that alternates between calls reads no more than a few cache lines.

use std::sync::Arc;

use efarun_wire::Rank;

use super::setup::Limits;
use crate::coll::collective::Collective;
use crate::coll::executor::signature::Unnumbered;
use crate::coll::fault::Fault;
use crate::coll::hierarchy::{Hierarchy, Means};
use crate::coll::leaf::Leaf;
use crate::coll::nodes::Nodes;
use crate::coll::plan::Plan;
use crate::coll::select::{self, Choice, MessageLimits, NoSuchAlgorithm, Sizes};
use crate::coll::shape::Shape;
use crate::coll::sim::Model;
use crate::element::{ElementType, ReduceOp};

/// What the way of a call depends on, within one World.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Elements, as the collective counts them. Compared first, as it differs most often.
    pub(super) count: usize,
    pub(super) collective: Collective,
    pub(super) choice: Choice,
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
    /// By messages, but for what leaves take over.
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
    /// What holds between nodes.
    pub(super) between: Limits,
    /// Whether leaves run here.
    pub(super) leaves: bool,
    /// Where there are several nodes, ranks of which share memory.
    pub(super) nodes: Option<&'a Arc<Nodes>>,
    pub(super) model: &'a Model,
}

/// The ways of recent calls.
#[derive(Debug, Default)]
pub(super) struct Plans {
    keys: Vec<Key>,
    /// By key: the way, and when it was used last.
    kept: Vec<(Kept, u64)>,
    /// Which was used last.
    latest: usize,
    /// How often a way was sought.
    clock: u64,
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
        self.clock += 1;
        if self.keys.get(self.latest) != Some(&key) {
            // Loops call the same few in turn, which are kept in the order in which they came.
            let next = if self.latest + 1 < self.keys.len() { self.latest + 1 } else { 0 };
            let found = match self.keys.get(next) == Some(&key) {
                true => Some(next),
                false => self.keys.iter().position(|kept| *kept == key),
            };
            self.latest = match found {
                Some(found) => found,
                None => match make(key, surroundings)? {
                    Ok(made) => self.keep(key, made),
                    Err(fault) => return Ok(Err(fault)),
                },
            };
        }
        let (kept, used) = &mut self.kept[self.latest];
        *used = self.clock;
        Ok(Ok(kept))
    }

    /// Keeps a way, where there is no more room in the place of the one that was not used for the longest time; says where.
    fn keep(&mut self, key: Key, kept: Kept) -> usize {
        if self.keys.len() < MAX_KEPT {
            self.keys.push(key);
            self.kept.push((kept, 0));
            return self.keys.len() - 1;
        }
        let oldest = (0..self.kept.len()).min_by_key(|&index| self.kept[index].1).expect("some are kept");
        self.keys[oldest] = key;
        self.kept[oldest] = (kept, 0);
        oldest
    }

    /// The algorithm of the call that was sought last, where it goes by messages.
    #[cfg(test)]
    pub(super) fn latest_name(&self) -> Option<&'static str> {
        match &self.kept.get(self.latest)?.0.way {
            Way::Messages(plan) => Some(plan.schedule().name()),
            Way::Leaf(_) => None,
        }
    }

    /// Refuses an algorithm that the collective does not have, where no way is needed.
    pub(super) fn check(choice: Choice, collective: Collective) -> Result<(), NoSuchAlgorithm> {
        let messages = MessageLimits {
            slot_bytes: 1,
            min_segment_bytes: 1,
            min_exchange_bytes: 1,
            quick_bytes: None,
            credits: 1,
        };
        let (world_size, count, element_bytes) = (1, 0, 1);
        let sizes = Sizes { collective, world_size, count, element_bytes, messages, leaves: false };
        select::select(choice, &sizes, &Model::SHARED_MEMORY).map(drop)
    }
}

fn make(key: Key, surroundings: Surroundings<'_>) -> Result<Result<Kept, Fault>, NoSuchAlgorithm> {
    let Key { collective, choice, count, element, op } = key;
    let Surroundings { rank, world_size, limits, between, leaves, nodes, model } = surroundings;
    let (element_bytes, messages) = (element.size_bytes(), limits.messages());
    let pays = |nodes: &&Arc<Nodes>| Hierarchy::pays(collective, count, element_bytes, nodes);
    let by_node = nodes.filter(|_| choice.of(collective).is_none()).filter(pays);
    if let Some(nodes) = by_node {
        let means = Means { element_bytes, within: messages, between: between.messages(), model };
        let hierarchy = Hierarchy::new(collective, count, Arc::clone(nodes), means);
        let signature = Unnumbered::of(&hierarchy, element, op);
        let plan = match leaves {
            true => Plan::with_leaves(hierarchy, rank, element_bytes),
            false => Plan::new(Box::new(hierarchy), rank),
        };
        return Ok(plan.map(|plan| Kept { signature, way: Way::Messages(plan) }));
    }
    let leaves = leaves && nodes.is_none();
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn key(count: usize) -> Key {
        let (collective, element, op) = (Collective::AllReduce, ElementType::F32, ReduceOp::Sum);
        Key { count, collective, choice: Choice::Auto, element, op }
    }

    fn find(plans: &mut Plans, count: usize) -> &Kept {
        let limits = Limits {
            slot_bytes: 65_536,
            credits: 8,
            min_segment_bytes: 4096,
            min_exchange_bytes: 4096,
            quick_bytes: u32::MAX,
        };
        let (rank, world_size, model) = (Rank(0), 2, &Model::SHARED_MEMORY);
        let (between, leaves, nodes) = (limits, true, None);
        let surroundings = Surroundings { rank, world_size, limits, between, leaves, nodes, model };
        plans.find(key(count), surroundings).expect("such an algorithm").expect("no fault")
    }

    #[test]
    fn a_way_that_is_used_stays_and_the_one_that_is_not_makes_room() {
        let mut plans = Plans::default();
        for count in 1..=MAX_KEPT {
            find(&mut plans, count);
        }
        find(&mut plans, 1);
        find(&mut plans, MAX_KEPT + 1);
        assert!(plans.keys.contains(&key(1)) && !plans.keys.contains(&key(2)));
        assert_eq!((plans.keys.len(), plans.kept.len()), (MAX_KEPT, MAX_KEPT));
        for count in [1, 3, MAX_KEPT + 1, 2] {
            let signature = find(&mut plans, count).signature;
            assert_eq!(signature, find(&mut Plans::default(), count).signature, "{count}");
        }
    }

    /// By the fastest of many rounds, which others on the machine do not make slower.
    #[test]
    fn a_kept_way_is_found_within_20_ns() {
        if cfg!(debug_assertions) {
            println!("SKIPPED: optimised code, which alone is fast");
            return;
        }
        for (what, calls) in
            [("the call before", 1), ("one of 4 in turn", 4), ("one of 16 in turn", MAX_KEPT)]
        {
            let mut plans = Plans::default();
            for count in 1..=calls {
                find(&mut plans, count);
            }
            let mut fastest = Duration::MAX;
            for _ in 0..500 {
                let since = Instant::now();
                for index in 0..FINDS {
                    std::hint::black_box(find(&mut plans, std::hint::black_box(1 + index % calls)));
                }
                fastest = fastest.min(since.elapsed());
            }
            let ns = fastest.as_secs_f64() * 1e9 / FINDS as f64;
            println!("{what}: {ns:.1} ns");
            assert!(ns <= 20.0, "{what} takes {ns:.1} ns to find");
        }
    }

    const FINDS: usize = 1024;
}
