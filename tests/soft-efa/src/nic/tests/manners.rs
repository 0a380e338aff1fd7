//! Each manner does what it says, and a correct consumer lives with all of them.

use std::time::Duration;

use super::super::*;
use super::bench::*;
use crate::manners::Manners;

fn bench(manners: &str, seed: u64) -> Bench {
    Bench::new(Setup { manners: Manners::parse(manners).unwrap(), seed, ..Setup::default() })
}

/// Sends eight numbered messages and says in which order their receives completed.
fn order_of_arrival(manners: &str, seed: u64) -> Vec<u8> {
    let mut bench = bench(manners, seed);
    for number in 0..8 {
        bench.memory.fill(number, &[number as u8]);
        bench.receive(1, HALF + number, 1);
    }
    for number in 0..8 {
        bench.send(0, number, 1);
    }
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.completions(0).len(), 8);
    let arrived = bench.completions(1);
    assert_eq!(arrived.len(), 8);
    arrived.iter().map(|completion| bench.memory.get(completion.id as usize, 1)[0]).collect()
}

#[test]
fn unordered_arrivals_overtake_each_other_and_none_is_lost() {
    let in_order: Vec<u8> = (0..8).collect();
    assert_eq!(order_of_arrival("none", 1), in_order);
    for manner in ["unordered=50:100", "completions=50:100", "late=30:100"] {
        let orders: Vec<_> = (0..20).map(|seed| order_of_arrival(manner, seed)).collect();
        assert!(orders.iter().filter(|order| **order != in_order).count() > 10, "{manner}: {orders:?}");
        for mut order in orders {
            order.sort_unstable();
            assert_eq!(order, in_order, "{manner}");
        }
    }
}

#[test]
fn same_seed_makes_the_same_order() {
    // The choices are the same; a bench whose clock moves by choices alone then does the same.
    for seed in 0..5 {
        assert_eq!(order_of_arrival("all", seed), order_of_arrival("all", seed));
    }
}

#[test]
fn what_came_before_its_sender_went_is_received_whatever_is_done_to_it() {
    for is_write in [false, true] {
        let mut bench = bench("unordered=100:1000,repeat=100:1000", 3);
        bench.receive(1, HALF, 100);
        bench.memory.fill(0, &[7; 100]);
        let write = Operation::Write { remote_key: bench.keys[1], address: HALF as u64 };
        let operation = if is_write { write } else { Operation::Send };
        let work = Work { immediate: Some(1), ..bench.work(0, operation, 0, 100) };
        bench.post(0, work);
        bench.settle();
        assert!(bench.completions(1).is_empty(), "it is held back");
        bench.kill(0);
        bench.pass(Duration::from_millis(10));
        let received = bench.completion(1);
        let sender = Endpoint { gid: bench.nics[0].gid(), qpn: QPNS[0] };
        assert_eq!((received.status, received.source), (Status::Ok, Some(sender)));
        assert_eq!(bench.memory.get(HALF, 100), [7; 100]);
    }
}

#[test]
fn pieces_of_a_write_land_in_any_order() {
    let len = 8 * 8928;
    let mut last_landed_early = 0;
    for seed in 0..20 {
        let mut bench = bench("pieces", seed);
        bench.memory.fill(0, &vec![1; len]);
        let write = Operation::Write { remote_key: bench.keys[1], address: HALF as u64 };
        let work = bench.work(0, write, 0, len);
        bench.post(0, work);
        while bench.step(1) {
            let landed = bench.memory.get(HALF, len);
            if landed[len - 1] == 1 && landed.contains(&0) {
                last_landed_early += 1;
                break;
            }
        }
        bench.settle();
        assert_eq!(bench.memory.get(HALF, len), vec![1; len]);
        assert_eq!(bench.completion(0).status, Status::Ok);
    }
    assert!(last_landed_early > 10, "{last_landed_early} of 20");
}

#[test]
fn pieces_of_a_read_land_in_any_order() {
    let len = 8 * 8928;
    let mut last_landed_early = 0;
    for seed in 0..20 {
        let mut bench = bench("pieces", seed);
        bench.memory.fill(HALF, &vec![1; len]);
        let read = Operation::Read { remote_key: bench.keys[1], address: HALF as u64 };
        let work = bench.work(0, read, 0, len);
        bench.post(0, work);
        while bench.step(1) {
            let landed = bench.memory.get(0, len);
            if landed[len - 1] == 1 && landed.contains(&0) {
                last_landed_early += 1;
                break;
            }
        }
        bench.settle();
        assert_eq!(bench.memory.get(0, len), vec![1; len]);
    }
    assert!(last_landed_early > 10, "{last_landed_early} of 20");
}

