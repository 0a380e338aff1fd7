//! Which leaf does a call, and with how many blocks.
//!
//! Pure, and the same on every rank: both ends of a channel must exist. The sizes are measured ones (BENCHMARKING.md).

use super::call::DeviceCollective;
use super::layout::{
    CHANNELS_MAX, DIRECT_BYTES, ONE_SHOT_BYTES, ONE_SHOT_CHANNELS, ROUND_BYTES, THREADS, TWO_SHOT_CHANNELS,
    WARP,
};
use super::part::{Leaf, Shape};

/// The leaf for a call. `is_registered` says whether every rank reaches every other's buffers.
pub(super) fn leaf(shape: Shape, is_registered: bool) -> Leaf {
    let has_ring = shape.has_ring() && shape.vector_bytes() >= ring_bytes_min(shape);
    let is_direct = is_registered && shape.block_bytes() >= DIRECT_BLOCK_BYTES_MIN;
    if shape.one_shot_bytes() <= one_shot_bytes_max(shape) {
        Leaf::OneShot
    } else if is_direct && !(has_ring && shape.ranks > 2 && shape.vector_bytes() >= DIRECT_VECTOR_BYTES_MAX) {
        Leaf::Direct
    } else if has_ring {
        Leaf::Ring
    } else if shape.has_slots() && shape.block_bytes() >= slots_bytes_min(shape) {
        Leaf::Slots
    } else {
        Leaf::TwoShot
    }
}

/// How many blocks a leaf runs with.
pub(super) fn blocks(leaf: Leaf, shape: Shape) -> u32 {
    let up_to = |units: usize, per_block: u32, blocks_max: u32| {
        u32::try_from(units.div_ceil(per_block as usize)).unwrap_or(blocks_max).clamp(1, blocks_max)
    };
    let block_bytes = shape.block_bytes();
    match leaf {
        Leaf::OneShot => up_to(shape.one_shot_bytes().div_ceil(ONE_SHOT_BYTES), THREADS, ONE_SHOT_CHANNELS),
        Leaf::TwoShot => up_to(block_bytes.div_ceil(ROUND_BYTES), THREADS / WARP, TWO_SHOT_CHANNELS),
        Leaf::Direct => up_to(block_bytes.div_ceil(DIRECT_BYTES), THREADS, CHANNELS_MAX),
        Leaf::Ring => up_to(shape.ring_bytes(), shape.slice_bytes() as u32, shape.ring_channels()),
        Leaf::Slots => unreachable!("its launch is one of messages"),
    }
}

/// To how many bytes sending everything to everybody is the shorter way.
fn one_shot_bytes_max(shape: Shape) -> usize {
    let bytes = match shape.collective {
        // Measured with 2 and 4 ranks. With 8 it is reckoned: such a call takes as long as one of 8 B, and as a link takes at
        // 316 GB/s for twice the vector (half of a cell is data) to every peer, which is what 128 KiB took with 4 ranks and
        // 32 KiB with 8. So 128 KiB take 14.5 us by all_reduce, where two exchanges took 16.4.
        DeviceCollective::AllReduce
        | DeviceCollective::Reduce { .. }
        | DeviceCollective::Broadcast { .. } => 128 << 10,
        _ => 16 << 10,
    };
    bytes.min(ONE_SHOT_BYTES_MAX)
}

/// From how many bytes on whole stores to one neighbour are worth a longer way than two exchanges with everybody.
fn ring_bytes_min(shape: Shape) -> usize {
    match shape.collective {
        // What two exchanges move twice.
        DeviceCollective::Broadcast { .. } | DeviceCollective::Reduce { .. } => 3 << 20,
        _ => 12 << 20,
    }
}

/// From how many bytes on a message goes by slots: below it, a slice's way costs more than lines in which not all is data.
pub(super) const SLOTS_BYTES_MIN: usize = 2 << 20;

/// The same of a block that is only moved: where one rank alone gives or gets, lines go empty the other way.
fn slots_bytes_min(shape: Shape) -> usize {
    if shape.collective.root().is_some() { SLOTS_BYTES_MIN / 2 } else { SLOTS_BYTES_MIN }
}

/// From here on more than two ranks go faster around a ring than all to all, also where nothing needs to be staged.
const DIRECT_VECTOR_BYTES_MAX: usize = 24 << 20;

/// One cell per thread and peer.
pub(super) const ONE_SHOT_BYTES_MAX: usize = (ONE_SHOT_CHANNELS * THREADS) as usize * ONE_SHOT_BYTES;

/// Below this the two meetings of a direct call cost more than the copies that it saves.
const DIRECT_BLOCK_BYTES_MIN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::collective::Collective;

    fn shape(collective: impl Into<DeviceCollective>, count_bytes: usize, ranks: u32) -> Shape {
        Shape { collective: collective.into(), count_bytes, ranks }
    }

    #[test]
    fn small_calls_are_one_exchange_and_registered_large_ones_direct() {
        let leaf = |bytes, is_registered| leaf(shape(Collective::AllReduce, bytes, 4), is_registered);
        assert_eq!(leaf(8, true), Leaf::OneShot);
        assert_eq!(leaf(1 << 20, true), Leaf::TwoShot);
        assert_eq!((leaf(8 << 20, false), leaf(8 << 20, true)), (Leaf::TwoShot, Leaf::Direct));
        assert_eq!((leaf(64 << 20, false), leaf(64 << 20, true)), (Leaf::Ring, Leaf::Ring));
    }

    #[test]
    fn long_blocks_that_are_moved_go_by_slots_unless_they_are_reached() {
        let leaf = |bytes, is_registered| leaf(shape(DeviceCollective::AllToAll, bytes, 4), is_registered);
        assert_eq!(
            (leaf(SLOTS_BYTES_MIN - 1, false), leaf(SLOTS_BYTES_MIN, false)),
            (Leaf::TwoShot, Leaf::Slots)
        );
        assert_eq!(leaf(SLOTS_BYTES_MIN, true), Leaf::Direct);
    }

    #[test]
    fn blocks_cover_the_one_shot_leaf_and_stay_within_the_channels() {
        for collective in Collective::ALL {
            for ranks in 2..=8 {
                for bytes in [0, 1, 100, 4096, 65_536, 131_072, 1 << 20, 1 << 33] {
                    let shape = shape(collective, bytes, ranks);
                    let one_shot = blocks(Leaf::OneShot, shape);
                    if leaf(shape, false) == Leaf::OneShot {
                        assert!((one_shot * THREADS) as usize * ONE_SHOT_BYTES >= shape.one_shot_bytes());
                    }
                    assert!((1..=ONE_SHOT_CHANNELS).contains(&one_shot));
                    assert!((1..=TWO_SHOT_CHANNELS).contains(&blocks(Leaf::TwoShot, shape)));
                    assert!((1..=CHANNELS_MAX).contains(&blocks(Leaf::Direct, shape)));
                    if shape.has_ring() {
                        assert!((1..=CHANNELS_MAX).contains(&blocks(Leaf::Ring, shape)));
                    }
                }
            }
        }
    }
}
