//! The simulator agrees with the formulas, and takes ten thousand ranks in little memory.

use std::sync::Arc;

use efarun_wire::Rank;

use super::scripted::Scripted;
use super::world::built;
use crate::coll::collective::Collective;
use crate::coll::fault::{Problem, Wait};
use crate::coll::hierarchy::{Hierarchy, Means, once_each};
use crate::coll::nodes::Nodes;
use crate::coll::schedule::{Operand, Schedule, Span, Step};
use crate::coll::select::{Algorithm, MessageLimits};
use crate::coll::sim::{Model, Report, simulate};

const MODEL: Model = Model { latency_s: 10e-6, message_s: 0.0, byte_s: 1e-9, memory_byte_s: 0.25e-9 };

fn ring(world_size: u32, count: usize, segment_len: usize, credits: usize) -> Box<dyn Schedule> {
    built((Collective::AllReduce, Algorithm::Ring), world_size, count, segment_len, credits)
}

fn tree(world_size: u32, count: usize, segment_len: usize, credits: usize) -> Box<dyn Schedule> {
    built((Collective::AllReduce, Algorithm::Tree), world_size, count, segment_len, credits)
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected, "{found} s, where the formula gives {expected} s");
}

#[test]
fn a_ring_takes_the_steps_and_bytes_of_its_formula() {
    for world_size in 2..=17u32 {
        let (others, chunk) = (u64::from(world_size) - 1, 1000);
        let count = chunk * world_size as usize;
        let report = simulate(&*ring(world_size, count, chunk, 2), 4, 2, &MODEL).unwrap();
        for rank in &report.ranks {
            assert_eq!((rank.messages, rank.bytes), (2 * others, 2 * others * chunk as u64 * 4));
        }
        let phase_s = MODEL.latency_s + 4.0 * chunk as f64 * (MODEL.byte_s + MODEL.memory_byte_s);
        close(report.time_s, 2.0 * others as f64 * phase_s);
        assert_eq!(report.max_held, 1);
    }
}

#[test]
fn a_tree_takes_the_messages_and_bytes_of_its_formula() {
    for world_size in 1..=17u32 {
        for segments in [1, 2, 7] {
            let edges = u64::from(world_size) - 1;
            let tree = tree(world_size, segments * 100, 100, 2);
            let report = simulate(&*tree, 8, 2, &MODEL).unwrap();
            assert_eq!(report.messages, 2 * edges * segments as u64);
            assert_eq!(report.bytes, 2 * edges * segments as u64 * 800);
            assert!(report.ranks.iter().all(|rank| rank.messages <= 3 * segments as u64));
        }
    }
}

#[test]
fn two_children_share_their_parents_ports() {
    let model = Model { memory_byte_s: 0.0, ..MODEL };
    let report = simulate(&*tree(3, 500, 500, 2), 4, 2, &model).unwrap();
    let bytes_s = 2000.0 * model.byte_s;
    close(report.time_s, 2.0 * (model.latency_s + 2.0 * bytes_s));
    close(report.ranks[0].time_s, 2.0 * model.latency_s + 3.0 * bytes_s);
}

#[test]
fn a_deep_tree_takes_two_latencies_per_level_for_a_short_vector() {
    let model = Model { byte_s: 0.0, memory_byte_s: 0.0, ..MODEL };
    for world_size in [2, 3, 8, 100, 1000] {
        let report = simulate(&*tree(world_size, 1, 1, 2), 4, 2, &model).unwrap();
        close(report.time_s, 2.0 * f64::from(world_size.ilog2()) * model.latency_s);
    }
}

#[test]
fn segments_in_flight_hide_latency_and_reduction() {
    let time_s = |report: Report| report.time_s;
    let count = 1 << 20;
    let ring_s = |segment_len, credits| {
        time_s(simulate(&*ring(8, count, segment_len, credits), 4, credits, &MODEL).unwrap())
    };
    assert!(ring_s(count / 32, 4) < 0.9 * ring_s(count / 8, 4));
    assert!(ring_s(1000, 4) < 0.6 * ring_s(1000, 1));
    let tree_s = |segment_len| time_s(simulate(&*tree(64, count, segment_len, 4), 4, 4, &MODEL).unwrap());
    assert!(tree_s(count / 64) < 0.3 * tree_s(count));
}

#[test]
fn ten_thousand_ranks_of_a_tree_fit_in_a_few_kilobytes_each() {
    let segments = 32;
    let report = simulate(&*tree(10_000, segments * 256, 256, 4), 4, 4, &MODEL).unwrap();
    assert_eq!(report.messages, 2 * 9_999 * segments as u64);
    assert_eq!(report.bytes, 2 * 9_999 * segments as u64 * 1024);
    assert!(report.peak_state_bytes < 10_000 * 4_000, "{} bytes", report.peak_state_bytes);
}

