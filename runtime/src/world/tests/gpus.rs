//! A World's calls on GPU memory; most need two GPUs and are skipped without.

use std::time::{Duration, Instant};

use super::*;
use crate::cuda::{Device, DeviceMemory, Stream};
use crate::error::Error;

/// Whether there are two GPUs; if not, a line says that the test was skipped.
fn has_two_gpus(test: &str) -> bool {
    let missing = match Device::count() {
        Ok(2..) => return true,
        Ok(count) => format!("there are {count} GPUs, and it takes 2"),
        Err(error) => error.to_string(),
    };
    let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|need| need.trim() == "gpu"), "{test}: {missing}");
    println!("SKIPPED: {test}: {missing}");
    false
}

/// A GPU for each rank, and a stream on it.
fn with_gpu(world: &mut World) -> (Device, Stream) {
    let device = Device::open(world.local_rank()).expect("a GPU");
    world.use_device(&device).expect("all have one");
    world.prepare_device(&[crate::ElementType::F32]).expect("kernels");
    let stream = Stream::new(&device).expect("a stream");
    (device, stream)
}

#[test]
fn ranks_reduce_gather_and_broadcast_on_their_gpus() {
    if !has_two_gpus("ranks_reduce_gather_and_broadcast_on_their_gpus") {
        return;
    }
    on_all(World::thread_worlds(2).expect("a world"), |mut world| {
        let (device, stream) = with_gpu(&mut world);
        let rank = world.rank().0 as f32;
        let mut data = DeviceMemory::from_host(&device, &vec![1.0 + rank; 1000]).expect("room");
        let mut all = DeviceMemory::<f32>::zeroed(&device, 2000).expect("room");
        world.register_memory(&all).expect("registered");
        let mut on = world.on(&stream);
        on.all_reduce(data.slice_mut(..), ReduceOp::Sum).expect("enqueued");
        on.all_gather(data.slice(..), all.slice_mut(..)).expect("enqueued");
        on.reduce_scatter_in_place(all.slice_mut(..), ReduceOp::Avg).expect("enqueued");
        on.broadcast(data.slice_mut(..500), Rank(1)).expect("enqueued");
        on.barrier().expect("enqueued");
        on.wait().expect("done");
        assert_eq!(data.to_vec().expect("a copy"), vec![3.0; 1000]);
        assert_eq!(all.to_vec().expect("a copy"), vec![3.0; 2000]);
        let wrong = world.on(&stream).all_gather(data.slice(..3), all.slice_mut(..7));
        assert!(matches!(wrong, Err(Error::Lengths { input_len: 3, output_len: 7, .. })), "{wrong:?}");
        world.close().expect("all close");
    });
}

#[test]
fn a_rank_that_leaves_is_named_to_who_waits_on_a_gpu() {
    if !has_two_gpus("a_rank_that_leaves_is_named_to_who_waits_on_a_gpu") {
        return;
    }
    on_all(World::thread_worlds(2).expect("a world"), |mut world| {
        let (device, stream) = with_gpu(&mut world);
        if world.rank() == Rank(1) {
            world.abort(3, "enough");
            return;
        }
        let started = Instant::now();
        let mut data = DeviceMemory::<f32>::zeroed(&device, 1 << 20).expect("room");
        world.on(&stream).all_reduce(data.slice_mut(..), ReduceOp::Sum).expect("enqueued");
        let error = world.on(&stream).wait().expect_err("nobody comes");
        assert!(matches!(error, Error::Aborted { rank: Some(Rank(1)), .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        let again = world.on(&stream).all_reduce(data.slice_mut(..), ReduceOp::Sum);
        assert!(matches!(again, Err(Error::Broken { .. })), "{again:?}");
    });
}

#[test]
fn a_world_without_a_gpu_says_what_to_call_first() {
    let Ok(device) = Device::open(0) else {
        // Without a stream there is nothing to call on; registering is the same question.
        return println!("SKIPPED: a_world_without_a_gpu_says_what_to_call_first: there is no GPU");
    };
    let stream = Stream::new(&device).expect("a stream");
    let mut world = World::thread_worlds(1).expect("a world").remove(0);
    let error = world.on(&stream).barrier().expect_err("no GPU").to_string();
    assert_eq!(error, "barrier on a stream: this World has no GPU: call use_device before, on every rank");
    let mut data = DeviceMemory::from_host(&device, &[1.0f32, 2.0]).expect("room");
    world.use_device(&device).expect("one is enough for one");
    world.on(&stream).all_reduce(data.slice_mut(..), ReduceOp::Sum).expect("enqueued");
    world.on(&stream).wait().expect("done");
    assert_eq!(data.to_vec().expect("a copy"), [1.0, 2.0]);
}
