//! Every leaf does every collective, on any number of elements of any type, to the bit.

use half::{bf16, f16};

use super::eighth;
use super::emulator::{Emulator, Node, pointer_to};
use crate::coll::collective::Collective;
use crate::coll::reduce::{Source, Target, copy_into, reduce_into};
use crate::cuda::DevicePointer;
use crate::element::{ElementType, ReduceOp};
use crate::nvlink::call::{DeviceCollective, DeviceElement, DeviceOp, Factor};
use crate::nvlink::launch::{Reached, Request};
use crate::nvlink::layout::{RANKS_MAX, SLOTS};
use crate::nvlink::part::{Leaf, Shape};
use crate::nvlink::room::Room;
use crate::nvlink::select::one_shot_bytes_within;
use efarun_wire::Rank;

/// One call with its ranks' buffers, and what they must hold afterwards.
pub(super) struct Case {
    pub(super) shape: Shape,
    pub(super) leaf: Leaf,
    pub(super) element: DeviceElement,
    /// Its factor is not each rank's: see `op_of`.
    pub(super) op: DeviceOp,
    pub(super) is_in_place: bool,
    /// Of 64-bit words, so that they are aligned as a GPU's memory is; each with a guard behind it.
    pub(super) inputs: Vec<Vec<u64>>,
    pub(super) outputs: Vec<Vec<u64>>,
    /// Where the data begins, in bytes.
    pub(super) skew: usize,
}

impl Case {
    pub(super) fn new<C: Into<DeviceCollective>, E: Into<DeviceElement>, O: Into<DeviceOp>>(
        (collective, leaf): (C, Leaf),
        (element, op): (E, O),
        (ranks, count): (u32, usize),
        seed: u64,
    ) -> Case {
        let (collective, element, op) = (collective.into(), element.into(), op.into());
        let shape = Shape { collective, count_bytes: count * element.size_bytes(), ranks, room: Room::WHOLE };
        let has_leaf = match leaf {
            Leaf::Ring => shape.has_ring(),
            Leaf::Slots => shape.has_slots(),
            _ => true,
        };
        let leaf = if has_leaf { leaf } else { Leaf::TwoShot };
        let chance = |rank: u32, salt: u64| Chance(seed ^ (u64::from(rank) << 40) ^ (salt << 50));
        let whole_bytes = vector_len(shape);
        let skew = if seed.is_multiple_of(3) { element.size_bytes() } else { 0 };
        let words = (whole_bytes + skew).div_ceil(8) + GUARD_WORDS;
        let inputs = (0..ranks).map(|rank| {
            let mut input = vec![GUARD; words];
            let bytes = bytemuck::cast_slice_mut(&mut input);
            chance(rank, 1).fill(element, &mut bytes[skew..skew + whole_bytes]);
            input
        });
        Case {
            shape,
            leaf,
            element,
            op,
            // Blocks that are exchanged have no place of their own.
            is_in_place: seed.is_multiple_of(2) && collective != DeviceCollective::AllToAll,
            inputs: inputs.collect(),
            outputs: vec![vec![GUARD; words]; ranks as usize],
            skew,
        }
    }

    /// The same of ranks that share GPUs.
    pub(super) fn within(self, room: Room) -> Case {
        let is_too_long = self.leaf == Leaf::OneShot && self.shape.count_bytes > one_shot_bytes_within(room);
        let leaf = if is_too_long { Leaf::TwoShot } else { self.leaf };
        Case { shape: Shape { room, ..self.shape }, leaf, ..self }
    }

