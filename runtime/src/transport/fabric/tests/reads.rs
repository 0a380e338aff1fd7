//! Reading others' rooms, in memory of the host: on the real EFA provider over soft EFA devices. Rooms of GPUs are
//! `relay/tests.rs`'s, which need a GPU.

use std::path::Path;
use std::sync::Arc;

use super::soft_efa::{difference, rails, rails_of_p5, run_body};
use super::*;
use crate::fabric::Memory;
use crate::transport::fabric::reads::{Reader, ReaderConfig, Room};

#[test]
fn rooms_are_read_whole_in_any_order_of_landings() {
    for (device, nics, body) in [("p4d", "1", "p4d"), ("p4d", "4", "four_rails_of_a_p4d"), ("p5", "4", "p5")]
    {
        let options = ["--device", device, "--nics", nics, "--manners", "all"];
        run_body("2.5.1", &format!("reads-{body}"), &format!("reads::bodies::on_{body}"), &options);
    }
    run_body("1.22.0", "reads-p4d-1.22", "reads::bodies::on_p4d", &["--device", "p4d", "--manners", "all"]);
}

#[test]
fn what_is_read_is_flushed_over_each_card_that_read() {
    run_body("2.5.1", "reads-flushed", "reads::bodies::flushed", &["--device", "p4d", "--nics", "4"]);
}

#[test]
fn reads_go_round_a_rail_that_fails() {
    let fault = ["--timeout", "2000", "--manners", "srd", "--fault", "link-down=1@150ops"];
    for (device, body) in [("p4d", "round_a_rail_of_a_p4d"), ("p5", "round_a_rail_of_a_p5")] {
        let options = [&["--device", device, "--nics", "3"][..], &fault].concat();
        run_body("2.5.1", &format!("reads-{body}"), &format!("reads::bodies::{body}"), &options);
    }
}

#[test]
fn a_rank_that_closed_is_lost_to_who_reads_from_it() {
    run_body("2.5.1", "reads-closed", "reads::bodies::closed", &["--device", "p5"]);
}

#[test]
fn keys_that_are_bad_are_told_and_nothing_is_read_twice() {
    let options = ["--device", "p5", "--nics", "2", "--fault", "fail=7:read"];
    run_body("2.5.1", "reads-refused", "reads::bodies::refused", &options);
}

#[test]
fn places_outside_of_a_room_are_refused() {
    run_body("2.5.1", "reads-outside", "reads::bodies::outside", &["--device", "p4d"]);
}

mod bodies {
    use super::*;

    macro_rules! bodies {
        ($($case:ident: $body:expr;)*) => {$(
            #[test]
            fn $case() {
                if support::body_runs_on().is_some() {
                    $body
                }
            }
        )*};
    }

    bodies! {
        on_p4d: everybody_reads(Network::Efa, rails(1));
        on_four_rails_of_a_p4d: everybody_reads(Network::Efa, rails(4));
        on_p5: everybody_reads(Network::EfaDirect, rails_of_p5(4));
        flushed: flushed_over_each_card();
        round_a_rail_of_a_p4d: goes_round(Network::Efa, rails(3));
        round_a_rail_of_a_p5: goes_round(Network::EfaDirect, rails_of_p5(3));
        closed: a_rank_that_closed();
        refused: refused_reads();
        outside: outside_of_a_room();
    }
}

/// Three ranks read from each other, all at once, short and long, and each finds what the other has there.
fn everybody_reads(network: Network, devices: Vec<String>) {
    for flushes in [false, true] {
        let mut ranks = connected(&config(3, network, &devices, flushes));
        let lens = [1, 8, 1000, 32 << 10, 100_000, 256 << 10, 300_001];
        for (round, len) in lens.into_iter().cycle().take(21).enumerate() {
            let from = 4096 * round + 24;
            for (me, rank) in ranks.iter_mut().enumerate() {
                let others = (0..3).filter(|other| *other != me);
                for (place, other) in others.enumerate() {
                    rank.reader.begin(Rank(other as u32), from, inbox(place), len).unwrap();
                }
            }
            until_all_is_there(&mut ranks);
            for (me, rank) in ranks.iter().enumerate() {
                let others = (0..3).filter(|other| *other != me);
                for (place, other) in others.enumerate() {
                    let range = inbox(place)..inbox(place) + len;
                    let here = rank.bytes(range);
                    let expected = (from..from + len).map(|at| byte_of(other, at));
                    assert!(here.iter().copied().eq(expected), "{len} bytes of rank {other} at rank {me}");
                    rank.clear(inbox(place), len);
                }
            }
        }
        close(ranks);
    }
}

