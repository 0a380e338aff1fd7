//! Transfers between nodes on the emulator: what kernels and hosts hand each other arrives whole, however slow a host is.
//!
//! # Safety
//!
//! The kernels and the hosts run on one thread, in turn. Kernels have the memory of [`Ranks`] by its addresses.
#![allow(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use efarun_wire::Rank;

use super::collectives::{Chance, STEPS_MAX};
use super::emulator::{Emulator, Node, Work, pointer_to};
use crate::element::{ElementType, ReduceOp};
use crate::nvlink::call::{DeviceElement, DeviceOp, Factor};
use crate::nvlink::parameters::status;
use crate::relay::cells::Round;
use crate::relay::far::parameters::LANES_MAX;
use crate::relay::lanes::channel_of;
use crate::relay::parameters::{
    ANSWERED, CHANNELS, LANE_CELL_WORDS, ROUNDS, RelayParameters, SHORT_BYTES, SLOT_BYTES, STATE_BYTES,
    Standing, WORDS,
};
use crate::relay::transfer::{is_short, part_len};
use crate::relay::{Reduction, Stretch, Transfer};

/// A rank of each node, with its host.
pub(super) struct Ranks {
    pub(super) ranks: Vec<Memory>,
    /// What each rank's hosts do, from its first transfer on.
    plans: Vec<Vec<Transfer>>,
    lanes: usize,
    /// What was sent and not received, between two ranks by one channel.
    mail: HashMap<(usize, usize, usize), VecDeque<Vec<u8>>>,
    chance: Chance,
    /// Of how many of its turns a host uses one.
    pub(super) pace: u64,
    /// What hosts have put into cells and is on its way: of which rank, which word and what.
    late: Vec<(usize, usize, u64)>,
    deadline_ns: u64,
}

pub(super) struct Memory {
    outbox: Vec<AtomicU64>,
    inbox: Vec<AtomicU64>,
    cells: Vec<AtomicU64>,
    words: Vec<AtomicU64>,
    state: Vec<AtomicU64>,
    pub(super) status: Vec<AtomicU32>,
    /// Of each channel, the round that is to be served next.
    rounds: [Round; CHANNELS],
    has_sent: [bool; CHANNELS],
}

impl Memory {
    fn new() -> Memory {
        Memory {
            outbox: zeros(CHANNELS * SLOT_BYTES),
            inbox: zeros(CHANNELS * SLOT_BYTES),
            cells: zeros(LANES_MAX * LANE_CELL_WORDS * 8),
            words: zeros(CHANNELS * WORDS * 8),
            state: zeros(STATE_BYTES),
            status: (0..status::WORDS).map(|_| AtomicU32::new(0)).collect(),
            rounds: [Round(1); CHANNELS],
            has_sent: [false; CHANNELS],
        }
    }
}

impl Ranks {
    pub(super) fn new(seed: u64, plans: Vec<Vec<Transfer>>, deadline_ns: u64) -> Ranks {
        let ranks = plans.iter().map(|_| Memory::new()).collect();
        let (mail, chance, late) = (HashMap::new(), Chance(seed), Vec::new());
        let lanes = [4, 1, 2][seed as usize % 3];
        Ranks { ranks, plans, lanes, mail, chance, pace: 1, late, deadline_ns }
    }

    /// What the kernel of a rank's so-manieth transfer is told.
    pub(super) fn told(&self, rank: usize, number: usize) -> RelayParameters {
        let memory = &self.ranks[rank];
        let standing = Standing {
            outbox: pointer_to(&memory.outbox),
            inbox: pointer_to(&memory.inbox),
            cells: pointer_to(&memory.cells),
            words: pointer_to(&memory.words),
            state: pointer_to(&memory.state),
            status: pointer_to(&memory.status),
            deadline_ns: self.deadline_ns,
        };
        standing.told(&self.plans[rank][number], number as u32 + 1, self.lanes)
    }

