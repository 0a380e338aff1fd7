//! Plays the steps of all ranks on memory of the host, and compares with what the collectives mean.
//!
//! Elements are bytes of sums that wrap, or, of what depends on the order in which ranks are reduced, pairs of them. A step of a node is done when all its ranks have come to it, and a transfer when
//! everybody whom it names has.

use std::collections::HashMap;
use std::ops::Range;

use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceElement, DeviceMessage, DeviceOp, Factor};
use efarun_rt::relay::Transfer;
use efarun_rt::{ElementType, Rank, ReduceOp};

use super::messages;
use super::steps::{BY_NODE_BYTES_MAX, SHARED_BYTES_MIN, Standpoint, Step, Steps, scratch_bytes};

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

const SUM: (DeviceElement, DeviceOp) = (DeviceElement::Of(ElementType::U8), DeviceOp::Of(ReduceOp::Sum));
/// Of each rank another factor, which [`op_of`] puts in.
const PRE_MUL_SUM: (DeviceElement, DeviceOp) =
    (DeviceElement::Of(ElementType::U8), DeviceOp::PreMulSum(Factor::Bytes(0)));
const AVERAGE: (DeviceElement, DeviceOp) = (DeviceElement::Of(ElementType::U8), DeviceOp::Of(ReduceOp::Avg));
/// Played as something that depends on the order.
const PRODUCT: (DeviceElement, DeviceOp) =
    (DeviceElement::Of(ElementType::U16), DeviceOp::Of(ReduceOp::Prod));

fn op_of(rank: u32, op: DeviceOp) -> DeviceOp {
    match op {
        DeviceOp::PreMulSum(_) => DeviceOp::PreMulSum(Factor::Bytes(u64::from(2 * rank + 3))),
        op => op,
    }
}

/// A rank's input, times its factor.
fn multiplied(op: DeviceOp, mut bytes: Vec<u8>) -> Vec<u8> {
    if let DeviceOp::PreMulSum(Factor::Bytes(factor)) = op {
        bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(factor as u8));
    }
    bytes
}

/// Inputs as one, in their order.
fn reduced(op: DeviceOp, ranks: usize, parts: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let add = |a: Vec<u8>, b: Vec<u8>| a.iter().zip(b).map(|(a, b)| a.wrapping_add(b)).collect();
    let join = |a: Vec<u8>, b: Vec<u8>| {
        let pair = |(a, b): (&[u8], &[u8])| {
            let turned = 5u8.wrapping_pow(a[0].into()).wrapping_mul(b[1]);
            [a[0].wrapping_add(b[0]), a[1].wrapping_add(turned)]
        };
        a.chunks(2).zip(b.chunks(2)).flat_map(pair).collect()
    };
    let whole = if op == PRODUCT.1 { parts.reduce(join) } else { parts.reduce(add) };
    let mut whole = whole.expect("there are parts");
    if op == AVERAGE.1 {
        whole.iter_mut().for_each(|byte| *byte /= ranks as u8);
    }
    whole
}