    pub(super) fn request(&self, rank: u32) -> Request {
        let (mut input, mut output) = self.addresses(rank);
        let all = |memory: &[Vec<u64>]| {
            let mut pointers = [DevicePointer(0); RANKS_MAX];
            for (pointer, memory) in pointers.iter_mut().zip(memory) {
                *pointer = pointer_to(memory);
            }
            pointers
        };
        let inputs = all(&self.inputs);
        // In place, the output is in the input's memory.
        let outputs = if self.is_in_place { inputs } else { all(&self.outputs) };
        let offset = |pointer: DevicePointer, memory: [DevicePointer; RANKS_MAX]| {
            (pointer.0 - memory[rank as usize].0) as usize
        };
        let (input_offset, output_offset) = (offset(input, inputs), offset(output, outputs));
        let reached = Reached { inputs, outputs, input_offset, output_offset, identity: 1 };
        if self.leaf != Leaf::Direct && self.shape.collective.root().is_some_and(|root| root.0 != rank) {
            // What a rank does not use it may not have.
            match self.shape.collective {
                DeviceCollective::Reduce { .. } | DeviceCollective::Gather { .. } => {
                    output = DevicePointer(0)
                }
                _ => input = DevicePointer(0),
            }
        }
        Request {
            shape: self.shape,
            leaf: self.leaf,
            element: self.element,
            op: self.op_of(rank),
            input,
            output,
            reached: Some(reached),
        }
    }

    fn addresses(&self, rank: u32) -> (DevicePointer, DevicePointer) {
        let (input, output) = (&self.inputs[rank as usize], &self.outputs[rank as usize]);
        self.places(rank, pointer_to(input), pointer_to(output))
    }

    /// Where a rank's input and output are in memory that begins there: in place, both are in the input's.
    pub(super) fn places(
        &self,
        rank: u32,
        input: DevicePointer,
        output: DevicePointer,
    ) -> (DevicePointer, DevicePointer) {
        let (input, output) = (input.offset(self.skew), output.offset(self.skew));
        let own = self.shape.count_bytes * rank as usize;
        match self.shape.collective {
            DeviceCollective::AllGather | DeviceCollective::Gather { .. } if self.is_in_place => {
                (input.offset(own), input)
            }
            DeviceCollective::ReduceScatter | DeviceCollective::Scatter { .. } if self.is_in_place => {
                (input, input.offset(own))
            }
            // Otherwise the rank's input of an all_gather is its block too, where the in-place call has it.
            DeviceCollective::AllGather | DeviceCollective::Gather { .. } => (input.offset(own), output),
            _ if self.is_in_place => (input, input),
            _ => (input, output),
        }
    }

    /// The rank's input as the call was given it, the whole vector where it is in place.
    fn given(&self, inputs: &[Vec<u64>], rank: u32) -> Vec<u8> {
        let bytes: &[u8] = bytemuck::cast_slice(&inputs[rank as usize]);
        bytes[self.skew..self.skew + vector_len(self.shape)].to_vec()
    }

