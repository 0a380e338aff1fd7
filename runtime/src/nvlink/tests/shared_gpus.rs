//! More ranks than GPUs: the same kernels, of which several run on one GPU side by side. Without a GPU these tests are skipped.
//!
//! Streams go by few queues of a process to a GPU, and one that waits holds up what is behind it: with eight ranks set
//! CUDA_DEVICE_MAX_CONNECTIONS=32.
//!
//! # Safety
//!
//! Messages are given memory of the pools, which live until the test has waited for all of them.
#![allow(unsafe_code)]

use std::sync::Barrier;
use std::time::Duration;

use efarun_wire::Rank;

use super::collectives::{Case, LEAVES, collectives, elements, ops};
use super::gpus::{Gpus, Member, PATIENCE, TYPES, are_there};
use crate::coll::collective::Collective;
use crate::cuda::{Device, DeviceMemory, DevicePointer, Graph, Stream};
use crate::element::{ElementType, ReduceOp};
use crate::error::Error;
use crate::nvlink::Trouble;
use crate::nvlink::call::DeviceMessage;
use crate::nvlink::part::Leaf;
use crate::world::World;

/// How many ranks there are, and how many GPUs: those that this machine has, of one at least.
fn spreads() -> impl Iterator<Item = (u32, u32)> {
    let count = Device::count().unwrap_or(1).max(1);
    [(2, 1), (4, 1), (8, 1), (3, 2), (4, 2), (8, 2), (8, 4)]
        .into_iter()
        .filter(move |&(_, gpus)| gpus <= count)
}

#[test]
fn ranks_on_one_gpu_do_every_type_and_operation() {
    let test = "ranks_on_one_gpu_do_every_type_and_operation";
    let Some(mut gpus) = Gpus::on(test, (4, 1), PATIENCE, &elements().collect::<Vec<_>>()) else { return };
    for element in elements() {
        let mut cases = Vec::new();
        for leaf in LEAVES {
            for (index, op) in ops().enumerate() {
                // Who reads another rank's input does not know that rank's factor.
                if index == 5 && leaf == Leaf::Direct {
                    continue;
                }
                let world = (4, [41, 1000, 6007, 333, 2048, 777][index]);
                cases.push(Case::new((Collective::AllReduce, leaf), (element, op), world, index as u64));
            }
        }
        gpus.run(&mut cases, &format!("{element:?} of 4 ranks on a GPU"));
    }
}

#[test]
fn ranks_that_share_gpus_do_every_collective_by_every_leaf() {
    for (ranks, count) in spreads() {
        let test = "ranks_that_share_gpus_do_every_collective_by_every_leaf";
        let Some(mut gpus) = Gpus::on(test, (ranks, count), PATIENCE, &TYPES) else { return };
        // The longest have more blocks than there is room for where GPUs are not shared.
        for (round, len) in [1, 97, 4096, 40_003, 200_000].into_iter().enumerate() {
            let mut cases = Vec::new();
            for leaf in LEAVES {
                for (index, collective) in collectives(round as u32 % ranks).into_iter().enumerate() {
                    let element = [ElementType::F32, ElementType::I8, ElementType::Bf16][(index + round) % 3];
                    let what = (element, ReduceOp::Sum);
                    cases.push(Case::new(
                        (collective, leaf),
                        what,
                        (ranks, len),
                        (round * 10 + index) as u64,
                    ));
                }
            }
            gpus.run(&mut cases, &format!("{len} elements of {ranks} ranks on {count} GPUs"));
        }
    }
}

#[test]
fn thousands_of_calls_of_ranks_that_share_gpus_use_cells_again() {
    for (ranks, count) in spreads() {
        let test = "thousands_of_calls_of_ranks_that_share_gpus_use_cells_again";
        let Some(mut gpus) = Gpus::on(test, (ranks, count), PATIENCE, &TYPES) else { return };
        let case = |index: usize| {
            let collective = collectives(index as u32 % ranks)[index * 7 % 8];
            let len = [1, 60, 700, 240, 5000][index * 3 % 5];
            let what = (ElementType::I32, ReduceOp::Sum);
            Case::new((collective, LEAVES[index * 5 % 4]), what, (ranks, len), index as u64)
        };
        gpus.run(&mut (0..2000).map(case).collect::<Vec<_>>(), &format!("{ranks} ranks on {count} GPUs"));
    }
}