#[test]
fn ten_thousand_ranks_of_a_ring_fit_in_a_kilobyte_each() {
    let report = simulate(&*ring(10_000, 16, 1, 4), 4, 4, &MODEL).unwrap();
    assert_eq!(report.messages, 2 * 9_999 * 16);
    assert!(report.peak_state_bytes < 10_000 * 1_000, "{} bytes", report.peak_state_bytes);
    // One element goes round twice, but for one hop each.
    assert!(report.time_s > 2.0 * 9_998.0 * MODEL.latency_s);
}

/// By node, eight ranks on each.
fn by_node(collective: Collective, world_size: u32, count: usize) -> Hierarchy {
    let limits = MessageLimits {
        slot_bytes: 64 << 10,
        min_segment_bytes: 4 << 10,
        min_exchange_bytes: 64 << 10,
        quick_bytes: None,
        credits: 4,
    };
    let means = Means { element_bytes: 4, within: limits, between: limits, model: &Model::TCP };
    Hierarchy::new(collective, count, Arc::new(Nodes::in_order(world_size, 8)), means)
}

/// What a rank keeps while a call runs, by the simulator's accounting, does not grow with the world but for a tree's depth.
#[test]
fn a_rank_of_ten_thousand_keeps_little_more_than_one_of_a_thousand() {
    let root = Rank(17);
    let collectives = [
        (Collective::AllReduce, 1),
        (Collective::AllReduce, 1 << 18),
        (Collective::Broadcast { root }, 1 << 18),
        (Collective::Reduce { root }, 1 << 10),
        (Collective::Barrier, 0),
    ];
    for (collective, count) in collectives {
        let [of_few, of_many] = [1000, 10_000].map(|world_size| {
            let report = simulate(&by_node(collective, world_size, count), 4, 4, &Model::TCP).unwrap();
            report.peak_state_bytes / world_size as usize
        });
        println!("{collective} of {count}: {of_few} bytes per rank of 1,000, {of_many} of 10,000");
        assert!(of_many <= 16 << 10, "{collective} of {count}: {of_many} bytes");
        assert!(of_many * 2 <= of_few * 3, "{collective} of {count}: {of_few} and {of_many} bytes");
    }
}

/// Memory for slots and connections goes by peers.
#[test]
fn a_rank_of_ten_thousand_talks_to_few() {
    let root = Rank(17);
    let rooted = [Collective::Broadcast { root }, Collective::Reduce { root }];
    for collective in [Collective::AllReduce, Collective::Barrier].into_iter().chain(rooted) {
        for count in [1, 1 << 18] {
            let count = if collective == Collective::Barrier { 0 } else { count };
            let schedule = by_node(collective, 10_000, count);
            let busiest = (0..10_000).step_by(8).chain([17]).map(|rank| {
                let peers =
                    schedule.receives_from(Rank(rank)).into_iter().chain(schedule.sends_to(Rank(rank)));
                once_each(peers).len()
            });
            let peers = busiest.max().expect("there are ranks");
            println!("{collective} of {count}: {peers} peers at most");
            assert!(peers <= 7 + 2 * 11, "{collective} of {count}: {peers} peers");
        }
    }
}

#[test]
fn a_deadlock_names_a_rank_that_waits() {
    let fault = simulate(&*ring(4, 64, 4, 4), 4, 2, &MODEL).unwrap_err();
    assert_eq!(fault.problem, Problem::Deadlock { wait: Wait::Credit { to: Rank(1) } });
}

#[test]
fn messages_that_nobody_takes_are_found() {
    let span = Span::input(0, 1);
    let whole = Step::Copy { into: Span::output(0, 1), source: Operand::Span(span) };
    let send = [Step::Send { to: Rank(1), span }, Step::WaitSends { count: 1 }];
    let schedule = Scripted::new(vec![[&[whole], &send[..]].concat(), vec![whole]], 1);
    let fault = simulate(&schedule, 4, 2, &MODEL).unwrap_err();
    assert_eq!(fault.problem, Problem::NotReceived { from: Rank(0), messages: 1 });
}

#[test]
fn an_all_reduce_that_only_copies_is_found() {
    let whole = Step::Copy { into: Span::output(0, 1), source: Operand::Span(Span::input(0, 1)) };
    let fault = simulate(&Scripted::new(vec![vec![whole], vec![whole]], 1), 4, 2, &MODEL).unwrap_err();
    assert_eq!(fault.problem, Problem::TooLittleReduced { reduced: 0, needed: 1 });
}
