//! Leaves give their references' bits, and say what the executor says where something is wrong.
//!
//! # Safety
//! A test writes to a cell as its rank would, of an epoch that nobody has seen.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use half::{bf16, f16};

use super::*;
use crate::coll::collective::Collective;
use crate::coll::executor::error::ExecError;
use crate::coll::fault::Wait;
use crate::coll::select::{Algorithm, Choice};
use crate::element::{Element, ReduceOp};
use crate::error::Error;
use crate::transport::TransportError;
use crate::transport::shm::Seen;
use crate::transport::shm::board::POSTS;
use crate::transport::shm::{Arena, Geometry};
use crate::world::tests::on_all;
use crate::world::{Options, World};

/// Elements in whose sums and products the order shows: of many magnitudes, and of both signs where there are two.
trait Awkward: Element + bytemuck::Pod {
    fn awkward(bits: u64) -> Self;
}

macro_rules! awkward {
    ($($type:ty: $from:expr;)*) => {$(
        impl Awkward for $type {
            fn awkward(bits: u64) -> Self {
                $from(bits)
            }
        }
    )*};
}

fn float(bits: u64) -> f64 {
    let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
    sign * (1.0 + (bits >> 1 & 0xff_ffff) as f64 / f64::from(1 << 24))
        * [1e-3, 1.0, 7.0, 300.0][(bits >> 60 & 3) as usize]
}

awkward! {
    i8: |bits| bits as i8;
    u8: |bits| bits as u8;
    i16: |bits| bits as i16;
    u16: |bits| bits as u16;
    i32: |bits| bits as i32;
    u32: |bits| bits as u32;
    i64: |bits| bits as i64;
    u64: |bits| bits;
    f16: |bits| f16::from_f64(float(bits));
    bf16: |bits| bf16::from_f64(float(bits));
    f32: |bits| float(bits) as f32;
    f64: float;
}

