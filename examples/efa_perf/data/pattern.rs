//! Whole buffers of known elements.
//!
//! Values repeat with a prime [`PERIOD`], which no algorithm's chunk or segment is a multiple of; that makes expecting
//! and checking a matter of comparing slices.

use efarun_rt::ReduceOp;

use super::value::{Sample, Spot};

/// Elements after which values repeat.
pub(crate) const PERIOD: usize = 8191;

/// One period of values, or fewer where no more are used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern<T> {
    values: Vec<T>,
}

impl<T: Sample> Pattern<T> {
    /// What a rank puts in, for buffers of up to `len` elements. `seed` tells calls apart.
    pub(crate) fn input(op: ReduceOp, world_size: u32, rank: u32, seed: u64, len: usize) -> Self {
        let value = |index| T::input(op, Spot { world_size, seed, index }, rank);
        Pattern { values: (0..len.min(PERIOD)).map(value).collect() }
    }

    /// What the reduction over all ranks is, for buffers of up to `len` elements.
    pub(crate) fn reduced(op: ReduceOp, world_size: u32, seed: u64, len: usize) -> Self {
        let reduced = |index| {
            let spot = Spot { world_size, seed, index };
            let inputs = (0..world_size).map(|rank| T::input(op, spot, rank));
            let reduced = inputs.reduce(|left, right| T::reduced(op, left, right));
            T::finished(op, reduced.expect("a world has a rank"), world_size)
        };
        Pattern { values: (0..len.min(PERIOD)).map(reduced).collect() }
    }

    /// Writes the values over the whole of `elements`, the first of which is the `start`-th of its buffer.
    pub(crate) fn fill(&self, start: usize, elements: &mut [T]) {
        let mut rest = elements;
        for values in self.pieces(start, rest.len()) {
            let (piece, behind) = rest.split_at_mut(values.len());
            piece.copy_from_slice(values);
            rest = behind;
        }
    }

    /// How many elements are not what the pattern says; the first is the `start`-th of its buffer.
    pub(crate) fn count_wrong(&self, start: usize, elements: &[T]) -> u64 {
        let mut rest = elements;
        let mut wrong = 0;
        for values in self.pieces(start, rest.len()) {
            let (piece, behind) = rest.split_at(values.len());
            wrong += count_differences(piece, values);
            rest = behind;
        }
        wrong
    }

    /// The values from `start` on, `len` of them, in slices of the period.
    fn pieces(&self, start: usize, len: usize) -> impl Iterator<Item = &[T]> {
        let mut at = start % PERIOD;
        let mut left = len;
        std::iter::from_fn(move || {
            let piece = &self.values[at..];
            let piece = &piece[..piece.len().min(left)];
            (at, left) = (0, left - piece.len());
            (!piece.is_empty()).then_some(piece)
        })
    }
}