    /// A rank's transfer as work for the emulator.
    pub(super) fn work(&self, rank: usize, number: usize) -> Work {
        let transfer = &self.plans[rank][number];
        let element = transfer.reduction.map(|reduction| reduction.element);
        let told = Box::new(self.told(rank, number));
        match transfer.is_short() {
            true => Work::ShortRelay(told, element),
            false => Work::Relay(told, transfer.blocks(), element),
        }
    }

    /// All of them.
    fn works(&self) -> Vec<Vec<Work>> {
        let of = |(rank, plans): (usize, &Vec<Transfer>)| {
            let has_slices = |number: &usize| plans[*number].slices() > 0;
            (0..plans.len()).filter(has_slices).map(|number| self.work(rank, number)).collect()
        };
        self.plans.iter().enumerate().map(of).collect()
    }

    /// One host does one thing for one channel, if there is any: sends what was posted, or receives and answers.
    fn step(&mut self) {
        for _ in 0..8.min(self.late.len()) {
            let at = self.chance.next() as usize % self.late.len();
            let (rank, word, value) = self.late.swap_remove(at);
            self.ranks[rank].cells[word].store(value, Relaxed);
        }
        if !self.chance.next().is_multiple_of(self.pace) {
            return;
        }
        let rank = self.chance.next() as usize % self.ranks.len();
        let channel = self.chance.next() as usize % CHANNELS;
        let memory = &mut self.ranks[rank];
        let (round, post) = (memory.rounds[channel], memory.rounds[channel].post());
        let post = &memory.words[channel * WORDS + post.start..channel * WORDS + post.end];
        let Some((plan, slice)) = round.posted(post) else { return };
        let (plans, slice) = (&self.plans[rank][..plan as usize], slice as usize);
        let (plan, before) = plans.split_last().expect("plans are counted from 1");
        let before = before.iter().filter(|before| plan.goes_one_way() && before.goes_one_way()).count();
        assert_eq!(channel, channel_of(before, slice, self.lanes), "slice {slice} behind {before}");
        // Those of a transfer's first slice, which goes by its lane's first channel.
        let cells = channel % self.lanes * LANE_CELL_WORDS;
        let place = |index: usize| channel * SLOT_BYTES + index * plan.slice_bytes;
        let len = |stretch: &Stretch| part_len(stretch.bytes, slice, plan.slice_bytes);
        if !memory.has_sent[channel] {
            // Of a stretch that has ended before the longest one nothing is sent.
            let sends = || plan.sends.iter().filter(|&&(_, index)| len(&plan.puts[index]) > 0);
            let mut parts = Vec::new();
            for &(_, index) in sends() {
                let stretch = &plan.puts[index];
                if is_short(stretch.bytes) {
                    let mut bytes = vec![0; stretch.bytes];
                    // What is put may come later than the post.
                    if !round.take(&memory.cells[cells..][round.put(index)], &mut bytes, &mut 0) {
                        return;
                    }
                    parts.push(bytes);
                } else {
                    parts.push(read(&memory.outbox, place(index), len(stretch)));
                }
            }
            memory.has_sent[channel] = true;
            // Nobody may read what is there before the answer.
            for word in &memory.inbox[channel * SLOT_BYTES / 8..][..2 * plan.slice_bytes / 8] {
                word.store(NOISE, Relaxed);
            }
            for (&(to, _), bytes) in sends().zip(parts) {
                self.mail.entry((rank, to.index(), channel)).or_default().push_back(bytes);
            }
            return;
        }
        let sent = |from: Rank| self.mail.get(&(from.index(), rank, channel)).map_or(0, VecDeque::len);
        let receives = || plan.receives.iter().filter(|&&(_, index)| len(&plan.gets[index]) > 0);
        let wanted = |from: Rank| receives().filter(|(other, _)| *other == from).count();
        if receives().any(|&(from, _)| sent(from) < wanted(from)) {
            return;
        }
        for (at, &(from, index)) in receives().enumerate() {
            let mail = self.mail.get_mut(&(from.index(), rank, channel));
            let bytes = mail.and_then(VecDeque::pop_front).expect("it was counted");
            assert_eq!(bytes.len(), len(&plan.gets[index]), "both ends cut alike");
            if is_short(plan.gets[index].bytes) {
                let (filled, place) = (zeros(round.got(0).len() * 8), round.got(index));
                round.fill(&filled, &bytes);
                let words = filled.iter().map(|word| word.load(Relaxed)).zip(place.map(|word| cells + word));
                self.late
                    .extend(words.filter(|(value, _)| *value != 0).map(|(value, word)| (rank, word, value)));
            } else {
                write(&memory.inbox, place(index), &bytes);
            }
            for to in plan.passes_on.iter().filter(|_| at == 0) {
                self.mail.entry((rank, to.index(), channel)).or_default().push_back(bytes.clone());
            }
        }
        memory.words[channel * WORDS + ANSWERED].store(round.0, Relaxed);
        memory.rounds[channel] = Round(round.0 + 1);
        memory.has_sent[channel] = false;
    }