fn given<T: Awkward>(rank: Rank, count: usize) -> Vec<T> {
    let mix = |index: usize| {
        let seed = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(rank.0) << 48;
        (seed ^ seed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    (0..count).map(|index| T::awkward(mix(index))).collect()
}

fn bytes<T: Awkward>(elements: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(elements).to_vec()
}

/// What a rank has after each of the calls that have a leaf, apart and in place, by the leaves' references.
fn results<T: Awkward>(world: &mut World, counts: &[usize], ops: &[ReduceOp]) -> Vec<(String, Vec<u8>)> {
    let by = |leaf: Leaf| Options { algorithm: Some(Choice::Fixed(leaf.reference())), deadline: None };
    let rank = world.rank();
    let mut all = Vec::new();
    let mut keep = |what: String, result: &[T]| all.push((what, bytes(result)));
    for &count in counts {
        let input = given::<T>(rank, count);
        for &op in ops {
            let what = format!("{count} {} by {op}", T::TYPE);
            let mut output = vec![T::zeroed(); count];
            world.all_reduce_into_with(&input, &mut output, op, &by(Leaf::OneShot)).expect("no error");
            keep(format!("all_reduce of {what}"), &output);
            let mut data = input.clone();
            world.all_reduce_with(&mut data, op, &by(Leaf::OneShot)).expect("no error");
            keep(format!("all_reduce of {what} in place"), &data);
            let root = Rank(count as u32 % world.world_size());
            let mut data = input.clone();
            world.reduce_with(&mut data, op, root, &by(Leaf::Up)).expect("no error");
            keep(format!("reduce of {what} to {root} in place"), &data);
            let mut output = vec![T::zeroed(); if rank == root { count } else { 0 }];
            world.reduce_into_with(&input, &mut output, op, root, &by(Leaf::Up)).expect("no error");
            keep(format!("reduce of {what} to {root}"), &output);
            let ranks = world.world_size() as usize;
            let blocks = given::<T>(rank, count * ranks);
            let mut output = vec![T::zeroed(); count];
            world.reduce_scatter_with(&blocks, &mut output, op, &by(Leaf::Collect)).expect("no error");
            keep(format!("reduce_scatter of {what}"), &output);
            let mut data = blocks;
            world.reduce_scatter_in_place_with(&mut data, op, &by(Leaf::Collect)).expect("no error");
            keep(format!("reduce_scatter of {what} in place"), &data[rank.index() * count..][..count]);
        }
        let mut output = vec![T::zeroed(); count * world.world_size() as usize];
        world.all_gather_with(&input, &mut output, &by(Leaf::Spread)).expect("no error");
        keep(format!("all_gather of {count} {}", T::TYPE), &output);
        let mut data = vec![T::zeroed(); output.len()];
        data[rank.index() * count..][..count].copy_from_slice(&input);
        world.all_gather_in_place_with(&mut data, &by(Leaf::Spread)).expect("no error");
        keep(format!("all_gather of {count} {} in place", T::TYPE), &data);
        for root in [0, world.world_size() - 1].map(Rank) {
            let mut data = input.clone();
            world.broadcast_with(&mut data, root, &by(Leaf::Down)).expect("no error");
            keep(format!("broadcast of {count} {} from {root}", T::TYPE), &data);
        }
        world.barrier_with(&by(Leaf::Flags)).expect("no error");
    }
    all
}

/// Runs the same calls by leaves and by messages.
fn compare(world_size: u32, calls: impl Fn(&mut World) -> Vec<(String, Vec<u8>)> + Sync) {
    let run = |leaves| {
        let worlds = World::builder().leaves(leaves).thread_worlds(world_size).expect("a world");
        on_all(worlds, |mut world| {
            let results = calls(&mut world);
            world.close().expect("all close");
            results
        })
    };
    for (rank, (by_leaves, by_messages)) in run(true).into_iter().zip(run(false)).enumerate() {
        assert!(!by_leaves.is_empty());
        for ((what, ours), (_, theirs)) in by_leaves.into_iter().zip(by_messages) {
            assert!(ours == theirs, "{what} on rank {rank} of {world_size}");
        }
    }
}

#[test]
fn all_types_and_operations_give_the_references_bits() {
    for world_size in [2, 3, 4] {
        compare(world_size, |world| {
            let counts = [1, 7, 100];
            let ops = &ReduceOp::ALL;
            let mut all = results::<f32>(world, &counts, ops);
            all.extend(results::<f64>(world, &counts, ops));
            all.extend(results::<f16>(world, &counts, ops));
            all.extend(results::<bf16>(world, &counts, ops));
            all.extend(results::<i8>(world, &counts, ops));
            all.extend(results::<u8>(world, &counts, ops));
            all.extend(results::<i16>(world, &counts, ops));
            all.extend(results::<u16>(world, &counts, ops));
            all.extend(results::<i32>(world, &counts, ops));
            all.extend(results::<u32>(world, &counts, ops));
            all.extend(results::<i64>(world, &counts, ops));
            all.extend(results::<u64>(world, &counts, ops));
            all
        });
    }
}

/// One-shot, fan and two-shot; within a cache line, a cell, as many as there are and more; pieces that cut off a rest.
#[test]
fn all_lengths_and_worlds_give_the_references_bits() {
    for world_size in [2, 3, 5, 8, 17] {
        let counts: &[usize] = match world_size {
            2 | 3 => &[0, 28, 29, 2048, 16_384, 16_385, 300_003],
            17 => &[2, 130, 1000],
            _ => &[12, 341, 342, 2048, 16_385, 40_001],
        };
        compare(world_size, |world| {
            let mut all = results::<f32>(world, counts, &[ReduceOp::Sum]);
            all.extend(results::<bf16>(world, counts, &[ReduceOp::Avg]));
            all
        });
    }
}

/// Roots run ahead, cells are used again and again, and every content is looked at.
#[test]
fn calls_of_all_kinds_in_a_row_keep_their_contents_apart() {
    for world_size in [2, 4] {
        on_all(World::thread_worlds(world_size).expect("a world"), |mut world| {
            let (rank, size) = (world.rank(), u64::from(world.world_size()));
            for round in 0..2000u64 {
                let len = [1, 6, 7, 300, 5000][(round * 7 % 11 % 5) as usize];
                let root = Rank((round % size) as u32);
                match round * 5 % 13 % 4 {
                    0 => {
                        let mut data = vec![if rank == root { round } else { 0 }; len];
                        world.broadcast(&mut data, root).expect("no error");
                        assert!(data.iter().all(|&found| found == round), "{round}");
                    }
                    1 => {
                        let mut data = vec![round + u64::from(rank.0); len];
                        world.reduce(&mut data, ReduceOp::Max, root).expect("no error");
                        let expected = round + if rank == root { size - 1 } else { u64::from(rank.0) };
                        assert!(data.iter().all(|&found| found == expected), "{round}");
                    }
                    2 => world.barrier().expect("no error"),
                    _ => {
                        let mut data = vec![round + u64::from(rank.0); len];
                        world.all_reduce(&mut data, ReduceOp::Min).expect("no error");
                        assert!(data.iter().all(|&found| found == round), "{round}");
                    }
                }
            }
            world.close().expect("all close");
        });
    }
}

#[test]
fn calls_that_differ_are_a_mismatch_whether_they_go_by_messages_or_not() {
    let started = Instant::now();
    let by_messages = Options { algorithm: Some(Choice::Fixed(Algorithm::Ring)), deadline: None };
    for differ in 0..4 {
        // Where nobody compares them each waits for the other, which is to be found out.
        let worlds = World::builder().deadline(Duration::from_secs(20)).thread_worlds(2).expect("a world");
        let ends = on_all(worlds, |mut world| {
            world.barrier().expect("both");
            let odd = world.rank() == Rank(1);
            let result = match differ {
                0 if odd => world.all_gather_with(&[1i32; 4], &mut [0; 8], &by_messages),
                0 => world.all_reduce(&mut [1i32; 8], ReduceOp::Sum),
                // Each awaits the other's content.
                1 => world.broadcast(&mut [1i32; 8], Rank(u32::from(!odd))),
                2 if odd => world.reduce_scatter_with(&[1i32; 8], &mut [0; 4], ReduceOp::Sum, &by_messages),
                2 => world.barrier(),
                // Both by leaves that await everybody.
                _ if odd => world.all_gather(&[1i32; 4], &mut [0; 8]),
                _ => world.reduce_scatter(&[1i32; 8], &mut [0; 4], ReduceOp::Sum),
            };
            result.expect_err("they differ")
        });
        // The first to see it may end before the other has, which then learns that its peer is gone.
        let is_told = |end: &Error| matches!(end, Error::Mismatch { .. } | Error::PeerLost { .. });
        assert!(ends.iter().all(is_told), "{ends:?}");
        assert!(ends.iter().any(|end| matches!(end, Error::Mismatch { .. })), "{ends:?}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "it does not take a deadline to see it");
}

/// What every rank has of each leaf, where those that read want cells written past the caches, or do not.
fn by_wish(world_size: u32, count: usize, is_far: bool) -> Vec<Vec<Vec<u8>>> {
    let arena = Arc::new(Arena::create(Geometry::new(world_size)).expect("an arena"));
    let ranks = world_size as usize;
    let run = &|me: Rank| {
        let board = Board::new(Arc::clone(&arena), me.index()).expect("memory");
        board.tell_far(is_far);
        let node = (0..world_size).map(Rank).collect();
        let mut leaves = Leaves::new(board, node, me.index(), Spin::new(Duration::from_micros(10)), 10);
        let mut all = Vec::new();
        let cases = [
            (Leaf::OneShot, Collective::AllReduce, count, count),
            (Leaf::TwoShot, Collective::AllReduce, count, count),
            (Leaf::Down, Collective::Broadcast { root: Rank(0) }, count, count),
            (Leaf::Up, Collective::Reduce { root: Rank(0) }, count, count),
            (Leaf::Spread, Collective::AllGather, count, count * ranks),
            (Leaf::Collect, Collective::ReduceScatter, count * ranks, count),
        ];
        // Often enough that samples are among the epochs.
        for (sequence, (leaf, collective, input_len, output_len)) in (0..).zip(cases.repeat(3)) {
            let gives = collective.root().is_none_or(|root| root == me) || leaf == Leaf::Up;
            let gets = collective.root().is_none_or(|root| (root == me) == (leaf == Leaf::Up));
            let input = given::<f32>(me, if gives { input_len } else { 0 });
            let mut output = vec![0f32; if gets { output_len } else { 0 }];
            let buffers = crate::coll::buffers::Buffers::out_of_place(&input, &mut output);
            let call = Call { sequence, op: ReduceOp::Sum, buffers, patience: Duration::from_secs(60) };
            leaves.run(leaf, collective, Signature(7), call, &mut || None).expect("no error");
            all.push(bytes(&output));
        }
        all
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world_size).map(|me| scope.spawn(move || run(Rank(me)))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn the_bits_do_not_depend_on_how_cells_are_written() {
    for (world_size, count) in [(2, 300), (2, 60_001), (3, 20_001), (4, 70_003)] {
        let (cached, past) = (by_wish(world_size, count, false), by_wish(world_size, count, true));
        assert!(cached == past, "{count} elements of {world_size} ranks");
        let sum = |index: usize| {
            (0..world_size).map(|rank| f64::from(given::<f32>(Rank(rank), count)[index])).sum::<f64>()
        };
        let last = cached[1][0].last_chunk().map(|bytes| f32::from_ne_bytes(*bytes)).expect("elements");
        assert!((f64::from(last) - sum(count - 1)).abs() < 1e-3 * f64::from(world_size));
    }
}

/// The boards of two ranks, and what runs leaves on the first.
fn pair() -> (Leaves, Board) {
    let arena = Arc::new(Arena::create(Geometry::new(2)).expect("an arena"));
    let board = |me| Board::new(Arc::clone(&arena), me).expect("memory");
    (Leaves::new(board(0), vec![Rank(0), Rank(1)], 0, Spin::new(Duration::from_micros(10)), 10), board(1))
}

fn all_reduce(leaves: &mut Leaves, data: &mut [u32], signature: u64) -> Result<(), ExecError> {
    let buffers = crate::coll::buffers::Buffers::in_place(data);
    let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience: Duration::from_millis(50) };
    leaves.run(Leaf::OneShot, Collective::AllReduce, Signature(signature), call, &mut || None)
}

/// Shows one number as a rank would.
fn show(board: &Board, epoch: u64, signature: u64, value: u32) {
    let cell = board.cell(1, epoch, 0, 4);
    // SAFETY: the cell holds as much, and the other rank has not seen the epoch.
    unsafe { cell.cast::<u32>().write(value) };
    board.show(epoch, signature);
}

#[test]
fn what_a_peer_has_shown_is_taken_at_its_epoch_only() {
    let (mut leaves, peer) = pair();
    show(&peer, 1, 7, 40);
    let mut data = [2];
    all_reduce(&mut leaves, &mut data, 7).expect("both are there");
    assert_eq!(data, [42]);
    // What was shown so many epochs ago in the same place is nothing.
    for epoch in 2..=POSTS as u64 {
        show(&peer, epoch, 7, 40);
        peer.finish(epoch);
        all_reduce(&mut leaves, &mut [2], 7).expect("both are there");
    }
    let late = all_reduce(&mut leaves, &mut [2], 7).expect_err("nothing was shown");
    assert!(matches!(late, ExecError::Timeout { wait: Wait::Message { from: Rank(1) }, .. }), "{late:?}");
}

#[test]
fn a_peer_that_shows_what_it_cannot_have_come_to_is_lost() {
    let (mut leaves, peer) = pair();
    show(&peer, 1 + POSTS as u64, 7, 40);
    let error = all_reduce(&mut leaves, &mut [2], 7).expect_err("a later epoch in the place of epoch 1");
    let ExecError::Transport { source: TransportError::PeerLost { peer: Rank(1), cause }, .. } = &error
    else {
        panic!("{error:?}")
    };
    assert!(cause.contains("corrupt"), "{cause}");
}

#[test]
fn content_of_another_signature_is_a_mismatch() {
    let (mut leaves, peer) = pair();
    peer.enter(1, 8);
    show(&peer, 1, 8, 40);
    let error = all_reduce(&mut leaves, &mut [2], 7).expect_err("they differ");
    let expected = (Signature(7), Signature(8));
    let ExecError::Mismatch { peer: Rank(1), signature, peer_signature, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((signature, peer_signature), expected);
}

/// Who writes to a cell before all have read it is found out here.
#[test]
fn a_cell_is_not_written_again_before_all_have_read_it() {
    let (mut leaves, peer) = pair();
    let data = [5u32];
    let root = Collective::Broadcast { root: Rank(0) };
    let broadcast = |leaves: &mut Leaves| {
        let buffers = crate::coll::buffers::Buffers::input_only(&data);
        let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience: Duration::from_millis(50) };
        leaves.run(Leaf::Down, root, Signature(7), call, &mut || None)
    };
    for _ in 0..POSTS {
        broadcast(&mut leaves).expect("there are as many cells");
    }
    let full = broadcast(&mut leaves).expect_err("nobody has read");
    assert!(matches!(full, ExecError::Timeout { wait: Wait::Credit { to: Rank(1) }, .. }), "{full:?}");
    assert_eq!(peer.seen(0, 1), Seen::Shown(7), "it is still there");
}

/// As before, where memory ends before posts do.
#[test]
fn memory_is_not_written_again_before_all_have_read_what_lies_there() {
    let arena = Arc::new(Arena::create(Geometry::new(32)).expect("an arena"));
    let board = |me| Board::new(Arc::clone(&arena), me).expect("memory");
    let node = (0..32).map(Rank).collect();
    let mut leaves = Leaves::new(board(0), node, 0, Spin::new(Duration::from_micros(10)), 10);
    let (data, root) = (vec![5u8; CELL_BYTES], Collective::Broadcast { root: Rank(0) });
    let broadcast = |leaves: &mut Leaves| {
        let buffers = crate::coll::buffers::Buffers::input_only(&data);
        let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience: Duration::from_millis(50) };
        leaves.run(Leaf::Down, root, Signature(7), call, &mut || None)
    };
    let cells = leaves.board.cells_bytes() / CELL_BYTES;
    assert!(cells < POSTS);
    for _ in 0..cells {
        broadcast(&mut leaves).expect("there is memory");
    }
    let readers: Vec<Board> = (1..32).map(board).collect();
    readers[1..].iter().for_each(|reader| reader.finish(1));
    let full = broadcast(&mut leaves).expect_err("rank 1 has not read");
    assert!(matches!(full, ExecError::Timeout { wait: Wait::Credit { to: Rank(1) }, .. }), "{full:?}");
}

/// Who says that it has read what it has yet to read is found out here: a peer that is told so writes something else there.
#[test]
fn what_is_not_read_yet_is_not_said_to_be() {
    const ROUNDS: u32 = 300;
    const COUNT: usize = CELL_BYTES / 4;
    let fill = |cell: *mut u8, len: usize, value: u32| {
        // SAFETY: the peer's own cell, which holds as much; the other rank has not seen it yet, or says that it has read it.
        unsafe { std::slice::from_raw_parts_mut(cell.cast::<u32>(), len / 4) }.fill(value);
    };
    for (leaf, shares) in [(Leaf::OneShot, 0), (Leaf::TwoShot, 1)] {
        let (mut leaves, peer) = pair();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut places = Places::new(peer.cells_bytes());
                let deadline = Instant::now() + Duration::from_secs(40);
                let mut show = |len: usize, value| {
                    let epoch = places.next(len);
                    let cell = peer.cell(1, epoch, places.offset(epoch), len);
                    fill(cell, len, value);
                    peer.finish(epoch);
                    peer.show(epoch, 7);
                    while peer.done(0) < epoch {
                        assert!(Instant::now() < deadline, "epoch {epoch} is not read");
                        std::hint::spin_loop();
                    }
                    fill(cell, len, u32::MAX);
                };
                for round in 0..ROUNDS {
                    show(CELL_BYTES, round);
                    (0..shares).for_each(|_| show(CELL_BYTES / 2, 2 * round + 1));
                }
            });
            for round in 0..ROUNDS {
                let mut data = vec![round + 1; COUNT];
                let buffers = crate::coll::buffers::Buffers::in_place(&mut data);
                let patience = Duration::from_secs(20);
                let call = Call { sequence: 0, op: ReduceOp::Sum, buffers, patience };
                let run = leaves.run(leaf, Collective::AllReduce, Signature(7), call, &mut || None);
                run.expect("the peer shows all that is awaited");
                assert!(data.iter().all(|&sum| sum == 2 * round + 1), "round {round} by {leaf}");
            }
        });
    }
}

#[test]
fn a_peer_that_closes_is_lost_and_what_it_had_shown_is_not() {
    let arena = Arc::new(Arena::create(Geometry::new(2)).expect("an arena"));
    let board = |me| Board::new(Arc::clone(&arena), me).expect("memory");
    let mut leaves = Leaves::new(board(0), vec![Rank(0), Rank(1)], 0, Spin::new(Duration::ZERO), 1);
    show(&board(1), 1, 7, 40);
    let mut peer =
        crate::transport::shm::ShmTransport::new(Arc::clone(&arena), Rank(1), vec![Rank(0), Rank(1)]);
    crate::transport::Transport::close(&mut peer);
    let mut data = [2];
    all_reduce(&mut leaves, &mut data, 7).expect("it was there");
    assert_eq!(data, [42]);
    let error = all_reduce(&mut leaves, &mut data, 7).expect_err("it is gone");
    assert!(error.to_string().contains("closed its World"), "{error}");
}
