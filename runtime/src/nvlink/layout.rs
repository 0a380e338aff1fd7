//! Where things lie in the memory that ranks share, and in a rank's own: the same numbers as in the kernels
//! (`cuda/kernels/protocol.cuh`), with which a test compares them.

/// How many ranks a node can have.
pub const RANKS_MAX: usize = 8;
/// Threads of a block.
pub const THREADS: u32 = 512;
/// The same by the ring leaf: a warp that waits, and one that tells, beside those that move.
pub const RING_THREADS: u32 = THREADS + 2 * WARP;
/// The same by messages, of which each direction has two such warps.
pub const MESSAGE_THREADS: u32 = THREADS + 4 * WARP;
/// How many blocks a launch can have.
pub const CHANNELS_MAX: u32 = 128;
/// How many of them the one-shot leaf can have.
pub const ONE_SHOT_CHANNELS: u32 = 32;
/// How many of them the two-shot leaf can have.
pub const TWO_SHOT_CHANNELS: u32 = 128;
/// What a thread of the one-shot leaf sends each peer.
pub const ONE_SHOT_BYTES: usize = 8;
/// What a warp of the two-shot leaf sends each peer in a round.
pub const ROUND_BYTES: usize = 480;
/// What a thread of the direct leaf moves at a time.
pub const DIRECT_BYTES: usize = 16;
/// How many blocks each peer can have for messages.
pub const PAIR_CHANNELS: u32 = 32;
/// How many of a block's warps send, and how many receive.
pub const PAIR_WARPS: u32 = THREADS / WARP / 2;
/// How many lines a warp can be ahead of its receiver.
pub const PAIR_SLOTS: u32 = 16;
/// A message goes by a channel for each so many bytes.
pub const PAIR_CHANNEL_BYTES: usize = 8192;
/// How many channels long messages have at most.
pub const SLOT_CHANNELS: u32 = 64;
/// How many slots each of them has of each peer.
pub const SLOTS: usize = 4;
/// What a slice is, or a multiple of: what a block's threads move at once.
pub const SLICE_UNIT_BYTES: usize = THREADS as usize * 16;
/// Of how many messages a rank keeps what their sender said of them when it began.
const NOTES: usize = 128;
/// How many channels the ring leaf has at most. Two ranks on one GPU move as much with half of them: a channel's block is bound by
/// what its multiprocessor stores.
pub const RING_CHANNELS: u32 = 64;
/// How many slots each channel of the ring leaf has in the next rank's window.
pub const RING_SLOTS: usize = 4;
/// How much those of all channels take.
pub const RING_DATA_BYTES: usize = 16 << 20;
/// Threads that run in step.
pub const WARP: u32 = 32;

/// Greetings and goodbyes, a word per channel, parity and peer for each, and with greetings two words more.
const NOTICES_BYTES: usize = 4 * CHANNELS_MAX as usize * 2 * RANKS_MAX * 8;
const ONE_SHOT_CELLS_BYTES: usize = ONE_SHOT_CHANNELS as usize * 2 * RANKS_MAX * THREADS as usize * 16;
/// Two exchanges, two parities.
const TWO_SHOT_LINES_BYTES: usize = TWO_SHOT_CHANNELS as usize * 2 * 2 * RANKS_MAX * THREADS as usize * 16;
const PAIR_CREDITS_BYTES: usize = PAIR_CHANNELS as usize * RANKS_MAX * PAIR_WARPS as usize * 8;
const PAIR_LINES_BYTES: usize =
    PAIR_CHANNELS as usize * RANKS_MAX * (PAIR_WARPS * PAIR_SLOTS * WARP) as usize * 16;
/// Two words per channel, each on a line of its own, and the slots.
const RING_BYTES: usize = CHANNELS_MAX as usize * 256 + RING_DATA_BYTES;
/// What is said of the slots for each channel and peer.
const SLOT_WORDS_BYTES: usize = SLOT_CHANNELS as usize * RANKS_MAX * 256;
/// What is noted of messages from each rank.
const NOTES_BYTES: usize = RANKS_MAX * (NOTES + 16) * 8;
/// A rank's window, which all ranks reach, zeros at first: all but the slots, which stand behind it.
pub const SLOT_DATA: usize = NOTICES_BYTES
    + ONE_SHOT_CELLS_BYTES
    + TWO_SHOT_LINES_BYTES
    + PAIR_CREDITS_BYTES
    + PAIR_LINES_BYTES
    + RING_BYTES
    + SLOT_WORDS_BYTES
    + NOTES_BYTES;

/// Behind whether a call has failed.
pub(super) const STATE_CALLS: usize = 128;
/// A rank's counters; zeros at first.
pub const STATE_BYTES: usize = STATE_CALLS
    + CHANNELS_MAX as usize * 4
    + (TWO_SHOT_CHANNELS * THREADS / WARP) as usize * 8
    + CHANNELS_MAX as usize * RANKS_MAX * 16
    + PAIR_CHANNELS as usize * RANKS_MAX * PAIR_WARPS as usize * 16
    + CHANNELS_MAX as usize * 16
    + SLOT_CHANNELS as usize * RANKS_MAX * 16;
