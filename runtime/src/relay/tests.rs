//! What hosts do for a transfer that cards read, in rooms of the host's memory on soft EFA devices: the same exchange as for rooms
//! of GPUs, which need one.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use efarun_wire::Rank;

use super::carrier::Plan;
use super::direct::{exchange, polling};
use super::parameters::SLOT_BYTES;
use super::shorts::{Shorts, Stretches};
use super::staging::{INBOX, OUTBOX, ROOM_BYTES};
use super::transfer::{Caller, Transfer, is_short};
use crate::config::{LocalTransport, Provider};
use crate::cuda::DevicePointer;
use crate::error::Error;
use crate::fabric::Memory;
use crate::relay::Stretch;
use crate::transport::fabric::reads::{Reader, ReaderConfig, Room};
use crate::transport::fabric::tests::{soft_efa, support};
use crate::world::World;

#[test]
fn slices_are_read_from_whoever_has_put_them() {
    for (device, nics) in [("p4d", "4"), ("p5", "2")] {
        let options = ["--device", device, "--nics", nics, "--manners", "all"];
        soft_efa::run_at("2.5.1", &format!("relay-{device}"), "relay::tests::bodies::exchanges", &options);
    }
}

#[test]
fn ranks_that_disagree_about_a_slice_are_told_of_each_other() {
    let options = ["--device", "p5"];
    soft_efa::run_at("2.5.1", "relay-differs", "relay::tests::bodies::differing", &options);
}

mod bodies {
    use super::*;

    #[test]
    fn exchanges() {
        if support::body_runs_on().is_some() {
            super::everybody_to_everybody();
            super::passed_on();
        }
    }

    #[test]
    fn differing() {
        if support::body_runs_on().is_some() {
            super::lengths_that_differ();
        }
    }
}

/// Each of three ranks gives each other something else, the last slice shorter.
fn everybody_to_everybody() {
    let others = |me: usize| (0..3).filter(move |peer| *peer != me);
    // One of them short.
    let len = |me: usize, peer: usize| if me + peer == 1 { 5001 } else { 60_000 + 20_001 * (me + peer) };
    let transfer = |me: usize| {
        let peers: Vec<(Rank, usize)> =
            others(me).enumerate().map(|(index, peer)| (Rank(peer as u32), index)).collect();
        let lens: Vec<usize> = others(me).map(|peer| len(me, peer)).collect();
        Transfer { sends: peers.clone(), receives: peers, ..stretches(&lens, &lens) }
    };
    let run = run_all(&[0, 1, 2].map(transfer));
    for (me, (room, got, result)) in run.iter().enumerate() {
        result.as_ref().unwrap();
        for (mine, peer) in others(me).enumerate() {
            let theirs = others(peer).position(|other| other == me).unwrap();
            if is_short(len(me, peer)) {
                let expected = (0..len(me, peer)).map(|at| byte_of(peer, 0, theirs * SLICE + at));
                assert!(
                    got.of(mine).iter().copied().take(len(me, peer)).eq(expected),
                    "{peer} to {me}, short"
                );
                continue;
            }
            for slice in 0..len(me, peer).div_ceil(SLICE) {
                let len = (len(me, peer) - slice * SLICE).min(SLICE);
                let expected = (0..len).map(|at| byte_of(peer, slice, theirs * SLICE + at));
                let start = INBOX + slice * SLOT_BYTES + mine * SLICE;
                assert!(
                    bytes(room, start, len).iter().copied().eq(expected),
                    "{peer} to {me}, slice {slice}"
                );
            }
        }
    }
}

/// Rank 0 gives rank 1, which passes it on to rank 2.
fn passed_on() {
    for lens in [[150_000], [777]] {
        let gives = Transfer { sends: vec![(Rank(1), 0)], ..stretches(&lens, &[]) };
        let passes =
            Transfer { receives: vec![(Rank(0), 0)], passes_on: vec![Rank(2)], ..stretches(&[], &lens) };
        let takes = Transfer { receives: vec![(Rank(1), 0)], ..stretches(&[], &lens) };
        let run = run_all(&[gives, passes, takes]);
        for (room, got, result) in &run[1..] {
            result.as_ref().unwrap();
            for slice in 0..lens[0].div_ceil(SLICE) {
                let len = (lens[0] - slice * SLICE).min(SLICE);
                let found = match is_short(lens[0]) {
                    true => &got.of(0)[..len],
                    false => bytes(room, INBOX + slice * SLOT_BYTES, len),
                };
                assert!(found.iter().copied().eq((0..len).map(|at| byte_of(0, slice, at))), "slice {slice}");
            }
        }
    }
}

