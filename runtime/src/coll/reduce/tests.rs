//! Every type and operation, in every form that the executor uses.

use std::fmt::Debug;

use half::{bf16, f16};

use super::*;
use crate::element::Element;

/// Reduces in all three ways, which must agree, and gives the result.
fn reduced<T: Element + bytemuck::Pod>(
    op: ReduceOp,
    divisor: Option<u32>,
    left: &[T],
    right: &[T],
) -> Vec<T> {
    let (l, r) = (bytemuck::cast_slice(left), bytemuck::cast_slice(right));
    let into = |mut out: Vec<T>, left, right| {
        let target = Target::Elements(bytemuck::cast_slice_mut(&mut out));
        reduce_into(T::TYPE, op, divisor, target, left, right);
        out
    };
    let both = into(vec![T::zeroed(); left.len()], Source::Elements(l), Source::Elements(r));
    let into_left = into(left.to_vec(), Source::Destination, Source::Elements(r));
    let into_right = into(right.to_vec(), Source::Elements(l), Source::Destination);
    let bits = |elements: &[T]| bytemuck::cast_slice::<T, u8>(elements).to_vec();
    assert_eq!(bits(&both), bits(&into_left));
    assert_eq!(bits(&both), bits(&into_right));
    // What is compiled for any processor gives the same bits.
    let mut plain = vec![T::zeroed(); left.len()];
    let target = Target::Elements(bytemuck::cast_slice_mut(&mut plain));
    reduce(T::TYPE, Operation { op, divisor }, target, Source::Elements(l), Source::Elements(r));
    assert_eq!(bits(&both), bits(&plain));
    both
}

fn all_ops<T: Element + bytemuck::Pod + Debug>(left: &[T], right: &[T], expected: [&[T]; 4]) {
    let ops = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max];
    for (op, expected) in ops.into_iter().zip(expected) {
        assert_eq!(reduced(op, None, left, right), expected, "{op} of {}", T::TYPE);
    }
    assert_eq!(reduced(ReduceOp::Avg, None, left, right), expected[0], "an average that is not complete");
}

#[test]
fn integers_wrap() {
    all_ops::<u8>(&[200, 3], &[100, 5], [&[44, 8], &[32, 15], &[100, 3], &[200, 5]]);
    all_ops::<i8>(&[100, -3], &[100, 5], [&[-56, 2], &[16, -15], &[100, -3], &[100, 5]]);
    all_ops::<u16>(&[65535, 3], &[2, 5], [&[1, 8], &[65534, 15], &[2, 3], &[65535, 5]]);
    all_ops::<i16>(&[i16::MAX, -2], &[1, 7], [&[i16::MIN, 5], &[i16::MAX, -14], &[1, -2], &[i16::MAX, 7]]);
    all_ops::<i32>(&[i32::MAX, -2], &[1, 7], [&[i32::MIN, 5], &[i32::MAX, -14], &[1, -2], &[i32::MAX, 7]]);
    all_ops::<u32>(&[u32::MAX, 2], &[1, 7], [&[0, 9], &[u32::MAX, 14], &[1, 2], &[u32::MAX, 7]]);
    all_ops::<i64>(&[i64::MAX, -2], &[1, 7], [&[i64::MIN, 5], &[i64::MAX, -14], &[1, -2], &[i64::MAX, 7]]);
    all_ops::<u64>(&[u64::MAX, 2], &[1, 7], [&[0, 9], &[u64::MAX, 14], &[1, 2], &[u64::MAX, 7]]);
}

/// The quotients of all these, each by each divisor, are those of integer division.
fn divides<T: Element + bytemuck::Pod + Debug + TryFrom<i64> + Into<i64>>(
    values: impl Iterator<Item = i64> + Clone,
) {
    let as_t = |value: i64| T::try_from(value).unwrap_or_else(|_| panic!("{value} is of the type"));
    let left: Vec<T> = values.clone().map(as_t).collect();
    let right = vec![T::zeroed(); left.len()];
    for divisor in (1..40).chain([127, 128, 129, 255, 256, 1000, 32767, 32768, 65535, 65537, 1 << 25]) {
        let found = reduced(ReduceOp::Avg, Some(divisor), &left, &right);
        let wrong =
            values.clone().zip(found).find(|(value, found)| value / i64::from(divisor) != (*found).into());
        assert_eq!(wrong, None, "{} by {divisor}", T::TYPE);
    }
}

#[test]
fn averages_of_integers_are_cut_off_towards_zero() {
    divides::<i8>(i64::from(i8::MIN)..=i64::from(i8::MAX));
    divides::<u8>(0..=i64::from(u8::MAX));
    divides::<i16>(i64::from(i16::MIN)..=i64::from(i16::MAX));
    divides::<u16>(0..=i64::from(u16::MAX));
    // Around the multiples, where a quotient is next to an integer.
    let near = |most: i64| {
        let multiples =
            [1, 2, 3, 7, 39, 1000, 65537].into_iter().flat_map(move |part| [most / part, most / part / 2]);
        multiples.flat_map(|multiple| multiple - 40..=multiple)
    };
    divides::<u32>(near(i64::from(u32::MAX)).chain(0..1000));
    divides::<i32>(near(i64::from(i32::MAX)).flat_map(|value| [value, -value]).chain([i64::from(i32::MIN)]));
    divides::<i64>(near(i64::MAX).flat_map(|value| [value, -value]));
}