    /// What all memory of all ranks must be.
    pub(super) fn expected(&self) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
        let (mut inputs, mut outputs) = (self.inputs.clone(), self.outputs.clone());
        let Shape { collective, count_bytes, ranks, .. } = self.shape;
        for rank in 0..ranks {
            let given = |rank| self.given(&self.inputs, rank);
            let block = |of: u32| count_bytes * of as usize..count_bytes * (of as usize + 1);
            let own_start = if self.is_in_place { block(rank).start } else { 0 };
            let all = || (0..ranks).flat_map(|of| given(of)[block(of)].to_vec()).collect();
            let (start, result) = match collective {
                DeviceCollective::AllReduce => (0, self.reduced(0..count_bytes)),
                DeviceCollective::Reduce { root } if root.0 == rank => (0, self.reduced(0..count_bytes)),
                DeviceCollective::ReduceScatter => (own_start, self.reduced(block(rank))),
                DeviceCollective::Broadcast { root } => (0, given(root.0)),
                DeviceCollective::AllGather => (0, all()),
                DeviceCollective::Gather { root } if root.0 == rank => (0, all()),
                DeviceCollective::Scatter { root } => (own_start, given(root.0)[block(rank)].to_vec()),
                DeviceCollective::AllToAll => {
                    (0, (0..ranks).flat_map(|of| given(of)[block(rank)].to_vec()).collect())
                }
                _ => continue,
            };
            let memory = if self.is_in_place { &mut inputs } else { &mut outputs };
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory[rank as usize]);
            bytes[self.skew + start..][..result.len()].copy_from_slice(&result);
        }
        (inputs, outputs)
    }

    /// The reduction of a part of the vector by the host's own arithmetic, in the leaf's order.
    fn reduced(&self, part: std::ops::Range<usize>) -> Vec<u8> {
        let (element_bytes, ranks) = (self.element.size_bytes(), self.shape.ranks);
        let inputs: Vec<_> = (0..ranks).map(|rank| self.given(&self.inputs, rank)).collect();
        let mut result = Vec::new();
        for at in part.step_by(element_bytes) {
            let block = || (at / self.shape.block_bytes()) as u32;
            let first = match self.leaf {
                Leaf::Direct => block(),
                Leaf::Ring => 1 + self.shape.collective.root().map_or_else(block, |root| root.0),
                _ => 0,
            };
            let order: Vec<_> = (0..ranks).map(|k| ((first + k) % ranks) as usize).collect();
            let operand = |rank: usize| self.multiplied(rank, &inputs[rank][at..at + element_bytes]);
            let DeviceElement::Of(element) = self.element else {
                let operands: Vec<_> = order.iter().map(|&rank| operand(rank)[0]).collect();
                result.push(eighth::reduced(self.element, self.op, &operands, self.leaf == Leaf::Ring));
                continue;
            };
            let op = match self.op {
                DeviceOp::Of(op) => op,
                DeviceOp::PreMulSum(_) => ReduceOp::Sum,
            };
            let wide_bytes = element.accumulator().size_bytes();
            let mut wide = [0u64];
            let wide: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut wide)[..wide_bytes];
            let first = aligned(&operand(order[0]));
            let source = Source::Elements(&bytemuck::cast_slice(&first)[..element_bytes]);
            copy_into(element, Target::Wide(wide), source);
            for (index, &rank) in order.iter().enumerate().skip(1) {
                let next = aligned(&operand(rank));
                let next = Source::Elements(&bytemuck::cast_slice(&next)[..element_bytes]);
                let divisor = (op == ReduceOp::Avg && index + 1 == order.len()).then_some(ranks);
                if self.leaf == Leaf::Ring {
                    round(element, wide);
                }
                reduce_into(element, op, divisor, Target::Wide(wide), Source::Destination, next);
            }
            let mut out = [0u64];
            let out: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut out)[..element_bytes];
            copy_into(element, Target::Elements(out), Source::Wide(wide));
            result.extend_from_slice(out);
        }
        result
    }

    /// One element of a rank's input, times the rank's factor where the operation has one.
    fn multiplied(&self, rank: usize, element: &[u8]) -> Vec<u8> {
        let DeviceOp::PreMulSum(Factor::Bytes(factor)) = self.op_of(rank as u32) else {
            return element.to_vec();
        };
        let DeviceElement::Of(of) = self.element else {
            return vec![eighth::product(self.element, element[0], factor as u8)];
        };
        let bytes = element.len();
        let (element, factor) = (aligned(element), aligned(&factor.to_ne_bytes()[..bytes]));
        let of_bytes = |word: &'_ [u64; 1]| bytemuck::cast_slice::<u64, u8>(word)[..bytes].to_vec();
        let (left, right) = (aligned(&of_bytes(&element)), aligned(&of_bytes(&factor)));
        let mut wide = [0u64];
        let wide: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut wide)[..of.accumulator().size_bytes()];
        copy_into(of, Target::Wide(wide), Source::Elements(&bytemuck::cast_slice(&left)[..bytes]));
        let right = Source::Elements(&bytemuck::cast_slice(&right)[..bytes]);
        reduce_into(of, ReduceOp::Prod, None, Target::Wide(wide), Source::Destination, right);
        let mut out = [0u64];
        let out: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut out)[..bytes];
        copy_into(of, Target::Elements(out), Source::Wide(wide));
        out.to_vec()
    }

    /// The operation as a rank calls it: every rank has a factor of its own.
    pub(super) fn op_of(&self, rank: u32) -> DeviceOp {
        let DeviceOp::PreMulSum(_) = self.op else { return self.op };
        let factor = f32::from(rank as u8 % 3) + 0.5;
        DeviceOp::PreMulSum(Factor::Bytes(match self.element {
            DeviceElement::Of(ElementType::F16) => u64::from(f16::from_f32(factor).to_bits()),
            DeviceElement::Of(ElementType::Bf16) => u64::from(bf16::from_f32(factor).to_bits()),
            DeviceElement::Of(ElementType::F32) => u64::from(factor.to_bits()),
            DeviceElement::Of(ElementType::F64) => f64::from(factor).to_bits(),
            DeviceElement::Of(_) => u64::from(rank) + 2,
            eighth => u64::from(eighth::nearest(eighth, factor)),
        }))
    }

    pub(super) fn check(&self, (inputs, outputs): &(Vec<Vec<u64>>, Vec<Vec<u64>>), what: &str) {
        for rank in 0..self.shape.ranks as usize {
            let pairs = [("input", &self.inputs, inputs), ("output", &self.outputs, outputs)];
            for (name, found, expected) in pairs {
                // What a reduce_scatter in place leaves in the other blocks is undefined; the kernels leave it alone.
                let at =
                    found[rank].iter().zip(&expected[rank]).position(|(found, expected)| found != expected);
                assert_eq!(
                    at,
                    None,
                    "{what}: {:?} {} of {:?} {:?} ({} bytes, in place: {}, skew {}): word of rank {rank}'s {name}",
                    self.shape.collective,
                    self.leaf.name(),
                    self.element,
                    self.op,
                    self.shape.count_bytes,
                    self.is_in_place,
                    self.skew
                );
            }
        }
    }
}