    /// Runs each rank's work to its end, of which these transfers are a part.
    pub(super) fn run_works(&mut self, emulator: &Emulator, works: &[Vec<Work>], seed: u64, what: &str) {
        let node = Node::new(self.ranks.len() as u32, u64::MAX);
        let mut host = || self.step();
        assert!(emulator.run_beside(&node, works, seed, STEPS_MAX, Some(&mut host)), "{what}: it ends");
    }

    fn run(&mut self, emulator: &Emulator, seed: u64, what: &str) {
        let works = self.works();
        self.run_works(emulator, &works, seed, what);
        for memory in &self.ranks {
            assert_eq!(memory.status[0].load(Relaxed), 0, "{what}: nobody gave up");
        }
    }
}

pub(super) fn zeros(bytes: usize) -> Vec<AtomicU64> {
    (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()
}

pub(super) fn read(memory: &[AtomicU64], at: usize, len: usize) -> Vec<u8> {
    assert!(at + len <= memory.len() * 8);
    // SAFETY: within the memory, of which whoever else writes to it runs on this thread.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>().add(at), len).to_vec() }
}

pub(super) fn write(memory: &[AtomicU64], at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= memory.len() * 8);
    let to = memory.as_ptr().cast::<u8>().cast_mut();
    // SAFETY: as above; atomics may be written to behind a shared reference.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(at), bytes.len()) }
}

/// Bytes at one end of a stretch, with a guard on both sides.
pub(super) struct Part {
    words: Vec<u64>,
    skew: usize,
    bytes: usize,
}

impl Part {
    pub(super) fn new(chance: &mut Chance, bytes: usize, is_given: bool) -> Part {
        let skew = if chance.next().is_multiple_of(3) { 5 } else { 0 };
        let words = (skew + bytes).div_ceil(8) + 2;
        Part {
            words: (0..words).map(|_| if is_given { chance.next() } else { NOISE }).collect(),
            skew,
            bytes,
        }
    }

    pub(super) fn stretch(&self) -> Stretch {
        Stretch { pointer: pointer_to(&self.words).offset(self.skew), bytes: self.bytes }
    }

    pub(super) fn content(&self) -> &[u8] {
        &bytemuck::cast_slice::<u64, u8>(&self.words)[self.skew..self.skew + self.bytes]
    }

    /// That it has these bytes and nothing was written beside them.
    pub(super) fn check(&self, expected: &[u8], what: &str) {
        let mut whole = vec![NOISE; self.words.len()];
        bytemuck::cast_slice_mut::<u64, u8>(&mut whole)[self.skew..self.skew + self.bytes]
            .copy_from_slice(expected);
        assert!(self.words == whole, "{what}: {} bytes", self.bytes);
    }
}

