//! Inputs whose reduction is known exactly, whatever the order of reduction, and the check of what came out.
//!
//! Every element is a function of (type, reduction, world size, rank, seed, index), so that a result which used a
//! wrong rank, a wrong place, an earlier call's data or one contribution twice differs from the expected one. The
//! values are chosen so that no step of any reduction rounds: floats are sums of small multiples of 1/16 and
//! products of powers of two, integers wrap. Values repeat with a prime [`PERIOD`], which no algorithm's chunk or
//! segment is a multiple of; that makes expecting and checking a matter of comparing slices.

use efarun_rt::{Element, ReduceOp};

/// Elements after which values repeat.
pub(crate) const PERIOD: usize = 8191;

/// Elements of guard before and after the data.
pub(crate) const GUARD_LEN: usize = 4096;

/// An element type that inputs can be made of.
pub(crate) trait Sample: Element {
    /// Filled into results before a call, so that an element nobody wrote is found. No expected value equals it often.
    const POISON: Self;

    /// A rank's input: exact under `op` with those of the other ranks. `bits` are random.
    fn input(op: ReduceOp, world_size: u32, rank: u32, bits: u64) -> Self;

    /// What `op` makes of two elements, stated here a second time so that the library is not checked by itself.
    fn reduced(op: ReduceOp, left: Self, right: Self) -> Self;
}

macro_rules! integer_sample {
    ($($type:ty),*) => {$(
        impl Sample for $type {
            const POISON: Self = 0x5a;

            fn input(op: ReduceOp, _world_size: u32, _rank: u32, bits: u64) -> Self {
                match op {
                    // An even factor would push every product towards 0, where a missing one does not show.
                    ReduceOp::Prod => bits as $type | 1,
                    _ => bits as $type,
                }
            }

            fn reduced(op: ReduceOp, left: Self, right: Self) -> Self {
                match op {
                    ReduceOp::Sum => left.wrapping_add(right),
                    ReduceOp::Prod => left.wrapping_mul(right),
                    ReduceOp::Min => left.min(right),
                    ReduceOp::Max => left.max(right),
                    other => unreachable!("no input is made for {other}"),
                }
            }
        }
    )*};
}

macro_rules! float_sample {
    ($($type:ty),*) => {$(
        impl Sample for $type {
            const POISON: Self = -12345.0;

            fn input(op: ReduceOp, world_size: u32, rank: u32, bits: u64) -> Self {
                match op {
                    ReduceOp::Prod => {
                        // At most about 100 ranks bring a factor other than 1 or -1 to an element, so that no
                        // partial product leaves f32's exponents (-126 to 127).
                        let exponent = match u64::from(world_size.div_ceil(FACTORS_MAX)) {
                            0 | 1 => (bits >> 8) % 3,
                            stride if (u64::from(rank) + bits / 3).is_multiple_of(stride) => (bits >> 8) % 3,
                            _ => 1,
                        };
                        let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
                        sign * [0.5, 1.0, 2.0][exponent as usize]
                    }
                    ReduceOp::Sum => sixteenths(bits, sum_magnitude(world_size)) as $type,
                    _ => sixteenths(bits, 1 << 20) as $type,
                }
            }

            fn reduced(op: ReduceOp, left: Self, right: Self) -> Self {
                match op {
                    ReduceOp::Sum => left + right,
                    ReduceOp::Prod => left * right,
                    ReduceOp::Min => left.min(right),
                    ReduceOp::Max => left.max(right),
                    other => unreachable!("no input is made for {other}"),
                }
            }
        }
    )*};
}

integer_sample!(u8, i32, i64);
float_sample!(f32, f64);

/// One period of values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern<T> {
    values: Vec<T>,
}

impl<T: Sample> Pattern<T> {
    /// What this rank puts in. `seed` tells calls apart.
    pub(crate) fn input(op: ReduceOp, world_size: u32, rank: u32, seed: u64) -> Self {
        let values =
            (0..PERIOD).map(|index| T::input(op, world_size, rank, mixed(seed, rank, index))).collect();
        Pattern { values }
    }

    /// What every rank gets out.
    pub(crate) fn expected(op: ReduceOp, world_size: u32, seed: u64) -> Self {
        let mut values = Self::input(op, world_size, 0, seed).values;
        for rank in 1..world_size {
            for (index, value) in values.iter_mut().enumerate() {
                *value = T::reduced(op, *value, T::input(op, world_size, rank, mixed(seed, rank, index)));
            }
        }
        Pattern { values }
    }

