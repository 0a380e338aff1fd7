//! Plays groups of messages of all ranks on memory of the host.

use std::collections::HashMap;

use efarun_rt::Rank;
use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::DeviceMessage;
use efarun_rt::relay::FarMessage;

use super::super::messages;
use super::super::steps::{Standpoint, Step};
use super::{INPUT, OUTPUT, Played, Stage, play, rank_of, standpoints};

#[test]
fn messages_go_at_the_same_time_and_what_does_not_fit_in_rounds() {
    let at = Standpoint { nodes: 3, locals: 2, node: 0, local: 0 };
    let message = |peer, data, bytes| DeviceMessage { peer: Rank(peer), data: DevicePointer(data), bytes };
    let sends = [message(2, 1, 8), message(1, 2, 8), message(2, 3, 16), message(3, 4, 8), message(2, 5, 0)];
    let steps = messages::steps(&sends, &[message(3, 6, 8)], &at);
    let [Step::Messages { near, far }] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((&near.sends[..], &near.receives[..]), (&[message(1, 2, 8)][..], &[][..]));
    let data = |list: &[FarMessage]| -> Vec<_> {
        list.iter().map(|message| (message.peer.0, message.stretch.pointer.0)).collect()
    };
    assert_eq!((data(&far.sends), data(&far.receives)), (vec![(2, 1), (2, 3), (3, 4)], vec![(3, 6)]));
    let launches = |sends: &[DeviceMessage], receives: &[DeviceMessage], at: &Standpoint| -> Vec<_> {
        let launch = |step: &Step| match step {
            Step::Messages { near, far } if near.is_empty() => (data(&far.sends), data(&far.receives)),
            other => panic!("{other:?}"),
        };
        messages::steps(sends, receives, at).iter().map(launch).collect()
    };
    let many = |peer, count: u64, bytes| (0..count).map(|at| message(peer, at, bytes)).collect::<Vec<_>>();
    // As many as there is room for, whoever they are for.
    assert_eq!(launches(&many(4, 16, 8), &many(2, 16, 8), &at).len(), 1);
    assert_eq!(launches(&many(4, 8, 1 << 20), &[many(2, 8, 8), many(3, 8, 8192)].concat(), &at).len(), 1);
    // One more: of each pair the first four, or two where they are long.
    let numbers = |range: std::ops::Range<u64>, peer| range.map(|at| (peer, at)).collect::<Vec<_>>();
    let more = [many(4, 17, 8), many(5, 5, 8)].concat();
    let of_rounds = launches(&more, &many(5, 1, 8), &at);
    assert_eq!(of_rounds.len(), 5);
    assert_eq!(of_rounds[0], ([numbers(0..4, 4), numbers(0..4, 5)].concat(), vec![(5, 0)]));
    assert_eq!(of_rounds[1], ([numbers(4..8, 4), numbers(4..5, 5)].concat(), vec![]));
    assert_eq!(of_rounds[4].0, numbers(16..17, 4));
    let of_rounds = launches(&many(4, 9, 5000), &[], &at);
    assert_eq!(of_rounds.iter().map(|(sends, _)| sends.len()).collect::<Vec<_>>(), [2, 2, 2, 2, 1]);
    // Of more ranks than there is room for, in their order, and of a rank both directions together.
    let at = Standpoint { nodes: 3, locals: 8, node: 0, local: 0 };
    let of_all: Vec<_> = (8..24).map(|peer| message(peer, u64::from(peer), 8)).collect();
    assert_eq!(launches(&of_all, &of_all, &at).len(), 1);
    let of_all: Vec<_> = (8..24).map(|peer| message(peer, u64::from(peer), 1 << 20)).collect();
    let of_rounds = launches(&of_all, &of_all, &at);
    assert_eq!(of_rounds.len(), 2);
    let half = |range: std::ops::Range<u32>| range.map(|peer| (peer, u64::from(peer))).collect::<Vec<_>>();
    assert_eq!(of_rounds, [(half(8..16), half(8..16)), (half(16..24), half(16..24))]);
}

/// Numbers that follow from a seed.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end + 1));
        }
    }
}

/// One rank's end of messages that have numbers: in any order of peers, those of one peer in theirs.
fn shuffled(drawn: &mut Drawn, of_peers: &[Vec<(usize, usize)>], base: u64) -> Vec<DeviceMessage> {
    let mut peers: Vec<usize> =
        of_peers.iter().enumerate().flat_map(|(peer, list)| vec![peer; list.len()]).collect();
    drawn.shuffle(&mut peers);
    let mut next = vec![0; of_peers.len()];
    let message = |peer: usize| {
        let (at, bytes) = of_peers[peer][next[peer]];
        next[peer] += 1;
        DeviceMessage { peer: Rank(peer as u32), data: DevicePointer(base + at as u64), bytes }
    };
    peers.into_iter().map(message).collect()
}

