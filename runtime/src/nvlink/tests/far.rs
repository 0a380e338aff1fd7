//! Messages between nodes on the emulator: what is sent arrives whole, and none waits for another, however slow hosts are.

use std::sync::atomic::Ordering::Relaxed;

use efarun_wire::Rank;

use super::collectives::{Chance, STEPS_MAX};
use super::emulator::{Emulator, Node, Work};
use super::far_hosts::{Near, Ranks};
use super::protocol::seeds;
use super::relay::{NOISE, Part, zeros};
use crate::nvlink::call::DeviceMessage;
use crate::nvlink::parameters::status;
use crate::relay::far::messages::{FarMessage, Messages};
use crate::relay::far::parameters::{PLACES, SLICE_BYTES};
use crate::relay::parameters::{CHANNELS, LANE_CELL_WORDS, ROUNDS, SHORT_BYTES, WORDS};
use crate::relay::transfer::{Stretch, Transfer};

/// What ranks send each other, and in which of their launches.
#[derive(Default)]
struct Traffic {
    /// Of each message what is sent, and what is to be received.
    parts: Vec<(Part, Part)>,
    launches: Vec<Vec<Messages>>,
    near: Vec<Vec<Near>>,
}

/// A launch of a rank.
type At = (usize, usize);

impl Traffic {
    fn new(ranks: usize) -> Traffic {
        Traffic { parts: Vec::new(), launches: vec![Vec::new(); ranks], near: vec![Vec::new(); ranks] }
    }

    fn message(&mut self, chance: &mut Chance, from: At, to: At, bytes: usize) {
        let [given, got] = [true, false].map(|is_given| Part::new(chance, bytes, is_given));
        let rank = |at: At| Rank(at.0 as u32);
        self.launch(from).sends.push(FarMessage { peer: rank(to), stretch: given.stretch() });
        self.launch(to).receives.push(FarMessage { peer: rank(from), stretch: got.stretch() });
        self.parts.push((given, got));
    }

    /// The same, between ranks of one node.
    fn near_message(&mut self, chance: &mut Chance, from: At, to: At, bytes: usize) {
        let [given, got] = [true, false].map(|is_given| Part::new(chance, bytes, is_given));
        let message = |peer: At, part: &Part| {
            let Stretch { pointer, bytes } = part.stretch();
            DeviceMessage { peer: Rank(peer.0 as u32), data: pointer, bytes }
        };
        self.near(from).sends.push(message(to, &given));
        self.near(to).receives.push(message(from, &got));
        self.parts.push((given, got));
    }

    fn near(&mut self, (rank, launch): At) -> &mut Near {
        self.launch((rank, launch));
        let near = &mut self.near[rank];
        near.resize_with(near.len().max(launch + 1), Near::default);
        &mut near[launch]
    }

    fn launch(&mut self, (rank, launch): At) -> &mut Messages {
        let launches = &mut self.launches[rank];
        launches.resize_with(launches.len().max(launch + 1), Messages::default);
        &mut launches[launch]
    }

    fn check(&self, what: &str) {
        self.parts.iter().for_each(|(given, got)| got.check(given.content(), what));
    }

    /// Runs it to its end with hosts that have so many lanes and use one of so many turns; how many launches the first rank was
    /// ahead of its host.
    fn run(&self, emulator: &Emulator, (lanes, pace): (usize, u64), seed: u64, what: &str) -> usize {
        let mut ranks = Ranks::new(&self.launches, lanes, seed, u64::MAX);
        (ranks.pace, ranks.near) = (pace, &self.near);
        ranks.run(emulator, seed, what);
        for memory in &ranks.ranks {
            assert_eq!(memory.status[0].load(Relaxed), 0, "{what}: nobody gave up");
        }
        self.check(what);
        ranks.ranks[0].ahead
    }
}