/// An exchange in which every rank has something for some others, and for itself.
struct Exchange {
    given: Vec<Vec<Part>>,
    got: Vec<Vec<Part>>,
    slice_bytes: usize,
}

impl Exchange {
    /// Where it is short, nothing of it is longer than what goes through cells.
    fn new(chance: &mut Chance, ranks: usize, is_short: bool) -> Exchange {
        let lengths = [0, 5, SHORT_BYTES, 1021, 40_000, 150_001, SHORT_BYTES + 1];
        let lengths = if is_short { &lengths[..4] } else { &lengths };
        let slice_bytes = (1 + chance.next() as usize % 2) * 8192;
        let mut given = Vec::new();
        for _ in 0..ranks {
            let mut part = |_| {
                let len = lengths[chance.next() as usize % lengths.len()];
                Part::new(chance, len, true)
            };
            given.push((0..ranks).map(&mut part).collect::<Vec<_>>());
        }
        // All have a part in it: they make the same transfers.
        for from in 0..ranks {
            let bytes = 1 + chance.next() as usize % if is_short { SHORT_BYTES } else { 40_000 };
            given[from][(from + 1) % ranks] = Part::new(chance, bytes, true);
        }
        let mut got = Vec::new();
        for to in 0..ranks {
            got.push(given.iter().map(|given| Part::new(chance, given[to].bytes, false)).collect());
        }
        Exchange { given, got, slice_bytes }
    }

    fn of(&self, rank: usize) -> Transfer {
        let mut transfer = Transfer { slice_bytes: self.slice_bytes, ..Transfer::default() };
        for peer in (0..self.given.len()).filter(|&peer| peer != rank) {
            let (given, got) = (&self.given[rank][peer], &self.got[rank][peer]);
            let peer = Rank(peer as u32);
            if given.bytes > 0 {
                transfer.sends.push((peer, transfer.puts.len()));
                transfer.puts.push(given.stretch());
            }
            if got.bytes > 0 {
                transfer.receives.push((peer, transfer.gets.len()));
                transfer.gets.push(got.stretch());
            }
        }
        if self.copies(rank, &transfer) {
            let (from, to) = (&self.given[rank][rank], &self.got[rank][rank]);
            transfer.copy = Some((from.stretch(), to.stretch().pointer));
        }
        transfer
    }

    /// What a rank has for itself is no longer than the longest of the others'.
    fn copies(&self, rank: usize, transfer: &Transfer) -> bool {
        self.given[rank][rank].bytes <= transfer.slices() * self.slice_bytes
    }

    fn check(&self, what: &str) {
        for (to, got) in self.got.iter().enumerate() {
            for (from, got) in got.iter().enumerate() {
                if from != to || self.copies(to, &self.of(to)) {
                    got.check(self.given[from][to].content(), &format!("{what}, {from} to {to}"));
                }
            }
        }
    }
}

#[test]
fn what_nodes_give_each_other_arrives_whatever_its_length_and_the_hosts_pace() {
    let Some(emulator) =
        Emulator::new("what_nodes_give_each_other_arrives_whatever_its_length_and_the_hosts_pace")
    else {
        return;
    };
    for seed in 0..6 {
        let (ranks, mut chance) = (2 + seed as usize % 2, Chance(seed));
        // One behind the other, also by ranks of which some have nothing, and channels that were used before.
        let exchanges: Vec<_> = (0..6).map(|at| Exchange::new(&mut chance, ranks, at % 3 == 1)).collect();
        let plans = (0..ranks).map(|rank| exchanges.iter().map(|it| it.of(rank)).collect());
        Ranks::new(seed, plans.collect(), u64::MAX).run(&emulator, seed, &format!("seed {seed}"));
        exchanges.iter().for_each(|exchange| exchange.check(&format!("seed {seed}")));
    }
}

