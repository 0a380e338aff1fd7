//! Plays the steps of all ranks on memory of the host, and compares with what the collectives mean.
//!
//! Elements are bytes of sums that wrap. A step of a node is done when all its ranks have come to it, and a transfer when
//! everybody whom it names has.

use std::collections::HashMap;

use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceElement, DeviceMessage, DeviceOp};
use efarun_rt::relay::Transfer;
use efarun_rt::{ElementType, Rank, ReduceOp};

use super::messages;
use super::steps::{Standpoint, Step, Steps, scratch_bytes};

/// A rank with its memory: input, output and scratch, at addresses far apart.
struct Played {
    at: Standpoint,
    steps: Vec<Step>,
    next: usize,
    memory: HashMap<u64, Vec<u8>>,
}

const INPUT: u64 = 1 << 32;
const OUTPUT: u64 = 2 << 32;
const SCRATCH: u64 = 3 << 32;

impl Played {
    fn read(&self, pointer: DevicePointer, len: usize) -> Vec<u8> {
        let (base, at) = (pointer.0 >> 32 << 32, (pointer.0 & 0xffff_ffff) as usize);
        self.memory[&base][at..at + len].to_vec()
    }

    fn write(&mut self, pointer: DevicePointer, bytes: &[u8]) {
        let (base, at) = (pointer.0 >> 32 << 32, (pointer.0 & 0xffff_ffff) as usize);
        self.memory.get_mut(&base).expect("memory")[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn step(&self) -> Option<&Step> {
        self.steps.get(self.next)
    }
}

fn rank_of(at: &Standpoint) -> u32 {
    at.node * at.locals + at.local
}

fn sum(parts: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let add = |a: Vec<u8>, b: Vec<u8>| a.iter().zip(b).map(|(a, b)| a.wrapping_add(b)).collect();
    parts.reduce(add).expect("there are parts")
}

/// What a collective leaves each rank, from what each gave; none where it gets nothing.
fn meaning(collective: DeviceCollective, count: usize, inputs: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
    let ranks = inputs.len();
    let block = |of: usize| of * count..(of + 1) * count;
    let of_rank = |rank: usize| match collective {
        DeviceCollective::AllReduce => Some(sum(inputs.iter().map(|it| it[..count].to_vec()))),
        DeviceCollective::Reduce { root } => {
            (root.index() == rank).then(|| sum(inputs.iter().map(|it| it[..count].to_vec())))
        }
        DeviceCollective::Broadcast { root } => Some(inputs[root.index()][..count].to_vec()),
        DeviceCollective::AllGather => Some(inputs.iter().flat_map(|it| it[..count].to_vec()).collect()),
        DeviceCollective::Gather { root } => {
            (root.index() == rank).then(|| inputs.iter().flat_map(|it| it[..count].to_vec()).collect())
        }
        DeviceCollective::ReduceScatter => Some(sum(inputs.iter().map(|it| it[block(rank)].to_vec()))),
        DeviceCollective::Scatter { root } => Some(inputs[root.index()][block(rank)].to_vec()),
        DeviceCollective::AllToAll => Some(inputs.iter().flat_map(|it| it[block(rank)].to_vec()).collect()),
        _ => None,
    };
    (0..ranks).map(of_rank).collect()
}

/// Of how many counts a rank's input is.
fn input_counts(collective: DeviceCollective, ranks: usize) -> usize {
    match collective {
        DeviceCollective::ReduceScatter | DeviceCollective::Scatter { .. } | DeviceCollective::AllToAll => {
            ranks
        }
        _ => 1,
    }
}

/// Does one step of a node, where all its ranks are at one of the same collective.
fn play_node(ranks: &mut [Played], node: u32) -> bool {
    let members: Vec<usize> = (0..ranks.len()).filter(|&rank| ranks[rank].at.node == node).collect();
    let calls: Option<Vec<DeviceCall>> = members
        .iter()
        .map(|&rank| match ranks[rank].step() {
            Some(Step::Node(call)) => Some(*call),
            _ => None,
        })
        .collect();
    let Some(calls) = calls else { return false };
    let (collective, count) = (calls[0].collective, calls[0].count);
    assert!(calls.iter().all(|call| (call.collective, call.count) == (collective, count)), "{calls:?}");
    let gives = |local: usize| match collective {
        DeviceCollective::Broadcast { root } | DeviceCollective::Scatter { root } => root.index() == local,
        _ => true,
    };
    let len = input_counts(collective, members.len()) * count;
    let inputs: Vec<_> = members
        .iter()
        .zip(&calls)
        .enumerate()
        .map(
            |(local, (&rank, call))| {
                if gives(local) { ranks[rank].read(call.input, len) } else { vec![0; len] }
            },
        )
        .collect();
    for ((&rank, call), result) in members.iter().zip(&calls).zip(meaning(collective, count, &inputs)) {
        if let Some(result) = result {
            ranks[rank].write(call.output, &result);
        }
        ranks[rank].next += 1;
    }
    true
}

/// The transfers that all ranks are at, between which nothing is missing.
fn play_transfers(ranks: &mut [Played]) -> bool {
    let transfers: HashMap<u32, Transfer> = (0..)
        .zip(&*ranks)
        .filter_map(|(rank, played)| match played.step() {
            Some(Step::Relay(transfer)) => Some((rank, transfer.clone())),
            _ => None,
        })
        .collect();
    // What each sends, by receiver; a rank that passes something on has it only when it got it.
    let mut sent: HashMap<(u32, u32), Vec<u8>> = HashMap::new();
    for (&rank, transfer) in &transfers {
        for &(to, index) in &transfer.sends {
            let put = transfer.puts[index];
            let before = sent.insert((rank, to.0), ranks[rank as usize].read(put.pointer, put.bytes));
            assert_eq!(before, None, "one message per pair");
        }
    }
    let mut has_played = false;
    let mut order: Vec<u32> = transfers.keys().copied().collect();
    order.sort_unstable();
    for _ in 0..ranks.len() {
        for &rank in &order {
            let transfer = &transfers[&rank];
            let is_done = ranks[rank as usize].next > 0
                && !matches!(ranks[rank as usize].step(), Some(Step::Relay(now)) if now == transfer);
            let is_taken = |&(to, _): &(Rank, usize)| {
                transfers.get(&to.0).is_some_and(|it| it.receives.iter().any(|(from, _)| from.0 == rank))
            };
            let has_come = |(from, _): &(Rank, usize)| sent.contains_key(&(from.0, rank));
            if is_done || !transfer.receives.iter().all(has_come) || !transfer.sends.iter().all(is_taken) {
                continue;
            }
            let mut got = vec![Vec::new(); transfer.gets.len()];
            for &(from, index) in &transfer.receives {
                got[index] = sent[&(from.0, rank)].clone();
                assert_eq!(got[index].len(), transfer.gets[index].bytes, "{from} to {rank}");
            }
            for &to in &transfer.passes_on {
                sent.insert((rank, to.0), got[0].clone());
            }
            let played = &mut ranks[rank as usize];
            if let Some((from, to)) = transfer.copy {
                let own = played.read(from.pointer, from.bytes);
                played.write(to, &own);
            }
            match transfer.reduction {
                Some(reduction) if !got.is_empty() => {
                    let own = played.read(reduction.own, transfer.gets[0].bytes);
                    got.insert(reduction.place as usize, own);
                    let result = sum(got.into_iter());
                    played.write(transfer.gets[0].pointer, &result);
                }
                _ => {
                    for (bytes, get) in got.iter().zip(&transfer.gets) {
                        played.write(get.pointer, bytes);
                    }
                }
            }
            played.next += 1;
            has_played = true;
        }
    }
    has_played
}

/// Plays until all are done.
fn play(ranks: &mut [Played], what: &str) {
    let nodes = ranks[0].at.nodes;
    loop {
        let mut has_moved = false;
        for rank in &mut *ranks {
            while let Some(Step::Copy { from, to, bytes }) = rank.step().cloned() {
                let data = rank.read(from, bytes);
                rank.write(to, &data);
                rank.next += 1;
                has_moved = true;
            }
        }
        for node in 0..nodes {
            has_moved |= play_node(ranks, node);
        }
        has_moved |= play_transfers(ranks);
        if ranks.iter().all(|rank| rank.step().is_none()) {
            return;
        }
        assert!(
            has_moved,
            "{what}: nobody gets on: {:?}",
            ranks.iter().map(Played::step).collect::<Vec<_>>()
        );
    }
}

fn standpoints(nodes: u32, locals: u32) -> impl Iterator<Item = Standpoint> {
    let place = move |rank| Standpoint { nodes, locals, node: rank / locals, local: rank % locals };
    (0..nodes * locals).map(place)
}

fn check(collective: DeviceCollective, (nodes, locals): (u32, u32), count: usize, is_in_place: bool) {
    let what = format!("{collective:?} of {count} on {nodes} nodes of {locals}, in place: {is_in_place}");
    let ranks = (nodes * locals) as usize;
    let whole = match collective {
        DeviceCollective::AllReduce
        | DeviceCollective::Broadcast { .. }
        | DeviceCollective::Reduce { .. } => count,
        _ => ranks * count,
    };
    let given =
        |rank: usize| -> Vec<u8> { (0..whole).map(|at| (at * 7 + rank * 31 + at / 251) as u8).collect() };
    let mut played: Vec<_> = standpoints(nodes, locals)
        .map(|at| {
            let rank = rank_of(&at) as usize;
            let own = DevicePointer(INPUT + (rank * count) as u64);
            let (input, output) = match collective {
                _ if !is_in_place => (DevicePointer(INPUT), DevicePointer(OUTPUT)),
                DeviceCollective::AllGather | DeviceCollective::Gather { .. } => (own, DevicePointer(INPUT)),
                DeviceCollective::ReduceScatter | DeviceCollective::Scatter { .. } => {
                    (DevicePointer(INPUT), own)
                }
                _ => (DevicePointer(INPUT), DevicePointer(INPUT)),
            };
            let (element, op) = (DeviceElement::Of(ElementType::U8), DeviceOp::Of(ReduceOp::Sum));
            let call = DeviceCall { collective, element, op, count, input, output };
            let scratch = scratch_bytes(&call, &at);
            let memory = HashMap::from([
                (INPUT, given(rank)),
                (OUTPUT, vec![0xa5; whole]),
                (SCRATCH, vec![0; scratch]),
            ]);
            let steps = Steps { call, at, scratch: DevicePointer(SCRATCH) }.list();
            (Played { at, steps, next: 0, memory }, input, output)
        })
        .collect();
    let inputs: Vec<_> = played
        .iter()
        .map(|(rank, input, _)| rank.read(*input, input_counts(collective, ranks) * count))
        .collect();
    let outputs: Vec<_> = played.iter().map(|(_, _, output)| *output).collect();
    let mut all: Vec<_> = played.drain(..).map(|(rank, _, _)| rank).collect();
    play(&mut all, &what);
    for ((rank, expected), output) in all.iter().zip(meaning(collective, count, &inputs)).zip(outputs) {
        if let Some(expected) = expected {
            assert!(rank.read(output, expected.len()) == expected, "{what}: rank {}", rank_of(&rank.at));
        } else if !is_in_place {
            assert!(rank.memory[&OUTPUT].iter().all(|&byte| byte == 0xa5), "{what}: not the root's");
        }
        if !is_in_place {
            assert!(
                rank.memory[&INPUT] == given(rank_of(&rank.at) as usize),
                "{what}: its input is left alone"
            );
        }
    }
}

#[test]
fn every_collective_means_the_same_on_several_nodes() {
    for shape in [(2, 1), (2, 2), (3, 1), (3, 2), (4, 4), (2, 8)] {
        let ranks = shape.0 * shape.1;
        let roots = [0, ranks / 2, ranks - 1].map(Rank);
        for is_in_place in [false, true] {
            for count in [1, 17, 300] {
                for root in roots {
                    check(DeviceCollective::Gather { root }, shape, count, is_in_place);
                    check(DeviceCollective::Scatter { root }, shape, count, is_in_place);
                }
                check(DeviceCollective::AllGather, shape, count, is_in_place);
                check(DeviceCollective::ReduceScatter, shape, count, is_in_place);
            }
            // A node's ranks share the work from 64 KiB on.
            for count in [1, 17, 70_001] {
                check(DeviceCollective::AllReduce, shape, count, is_in_place);
                for root in roots {
                    check(DeviceCollective::Broadcast { root }, shape, count, is_in_place);
                    check(DeviceCollective::Reduce { root }, shape, count, is_in_place);
                }
            }
        }
        for count in [1, 17, 300] {
            check(DeviceCollective::AllToAll, shape, count, false);
        }
    }
    // From 256 KiB on more than two nodes exchange twice.
    for shape in [(3, 1), (3, 2)] {
        check(DeviceCollective::AllReduce, shape, 800_003, false);
        check(DeviceCollective::AllReduce, shape, 800_003, true);
    }
}

#[test]
fn a_rank_sends_no_more_between_nodes_than_it_must() {
    let sent = |collective, (nodes, locals), count: usize| {
        let bytes = |at: Standpoint| {
            let (element, op) = (DeviceElement::Of(ElementType::F32), DeviceOp::Of(ReduceOp::Sum));
            let (input, output) = (DevicePointer(INPUT), DevicePointer(OUTPUT));
            let call = DeviceCall { collective, element, op, count, input, output };
            let steps = Steps { call, at, scratch: DevicePointer(SCRATCH) }.list();
            let of_step = |step: &Step| match step {
                Step::Relay(transfer) => {
                    transfer.sends.iter().map(|&(_, put)| transfer.puts[put].bytes).sum()
                }
                _ => 0,
            };
            steps.iter().map(of_step).sum::<usize>()
        };
        standpoints(nodes, locals).map(bytes).max().expect("there are ranks")
    };
    let (count, bytes) = (1 << 20, 4 << 20);
    // Of a vector each rank of the node sends its share, and with several nodes two parts of that to each.
    assert_eq!(sent(DeviceCollective::AllReduce, (2, 4), count), bytes / 4);
    assert_eq!(sent(DeviceCollective::AllReduce, (4, 1), count), bytes * 2 * 3 / 4);
    assert_eq!(sent(DeviceCollective::ReduceScatter, (2, 4), count), bytes);
    assert_eq!(sent(DeviceCollective::AllToAll, (2, 4), count), 4 * bytes);
    assert_eq!(sent(DeviceCollective::Broadcast { root: Rank(1) }, (3, 2), count), bytes / 2);
}

#[test]
fn messages_of_one_pair_go_one_behind_the_other() {
    let at = Standpoint { nodes: 2, locals: 2, node: 0, local: 0 };
    let message = |peer, data, bytes| DeviceMessage { peer: Rank(peer), data: DevicePointer(data), bytes };
    let sends = [message(2, 1, 8), message(1, 2, 8), message(2, 3, 16), message(3, 4, 8), message(2, 5, 0)];
    let steps = messages::steps(&sends, &[message(3, 6, 8)], &at);
    let [Step::Messages { sends: near, .. }, Step::Relay(first), Step::Relay(second)] = &steps[..] else {
        panic!("{steps:?}");
    };
    assert_eq!(near, &[message(1, 2, 8)]);
    let peers = |transfer: &Transfer| transfer.sends.iter().map(|(to, _)| to.0).collect::<Vec<_>>();
    assert_eq!((peers(first), peers(second)), (vec![2, 3], vec![2]));
    assert_eq!((first.receives.len(), second.receives.len()), (1, 0));
}