fn lengths_that_differ() {
    for len in [60_000, 1000] {
        let gives = Transfer { sends: vec![(Rank(1), 0)], ..stretches(&[len], &[]) };
        let takes = Transfer { receives: vec![(Rank(0), 0)], ..stretches(&[], &[len + 1]) };
        let run = run_all(&[gives, takes]);
        let Err(Error::Mismatch { peer, difference, .. }) = &run[1].2 else { panic!("{:?}", run[1].2) };
        assert_eq!(*peer, Rank(0));
        let told = if is_short(len) {
            difference.contains("with another count")
        } else {
            difference.contains("has 60000 bytes where 60001 belong")
        };
        assert!(told, "{difference}");
        // What is short is on its way when its sender is done with it.
        assert!(is_short(len) || run[0].2.is_err(), "who gives is not left waiting");
    }
}

fn stretches(puts: &[usize], gets: &[usize]) -> Transfer {
    let of = |lens: &[usize]| {
        lens.iter().map(|&bytes| Stretch { pointer: DevicePointer(0), bytes }).collect::<Vec<_>>()
    };
    Transfer { puts: of(puts), gets: of(gets), slice_bytes: SLICE, ..Transfer::default() }
}

/// Runs a transfer's slices, each by a channel of its number, on a rank for each; their rooms, what they got of short stretches,
/// and how it went.
fn run_all(transfers: &[Transfer]) -> Vec<(Arc<Room>, Stretches, Result<(), Error>)> {
    let builder = World::builder()
        .local_transport(LocalTransport::Network)
        .provider(Provider::Efa)
        .deadline(Duration::from_secs(20));
    let worlds = builder.thread_worlds(transfers.len() as u32).unwrap();
    thread::scope(|scope| {
        let start = |(world, transfer): (World, &'_ Transfer)| {
            let transfer = transfer.clone();
            scope.spawn(move || run_one(world, &transfer))
        };
        let threads: Vec<_> = worlds.into_iter().zip(transfers).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[expect(unsafe_code, reason = "writes where no card reads")]
fn run_one(mut world: World, transfer: &Transfer) -> (Arc<Room>, Stretches, Result<(), Error>) {
    let me = world.rank().index();
    let memory = Memory::on_large_pages(ROOM_BYTES);
    for slice in 0..transfer.slices() {
        let whole: Vec<u8> = (0..SLOT_BYTES).map(|at| byte_of(me, slice, at)).collect();
        // SAFETY: nobody else has the memory.
        unsafe { memory.write(OUTBOX + slice * SLOT_BYTES, &whole) };
    }
    let room = Arc::new(Room::Host(memory));
    let (network, devices) = world.cards().unwrap();
    let config =
        ReaderConfig { world_size: world.world_size(), network, devices: devices.to_vec(), flushes: false };
    let (mut reader, address) = Reader::open(&config, Arc::clone(&room)).unwrap();
    let all = world.exchange("addresses-of-rooms", None, address).unwrap();
    let peers = || (0..all.len()).filter(|peer| *peer != me).map(|peer| Rank(peer as u32));
    for peer in peers() {
        reader.connect(peer, &all[peer.index()]).unwrap();
    }
    world.exchange("connected", None, Vec::new()).unwrap();
    for peer in peers() {
        reader.prove(peer, 0, ROOM_BYTES - 4096, 64).unwrap();
    }
    world.await_reads(&mut reader).unwrap();
    polling(std::slice::from_mut(&mut reader), || world.exchange("proven", None, Vec::new())).unwrap();
    let plan = Plan::of(transfer, Caller { operation: "all_to_all", sequence: 0 }, false);
    let mut shorts = Shorts::default();
    for (index, _) in transfer.puts.iter().enumerate() {
        let bytes = shorts.put.of_mut(index).iter_mut().enumerate();
        bytes.for_each(|(at, byte)| *byte = byte_of(me, 0, index * SLICE + at));
    }
    let mut slices = 0..transfer.slices();
    let result = slices.try_for_each(|slice| {
        exchange(&mut world, &mut reader, &plan, (slice, slice), &mut shorts)?;
        let Room::Host(memory) = &*room else { panic!("memory of the host") };
        // What kernels do next: nobody reads what was put any more.
        // SAFETY: that is what is tested.
        unsafe { memory.write(OUTBOX + slice * SLOT_BYTES, &[0xFF; SLOT_BYTES]) };
        Ok(())
    });
    reader.close().unwrap();
    let result = result.and_then(|()| world.close());
    (room, shorts.got, result)
}

#[expect(unsafe_code, reason = "the reader is closed")]
fn bytes(room: &Room, start: usize, len: usize) -> &[u8] {
    let Room::Host(memory) = room else { panic!("memory of the host") };
    // SAFETY: no card knows of the memory any more.
    unsafe { memory.bytes(start..start + len) }
}

fn byte_of(rank: usize, slice: usize, at: usize) -> u8 {
    (at / 5 + at / 777 + 40 * rank + 90 * slice) as u8
}

const SLICE: usize = 64 << 10;