fn flushed_over_each_card() {
    let mut done = 0;
    for (flushes, more) in [(false, 0), (true, 1)] {
        let mut ranks = connected(&config(2, Network::Efa, &rails(4), flushes));
        // Cards show a little later what they did: all that has been done so far, before what is measured begins.
        let so_far = (2 * 4) * (1 + more);
        let before = reads_once(|reads| reads.iter().sum::<u64>() >= done + so_far);
        // Two cards have a piece each, two none.
        ranks[0].reader.begin(Rank(1), 0, inbox(0), 64 << 10).unwrap();
        until_all_is_there(&mut ranks);
        let after =
            reads_once(|reads| reads.iter().sum::<u64>() >= before.iter().sum::<u64>() + 2 + 2 * more);
        done = after.iter().sum();
        let mut made = difference(&after, &before);
        made.sort_unstable();
        assert_eq!(made, [0, 0, 1 + more, 1 + more], "with flushes: {flushes}");
        close(ranks);
    }
}

fn goes_round(network: Network, devices: Vec<String>) {
    let mut ranks = connected(&config(2, network, &devices, false));
    for round in 0..200 {
        let (from, len) = (4096 * round, 200_000);
        ranks[0].reader.begin(Rank(1), from, inbox(0), len).unwrap();
        until_all_is_there(&mut ranks);
        let here = ranks[0].bytes(inbox(0)..inbox(0) + len);
        assert!(here.iter().copied().eq((from..from + len).map(|at| byte_of(1, at))), "round {round}");
        ranks[0].clear(inbox(0), len);
    }
    assert_eq!(ranks[0].reader.rails_to(Rank(1)), 2, "one has failed, and is left");
    close(ranks);
}

fn a_rank_that_closed() {
    let mut ranks = connected(&config(2, Network::EfaDirect, &rails_of_p5(1), false));
    let gone = ranks.pop().unwrap();
    gone.reader.close().unwrap();
    let cause = loss(&mut ranks[0]);
    assert!(cause.contains("rank 1") && cause.contains("from rdmap79s0 to rdmap79s0 on "), "{cause}");
    ranks.pop().unwrap().reader.close().unwrap();
}

fn refused_reads() {
    let mut ranks = world(&config(2, Network::EfaDirect, &rails_of_p5(2), false));
    let cause = loss(&mut ranks[0]);
    assert!(cause.contains("not registered") && cause.contains("EFA code 7"), "{cause}");
    for rank in ranks {
        rank.reader.close().unwrap();
    }
}

fn outside_of_a_room() {
    let mut ranks = connected(&config(2, Network::Efa, &rails(1), false));
    for (from, len) in [(2 * ROOM_BYTES - 10, 11), (2 * ROOM_BYTES, 1), (usize::MAX, 2)] {
        let refused = ranks[0].reader.begin(Rank(1), from, 0, len).unwrap_err();
        assert!(matches!(refused, TransportError::Incompatible { peer: Rank(1), .. }), "{refused}");
    }
    let refused = ranks[0].reader.begin(Rank(5), 0, 0, 1).unwrap_err();
    assert_eq!(refused, TransportError::NoRoute { peer: Rank(5) });
    until_all_is_there(&mut ranks);
    close(ranks);
}

/// A rank: in its room's first half what others read, in the second what it has read.
struct Reading {
    reader: Reader,
    room: Arc<Room>,
}

impl Reading {
    #[expect(unsafe_code, reason = "nothing is under way in the range: the reader has said so")]
    fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        let Room::Host(memory) = &*self.room else { panic!("memory of the host") };
        // SAFETY: what was read is there, and the next read begins later.
        unsafe { memory.bytes(range) }
    }

    #[expect(unsafe_code, reason = "as above")]
    fn clear(&self, start: usize, len: usize) {
        let Room::Host(memory) = &*self.room else { panic!("memory of the host") };
        // SAFETY: as above.
        unsafe { memory.write(start, &vec![0; len]) };
    }
}

fn config(world_size: u32, network: Network, devices: &[String], flushes: bool) -> ReaderConfig {
    ReaderConfig { world_size, network, devices: devices.to_vec(), flushes }
}

