//! What a collective means, as data.
//!
//! Every collective is about one *vector*. [`Collective::input`] and [`Collective::output`] say which part of it a rank
//! gives and gets, [`Collective::contributors`] whose inputs an element of the result is made of. The checker proves
//! schedules against this and nothing else. In an in-place call a rank's input and output lie in one piece of memory,
//! each at its place in the vector.

use std::fmt;
use std::ops::Range;

use efarun_wire::Rank;

/// A collective. What a `count` of it counts differs: the whole vector, or the block of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Collective {
    /// Every rank gives a vector and gets the reduction of all, in the same bits. The count is the vector's.
    AllReduce,
    /// The root gives a vector, all others get it. The count is the vector's.
    Broadcast {
        /// Who gives.
        root: Rank,
    },
    /// Every rank gives a vector, the root gets the reduction of all. The count is the vector's.
    Reduce {
        /// Who gets.
        root: Rank,
    },
    /// Every rank gives a block and gets all blocks, in order of rank. The count is a block's.
    AllGather,
    /// Every rank gives a vector of as many blocks as there are ranks, and gets the reduction of its own block. The
    /// count is a block's.
    ReduceScatter,
    /// Nothing is given; nobody ends before all have begun. The count is 0.
    Barrier,
}

/// Whose inputs an element of the result is made of, each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contributors {
    /// Every rank's.
    All,
    /// This rank's.
    Only(Rank),
}

impl Collective {
    /// One of each, rooted at rank 0 where there is a root, in the order of help texts.
    pub const ALL: [Collective; 6] = [
        Collective::AllReduce,
        Collective::Broadcast { root: Rank(0) },
        Collective::Reduce { root: Rank(0) },
        Collective::AllGather,
        Collective::ReduceScatter,
        Collective::Barrier,
    ];

    /// Its name, as the World's operation and `efa-perf` have it.
    pub fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::Broadcast { .. } => "broadcast",
            Collective::Reduce { .. } => "reduce",
            Collective::AllGather => "all_gather",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::Barrier => "barrier",
        }
    }

    /// The root, where it has one.
    pub fn root(self) -> Option<Rank> {
        match self {
            Collective::Broadcast { root } | Collective::Reduce { root } => Some(root),
            _ => None,
        }
    }

    /// The same with this root; one that has none remains as it is.
    pub fn with_root(self, root: Rank) -> Collective {
        match self {
            Collective::Broadcast { .. } => Collective::Broadcast { root },
            Collective::Reduce { .. } => Collective::Reduce { root },
            other => other,
        }
    }

    /// Whether elements are reduced.
    pub fn reduces(self) -> bool {
        matches!(self, Collective::AllReduce | Collective::Reduce { .. } | Collective::ReduceScatter)
    }

    /// Whether the vector has a block per rank, of which the count is one's length.
    pub fn has_blocks(self) -> bool {
        matches!(self, Collective::AllGather | Collective::ReduceScatter)
    }

    /// Elements of the vector.
    pub fn vector_len(self, world_size: u32, count: usize) -> usize {
        if self.has_blocks() { count.saturating_mul(world_size as usize) } else { count }
    }

    /// The part of the vector that a rank gives.
    pub fn input(self, rank: Rank, world_size: u32, count: usize) -> Range<usize> {
        match self {
            Collective::Broadcast { root } if rank != root => 0..0,
            Collective::AllGather => block(rank, count),
            _ => 0..self.vector_len(world_size, count),
        }
    }

    /// The part of the vector that a rank gets.
    pub fn output(self, rank: Rank, world_size: u32, count: usize) -> Range<usize> {
        match self {
            Collective::Broadcast { root } if rank == root => 0..0,
            Collective::Reduce { root } if rank != root => 0..0,
            Collective::ReduceScatter => block(rank, count),
            _ => 0..self.vector_len(world_size, count),
        }
    }

    /// Whose inputs this element of the vector is made of, at those who get it.
    pub fn contributors(self, element: usize, count: usize) -> Contributors {
        match self {
            Collective::Broadcast { root } => Contributors::Only(root),
            Collective::AllGather => Contributors::Only(Rank((element / count.max(1)) as u32)),
            _ => Contributors::All,
        }
    }

    /// The least that all ranks together must reduce.
    pub fn least_reduced(self, world_size: u32, count: usize) -> u128 {
        if self.reduces() {
            self.vector_len(world_size, count) as u128 * u128::from(world_size.saturating_sub(1))
        } else {
            0
        }
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn block(rank: Rank, count: usize) -> Range<usize> {
    rank.index() * count..(rank.index() + 1) * count
}
