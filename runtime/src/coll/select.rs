//! Which algorithm a call takes, and how long its segments are.
//!
//! All of it is a function of what every rank knows alike, so that ranks need not talk to agree.

use std::fmt;
use std::str::FromStr;

use super::ring::Ring;
use super::schedule::Schedule;
use super::tree::Tree;

/// An algorithm for all_reduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// [`Ring`]: least bytes, many steps.
    Ring,
    /// [`Tree`]: few steps, more bytes.
    Tree,
}

impl Algorithm {
    /// All algorithms, in the order of help texts.
    pub const ALL: [Algorithm; 2] = [Algorithm::Ring, Algorithm::Tree];
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Ring => "ring",
            Algorithm::Tree => "tree",
        })
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Choice {
    /// What [`select`] thinks best.
    #[default]
    Auto,
    /// This one.
    Fixed(Algorithm),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Fixed(algorithm) => algorithm.fmt(f),
        }
    }
}

/// A word that names no algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no algorithm; there are ring, tree and auto")]
pub struct UnknownAlgorithm {
    /// The word.
    pub word: String,
}

impl FromStr for Choice {
    type Err = UnknownAlgorithm;

    fn from_str(word: &str) -> Result<Self, UnknownAlgorithm> {
        match word {
            "auto" => Ok(Choice::Auto),
            "ring" => Ok(Choice::Fixed(Algorithm::Ring)),
            "tree" => Ok(Choice::Fixed(Algorithm::Tree)),
            word => Err(UnknownAlgorithm { word: word.to_owned() }),
        }
    }
}

/// Selects the algorithm for an all_reduce of `len_bytes`.
///
/// A ring takes 2(n-1) messages one after the other and sends 2(n-1)/n of the vector; a tree takes 2 log2 n messages
/// and sends up to 3 times the vector from an inner node. So the tree wins while the steps it saves cost more than the
/// bytes it adds, up to a length that grows with the world. Between two ranks it saves nothing.
pub fn select(choice: Choice, world_size: u32, len_bytes: usize) -> Algorithm {
    match choice {
        Choice::Fixed(algorithm) => algorithm,
        Choice::Auto => {
            let tree_up_to =
                TREE_UP_TO.iter().find(|row| world_size <= row.0).map_or(usize::MAX, |row| row.1);
            if len_bytes <= tree_up_to { Algorithm::Tree } else { Algorithm::Ring }
        }
    }
}

/// World size at most, and up to how many bytes the tree wins there: 2(n-1 - log2 n) messages at 16 KiB, which is
/// what a link of 1 to 3 GB/s carries in the 5 to 15 microseconds that a message takes between processes here. Made
/// from the model, not measured on EFA.
const TREE_UP_TO: [(u32, usize); 6] =
    [(2, 0), (4, 16 << 10), (8, 64 << 10), (16, 256 << 10), (64, 1 << 20), (1024, 16 << 20)];

/// Chooses a segment's length in elements, for messages of at most `slot_bytes`.
///
/// A ring is cut so that each chunk has two segments, one on its way while the other is reduced; a tree so that its
/// depth is filled, 4 segments per level. Neither goes below 4 KiB, where a message costs more than its bytes.
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
    let pieces = match algorithm {
        Algorithm::Ring => 2 * world_size.max(1) as usize,
        Algorithm::Tree => 4 * world_size.max(2).ilog2() as usize,
    };
    let least = (MIN_SEGMENT_BYTES / element_bytes).min(most);
    count.div_ceil(pieces).clamp(least, most)
}

const MIN_SEGMENT_BYTES: usize = 4 << 10;

/// Builds the schedule. `credits` is the transport's: how many messages a pair of ranks can have in flight.
///
/// # Panics
///
/// When `world_size`, `segment_len` or `credits` is 0.
pub fn build(
    algorithm: Algorithm,
    world_size: u32,
    count: usize,
    segment_len: usize,
    credits: usize,
) -> Box<dyn Schedule> {
    match algorithm {
        Algorithm::Ring => Box::new(Ring::new(world_size, count, segment_len, credits)),
        Algorithm::Tree => Box::new(Tree::new(world_size, count, segment_len, credits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_choices_are_each_others_inverse() {
        for word in ["ring", "tree", "auto"] {
            assert_eq!(word.parse::<Choice>().unwrap().to_string(), word);
        }
        let error = "Ring".parse::<Choice>().unwrap_err();
        assert_eq!(error.to_string(), "\"Ring\" is no algorithm; there are ring, tree and auto");
    }

    #[test]
    fn a_fixed_choice_is_taken_whatever_the_size() {
        for algorithm in Algorithm::ALL {
            assert_eq!(select(Choice::Fixed(algorithm), 2, 1 << 30), algorithm);
            assert_eq!(select(Choice::Fixed(algorithm), 64, 1), algorithm);
        }
    }

    #[test]
    fn short_vectors_take_the_tree_and_long_ones_the_ring() {
        assert_eq!(select(Choice::Auto, 2, 8), Algorithm::Ring);
        assert_eq!(select(Choice::Auto, 8, 8), Algorithm::Tree);
        assert_eq!(select(Choice::Auto, 8, 16 << 20), Algorithm::Ring);
        assert_eq!(select(Choice::Auto, 10_000, 16 << 20), Algorithm::Tree);
    }

    #[test]
    fn the_tree_never_wins_less_in_a_larger_world() {
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
        for algorithm in Algorithm::ALL {
            let schedule = build(algorithm, 5, 100, 8, 2);
            assert_eq!(schedule.name(), algorithm.to_string());
            assert_eq!((schedule.world_size(), schedule.count(), schedule.segment_len()), (5, 100, 8));
        }
    }
}
