//! What a launch is told, with the layout that the kernels have (`cuda/kernels/protocol.cuh`).

use super::layout::RANKS_MAX;
use crate::cuda::DevicePointer;

/// The kernels' `Parameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Parameters {
    pub(super) window: [DevicePointer; RANKS_MAX],
    pub(super) peer_input: [DevicePointer; RANKS_MAX],
    pub(super) peer_output: [DevicePointer; RANKS_MAX],
    pub(super) input_offset: u64,
    pub(super) output_offset: u64,
    pub(super) input: DevicePointer,
    pub(super) output: DevicePointer,
    pub(super) state: DevicePointer,
    pub(super) status: DevicePointer,
    pub(super) deadline_ns: u64,
    pub(super) part: Part,
    pub(super) op: u32,
    pub(super) signature: u32,
    /// What this rank's input is multiplied by where the operation says so: the element's bytes, or where they are.
    pub(super) factor: u64,
    pub(super) factor_at: DevicePointer,
}

/// A rank's part in a call: how the vector is cut, and who gives whom what.
///
/// Masks have a bit per rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Part {
    /// What one rank is responsible for.
    pub(super) block_bytes: u64,
    /// The vector: all blocks, the last of which may be short.
    pub(super) total_bytes: u64,
    /// From one rank's block of the input to the next one's; 0 where the input is one block.
    pub(super) input_stride: u64,
    /// The same of the output.
    pub(super) output_stride: u64,
    /// This rank.
    pub(super) rank: u32,
    /// How many there are.
    pub(super) ranks: u32,
    /// To whom this rank gives their block.
    pub(super) send: u32,
    /// Whose contributions this rank makes its block of.
    pub(super) receive: u32,
    /// To whom it passes its block of the result on.
    pub(super) forward: u32,
    /// Whose blocks of the result it gets.
    pub(super) collect: u32,
    /// Whether its own block of the result belongs into its output.
    pub(super) keep: u32,
    /// Whether blocks are only moved, each rank's to a place of its own. Then `collect` is of the first exchange, and
    /// `forward` are those who get empty lines, or by the direct leaf those who get blocks.
    pub(super) apart: u32,
    /// By the ring leaf: where slices go. By the two-shot leaf, from or to the root, that the root has no block.
    pub(super) route: Route,
    /// How many hops a slice takes on this rank.
    pub(super) hops: u32,
    /// The root, where the route has one.
    pub(super) root: u32,
    /// The most of a block that goes at a time.
    pub(super) slice_bytes: u32,
    /// How long a slot of the ring leaf is.
    pub(super) slot_bytes: u32,
    pub(super) padding: u32,
}

/// Where the ring leaf's slices go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Route {
    /// Around the ring, reduced on the way, and around it once more as the result.
    #[default]
    ReduceAndGather = 0,
    /// Around the ring, reduced on the way.
    Reduce = 1,
    /// Around the ring as they are.
    Gather = 2,
    /// From the root along the ring, to its predecessor.
    FromRoot = 3,
    /// From the root's successor along the ring to the root, reduced on the way.
    ToRoot = 4,
}

/// A word of the status, which the kernels write and the host reads.
pub(crate) mod status {
    /// Not 0: give up.
    pub(crate) const STOP: usize = 0;
    pub(in crate::nvlink) const CAUSE: usize = 1;
    pub(in crate::nvlink) const PEER: usize = 2;
    pub(in crate::nvlink) const CHANNEL: usize = 3;
    pub(in crate::nvlink) const CALL: usize = 4;
    pub(in crate::nvlink) const SIGNATURE: usize = 5;
    /// Of them all.
    pub(crate) const WORDS: usize = 6;

    pub(in crate::nvlink) const CAUSE_TIMEOUT: u32 = 1;
    pub(in crate::nvlink) const CAUSE_MISMATCH: u32 = 2;
}
