//! On buffers that ranks reach in each other calls give the bits that they give on others, by one copy, and a call that fails
//! leaves its buffer to its caller.
//!
//! # Safety
//! A test writes to a cell as its rank would, of an epoch that nobody has seen, and to a part that nobody uses meanwhile.
#![allow(unsafe_code)]

use std::time::Duration;

use half::bf16;

use super::*;
use crate::coll::buffers::Buffers;
use crate::coll::collective::Collective;
use crate::coll::executor::Call;
use crate::coll::executor::signature::Signature;
use crate::coll::executor::spin::Spin;
use crate::coll::select::Choice;
use crate::element::{Element, ReduceOp};
use crate::transport::TransportError;
use crate::transport::shm::board::Board;
use crate::transport::shm::region::Part;
use crate::transport::shm::{Arena, Geometry};
use crate::world::tests::on_all;
use crate::world::{Options, SharedBuffer, World};
use efarun_wire::Rank;

/// Sums of which depend on the order.
fn given<T: Element>(rank: Rank, count: usize, of: impl Fn(f32) -> T) -> Vec<T> {
    let value = |index: usize| {
        let mixed = (index as u32 + 1).wrapping_mul(0x9e37_79b9) ^ rank.0.wrapping_mul(0x85eb_ca6b);
        (mixed >> 8) as f32 / 65_536.0 - 100.0
    };
    (0..count).map(|index| of(value(index))).collect()
}

/// A leaf's reference, whether or not there are leaves.
fn by(leaf: Leaf) -> Options {
    Options { algorithm: Some(Choice::Fixed(leaf.reference())), deadline: None }
}

/// What a rank has after each collective on buffers of `alloc`, apart, in place and in parts of them.
fn results<T: Element + bytemuck::Pod>(
    world: &mut World,
    count: usize,
    op: ReduceOp,
    of: impl Fn(f32) -> T,
) -> Vec<(&'static str, Vec<u8>)> {
    let (rank, ranks) = (world.rank(), world.world_size() as usize);
    let mut input: SharedBuffer<T> = world.alloc(count * ranks).expect("memory");
    let mut output: SharedBuffer<T> = world.alloc(count * ranks + 5).expect("memory");
    let all = given(rank, count * ranks, of);
    let mut results = Vec::new();
    let mut keep = |what, found: &[T]| results.push((what, bytemuck::cast_slice(found).to_vec()));
    let root = Rank(count as u32 % ranks as u32);
    input.copy_from_slice(&all);

    world.all_reduce_into_with(&input, &mut output[5..], op, &by(Leaf::OneShot)).expect("no error");
    keep("all_reduce", &output[5..]);
    world.reduce_scatter_with(&input, &mut output[..count], op, &by(Leaf::Collect)).expect("no error");
    keep("reduce_scatter", &output[..count]);
    world
        .all_gather_with(&input[count..][..count], &mut output[..count * ranks], &by(Leaf::Spread))
        .expect("no error");
    keep("all_gather", &output[..count * ranks]);
    world
        .reduce_into_with(&input, &mut output[1..][..count * ranks], op, root, &by(Leaf::Up))
        .expect("no error");
    keep("reduce", if rank == root { &output[1..][..count * ranks] } else { &[] });
    assert!(*input == *all, "inputs are left alone");

    world.all_reduce_with(&mut input[..count], op, &by(Leaf::OneShot)).expect("no error");
    keep("all_reduce in place", &input[..count]);
    input.copy_from_slice(&all);
    world.reduce_with(&mut input[3..], op, root, &by(Leaf::Up)).expect("no error");
    keep("reduce in place", &input);
    input.copy_from_slice(&all);
    world.all_gather_in_place_with(&mut input, &by(Leaf::Spread)).expect("no error");
    keep("all_gather in place", &input);
    input.copy_from_slice(&all);
    world.reduce_scatter_in_place_with(&mut input, op, &by(Leaf::Collect)).expect("no error");
    keep("reduce_scatter in place", &input[rank.index() * count..][..count]);
    input.copy_from_slice(&all);
    world.broadcast_with(&mut input[1..], root, &by(Leaf::Down)).expect("no error");
    keep("broadcast", &input);

    // Where one rank's buffer is not reached the call goes as any.
    let mut plain = all.clone();
    let mixed = if rank == root { &mut plain[..] } else { &mut input[..] };
    mixed.copy_from_slice(&all);
    world.all_reduce_with(mixed, op, &by(Leaf::OneShot)).expect("no error");
    keep("all_reduce, one rank without", mixed);
    drop((input, output));
    world.barrier().expect("no error");
    results
}

