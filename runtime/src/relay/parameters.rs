//! What a launch is told, and where things lie, as the kernels have it (`cuda/kernels/relay.cuh`).

use crate::cuda::DevicePointer;

/// How many stretches a transfer can put, and how many it can get.
pub const SPANS_MAX: usize = 16;
/// How many slices are on their way at once.
pub(crate) const CHANNELS: usize = 16;
/// What a channel has room for in each direction.
pub(crate) const SLOT_BYTES: usize = 1 << 20;
/// Of a channel: what it posted, of which plan and slice, and what was answered, in 64-bit words.
pub(crate) const WORDS: usize = 16;
pub(crate) const POSTED: usize = 0;
pub(crate) const PLAN: usize = 1;
pub(crate) const SLICE: usize = 2;
pub(crate) const ANSWERED: usize = 8;
/// The relay's own state on the device.
pub(crate) const STATE_BYTES: usize = 128 + CHANNELS * 16;

/// The kernels' `RelayParameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct RelayParameters {
    pub(crate) outbox: DevicePointer,
    pub(crate) inbox: DevicePointer,
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
    pub(crate) puts: [Span; SPANS_MAX],
    pub(crate) gets: [Span; SPANS_MAX],
    pub(crate) copied: Span,
    pub(crate) copied_to: DevicePointer,
}

/// Where a stretch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Span {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}
