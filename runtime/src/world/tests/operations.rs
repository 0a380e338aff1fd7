//! Every operation with every type and reduction by every algorithm, on buffers apart and in place.

use efarun_wire::Rank;
use half::{bf16, f16};

use super::on_all;
use crate::coll::collective::Collective;
use crate::coll::select::{Algorithm, Choice};
use crate::element::{Element, ElementType, ReduceOp};
use crate::world::{Options, World};

/// Elements made from whole numbers, as a reference computes them.
pub(super) trait Number: Element + Default {
    /// The number, wrapped to the type's range if it is an integer type.
    fn of(value: i64) -> Self;
    /// A quotient, rounded as an average is.
    fn quotient(value: i64, divisor: i64) -> Self;
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn of(value: i64) -> Self {
                value as $type
            }
            fn quotient(value: i64, divisor: i64) -> Self {
                (value / divisor) as $type
            }
        }
    )*};
}

integer!(i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! float {
    ($($type:ty: $from:expr, $divide:expr;)*) => {$(
        impl Number for $type {
            fn of(value: i64) -> Self {
                $from(value as f32)
            }
            fn quotient(value: i64, divisor: i64) -> Self {
                $divide(value as f32, divisor as f32)
            }
        }
    )*};
}

float! {
    f16: f16::from_f32, |a: f32, b: f32| f16::from_f32(a / b);
    bf16: bf16::from_f32, |a: f32, b: f32| bf16::from_f32(a / b);
    f32: |a| a, |a, b| a / b;
    f64: f64::from, |a, b| f64::from(a) / f64::from(b);
}

/// What a rank gives at a position: 1 or 2, so that sums and products of a few ranks are exact in every type, or wrap.
fn given(rank: u32, index: usize) -> i64 {
    1 + i64::from((rank as usize * 5 + index * 7 + index / 11).is_multiple_of(3))
}

/// What becomes of all ranks' inputs at a position.
fn reduced<T: Number>(world_size: u32, index: usize, op: ReduceOp) -> T {
    let values = (0..world_size).map(|rank| given(rank, index));
    match op {
        ReduceOp::Sum => T::of(values.sum()),
        ReduceOp::Prod => T::of(values.product()),
        ReduceOp::Min => T::of(values.min().expect("a rank")),
        ReduceOp::Max => T::of(values.max().expect("a rank")),
        ReduceOp::Avg => T::quotient(values.sum(), i64::from(world_size)),
    }
}

fn all_reduced<T: Number>(world_size: u32, indices: std::ops::Range<usize>, op: ReduceOp) -> Vec<T> {
    indices.map(|index| reduced(world_size, index, op)).collect()
}

fn inputs<T: Number>(rank: Rank, indices: std::ops::Range<usize>) -> Vec<T> {
    indices.map(|index| T::of(given(rank.0, index))).collect()
}

fn by(algorithm: Algorithm) -> Options {
    Options { algorithm: Some(Choice::Fixed(algorithm)), deadline: None }
}

fn junk<T: Number>(len: usize) -> Vec<T> {
    vec![T::of(77); len]
}

/// Runs every operation on elements of this type by every algorithm.
pub(super) fn check_type<T: Number>(world: &mut World, counts: &[usize], ops: &[ReduceOp]) {
    for &count in counts {
        for &op in ops {
            check_all_reduce::<T>(world, count, op);
            check_reduce::<T>(world, count, op);
            check_reduce_scatter::<T>(world, count, op);
        }
        check_broadcast::<T>(world, count);
        check_all_gather::<T>(world, count);
    }
    world.barrier().expect("nobody is lost");
}

fn check_all_reduce<T: Number>(world: &mut World, count: usize, op: ReduceOp) {
    let expected = all_reduced::<T>(world.world_size(), 0..count, op);
    for &algorithm in Algorithm::of(Collective::AllReduce) {
        let case = format!("all_reduce of {count} {} by {op} and {algorithm}", T::TYPE);
        let input = inputs::<T>(world.rank(), 0..count);
        let mut output = junk(count);
        world.all_reduce_into_with(&input, &mut output, op, &by(algorithm)).expect(&case);
        assert!(output == expected, "{case}");
        let mut data = input;
        world.all_reduce_with(&mut data, op, &by(algorithm)).expect(&case);
        assert!(data == expected, "{case}, in place");
    }
}

fn check_reduce<T: Number>(world: &mut World, count: usize, op: ReduceOp) {
    let expected = all_reduced::<T>(world.world_size(), 0..count, op);
    let root = Rank(count as u32 % world.world_size());
    let is_root = world.rank() == root;
    for &algorithm in Algorithm::of(Collective::Reduce { root }) {
        let case = format!("reduce of {count} {} to {root} by {op} and {algorithm}", T::TYPE);
        let input = inputs::<T>(world.rank(), 0..count);
        let mut output = junk(if is_root { count } else { 0 });
        world.reduce_into_with(&input, &mut output, op, root, &by(algorithm)).expect(&case);
        assert!(!is_root || output == expected, "{case}");
        let mut data = input.clone();
        world.reduce_with(&mut data, op, root, &by(algorithm)).expect(&case);
        assert!(data == if is_root { &expected[..] } else { &input }, "{case}, in place");
    }
}

fn check_broadcast<T: Number>(world: &mut World, count: usize) {
    let root = Rank(count as u32 % world.world_size());
    let expected = inputs::<T>(root, 0..count);
    for &algorithm in Algorithm::of(Collective::Broadcast { root }) {
        let case = format!("broadcast of {count} {} from {root} by {algorithm}", T::TYPE);
        let mut data = if world.rank() == root { expected.clone() } else { junk(count) };
        world.broadcast_with(&mut data, root, &by(algorithm)).expect(&case);
        assert!(data == expected, "{case}");
    }
}

fn check_all_gather<T: Number>(world: &mut World, count: usize) {
    let (rank, world_size) = (world.rank(), world.world_size());
    let expected: Vec<T> = (0..world_size).flat_map(|rank| inputs(Rank(rank), 0..count)).collect();
    for &algorithm in Algorithm::of(Collective::AllGather) {
        let case = format!("all_gather of {count} {} by {algorithm}", T::TYPE);
        let input = inputs::<T>(rank, 0..count);
        let mut output = junk(expected.len());
        world.all_gather_with(&input, &mut output, &by(algorithm)).expect(&case);
        assert!(output == expected, "{case}");
        let mut data = junk(expected.len());
        data[rank.index() * count..][..count].copy_from_slice(&input);
        world.all_gather_in_place_with(&mut data, &by(algorithm)).expect(&case);
        assert!(data == expected, "{case}, in place");
    }
}

fn check_reduce_scatter<T: Number>(world: &mut World, count: usize, op: ReduceOp) {
    let (rank, world_size) = (world.rank(), world.world_size());
    let own = rank.index() * count..(rank.index() + 1) * count;
    let expected = all_reduced::<T>(world_size, own.clone(), op);
    for &algorithm in Algorithm::of(Collective::ReduceScatter) {
        let case = format!("reduce_scatter of {count} {} by {op} and {algorithm}", T::TYPE);
        let input = inputs::<T>(rank, 0..world_size as usize * count);
        let mut output = junk(count);
        world.reduce_scatter_with(&input, &mut output, op, &by(algorithm)).expect(&case);
        assert!(output == expected, "{case}");
        let mut data = input;
        world.reduce_scatter_in_place_with(&mut data, op, &by(algorithm)).expect(&case);
        assert!(data[own.clone()] == expected, "{case}, in place");
    }
}

fn check_all_types(world: &mut World, counts: &[usize]) {
    let ops = &ReduceOp::ALL;
    for element_type in ElementType::ALL {
        match element_type {
            ElementType::I8 => check_type::<i8>(world, counts, ops),
            ElementType::U8 => check_type::<u8>(world, counts, ops),
            ElementType::I16 => check_type::<i16>(world, counts, ops),
            ElementType::U16 => check_type::<u16>(world, counts, ops),
            ElementType::I32 => check_type::<i32>(world, counts, ops),
            ElementType::U32 => check_type::<u32>(world, counts, ops),
            ElementType::I64 => check_type::<i64>(world, counts, ops),
            ElementType::U64 => check_type::<u64>(world, counts, ops),
            ElementType::F16 => check_type::<f16>(world, counts, ops),
            ElementType::Bf16 => check_type::<bf16>(world, counts, ops),
            ElementType::F32 => check_type::<f32>(world, counts, ops),
            ElementType::F64 => check_type::<f64>(world, counts, ops),
        }
    }
}

#[test]
fn worlds_of_1_to_8_ranks_do_every_operation_on_every_type_by_every_algorithm() {
    for world_size in [1, 2, 3, 5, 8] {
        on_all(World::thread_worlds(world_size).expect("a world"), |mut world| {
            check_all_types(&mut world, &[0, 1, 257]);
            world.close().expect("all close");
        });
    }
}

#[test]
fn buffers_of_many_segments_are_right() {
    for world_size in [2, 3] {
        on_all(World::thread_worlds(world_size).expect("a world"), |mut world| {
            check_type::<f32>(&mut world, &[300_001], &[ReduceOp::Sum]);
            check_type::<f16>(&mut world, &[100_001], &[ReduceOp::Avg]);
        });
    }
}