#[test]
fn what_is_sent_arrives_in_whatever_calls_each_end_has_it() {
    let name = "what_is_sent_arrives_in_whatever_calls_each_end_has_it";
    let Some(emulator) = Emulator::new(name) else { return };
    let lengths = [1, 5, 8, 1021, SHORT_BYTES, SHORT_BYTES + 1, SLICE_BYTES, SLICE_BYTES + 1, 200_001];
    for seed in 0..2 * seeds() {
        let (ranks, lanes, mut chance) =
            (2 + seed as usize % 2, [1, 2, 4][seed as usize / 2 % 3], Chance(seed));
        let mut draw = |below: usize| chance.next() as usize % below;
        // Each rank comes to messages in one order, and some call begins with each: so everything can end.
        let (mut launch, mut messages) = (vec![0; ranks], Vec::new());
        for _ in 0..20 {
            let from = draw(ranks);
            let to = (from + 1 + draw(ranks - 1)) % ranks;
            for rank in [from, to] {
                launch[rank] += usize::from(draw(5) == 0);
            }
            let bytes = if draw(12) == 0 { 600_000 } else { lengths[draw(lengths.len())] };
            messages.push(((from, launch[from]), (to, launch[to]), bytes));
        }
        let mut traffic = Traffic::new(ranks);
        for (from, to, bytes) in messages {
            if [(from, true), (to, false)].iter().all(|&(at, is_from)| has_room(traffic.launch(at), is_from))
            {
                traffic.message(&mut chance, from, to, bytes);
            }
        }
        traffic.run(&emulator, (lanes, 1 + seed % 3), seed, &format!("seed {seed}"));
    }
}

/// Whether another message, of whatever length, goes with these.
fn has_room(messages: &Messages, is_sent: bool) -> bool {
    let direction = if is_sent { messages.puts() } else { messages.gets() };
    direction.long_count() < 8 && direction.count() < 16
}

#[test]
fn what_goes_within_the_node_arrives_beside_what_goes_to_others() {
    let name = "what_goes_within_the_node_arrives_beside_what_goes_to_others";
    let Some(emulator) = Emulator::new(name) else { return };
    let lengths = [1, 8, 1021, SHORT_BYTES, SHORT_BYTES + 1, 29_999, 30_000, SLICE_BYTES + 1, 200_001];
    for seed in 0..seeds() {
        // Two nodes of two.
        let (ranks, mut chance) = (4, Chance(seed));
        let (mut launch, mut traffic) = ([0; 4], Traffic::new(ranks));
        for _ in 0..20 {
            let mut draw = |below: usize| chance.next() as usize % below;
            let from = draw(ranks);
            let is_near = draw(2) == 0;
            let to = if is_near { from ^ 1 } else { (from & 2 ^ 2) + draw(2) };
            for rank in [from, to] {
                launch[rank] += usize::from(draw(4) == 0);
            }
            let bytes = lengths[draw(lengths.len())];
            let (from, to) = ((from, launch[from]), (to, launch[to]));
            if is_near {
                traffic.near_message(&mut chance, from, to, bytes);
            } else if has_room(traffic.launch(from), true) && has_room(traffic.launch(to), false) {
                traffic.message(&mut chance, from, to, bytes);
            }
        }
        let lanes = [1, 2, 4][seed as usize % 3];
        traffic.run(&emulator, (lanes, 1 + seed % 2), seed, &format!("seed {seed}"));
    }
}

#[test]
fn what_goes_within_the_node_and_what_goes_to_others_do_not_wait_for_each_other() {
    let name = "what_goes_within_the_node_and_what_goes_to_others_do_not_wait_for_each_other";
    let Some(emulator) = Emulator::new(name) else { return };
    // More than a sender may be ahead by either way.
    let (near_bytes, far_bytes) = (400_000, 37 * SLICE_BYTES);
    // Ranks 0 and 3 have in one launch what 1 and 2, of their nodes, have one behind the other: those within the node first, or last.
    for (seed, (near, far)) in [(0, 1), (1, 0)].into_iter().enumerate() {
        let (mut chance, mut traffic) = (Chance(seed as u64), Traffic::new(4));
        for (first, second) in [((0, 0), (1, near)), ((3, 0), (2, near))] {
            traffic.near_message(&mut chance, first, second, near_bytes);
            traffic.near_message(&mut chance, second, first, 100);
        }
        for (first, second) in [((1, far), (3, 0)), ((2, far), (0, 0))] {
            traffic.message(&mut chance, first, second, far_bytes);
            traffic.message(&mut chance, second, first, 100);
        }
        traffic.run(&emulator, (4, 1), seed as u64, &format!("within the node in launch {near}"));
    }
}