#[test]
fn graphs_of_ranks_on_one_gpu_run_again_with_new_data() {
    let test = "graphs_of_ranks_on_one_gpu_run_again_with_new_data";
    let Some(mut gpus) = Gpus::on(test, (4, 1), PATIENCE, &TYPES) else { return };
    let make = |seed: u64| -> Vec<Case> {
        let float = (ElementType::F32, ReduceOp::Sum);
        // Seeds that agree by six are in place and skewed alike.
        let case = |leaf| Case::new((Collective::AllReduce, leaf), float, (4, 3000), 6 * seed + 1);
        LEAVES.into_iter().map(case).collect()
    };
    let first = make(0);
    let capture = |rank: usize| {
        let (stream, mut at) = (gpus.ranks[rank].stream.clone(), 0);
        // SAFETY: the pools live until all is done.
        unsafe {
            Graph::capture(&stream, || first.iter().try_for_each(|case| gpus.enqueue(rank, case, &mut at)))
        }
    };
    let graphs: Vec<_> = (0..4).map(capture).collect::<Result<_, _>>().expect("captured");
    gpus.replay(&graphs, make);
}

#[test]
fn messages_of_all_lengths_pass_between_ranks_that_share_gpus() {
    const LENGTHS: [usize; 7] = [8, 8192, 8200, 60_000, 300_008, (2 << 20) - 8, (2 << 20) + 24];
    let words = |bytes: usize| bytes.div_ceil(8).next_multiple_of(2);
    let each: usize = LENGTHS.map(words).iter().sum();
    for (ranks, count) in spreads() {
        let test = "messages_of_all_lengths_pass_between_ranks_that_share_gpus";
        let Some(mut gpus) = Gpus::on(test, (ranks, count), PATIENCE, &[]) else { return };
        let data = |round: u64, from: u32, to: u32| -> Vec<u64> {
            let name = (round << 60) | (u64::from(from) << 50) | (u64::from(to) << 40);
            (0..each as u64).map(|word| name | word).collect()
        };
        for round in 1..4 {
            for (rank, member) in (0..).zip(&mut gpus.ranks) {
                for peer in 0..ranks {
                    let at = peer as usize * each;
                    member.pool.copy_from_host(at, &data(round, rank, peer)).expect("a copy");
                    let nothing = vec![0; each];
                    member.pool.copy_from_host((ranks + peer) as usize * each, &nothing).expect("a copy");
                }
            }
            for Member { engine, stream, pool } in &mut gpus.ranks {
                let messages = |first: u32| -> Vec<DeviceMessage> {
                    let of_peer = |peer: u32| {
                        let mut at = (first + peer) as usize * each;
                        LENGTHS.map(|bytes| {
                            let data = DevicePointer(pool.pointer().0 + 8 * at as u64);
                            at += words(bytes);
                            DeviceMessage { peer: Rank(peer), data, bytes }
                        })
                    };
                    (0..ranks).flat_map(of_peer).collect()
                };
                // SAFETY: parts of the pool, which lives until all is done.
                unsafe { engine.pass_messages(stream, &messages(0), &messages(ranks)).expect("enqueued") };
            }
            gpus.wait("messages");
            for (rank, member) in (0..).zip(&gpus.ranks) {
                for peer in 0..ranks {
                    let mut found = vec![0; each];
                    member.pool.copy_to_host((ranks + peer) as usize * each, &mut found).expect("a copy");
                    let (sent, mut at) = (data(round, peer, rank), 0);
                    for bytes in LENGTHS {
                        let part = at..at + bytes / 8;
                        assert!(
                            found[part.clone()] == sent[part],
                            "{bytes} bytes from {peer} to {rank} of {ranks} ranks on {count} GPUs"
                        );
                        at += words(bytes);
                    }
                }
            }
        }
    }
}

#[test]
fn a_rank_that_does_not_come_is_named_by_those_on_its_gpu() {
    let test = "a_rank_that_does_not_come_is_named_by_those_on_its_gpu";
    for leaf in LEAVES {
        let Some(mut gpus) = Gpus::on(test, (4, 1), Duration::from_millis(300), &TYPES) else { return };
        let case = Case::new((Collective::AllReduce, leaf), (ElementType::F32, ReduceOp::Sum), (4, 1000), 1);
        for rank in [0, 1, 3] {
            gpus.enqueue(rank, &case, &mut 0).expect("enqueued");
        }
        for rank in [0, 1, 3] {
            gpus.ranks[rank].stream.synchronize().expect("it ends");
            assert_eq!(gpus.ranks[rank].engine.trouble(), Some(Trouble::Timeout { peer: 2 }), "{leaf:?}");
        }
    }
}

