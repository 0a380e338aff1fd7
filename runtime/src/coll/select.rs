//! Which algorithm a call takes, and how long its segments are.
//!
//! All of it is a function of what every rank knows alike, so that ranks need not talk to agree.

use std::fmt;

use super::collective::Collective;
use super::direct::Direct;
use super::dissemination::Dissemination;
use super::double_tree::DoubleTree;
use super::doubling::Doubling;
use super::estimate::estimate_s;
use super::gather::{Bruck, GatherRing};
use super::leaf::Leaf;
use super::ring::Ring;
use super::rooted::{Branching, Rooted};
use super::scatter::{Halving, ScatterRing};
use super::schedule::Schedule;
use super::shape::Shape;
use super::sim::Model;
use super::tree::Tree;

pub use super::choice::{Algorithm, Choice, NoSuchAlgorithm, UnknownAlgorithm};

/// What was selected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selection {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What takes the place of its messages; none where they are sent.
    pub leaf: Option<Leaf>,
    /// Why.
    pub why: Why,
}

/// A call, as far as it is selected by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// What is called.
    pub collective: Collective,
    /// World size.
    pub world_size: u32,
    /// Elements, as the collective counts them.
    pub count: usize,
    /// Bytes of one.
    pub element_bytes: usize,
    /// What messages can be like.
    pub messages: MessageLimits,
    /// Whether leaves may take the place of messages.
    pub leaves: bool,
}

impl Sizes {
    /// The leaf that stands for an algorithm here.
    fn leaf(&self, algorithm: Algorithm) -> Option<Leaf> {
        let len_bytes = self.len_bytes();
        Leaf::of(algorithm, self.collective, self.world_size, len_bytes).filter(|_| self.leaves)
    }

    /// Bytes of the collective's vector.
    fn len_bytes(&self) -> usize {
        self.collective.vector_len(self.world_size, self.count).saturating_mul(self.element_bytes)
    }
}

/// Why an algorithm was selected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    /// It was asked for.
    AskedFor,
    /// The collective has no other.
    OnlyOne,
    /// There are several nodes, ranks of which share memory: within nodes no messages are taken.
    ByNode,
    /// All ranks share memory, and it goes without messages there.
    HasLeaf,
    /// It takes the shortest time by the model.
    Shortest {
        /// That time.
        time_s: f64,
        /// The next, and its time.
        next: (Algorithm, f64),
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::AskedFor => f.write_str("asked for"),
            Why::OnlyOne => f.write_str("the only one"),
            Why::ByNode => f.write_str("between the nodes, as ranks of a node share memory"),
            Why::HasLeaf => f.write_str("the one that takes no messages where all ranks share memory"),
            Why::Shortest { time_s, next: (next, next_s) } => {
                write!(f, "estimated at {:.1} us, next {next} at {:.1} us", time_s * 1e6, next_s * 1e6)
            }
        }
    }
}

/// What messages can be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// The largest payload of one.
    pub slot_bytes: usize,
    /// The length from which on it pays to cut one in two, to pass one part on while the other is on its way.
    pub min_segment_bytes: usize,
    /// The length from which on it pays where nothing is passed on.
    pub min_exchange_bytes: usize,
    /// The length from which on messages go a quicker way, where there is one.
    pub quick_bytes: Option<usize>,
    /// How many a pair of ranks can have in flight.
    pub credits: usize,
}

