//! `rank_collectives COUNTS`: a rank that does every operation by every algorithm, on buffers apart and in place, with
//! so many elements each (`0,257`), and looks at each element of what comes out.
//!
//! `rank_collectives --until-failure COUNT`: sums so many elements until an operation fails; says that it began, and in
//! the end how long the failing one took and what its error was.
//!
//! `rank_collectives --sums-until FILE COUNT`: sums so many elements until every rank has seen the file and a few times
//! more. What the runtime warns of is said too: like most programs this has no logger.

use std::path::Path;
use std::time::Instant;

use efarun_rt::coll::collective::Collective;
use efarun_rt::{Algorithm, Choice, Options, Rank, ReduceOp, World};
use efarun_tests::fixture::{merge_stderr, say};

fn main() -> Result<(), efarun_rt::Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut world = World::init()?;
    for line in world.transport_report() {
        say(&format!("rank {}: {line}", world.rank()));
    }
    match &arguments[..] {
        [counts] => {
            for count in counts.split(',') {
                check_all(&mut world, count.parse().expect("a number of elements"))?;
            }
            let rank = world.rank();
            world.close()?;
            say(&format!("rank {rank}: all right"));
            Ok(())
        }
        [flag, count] if flag == "--until-failure" => {
            let error = sum_until_failure(&mut world, count.parse().expect("a number of elements"));
            drop(world);
            Err(error)
        }
        [flag, file, count] if flag == "--sums-until" => {
            merge_stderr();
            let count = count.parse().expect("a number of elements");
            let mut files = 0;
            while files < u64::from(world.world_size()) {
                files = sum(&mut world, count, u64::from(Path::new(file).exists()))?;
                say("summing");
            }
            for _ in 0..MORE_SUMS {
                sum(&mut world, count, 0)?;
            }
            let rank = world.rank();
            world.close()?;
            say(&format!("rank {rank}: all right"));
            Ok(())
        }
        other => panic!("COUNTS, --until-failure COUNT, or --sums-until FILE COUNT, not {other:?}"),
    }
}

fn sum_until_failure(world: &mut World, count: usize) -> efarun_rt::Error {
    let mut number = 0;
    loop {
        let since = Instant::now();
        if let Err(error) = sum(world, count, 0) {
            say(&format!("failed after {} ms: {error}", since.elapsed().as_millis()));
            return error;
        }
        if number == 0 {
            say("summing");
        }
        number += 1;
    }
}

/// Sums elements that differ by rank and place, and looks at each; the sum of another element.
fn sum(world: &mut World, count: usize, other: u64) -> Result<u64, efarun_rt::Error> {
    let rank = u64::from(world.rank().0);
    let mut data: Vec<u64> = (0..count as u64).map(|index| rank + index).chain([other]).collect();
    world.all_reduce(&mut data, ReduceOp::Sum)?;
    let world_size = u64::from(world.world_size());
    let ranks = (0..world_size).sum::<u64>();
    let sums = (0..count as u64).map(|index| ranks + world_size * index);
    assert!(data[..count].iter().copied().eq(sums), "a wrong sum");
    Ok(data[count])
}

fn check_all(world: &mut World, count: usize) -> Result<(), efarun_rt::Error> {
    check_all_reduce(world, count)?;
    check_reduce(world, count)?;
    check_broadcast(world, count)?;
    check_all_gather(world, count)?;
    check_reduce_scatter(world, count)?;
    world.barrier()
}