#[test]
fn who_only_gives_is_ahead_of_the_hosts_by_no_more_rounds_than_there_are_places() {
    let Some(emulator) =
        Emulator::new("who_only_gives_is_ahead_of_the_hosts_by_no_more_rounds_than_there_are_places")
    else {
        return;
    };
    for seed in 0..8 {
        let mut chance = Chance(seed);
        // Short ones, and now and then a long one between them, which all answers are waited for.
        let len = |chance: &mut Chance| [3, 700, 4096, SHORT_BYTES, 20_000][chance.next() as usize % 5];
        let given: Vec<_> = (0..4 * ROUNDS)
            .map(|_| {
                let len = len(&mut chance);
                Part::new(&mut chance, len, true)
            })
            .collect();
        let got: Vec<_> = given.iter().map(|given| Part::new(&mut chance, given.bytes, false)).collect();
        let of = |stretch: Stretch, is_given: bool| match is_given {
            true => Transfer { puts: vec![stretch], sends: vec![(Rank(1), 0)], ..Transfer::default() },
            false => Transfer { gets: vec![stretch], receives: vec![(Rank(0), 0)], ..Transfer::default() },
        };
        let plans = [(&given, true), (&got, false)].map(|(parts, is_given)| {
            let transfer = |part: &Part| Transfer { slice_bytes: 16384, ..of(part.stretch(), is_given) };
            parts.iter().map(transfer).collect()
        });
        let mut ranks = Ranks::new(seed, plans.into(), u64::MAX);
        ranks.pace = 16;
        ranks.run(&emulator, seed, &format!("seed {seed}"));
        for (given, got) in given.iter().zip(&got) {
            got.check(given.content(), &format!("seed {seed}"));
        }
    }
}

#[test]
fn transfers_of_one_direction_and_of_both_follow_each_other() {
    let name = "transfers_of_one_direction_and_of_both_follow_each_other";
    let Some(emulator) = Emulator::new(name) else { return };
    for seed in 0..6 {
        let mut chance = Chance(seed);
        let (mut plans, mut parts) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..24 {
            let mut draw = |below: usize| chance.next() as usize % below;
            let (direction, bytes) = (draw(3), [3, SHORT_BYTES, 20_000, 150_001][draw(4)]);
            let mut transfers = [0, 1].map(|_| Transfer { slice_bytes: 8192, ..Transfer::default() });
            for from in (0..2).filter(|from| direction != 1 - from) {
                let [given, got] = [true, false].map(|is_given| Part::new(&mut chance, bytes, is_given));
                transfers[from].puts.push(given.stretch());
                transfers[from].sends.push((Rank(1 - from as u32), 0));
                transfers[1 - from].gets.push(got.stretch());
                transfers[1 - from].receives.push((Rank(from as u32), 0));
                parts.push((given, got));
            }
            plans.iter_mut().zip(transfers).for_each(|(plan, transfer)| plan.push(transfer));
        }
        Ranks::new(seed, plans.into(), u64::MAX).run(&emulator, seed, &format!("seed {seed}"));
        parts.iter().for_each(|(given, got)| got.check(given.content(), &format!("seed {seed}")));
    }
}

#[test]
fn several_messages_of_two_ranks_go_in_their_order_whether_short_or_long() {
    let Some(emulator) =
        Emulator::new("several_messages_of_two_ranks_go_in_their_order_whether_short_or_long")
    else {
        return;
    };
    for seed in 0..3 {
        let mut chance = Chance(seed);
        let lengths = [[5, 20_000, 1021, SHORT_BYTES], [SHORT_BYTES + 1, 8, 8, 40_000]];
        let mut parts =
            |is_given| lengths.map(|lengths| lengths.map(|bytes| Part::new(&mut chance, bytes, is_given)));
        let (given, got) = (parts(true), parts(false));
        let of = |rank: usize| Transfer {
            puts: given[rank].iter().map(Part::stretch).collect(),
            gets: got[1 - rank].iter().map(Part::stretch).collect(),
            sends: (0..4).map(|index| (Rank(1 - rank as u32), index)).collect(),
            receives: (0..4).map(|index| (Rank(1 - rank as u32), index)).collect(),
            slice_bytes: 16_384,
            ..Transfer::default()
        };
        // Twice, as what is got is the same.
        let plans = [0, 1].map(|rank| vec![of(rank), of(rank)]);
        Ranks::new(seed, plans.into(), u64::MAX).run(&emulator, seed, "messages");
        for (given, got) in given.iter().flatten().zip(got.iter().flatten()) {
            got.check(given.content(), "messages");
        }
    }
}

