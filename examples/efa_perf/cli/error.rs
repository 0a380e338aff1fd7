//! Why arguments that parse one by one make no run together.

use efarun_rt::Rank;
use efarun_rt::coll::select::NoSuchAlgorithm;

/// A fault of the command line that clap cannot see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// `-b` beyond `-e`.
    #[error("the smallest size ({min_bytes} B, -b) is larger than the largest ({max_bytes} B, -e)")]
    EmptySweep {
        /// `-b`.
        min_bytes: u64,
        /// `-e`.
        max_bytes: u64,
    },
    /// A size or step of nothing.
    #[error("{flag} must be at least 1 byte")]
    Zero {
        /// The flag.
        flag: &'static str,
    },
    /// `--nodes` beyond `--world`.
    #[error("--nodes {nodes}: {world_size} ranks (--world) are on {world_size} nodes at most")]
    EmptyNodes {
        /// `--nodes`.
        nodes: u32,
        /// `--world`.
        world_size: u32,
    },
    /// `--algo` that nothing measured has.
    #[error("--algo: {0}")]
    Algorithm(#[from] NoSuchAlgorithm),
    /// `-r` beyond the world.
    #[error(
        "-r {root}: there is no such rank in a world of {world_size} (0 to {}); -1 takes every rank in turn",
        world_size - 1
    )]
    NoSuchRoot {
        /// `-r`.
        root: Rank,
        /// World size.
        world_size: u32,
    },
    /// Not one size that gives every rank an element.
    #[error(
        "no size from {min_bytes} to {max_bytes} B (-b, -e) gives each of {world_size} ranks an element of {element}: \
         take -e {needed_bytes} or more"
    )]
    NoElements {
        /// `-b`.
        min_bytes: u64,
        /// `-e`.
        max_bytes: u64,
        /// World size.
        world_size: u32,
        /// The element type.
        element: String,
        /// The smallest size that does.
        needed_bytes: u64,
    },
    /// `--on` of something else than all_reduce.
    #[error("--on: there is no model of {collective} between instances, only of all_reduce")]
    NotModelled {
        /// What was to be explained.
        collective: &'static str,
    },
    /// `--plot` of a barrier alone.
    #[error("--plot: barrier has no sizes to draw a curve over")]
    NothingToPlot,
    /// Buffers beyond memory.
    #[error(
        "a rank's buffers need {}, and the node with the least free memory has {} for each of its ranks: take a \
         smaller -e, or a smaller --rotate",
        crate::units::bytes(*.needed_bytes),
        crate::units::bytes(*.free_bytes)
    )]
    Memory {
        /// What a rank needs.
        needed_bytes: u64,
        /// What the node with the least memory has for a rank.
        free_bytes: u64,
    },
    /// `--rotate auto` where the cache's size cannot be seen.
    #[error("--rotate auto: a node does not say how large its last-level cache is: give a number of buffers")]
    UnknownCache,
}