/// Runs cases one behind the other on one node, and checks each.
pub(super) fn run(emulator: &Emulator, node: &Node, cases: &[Case], seed: u64, what: &str) {
    let expected: Vec<_> = cases.iter().map(Case::expected).collect();
    let ranks = cases[0].shape.ranks;
    let requests: Vec<Vec<_>> =
        (0..ranks).map(|rank| cases.iter().map(|case| case.request(rank)).collect()).collect();
    let ended = emulator.run(node, &requests, seed, STEPS_MAX);
    for rank in 0..ranks as usize {
        assert_eq!(node.status(rank)[0], 0, "{what}: rank {rank} gave up: {:?}", node.status(rank));
    }
    assert!(ended, "{what}: not all ranks ended");
    node.check_guards(what);
    for (case, expected) in cases.iter().zip(&expected) {
        case.check(expected, what);
    }
}

pub(super) const LEAVES: [Leaf; 5] = [Leaf::OneShot, Leaf::TwoShot, Leaf::Direct, Leaf::Ring, Leaf::Slots];

pub(super) fn collectives(root: u32) -> [DeviceCollective; 8] {
    let root = Rank(root);
    [
        DeviceCollective::AllReduce,
        DeviceCollective::ReduceScatter,
        DeviceCollective::AllGather,
        DeviceCollective::Broadcast { root },
        DeviceCollective::Reduce { root },
        DeviceCollective::AllToAll,
        DeviceCollective::Gather { root },
        DeviceCollective::Scatter { root },
    ]
}

/// Every type that kernels have.
pub(super) fn elements() -> impl Iterator<Item = DeviceElement> {
    DeviceElement::all()
}

/// Every operation that kernels have.
pub(super) fn ops() -> impl Iterator<Item = DeviceOp> {
    ReduceOp::ALL.map(DeviceOp::Of).into_iter().chain([DeviceOp::PreMulSum(Factor::Bytes(0))])
}

/// Bytes of the longest vector that a call is about.
fn vector_len(shape: Shape) -> usize {
    let (input, output) = shape.collective.lengths(shape.ranks);
    shape.count_bytes * input.max(output)
}