/// What a rank gives at a place: of all positions and ranks something else.
fn given(rank: Rank, index: usize) -> u64 {
    (u64::from(rank.0) << 40 | index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn inputs(rank: Rank, places: std::ops::Range<usize>) -> Vec<u64> {
    places.map(|index| given(rank, index)).collect()
}

fn sums(world: &World, places: std::ops::Range<usize>) -> Vec<u64> {
    let sum = |index| ranks(world).map(|rank| given(rank, index)).fold(0, u64::wrapping_add);
    places.map(sum).collect()
}

fn ranks(world: &World) -> impl Iterator<Item = Rank> + use<> {
    (0..world.world_size()).map(Rank)
}

fn check_all_reduce(world: &mut World, count: usize) -> Result<(), efarun_rt::Error> {
    let expected = sums(world, 0..count);
    for (algorithm, options) in algorithms(Collective::AllReduce) {
        let input = inputs(world.rank(), 0..count);
        let mut output = junk(count);
        world.all_reduce_into_with(&input, &mut output, ReduceOp::Sum, &options)?;
        expect(&output, &expected, "all_reduce", algorithm);
        let mut data = input;
        world.all_reduce_with(&mut data, ReduceOp::Sum, &options)?;
        expect(&data, &expected, "all_reduce in place", algorithm);
    }
    Ok(())
}

fn check_reduce(world: &mut World, count: usize) -> Result<(), efarun_rt::Error> {
    let expected = sums(world, 0..count);
    for root in ranks(world) {
        for (algorithm, options) in algorithms(Collective::Reduce { root }) {
            let input = inputs(world.rank(), 0..count);
            let mut output = junk(if world.rank() == root { count } else { 0 });
            world.reduce_into_with(&input, &mut output, ReduceOp::Sum, root, &options)?;
            if world.rank() == root {
                expect(&output, &expected, "reduce", algorithm);
            }
            let mut data = input.clone();
            world.reduce_with(&mut data, ReduceOp::Sum, root, &options)?;
            let expected = if world.rank() == root { &expected } else { &input };
            expect(&data, expected, "reduce in place", algorithm);
        }
    }
    Ok(())
}

fn check_broadcast(world: &mut World, count: usize) -> Result<(), efarun_rt::Error> {
    for root in ranks(world) {
        let expected = inputs(root, 0..count);
        for (algorithm, options) in algorithms(Collective::Broadcast { root }) {
            let mut data = if world.rank() == root { expected.clone() } else { junk(count) };
            world.broadcast_with(&mut data, root, &options)?;
            expect(&data, &expected, "broadcast", algorithm);
        }
    }
    Ok(())
}

fn check_all_gather(world: &mut World, count: usize) -> Result<(), efarun_rt::Error> {
    let expected: Vec<u64> = ranks(world).flat_map(|rank| inputs(rank, 0..count)).collect();
    for (algorithm, options) in algorithms(Collective::AllGather) {
        let input = inputs(world.rank(), 0..count);
        let mut output = junk(expected.len());
        world.all_gather_with(&input, &mut output, &options)?;
        expect(&output, &expected, "all_gather", algorithm);
        let mut data = junk(expected.len());
        data[world.rank().index() * count..][..count].copy_from_slice(&input);
        world.all_gather_in_place_with(&mut data, &options)?;
        expect(&data, &expected, "all_gather in place", algorithm);
    }
    Ok(())
}

fn check_reduce_scatter(world: &mut World, count: usize) -> Result<(), efarun_rt::Error> {
    let (rank, world_size) = (world.rank(), world.world_size() as usize);
    let own = rank.index() * count..(rank.index() + 1) * count;
    let expected = sums(world, own.clone());
    for (algorithm, options) in algorithms(Collective::ReduceScatter) {
        let input = inputs(rank, 0..world_size * count);
        let mut output = junk(count);
        world.reduce_scatter_with(&input, &mut output, ReduceOp::Sum, &options)?;
        expect(&output, &expected, "reduce_scatter", algorithm);
        let mut data = input;
        world.reduce_scatter_in_place_with(&mut data, ReduceOp::Sum, &options)?;
        expect(&data[own.clone()], &expected, "reduce_scatter in place", algorithm);
    }
    Ok(())
}

fn algorithms(collective: Collective) -> impl Iterator<Item = (Algorithm, Options)> {
    let by = |algorithm| Options { algorithm: Some(Choice::Fixed(algorithm)), deadline: None };
    Algorithm::of(collective).iter().map(move |&algorithm| (algorithm, by(algorithm)))
}

/// What is summed once every rank has seen the file.
const MORE_SUMS: usize = 10;

fn junk(len: usize) -> Vec<u64> {
    vec![0xEEEE_EEEE_EEEE_EEEE; len]
}

fn expect(found: &[u64], expected: &[u64], operation: &str, algorithm: Algorithm) {
    if found != expected {
        let place = found.iter().zip(expected).position(|(found, expected)| found != expected);
        panic!("{operation} of {} by {algorithm}: wrong from element {place:?} on", found.len());
    }
}
