//! A repeated call allocates nothing.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use efarun_rt::config::Provider;
use efarun_rt::{Rank, ReduceOp, World};

/// The system's allocator, with a count per thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is the system allocator's; the count is a plain number of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Every collective once, on buffers of many segments and of one.
fn all_collectives(world: &mut World, buffers: &mut [(Vec<f32>, Vec<f32>)]) -> Result<(), efarun_rt::Error> {
    for (short, long) in buffers {
        world.all_reduce(long, ReduceOp::Sum)?;
        world.all_reduce_into(&long[..short.len()], short, ReduceOp::Avg)?;
        world.broadcast(short, Rank(1))?;
        world.reduce(short, ReduceOp::Max, Rank(0))?;
        world.all_gather(short, long)?;
        world.reduce_scatter(long, short, ReduceOp::Sum)?;
        world.barrier()?;
    }
    Ok(())
}

/// Repeats all collectives in a world of so many ranks on each node.
fn repeat(world_size: u32, ranks_per_node: u32) {
    let builder = World::builder().provider(Provider::Tcp).ranks_per_node(ranks_per_node);
    let worlds = builder.thread_worlds(world_size).expect("a world");
    std::thread::scope(|scope| {
        for mut world in worlds {
            scope.spawn(move || {
                let buffer = |len: usize| (vec![1.0; len], vec![1.0; len * world_size as usize]);
                let mut buffers = [buffer(2), buffer(50_000)];
                for _ in 0..3 {
                    all_collectives(&mut world, &mut buffers).expect("nobody is lost");
                }
                let before = ALLOCATIONS.get();
                for _ in 0..20 {
                    all_collectives(&mut world, &mut buffers).expect("nobody is lost");
                }
                assert_eq!(ALLOCATIONS.get() - before, 0, "{ranks_per_node} ranks on a node");
                world.close().expect("all close");
            });
        }
    });
}

#[test]
fn a_repeated_call_over_shared_memory_allocates_nothing() {
    repeat(3, 3);
}

#[test]
fn a_repeated_call_over_sockets_allocates_nothing() {
    repeat(3, 1);
}

#[test]
fn a_repeated_call_over_shared_memory_and_sockets_allocates_nothing() {
    repeat(4, 2);
}
