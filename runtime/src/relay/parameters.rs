//! What a launch is told, and where things lie, as the kernels have it (`cuda/kernels/relay_protocol.cuh`).

use super::transfer::{Stretch, Transfer};
use crate::cuda::DevicePointer;
use crate::element::ReduceOp;
use crate::nvlink::DeviceOp;

/// How many stretches a transfer can put, and how many it can get.
pub const SPANS_MAX: usize = 16;
/// How many slices are on their way at once.
pub(crate) const CHANNELS: usize = 16;
/// What a channel has room for in each direction.
pub(crate) const SLOT_BYTES: usize = 1 << 20;
/// How many rounds of a channel a host may have been told of and not answered.
pub(crate) const ROUNDS: usize = 8;
/// Of a channel: for each of the last rounds two words that say which plan and slice it is; and how many are answered.
pub(crate) const WORDS: usize = 32;
pub(crate) const POSTS: usize = 0;
pub(crate) const POST_WORDS: usize = 2;
pub(crate) const ANSWERED: usize = 16;
/// The relay's own state on the device.
pub(crate) const STATE_BYTES: usize = 128 + CHANNELS * 16;
/// The longest stretch that goes through cells; the same on every rank.
pub(crate) const SHORT_BYTES: usize = 4 << 10;
/// Of cells, in 64-bit words: of a stretch, and of all that a round puts, and again of all that it gets.
pub(crate) const STRETCH_CELL_WORDS: usize = SHORT_BYTES / 8 * 2;
pub(crate) const ROUND_CELL_WORDS: usize = SPANS_MAX * STRETCH_CELL_WORDS;
pub(crate) const GOT_CELL_WORDS: usize = ROUNDS * ROUND_CELL_WORDS;
/// Of all rounds in both directions: those of a lane.
pub(crate) const LANE_CELL_WORDS: usize = 2 * GOT_CELL_WORDS;

/// The kernels' `RelayParameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RelayParameters {
    pub(crate) outbox: DevicePointer,
    pub(crate) inbox: DevicePointer,
    pub(crate) cells: DevicePointer,
    pub(crate) words: DevicePointer,
    pub(crate) state: DevicePointer,
    pub(crate) status: DevicePointer,
    pub(crate) deadline_ns: u64,
    pub(crate) plan: u64,
    pub(crate) slices: u64,
    pub(crate) slice_bytes: u64,
    pub(crate) own: DevicePointer,
    pub(crate) factor: u64,
    pub(crate) factor_at: DevicePointer,
    pub(crate) put_count: u32,
    pub(crate) get_count: u32,
    pub(crate) place: u32,
    pub(crate) op: u32,
    pub(crate) ranks: u32,
    pub(crate) peer: u32,
    pub(crate) lanes: u32,
    pub(crate) goes_one_way: u32,
    pub(crate) puts: [Span; SPANS_MAX],
    pub(crate) gets: [Span; SPANS_MAX],
    pub(crate) copied: Span,
    pub(crate) copied_to: DevicePointer,
}

/// What all transfers of a rank have in common, or all its launches of messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) outbox: DevicePointer,
    pub(crate) inbox: DevicePointer,
    pub(crate) cells: DevicePointer,
    pub(crate) words: DevicePointer,
    pub(crate) state: DevicePointer,
    pub(crate) status: DevicePointer,
    pub(crate) deadline_ns: u64,
}

impl Standing {
    /// What the kernel is told of a transfer whose plan has this number, where there are so many lanes.
    pub(crate) fn told(&self, transfer: &Transfer, plan: u32, lanes: usize) -> RelayParameters {
        let span = |stretch: &Stretch| Span { address: stretch.pointer.0, bytes: stretch.bytes as u64 };
        let spans = |stretches: &[Stretch]| {
            let mut spans = [Span::default(); SPANS_MAX];
            for (place, stretch) in spans.iter_mut().zip(stretches) {
                *place = span(stretch);
            }
            spans
        };
        let reduction = transfer.reduction;
        let op = reduction.map_or(DeviceOp::Of(ReduceOp::Sum), |reduction| reduction.op);
        let (factor, factor_at) = op.factor();
        let peers = transfer.receives.iter().chain(&transfer.sends);
        RelayParameters {
            outbox: self.outbox,
            inbox: self.inbox,
            cells: self.cells,
            words: self.words,
            state: self.state,
            status: self.status,
            deadline_ns: self.deadline_ns,
            plan: u64::from(plan),
            slices: transfer.slices() as u64,
            slice_bytes: transfer.slice_bytes as u64,
            own: reduction.map_or(DevicePointer(0), |reduction| reduction.own),
            factor,
            factor_at,
            put_count: transfer.puts.len() as u32,
            get_count: transfer.gets.len() as u32,
            place: reduction.map_or(0, |reduction| reduction.place),
            op: op.code(),
            ranks: reduction.map_or(1, |reduction| reduction.ranks),
            peer: peers.map(|(rank, _)| rank.0).next().unwrap_or(0),
            lanes: lanes.max(1) as u32,
            goes_one_way: u32::from(transfer.goes_one_way()),
            puts: spans(&transfer.puts),
            gets: spans(&transfer.gets),
            copied: transfer.copy.map_or_else(Span::default, |(from, _)| span(&from)),
            copied_to: transfer.copy.map_or(DevicePointer(0), |(_, to)| to),
        }
    }
}

/// Where a stretch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Span {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}