/// Ranks that know each other.
#[expect(unsafe_code, reason = "no card knows of the memory yet")]
fn world(config: &ReaderConfig) -> Vec<Reading> {
    let open = |rank: usize| {
        let memory = Memory::new(2 * ROOM_BYTES);
        let bytes: Vec<u8> = (0..ROOM_BYTES).map(|at| byte_of(rank, at)).collect();
        // SAFETY: nobody else has the memory.
        unsafe { memory.write(0, &bytes) };
        let room = Arc::new(Room::Host(memory));
        let (reader, address) = Reader::open(config, Arc::clone(&room)).unwrap();
        (Reading { reader, room }, address)
    };
    let (mut ranks, addresses): (Vec<_>, Vec<_>) = (0..config.world_size as usize).map(open).unzip();
    for (me, rank) in ranks.iter_mut().enumerate() {
        for (peer, address) in addresses.iter().enumerate().filter(|(peer, _)| *peer != me) {
            rank.reader.connect(Rank(peer as u32), address).unwrap();
        }
    }
    ranks
}

/// Ranks that have read from each other over every card.
fn connected(config: &ReaderConfig) -> Vec<Reading> {
    let mut ranks = world(config);
    for me in 0..ranks.len() {
        for peer in (0..ranks.len()).filter(|peer| *peer != me) {
            ranks[me].reader.prove(Rank(peer as u32), 64, inbox(0) + 4096 * peer, 64).unwrap();
        }
    }
    until_all_is_there(&mut ranks);
    for (me, rank) in ranks.iter().enumerate() {
        for peer in (0..ranks.len()).filter(|peer| *peer != me) {
            for rail in 0..config.devices.len() {
                let start = inbox(0) + 4096 * peer + 64 * rail;
                let expected = (64..128).map(|at| byte_of(peer, at));
                assert!(
                    rank.bytes(start..start + 64).iter().copied().eq(expected),
                    "rank {peer} over {rail}"
                );
            }
        }
    }
    ranks
}

fn until_all_is_there(ranks: &mut [Reading]) {
    let deadline = Instant::now() + DEADLINE;
    // All poll until all are there, as the provider may have something to answer.
    while ranks.iter_mut().map(|rank| rank.reader.poll().unwrap()).filter(|is_there| !is_there).count() > 0 {
        assert!(Instant::now() < deadline, "not there in {DEADLINE:?}");
    }
    assert!(ranks.iter().all(|rank| rank.reader.waits_for().is_none()));
}

/// Reads from rank 1 until that is an error, which stays.
fn loss(rank: &mut Reading) -> String {
    rank.reader.begin(Rank(1), 0, inbox(0), 1000).unwrap();
    let deadline = Instant::now() + DEADLINE;
    let lost = loop {
        assert!(Instant::now() < deadline, "the loss was not seen in {DEADLINE:?}");
        if let Err(error) = rank.reader.poll() {
            break error;
        }
    };
    assert!(matches!(lost, TransportError::PeerLost { peer: Rank(1), .. }), "{lost}");
    assert_eq!(rank.reader.poll(), Err(lost.clone()));
    lost.to_string()
}

fn close(ranks: Vec<Reading>) {
    for rank in ranks {
        rank.reader.close().unwrap();
    }
}

/// Where a rank puts what it reads.
fn inbox(place: usize) -> usize {
    ROOM_BYTES + place * (ROOM_BYTES / 2)
}

fn byte_of(rank: usize, at: usize) -> u8 {
    (at / 3 + at / 1001 + 50 * rank) as u8
}

/// How many reads each of a p4d's cards has made, as soon as that is so.
fn reads_once(is_so: impl Fn(&[u64]) -> bool) -> Vec<u64> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let reads = reads_of_cards(&rails(4));
        if is_so(&reads) {
            return reads;
        }
        assert!(Instant::now() < deadline, "cards show {reads:?} reads");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many reads each card of this host has made.
fn reads_of_cards(cards: &[String]) -> Vec<u64> {
    let of = |card: &String| {
        let folder = affinity::sysfs().join("class/infiniband").join(card);
        let file = folder.join(Path::new("ports/1/hw_counters/rdma_read_wrs"));
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().parse().unwrap()
    };
    cards.iter().map(of).collect()
}

const ROOM_BYTES: usize = 1 << 20;
