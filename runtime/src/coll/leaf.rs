//! Leaves: what takes the place of a schedule's messages where all ranks share memory.
//!
//! A schedule remains the meaning of its collective: a [`Leaf`] names the algorithm whose schedule it stands for, its
//! *reference*, and gives its result, bit for bit. It moves the bytes otherwise: each rank shows its own on a board that
//! all read, without slots, credits per pair and copies on the way. [`crate::leaf`] runs them; here is which one a call
//! takes. All ranks must come to the same answer, so it hangs on nothing else than the call.
//!
//! An element of a result does not say which rank computed it: who reduces what is the leaf's own choice, in which order
//! is the reference's.

use std::fmt;

use super::choice::Algorithm;
use super::collective::Collective;

/// A native implementation of a schedule between the ranks of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Leaf {
    /// Barrier: everybody shows that it is there, and looks at all others.
    Flags,
    /// All-reduce: everybody shows its vector, and reduces all of them.
    OneShot,
    /// All-reduce: everybody shows its vector, reduces its share of all of them and shows that.
    TwoShot,
    /// All-reduce: everybody shows its vector, one rank reduces all of them and shows that.
    Fan,
    /// Broadcast: the root shows its vector, the others copy it.
    Down,
    /// Reduce: the others show their vectors, the root reduces them.
    Up,
    /// All-gather: everybody shows its block, and copies all others'.
    Spread,
    /// Reduce-scatter: everybody shows its input to the others' blocks, and reduces its own block.
    Collect,
}

impl Leaf {
    /// The leaf that stands for an algorithm, for vectors of so many bytes; none where it has none.
    pub fn of(
        algorithm: Algorithm,
        collective: Collective,
        world_size: u32,
        len_bytes: usize,
    ) -> Option<Leaf> {
        if world_size < 2 {
            return None;
        }
        let read_besides_own = len_bytes.saturating_mul(world_size as usize - 2);
        match (collective, algorithm) {
            (Collective::Barrier, Algorithm::Dissemination) => Some(Leaf::Flags),
            (Collective::Broadcast { .. }, Algorithm::Chain) => Some(Leaf::Down),
            (Collective::Reduce { .. }, Algorithm::Chain) => Some(Leaf::Up),
            (Collective::AllReduce, Algorithm::Doubling) => Some(match read_besides_own {
                ..=ONE_SHOT_BYTES if world_size <= MAX_ONE_SHOT => Leaf::OneShot,
                ..=ONE_SHOT_BYTES => Leaf::Fan,
                _ => Leaf::TwoShot,
            }),
            (Collective::AllGather, Algorithm::Direct) => Some(Leaf::Spread),
            (Collective::ReduceScatter, Algorithm::Direct) if world_size <= MAX_COLLECT => {
                Some(Leaf::Collect)
            }
            _ => None,
        }
    }

    /// The leaf that stands for the algorithm of this name, as [`Leaf::of`] finds it.
    pub(super) fn of_name(
        name: &str,
        collective: Collective,
        world_size: u32,
        len_bytes: usize,
    ) -> Option<Leaf> {
        let algorithm: Algorithm = name.parse().ok()?;
        Leaf::of(algorithm, collective, world_size, len_bytes)
    }

    /// Bytes of a piece of a block, so that as many as there are ranks fit a cell: whole cache lines.
    pub(crate) fn collect_bytes(ranks: usize) -> usize {
        CELL_BYTES / ranks.next_power_of_two()
    }

    /// The algorithm whose schedule it stands for.
    pub fn reference(self) -> Algorithm {
        match self {
            Leaf::Flags => Algorithm::Dissemination,
            Leaf::OneShot | Leaf::TwoShot | Leaf::Fan => Algorithm::Doubling,
            Leaf::Down | Leaf::Up => Algorithm::Chain,
            Leaf::Spread | Leaf::Collect => Algorithm::Direct,
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Leaf::Flags => "flags",
            Leaf::OneShot => "one-shot",
            Leaf::TwoShot => "two-shot",
            Leaf::Fan => "fan",
            Leaf::Down => "down",
            Leaf::Up => "up",
            Leaf::Spread => "spread",
            Leaf::Collect => "collect",
        })
    }
}

/// Bytes of vectors of others but one, up to which reading all of them costs a rank less than waiting twice.
const ONE_SHOT_BYTES: usize = 8 << 10;
/// From more ranks than this on a few lines of each are more to look at than one rank's, a second time.
const MAX_ONE_SHOT: u32 = 16;
/// So that of every block a cache line fits a cell.
const MAX_COLLECT: u32 = 1024;
/// The longest piece that is shown at a time.
pub(crate) const CELL_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_stands_for_its_reference_and_for_no_other_algorithm() {
        for collective in Collective::ALL {
            for &algorithm in Algorithm::of(collective) {
                for (world_size, len_bytes) in [(2, 8), (2, 64 << 20), (4, 8), (4, 1 << 20), (48, 8)] {
                    if let Some(leaf) = Leaf::of(algorithm, collective, world_size, len_bytes) {
                        assert_eq!(leaf.reference(), algorithm, "{leaf} for {collective}");
                    }
                }
            }
        }
    }

    #[test]
    fn collectives_with_a_leaf_have_one_at_every_size_and_none_alone() {
        let cases = [
            (Collective::ALL[0], Algorithm::Doubling),
            (Collective::ALL[1], Algorithm::Chain),
            (Collective::ALL[2], Algorithm::Chain),
            (Collective::ALL[3], Algorithm::Direct),
            (Collective::ALL[4], Algorithm::Direct),
            (Collective::Barrier, Algorithm::Dissemination),
        ];
        for (collective, algorithm) in cases {
            for len_bytes in [0, 8, 4 << 10, 1 << 20, usize::MAX] {
                assert_eq!(Leaf::of(algorithm, collective, 1, len_bytes), None);
                for world_size in [2, 3, 8, 17, 200] {
                    assert!(Leaf::of(algorithm, collective, world_size, len_bytes).is_some());
                }
            }
        }
    }
}