#[test]
fn floats_add_multiply_and_compare() {
    all_ops::<f32>(&[1.5, -2.0], &[0.5, 4.0], [&[2.0, 2.0], &[0.75, -8.0], &[0.5, -2.0], &[1.5, 4.0]]);
    all_ops::<f64>(&[1.5, -2.0], &[0.5, 4.0], [&[2.0, 2.0], &[0.75, -8.0], &[0.5, -2.0], &[1.5, 4.0]]);
    let h = f16::from_f32;
    let expected: [&[f16]; 4] =
        [&[h(2.0), h(2.0)], &[h(0.75), h(-8.0)], &[h(0.5), h(-2.0)], &[h(1.5), h(4.0)]];
    all_ops(&[h(1.5), h(-2.0)], &[h(0.5), h(4.0)], expected);
    let b = bf16::from_f32;
    let expected: [&[bf16]; 4] =
        [&[b(2.0), b(2.0)], &[b(0.75), b(-8.0)], &[b(0.5), b(-2.0)], &[b(1.5), b(4.0)]];
    all_ops(&[b(1.5), b(-2.0)], &[b(0.5), b(4.0)], expected);
}

#[test]
fn an_average_is_divided_where_it_is_complete_and_rounded_toward_zero() {
    let three = Some(3);
    assert_eq!(reduced::<i8>(ReduceOp::Avg, three, &[-5, 5, 127], &[0, 0, 1]), [-1, 1, -42]);
    assert_eq!(reduced::<u8>(ReduceOp::Avg, Some(1000), &[250], &[5]), [0]);
    assert_eq!(reduced::<i64>(ReduceOp::Avg, Some(u32::MAX), &[i64::MIN], &[0]), [-2_147_483_648]);
    assert_eq!(reduced::<u64>(ReduceOp::Avg, Some(2), &[u64::MAX], &[0]), [u64::MAX / 2]);
    assert_eq!(reduced::<f32>(ReduceOp::Avg, three, &[1.0], &[0.0]), [1.0 / 3.0]);
    // The sum does not fit, the average does.
    let big = f16::from_f32(60000.0);
    assert_eq!(reduced(ReduceOp::Avg, Some(2), &[big], &[big]), [big]);
}

#[test]
fn quotients_are_those_of_wide_integers() {
    for ranks in [1, 2, 3, 7, 10, 255, 256, 1000, 65_535, 65_537, 1 << 24, u32::MAX] {
        let small: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        let expected: Vec<i16> =
            small.iter().map(|&sum| (i64::from(sum) / i64::from(ranks)) as i16).collect();
        assert_eq!(reduced(ReduceOp::Avg, Some(ranks), &small, &vec![0; small.len()]), expected, "{ranks}");
        let sums = (0..=u32::MAX).step_by(9973).chain([ranks - 1, ranks, u32::MAX]);
        let sums: Vec<u32> = sums
            .flat_map(|sum| [sum, sum / ranks * ranks, (sum / ranks * ranks).saturating_sub(1)])
            .collect();
        let expected: Vec<u32> = sums.iter().map(|&sum| sum / ranks).collect();
        assert_eq!(reduced(ReduceOp::Avg, Some(ranks), &sums, &vec![0; sums.len()]), expected, "{ranks}");
        let signed: Vec<i32> = sums.iter().map(|&sum| sum as i32).collect();
        let expected: Vec<i32> =
            signed.iter().map(|&sum| (i64::from(sum) / i64::from(ranks)) as i32).collect();
        assert_eq!(reduced(ReduceOp::Avg, Some(ranks), &signed, &vec![0; signed.len()]), expected, "{ranks}");
    }
}

#[test]
fn nan_is_kept_from_either_side() {
    for op in ReduceOp::ALL {
        let result = reduced(op, None, &[f32::NAN, 1.0, f32::NAN], &[1.0, f32::NAN, f32::NAN]);
        assert!(result.iter().all(|element| element.is_nan()), "{op}");
        let result = reduced(op, None, &[f64::NAN, 1.0], &[1.0, f64::NAN]);
        assert!(result.iter().all(|element| element.is_nan()), "{op}");
        let (nan, one) = (f16::NAN, f16::ONE);
        assert!(reduced(op, None, &[nan, one], &[one, nan]).iter().all(|element| element.is_nan()), "{op}");
        let (nan, one) = (bf16::NAN, bf16::ONE);
        assert!(reduced(op, None, &[nan, one], &[one, nan]).iter().all(|element| element.is_nan()), "{op}");
    }
}

