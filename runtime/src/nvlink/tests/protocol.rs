//! The protocol between GPUs: layouts agree, cells are used again and again in any order of events, and waits end.

use super::collectives::{Case, Chance, LEAVES, collectives, run};
use super::emulator::{Emulator, Node};
use crate::coll::collective::Collective;
use crate::element::{ElementType, ReduceOp};
use crate::nvlink::call::DeviceCollective;
use crate::nvlink::layout;
use crate::nvlink::pairs::{MESSAGES_MAX, PairParameters};
use crate::nvlink::parameters::{Parameters, status};
use crate::nvlink::part::Leaf;
use crate::relay::far::parameters::{self as far, AllParameters, FarParameters};
use crate::relay::parameters::{self as relay, RelayParameters};
use crate::relay::short_steps::ShortStepsParameters;
use efarun_wire::Rank;

#[test]
fn kernels_and_host_have_one_layout() {
    let Some(emulator) = Emulator::new("kernels_and_host_have_one_layout") else { return };
    let expected = [
        size_of::<Parameters>(),
        layout::SLOT_DATA,
        layout::STATE_BYTES,
        layout::RANKS_MAX,
        layout::THREADS as usize,
        layout::CHANNELS_MAX as usize,
        layout::ONE_SHOT_CHANNELS as usize,
        layout::TWO_SHOT_CHANNELS as usize,
        layout::ROUND_BYTES,
        std::mem::offset_of!(Parameters, status),
        std::mem::offset_of!(Parameters, part.rank),
        std::mem::offset_of!(Parameters, op),
        std::mem::offset_of!(Parameters, signature),
        layout::STATE_CALLS,
        std::mem::offset_of!(Parameters, factor),
        std::mem::offset_of!(Parameters, part.apart),
        size_of::<PairParameters>(),
        std::mem::offset_of!(PairParameters, messages),
        layout::PAIR_CHANNELS as usize,
        layout::PAIR_WARPS as usize,
        layout::PAIR_SLOTS as usize,
        layout::PAIR_CHANNEL_BYTES,
        MESSAGES_MAX,
        layout::RING_SLOTS,
        layout::RING_DATA_BYTES,
        layout::RING_THREADS as usize,
        layout::MESSAGE_THREADS as usize,
        std::mem::offset_of!(Parameters, part.route),
        std::mem::offset_of!(Parameters, part.slice_bytes),
        std::mem::offset_of!(Parameters, part.slot_bytes),
        size_of::<RelayParameters>(),
        std::mem::offset_of!(RelayParameters, gets),
        relay::SPANS_MAX,
        relay::CHANNELS,
        relay::SLOT_BYTES,
        relay::WORDS * 8,
        relay::POSTS * 8,
        relay::POST_WORDS * 8,
        relay::ROUNDS,
        relay::ANSWERED * 8,
        relay::STATE_BYTES,
        relay::SHORT_BYTES,
        relay::STRETCH_CELL_WORDS / 2,
        relay::ROUND_CELL_WORDS * 8,
        relay::GOT_CELL_WORDS * 8,
        layout::SLOT_CHANNELS as usize,
        layout::SLOTS,
        layout::SLICE_UNIT_BYTES,
        std::mem::offset_of!(PairParameters, before),
        size_of::<FarParameters>(),
        std::mem::offset_of!(FarParameters, lanes),
        std::mem::offset_of!(FarParameters, peers),
        std::mem::offset_of!(FarParameters, puts),
        std::mem::offset_of!(FarParameters, gets),
        far::CHANNELS,
        far::PLACES,
        far::SLICE_BYTES,
        far::LANES_MAX,
        far::LONG_MAX,
        far::PUT_DOORS,
        far::GET_DOORS,
        far::DOORS,
        far::FAR_STATE_BYTES,
        size_of::<AllParameters>(),
        std::mem::offset_of!(AllParameters, near),
        size_of::<ShortStepsParameters>(),
        std::mem::offset_of!(ShortStepsParameters, node),
        std::mem::offset_of!(ShortStepsParameters, is_node_first),
    ];
    let found: Vec<_> = (0..expected.len() as u32).map(|which| emulator.constant(which) as usize).collect();
    assert_eq!(found, expected);
}

/// Short calls of all kinds, drawn from a seed, one behind the other and often several of one leaf: what is written again is
/// written while somebody may still read it, if the protocol lets him.
fn mixed_calls(ranks: u32, count: usize, seed: u64) -> Vec<Case> {
    let mut chance = Chance(seed);
    let mut leaf = Leaf::OneShot;
    let mut call = |index: usize| {
        let mut draw = |below: u64| (chance.next() % below) as usize;
        let collective = collectives(draw(u64::from(ranks)) as u32)[draw(8)];
        if draw(4) == 0 {
            leaf = LEAVES[draw(LEAVES.len() as u64)];
        }
        let len = [1, 60, 240, 700][draw(4)];
        Case::new(
            (collective, leaf),
            (ElementType::I32, ReduceOp::Sum),
            (ranks, len),
            seed * 100 + index as u64,
        )
    };
    (0..count).map(&mut call).collect()
}

