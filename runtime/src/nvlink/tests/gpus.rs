//! The same calls on this machine's GPUs, two at least; without them these tests are skipped.
//!
//! # Safety
//!
//! Calls are given memory of the pools, which live until the test has waited for all of them.
#![allow(unsafe_code)]

use std::time::Duration;

use efarun_wire::Rank;

use super::collectives::{Case, LEAVES, collectives, elements, ops};
use crate::coll::collective::Collective;
use crate::cuda::{CudaError, Device, DeviceMemory, DevicePointer, Graph, Stream};
use crate::element::{ElementType, ReduceOp};
use crate::nvlink::Trouble;
use crate::nvlink::call::{DeviceCall, DeviceElement};
use crate::nvlink::engine::{Engine, Preparation, Wanted};
use crate::nvlink::part::Leaf;
use crate::nvlink::window::Offer;

/// The ranks of a node, all driven by this thread.
pub(super) struct Gpus {
    pub(super) ranks: Vec<Member>,
}

/// One of them.
pub(super) struct Member {
    pub(super) engine: Engine,
    pub(super) stream: Stream,
    /// Registered memory, of which calls get parts.
    pub(super) pool: DeviceMemory<u64>,
}

impl Gpus {
    /// As many as are wanted, a GPU each, with the kernels for these types, or a line that says that the test was skipped.
    fn new(test: &str, wanted: u32, deadline: Duration, elements: &[DeviceElement]) -> Option<Gpus> {
        Gpus::on(test, (wanted, wanted), deadline, elements)
    }

    /// So many ranks on so many GPUs.
    pub(super) fn on(
        test: &str,
        (ranks, gpus): (u32, u32),
        deadline: Duration,
        elements: &[DeviceElement],
    ) -> Option<Gpus> {
        are_there(test, gpus).then(|| Gpus::open((ranks, gpus), deadline, elements))
    }

    fn open((count, gpus): (u32, u32), deadline: Duration, elements: &[DeviceElement]) -> Gpus {
        let devices: Vec<_> = (0..count).map(|rank| Device::open(rank % gpus).expect("a GPU")).collect();
        let prepared: Vec<_> =
            devices.iter().map(|device| Preparation::new(device, count, None).expect("a window")).collect();
        let offers: Vec<_> = prepared.iter().map(Preparation::offer).collect();
        let pools: Vec<_> =
            devices.iter().map(|device| DeviceMemory::zeroed(device, POOL_WORDS).expect("a pool")).collect();
        let pool_offers: Vec<_> =
            pools.iter().map(|pool| Offer::of(pool).expect("an offer").to_bytes()).collect();
        let ranks = prepared.into_iter().zip(pools).zip(&devices).enumerate().map(
            |(rank, ((prepared, pool), device))| {
                let may_share = gpus < count;
                let mut engine =
                    Engine::new(prepared, rank, &offers, deadline, may_share).expect("an engine");
                engine.register(&pool, &pool_offers).expect("registered");
                for element in std::iter::once(None).chain(elements.iter().copied().map(Some)) {
                    engine.prepare(element).expect("kernels");
                }
                Member { engine, stream: Stream::new(device).expect("a stream"), pool }
            },
        );
        Gpus { ranks: ranks.collect() }
    }

    /// Runs cases one behind the other on all GPUs, and checks each. Unregistered memory is the pools' too, but the calls
    /// are not told.
    pub(super) fn run(&mut self, cases: &mut [Case], what: &str) {
        let expected: Vec<_> = cases.iter().map(Case::expected).collect();
        self.upload(cases);
        // In turn: a stream takes a thousand launches, and then waits for the first of them, which waits for the other ranks.
        let mut at = vec![0; self.ranks.len()];
        for case in &*cases {
            for (rank, at) in at.iter_mut().enumerate() {
                self.enqueue(rank, case, at).expect("enqueued");
            }
        }
        self.wait(what);
        self.download(cases);
        for (case, expected) in cases.iter().zip(&expected) {
            case.check(expected, what);
        }
    }

    pub(super) fn wait(&self, what: &str) {
        for (number, rank) in self.ranks.iter().enumerate() {
            rank.stream.synchronize().expect(what);
            assert_eq!(rank.engine.trouble(), None, "{what}: rank {number}");
        }
    }