    /// Writes the values over the whole of `elements`.
    pub(crate) fn fill(&self, elements: &mut [T]) {
        for piece in elements.chunks_mut(PERIOD) {
            piece.copy_from_slice(&self.values[..piece.len()]);
        }
    }

    /// How many elements are not what the pattern says.
    pub(crate) fn count_wrong(&self, elements: &[T]) -> u64 {
        elements.chunks(PERIOD).map(|piece| count_differences(piece, &self.values)).sum()
    }
}

/// Elements with a guard on either side, as long as the largest size needs. A smaller size uses the first elements
/// and moves the upper guard down behind them.
#[derive(Debug)]
pub(crate) struct GuardedBuffer<T> {
    memory: Vec<T>,
}

impl<T: Sample> GuardedBuffer<T> {
    /// Room for `len` elements.
    pub(crate) fn new(len: usize) -> Self {
        GuardedBuffer { memory: vec![T::POISON; len + 2 * GUARD_LEN] }
    }

    /// The first `len` elements.
    pub(crate) fn data(&self, len: usize) -> &[T] {
        &self.memory[GUARD_LEN..GUARD_LEN + len]
    }

    /// The first `len` elements.
    pub(crate) fn data_mut(&mut self, len: usize) -> &mut [T] {
        &mut self.memory[GUARD_LEN..GUARD_LEN + len]
    }

    /// All elements that fit, for timed calls that move through the buffer.
    pub(crate) fn window_mut(&mut self, start: usize, len: usize) -> &mut [T] {
        &mut self.memory[GUARD_LEN + start..GUARD_LEN + start + len]
    }

    /// See [`GuardedBuffer::window_mut`].
    pub(crate) fn window(&self, start: usize, len: usize) -> &[T] {
        &self.memory[GUARD_LEN + start..GUARD_LEN + start + len]
    }

    /// Poisons the first `len` elements and sets the guards around them.
    pub(crate) fn reset(&mut self, len: usize) {
        self.memory[..len + 2 * GUARD_LEN].fill(T::POISON);
    }

    /// How many guard elements around the first `len` elements were written to.
    pub(crate) fn count_broken_guards(&self, len: usize) -> u64 {
        let (below, above) = (&self.memory[..GUARD_LEN], &self.memory[GUARD_LEN + len..2 * GUARD_LEN + len]);
        below.iter().chain(above).filter(|element| **element != T::POISON).count() as u64
    }
}

/// The largest magnitude, in sixteenths, of which `world_size` add up within f32's 24 bits.
fn sum_magnitude(world_size: u32) -> u64 {
    let room = 24 - world_size.next_power_of_two().trailing_zeros().min(23);
    (1 << room.min(11)) - 1
}

/// A multiple of 1/16 between plus and minus `magnitude` sixteenths.
fn sixteenths(bits: u64, magnitude: u64) -> f64 {
    let step = (bits % (2 * magnitude + 1)) as f64 - magnitude as f64;
    step / 16.0
}

