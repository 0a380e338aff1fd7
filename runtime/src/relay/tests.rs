//! What hosts do for a transfer that cards read, in rooms of the host's memory on soft EFA devices: the same exchange as for rooms
//! of GPUs, which need one.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

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
        assert!(difference.contains(&format!("has {len} bytes where {} belong", len + 1)), "{difference}");
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

fn plan_of(transfer: &Transfer) -> Plan {
    Plan::of(transfer, Caller { operation: "all_to_all", sequence: 0 }, false)
}

/// Runs a transfer's slices, each by a channel of its number, on a rank for each; their rooms, what they got of short stretches,
/// and how it went.
fn run_all(transfers: &[Transfer]) -> Vec<(Arc<Room>, Stretches, Result<(), Error>)> {
    on_all(transfers.len() as u32, |station| {
        let mut shorts = Shorts::default();
        let result = run_one(station, &transfers[station.me()], &mut shorts);
        (shorts.got, result)
    })
}

fn run_one(station: &mut Station, transfer: &Transfer, shorts: &mut Shorts) -> Result<(), Error> {
    let me = station.me();
    for slice in 0..transfer.slices() {
        let whole: Vec<u8> = (0..SLOT_BYTES).map(|at| byte_of(me, slice, at)).collect();
        station.write(OUTBOX + slice * SLOT_BYTES, &whole);
    }
    for (index, _) in transfer.puts.iter().enumerate() {
        let bytes = shorts.put.of_mut(index).iter_mut().enumerate();
        bytes.for_each(|(at, byte)| *byte = byte_of(me, 0, index * SLICE + at));
    }
    let plan = plan_of(transfer);
    (0..transfer.slices()).try_for_each(|slice| {
        exchange(&mut station.world, &mut station.reader, &plan, (slice, slice), shorts)?;
        // What kernels do next: nobody reads what was put any more.
        station.write(OUTBOX + slice * SLOT_BYTES, &[0xFF; SLOT_BYTES]);
        Ok(())
    })
}

/// A rank with a room that the others may read.
pub(super) struct Station {
    pub(super) world: World,
    pub(super) reader: Reader,
    room: Arc<Room>,
}

/// Does something on so many ranks, each of which can read from all others; their rooms, what came of it, and how it went.
fn on_all<T: Send>(
    ranks: u32,
    body: impl Fn(&mut Station) -> (T, Result<(), Error>) + Sync,
) -> Vec<(Arc<Room>, T, Result<(), Error>)> {
    let builder = World::builder()
        .local_transport(LocalTransport::Network)
        .provider(Provider::Efa)
        .deadline(Duration::from_secs(20));
    let worlds = builder.thread_worlds(ranks).unwrap();
    let one = |world: World| {
        let mut station = Station::open(world);
        let (found, result) = body(&mut station);
        let room = Arc::clone(&station.room);
        (room, found, result.and(station.close()))
    };
    thread::scope(|scope| {
        let one = &one;
        let start = |world| scope.spawn(move || one(world));
        let threads: Vec<_> = worlds.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

impl Station {
    pub(super) fn open(mut world: World) -> Station {
        let me = world.rank();
        let room = Arc::new(Room::Host(Memory::on_large_pages(ROOM_BYTES)));
        let (network, devices) = world.cards().unwrap();
        let world_size = world.world_size();
        let config = ReaderConfig { world_size, network, devices: devices.to_vec(), flushes: false };
        let (mut reader, address) = Reader::open(&config, Arc::clone(&room)).unwrap();
        let all = world.exchange("addresses-of-rooms", None, address).unwrap();
        let peers = || (0..world_size).map(Rank).filter(|peer| *peer != me);
        for peer in peers() {
            reader.connect(peer, &all[peer.index()]).unwrap();
        }
        world.exchange("connected", None, Vec::new()).unwrap();
        for peer in peers() {
            reader.prove(peer, 0, ROOM_BYTES - 4096, 64).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while !reader.poll().unwrap() {
            assert!(Instant::now() < deadline, "{:?} is not read from", reader.waits_for());
            thread::yield_now();
        }
        polling(std::slice::from_mut(&mut reader), || world.exchange("proven", None, Vec::new())).unwrap();
        Station { world, reader, room }
    }

    /// The Reader goes first, so that no card touches the room any more.
    pub(super) fn close(self) -> Result<(), Error> {
        let Station { world, reader, .. } = self;
        reader.close().unwrap();
        world.close()
    }

    fn me(&self) -> usize {
        self.world.rank().index()
    }

    pub(super) fn memory(&self) -> &Memory {
        let Room::Host(memory) = &*self.room else { panic!("memory of the host") };
        memory
    }

    #[expect(unsafe_code, reason = "writes where no card reads")]
    fn write(&mut self, start: usize, bytes: &[u8]) {
        // SAFETY: that no card reads it, or writes it, is what is tested.
        unsafe { self.memory().write(start, bytes) };
    }
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