    pub(super) fn enqueue(&mut self, rank: usize, case: &Case, at: &mut usize) -> Result<(), CudaError> {
        let Member { engine, stream, pool } = &mut self.ranks[rank];
        let start = |at: usize| DevicePointer(pool.pointer().0 + 8 * at as u64);
        let words = case.inputs[rank].len().next_multiple_of(2);
        let (input, output) = case.places(rank as u32, start(*at), start(*at + words));
        *at += 2 * words;
        let call = DeviceCall {
            collective: case.shape.collective,
            element: case.element,
            op: case.op_of(rank as u32),
            count: case.shape.count_bytes / case.element.size_bytes(),
            input,
            output,
        };
        // SAFETY: parts of the pool, which lives until all is done.
        unsafe { engine.enqueue(stream, &call, Wanted { leaf: Some(case.leaf), is_staged: false }) }
    }

    pub(super) fn upload(&mut self, cases: &[Case]) {
        for (number, rank) in self.ranks.iter_mut().enumerate() {
            let mut at = 0;
            for case in cases {
                for memory in [&case.inputs[number], &case.outputs[number]] {
                    rank.pool.copy_from_host(at, memory).expect("a copy");
                    at += memory.len().next_multiple_of(2);
                }
            }
        }
    }

    pub(super) fn download(&self, cases: &mut [Case]) {
        for (number, rank) in self.ranks.iter().enumerate() {
            let mut at = 0;
            for case in &mut *cases {
                for memory in [&mut case.inputs[number], &mut case.outputs[number]] {
                    rank.pool.copy_to_host(at, memory).expect("a copy");
                    at += memory.len().next_multiple_of(2);
                }
            }
        }
    }

    /// Runs captured calls, a graph per rank, some times, each time with the data that `make` gives.
    pub(super) fn replay(&mut self, graphs: &[Graph], make: impl Fn(u64) -> Vec<Case>) {
        for replay in 0..5 {
            let mut cases = make(replay);
            let expected: Vec<_> = cases.iter().map(Case::expected).collect();
            self.upload(&cases);
            for (rank, graph) in self.ranks.iter().zip(graphs) {
                graph.launch(&rank.stream).expect("launched");
            }
            self.wait("a replay");
            self.download(&mut cases);
            for (case, expected) in cases.iter().zip(&expected) {
                case.check(expected, &format!("replay {replay}"));
            }
        }
    }
}

/// Whether there are so many GPUs, or a line that says that the test was skipped.
pub(super) fn are_there(test: &str, gpus: u32) -> bool {
    let missing = match Device::count() {
        Err(error) => error.to_string(),
        Ok(count) if count < gpus => format!("there are {count} GPUs, and it takes {gpus}"),
        Ok(_) => return true,
    };
    let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|need| need.trim() == "gpu"), "{test}: {missing}");
    println!("SKIPPED: {test}: {missing}");
    false
}

fn worlds() -> impl Iterator<Item = u32> {
    let count = Device::count().unwrap_or(2).clamp(2, 8);
    [2, 3, 4, 8].into_iter().filter(move |&ranks| ranks <= count)
}

#[test]
fn every_type_and_operation_on_gpus_is_as_on_the_host() {
    for ranks in worlds() {
        let test = "every_type_and_operation_on_gpus_is_as_on_the_host";
        let Some(mut gpus) = Gpus::new(test, ranks, PATIENCE, &elements().collect::<Vec<_>>()) else {
            return;
        };
        for element in elements() {
            let mut cases = Vec::new();
            for leaf in LEAVES {
                for (index, op) in ops().enumerate() {
                    // Who reads another rank's input does not know that rank's factor.
                    if index == 5 && leaf == Leaf::Direct {
                        continue;
                    }
                    let count = [41, 1000, 6007, 333, 2048, 777][index];
                    let world = (ranks, count);
                    cases.push(Case::new((Collective::AllReduce, leaf), (element, op), world, index as u64));
                }
            }
            gpus.run(&mut cases, &format!("{element:?} on {ranks} GPUs"));
        }
    }
}

