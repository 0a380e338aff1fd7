//! Which algorithm a call takes, and how long its segments are.
//!
//! All of it is a function of what every rank knows alike, so that ranks need not talk to agree.

use super::collective::Collective;
use super::direct::Direct;
use super::dissemination::Dissemination;
use super::doubling::Doubling;
use super::gather::{Bruck, GatherRing};
use super::ring::Ring;
use super::rooted::{Branching, Rooted};
use super::scatter::{Halving, ScatterRing};
use super::schedule::Schedule;
use super::shape::Shape;
use super::tree::Tree;

pub use super::choice::{Algorithm, Choice, NoSuchAlgorithm, UnknownAlgorithm};

/// Selects the algorithm. `len_bytes` is the length of the collective's vector: for all_gather the output's, for
/// reduce_scatter the input's.
///
/// # Errors
///
/// [`NoSuchAlgorithm`] when the choice is one that the collective does not have.
pub fn select(
    choice: Choice,
    collective: Collective,
    world_size: u32,
    len_bytes: usize,
) -> Result<Algorithm, NoSuchAlgorithm> {
    match choice.of(collective) {
        Some(algorithm) if Algorithm::of(collective).contains(&algorithm) => Ok(algorithm),
        Some(algorithm) => Err(NoSuchAlgorithm { collective, algorithm }),
        None => Ok(best(collective, world_size, len_bytes)),
    }
}

/// What is best by the model.
///
/// Between two ranks the exchanges win at any length: they are one round and send the least. Beyond, a short vector takes
/// the fewest rounds and a long one the fewest bytes; the lengths between are those of [`TREE_UP_TO`].
fn best(collective: Collective, world_size: u32, len_bytes: usize) -> Algorithm {
    let short_up_to = TREE_UP_TO.iter().find(|row| world_size <= row.0).map_or(usize::MAX, |row| row.1);
    let is_short = len_bytes <= short_up_to;
    match collective {
        Collective::AllReduce if world_size <= 2 || len_bytes <= DOUBLING_UP_TO_BYTES => Algorithm::Doubling,
        Collective::AllReduce if is_short => Algorithm::Tree,
        Collective::AllReduce => Algorithm::Ring,
        Collective::Broadcast { .. } | Collective::Reduce { .. } => match len_bytes {
            _ if world_size <= 2 => Algorithm::Chain,
            ..=DOUBLING_UP_TO_BYTES => Algorithm::Binomial,
            _ if is_short => Algorithm::Tree,
            _ => Algorithm::Chain,
        },
        Collective::AllGather | Collective::ReduceScatter if world_size <= DIRECT_RANKS && is_short => {
            Algorithm::Direct
        }
        Collective::AllGather if is_short => Algorithm::Bruck,
        Collective::ReduceScatter if is_short => Algorithm::Halving,
        Collective::AllGather | Collective::ReduceScatter => Algorithm::Ring,
        Collective::Barrier => Algorithm::Dissemination,
    }
}

/// World size at most, and up to how many bytes few rounds win there: 2(n-1 - log2 n) messages at 16 KiB, which is
/// what a link of 1 to 3 GB/s carries in the 5 to 15 microseconds that a message takes between processes here. Made
/// from the model, not measured on EFA.
const TREE_UP_TO: [(u32, usize); 6] =
    [(2, 0), (4, 16 << 10), (8, 64 << 10), (16, 256 << 10), (64, 1 << 20), (1024, 16 << 20)];

/// Up to here the whole vector in every round costs less than a tree's twice as many rounds.
const DOUBLING_UP_TO_BYTES: usize = 8 << 10;

/// In a world of at most so many ranks everybody may have slots for everybody.
const DIRECT_RANKS: u32 = 8;