#[test]
fn shared_buffers_give_the_references_bits() {
    for (world_size, count) in [(2, 9001), (2, 300_001), (3, 20_011), (4, 16_384)] {
        let run = |leaves| {
            let worlds = World::builder().leaves(leaves).thread_worlds(world_size).expect("a world");
            on_all(worlds, |mut world| {
                let mut all = results(&mut world, count, ReduceOp::Sum, |value| value);
                all.extend(results(&mut world, count, ReduceOp::Avg, bf16::from_f32));
                all.extend(results(&mut world, count, ReduceOp::Max, |value| value as i16));
                world.close().expect("all close");
                all
            })
        };
        for (rank, (ours, theirs)) in run(true).into_iter().zip(run(false)).enumerate() {
            for ((what, ours), (_, theirs)) in ours.into_iter().zip(theirs) {
                assert!(ours == theirs, "{what} of {count} on rank {rank} of {world_size}");
            }
        }
    }
}

/// What runs leaves on each of two ranks, and each one's part of a region.
fn pair(part_bytes: usize) -> [(Leaves, Part, Arc<Region>); 2] {
    let arena = Arc::new(Arena::create(Geometry::new(2)).expect("an arena"));
    let made = Region::create(2, part_bytes).expect("memory");
    let opened = Region::open(&made.offer(), 2, part_bytes).expect("the same");
    let mut me = 0;
    [made, opened].map(|region| {
        let board = Board::new(Arc::clone(&arena), me).expect("memory");
        let mut leaves =
            Leaves::new(board, vec![Rank(0), Rank(1)], me, Spin::new(Duration::from_micros(10)), 10);
        let region = Arc::new(region);
        leaves.add_region(Arc::clone(&region));
        let part = Part::take(Arc::clone(&region), me).expect("memory");
        me += 1;
        (leaves, part, region)
    })
}

fn all_reduce(leaves: &mut Leaves, data: &mut [u32], patience: Duration) -> Result<(), ExecError> {
    let call = Call { sequence: 0, op: ReduceOp::Sum, buffers: Buffers::in_place(data), patience };
    leaves.run(Leaf::OneShot, Collective::AllReduce, Signature(7), call, &mut || None)
}

#[test]
fn a_long_call_on_shared_buffers_takes_two_epochs_whatever_its_length() {
    for len in [LEAST_BYTES, 1 << 20] {
        std::thread::scope(|scope| {
            for (mut leaves, mut part, _) in pair(len) {
                scope.spawn(move || {
                    let data: &mut [u32] = bytemuck::cast_slice_mut(part.bytes_mut());
                    data.fill(21);
                    all_reduce(&mut leaves, data, Duration::from_secs(60)).expect("both are there");
                    assert!(data.iter().all(|&element| element == 42));
                    assert_eq!(leaves.places.epoch(), 2);
                });
            }
        });
    }
}

/// The other rank's first epoch of a long call on its whole part, as it would be shown.
fn show(board: &Board, whereabouts: Whereabouts) {
    let cell = board.cell(1, 1, 0, WHEREABOUTS_BYTES);
    // SAFETY: the cell holds as much, and the other rank has not seen the epoch.
    unsafe { cell.cast::<Whereabouts>().write(whereabouts) };
    board.show(1, 7);
}

#[test]
fn what_a_late_rank_writes_after_a_call_has_failed_is_not_seen_by_its_caller() {
    let [(mut leaves, mut part, _), (others, _other_part, region)] = pair(LEAST_BYTES);
    show(&others.board, [1, 0, 1, 0]);
    let data: &mut [u32] = bytemuck::cast_slice_mut(part.bytes_mut());
    data.fill(5);
    let error =
        all_reduce(&mut leaves, data, Duration::from_millis(50)).expect_err("it does not come to its end");
    assert!(matches!(error, ExecError::Timeout { .. }), "{error}");
    data.fill(6);
    // SAFETY: within rank 0's part, in a mapping that nobody else uses.
    unsafe { region.part(0).write_bytes(9, LEAST_BYTES) };
    assert!(data.iter().all(|&element| element == 6));
}

#[test]
fn a_rank_that_says_what_cannot_be_of_its_buffer_is_lost() {
    for wrong in [[2, 0, 1, 0], [1, 4, 1, 0], [1, 0, 1, u64::MAX], [u64::MAX, 0, 1, 0]] {
        let [(mut leaves, mut part, _), (others, ..)] = pair(LEAST_BYTES);
        show(&others.board, wrong);
        let data: &mut [u32] = bytemuck::cast_slice_mut(part.bytes_mut());
        let error = all_reduce(&mut leaves, data, Duration::from_secs(5)).expect_err("it cannot be");
        let is_lost = |error: &ExecError| {
            matches!(
                error,
                ExecError::Transport { source: TransportError::PeerLost { peer: Rank(1), .. }, .. }
            )
        };
        assert!(is_lost(&error), "{wrong:?}: {error}");
    }
}