#[test]
fn launches_of_all_shapes_follow_each_other() {
    let Some(emulator) = Emulator::new("launches_of_all_shapes_follow_each_other") else { return };
    let (short, long) = ([7; 8], [SLICE_BYTES + 1; 8]);
    for (seed, lanes) in [1, 2, 4, 1, 2, 4].into_iter().enumerate() {
        let mut chance = Chance(seed as u64);
        // What the first sends and what the second does, in one launch.
        let shapes: [(&[usize], &[usize]); 8] = [
            (&[300_000], &[]),
            (&long, &[9000; 8]),
            (&[SHORT_BYTES; 16], &[1; 16]),
            (&[&short[..], &[5000; 8]].concat(), &[20, 70_000, 3000, 4097, 4096]),
            (&[], &[150_000; 3]),
            (&[200_000, 65_536, 5], &[200_000, 9]),
            (&[70_000; 6], &[400_000]),
            (&[8], &[140_000; 2]),
        ];
        let mut traffic = Traffic::new(2);
        for (launch, (firsts, seconds)) in shapes.into_iter().enumerate() {
            let mut add = |from: usize, bytes| {
                traffic.message(&mut chance, (from, launch), (1 - from, launch), bytes);
            };
            firsts.iter().for_each(|&bytes| add(0, bytes));
            seconds.iter().for_each(|&bytes| add(1, bytes));
        }
        traffic.run(&emulator, (lanes, 1), seed as u64, &format!("{lanes} lanes"));
    }
}

#[test]
fn a_peer_may_do_behind_each_other_what_this_rank_does_at_once() {
    let name = "a_peer_may_do_behind_each_other_what_this_rank_does_at_once";
    let Some(emulator) = Emulator::new(name) else { return };
    // More than all places of its channels have room for.
    let bytes = 37 * SLICE_BYTES + 5;
    // In which launches the peer has what is sent to it, and what it sends.
    for (seed, (gets, puts)) in [(0, 1), (1, 0), (0, 0)].into_iter().enumerate() {
        let (mut chance, mut traffic) = (Chance(seed as u64), Traffic::new(2));
        for _ in 0..=seed % 2 {
            traffic.message(&mut chance, (0, 0), (1, gets), bytes);
            traffic.message(&mut chance, (1, puts), (0, 0), bytes);
        }
        traffic.run(&emulator, ([4, 2, 1][seed], 1), seed as u64, &format!("{gets} and {puts}"));
    }
    // One of several behind the other, each more than there is room for where so many go at once.
    let (mut chance, mut traffic) = (Chance(5), Traffic::new(2));
    for launch in 0..5 {
        traffic.message(&mut chance, (0, 0), (1, launch), 17 * SLICE_BYTES + 9);
    }
    for launch in 5..10 {
        traffic.message(&mut chance, (1, launch), (0, 0), 17 * SLICE_BYTES + 9);
    }
    traffic.run(&emulator, (4, 1), 5, "one behind the other");
}

#[test]
fn a_circle_of_ranks_that_receive_before_they_send_ends() {
    let Some(emulator) = Emulator::new("a_circle_of_ranks_that_receive_before_they_send_ends") else {
        return;
    };
    let (mut chance, mut traffic) = (Chance(1), Traffic::new(3));
    for (from, to) in [((0, 0), (1, 0)), ((1, 1), (2, 0)), ((2, 1), (0, 0))] {
        traffic.message(&mut chance, from, to, 36 * SLICE_BYTES);
        traffic.message(&mut chance, from, to, 100);
    }
    traffic.run(&emulator, (4, 1), 1, "a circle");
}

#[test]
fn who_only_sends_is_ahead_of_the_hosts_by_no_more_launches_than_there_are_places() {
    let name = "who_only_sends_is_ahead_of_the_hosts_by_no_more_launches_than_there_are_places";
    let Some(emulator) = Emulator::new(name) else { return };
    for (seed, lanes) in [1, 2, 4, 4].into_iter().enumerate() {
        let (mut chance, mut traffic) = (Chance(seed as u64), Traffic::new(2));
        for launch in 0..3 * ROUNDS {
            let len = if launch < 2 * ROUNDS { 300 } else { [3, 70_000, SHORT_BYTES][launch % 3] };
            traffic.message(&mut chance, (0, launch), (1, launch), len);
            traffic.message(&mut chance, (0, launch), (1, launch), len + 1);
        }
        // More than that the hosts see to (`Memory::look`).
        assert_eq!(traffic.run(&emulator, (lanes, 400), seed as u64, "sends"), ROUNDS);
    }
}

