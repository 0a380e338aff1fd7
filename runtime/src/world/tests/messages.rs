//! Messages between single ranks, within nodes and between them.

use std::time::Duration;

use efarun_wire::Rank;

use super::on_all;
use crate::config::Provider;
use crate::error::Error;
use crate::world::World;

/// What one rank sends another as its n-th message.
fn content(from: u32, to: u32, number: usize, len: usize) -> Vec<u32> {
    (0..len).map(|at| from << 24 | to << 16 | ((number * 31 + at) & 0xffff) as u32).collect()
}

#[test]
fn messages_of_all_lengths_arrive_in_order_whoever_takes_part() {
    let worlds =
        World::builder().provider(Provider::Tcp).ranks_per_node(2).thread_worlds(4).expect("a world");
    on_all(worlds, |mut world| {
        let (rank, ranks) = (world.rank().0, world.world_size());
        // To everybody, itself too: two messages each way, longer than a slot, and empty.
        for lens in [[1, 0], [3000, 5], [700_000, 1]] {
            let out: Vec<_> = (0..ranks)
                .flat_map(|to| lens.iter().enumerate().map(move |(number, &len)| (to, number, len)))
                .map(|(to, number, len)| (Rank(to), content(rank, to, number, len)))
                .collect();
            let sends: Vec<_> = out.iter().map(|(to, data)| (*to, &data[..])).collect();
            let mut spaces: Vec<_> = (0..ranks)
                .flat_map(|from| {
                    lens.iter().enumerate().map(move |(number, &len)| (from, number, vec![0; len]))
                })
                .collect();
            let mut receives: Vec<_> =
                spaces.iter_mut().map(|(from, _, space)| (Rank(*from), &mut space[..])).collect();
            world.send_receive(&sends, &mut receives).expect("passed");
            for (from, number, space) in spaces {
                assert!(space == content(from, rank, number, space.len()), "{number} from {from} to {rank}");
            }
        }
        // Around a ring, in which collectives go on between, and between two of them only.
        for round in 0..20 {
            let data = content(rank, (rank + 1) % ranks, round, 1 << (round % 17));
            let from = (rank + ranks - 1) % ranks;
            let mut space = vec![0; data.len()];
            let next = Rank((rank + 1) % ranks);
            world.send_receive(&[(next, &data[..])], &mut [(Rank(from), &mut space[..])]).expect("passed");
            assert!(space == content(from, rank, round, space.len()));
            world.barrier().expect("all are here");
        }
        let data = content(0, 3, 7, 100_000);
        match rank {
            0 => world.send_receive(&[(Rank(3), &data[..])], &mut []).expect("sent"),
            3 => {
                let mut space = vec![0; data.len()];
                world.send_receive(&[], &mut [(Rank(0), &mut space[..])]).expect("received");
                assert!(space == data);
            }
            _ => {}
        }
        world.close().expect("all close");
    });
}

#[test]
fn a_message_of_another_length_names_the_sender() {
    let worlds =
        World::builder().provider(Provider::Tcp).ranks_per_node(1).thread_worlds(2).expect("a world");
    on_all(worlds, |mut world| {
        if world.rank() == Rank(0) {
            // It may be told of the other's end, or be done before.
            let _sent = world.send_receive(&[(Rank(1), &[1u8; 100][..])], &mut []);
            return;
        }
        let mut space = [0u8; 99];
        let error = world.send_receive(&[], &mut [(Rank(0), &mut space[..])]).expect_err("it differs");
        assert!(matches!(error, Error::Mismatch { peer: Rank(0), .. }), "{error}");
    });
}

/// What comes is as long as its part of what is expected, and only its signature says that it is all.
#[test]
fn a_message_that_is_the_beginning_of_what_is_expected_names_the_sender() {
    let builder =
        World::builder().provider(Provider::Tcp).ranks_per_node(1).deadline(Duration::from_secs(20));
    on_all(builder.thread_worlds(2).expect("a world"), |mut world| {
        let slot_bytes = world.messages().slot_bytes;
        if world.rank() == Rank(0) {
            // It may be told of the other's end, or be done before.
            let _sent = world.send_receive(&[(Rank(1), &vec![1u8; slot_bytes][..])], &mut []);
            return;
        }
        let mut space = vec![0u8; 2 * slot_bytes];
        let error = world.send_receive(&[], &mut [(Rank(0), &mut space[..])]).expect_err("it differs");
        assert!(matches!(error, Error::Mismatch { peer: Rank(0), .. }), "{error}");
    });
}

#[test]
fn a_peer_that_is_no_rank_breaks_nothing() {
    let mut world = World::thread_worlds(1).expect("a world").remove(0);
    let error = world.send_receive(&[(Rank(1), &[1u8][..])], &mut []).expect_err("there is none");
    assert!(matches!(error, Error::Root { root: Rank(1), .. }), "{error}");
    let mut space = [0u8];
    world.send_receive(&[(Rank(0), &[7u8][..])], &mut [(Rank(0), &mut space[..])]).expect("to itself");
    assert_eq!(space, [7]);
}