fn count_differences<T: PartialEq>(elements: &[T], expected: &[T]) -> u64 {
    if elements == expected {
        return 0;
    }
    elements.iter().zip(expected).filter(|(element, expected)| element != expected).count() as u64
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    const WORLDS: [u32; 8] = [1, 2, 3, 8, 17, 64, 130, 300];

    macro_rules! for_every_type {
        ($test:ident) => {
            $test::<i8>();
            $test::<u8>();
            $test::<i16>();
            $test::<u16>();
            $test::<i32>();
            $test::<u32>();
            $test::<i64>();
            $test::<u64>();
            $test::<f16>();
            $test::<bf16>();
            $test::<f32>();
            $test::<f64>();
        };
    }

    fn reduced_in<T: Sample>(order: &[u32], op: ReduceOp, world_size: u32, seed: u64) -> Vec<T> {
        let inputs = order.iter().map(|&rank| Pattern::<T>::input(op, world_size, rank, seed, LEN).values);
        let reduce = |left: Vec<T>, right: Vec<T>| {
            left.iter().zip(right).map(|(l, r)| T::reduced(op, *l, r)).collect()
        };
        inputs.reduce(reduce).unwrap()
    }

    fn finished<T: Sample>(values: Vec<T>, op: ReduceOp, world_size: u32) -> Vec<T> {
        values.into_iter().map(|value| T::finished(op, value, world_size)).collect()
    }

    fn is_exact_in_any_order<T: Sample>() {
        for op in ReduceOp::ALL {
            for world_size in WORLDS {
                let expected = Pattern::<T>::reduced(op, world_size, 7, LEN).values;
                let mut order: Vec<u32> = (0..world_size).rev().collect();
                let backwards = finished(reduced_in::<T>(&order, op, world_size, 7), op, world_size);
                assert_eq!(expected, backwards, "{op} {world_size} backwards");
                // Even ranks first, then odd ones: no two neighbours meet early.
                order.sort_by_key(|rank| rank % 2);
                let strided = finished(reduced_in::<T>(&order, op, world_size, 7), op, world_size);
                assert_eq!(expected, strided, "{op} {world_size} strided");
            }
        }
    }

    #[test]
    fn every_order_of_reduction_gives_the_same_bits() {
        for_every_type!(is_exact_in_any_order);
    }

    /// The share of elements that differ when one contribution is left out or counted twice.
    fn wrong_share<T: Sample>(op: ReduceOp, ranks: &[u32], world_size: u32) -> f64 {
        let expected = Pattern::<T>::reduced(op, world_size, 1, LEN);
        let got = finished(reduced_in::<T>(ranks, op, world_size, 1), op, world_size);
        expected.count_wrong(0, &got) as f64 / LEN as f64
    }

    fn shows_missing_and_doubled_contributions<T: Sample>() {
        for op in ReduceOp::ALL {
            let share = wrong_share::<T>(op, &[0, 1, 2], 4);
            assert!(share > 0.15, "{op} of {}: {share} without one", T::TYPE);
        }
        for op in [ReduceOp::Sum, ReduceOp::Prod] {
            let share = wrong_share::<T>(op, &[0, 1, 2, 3, 3], 4);
            assert!(share > 0.6, "{op} of {}: {share} with one twice", T::TYPE);
        }
    }

    #[test]
    fn a_missing_or_doubled_contribution_shows() {
        for_every_type!(shows_missing_and_doubled_contributions);
    }

    /// What the type makes of a reduction is what numbers without rounding make of it.
    fn is_not_lost_to_rounding<T: Sample + Into<f64>>() {
        for op in ReduceOp::ALL {
            for world_size in [2, 8, 130, 100_000] {
                let ranks: Vec<u32> = (0..world_size.min(130)).collect();
                let narrow: Vec<f64> =
                    reduced_in::<T>(&ranks, op, world_size, 3).into_iter().map(Into::into).collect();
                let inputs = |index: usize| {
                    let spot = Spot { world_size, seed: 3, index };
                    ranks.iter().map(move |rank| T::input(op, spot, *rank).into())
                };
                let wide: Vec<f64> = (0..LEN)
                    .map(|index| inputs(index).reduce(|left, right| f64::reduced(op, left, right)).unwrap())
                    .collect();
                assert_eq!(narrow, wide, "{op} of {} by {world_size} ranks", T::TYPE);
                assert!(narrow.iter().all(|value| value.is_finite()));
            }
        }
    }

    #[test]
    fn float_results_are_finite_and_not_lost_to_rounding() {
        is_not_lost_to_rounding::<f16>();
        is_not_lost_to_rounding::<bf16>();
        is_not_lost_to_rounding::<f32>();
    }

    #[test]
    fn data_of_another_call_or_another_place_shows() {
        let now = Pattern::<i32>::reduced(ReduceOp::Sum, 4, 2, PERIOD);
        let before = Pattern::<i32>::reduced(ReduceOp::Sum, 4, 1, PERIOD);
        assert!(now.count_wrong(0, &before.values) > PERIOD as u64 * 99 / 100);
        let mut whole = vec![0; 3 * PERIOD];
        now.fill(0, &mut whole);
        assert_eq!(now.count_wrong(0, &whole), 0);
        assert!(now.count_wrong(0, &whole[1024..]) > PERIOD as u64);
        assert_eq!(now.count_wrong(1024, &whole[1024..]), 0);
    }

    #[test]
    fn pieces_of_a_buffer_make_the_whole() {
        let pattern = Pattern::<i32>::input(ReduceOp::Sum, 2, 1, 0, 3 * PERIOD);
        let (mut whole, mut pieces) = (vec![0; 20_000], vec![0; 20_000]);
        pattern.fill(0, &mut whole);
        for (start, end) in [(0, 1), (1, 8192), (8192, 16_381), (16_381, 20_000)] {
            pattern.fill(start, &mut pieces[start..end]);
        }
        assert_eq!(whole, pieces);
    }

    #[test]
    fn one_wrong_element_counts_once() {
        let pattern = Pattern::<u8>::input(ReduceOp::Max, 2, 1, 0, 2 * PERIOD + 5);
        let mut elements = vec![0; 2 * PERIOD + 5];
        pattern.fill(0, &mut elements);
        elements[PERIOD + 3] ^= 1;
        assert_eq!(pattern.count_wrong(0, &elements), 1);
    }

    /// Enough for the shares, short enough for 300 ranks.
    const LEN: usize = 200;
}
