//! Plays the steps of all ranks on memory of the host, and compares with what the collectives mean.
//!
//! Elements are bytes of sums that wrap, or, of what depends on the order in which ranks are reduced, pairs of them. A step of a node
//! is done when all its ranks have come to it. In a transfer a rank waits for those who send it something there, and for those who
//! read something of it to come, as between hosts.

mod groups;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceElement, DeviceMessage, DeviceOp, Factor};
use efarun_rt::relay::{FarMessage, SPANS_MAX, Stretch, Transfer};
use efarun_rt::{ElementType, Rank, ReduceOp};

use super::steps::{BY_NODE_BYTES_MAX, SHARED_BYTES_MIN, Standpoint, Step, Steps, scratch_bytes};

/// A rank with its memory: input, output and scratch, at addresses far apart.
struct Played {
    at: Standpoint,
    steps: Vec<Step>,
    next: usize,
    /// Where that is a transfer.
    stage: Stage,
    memory: HashMap<u64, Vec<u8>>,
}

/// How far a rank has come in a transfer.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Before,
    Said,
    Read,
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

/// What ranks have sent each other in transfers, in order, and to how many transfers in which a rank gets something from another it
/// has come that the other has not left.
#[derive(Default)]
struct Wire {
    posts: HashMap<(u32, Rank), VecDeque<Post>>,
    comings: HashMap<(u32, Rank), usize>,
    /// Messages between two ranks that were sent, places for those that are awaited, and how many a rank has under way.
    sent: HashMap<(u32, u32), VecDeque<Vec<u8>>>,
    awaited: HashMap<(u32, u32), VecDeque<Stretch>>,
    left: HashMap<u32, usize>,
}

/// What a rank sends another in one transfer, and how many messages it expects of it there.
struct Post {
    messages: Vec<Vec<u8>>,
    expects: usize,
}

/// Whom these are for or from, each once.
fn peers(list: &[(Rank, usize)]) -> BTreeSet<Rank> {
    list.iter().map(|(peer, _)| *peer).collect()
}

/// Of a list, what is for a rank or from it.
fn of_peer(list: &[(Rank, usize)], peer: Rank) -> impl Iterator<Item = usize> {
    list.iter().filter(move |(it, _)| *it == peer).map(|(_, index)| *index)
}

/// Lets a rank get on with the transfer that it is at: it sends, reads when all have sent what it gets, and goes on when all whom it
/// sends something have come to read it.
fn play_transfer(played: &mut Played, wire: &mut Wire) -> bool {
    let Some(Step::Relay(transfer)) = played.step().cloned() else { return false };
    let rank = rank_of(&played.at);
    assert!(transfer.puts.len().max(transfer.gets.len()) <= SPANS_MAX, "{transfer:?}");
    match played.stage {
        Stage::Before => {
            for to in peers(&transfer.sends) {
                let message = |index: usize| {
                    let put = transfer.puts[index];
                    let data = played.read(put.pointer, put.bytes);
                    transfer.reduction.map_or(data.clone(), |it| multiplied(it.op, data))
                };
                let messages = of_peer(&transfer.sends, to).map(message).collect();
                let expects = of_peer(&transfer.receives, to).count();
                wire.posts.entry((rank, to)).or_default().push_back(Post { messages, expects });
            }
            for from in peers(&transfer.receives) {
                *wire.comings.entry((rank, from)).or_default() += 1;
            }
            played.stage = Stage::Said;
            true
        }
        Stage::Said => {
            let me = Rank(rank);
            let has_said = |from: &Rank| wire.posts.get(&(from.0, me)).is_some_and(|posts| !posts.is_empty());
            if !peers(&transfer.receives).iter().all(has_said) {
                return false;
            }
            let mut got = vec![Vec::new(); transfer.gets.len()];
            for from in peers(&transfer.receives) {
                let post =
                    wire.posts.get_mut(&(from.0, me)).and_then(VecDeque::pop_front).expect("it is said");
                let places: Vec<usize> = of_peer(&transfer.receives, from).collect();
                let agreed = (post.messages.len(), post.expects);
                let expected = (places.len(), of_peer(&transfer.sends, from).count());
                assert_eq!(agreed, expected, "{from} and {me} have the same of each other in a transfer");
                for (place, message) in places.into_iter().zip(post.messages) {
                    assert_eq!(message.len(), transfer.gets[place].bytes, "{from} to {me}");
                    got[place] = message;
                }
            }
            for &to in &transfer.passes_on {
                let post = Post { messages: vec![got[0].clone()], expects: 0 };
                wire.posts.entry((rank, to)).or_default().push_back(post);
            }
            land(played, &transfer, got);
            played.stage = Stage::Read;
            true
        }
        Stage::Read => {
            let mut readers = peers(&transfer.sends);
            readers.extend(&transfer.passes_on);
            let has_come = |it: &Rank| wire.comings.get(&(it.0, Rank(rank))).is_some_and(|count| *count > 0);
            if !readers.iter().all(has_come) {
                return false;
            }
            for reader in readers {
                *wire.comings.get_mut(&(reader.0, Rank(rank))).expect("it has come") -= 1;
            }
            (played.stage, played.next) = (Stage::Before, played.next + 1);
            true
        }
    }
}