/// Runs each rank on a thread of its own, all on the first GPU, with two Worlds that have it.
fn on_threads(ranks: u32, act: impl Fn(u32, [World; 2], &Device) + Sync) {
    let make = || {
        let builder = World::builder().shared_gpus(true).deadline(PATIENCE);
        builder.bootstrap_timeout(Duration::from_secs(120)).thread_worlds(ranks).expect("a world")
    };
    std::thread::scope(|scope| {
        for (rank, worlds) in (0..).zip(make().into_iter().zip(make())) {
            let act = &act;
            scope.spawn(move || {
                let (device, (mut first, mut second)) = (Device::open(0).expect("a GPU"), worlds);
                first.use_device(&device).expect("the GPU is shared");
                second.use_device(&device).expect("the GPU is shared");
                act(rank, [first, second], &device);
            });
        }
    });
}

fn sum(world: &mut World, stream: &Stream, data: &mut DeviceMemory<f32>) {
    world.on(stream).all_reduce(data.slice_mut(..), ReduceOp::Sum).expect("enqueued");
}

#[test]
fn a_rank_leaves_a_world_while_others_on_its_gpu_wait_for_it_in_another() {
    let test = "a_rank_leaves_a_world_while_others_on_its_gpu_wait_for_it_in_another";
    if !are_there(test, 1) {
        return;
    }
    let (ranks, others_wait) = (4, Barrier::new(4));
    on_threads(ranks, |rank, [mut first, mut second], device| {
        let stream = Stream::new(device).expect("a stream");
        let mut data = DeviceMemory::from_host(device, &vec![rank as f32; 5000]).expect("memory");
        // Allocating may wait for the device, and is none of this.
        others_wait.wait();
        sum(&mut first, &stream, &mut data);
        first.on(&stream).wait().expect("done");
        let number = second.register_memory(&data).expect("registered");
        if rank == 0 {
            // The others' kernels wait for this rank's, on the same GPU, and this rank frees something there.
            others_wait.wait();
            first.leave();
            second.unregister_memory(number);
            sum(&mut second, &stream, &mut data);
        } else {
            first.leave();
            second.unregister_memory(number);
            sum(&mut second, &stream, &mut data);
            others_wait.wait();
        }
        second.on(&stream).wait().expect("done");
        assert_eq!(data.to_vec().expect("a copy"), vec![4.0 * 6.0; 5000]);
        second.close().expect("all are done");
    });
}

#[test]
fn a_rank_begins_with_another_type_while_others_on_its_gpu_wait_for_it() {
    let test = "a_rank_begins_with_another_type_while_others_on_its_gpu_wait_for_it";
    if !are_there(test, 1) {
        return;
    }
    let (ranks, others_wait) = (4, Barrier::new(4));
    on_threads(ranks, |rank, [mut first, mut second], device| {
        let stream = Stream::new(device).expect("a stream");
        let mut data = DeviceMemory::from_host(device, &vec![i64::from(rank); 100_000]).expect("memory");
        others_wait.wait();
        if rank == 0 {
            others_wait.wait();
        }
        // A kernel that was never used, at a size for which it has all the room that there is.
        let enqueued = second.on(&stream).all_reduce(data.slice_mut(..), ReduceOp::Sum);
        enqueued.expect("enqueued");
        if rank != 0 {
            others_wait.wait();
        }
        second.on(&stream).wait().expect("done");
        assert_eq!(data.to_vec().expect("a copy"), vec![6; 100_000]);
        first.on(&stream).barrier().expect("enqueued");
        first.on(&stream).wait().expect("done");
        first.close().expect("all are done");
        second.close().expect("all are done");
    });
}

#[test]
fn ranks_that_may_not_share_a_gpu_are_told_how_they_may() {
    let test = "ranks_that_may_not_share_a_gpu_are_told_how_they_may";
    if !are_there(test, 1) {
        return;
    }
    let worlds = World::builder().thread_worlds(2).expect("a world");
    std::thread::scope(|scope| {
        for mut world in worlds {
            scope.spawn(move || {
                let refused = world.use_device(&Device::open(0).expect("a GPU")).expect_err("refused");
                let Error::Setup { cause, .. } = &refused else { panic!("{refused}") };
                assert!(cause.contains("ranks 0 and 1") && cause.contains("EFARUN_SHARED_GPUS=1"), "{cause}");
            });
        }
    });
}
