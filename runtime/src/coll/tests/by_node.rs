//! Collectives by node are proved, exact however the network behaves, and cross between nodes as often as they say.

use std::sync::Arc;

use efarun_wire::Rank;
use half::bf16;
use proptest::prelude::*;

use super::explore::{MAX_MESSAGES, explore, messages};
use super::world::{Setting, cases, expected, inputs, run};
use crate::coll::check::check;
use crate::coll::collective::Collective;
use crate::coll::hierarchy::{Hierarchy, Means};
use crate::coll::leaf::Leaf;
use crate::coll::nodes::Nodes;
use crate::coll::plan::Plan;
use crate::coll::schedule::{Schedule, Step};
use crate::coll::select::MessageLimits;
use crate::coll::sim::Model;
use crate::element::{Element, ReduceOp};
use crate::transport::double::Manners;

/// Of nodes in order: world size, and ranks of a node.
const IN_ORDER: [(u32, u32); 7] = [(3, 2), (4, 2), (8, 2), (8, 5), (9, 3), (12, 4), (7, 3)];

/// Some ways of ranks to lie on nodes.
fn layouts() -> Vec<Arc<Nodes>> {
    let in_order = IN_ORDER.map(|(world_size, per_node)| Nodes::in_order(world_size, per_node));
    let ranks = |numbers: &[u32]| numbers.iter().copied().map(Rank).collect();
    let scattered = [
        Nodes::new(vec![ranks(&[0, 2]), ranks(&[1, 3])]),
        Nodes::new(vec![ranks(&[0, 3, 4]), ranks(&[1]), ranks(&[2, 5])]),
    ];
    let small = if cfg!(miri) { 1 } else { IN_ORDER.len() + scattered.len() };
    in_order.into_iter().chain(scattered).take(small).map(Arc::new).collect()
}

/// Every collective that fits, with each rank as the root.
fn collectives(nodes: &Nodes) -> impl Iterator<Item = Collective> {
    let roots = move |collective| match collective {
        Collective::Broadcast { .. } | Collective::Reduce { .. } => nodes.world_size(),
        _ => 1,
    };
    let rooted = move |collective| {
        (0..roots(collective)).map(Rank).map(move |root| match collective {
            Collective::Broadcast { .. } => Collective::Broadcast { root },
            Collective::Reduce { .. } => Collective::Reduce { root },
            other => other,
        })
    };
    let fits = |collective: &Collective| Hierarchy::fits(*collective, nodes);
    Collective::ALL.into_iter().filter(fits).flat_map(rooted)
}

/// With elements so large that four are enough for lanes, and segments of so many.
fn built(
    collective: Collective,
    nodes: &Arc<Nodes>,
    count: usize,
    segment_len: usize,
    credits: usize,
) -> Hierarchy {
    let element_bytes = 16 << 10;
    let limits = |segment_len| MessageLimits {
        slot_bytes: segment_len * element_bytes,
        min_segment_bytes: 1,
        min_exchange_bytes: 1,
        quick_bytes: None,
        credits,
    };
    // Longer between nodes, as they are over TCP.
    let (within, between) = (limits(segment_len), limits(segment_len + 1));
    let count = if collective == Collective::Barrier { 0 } else { count };
    let means = Means { element_bytes, within, between, model: &Model::TCP };
    Hierarchy::new(collective, count, Arc::clone(nodes), means)
}