#[test]
fn cells_are_used_again_only_when_they_are_free() {
    let Some(emulator) = Emulator::new("cells_are_used_again_only_when_they_are_free") else { return };
    for seed in 0..seeds() {
        let ranks = [2, 3, 4][seed as usize % 3];
        let node = Node::new(ranks, u64::MAX);
        run(&emulator, &node, &mixed_calls(ranks, 10, seed), seed, &format!("seed {seed}"));
    }
}

#[test]
fn rounds_of_one_call_use_lines_again_only_when_they_are_free() {
    let Some(emulator) = Emulator::new("rounds_of_one_call_use_lines_again_only_when_they_are_free") else {
        return;
    };
    // Half a mebibyte per block is one round of the two-shot leaf, and one mebibyte a slice of every channel of the ring;
    // these have two or three in some warps or channels.
    let rooted = [Collective::Broadcast { root: Rank(1) }, Collective::Reduce { root: Rank(0) }];
    for (seed, collective) in rooted.into_iter().enumerate() {
        for leaf in [Leaf::TwoShot, Leaf::Ring] {
            let node = Node::new(2, u64::MAX);
            let case = Case::new((collective, leaf), (ElementType::I64, ReduceOp::Max), (2, 290_000), 1);
            run(&emulator, &node, &[case], seed as u64, "rounds");
        }
    }
}

#[test]
fn numbers_of_calls_begin_again_after_their_last() {
    let Some(emulator) = Emulator::new("numbers_of_calls_begin_again_after_their_last") else { return };
    for ranks in [2, 3] {
        let mut node = Node::new(ranks, u64::MAX);
        node.pretend_calls(u32::MAX - 4);
        run(&emulator, &node, &mixed_calls(ranks, 9, 5), 11, "wrap");
    }
}

#[test]
fn a_rank_that_calls_something_else_is_named_on_both_sides() {
    let Some(emulator) = Emulator::new("a_rank_that_calls_something_else_is_named_on_both_sides") else {
        return;
    };
    let reduced = |leaf, op| Case::new((Collective::AllReduce, leaf), (ElementType::F32, op), (2, 100), 1);
    let root = Rank(0);
    let moved =
        |collective| Case::new((collective, Leaf::Slots), (ElementType::U8, ReduceOp::Sum), (2, 100_000), 1);
    let pairs = [
        (reduced(Leaf::TwoShot, ReduceOp::Sum), reduced(Leaf::TwoShot, ReduceOp::Max)),
        (moved(DeviceCollective::AllToAll), reduced(Leaf::Ring, ReduceOp::Sum)),
        // Both wait for each other's block, or both send one.
        (moved(DeviceCollective::Gather { root }), moved(DeviceCollective::Scatter { root })),
        (moved(DeviceCollective::Gather { root: Rank(1) }), moved(DeviceCollective::Scatter { root })),
    ];
    for (left, right) in pairs {
        let (one, other) = (left.request(0), right.request(1));
        let node = Node::new(2, 1 << 24);
        assert!(emulator.run(&node, &[vec![one, one], vec![other, other]], 1, 1 << 28));
        for (rank, signature) in [(0, other.signature()), (1, one.signature())] {
            let status = node.status(rank);
            assert_eq!(status[status::CAUSE], status::CAUSE_MISMATCH);
            assert_eq!((status[status::PEER], status[status::SIGNATURE]), (1 - rank as u32, signature));
        }
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_at_the_deadline_and_nobody_spins_on() {
    let Some(emulator) =
        Emulator::new("a_rank_that_does_not_come_is_named_at_the_deadline_and_nobody_spins_on")
    else {
        return;
    };
    for leaf in LEAVES {
        let case = Case::new((done_by(leaf), leaf), (ElementType::F32, ReduceOp::Sum), (3, 1000), 1);
        let node = Node::new(3, 1 << 20);
        let requests = [vec![case.request(0); 2], vec![case.request(1); 2], Vec::new()];
        assert!(emulator.run(&node, &requests, 1, 1 << 28), "{}", leaf.name());
        for rank in 0..2 {
            let status = node.status(rank);
            assert_eq!(
                (status[status::CAUSE], status[status::PEER]),
                (status::CAUSE_TIMEOUT, 2),
                "{}",
                leaf.name()
            );
        }
    }
}

#[test]
fn a_host_that_says_stop_ends_every_wait() {
    let Some(emulator) = Emulator::new("a_host_that_says_stop_ends_every_wait") else { return };
    for leaf in LEAVES {
        let case = Case::new((done_by(leaf), leaf), (ElementType::F32, ReduceOp::Sum), (2, 1000), 1);
        let mut node = Node::new(2, u64::MAX);
        node.stop(0);
        assert!(emulator.run(&node, &[vec![case.request(0); 2], Vec::new()], 1, 1 << 28), "{}", leaf.name());
        assert_eq!(node.status(0)[status::CAUSE], 0);
    }
}

/// A collective that a leaf does.
fn done_by(leaf: Leaf) -> DeviceCollective {
    if leaf == Leaf::Slots { DeviceCollective::AllToAll } else { DeviceCollective::AllReduce }
}

/// Few in CI, more by `scripts/test --all`.
pub(super) fn seeds() -> u64 {
    if std::env::var_os("EFARUN_TEST_MATRIX").is_some_and(|matrix| matrix == "full") { 120 } else { 12 }
}