/// Selects the algorithm for a call: the one that was asked for; or the one that has a leaf, where leaves may take the place
/// of messages; or the one that takes the shortest time by the model.
///
/// # Errors
///
/// [`NoSuchAlgorithm`] when the choice is one that the collective does not have.
///
/// # Panics
///
/// When `element_bytes` is 0 or more than a slot takes.
pub fn select(choice: Choice, sizes: &Sizes, model: &Model) -> Result<Selection, NoSuchAlgorithm> {
    let collective = sizes.collective;
    let algorithms = Algorithm::of(collective);
    match choice.of(collective) {
        Some(algorithm) if algorithms.contains(&algorithm) => {
            return Ok(Selection { algorithm, leaf: sizes.leaf(algorithm), why: Why::AskedFor });
        }
        Some(algorithm) => return Err(NoSuchAlgorithm { collective, algorithm }),
        None => {}
    }
    // A message is copied twice and costs its sender and its receiver more than a look at a board: no schedule of them
    // comes near.
    let with_leaf = algorithms.iter().find_map(|&algorithm| Some((algorithm, sizes.leaf(algorithm)?)));
    if let Some((algorithm, leaf)) = with_leaf {
        return Ok(Selection { algorithm, leaf: Some(leaf), why: Why::HasLeaf });
    }
    let time_s = |algorithm| estimate_s(algorithm, sizes, model);
    // Of equals the first: an order of preference.
    let shorter = |one: Algorithm, other: Algorithm| if time_s(other) < time_s(one) { other } else { one };
    let shortest = |but: Option<Algorithm>| {
        algorithms.iter().copied().filter(|&algorithm| Some(algorithm) != but).reduce(shorter)
    };
    let best = shortest(None).expect("every collective has an algorithm");
    let why = match shortest(Some(best)) {
        Some(next) => Why::Shortest { time_s: time_s(best), next: (next, time_s(next)) },
        None => Why::OnlyOne,
    };
    Ok(Selection { algorithm: best, leaf: None, why })
}

/// Chooses a segment's length in elements.
///
/// What goes from one rank to another at a time, a chunk, a block or the vector, is cut into [`PIECES`], so that one is
/// reduced while others are on their way; a pipeline is cut so that its depth is filled. No segment is shorter than the
/// length from which on it pays to cut a message, which is another in a pipeline than in rounds of exchanges.
///
/// # Panics
///
/// When `element_bytes` is 0 or more than a slot takes.
pub fn segment_len(
    algorithm: Algorithm,
    collective: Collective,
    world_size: u32,
    count: usize,
    element_bytes: usize,
    messages: MessageLimits,
) -> usize {
    let most = messages.slot_bytes / element_bytes;
    assert!(most > 0, "a slot holds at least one element");
    let (ranks, depth) = (world_size.max(1) as usize, world_size.max(2).ilog2() as usize);
    let pieces = match algorithm {
        Algorithm::Ring if collective == Collective::AllReduce => PIECES * ranks,
        Algorithm::Ring | Algorithm::Doubling | Algorithm::Bruck | Algorithm::Halving | Algorithm::Direct => {
            PIECES
        }
        Algorithm::Tree | Algorithm::Binomial => PIECES * depth,
        Algorithm::DoubleTree => 2 * PIECES * depth,
        Algorithm::Chain => PIECES * ranks,
        Algorithm::Dissemination => 1,
    };
    // How many messages one after the other are under way, or wait, at any time, where all that is passed on is.
    let depth_of_all = match algorithm {
        Algorithm::Ring if collective == Collective::AllReduce => ranks,
        Algorithm::Chain => ranks.max(2) - 1,
        Algorithm::Tree | Algorithm::Binomial => depth,
        Algorithm::DoubleTree => 2 * depth,
        _ => 1,
    };
    let quick = messages.quick_bytes.map_or(usize::MAX, |bytes| bytes.div_ceil(element_bytes));
    if quick <= most && count / depth_of_all >= quick {
        return count.div_ceil(pieces).clamp(quick, most);
    }
    let passes_on = match algorithm {
        Algorithm::Ring | Algorithm::Chain => world_size > 2,
        Algorithm::Tree | Algorithm::DoubleTree => true,
        Algorithm::Doubling | Algorithm::Bruck | Algorithm::Halving | Algorithm::Direct => false,
        Algorithm::Binomial | Algorithm::Dissemination => false,
    };
    let least_bytes = if passes_on { messages.min_segment_bytes } else { messages.min_exchange_bytes };
    let least = (least_bytes / element_bytes).clamp(1, most);
    count.div_ceil(pieces).clamp(least, most)
}

/// One on its way out, one in, one reduced, one to spare.
const PIECES: usize = 4;