/// Chooses a segment's length in elements, for messages of at most `slot_bytes`.
///
/// A ring is cut so that each chunk has two segments, one on its way while the other is reduced; a pipeline so that its
/// depth is filled, 4 segments per level; an exchange between two ranks into 8, so that all but the first and the last
/// are on their way while others are reduced. None goes below 4 KiB, where a message costs more than its bytes.
///
/// # Panics
///
/// When `element_bytes` is 0 or more than `slot_bytes`.
pub fn segment_len(
    algorithm: Algorithm,
    world_size: u32,
    count: usize,
    element_bytes: usize,
    slot_bytes: usize,
) -> usize {
    let most = slot_bytes / element_bytes;
    assert!(most > 0, "a slot holds at least one element");
    let depth = world_size.max(2).ilog2() as usize;
    let pieces = match algorithm {
        Algorithm::Ring => 2 * world_size.max(1) as usize,
        Algorithm::Tree => 4 * depth,
        Algorithm::Chain => 4 * world_size.max(1) as usize,
        Algorithm::Doubling | Algorithm::Bruck | Algorithm::Halving | Algorithm::Direct => 8,
        Algorithm::Binomial | Algorithm::Dissemination => 1,
    };
    let least = (MIN_SEGMENT_BYTES / element_bytes).min(most);
    count.div_ceil(pieces).clamp(least, most)
}

const MIN_SEGMENT_BYTES: usize = 4 << 10;

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
    use efarun_wire::Rank;

    use super::*;

    fn auto(collective: Collective, world_size: u32, len_bytes: usize) -> Algorithm {
        select(Choice::Auto, collective, world_size, len_bytes).unwrap()
    }

    #[test]
    fn a_fixed_choice_is_taken_whatever_the_size_or_refused() {
        for collective in Collective::ALL {
            for algorithm in Algorithm::ALL {
                let selected = select(Choice::Fixed(algorithm), collective, 64, 1);
                if Algorithm::of(collective).contains(&algorithm) {
                    assert_eq!(selected, Ok(algorithm));
                    assert_eq!(select(Choice::Fixed(algorithm), collective, 2, 1 << 30), Ok(algorithm));
                } else {
                    assert_eq!(selected, Err(NoSuchAlgorithm { collective, algorithm }));
                }
            }
        }
        let error = select(Choice::Fixed(Algorithm::Tree), Collective::AllGather, 2, 8).unwrap_err();
        assert_eq!(error.to_string(), "all_gather has no algorithm \"tree\"; it has ring, bruck and direct");
    }

    #[test]
    fn short_vectors_take_few_rounds_and_long_ones_few_bytes() {
        assert_eq!(auto(Collective::AllReduce, 2, 8), Algorithm::Doubling);
        assert_eq!(auto(Collective::AllReduce, 2, 1 << 30), Algorithm::Doubling);
        assert_eq!(auto(Collective::AllReduce, 8, 8), Algorithm::Doubling);
        assert_eq!(auto(Collective::AllReduce, 8, 32 << 10), Algorithm::Tree);
        assert_eq!(auto(Collective::AllReduce, 8, 16 << 20), Algorithm::Ring);
        assert_eq!(auto(Collective::AllReduce, 10_000, 16 << 20), Algorithm::Tree);
        let broadcast = Collective::Broadcast { root: Rank(3) };
        assert_eq!(auto(broadcast, 8, 8), Algorithm::Binomial);
        assert_eq!(auto(broadcast, 8, 16 << 20), Algorithm::Chain);
        assert_eq!(auto(Collective::AllGather, 8, 8), Algorithm::Direct);
        assert_eq!(auto(Collective::AllGather, 16, 8), Algorithm::Bruck);
        assert_eq!(auto(Collective::ReduceScatter, 16, 8), Algorithm::Halving);
        assert_eq!(auto(Collective::ReduceScatter, 16, 16 << 20), Algorithm::Ring);
    }

    #[test]
    fn few_rounds_never_win_less_in_a_larger_world() {
        assert!(TREE_UP_TO.is_sorted());
        assert!(TREE_UP_TO.iter().map(|row| row.1).is_sorted());
    }

    #[test]
    fn segments_fit_a_slot_and_are_not_needlessly_small() {
        for algorithm in Algorithm::ALL {
            assert_eq!(segment_len(algorithm, 4, 1 << 24, 4, 64 << 10), 16 << 10);
            assert_eq!(segment_len(algorithm, 4, 10, 4, 64 << 10), 1 << 10);
            assert_eq!(segment_len(algorithm, 4, 1 << 24, 8, 12), 1);
        }
        assert_eq!(segment_len(Algorithm::Ring, 4, 64 << 10, 4, 64 << 10), 8 << 10);
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
