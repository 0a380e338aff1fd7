//! What is called, as data: collectives, element types and reductions on GPU memory.
//!
//! They are those of hosts and some more, which only kernels know: blocks that are moved, floats of eight bits, and sums of
//! products. Here stands what a call means, not how it is done.

use efarun_wire::Rank;

use crate::coll::collective::Collective;
use crate::cuda::DevicePointer;
use crate::element::{ElementType, ReduceOp};

/// A collective on GPU memory. What a `count` of it counts: the vector, or the block of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceCollective {
    /// Every rank gives a vector and gets the reduction of all. The count is the vector's.
    AllReduce,
    /// The root gives a vector, all get it. The count is the vector's.
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
    /// Every rank gives a vector of a block per rank, and gets the reduction of its own block. The count is a block's.
    ReduceScatter,
    /// Every rank gives a block per rank and gets its own from each, in order of rank. The count is a block's.
    AllToAll,
    /// Every rank gives a block, the root gets all, in order of rank. The count is a block's.
    Gather {
        /// Who gets.
        root: Rank,
    },
    /// The root gives a block per rank, each rank gets its own. The count is a block's.
    Scatter {
        /// Who gives.
        root: Rank,
    },
    /// Nothing is given; nobody ends before all have begun. The count is 0.
    Barrier,
}

impl DeviceCollective {
    /// Its name, as the World's operation has it.
    pub fn name(self) -> &'static str {
        match self {
            DeviceCollective::AllReduce => "all_reduce",
            DeviceCollective::Broadcast { .. } => "broadcast",
            DeviceCollective::Reduce { .. } => "reduce",
            DeviceCollective::AllGather => "all_gather",
            DeviceCollective::ReduceScatter => "reduce_scatter",
            DeviceCollective::AllToAll => "all_to_all",
            DeviceCollective::Gather { .. } => "gather",
            DeviceCollective::Scatter { .. } => "scatter",
            DeviceCollective::Barrier => "barrier",
        }
    }

    /// The root, where it has one.
    pub fn root(self) -> Option<Rank> {
        match self {
            DeviceCollective::Broadcast { root }
            | DeviceCollective::Reduce { root }
            | DeviceCollective::Gather { root }
            | DeviceCollective::Scatter { root } => Some(root),
            _ => None,
        }
    }

    /// Whether elements are reduced.
    pub fn reduces(self) -> bool {
        matches!(
            self,
            DeviceCollective::AllReduce | DeviceCollective::Reduce { .. } | DeviceCollective::ReduceScatter
        )
    }

    /// Whether each rank's blocks go to places of their own.
    pub(super) fn moves_blocks(self) -> bool {
        matches!(
            self,
            DeviceCollective::AllToAll | DeviceCollective::Gather { .. } | DeviceCollective::Scatter { .. }
        )
    }

    /// Of how many counts a rank's input and output are where they are used.
    pub(super) fn lengths(self, ranks: u32) -> (usize, usize) {
        let ranks = ranks as usize;
        match self {
            DeviceCollective::AllGather | DeviceCollective::Gather { .. } => (1, ranks),
            DeviceCollective::ReduceScatter | DeviceCollective::Scatter { .. } => (ranks, 1),
            DeviceCollective::AllToAll => (ranks, ranks),
            DeviceCollective::AllReduce
            | DeviceCollective::Broadcast { .. }
            | DeviceCollective::Reduce { .. }
            | DeviceCollective::Barrier => (1, 1),
        }
    }
}

impl From<Collective> for DeviceCollective {
    fn from(collective: Collective) -> Self {
        match collective {
            Collective::AllReduce => DeviceCollective::AllReduce,
            Collective::Broadcast { root } => DeviceCollective::Broadcast { root },
            Collective::Reduce { root } => DeviceCollective::Reduce { root },
            Collective::AllGather => DeviceCollective::AllGather,
            Collective::ReduceScatter => DeviceCollective::ReduceScatter,
            Collective::Barrier => DeviceCollective::Barrier,
        }
    }
}

/// The type of elements in a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceElement {
    /// One that hosts have too.
    Of(ElementType),
    /// A float of four bits of exponent and three of mantissa, without infinity.
    F8E4M3,
    /// A float of five bits of exponent and two of mantissa.
    F8E5M2,
}

impl DeviceElement {
    /// Every one.
    pub(crate) fn all() -> impl Iterator<Item = DeviceElement> {
        let eighths = [DeviceElement::F8E4M3, DeviceElement::F8E5M2];
        ElementType::ALL.map(DeviceElement::Of).into_iter().chain(eighths)
    }

    /// Size of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            DeviceElement::Of(element) => element.size_bytes(),
            DeviceElement::F8E4M3 | DeviceElement::F8E5M2 => 1,
        }
    }

    /// Its number in signatures.
    pub(super) fn code(self) -> u32 {
        match self {
            DeviceElement::Of(element) => {
                let position = ElementType::ALL.iter().position(|&other| other == element);
                position.expect("every type is among all types") as u32
            }
            DeviceElement::F8E4M3 => 100,
            DeviceElement::F8E5M2 => 101,
        }
    }
}

impl From<ElementType> for DeviceElement {
    fn from(element: ElementType) -> Self {
        DeviceElement::Of(element)
    }
}

/// How elements become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceOp {
    /// As hosts do it.
    Of(ReduceOp),
    /// Every rank's input times a factor of its own, rounded to the type, then the sum. Ranks' factors may differ.
    PreMulSum(Factor),
}

/// An element by which a rank multiplies its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factor {
    /// Its bytes, the lowest of these.
    Bytes(u64),
    /// Where the device finds it while the call runs.
    At(DevicePointer),
}

impl DeviceOp {
    /// The kernels' number of it.
    pub(crate) fn code(self) -> u32 {
        match self {
            DeviceOp::Of(ReduceOp::Sum) => 0,
            DeviceOp::Of(ReduceOp::Prod) => 1,
            DeviceOp::Of(ReduceOp::Min) => 2,
            DeviceOp::Of(ReduceOp::Max) => 3,
            DeviceOp::Of(ReduceOp::Avg) => 4,
            DeviceOp::PreMulSum(_) => 5,
        }
    }

    /// The factor's bytes, and where it is: one of both.
    pub(crate) fn factor(self) -> (u64, DevicePointer) {
        match self {
            DeviceOp::Of(_) => (0, DevicePointer(0)),
            DeviceOp::PreMulSum(Factor::Bytes(bytes)) => (bytes, DevicePointer(0)),
            DeviceOp::PreMulSum(Factor::At(pointer)) => (0, pointer),
        }
    }
}

impl From<ReduceOp> for DeviceOp {
    fn from(op: ReduceOp) -> Self {
        DeviceOp::Of(op)
    }
}

/// One call of a collective, as its caller means it.
#[derive(Clone, Copy, Debug)]
pub struct DeviceCall {
    /// Which.
    pub collective: DeviceCollective,
    /// On what.
    pub element: DeviceElement,
    /// How, where it reduces.
    pub op: DeviceOp,
    /// What the collective counts, in elements.
    pub count: usize,
    /// Where the input is. Not used on ranks that give nothing.
    pub input: DevicePointer,
    /// Where the output goes. Not used on ranks that get nothing.
    pub output: DevicePointer,
}

/// A message to a rank or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMessage {
    /// The other rank.
    pub peer: Rank,
    /// What is sent, or where it goes.
    pub data: DevicePointer,
    /// Its length; the same at both ends.
    pub bytes: usize,
}