/// Builds the schedule.
///
/// # Panics
///
/// When the collective has no such algorithm, its root is not in the world, or world size, segment length or credits are
/// 0.
pub fn build(algorithm: Algorithm, shape: Shape) -> Box<dyn Schedule> {
    let collective = shape.collective;
    match (collective, algorithm) {
        (Collective::AllReduce, Algorithm::Ring) => Box::new(Ring::new(shape)),
        (Collective::AllReduce, Algorithm::Tree) => Box::new(Tree::new(shape)),
        (Collective::AllReduce, Algorithm::DoubleTree) => Box::new(DoubleTree::new(shape)),
        (Collective::AllReduce, Algorithm::Doubling) => Box::new(Doubling::new(shape)),
        (Collective::Broadcast { .. } | Collective::Reduce { .. }, Algorithm::Chain) => {
            Box::new(Rooted::new(Branching::Chain, shape))
        }
        (Collective::Broadcast { .. } | Collective::Reduce { .. }, Algorithm::Tree) => {
            Box::new(Rooted::new(Branching::Binary, shape))
        }
        (Collective::Broadcast { .. } | Collective::Reduce { .. }, Algorithm::Binomial) => {
            Box::new(Rooted::new(Branching::Binomial, shape))
        }
        (Collective::AllGather, Algorithm::Ring) => Box::new(GatherRing::new(shape)),
        (Collective::AllGather, Algorithm::Bruck) => Box::new(Bruck::new(shape)),
        (Collective::ReduceScatter, Algorithm::Ring) => Box::new(ScatterRing::new(shape)),
        (Collective::ReduceScatter, Algorithm::Halving) => Box::new(Halving::new(shape)),
        (Collective::AllGather | Collective::ReduceScatter, Algorithm::Direct) => {
            Box::new(Direct::new(shape))
        }
        (Collective::Barrier, Algorithm::Dissemination) => Box::new(Dissemination::new(shape)),
        _ => panic!("{}", NoSuchAlgorithm { collective, algorithm }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::explain::{Query, explain};
    use crate::element::ElementType;

    const MESSAGES: MessageLimits = MessageLimits {
        slot_bytes: 256 << 10,
        min_segment_bytes: 16 << 10,
        min_exchange_bytes: 16 << 10,
        quick_bytes: None,
        credits: 4,
    };

    fn selected(
        choice: Choice,
        collective: Collective,
        world_size: u32,
        count: usize,
    ) -> Result<Algorithm, NoSuchAlgorithm> {
        let (element_bytes, messages) = (4, MESSAGES);
        let sizes = Sizes { collective, world_size, count, element_bytes, messages, leaves: false };
        let selection = select(choice, &sizes, &Model::TCP);
        selection.map(|selection| selection.algorithm)
    }

    #[test]
    fn what_is_long_enough_for_the_quicker_way_is_not_cut_below_it() {
        let of_bytes = |bytes: usize, world_size, algorithm, collective, quick_bytes| {
            let messages = MessageLimits { quick_bytes, ..MESSAGES };
            4 * segment_len(algorithm, collective, world_size, bytes / 4, 4, messages)
        };
        let (quick, broadcast) = (Some(64 << 10), Collective::Broadcast { root: efarun_wire::Rank(0) });
        for (bytes, expected) in
            [(60 << 10, 16 << 10), (64 << 10, 64 << 10), (100 << 10, 64 << 10), (1 << 20, 256 << 10)]
        {
            let found = of_bytes(bytes, 2, Algorithm::Doubling, Collective::AllReduce, quick);
            assert_eq!(found, expected, "{bytes}");
            let found = of_bytes(bytes, 2, Algorithm::Chain, broadcast, quick);
            assert_eq!(found, expected.min(128 << 10), "{bytes}");
        }
        // What is passed on is cut all the same where all would wait for the first message to have come through.
        for (bytes, expected) in [(128 << 10, 16 << 10), (192 << 10, 64 << 10), (1 << 20, 64 << 10)] {
            assert_eq!(of_bytes(bytes, 4, Algorithm::Chain, broadcast, quick), expected, "{bytes}");
        }
        let unreachable = Some(MESSAGES.slot_bytes + 4);
        for quick in [None, unreachable] {
            assert_eq!(of_bytes(100 << 10, 2, Algorithm::Doubling, Collective::AllReduce, quick), 25 << 10);
        }
    }

    #[test]
    fn a_fixed_choice_is_taken_whatever_the_size_or_refused() {
        for collective in Collective::ALL {
            for algorithm in Algorithm::ALL {
                let short = selected(Choice::Fixed(algorithm), collective, 64, 1);
                if Algorithm::of(collective).contains(&algorithm) {
                    assert_eq!(short, Ok(algorithm));
                    assert_eq!(selected(Choice::Fixed(algorithm), collective, 2, 1 << 28), Ok(algorithm));
                } else {
                    assert_eq!(short, Err(NoSuchAlgorithm { collective, algorithm }));
                }
            }
        }
        let error = selected(Choice::Fixed(Algorithm::Tree), Collective::AllGather, 2, 8).unwrap_err();
        assert_eq!(error.to_string(), "all_gather has no algorithm \"tree\"; it has ring, bruck and direct");
    }

    #[test]
    fn between_two_ranks_the_single_exchange_is_taken_at_any_length() {
        for count in [1, 2, 1000, 100_000, 10_000_000] {
            assert_eq!(selected(Choice::Auto, Collective::AllReduce, 2, count), Ok(Algorithm::Doubling));
        }
    }

    #[test]
    fn what_is_selected_is_about_the_best_that_the_simulator_knows() {
        for model in [Model::TCP, Model::SHARED_MEMORY, Model::EFA] {
            for collective in Collective::ALL {
                for world_size in [2, 3, 4, 8, 13, 32] {
                    for count in [1, 2000, 20_000, 200_000, 2_000_000] {
                        let count = if collective.has_blocks() { count / world_size as usize } else { count };
                        let times_s = |choice| {
                            let query = Query {
                                collective,
                                element: ElementType::F32,
                                count,
                                world_size,
                                choice,
                                messages: MESSAGES,
                                leaves: false,
                                model,
                            };
                            explain(&query).unwrap().simulated.unwrap().time_s
                        };
                        let fixed =
                            Algorithm::of(collective).iter().map(|&name| times_s(Choice::Fixed(name)));
                        let best_s = fixed.fold(f64::INFINITY, f64::min);
                        let selected_s = times_s(Choice::Auto);
                        // Where a latency is worth many bytes, much hangs on waits for credit that are only estimated.
                        let tolerance = if model == Model::EFA { 2.0 } else { 1.35 };
                        let case = format!("{count} of {collective} over {world_size} ranks with {model}");
                        assert!(
                            selected_s <= tolerance * best_s,
                            "{selected_s} s, but {best_s} s is possible: {case}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn where_ranks_share_memory_leaves_are_taken_and_elsewhere_none() {
        for collective in Collective::ALL {
            for world_size in [2, 3, 4, 8, 64] {
                for count in [2, 2000, 200_000, 20_000_000] {
                    let sizes = |leaves| Sizes {
                        collective,
                        world_size,
                        count,
                        element_bytes: 4,
                        messages: MESSAGES,
                        leaves,
                    };
                    let selected =
                        |leaves| select(Choice::Auto, &sizes(leaves), &Model::SHARED_MEMORY).unwrap();
                    assert_eq!(selected(false).leaf, None);
                    assert!(selected(true).leaf.is_some(), "{count} of {collective}");
                }
            }
        }
        let asked = |algorithm| {
            let sizes = Sizes {
                collective: Collective::AllReduce,
                world_size: 2,
                count: 1,
                element_bytes: 4,
                messages: MESSAGES,
                leaves: true,
            };
            select(Choice::Fixed(algorithm), &sizes, &Model::SHARED_MEMORY).unwrap().leaf
        };
        assert_eq!(asked(Algorithm::Doubling), Some(Leaf::OneShot));
        assert_eq!(asked(Algorithm::Ring), None);
    }

    #[test]
    fn segments_fit_a_slot_and_are_not_needlessly_small() {
        for collective in Collective::ALL {
            for &algorithm in Algorithm::of(collective) {
                let len = |count, element_bytes, slot_bytes| {
                    let messages = MessageLimits { slot_bytes, ..MESSAGES };
                    segment_len(algorithm, collective, 4, count, element_bytes, messages)
                };
                assert!(len(1 << 24, 4, 64 << 10) == 16 << 10, "{collective} by {algorithm}");
                assert!(len(10, 4, 64 << 10) == 4 << 10, "{collective} by {algorithm}");
                assert!(len(1 << 24, 8, 12) == 1, "{collective} by {algorithm}");
            }
        }
    }

    #[test]
    fn what_is_built_is_what_was_asked_for() {
        for collective in Collective::ALL {
            for &algorithm in Algorithm::of(collective) {
                let shape = Shape { collective, world_size: 5, count: 100, segment_len: 8, credits: 2 };
                let schedule = build(algorithm, shape);
                assert_eq!(schedule.name(), algorithm.to_string());
                assert_eq!((schedule.world_size(), schedule.collective()), (5, collective));
            }
        }
    }
}