#[test]
fn what_is_passed_on_arrives_at_the_end_of_the_chain() {
    let Some(emulator) = Emulator::new("what_is_passed_on_arrives_at_the_end_of_the_chain") else { return };
    for (seed, bytes) in [3, 8192, 200_001].into_iter().enumerate() {
        let mut chance = Chance(seed as u64);
        let given = Part::new(&mut chance, bytes, true);
        let got = [0, 1].map(|_| Part::new(&mut chance, bytes, false));
        let slice_bytes = 8192;
        let first = Transfer {
            puts: vec![given.stretch()],
            sends: vec![(Rank(1), 0)],
            slice_bytes,
            ..Transfer::default()
        };
        let next = |rank: u32| Transfer {
            gets: vec![got[rank as usize - 1].stretch()],
            receives: vec![(Rank(rank - 1), 0)],
            passes_on: if rank == 1 { vec![Rank(2)] } else { Vec::new() },
            slice_bytes,
            ..Transfer::default()
        };
        let plans = vec![vec![first], vec![next(1)], vec![next(2)]];
        Ranks::new(seed as u64, plans, u64::MAX).run(&emulator, seed as u64, "a chain");
        got.iter().for_each(|part| part.check(given.content(), "a chain"));
    }
}

/// One element after the other, as numbers of which sums depend on their order, or as bits.
trait Number: bytemuck::Pod {
    const ELEMENT: ElementType;
    fn draw(chance: &mut Chance) -> Self;
}

impl Number for f32 {
    const ELEMENT: ElementType = ElementType::F32;
    fn draw(chance: &mut Chance) -> f32 {
        (chance.next() % 1_000_003) as f32 * 1e-3
    }
}

impl Number for i64 {
    const ELEMENT: ElementType = ElementType::I64;
    fn draw(chance: &mut Chance) -> i64 {
        chance.next() as i64
    }
}

/// Reduces every rank's vector on every rank, each of which gives its own to all others.
fn reduce_all<T: Number>(
    emulator: &Emulator,
    (ranks, count): (usize, usize),
    op: impl Fn(usize) -> DeviceOp,
    expected: impl Fn(&[T]) -> T,
) {
    let (mut chance, bytes) = (Chance((ranks * count) as u64), count * size_of::<T>());
    let part = |values: &[T]| {
        let mut words = vec![NOISE; bytes.div_ceil(8) + 2];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes]
            .copy_from_slice(bytemuck::cast_slice(values));
        Part { words, skew: 0, bytes }
    };
    let vectors: Vec<Vec<T>> =
        (0..ranks).map(|_| (0..count).map(|_| T::draw(&mut chance)).collect()).collect();
    let given: Vec<_> = vectors.iter().map(|values| part(values)).collect();
    let got: Vec<_> =
        given.iter().map(|given| Part { words: vec![NOISE; given.words.len()], skew: 0, bytes }).collect();
    let of = |rank: usize| {
        let others = || (0..ranks).filter(move |&other| other != rank).map(|other| Rank(other as u32));
        Transfer {
            puts: vec![given[rank].stretch()],
            gets: others().map(|_| got[rank].stretch()).collect(),
            sends: others().map(|other| (other, 0)).collect(),
            receives: others().enumerate().map(|(index, other)| (other, index)).collect(),
            reduction: Some(Reduction {
                own: given[rank].stretch().pointer,
                place: rank as u32,
                element: DeviceElement::Of(T::ELEMENT),
                op: op(rank),
                ranks: ranks as u32,
            }),
            slice_bytes: 8192,
            ..Transfer::default()
        }
    };
    let plans = (0..ranks).map(|rank| vec![of(rank)]).collect();
    let what = format!("{count} of {:?}, {ranks} ranks", T::ELEMENT);
    Ranks::new(7, plans, u64::MAX).run(emulator, 7, &what);
    let column = |at: usize| vectors.iter().map(|values| values[at]).collect::<Vec<_>>();
    let expected: Vec<T> = (0..count).map(|at| expected(&column(at))).collect();
    got.iter().for_each(|got| got.check(bytemuck::cast_slice(&expected), &what));
}