#[test]
fn who_is_not_served_is_named_at_the_deadline_and_nothing_goes_on() {
    let name = "who_is_not_served_is_named_at_the_deadline_and_nothing_goes_on";
    let Some(emulator) = Emulator::new(name) else { return };
    let lengths = [5000, 70_000, 9];
    for (sends, peer) in [(true, 1), (true, 2), (false, 1), (false, 2), (false, 3)] {
        let (mut chance, mut traffic) = (Chance(1), Traffic::new(4));
        // Who sends fills the channel's places first, which takes as many launches.
        let fails_in = if sends { PLACES } else { 0 };
        for launch in 0..=fails_in + 1 {
            for (other, bytes) in (1..).zip(lengths) {
                let (from, to) = if sends { (0, other) } else { (other, 0) };
                traffic.message(&mut chance, (from, launch), (to, launch), bytes);
            }
        }
        let mut ranks = Ranks::new(&traffic.launches, 2, 1, 1 << 20);
        ranks.ignored = Some((0, peer));
        let what = format!("rank {peer}, sends: {sends}");
        ranks.run(&emulator, 3, &what);
        assert_eq!(ranks.cause(0), (status::CAUSE_TIMEOUT, peer as u32), "{what}");
        if sends {
            assert_eq!(ranks.cause(peer), (status::CAUSE_TIMEOUT, 0), "{what}");
        }
        assert!(ranks.ranks[0].posted(0, fails_in as u64 + 1).is_some(), "{what}");
        assert!(ranks.ranks[0].posted(0, fails_in as u64 + 2).is_none(), "{what}: no launch behind it");
        let (given, got) = &traffic.parts[peer - 1];
        got.check(&vec![NOISE as u8; given.content().len()], "nothing was received");
    }
}

#[test]
fn a_host_that_takes_no_launch_or_says_stop_ends_every_wait() {
    let Some(emulator) = Emulator::new("a_host_that_takes_no_launch_or_says_stop_ends_every_wait") else {
        return;
    };
    for is_stopped in [false, true] {
        let (mut chance, mut traffic) = (Chance(1), Traffic::new(2));
        for launch in 0..ROUNDS + 2 {
            traffic.message(&mut chance, (0, launch), (1, launch), 100);
        }
        traffic.launches[1].clear();
        let ranks = Ranks::new(&traffic.launches, 1, 1, if is_stopped { u64::MAX } else { 1 << 18 });
        ranks.ranks[0].status[status::STOP].store(u32::from(is_stopped), Relaxed);
        let node = Node::new(2, u64::MAX);
        assert!(emulator.run_all(&node, &ranks.works(), 3, STEPS_MAX), "it ends");
        assert_eq!(ranks.cause(0), if is_stopped { (0, 0) } else { (status::CAUSE_TIMEOUT, 1) });
        assert!(ranks.ranks[0].posted(0, ROUNDS as u64).is_some());
        assert!(ranks.ranks[0].posted(0, ROUNDS as u64 + 1).is_none());
    }
}

/// So hosts know which come first.
#[test]
fn lanes_are_told_behind_how_many_transfers_they_are_called() {
    let Some(emulator) = Emulator::new("lanes_are_told_behind_how_many_transfers_they_are_called") else {
        return;
    };
    let mut chance = Chance(5);
    let mut traffic = Traffic::new(1);
    for bytes in [5, 2 * SLICE_BYTES] {
        let part = Part::new(&mut chance, bytes, true);
        let message = FarMessage { peer: Rank(1), stretch: part.stretch() };
        traffic.launch((0, 0)).sends.push(message);
        traffic.parts.push((part, Part::new(&mut chance, bytes, false)));
    }
    // Of three slices, of both lanes, and of one, with which the second begins: nobody need answer either.
    let (words, cells) = (zeros(CHANNELS * WORDS * 8), zeros(2 * LANE_CELL_WORDS * 8));
    let given = [700, 20_000].map(|bytes| Part::new(&mut chance, bytes, true));
    let transfer = |part: &Part| Transfer {
        puts: vec![part.stretch()],
        sends: vec![(Rank(1), 0)],
        slice_bytes: 8192,
        ..Transfer::default()
    };
    let ranks = Ranks::new(&traffic.launches, 2, 5, u64::MAX);
    let mut works = ranks.works();
    let standing = ranks.ranks[0].standing(&words, &cells, u64::MAX);
    for part in &given {
        let transfer = transfer(part);
        works[0].insert(0, Work::Relay(Box::new(standing.told(&transfer, 1, 2)), transfer.blocks(), None));
    }
    assert!(emulator.run_all(&Node::new(1, u64::MAX), &works, 5, STEPS_MAX), "it ends");
    let posted = |lane| ranks.ranks[0].posted(lane, 1);
    assert_eq!((posted(0), posted(1)), (Some((1, 1)), Some((1, 2))));
}