#[test]
fn payload_lands_again_before_its_completion_and_never_after() {
    let mut landed_again = 0;
    for seed in 0..20 {
        for is_write in [false, true] {
            let mut bench = bench("repeat=100:1000", seed);
            bench.memory.fill(0, &[7; 100]);
            bench.receive(1, HALF, 100);
            let write = Operation::Write { remote_key: bench.keys[1], address: HALF as u64 };
            let operation = if is_write { write } else { Operation::Send };
            let work = Work { immediate: Some(1), ..bench.work(0, operation, 0, 100) };
            bench.post(0, work);
            bench.settle();
            assert_eq!(bench.memory.get(HALF, 100), [7; 100]);
            let shown = bench.completions(1).len();
            // A consumer that took the bytes for complete, and uses its memory for something else.
            bench.memory.fill(HALF, &[9; 100]);
            bench.pass(Duration::from_millis(10));
            if bench.memory.get(HALF, 100) == [7; 100] {
                landed_again += 1;
                assert_eq!(shown, 0, "what was completed is the consumer's");
            }
            assert_eq!(shown + bench.completions(1).len(), 1);
        }
    }
    assert!(landed_again > 20, "{landed_again} of 40");
}

#[test]
fn no_piece_lands_again_after_its_operation_is_complete() {
    let len = 6 * 8928;
    for seed in 0..20 {
        for is_write in [false, true] {
            let mut bench = bench("pieces,repeat=50:1000", seed);
            let (ours, theirs) = (0, HALF);
            let (from, to) = if is_write { (ours, theirs) } else { (theirs, ours) };
            bench.memory.fill(from, &vec![7; len]);
            let (remote_key, address) = (bench.keys[1], theirs as u64);
            let write = Operation::Write { remote_key, address };
            let operation = if is_write { write } else { Operation::Read { remote_key, address } };
            let work = bench.work(0, operation, ours, len);
            bench.post(0, work);
            let mut steps = 0;
            while bench.completions(0).is_empty() {
                bench.pass(Duration::from_micros(20));
                steps += 1;
                assert!(steps < 1000, "seed {seed}");
            }
            bench.memory.fill(to, &vec![9; len]);
            bench.pass(Duration::from_millis(10));
            assert!(bench.memory.get(to, len) == vec![9; len], "seed {seed}, write: {is_write}");
        }
    }
}

#[test]
fn not_ready_turns_away_once_and_not_who_has_no_retry() {
    let mut bench = bench("not-ready=100", 1);
    bench.receive(1, HALF, 10);
    bench.send(0, 0, 10);
    bench.settle();
    assert!(bench.completions(1).is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!((bench.completion(0).status, bench.completion(1).status), (Status::Ok, Status::Ok));
    bench.nics[0].modify_pair(bench.now, QPNS[0], None, None, Some(0));
    bench.receive(1, HALF, 10);
    bench.send(0, 0, 10);
    bench.settle();
    assert_eq!(bench.completion(0).status, Status::Ok);
}

#[test]
fn late_arrivals_take_their_time() {
    let mut bench = bench("late=100:3000", 1);
    bench.receive(1, HALF, 10);
    bench.send(0, 0, 10);
    bench.pass(Duration::from_micros(2900));
    assert!(bench.completions(1).is_empty());
    bench.pass(Duration::from_micros(200));
    assert_eq!(bench.completions(1).len(), 1);
    bench.pass(Duration::from_micros(3000));
    assert_eq!(bench.completions(0).len(), 1, "the answer is late, too");
}

#[test]
fn everything_at_once_loses_and_doubles_nothing() {
    for seed in 0..50 {
        let mut bench = bench("all", seed);
        bench.memory.fill(0, &pattern(100_000, seed as u8));
        for number in 0..6 {
            bench.receive(1, HALF + number * 9000, 9000);
            bench.send(0, number * 8900, 8900);
        }
        let (read, write) = (HALF + 200_000, HALF + 400_000);
        bench.memory.fill(read, &pattern(150_000, 9));
        let key = bench.keys[1];
        let work = bench.work(0, Operation::Read { remote_key: key, address: read as u64 }, 500_000, 150_000);
        bench.post(0, work);
        let work = bench.work(0, Operation::Write { remote_key: key, address: write as u64 }, 0, 100_000);
        bench.post(0, work);
        bench.pass(Duration::from_millis(500));
        let (ours, theirs) = (bench.completions(0), bench.completions(1));
        assert_eq!((ours.len(), theirs.len()), (8, 6), "seed {seed}");
        assert!(ours.iter().chain(&theirs).all(|completion| completion.status == Status::Ok), "seed {seed}");
        assert_eq!(bench.memory.get(500_000, 150_000), pattern(150_000, 9), "seed {seed}");
        assert_eq!(bench.memory.get(write, 100_000), pattern(100_000, seed as u8), "seed {seed}");
        let mut messages: Vec<Vec<u8>> =
            theirs.iter().map(|completion| bench.memory.get(completion.id as usize, 8900)).collect();
        let mut wanted: Vec<Vec<u8>> = (0..6)
            .map(|number| pattern(100_000, seed as u8)[number * 8900..(number + 1) * 8900].to_vec())
            .collect();
        messages.sort();
        wanted.sort();
        assert!(messages == wanted, "seed {seed}");
    }
}