/// Puts what a rank got where it belongs, reduced where that is asked for.
fn land(played: &mut Played, transfer: &Transfer, mut got: Vec<Vec<u8>>) {
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
}

/// Lets a rank begin the messages that it is at, or end them when all of them have found their other ends: nothing is taken for sent
/// before its receiver has come to it.
fn play_messages(played: &mut Played, wire: &mut Wire) -> bool {
    let Some(Step::Messages { near, far }) = played.step().cloned() else { return false };
    let me = rank_of(&played.at);
    assert!(far.fit(), "{far:?}");
    match played.stage {
        Stage::Before => {
            let first = played.at.node * played.at.locals;
            let of_node = |list: &[DeviceMessage]| -> Vec<FarMessage> {
                let anyone = |&DeviceMessage { peer, data, bytes }: &_| FarMessage {
                    peer: Rank(first + peer.0),
                    stretch: Stretch { pointer: data, bytes },
                };
                list.iter().map(anyone).collect()
            };
            let (sends, receives) = (
                [of_node(&near.sends), far.sends].concat(),
                [of_node(&near.receives), far.receives].concat(),
            );
            for FarMessage { peer, stretch } in &sends {
                let data = played.read(stretch.pointer, stretch.bytes);
                wire.sent.entry((me, peer.0)).or_default().push_back(data);
            }
            for FarMessage { peer, stretch } in &receives {
                wire.awaited.entry((peer.0, me)).or_default().push_back(*stretch);
            }
            wire.left.insert(me, sends.len() + receives.len());
            played.stage = Stage::Said;
            true
        }
        _ if wire.left[&me] == 0 => {
            (played.stage, played.next) = (Stage::Before, played.next + 1);
            true
        }
        _ => false,
    }
}

/// Brings messages of which both ends are there to where they belong.
fn deliver(ranks: &mut [Played], wire: &mut Wire) -> bool {
    let mut has_moved = false;
    for (&(from, to), awaited) in &mut wire.awaited {
        let Some(sent) = wire.sent.get_mut(&(from, to)) else { continue };
        while !awaited.is_empty() && !sent.is_empty() {
            let (Some(stretch), Some(data)) = (awaited.pop_front(), sent.pop_front()) else { unreachable!() };
            assert_eq!(data.len(), stretch.bytes, "{from} to {to}");
            ranks[to as usize].write(stretch.pointer, &data);
            for rank in [from, to] {
                *wire.left.get_mut(&rank).expect("it has begun") -= 1;
            }
            has_moved = true;
        }
    }
    has_moved
}

/// Plays until all are done.
fn play(ranks: &mut [Played], what: &str) {
    let nodes = ranks[0].at.nodes;
    let mut wire = Wire::default();
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
        for rank in &mut *ranks {
            has_moved |= play_transfer(rank, &mut wire) | play_messages(rank, &mut wire);
        }
        has_moved |= deliver(ranks, &mut wire);
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

/// Of a transfer that is one, and whether it goes one way.
fn slices(step: &Step) -> Option<(usize, bool)> {
    let Step::Relay(transfer) = step else { return None };
    (transfer.slices() > 0).then(|| (transfer.slices(), transfer.goes_one_way()))
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
            (Played { at, steps, next: 0, stage: Stage::Before, memory }, input, output)
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
    // By which lane a slice goes follows from the transfers before.
    for rail in 0..locals {
        let of_rank = |rank: &Played| rank.steps.iter().filter_map(slices).collect::<Vec<_>>();
        let mut transfers = all.iter().filter(|rank| rank.at.local == rail).map(of_rank);
        let first = transfers.next();
        assert!(transfers.all(|other| Some(&other) == first.as_ref()), "{what}: transfers of rail {rail}");
    }
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
                    let all = roots(shape);
                    for &root in if what == SUM { &all[..] } else { &all[1..2] } {
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
