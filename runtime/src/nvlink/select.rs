//! Which leaf does a call, and with how many blocks.
//!
//! Pure, and the same on every rank: both ends of a channel must exist. The sizes are measured ones (BENCHMARKING.md).

use super::call::DeviceCollective;
use super::layout::{
    CHANNELS_MAX, DIRECT_BYTES, ONE_SHOT_BYTES, ONE_SHOT_CHANNELS, ROUND_BYTES, THREADS, TWO_SHOT_CHANNELS,
    WARP,
};
use super::part::{Leaf, Shape};
use super::room::Room;

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
        let blocks_max = blocks_max.min(shape.room.blocks());
        u32::try_from(units.div_ceil(per_block as usize)).unwrap_or(blocks_max).clamp(1, blocks_max)
    };
    let block_bytes = shape.block_bytes();
    match leaf {
        Leaf::OneShot => up_to(shape.one_shot_bytes().div_ceil(ONE_SHOT_BYTES), THREADS, ONE_SHOT_CHANNELS),
        Leaf::TwoShot => {
            let rounds = shape.two_shot_block_bytes().div_ceil(ROUND_BYTES);
            up_to(rounds, THREADS / WARP, TWO_SHOT_CHANNELS)
        }
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
        // With 8 ranks twice a block to every peer is more than what two exchanges take longer.
        _ if shape.ranks > 4 => 32 << 10,
        _ => 64 << 10,
    };
    bytes.min(one_shot_bytes_within(shape.room))
}

/// What the one-shot leaf can do: one cell per thread and peer.
pub(super) fn one_shot_bytes_within(room: Room) -> usize {
    (ONE_SHOT_CHANNELS.min(room.blocks()) * THREADS) as usize * ONE_SHOT_BYTES
}

/// From how many bytes on whole stores to one neighbour are worth a longer way than two exchanges with everybody. These take the
/// longer the fewer blocks they have: with 16 of them 8 MiB of an all_reduce between 2 took 103 us, and 16 MiB around the ring 125.
fn ring_bytes_min(shape: Shape) -> usize {
    let blocks = TWO_SHOT_CHANNELS.min(shape.room.blocks()) as usize;
    ring_bytes_min_of_all_blocks(shape) * blocks / TWO_SHOT_CHANNELS as usize
}