#[test]
fn every_length_is_reduced_to_its_end() {
    for len in (0..70).chain([511, 512, 513, 1500]) {
        let left: Vec<f64> = (0..len).map(f64::from).collect();
        let right = vec![0.5; left.len()];
        let expected: Vec<f64> = left.iter().map(|element| element + 0.5).collect();
        assert_eq!(reduced(ReduceOp::Sum, None, &left, &right), expected);
        let small = |index: u32| (index % 100) as f32;
        let left: Vec<f16> = (0..len as u32).map(|index| f16::from_f32(small(index))).collect();
        let right = vec![f16::from_f32(0.5); left.len()];
        let expected: Vec<f16> = (0..len as u32).map(|index| f16::from_f32(small(index) + 0.5)).collect();
        assert_eq!(reduced(ReduceOp::Sum, None, &left, &right), expected);
    }
}

/// Every value of a half, which reduced with nothing must come back.
fn all_values_survive<H: Element + bytemuck::Pod>(zero: H, is_nan: impl Fn(H) -> bool) {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let values: &[H] = bytemuck::cast_slice(&bits);
    let zeros = vec![zero; values.len()];
    let sums = reduced(ReduceOp::Max, None, &zeros, values);
    for (sum, value) in sums.into_iter().zip(values) {
        // Maximum with zero: the negative ones are zero.
        let bits: u16 = bytemuck::cast(*value);
        let found: u16 = bytemuck::cast(sum);
        let expected = if bits >> 15 == 0 || is_nan(*value) || bits << 1 == 0 { bits } else { 0 };
        assert!(found == expected || is_nan(*value) && is_nan(sum), "{bits:#x} gave {found:#x}");
    }
}

#[test]
fn every_half_survives_widening_and_rounding() {
    all_values_survive(f16::ZERO, f16::is_nan);
    all_values_survive(bf16::ZERO, bf16::is_nan);
}

#[test]
fn halves_are_rounded_to_nearest_even() {
    let sum = |left: f32, right: f32| {
        let (left, right) = ([bf16::from_f32(left)], [bf16::from_f32(right)]);
        reduced(ReduceOp::Sum, None, &left, &right)[0].to_f32()
    };
    assert_eq!(sum(256.0, 1.0), 256.0);
    assert_eq!(sum(258.0, 1.0), 260.0);
    assert_eq!(sum(256.0, 1.5), 258.0);
    assert_eq!(sum(3.0e38, 3.0e38), f32::INFINITY);
    // As the crate rounds, which is another piece of code.
    for bits in (0..=u32::MAX).step_by(65_521) {
        let wide = f32::from_bits(bits);
        let mut rounded = [bf16::ZERO];
        let source = Source::Wide(bytemuck::bytes_of(&wide));
        copy_into(ElementType::Bf16, Target::Elements(bytemuck::cast_slice_mut(&mut rounded)), source);
        let expected = bf16::from_f32(wide);
        let mut short = [f16::ZERO];
        let target = Target::Elements(bytemuck::cast_slice_mut(&mut short));
        copy_into(ElementType::F16, target, Source::Wide(bytemuck::bytes_of(&wide)));
        // Its own conversion in software, which asks no processor.
        let short_expected = f16::from_f32_const(wide);
        assert!(
            short[0].to_bits() == short_expected.to_bits() || wide.is_nan() && short[0].is_nan(),
            "{bits:#x}"
        );
        assert!(
            rounded[0].to_bits() == expected.to_bits() || wide.is_nan() && rounded[0].is_nan(),
            "{bits:#x}"
        );
    }
}

#[test]
fn an_accumulator_holds_halves_unrounded() {
    let (big, one) = ([bf16::from_f32(256.0)], [bf16::ONE]);
    let (big, one) = (bytemuck::cast_slice(&big), bytemuck::cast_slice(&one));
    let mut wide = [0f32];
    let target = Target::Wide(bytemuck::cast_slice_mut(&mut wide));
    reduce_into(ElementType::Bf16, ReduceOp::Sum, None, target, Source::Elements(big), Source::Elements(one));
    assert_eq!(wide, [257.0]);
    let mut half = [bf16::ZERO];
    let target = Target::Elements(bytemuck::cast_slice_mut(&mut half));
    let wide = Source::Wide(bytemuck::cast_slice(&wide));
    reduce_into(ElementType::Bf16, ReduceOp::Sum, None, target, wide, Source::Elements(one));
    assert_eq!(half[0].to_f32(), 258.0);
    let mut back = [0f32];
    let target = Target::Wide(bytemuck::cast_slice_mut(&mut back));
    copy_into(ElementType::Bf16, target, Source::Elements(bytemuck::cast_slice(&half)));
    assert_eq!(back, [258.0]);
}

#[test]
#[should_panic(expected = "as many elements")]
fn operands_of_another_length_panic() {
    let (mut out, other) = ([0; 3], [0; 2]);
    let right = Source::Elements(&other);
    reduce_into(ElementType::U8, ReduceOp::Sum, None, Target::Elements(&mut out), Source::Destination, right);
}

#[test]
#[should_panic(expected = "as many elements")]
fn halves_of_another_length_panic() {
    let (mut out, other) = ([0u16; 3], [0u16; 2]);
    let right = Source::Elements(bytemuck::cast_slice(&other));
    let out = Target::Elements(bytemuck::cast_slice_mut(&mut out));
    reduce_into(ElementType::Bf16, ReduceOp::Sum, None, out, Source::Destination, right);
}