/// Rounds a partial result to its type, as it is when it has been sent.
fn round(element: ElementType, wide: &mut [u8]) {
    let mut sent = [0u64];
    let sent: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut sent)[..element.size_bytes()];
    copy_into(element, Target::Elements(sent), Source::Wide(wide));
    copy_into(element, Target::Wide(wide), Source::Elements(sent));
}

/// An element in memory of its own, so that it is aligned.
fn aligned(bytes: &[u8]) -> [u64; 1] {
    let mut word = [0u64];
    bytemuck::cast_slice_mut::<u64, u8>(&mut word)[..bytes.len()].copy_from_slice(bytes);
    word
}

#[test]
fn every_type_and_operation_is_reduced_as_on_the_host() {
    let Some(emulator) = Emulator::new("every_type_and_operation_is_reduced_as_on_the_host") else { return };
    for leaf in LEAVES {
        for element in elements() {
            let node = Node::new(3, u64::MAX);
            // Who reads another rank's input does not know that rank's factor.
            let has = |op: &DeviceOp| leaf != Leaf::Direct || matches!(op, DeviceOp::Of(_));
            let case = |(index, op)| {
                Case::new((Collective::AllReduce, leaf), (element, op), (3, 41), 1 + index as u64)
            };
            let cases: Vec<_> = ops().filter(has).enumerate().map(case).collect();
            run(&emulator, &node, &cases, 7, &format!("{} of {element:?}", leaf.name()));
        }
    }
}

#[test]
fn every_collective_is_right_for_every_world_root_and_tail() {
    let Some(emulator) = Emulator::new("every_collective_is_right_for_every_world_root_and_tail") else {
        return;
    };
    for ranks in [2, 3, 4, 5, 8] {
        for leaf in LEAVES {
            let node = Node::new(ranks, u64::MAX);
            let mut cases = Vec::new();
            for (index, collective) in collectives(ranks - 1).into_iter().chain(collectives(0)).enumerate() {
                let count = [1, 3, 97, 512, 1021][(index + ranks as usize) % 5];
                let (element, seed) =
                    ([ElementType::F32, ElementType::I8, ElementType::F16][index % 3], index as u64);
                cases.push(Case::new((collective, leaf), (element, ReduceOp::Sum), (ranks, count), seed));
            }
            run(&emulator, &node, &cases, u64::from(ranks), &format!("{ranks} ranks"));
        }
    }
}

#[test]
fn blocks_of_many_slices_are_moved_through_few_slots() {
    let Some(emulator) = Emulator::new("blocks_of_many_slices_are_moved_through_few_slots") else { return };
    for ranks in [2, 3, 4] {
        let node = Node::new(ranks, u64::MAX);
        // One behind the other, as slots are counted from call to call; some in place, some not aligned.
        let root = Rank(ranks - 1);
        let moved = [
            DeviceCollective::AllToAll,
            DeviceCollective::Gather { root },
            DeviceCollective::Scatter { root },
            DeviceCollective::Gather { root: Rank(0) },
            DeviceCollective::AllToAll,
            // What goes by some of the channels to others, and by all of them to the rank itself.
            DeviceCollective::AllToAll,
            DeviceCollective::Gather { root: Rank(0) },
        ];
        let cases: Vec<_> = (1..)
            .zip(moved)
            .map(|(seed, collective)| {
                let count = [200_001, 90_000, 8192 * 2 * SLOTS, 8191, 60_001, 5 * 8192, 5 * 8192 + 1]
                    [seed as usize - 1];
                Case::new((collective, Leaf::Slots), (ElementType::U8, ReduceOp::Sum), (ranks, count), seed)
            })
            .collect();
        run(&emulator, &node, &cases, u64::from(ranks), &format!("{ranks} ranks"));
    }
}