/// Random bits for one element: splitmix64 over what identifies it.
fn mixed(seed: u64, rank: u32, index: usize) -> u64 {
    let state = seed.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ (u64::from(rank) << 32) ^ index as u64;
    let mut bits = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn count_differences<T: PartialEq>(elements: &[T], expected: &[T]) -> u64 {
    let expected = &expected[..elements.len()];
    if elements == expected {
        return 0;
    }
    elements.iter().zip(expected).filter(|(element, expected)| element != expected).count() as u64
}

/// How many ranks bring a power of two to one element of a product.
const FACTORS_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::OPS;

    const WORLDS: [u32; 6] = [1, 2, 3, 8, 17, 130];

    fn reduced_in<T: Sample>(
        order: impl Iterator<Item = u32>,
        op: ReduceOp,
        world_size: u32,
        seed: u64,
    ) -> Vec<T> {
        let mut inputs = order.map(|rank| Pattern::<T>::input(op, world_size, rank, seed).values);
        let first = inputs.next().unwrap();
        inputs
            .fold(first, |values, next| values.iter().zip(next).map(|(l, r)| T::reduced(op, *l, r)).collect())
    }

    fn is_exact_in_any_order<T: Sample>() {
        for op in OPS {
            for world_size in WORLDS {
                let expected = Pattern::<T>::expected(op, world_size, 7).values;
                let backwards = reduced_in::<T>((0..world_size).rev(), op, world_size, 7);
                let halves = {
                    let middle = world_size / 2;
                    if middle == 0 {
                        expected.clone()
                    } else {
                        let low = reduced_in::<T>(0..middle, op, world_size, 7);
                        let high = reduced_in::<T>((middle..world_size).rev(), op, world_size, 7);
                        high.iter().zip(low).map(|(l, r)| T::reduced(op, *l, r)).collect()
                    }
                };
                assert_eq!(expected, backwards, "{op} {world_size} backwards");
                assert_eq!(expected, halves, "{op} {world_size} in halves");
            }
        }
    }

    #[test]
    fn every_order_of_reduction_gives_the_same_bits() {
        is_exact_in_any_order::<u8>();
        is_exact_in_any_order::<i32>();
        is_exact_in_any_order::<i64>();
        is_exact_in_any_order::<f32>();
        is_exact_in_any_order::<f64>();
    }

    #[test]
    fn float_results_are_finite_and_not_lost_to_rounding() {
        for op in OPS {
            for world_size in [2, 8, 130, 100_000] {
                let ranks = 0..world_size.min(130);
                let narrow = reduced_in::<f32>(ranks.clone(), op, world_size, 3);
                let wide = reduced_in::<f64>(ranks, op, world_size, 3);
                let widened: Vec<f64> = narrow.iter().map(|v| f64::from(*v)).collect();
                assert_eq!(widened, wide, "{op} {world_size}");
                assert!(narrow.iter().all(|v| v.is_normal() || *v == 0.0), "{op} {world_size}");
            }
        }
    }

    /// The share of elements that differ when one contribution is left out or counted twice.
    fn wrong_share(op: ReduceOp, ranks: &[u32], world_size: u32) -> f64 {
        let expected = Pattern::<f32>::expected(op, world_size, 1);
        let got = reduced_in::<f32>(ranks.iter().copied(), op, world_size, 1);
        expected.count_wrong(&got) as f64 / PERIOD as f64
    }

    #[test]
    fn a_missing_or_doubled_contribution_shows() {
        assert!(wrong_share(ReduceOp::Sum, &[0, 1, 2], 4) > 0.99);
        assert!(wrong_share(ReduceOp::Sum, &[0, 1, 2, 3, 3], 4) > 0.99);
        assert!(wrong_share(ReduceOp::Prod, &[0, 1, 2], 4) > 0.7);
        assert!(wrong_share(ReduceOp::Min, &[0, 1, 2], 4) > 0.2);
        assert!(wrong_share(ReduceOp::Max, &[0, 1, 2], 4) > 0.2);
    }

    #[test]
    fn data_of_another_call_or_another_place_shows() {
        let now = Pattern::<i32>::expected(ReduceOp::Sum, 4, 2);
        let before = Pattern::<i32>::expected(ReduceOp::Sum, 4, 1);
        assert!(now.count_wrong(&before.values) > PERIOD as u64 * 99 / 100);
        let mut shifted = vec![0; 3 * PERIOD];
        now.fill(&mut shifted);
        assert_eq!(now.count_wrong(&shifted), 0);
        assert!(now.count_wrong(&shifted[1024..]) > PERIOD as u64);
    }

    #[test]
    fn one_wrong_element_counts_once() {
        let pattern = Pattern::<u8>::input(ReduceOp::Max, 2, 1, 0);
        let mut elements = vec![0; 2 * PERIOD + 5];
        pattern.fill(&mut elements);
        elements[PERIOD + 3] ^= 1;
        assert_eq!(pattern.count_wrong(&elements), 1);
    }

    #[test]
    fn a_write_beside_the_data_breaks_a_guard() {
        let mut buffer = GuardedBuffer::<f32>::new(100);
        buffer.reset(10);
        buffer.data_mut(10).fill(1.0);
        assert_eq!(buffer.count_broken_guards(10), 0);
        buffer.data_mut(11)[10] = 1.0;
        buffer.memory[GUARD_LEN - 1] = 1.0;
        assert_eq!(buffer.count_broken_guards(10), 2);
    }
}