#[test]
fn every_collective_on_gpus_is_right_for_every_leaf_and_length() {
    for ranks in worlds() {
        let test = "every_collective_on_gpus_is_right_for_every_leaf_and_length";
        let Some(mut gpus) = Gpus::new(test, ranks, PATIENCE, &TYPES) else { return };
        for (round, count) in [1, 3, 97, 1021, 4096, 40_003, 200_000].into_iter().enumerate() {
            let mut cases = Vec::new();
            for leaf in LEAVES {
                for (index, collective) in collectives(round as u32 % ranks).into_iter().enumerate() {
                    if leaf == Leaf::OneShot && count > 16_000 {
                        continue;
                    }
                    let element = [ElementType::F32, ElementType::I8, ElementType::Bf16][(index + round) % 3];
                    let seed = (round * 10 + index) as u64;
                    cases.push(Case::new((collective, leaf), (element, ReduceOp::Sum), (ranks, count), seed));
                }
            }
            gpus.run(&mut cases, &format!("{count} elements on {ranks} GPUs"));
        }
    }
}

#[test]
fn thousands_of_calls_of_all_kinds_use_cells_again() {
    for ranks in worlds() {
        let Some(mut gpus) =
            Gpus::new("thousands_of_calls_of_all_kinds_use_cells_again", ranks, PATIENCE, &TYPES)
        else {
            return;
        };
        let mut cases: Vec<_> = (0..2000)
            .map(|index: usize| {
                let collective = collectives(index as u32 % ranks)[index * 7 % 8];
                let leaf = LEAVES[index * 5 % 4];
                let count = [1, 60, 700, 240, 5000][index * 3 % 5];
                Case::new((collective, leaf), (ElementType::I32, ReduceOp::Sum), (ranks, count), index as u64)
            })
            .collect();
        gpus.run(&mut cases, &format!("2000 calls on {ranks} GPUs"));
    }
}

#[test]
fn graphs_of_calls_run_again_with_new_data() {
    let Some(mut gpus) = Gpus::new("graphs_of_calls_run_again_with_new_data", 2, PATIENCE, &TYPES) else {
        return;
    };
    let make = |seed: u64| -> Vec<Case> {
        let float = (ElementType::F32, ReduceOp::Sum);
        // Seeds that agree by six are in place and skewed alike.
        LEAVES
            .into_iter()
            .flat_map(|leaf| {
                [Collective::AllReduce, Collective::Broadcast { root: Rank(1) }].map(|it| (it, leaf))
            })
            .map(|what| Case::new(what, float, (2, 3000), 6 * seed + 1))
            .collect()
    };
    let first = make(0);
    let graphs: Vec<_> = (0..2)
        .map(|rank| {
            let stream = gpus.ranks[rank].stream.clone();
            // The kernels are loaded before: loading is not for a capture.
            let mut at = 0;
            // SAFETY: the pools live until all is done.
            let graph = unsafe {
                Graph::capture(&stream, || {
                    first.iter().try_for_each(|case| gpus.enqueue(rank, case, &mut at))
                })
            };
            graph.expect("captured")
        })
        .collect();
    gpus.replay(&graphs, make);
}

#[test]
fn a_gpu_whose_peer_does_not_come_ends_at_the_deadline_and_names_it() {
    for leaf in LEAVES {
        let test = "a_gpu_whose_peer_does_not_come_ends_at_the_deadline_and_names_it";
        let Some(mut gpus) = Gpus::new(test, 2, Duration::from_millis(200), &TYPES) else { return };
        let case = Case::new((Collective::AllReduce, leaf), (ElementType::F32, ReduceOp::Sum), (2, 1000), 1);
        for _ in 0..3 {
            gpus.enqueue(0, &case, &mut 0).expect("enqueued");
        }
        gpus.ranks[0].stream.synchronize().expect("it ends");
        assert_eq!(gpus.ranks[0].engine.trouble(), Some(Trouble::Timeout { peer: 1 }));
    }
}

#[test]
fn a_gpu_whose_host_says_stop_ends() {
    let Some(mut gpus) = Gpus::new("a_gpu_whose_host_says_stop_ends", 2, PATIENCE, &TYPES) else { return };
    let case =
        Case::new((Collective::AllReduce, Leaf::OneShot), (ElementType::F32, ReduceOp::Sum), (2, 1000), 1);
    gpus.enqueue(0, &case, &mut 0).expect("enqueued");
    gpus.ranks[0].engine.stop();
    gpus.ranks[0].stream.synchronize().expect("it ends");
    assert_eq!(gpus.ranks[0].engine.trouble(), Some(Trouble::Stopped));
}