#[test]
fn ranks_do_every_collective_with_few_blocks() {
    let Some(emulator) = Emulator::new("ranks_do_every_collective_with_few_blocks") else {
        return;
    };
    // What has more blocks without: most of these.
    for (ranks, room, counts) in [
        (4, Room::of(4, 16), [3, 33_001]),
        (4, Room::of(2, 13), [2100, 20_011]),
        (8, Room::of(8, 64), [5, 17_003]),
        (8, Room::of(4, 60), [512, 9001]),
        (3, Room::WHOLE.within(4, 3), [7, 9001]),
        (8, Room::WHOLE.within(1, 8), [700, 3001]),
    ] {
        assert!(room.suffices(ranks as usize));
        for (round, count) in counts.into_iter().enumerate() {
            let node = Node::new(ranks, u64::MAX).within(room);
            let mut cases = Vec::new();
            for leaf in LEAVES {
                for (index, collective) in collectives(round as u32 % ranks).into_iter().enumerate() {
                    let element = [ElementType::F32, ElementType::I8, ElementType::Bf16][(index + round) % 3];
                    let seed = (round * 10 + index) as u64;
                    let case = Case::new((collective, leaf), (element, ReduceOp::Sum), (ranks, count), seed);
                    cases.push(case.within(room));
                }
            }
            run(&emulator, &node, &cases, count as u64, &format!("{ranks} ranks, {room:?}"));
        }
    }
}

#[test]
fn many_blocks_and_rounds_do_what_one_does() {
    let Some(emulator) = Emulator::new("many_blocks_and_rounds_do_what_one_does") else { return };
    let node = Node::new(2, u64::MAX);
    let float = (ElementType::F32, ReduceOp::Sum);
    let multiplied = DeviceOp::PreMulSum(Factor::Bytes(0));
    // More than one round for each warp of each block of the two-shot leaf needs half a mebibyte per rank.
    let cases = [
        Case::new((Collective::AllReduce, Leaf::OneShot), float, (2, 2500), 5),
        Case::new((Collective::AllReduce, Leaf::TwoShot), float, (2, 300_000), 7),
        Case::new((Collective::AllGather, Leaf::TwoShot), float, (2, 2500), 11),
        Case::new((Collective::AllReduce, Leaf::Direct), float, (2, 9001), 13),
        Case::new((Collective::AllReduce, Leaf::Ring), float, (2, 9001), 14),
        // Slices of whole steps of a block, in which what is asked is asked once for all threads.
        Case::new((Collective::AllReduce, Leaf::Ring), (ElementType::F32, multiplied), (2, 9001), 16),
    ];
    run(&emulator, &node, &cases, 3, "many blocks");
    assert!(cases.iter().all(
        |case| case.leaf != Leaf::OneShot || case.shape.count_bytes <= one_shot_bytes_within(Room::WHOLE)
    ));
}

/// Numbers from a seed.
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Elements of which sums and products round, and zeros of both signs; no NaN, whose bits processors choose.
    fn fill(&mut self, element: DeviceElement, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(element.size_bytes()) {
            let bits = self.next();
            let small = ((bits % 2001) as f64 - 1000.0) / [1.0, 3.0, 7.0, 64.0][(bits >> 32) as usize % 4];
            match element {
                DeviceElement::Of(ElementType::F16) => {
                    chunk.copy_from_slice(&f16::from_f64(small / 64.0).to_ne_bytes())
                }
                DeviceElement::Of(ElementType::Bf16) => {
                    chunk.copy_from_slice(&bf16::from_f64(small).to_ne_bytes())
                }
                DeviceElement::Of(ElementType::F32) => chunk.copy_from_slice(&(small as f32).to_ne_bytes()),
                DeviceElement::Of(ElementType::F64) => chunk.copy_from_slice(&small.to_ne_bytes()),
                DeviceElement::F8E4M3 | DeviceElement::F8E5M2 => {
                    chunk[0] = eighth::nearest(element, small as f32 / 16.0);
                }
                DeviceElement::Of(_) => chunk.copy_from_slice(&bits.to_ne_bytes()[..chunk.len()]),
            }
        }
    }
}

const GUARD: u64 = 0x5a5a_5a5a_5a5a_5a5a;
const GUARD_WORDS: usize = 64;
/// Many times what the longest case takes.
pub(super) const STEPS_MAX: u64 = 100_000_000;
