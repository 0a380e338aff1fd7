//! Worlds of several nodes: what leaves do within nodes has the bits of its reference, and what goes wrong is told.

use std::time::Instant;

use efarun_wire::Rank;
use half::bf16;

use super::*;
use crate::config::Provider;
use crate::element::Element;

/// World size, and ranks of a node; the last may have fewer.
const LAYOUTS: [(u32, u32); 3] = [(4, 2), (8, 2), (8, 5)];

fn worlds(world_size: u32, per_node: u32, leaves: bool) -> Vec<World> {
    let builder = World::builder().provider(Provider::Tcp).ranks_per_node(per_node).leaves(leaves);
    builder.thread_worlds(world_size).expect("a world")
}

/// Sums of which depend on the order.
fn given<T: Element>(rank: Rank, count: usize, of: impl Fn(f32) -> T) -> Vec<T> {
    let value = |index: usize| {
        let mixed = (index as u32 + 1).wrapping_mul(0x9e37_79b9) ^ rank.0.wrapping_mul(0x85eb_ca6b);
        (mixed >> 8) as f32 / 65_536.0 - 100.0
    };
    (0..count).map(|index| of(value(index))).collect()
}

/// What a rank has after each collective, apart and in place, on memory that others reach or do not.
fn results<T: Element + bytemuck::Pod>(
    world: &mut World,
    count: usize,
    op: ReduceOp,
    of: impl Fn(f32) -> T,
) -> Vec<(&'static str, Vec<u8>)> {
    let (rank, ranks) = (world.rank(), world.world_size() as usize);
    let all = given(rank, count * ranks, of);
    let mut shared = world.alloc::<T>(count * ranks).expect("memory");
    let mut results = Vec::new();
    let mut keep = |what, found: &[T]| results.push((what, bytemuck::cast_slice(found).to_vec()));
    let mut output = vec![T::zeroed(); count * ranks];
    let root = Rank(count as u32 % ranks as u32);

    world.all_reduce_into(&all, &mut output, op).expect("no error");
    keep("all_reduce", &output);
    world.reduce_scatter(&all, &mut output[..count], op).expect("no error");
    keep("reduce_scatter", &output[..count]);
    world.all_gather(&all[..count], &mut output).expect("no error");
    keep("all_gather", &output);
    world
        .reduce_into(&all, if rank == root { &mut output[..] } else { &mut [] }, op, root)
        .expect("no error");
    keep("reduce", if rank == root { &output } else { &[] });
    let mut data = all.clone();
    world.broadcast(&mut data, root).expect("no error");
    keep("broadcast", &data);
    world.barrier().expect("no error");

    for is_shared in [false, true] {
        let data: &mut [T] = if is_shared { &mut shared } else { &mut data };
        data.copy_from_slice(&all);
        world.all_reduce(data, op).expect("no error");
        keep("all_reduce in place", data);
        data.copy_from_slice(&all);
        world.reduce(data, op, root).expect("no error");
        keep("reduce in place", if rank == root { data } else { &[] });
        data.copy_from_slice(&all);
        world.all_gather_in_place(data).expect("no error");
        keep("all_gather in place", data);
        data.copy_from_slice(&all);
        world.reduce_scatter_in_place(data, op).expect("no error");
        keep("reduce_scatter in place", &data[rank.index() * count..][..count]);
    }
    results
}

#[test]
fn leaves_within_nodes_give_the_references_bits() {
    for (world_size, per_node) in LAYOUTS {
        let run = |leaves| {
            on_all(worlds(world_size, per_node, leaves), |mut world| {
                let mut all = Vec::new();
                for count in [0, 1, 37, 5003, 40_000] {
                    all.extend(results(&mut world, count, ReduceOp::Sum, |value| value));
                    all.extend(results(&mut world, count, ReduceOp::Avg, bf16::from_f32));
                    all.extend(results(&mut world, count, ReduceOp::Max, |value| value as i16));
                }
                world.close().expect("all close");
                all
            })
        };
        for (rank, (ours, theirs)) in run(true).into_iter().zip(run(false)).enumerate() {
            assert!(!ours.is_empty() && ours.len() == theirs.len());
            for ((what, ours), (_, theirs)) in ours.into_iter().zip(theirs) {
                assert!(ours == theirs, "{what} of {} bytes on rank {rank} of {world_size}", ours.len());
            }
        }
    }
}