#[test]
fn what_nodes_give_is_reduced_in_their_order() {
    let Some(emulator) = Emulator::new("what_nodes_give_is_reduced_in_their_order") else { return };
    let sum = |values: &[f32]| values.iter().copied().reduce(|left, right| left + right).expect("some");
    for (ranks, count) in [(2, 1), (3, 4099), (3, 40_000), (4, 2049)] {
        reduce_all(&emulator, (ranks, count), |_| ReduceOp::Sum.into(), sum);
        let max = |values: &[i64]| *values.iter().max().expect("some");
        reduce_all(&emulator, (ranks, count), |_| ReduceOp::Max.into(), max);
        // Each with a factor of its own, also where it is given to others.
        let factor = |rank: usize| 0.5 + rank as f32;
        let op = |rank| DeviceOp::PreMulSum(Factor::Bytes(u64::from(factor(rank).to_bits())));
        let weighed = |values: &[f32]| {
            let products = values.iter().enumerate().map(|(rank, value)| value * factor(rank));
            products.reduce(|left, right| left + right).expect("some")
        };
        reduce_all(&emulator, (ranks, count), op, weighed);
    }
}

#[test]
fn a_host_that_does_not_answer_is_told_of_at_the_deadline_and_nothing_goes_on() {
    let Some(emulator) =
        Emulator::new("a_host_that_does_not_answer_is_told_of_at_the_deadline_and_nothing_goes_on")
    else {
        return;
    };
    let mut chance = Chance(1);
    let exchange: Vec<_> = [true, false].map(|is_given| Part::new(&mut chance, 30_000, is_given)).into();
    let transfer = Transfer {
        puts: vec![exchange[0].stretch()],
        gets: vec![exchange[1].stretch()],
        sends: vec![(Rank(1), 0)],
        receives: vec![(Rank(1), 0)],
        slice_bytes: 8192,
        ..Transfer::default()
    };
    // Twice, of which the second finds that the first has failed; and where the host says stop.
    for is_stopped in [false, true] {
        let deadline_ns = if is_stopped { u64::MAX } else { 1 << 18 };
        let ranks = Ranks::new(1, vec![vec![transfer.clone(), transfer.clone()], Vec::new()], deadline_ns);
        let node = Node::new(2, u64::MAX);
        ranks.ranks[0].status[status::STOP].store(u32::from(is_stopped), Relaxed);
        assert!(emulator.run_all(&node, &ranks.works(), 3, STEPS_MAX), "it ends");
        let word = |index: usize| ranks.ranks[0].status[index].load(Relaxed);
        let expected = if is_stopped { (0, 0) } else { (status::CAUSE_TIMEOUT, 1) };
        assert_eq!((word(status::CAUSE), word(status::PEER)), expected);
        exchange[1].check(&vec![NOISE as u8; 30_000], "nothing was got");
    }
}

pub(super) const NOISE: u64 = 0xa5a5_a5a5_a5a5_a5a5;
