//! From a call to what its kernel is told.
//!
//! Pure: the engine gives the result to a GPU, the tests to an emulator.

use super::call::{DeviceCollective, DeviceElement, DeviceOp};
use super::layout::{RANKS_MAX, RING_THREADS, THREADS};
use super::parameters::Parameters;
use super::part::{Leaf, Shape};
use super::room::Room;
use super::select;
use crate::cuda::{DevicePointer, Grid};

/// What stays the same from call to call of one rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) rank: u32,
    pub(super) ranks: u32,
    pub(super) room: Room,
    /// Every rank's window, as this rank reaches it.
    pub(super) windows: [DevicePointer; RANKS_MAX],
    pub(super) state: DevicePointer,
    pub(super) status: DevicePointer,
    pub(super) deadline_ns: u64,
}

/// One call on one rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) shape: Shape,
    pub(super) leaf: Leaf,
    pub(super) element: DeviceElement,
    pub(super) op: DeviceOp,
    pub(super) input: DevicePointer,
    pub(super) output: DevicePointer,
    /// For the direct leaf.
    pub(super) reached: Option<Reached>,
}

/// Registered memory in which a call's buffers lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    /// Every rank's, as this rank reaches it.
    pub(super) inputs: [DevicePointer; RANKS_MAX],
    /// The same of the outputs'.
    pub(super) outputs: [DevicePointer; RANKS_MAX],
    /// How far into its own this rank's buffers begin. Other ranks' may begin elsewhere in theirs: their kernels tell.
    pub(super) input_offset: usize,
    pub(super) output_offset: usize,
    /// What tells this memory from other, the same on all ranks.
    pub(super) identity: u64,
}

/// What to launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) parameters: Parameters,
    pub(super) grid: Grid,
}

/// A collective of the node that somebody else's launch does among its own steps: one exchange, in one block.
#[derive(Clone, Copy, Debug)]
pub struct NodeStep {
    parameters: Parameters,
    element: Option<DeviceElement>,
}

impl NodeStep {
    /// What the kernel is told of it.
    pub(crate) fn parameters(&self) -> Parameters {
        self.parameters
    }

    /// What it reduces, where it does.
    pub(crate) fn element(&self) -> Option<DeviceElement> {
        self.element
    }
}

impl Request {
    /// Whether it is one exchange, and done by one block.
    pub(super) fn is_short(&self) -> bool {
        self.leaf == Leaf::OneShot && self.shape.count_bytes > 0 && select::blocks(self.leaf, self.shape) == 1
    }

    /// This as a step of somebody else's launch, where it is [short](Request::is_short).
    pub(super) fn step(&self, standing: &Standing) -> Option<NodeStep> {
        let element = self.shape.is_reduction().then_some(self.element);
        self.is_short().then(|| NodeStep { parameters: self.launch(standing).parameters, element })
    }

    /// What the kernel is told, by any leaf but the slots leaf, whose launch is [`super::pairs::of_blocks`].
    pub(super) fn launch(&self, standing: &Standing) -> Launch {
        let Standing { rank, ranks, room, windows, state, status, deadline_ns } = *standing;
        debug_assert_eq!((ranks, room), (self.shape.ranks, self.shape.room));
        let (factor, factor_at) = self.op.factor();
        let mut parameters = Parameters {
            window: windows,
            peer_input: [DevicePointer(0); RANKS_MAX],
            peer_output: [DevicePointer(0); RANKS_MAX],
            input_offset: 0,
            output_offset: 0,
            input: self.input,
            output: self.output,
            state,
            status,
            deadline_ns,
            part: match self.leaf {
                Leaf::OneShot => self.shape.one_shot(rank),
                Leaf::TwoShot => self.shape.two_shot(rank),
                Leaf::Direct => self.shape.direct(rank).part,
                Leaf::Ring => self.shape.ring(rank),
                Leaf::Slots => unreachable!("its launch is one of messages"),
            },
            op: if self.shape.is_reduction() { self.op.code() } else { 0 },
            signature: self.signature(),
            factor,
            factor_at,
        };
        if let (Leaf::Direct, Some(reached)) = (self.leaf, self.reached) {
            let direct = self.shape.direct(rank);
            parameters.input_offset = reached.input_offset as u64;
            parameters.output_offset = reached.output_offset as u64;
            for peer in 0..ranks as usize {
                parameters.peer_input[peer] = reached.inputs[peer].offset(direct.input);
                parameters.peer_output[peer] = reached.outputs[peer].offset(direct.output);
            }
        }
        let blocks = select::blocks(self.leaf, self.shape);
        let threads = if self.leaf == Leaf::Ring { RING_THREADS } else { THREADS };
        Launch { parameters, grid: Grid { blocks, threads } }
    }

    /// What the ranks must agree on, in 32 bits.
    pub(super) fn signature(&self) -> u32 {
        let reduces = self.shape.is_reduction();
        let words = [
            collective_code(self.shape),
            self.shape.collective.root().map_or(0, |root| u64::from(root.0)),
            self.shape.count_bytes as u64,
            u64::from(self.shape.ranks),
            if reduces { u64::from(self.element.code()) } else { 0 },
            if reduces { u64::from(self.op.code()) } else { 0 },
            self.leaf as u64,
            self.reached.map_or(0, |reached| reached.identity),
        ];
        // FNV-1a, whose lower half depends on all that went in, folded with the upper.
        let hash =
            words.into_iter().flat_map(u64::to_le_bytes).fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        (hash ^ (hash >> 32)) as u32
    }
}

fn collective_code(shape: Shape) -> u64 {
    match shape.collective {
        DeviceCollective::AllReduce => 1,
        DeviceCollective::Broadcast { .. } => 2,
        DeviceCollective::Reduce { .. } => 3,
        DeviceCollective::AllGather => 4,
        DeviceCollective::ReduceScatter => 5,
        DeviceCollective::Barrier => 6,
        DeviceCollective::AllToAll => 7,
        DeviceCollective::Gather { .. } => 8,
        DeviceCollective::Scatter { .. } => 9,
    }
}