/// Which way a call is done hangs on its length.
#[test]
fn calls_of_all_lengths_in_turn_are_right_whichever_way_they_go() {
    on_all(worlds(4, 2, true), |mut world| {
        for len in [1, 5000, 300, 20_000, 1 << 20, 7, 3000, 100_000] {
            let mut data: Vec<u32> = (0..len).map(|index| index + world.rank().0).collect();
            world.all_reduce(&mut data, ReduceOp::Sum).expect("no error");
            assert!((0..).zip(&data).all(|(index, &found)| found == 4 * index + 6), "{len}");
            let name = world.peers.as_ref().expect("there are others").plans.latest_name();
            let pays = !(4096..32_768).contains(&(4 * len));
            assert_eq!(name == Some("hierarchy"), pays, "{len} by {name:?}");
            world.barrier().expect("no error");
            world.broadcast(&mut data, Rank(len % 4)).expect("no error");
            assert!((0..).zip(&data).all(|(index, &found)| found == 4 * index + 6), "{len}");
        }
        world.close().expect("all close");
    });
}

#[test]
fn results_by_node_are_right() {
    for (world_size, per_node) in LAYOUTS {
        on_all(worlds(world_size, per_node, true), |mut world| {
            check_type::<i64>(&mut world, &[1, 5003, 50_000], &[ReduceOp::Sum, ReduceOp::Min]);
            check_type::<f64>(&mut world, &[2, 20_000], &[ReduceOp::Sum]);
            world.close().expect("all close");
        });
    }
}

/// A rank of each node calls something else: of the same node, and of another.
#[test]
fn calls_that_differ_are_told_on_all_nodes() {
    for other in [Rank(1), Rank(2), Rank(3)] {
        let started = Instant::now();
        let ends = on_all(worlds(4, 2, true), |mut world| {
            let mut data = [1i32; 100];
            let len = if world.rank() == other { 99 } else { 100 };
            world.all_reduce(&mut data[..len], ReduceOp::Sum).expect_err("one calls with another length")
        });
        let is_told = |end: &Error| matches!(end, Error::Mismatch { .. } | Error::PeerLost { .. });
        assert!(ends.iter().all(is_told), "{ends:?}");
        assert!(ends.iter().any(|end| matches!(end, Error::Mismatch { .. })), "{ends:?}");
        assert!(started.elapsed() < Duration::from_secs(60), "it does not take a deadline to see it");
    }
}

/// Who waits for a message of another node sees on the boards of its own what nobody else can tell it.
#[test]
fn a_call_that_differs_on_the_node_is_told_while_another_node_is_awaited() {
    let is_told = std::sync::Barrier::new(4);
    let builder =
        World::builder().provider(Provider::Tcp).ranks_per_node(2).deadline(Duration::from_secs(20));
    let ends = on_all(builder.thread_worlds(4).expect("worlds"), |mut world| {
        let mut data = [1i32; 100];
        let result = match world.rank() {
            // Its node's delegate, which waits for the root's.
            Rank(2) => world.broadcast(&mut data, Rank(0)),
            Rank(3) => world.barrier(),
            _ => Ok(()),
        };
        is_told.wait();
        // Those of the other node never came: they are not to wait for anybody in closing.
        world.broken.get_or_insert_default();
        result.err()
    });
    let named = ends.iter().flatten().find(|end| matches!(end, Error::Mismatch { .. }));
    assert!(named.is_some_and(|end| matches!(end, Error::Mismatch { peer: Rank(2 | 3), .. })), "{ends:?}");
    assert!(ends[2..].iter().flatten().all(|end| !matches!(end, Error::Timeout { .. })), "{ends:?}");
}

/// So many steps that a plan does not keep them, and goes through the schedule's again in every call.
#[test]
fn leaves_take_over_stages_of_plans_that_are_too_long_to_keep() {
    let count = 20 << 20;
    on_all(worlds(4, 2, true), |mut world| {
        let mut data: Vec<u16> = (0..count).map(|index| index as u16 ^ world.rank().0 as u16).collect();
        world.all_reduce(&mut data, ReduceOp::Sum).expect("no error");
        let sum = |index: usize| (0..4).fold(0, |sum: u16, rank| sum.wrapping_add(index as u16 ^ rank));
        assert!((0..).zip(&data).all(|(index, &found)| found == sum(index)));
        world.close().expect("all close");
    });
}

#[test]
fn a_rank_that_ends_is_told_on_all_nodes_and_buffers_are_their_callers_again() {
    for lost in [Rank(0), Rank(1), Rank(3)] {
        let all_are_done = std::sync::Barrier::new(4);
        let ends = on_all(worlds(4, 2, true), |mut world| {
            let mut data = world.alloc::<u32>(100_000).expect("memory");
            world.all_reduce(&mut data, ReduceOp::Sum).expect("all are there");
            // Who is still at it would learn of the end before its own.
            all_are_done.wait();
            if world.rank() == lost {
                // As after an error of its own: it waits for nobody.
                world.broken = Some("of a test".to_owned());
                return None;
            }
            let error = world.all_reduce(&mut data, ReduceOp::Sum).expect_err("one is gone");
            data.fill(6);
            assert!(data.iter().all(|&element| element == 6));
            Some(error)
        });
        for end in ends.into_iter().flatten() {
            assert!(matches!(end, Error::PeerLost { .. }), "{end}");
        }
    }
}
