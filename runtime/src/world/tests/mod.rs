//! Worlds of threads: what they are, what they do ([`operations`]), and what goes wrong.

mod by_node;
mod gpus;
mod messages;
mod operations;

use std::time::Instant;

use self::operations::check_type;
use super::*;
use crate::bootstrap::identity::Identity;
use crate::config::{LocalTransport, Provider};
use crate::element::ReduceOp;

/// Runs every rank of a world in a thread of its own.
pub(crate) fn on_all<T: Send>(worlds: Vec<World>, rank_main: impl Fn(World) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let rank_main = &rank_main;
        let threads: Vec<_> = worlds.into_iter().map(|world| scope.spawn(move || rank_main(world))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

#[test]
fn nodes_are_joined_by_sockets_and_share_memory_within() {
    nodes_are_joined_and_share_memory_within(Provider::Tcp);
}

#[test]
fn nodes_are_joined_by_the_fabric_and_share_memory_within() {
    if let Err(missing) = crate::fabric::Library::open() {
        println!("SKIPPED: {missing}");
        return;
    }
    nodes_are_joined_and_share_memory_within(Provider::FabricTcp);
}

fn nodes_are_joined_and_share_memory_within(provider: Provider) {
    let worlds = World::builder().provider(provider).ranks_per_node(2).thread_worlds(5).expect("a world");
    on_all(worlds, |mut world| {
        assert_eq!((world.node_count(), world.local_rank()), (3, world.rank().0 % 2));
        let expected = if world.rank() == Rank(4) { vec![4] } else { vec![1, 3] };
        assert_eq!(world.transport_report().iter().map(|line| line.peers).collect::<Vec<_>>(), expected);
        check_type::<f64>(&mut world, &[1, 5003, 50_000], &[ReduceOp::Sum]);
        world.close().expect("all close");
    });
}

#[test]
fn one_node_needs_no_fabric() {
    on_all(World::thread_worlds(3).expect("a world"), |world| {
        let [line] = world.transport_report() else { panic!("{:?}", world.transport_report()) };
        assert_eq!(line.to_string(), "shm (8 slots of 64 KiB per pair) to 2 peers");
        assert_eq!((world.node_count(), world.local_rank()), (1, world.rank().0));
    });
}

#[test]
fn shared_memory_that_cannot_be_had_is_refused_where_it_was_asked_for() {
    let error = World::builder()
        .local_transport(LocalTransport::Shm)
        .ranks_per_node(1)
        .thread_worlds(2)
        .expect_err("two nodes of one hostname");
    assert!(error.to_string().contains("different node"), "{error}");
}

#[test]
fn a_rank_that_stays_away_is_named_at_the_deadline() {
    let worlds = World::builder().deadline(Duration::from_millis(300)).thread_worlds(3).expect("a world");
    let started = Instant::now();
    let all_are_done = std::sync::Barrier::new(3);
    let ends = on_all(worlds, |mut world| {
        let result = if world.rank() == Rank(1) { Ok(()) } else { world.barrier() };
        all_are_done.wait();
        let again = (world.rank() != Rank(1)).then(|| world.barrier().expect_err("broken").to_string());
        // Rank 1 never learned of an error; it is not to wait for the others in closing.
        world.broken.get_or_insert_default();
        (result.err().map(|error| error.to_string()), again)
    });
    assert!(started.elapsed() < Duration::from_secs(30));
    let texts: Vec<&String> = ends.iter().filter_map(|(error, _)| error.as_ref()).collect();
    assert_eq!(texts.len(), 2);
    assert!(texts.iter().any(|text| text.contains("rank 1")), "{texts:?}");
    let behind = "rank 1 has come to no operation yet; the others have come to operation 0, barrier";
    assert!(texts.iter().any(|text| text.ends_with(behind)), "{texts:?}");
    assert!(texts[0].starts_with("barrier (operation 0 of this World) on rank 0"), "{texts:?}");
    assert!(ends[0].1.as_ref().is_some_and(|again| again.contains("can only be dropped")));
}

#[test]
fn calls_that_differ_are_an_error_that_names_a_rank() {
    for differ in [0, 1, 2] {
        let ends = on_all(World::thread_worlds(2).expect("a world"), |mut world| {
            let odd = world.rank() == Rank(1);
            match differ {
                0 => world.all_reduce(&mut [1i32; 8], if odd { ReduceOp::Max } else { ReduceOp::Sum }),
                1 if odd => world.all_reduce(&mut [1f32; 8], ReduceOp::Sum),
                1 => world.all_reduce(&mut [1i32; 8], ReduceOp::Sum),
                _ if odd => world.barrier(),
                _ => world.all_reduce(&mut [1u8; 1], ReduceOp::Sum),
            }
            .map_err(|error| error.to_string())
        });
        assert!(
            ends.iter().any(|end| end.as_ref().is_err_and(|text| text.contains("something else"))),
            "{ends:?}"
        );
        assert!(ends.iter().all(Result::is_err), "{ends:?}");
    }
}

#[test]
fn a_rank_that_panics_is_lost_to_the_others() {
    let worlds = World::thread_worlds(3).expect("a world");
    let ends = std::thread::scope(|scope| {
        let threads: Vec<_> = worlds
            .into_iter()
            .map(|mut world| {
                scope.spawn(move || {
                    assert!(world.rank() != Rank(2), "on purpose");
                    world
                        .all_reduce(&mut vec![1f32; 100_000], ReduceOp::Sum)
                        .expect_err("rank 2 is gone")
                        .to_string()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    assert!(ends[2].is_none());
    for text in ends[..2].iter().flatten() {
        assert!(text.contains("is lost"), "{text}");
    }
    assert!(ends[..2].iter().flatten().any(|text| text.contains("rank 2")), "{ends:?}");
}

#[test]
fn an_abort_ends_the_others_operations_with_its_reason() {
    let ends = on_all(World::thread_worlds(3).expect("a world"), |mut world| {
        if world.rank() == Rank(0) {
            world.abort(9, "no input");
            return None;
        }
        Some(world.barrier().expect_err("aborted").to_string())
    });
    for text in ends.into_iter().flatten() {
        assert!(text.ends_with("rank 0 ended the job: no input"), "{text}");
    }
}

#[test]
fn buffers_of_different_lengths_are_refused_and_break_nothing() {
    let mut world = World::thread_worlds(1).expect("a world").remove(0);
    let error = world.all_reduce_into(&[1, 2], &mut [0], ReduceOp::Sum).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "all_reduce: the input has 2 elements and the output 1; they must be equal"
    );
    world.barrier().expect("not broken");
}

#[test]
fn a_world_that_nothing_describes_has_one_rank() {
    let mut world = World::builder().identity(Identity::Alone).init().expect("alone");
    let mut data = [3.0f32, 4.0];
    world.all_reduce(&mut data, ReduceOp::Sum).expect("alone");
    assert_eq!(data, [3.0, 4.0]);
    let mut output = [0.0; 2];
    world.all_reduce_into(&data, &mut output, ReduceOp::Max).expect("alone");
    assert_eq!(output, data);
    assert_eq!((world.rank(), world.world_size(), world.node_count()), (Rank(0), 1, 1));
    assert!(world.transport_report().is_empty());
    world.barrier().expect("alone");
    world.close().expect("alone");
}