#[test]
fn all_layouts_are_proved() {
    for nodes in layouts() {
        for collective in collectives(&nodes) {
            for (count, segment_len) in [(0, 2), (1, 1), (3, 2), (4, 1), (13, 3), (13, 20)] {
                for credits in [1, 2, 5] {
                    let schedule = built(collective, &nodes, count, segment_len, credits);
                    assert_eq!(check(&schedule, credits), Ok(()), "{schedule:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(150), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_layout_is_exact_however_the_network_behaves(
        places in prop::collection::vec(0..4usize, 3..10),
        choice: prop::sample::Index,
        count in 0..40usize,
        segment_len in 1..=20usize,
        credits in 1..=4usize,
        is_in_place: bool,
        keeps_steps: bool,
        is_late: bool,
        refuses: bool,
        seed: u64,
    ) {
        let mut members = vec![Vec::new(); 4];
        for (rank, place) in (0..).map(Rank).zip(&places) {
            members[*place].push(rank);
        }
        members.retain(|ranks| !ranks.is_empty());
        let nodes = Arc::new(Nodes::new(members));
        prop_assume!(nodes.are_levels());
        let all: Vec<_> = collectives(&nodes).collect();
        let schedule = built(all[choice.index(all.len())], &nodes, count, segment_len, credits);
        let manners = Manners { credits, is_late, refuses, seed, ..Manners::default() };
        expect_exact(&schedule, Setting { is_in_place, keeps_steps, manners, ..Setting::default() });
    }
}

fn expect_exact(schedule: &Hierarchy, setting: Setting) {
    let inputs = inputs(schedule, |rank, index| i64::from(rank) * 1000 + index as i64);
    let expected = expected(schedule, &inputs, i64::wrapping_add);
    for (rank, (found, expected)) in run(schedule, &inputs, setting).into_iter().zip(expected).enumerate() {
        assert_eq!(found, Ok(expected), "rank {rank} of {schedule:?} with {setting:?}");
    }
}

#[test]
fn every_layout_is_exact_in_place_and_apart() {
    for nodes in layouts() {
        for collective in collectives(&nodes) {
            for (count, is_in_place, keeps_steps) in [(1, false, true), (13, true, true), (13, false, false)]
            {
                let schedule = built(collective, &nodes, count, 3, 4);
                expect_exact(&schedule, Setting { is_in_place, keeps_steps, ..Setting::default() });
            }
        }
    }
}

#[test]
fn every_order_of_delivery_gives_the_result_on_few_nodes() {
    let mut explored = 0;
    for nodes in layouts() {
        for collective in collectives(&nodes) {
            for credits in [1, 2] {
                let schedule = built(collective, &nodes, 1, 1, credits);
                if nodes.world_size() <= 4 && messages(&schedule) <= MAX_MESSAGES {
                    assert!(explore(&schedule, credits).is_ok(), "{schedule:?}");
                    explored += 1;
                }
            }
        }
    }
    assert!(explored >= 20, "{explored} are small enough to try");
}

#[test]
fn an_average_is_divided_where_it_is_complete() {
    for nodes in layouts() {
        let schedule = built(Collective::AllReduce, &nodes, 7, 3, 4);
        let inputs = inputs(&schedule, |rank, _| bf16::from_f32(rank as f32));
        let mean = (nodes.world_size() - 1) as f32 / 2.0;
        for result in run(&schedule, &inputs, Setting { op: ReduceOp::Avg, ..Setting::default() }) {
            assert_eq!(result, Ok(vec![bf16::from_f32(mean); 7]), "{schedule:?}");
        }
    }
}

/// Elements that a schedule's ranks send to other nodes, in all.
fn crossing(schedule: &Hierarchy, nodes: &Nodes) -> usize {
    let of_rank = |rank: Rank| {
        let sent = schedule.steps(rank).filter_map(move |step| match step {
            Step::Send { to, span } if nodes.node_of(to) != nodes.node_of(rank) => Some(span.len),
            _ => None,
        });
        sent.sum::<usize>()
    };
    (0..nodes.world_size()).map(|rank| of_rank(Rank(rank))).sum()
}

#[test]
fn what_crosses_between_nodes_is_what_the_page_says() {
    for (world_size, per_node) in [(4, 2), (8, 4), (12, 3)] {
        let nodes = Arc::new(Nodes::in_order(world_size, per_node));
        let (count, others) = (per_node as usize * 12, nodes.count() as usize - 1);
        let of = |collective| crossing(&built(collective, &nodes, count, 100, 4), &nodes);
        let root = Rank(1);
        assert_eq!(of(Collective::Broadcast { root }), count * others);
        assert_eq!(of(Collective::Reduce { root }), count * others);
        let blocks = count * per_node as usize * (others + 1);
        assert_eq!(of(Collective::AllGather), blocks * others);
        assert_eq!(of(Collective::ReduceScatter), blocks * others);
        // Two nodes exchange everything once.
        assert!(of(Collective::AllReduce) <= 2 * count * (others + 1), "{world_size} ranks");
    }
}

#[test]
fn every_stage_within_a_node_has_a_leaf_and_leaves_leave_no_peers_there() {
    for nodes in layouts() {
        for collective in collectives(&nodes) {
            for rank in (0..nodes.world_size()).map(Rank) {
                let schedule = || built(collective, &nodes, 13, 3, 4);
                let leaves = schedule().stages(rank).filter(|stage| stage.is_local).count();
                let plan = Plan::with_leaves(schedule(), rank, f32::TYPE.size_bytes()).expect("no fault");
                let alone = nodes.members(nodes.node_of(rank)).len() == 1;
                assert_eq!(plan.taken_over().len(), if alone { 0 } else { leaves });
                let is_away = |peer: &Rank| nodes.node_of(*peer) != nodes.node_of(rank);
                assert!(plan.receives_from().iter().chain(plan.sends_to()).all(is_away), "{collective}");
                if collective == Collective::Barrier && !alone {
                    assert!(plan.taken_over().iter().all(|stage| stage.leaf == Leaf::Flags));
                }
            }
        }
    }
}