#[test]
fn messages_reach_whom_they_are_for_whatever_else_is_sent() {
    for (shape, turns) in
        [((2, 1), 100), ((2, 2), 200), ((3, 2), 200), ((3, 8), 20), ((20, 1), 60), ((5, 8), 20)]
    {
        for seed in 0..turns {
            check_messages(shape, seed);
        }
    }
}

fn check_messages((nodes, locals): (u32, u32), seed: u64) {
    let what = format!("messages of seed {seed} on {nodes} nodes of {locals}");
    let ranks = (nodes * locals) as usize;
    let mut drawn = Drawn(seed);
    // Of each pair of ranks, where its messages lie and how long they are.
    let mut lens = vec![vec![Vec::new(); ranks]; ranks];
    for of_pair in lens.iter_mut().flatten() {
        let count = [0, 0, 0, 1, 1, 2, 5, 9][drawn.below(8)];
        // Some take more than a slice.
        let len = |drawn: &mut Drawn| match drawn.below(8) {
            0 if ranks <= 6 => (64 << 10) + drawn.below(2),
            _ => drawn.below(40),
        };
        of_pair.extend((0..count).map(|_| len(&mut drawn)));
    }
    let placed = |lists: Vec<&Vec<usize>>| -> (Vec<Vec<(usize, usize)>>, usize) {
        let mut end = 0;
        let mut place = |&len: &usize| {
            end += len;
            (end - len, len)
        };
        let placed = lists.iter().map(|lens| lens.iter().map(&mut place).collect()).collect();
        (placed, end)
    };
    let mut all: Vec<Played> = Vec::new();
    let mut expected: Vec<Vec<u8>> = vec![Vec::new(); ranks];
    for at in standpoints(nodes, locals) {
        let rank = rank_of(&at) as usize;
        let (sent, input_len) = placed(lens[rank].iter().collect());
        let (received, output_len) = placed(lens.iter().map(|of_sender| &of_sender[rank]).collect());
        let input: Vec<u8> = (0..input_len).map(|_| drawn.below(256) as u8).collect();
        for (peer, list) in sent.iter().enumerate() {
            expected[peer].extend(list.iter().flat_map(|&(at, len)| input[at..at + len].to_vec()));
        }
        let (sends, receives) = (shuffled(&mut drawn, &sent, INPUT), shuffled(&mut drawn, &received, OUTPUT));
        let steps = messages::steps(&sends, &receives, &at);
        let memory = HashMap::from([(INPUT, input), (OUTPUT, vec![0; output_len])]);
        all.push(Played { at, steps, next: 0, stage: Stage::Before, memory });
    }
    play(&mut all, &what);
    for (rank, expected) in all.iter().zip(expected) {
        assert!(rank.memory[&OUTPUT] == expected, "{what}: rank {}", rank_of(&rank.at));
    }
}

/// Ranks 0 and 3 have at once what 1 and 2 have one behind the other: 1 and 2 come to each other's nodes first.
#[test]
fn neither_messages_of_the_node_nor_those_of_others_wait_for_each_other() {
    let message = |peer, data| DeviceMessage { peer: Rank(peer), data: DevicePointer(data), bytes: 4 };
    // Who passes what to whom, in which of their groups: those within nodes first, and last.
    for is_near_first in [true, false] {
        let (near, far) = if is_near_first { (0, 1) } else { (1, 0) };
        // Of each message both ends: the rank, and its group.
        let passed = [((0, 0), (1, near)), ((1, far), (3, 0)), ((3, 0), (2, near)), ((2, far), (0, 0))];
        let mut groups: HashMap<(u32, usize), (Vec<DeviceMessage>, Vec<DeviceMessage>)> = HashMap::new();
        for ((from, first), (to, second)) in passed {
            groups.entry((from, first)).or_default().0.push(message(to, INPUT));
            groups.entry((to, second)).or_default().1.push(message(from, OUTPUT));
        }
        let steps = |at: &Standpoint| -> Vec<Step> {
            let of_rank = (0..2).filter_map(|group| groups.get(&(rank_of(at), group)));
            of_rank.flat_map(|(sends, receives)| messages::steps(sends, receives, at)).collect()
        };
        let memory = |rank: u32| HashMap::from([(INPUT, vec![rank as u8; 4]), (OUTPUT, vec![9; 4])]);
        let played = |at: Standpoint| Played {
            at,
            steps: steps(&at),
            next: 0,
            stage: Stage::Before,
            memory: memory(rank_of(&at)),
        };
        let mut all: Vec<_> = standpoints(2, 2).map(played).collect();
        play(&mut all, &format!("near first: {is_near_first}"));
        for (rank, from) in [2, 0, 3, 1].into_iter().enumerate() {
            assert_eq!(all[rank].memory[&OUTPUT], [from; 4], "near first: {is_near_first}, rank {rank}");
        }
    }
}