/// What a collective leaves each rank, from what each gave; none where it gets nothing. What it counts is so many bytes.
fn meaning(
    collective: DeviceCollective,
    op: DeviceOp,
    len: usize,
    inputs: &[Vec<u8>],
) -> Vec<Option<Vec<u8>>> {
    let ranks = inputs.len();
    let block = |of: usize| of * len..(of + 1) * len;
    let reduced = |part: Range<usize>| reduced(op, ranks, inputs.iter().map(|it| it[part.clone()].to_vec()));
    let of_rank = |rank: usize| match collective {
        DeviceCollective::AllReduce => Some(reduced(0..len)),
        DeviceCollective::Reduce { root } => (root.index() == rank).then(|| reduced(0..len)),
        DeviceCollective::Broadcast { root } => Some(inputs[root.index()][..len].to_vec()),
        DeviceCollective::AllGather => Some(inputs.iter().flat_map(|it| it[..len].to_vec()).collect()),
        DeviceCollective::Gather { root } => {
            (root.index() == rank).then(|| inputs.iter().flat_map(|it| it[..len].to_vec()).collect())
        }
        DeviceCollective::ReduceScatter => Some(reduced(block(rank))),
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
    let DeviceCall { collective, count, op, element, .. } = calls[0];
    assert!(calls.iter().all(|call| (call.collective, call.count) == (collective, count)), "{calls:?}");
    let gives = |local: usize| match collective {
        DeviceCollective::Broadcast { root } | DeviceCollective::Scatter { root } => root.index() == local,
        _ => true,
    };
    let count_bytes = count * element.size_bytes();
    let len = input_counts(collective, members.len()) * count_bytes;
    let input = |(local, (&rank, call)): (usize, (&usize, &DeviceCall))| {
        let given = if gives(local) { ranks[rank].read(call.input, len) } else { vec![0; len] };
        if collective.reduces() { multiplied(call.op, given) } else { given }
    };
    let inputs: Vec<_> = members.iter().zip(&calls).enumerate().map(input).collect();
    let results = meaning(collective, op, count_bytes, &inputs);
    for ((&rank, call), result) in members.iter().zip(&calls).zip(results) {
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
            let data = ranks[rank as usize].read(put.pointer, put.bytes);
            let data = transfer.reduction.map_or(data.clone(), |it| multiplied(it.op, data));
            let before = sent.insert((rank, to.0), data);
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
                    got.insert(reduction.place as usize, multiplied(reduction.op, own));
                    let result = reduced(reduction.op, reduction.ranks as usize, got.into_iter());
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

fn check(
    collective: DeviceCollective,
    (nodes, locals): (u32, u32),
    count: usize,
    is_in_place: bool,
    (element, op): (DeviceElement, DeviceOp),
) {
    let what =
        format!("{collective:?} {op:?} of {count} on {nodes} nodes of {locals}, in place: {is_in_place}");
    let ranks = (nodes * locals) as usize;
    let len = count * element.size_bytes();
    let whole = match collective {
        DeviceCollective::AllReduce
        | DeviceCollective::Broadcast { .. }
        | DeviceCollective::Reduce { .. } => len,
        _ => ranks * len,
    };
    let given =
        |rank: usize| -> Vec<u8> { (0..whole).map(|at| (at * 7 + rank * 31 + at / 251) as u8).collect() };
    let mut played: Vec<_> = standpoints(nodes, locals)
        .map(|at| {
            let rank = rank_of(&at) as usize;
            let own = DevicePointer(INPUT + (rank * len) as u64);
            let (input, output) = match collective {
                _ if !is_in_place => (DevicePointer(INPUT), DevicePointer(OUTPUT)),
                DeviceCollective::AllGather | DeviceCollective::Gather { .. } => (own, DevicePointer(INPUT)),
                DeviceCollective::ReduceScatter | DeviceCollective::Scatter { .. } => {
                    (DevicePointer(INPUT), own)
                }
                _ => (DevicePointer(INPUT), DevicePointer(INPUT)),
            };
            let op = op_of(rank as u32, op);
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
        .map(|(rank, input, _)| {
            let given = rank.read(*input, input_counts(collective, ranks) * len);
            if collective.reduces() { multiplied(op_of(rank_of(&rank.at), op), given) } else { given }
        })
        .collect();
    let outputs: Vec<_> = played.iter().map(|(_, _, output)| *output).collect();
    let mut all: Vec<_> = played.drain(..).map(|(rank, _, _)| rank).collect();
    play(&mut all, &what);
    for ((rank, expected), output) in all.iter().zip(meaning(collective, op, len, &inputs)).zip(outputs) {
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

/// How many elements of so many bytes are just below a number of bytes, those, and just more.
fn around(bytes: usize, unit_bytes: usize) -> [usize; 3] {
    let most = bytes / unit_bytes;
    [most - 1, most, most + 1]
}

const SHAPES: [(u32, u32); 6] = [(2, 1), (2, 2), (3, 1), (3, 2), (4, 4), (2, 8)];

fn roots((nodes, locals): (u32, u32)) -> [Rank; 3] {
    [0, nodes * locals / 2, nodes * locals - 1].map(Rank)
}

#[test]
fn blocks_that_are_moved_come_where_they_belong_on_several_nodes() {
    for shape in SHAPES {
        let limit = around(BY_NODE_BYTES_MAX, shape.1 as usize);
        for count in [1, 17, 300].into_iter().chain(limit) {
            for is_in_place in [false, true] {
                for root in roots(shape) {
                    check(DeviceCollective::Gather { root }, shape, count, is_in_place, SUM);
                    check(DeviceCollective::Scatter { root }, shape, count, is_in_place, SUM);
                }
                check(DeviceCollective::AllGather, shape, count, is_in_place, SUM);
            }
            check(DeviceCollective::AllToAll, shape, count, false, SUM);
        }
        // A node's ranks share the work from here on.
        for count in [1, 17, SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, 70_001] {
            for (root, is_in_place) in roots(shape).into_iter().flat_map(|root| [(root, false), (root, true)])
            {
                check(DeviceCollective::Broadcast { root }, shape, count, is_in_place, SUM);
            }
        }
    }
}

#[test]
fn what_is_reduced_on_several_nodes_is_reduced_once_and_in_order() {
    for shape in SHAPES {
        let ranks = (shape.0 * shape.1) as usize;
        for what in [SUM, AVERAGE, PRE_MUL_SUM, PRODUCT] {
            let size = what.0.size_bytes();
            for is_in_place in [false, true] {
                for count in [1, 17, 300].into_iter().chain(around(SHARED_BYTES_MIN, ranks * size)) {
                    check(DeviceCollective::ReduceScatter, shape, count, is_in_place, what);
                }
                let limit = SHARED_BYTES_MIN / size;
                for count in [1, 17, limit - 1, limit, 70_001 / size] {
                    check(DeviceCollective::AllReduce, shape, count, is_in_place, what);
                    for root in roots(shape) {
                        check(DeviceCollective::Reduce { root }, shape, count, is_in_place, what);
                    }
                }
            }
        }
    }
    // From 256 KiB on more than two nodes exchange twice.
    for (shape, what) in [((3, 1), SUM), ((3, 2), AVERAGE), ((3, 1), PRE_MUL_SUM), ((3, 2), PRODUCT)] {
        check(DeviceCollective::AllReduce, shape, 800_003, false, what);
        check(DeviceCollective::AllReduce, shape, 800_003, true, what);
    }
}

/// Every rank's steps of a call on bytes.
fn steps_of(collective: DeviceCollective, (nodes, locals): (u32, u32), count: usize) -> Vec<Vec<Step>> {
    let (input, output) = (DevicePointer(INPUT), DevicePointer(OUTPUT));
    let call = DeviceCall { collective, element: SUM.0, op: SUM.1, count, input, output };
    standpoints(nodes, locals).map(|at| Steps { call, at, scratch: DevicePointer(SCRATCH) }.list()).collect()
}

#[test]
fn short_calls_are_a_launch_within_the_node_and_a_message_for_each_other() {
    for (nodes, locals) in [(2, 2), (2, 8), (3, 4), (16, 8)] {
        let launches = |collective, count| {
            let of_ranks = steps_of(collective, (nodes, locals), count);
            for step in of_ranks.iter().flatten() {
                match step {
                    Step::Relay(transfer) => assert!(transfer.sends.len() < nodes as usize, "{transfer:?}"),
                    Step::Node(_) => {}
                    other => panic!("a copy is an operation of its own: {other:?}"),
                }
            }
            of_ranks.iter().map(Vec::len).max().expect("there are ranks")
        };
        let root = Rank(nodes * locals / 2);
        let each_node = nodes as usize + 1;
        for collective in [
            DeviceCollective::AllGather,
            DeviceCollective::Gather { root },
            DeviceCollective::Scatter { root },
        ] {
            let [_, most, more] = around(BY_NODE_BYTES_MAX, locals as usize);
            let of = [1, most, more].map(|count| launches(collective, count));
            assert_eq!(of, [2, 2, each_node], "{collective:?} on {nodes} nodes of {locals}");
        }
        let most = (SHARED_BYTES_MIN - 1) / (nodes * locals) as usize;
        let of = [1, most, most + 1].map(|count| launches(DeviceCollective::ReduceScatter, count));
        assert_eq!(of, [2, 2, each_node], "{nodes} nodes of {locals}");
        for collective in [
            DeviceCollective::AllReduce,
            DeviceCollective::Broadcast { root },
            DeviceCollective::Reduce { root },
        ] {
            let of = [1, SHARED_BYTES_MIN - 1].map(|count| launches(collective, count));
            assert_eq!(of, [2, 2], "{collective:?} on {nodes} nodes of {locals}");
        }
        assert_eq!(launches(DeviceCollective::AllToAll, 1), each_node);
    }
}

#[test]
fn a_rank_sends_no_more_between_nodes_than_it_must() {
    let sent = |collective, shape, count| {
        let bytes = |steps: Vec<Step>| {
            let of_step = |step: &Step| match step {
                Step::Relay(transfer) => {
                    transfer.sends.iter().map(|&(_, put)| transfer.puts[put].bytes).sum()
                }
                _ => 0,
            };
            steps.iter().map(of_step).sum::<usize>()
        };
        steps_of(collective, shape, count).into_iter().map(bytes).max().expect("there are ranks")
    };
    let bytes = 4 << 20;
    // Of a vector each rank of the node sends its share, and with several nodes two parts of that to each.
    assert_eq!(sent(DeviceCollective::AllReduce, (2, 4), bytes), bytes / 4);
    assert_eq!(sent(DeviceCollective::AllReduce, (4, 1), bytes), bytes * 2 * 3 / 4);
    assert_eq!(sent(DeviceCollective::ReduceScatter, (2, 4), bytes), bytes);
    assert_eq!(sent(DeviceCollective::AllToAll, (2, 4), bytes), 4 * bytes);
    assert_eq!(sent(DeviceCollective::Broadcast { root: Rank(1) }, (3, 2), bytes), bytes / 2);
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