#[test]
fn gpus_that_call_different_things_name_each_other() {
    let test = "gpus_that_call_different_things_name_each_other";
    let Some(mut gpus) = Gpus::new(test, 2, PATIENCE, &TYPES) else { return };
    for (rank, op) in [ReduceOp::Sum, ReduceOp::Max].into_iter().enumerate() {
        let case = Case::new((Collective::AllReduce, Leaf::TwoShot), (ElementType::F32, op), (2, 1000), 1);
        gpus.enqueue(rank, &case, &mut 0).expect("enqueued");
    }
    for (number, rank) in gpus.ranks.iter().enumerate() {
        rank.stream.synchronize().expect("it ends");
        assert_eq!(rank.engine.trouble(), Some(Trouble::Mismatch { peer: 1 - number }));
    }
}

#[test]
fn calls_of_two_nodes_end_in_whatever_order_ranks_begin_them() {
    let test = "calls_of_two_nodes_end_in_whatever_order_ranks_begin_them";
    let Some(mut one) = Gpus::new(test, 2, PATIENCE, &TYPES) else { return };
    let mut other = Gpus::open((2, 2), PATIENCE, &TYPES);
    for leaf in [Leaf::TwoShot, Leaf::Direct, Leaf::Ring] {
        // As many blocks as any has.
        let case = |seed| {
            Case::new((Collective::AllReduce, leaf), (ElementType::F32, ReduceOp::Sum), (2, 2 << 20), seed)
        };
        // Not in place: the same call is made again and again.
        let (mut of_one, mut of_other) = ([case(1)], [case(3)]);
        let expected = [of_one[0].expected(), of_other[0].expected()];
        one.upload(&of_one);
        other.upload(&of_other);
        for _ in 0..20 {
            one.enqueue(0, &of_one[0], &mut 0).expect("enqueued");
            other.enqueue(0, &of_other[0], &mut 0).expect("enqueued");
            other.enqueue(1, &of_other[0], &mut 0).expect("enqueued");
            one.enqueue(1, &of_one[0], &mut 0).expect("enqueued");
        }
        one.wait("one");
        other.wait("the other");
        one.download(&mut of_one);
        other.download(&mut of_other);
        of_one[0].check(&expected[0], "one");
        of_other[0].check(&expected[1], "the other");
    }
}

#[test]
fn two_streams_are_served_in_the_order_of_the_calls() {
    let Some(mut gpus) = Gpus::new("two_streams_are_served_in_the_order_of_the_calls", 2, PATIENCE, &TYPES)
    else {
        return;
    };
    let mut cases: Vec<_> = (0..40)
        .map(|index| {
            let what = (Collective::AllReduce, LEAVES[index % 4]);
            Case::new(what, (ElementType::I32, ReduceOp::Sum), (2, 700), index as u64)
        })
        .collect();
    let expected: Vec<_> = cases.iter().map(Case::expected).collect();
    gpus.upload(&cases);
    for number in 0..2 {
        let device = Device::open(number as u32).expect("a GPU");
        let mut streams = [gpus.ranks[number].stream.clone(), Stream::new(&device).expect("a stream")];
        let mut at = 0;
        for case in &cases {
            gpus.enqueue(number, case, &mut at).expect("enqueued");
            streams.swap(0, 1);
            gpus.ranks[number].stream = streams[0].clone();
        }
        // The last call comes behind all others.
        gpus.ranks[number].stream = streams[1].clone();
    }
    gpus.wait("two streams");
    gpus.download(&mut cases);
    for (case, expected) in cases.iter().zip(&expected) {
        case.check(expected, "two streams");
    }
}

/// Of most tests.
pub(super) const TYPES: [DeviceElement; 4] = [
    DeviceElement::Of(ElementType::F32),
    DeviceElement::Of(ElementType::I8),
    DeviceElement::Of(ElementType::Bf16),
    DeviceElement::Of(ElementType::I32),
];
/// 256 MiB.
const POOL_WORDS: usize = 32 << 20;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