fn ring_bytes_min_of_all_blocks(shape: Shape) -> usize {
    match shape.collective {
        // Two exchanges move what is between two ranks twice: 4 MiB of a broadcast in 19.4 us instead of 20.4, but 8 in 33.1 instead
        // of 32.1, and of a reduce 8 in 32.8 instead of 33.4 and 16 in 60.4 instead of 57.3. Where there are more ranks, the
        // root has no block of its own, and they move 16 MiB among 4 in 69 us instead of 74, and 32 MiB in 131 instead of 120.
        DeviceCollective::Broadcast { .. } | DeviceCollective::Reduce { .. } if shape.ranks > 2 => 20 << 20,
        DeviceCollective::Broadcast { .. } => 6 << 20,
        DeviceCollective::Reduce { .. } => 10 << 20,
        // Between 2 at no length that was measured: 8 MiB take 19.9 us instead of 21.6, and 32 MiB 64.2 instead of 66.3.
        DeviceCollective::ReduceScatter if shape.ranks == 2 => 40 << 20,
        // Between 2, 8 MiB of an all_gather take 19.4 us instead of 19.9 and 16 MiB 34.1 instead of 32.9; of an all_reduce 59.8
        // instead of 58.9. Among 4, 8 MiB of an all_gather took 31.2 instead of 29.4 by the two-shot leaf's code for any number of
        // ranks; by that for 4 this is 27 by reckoning, as 2 MiB of 4 ranks that share two GPUs took 12.2 instead of 14.6.
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

/// Below this the two meetings of a direct call cost more than the copies that it saves.
const DIRECT_BLOCK_BYTES_MIN: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::collective::Collective;
    use crate::nvlink::layout::{RING_DATA_BYTES, RING_SLOTS};
    use crate::nvlink::pairs::Slots;
    use efarun_wire::Rank;

    fn shape(collective: impl Into<DeviceCollective>, count_bytes: usize, ranks: u32) -> Shape {
        Shape { collective: collective.into(), count_bytes, ranks, room: Room::WHOLE }
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

    const COLLECTIVES: [DeviceCollective; 9] = [
        DeviceCollective::AllReduce,
        DeviceCollective::Broadcast { root: Rank(0) },
        DeviceCollective::Reduce { root: Rank(0) },
        DeviceCollective::AllGather,
        DeviceCollective::ReduceScatter,
        DeviceCollective::AllToAll,
        DeviceCollective::Gather { root: Rank(0) },
        DeviceCollective::Scatter { root: Rank(0) },
        DeviceCollective::Barrier,
    ];

    fn lengths() -> impl Iterator<Item = usize> {
        (0..=33).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1, (3 << power) / 2 + 40])
    }

    /// All that is chosen by length, in one number.
    fn fingerprint(room: Room) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut take = |number: u64| {
            for byte in number.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for ranks in 1..=8 {
            let Slots { channels, bytes, slices_per_channel, message_bytes_min, blocks: _ } =
                Slots::of(ranks, room);
            for number in [channels as usize, bytes, slices_per_channel, message_bytes_min] {
                take(number as u64);
            }
            take(Slots::of(ranks, room).window_bytes(ranks) as u64);
            for collective in COLLECTIVES {
                for count_bytes in lengths() {
                    let shape = Shape { collective, count_bytes, ranks, room };
                    take(leaf(shape, false) as u64);
                    take(leaf(shape, true) as u64);
                    for leaf in [Leaf::OneShot, Leaf::TwoShot, Leaf::Direct] {
                        take(u64::from(blocks(leaf, shape)));
                    }
                    if shape.has_ring() {
                        take(u64::from(blocks(Leaf::Ring, shape)));
                        take(u64::from(shape.ring_channels()));
                        take(shape.slice_bytes() as u64);
                    }
                }
            }
        }
        hash
    }

    #[test]
    fn no_collective_has_more_blocks_than_are_allowed_or_takes_a_whole_gpu() {
        // An A100, an H100 of PCIe and an H200.
        for multiprocessors in [108, 114, 132] {
            for allowed in [u32::MAX, 100, 24, 1] {
                for (ranks, collective) in (2..=8).flat_map(|ranks| COLLECTIVES.map(|it| (ranks, it))) {
                    let room = Room::of(1, multiprocessors).within(allowed, ranks as usize);
                    for shape in lengths().map(|count_bytes| Shape { collective, count_bytes, ranks, room }) {
                        for leaf in [leaf(shape, false), leaf(shape, true)] {
                            let most = allowed.max(ranks).min(multiprocessors - 4);
                            assert!(
                                leaf == Leaf::Slots || blocks(leaf, shape) <= most,
                                "{leaf:?} of {shape:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn slots_of_a_ring_take_what_slices_there_are_and_stay_where_they_are() {
        for allowed in [1, 16, 17, 24, 33, 64, 128] {
            for (ranks, collective) in (2..=8).flat_map(|ranks| COLLECTIVES.map(|it| (ranks, it))) {
                let room = Room::WHOLE.within(allowed, ranks as usize);
                let slots = Shape { collective, count_bytes: 1, ranks, room }.slot_bytes();
                for shape in lengths().map(|count_bytes| Shape { collective, count_bytes, ranks, room }) {
                    assert_eq!(shape.slot_bytes(), slots, "another call's slots lie elsewhere: {shape:?}");
                    if shape.has_ring() {
                        assert!(shape.slice_bytes() <= slots, "{shape:?}");
                        let bytes = blocks(Leaf::Ring, shape) as usize * RING_SLOTS * slots;
                        assert!(bytes <= RING_DATA_BYTES, "{shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn rings_begin_the_sooner_the_fewer_blocks_there_are() {
        let first = |room| {
            let leaf = |mib: usize| leaf(Shape { room, ..shape(Collective::AllReduce, mib << 20, 2) }, false);
            (1..64).find(|&mib| leaf(mib) == Leaf::Ring)
        };
        let allowing = |blocks| Room::of(1, 132).within(blocks, 2);
        assert_eq!([128, 64, 32].map(|blocks| first(allowing(blocks))), [Some(12), Some(6), Some(3)]);
    }

    #[test]
    fn what_is_chosen_for_ranks_that_share_a_gpu_differs_by_what_it_has_no_room_for_alone() {
        // Nothing has as many blocks, neither where ranks share GPUs nor where they do not.
        assert_eq!(fingerprint(Room::of(2, u32::MAX)), fingerprint(Room::WHOLE));
        assert_ne!(fingerprint(Room::of(2, 132)), fingerprint(Room::WHOLE));
    }

    #[test]
    fn what_is_chosen_for_ranks_that_share_a_gpu_fits_on_it_and_can_do_the_call() {
        for (sharing, multiprocessors) in [(2, 132), (4, 132), (8, 132), (7, 108), (8, 108), (8, 64)] {
            let room = Room::of(sharing, multiprocessors);
            let fits = |blocks: u32| (1..=multiprocessors).contains(&(sharing * blocks));
            for (ranks, collective) in (sharing..=8).flat_map(|ranks| COLLECTIVES.map(|it| (ranks, it))) {
                for count_bytes in lengths() {
                    let shape = Shape { collective, count_bytes, ranks, room };
                    for leaf in [leaf(shape, false), leaf(shape, true)] {
                        let is_one_shot = leaf == Leaf::OneShot;
                        assert!(!is_one_shot || count_bytes <= one_shot_bytes_within(room), "{shape:?}");
                        assert!(leaf == Leaf::Slots || fits(blocks(leaf, shape)), "{leaf:?} of {shape:?}");
                        let cells = (blocks(Leaf::OneShot, shape) * THREADS) as usize * ONE_SHOT_BYTES;
                        assert!(!is_one_shot || cells >= count_bytes, "{shape:?}");
                    }
                }
            }
        }
    }
}
