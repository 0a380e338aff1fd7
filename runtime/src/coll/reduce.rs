//! Reduction of elements in memory.
//!
//! Given destination and operands as bytes, with the element type and the operation as data, it writes
//! `left[i] op right[i]`. Type and operation are looked at once per call; the loops behind are plain, so that the
//! compiler vectorises each.
//!
//! Integers wrap. `Min` and `Max` of floats are NaN if an operand is, and the right operand where the two are equal,
//! so that the sign of a zero depends on the order of the operands and on nothing else.

use crate::element::{ElementType, ReduceOp};

/// The operands of a reduction. The destination takes the place of the one that is not given.
#[derive(Debug, Clone, Copy)]
pub enum Operands<'a> {
    /// `out = left op right`.
    Both(&'a [u8], &'a [u8]),
    /// `out = left op out`.
    Left(&'a [u8]),
    /// `out = out op right`.
    Right(&'a [u8]),
}

/// Reduces elements of type `element` into `out`.
///
/// # Panics
///
/// When the slices differ in length, or one of them is not whole, aligned elements.
pub fn reduce_into(element: ElementType, op: ReduceOp, out: &mut [u8], operands: Operands<'_>) {
    match element {
        ElementType::U8 => reduce_typed::<u8>(op, out, operands),
        ElementType::I32 => reduce_typed::<i32>(op, out, operands),
        ElementType::I64 => reduce_typed::<i64>(op, out, operands),
        ElementType::F32 => reduce_typed::<f32>(op, out, operands),
        ElementType::F64 => reduce_typed::<f64>(op, out, operands),
    }
}

fn reduce_typed<T: Arithmetic>(op: ReduceOp, out: &mut [u8], operands: Operands<'_>) {
    let out = bytemuck::cast_slice_mut::<u8, T>(out);
    match op {
        ReduceOp::Sum => apply(out, operands, T::sum),
        ReduceOp::Prod => apply(out, operands, T::prod),
        ReduceOp::Min => apply(out, operands, T::min),
        ReduceOp::Max => apply(out, operands, T::max),
    }
}

// Inlined, so that each operation has a loop of its own.
#[inline(always)]
fn apply<T: Arithmetic>(out: &mut [T], operands: Operands<'_>, op: impl Fn(T, T) -> T) {
    match operands {
        Operands::Both(left, right) => {
            let (left, right) = (operand::<T>(left, out.len()), operand::<T>(right, out.len()));
            for ((out, &left), &right) in out.iter_mut().zip(left).zip(right) {
                *out = op(left, right);
            }
        }
        Operands::Left(left) => {
            let left = operand::<T>(left, out.len());
            for (out, &left) in out.iter_mut().zip(left) {
                *out = op(left, *out);
            }
        }
        Operands::Right(right) => {
            let right = operand::<T>(right, out.len());
            for (out, &right) in out.iter_mut().zip(right) {
                *out = op(*out, right);
            }
        }
    }
}

fn operand<T: Arithmetic>(bytes: &[u8], len: usize) -> &[T] {
    let elements = bytemuck::cast_slice(bytes);
    assert_eq!(elements.len(), len, "an operand has as many elements as the destination");
    elements
}

/// The operations on one type.
trait Arithmetic: bytemuck::Pod {
    fn sum(self, other: Self) -> Self;
    fn prod(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Arithmetic for $type {
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            fn prod(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            fn min(self, other: Self) -> Self {
                Ord::min(self, other)
            }
            fn max(self, other: Self) -> Self {
                Ord::max(self, other)
            }
        }
    )*};
}

macro_rules! float {
    ($($type:ty),*) => {$(
        impl Arithmetic for $type {
            fn sum(self, other: Self) -> Self {
                self + other
            }
            fn prod(self, other: Self) -> Self {
                self * other
            }
            // Not std's, which drop a NaN.
            fn min(self, other: Self) -> Self {
                if self < other || self.is_nan() { self } else { other }
            }
            fn max(self, other: Self) -> Self {
                if self > other || self.is_nan() { self } else { other }
            }
        }
    )*};
}

integer!(u8, i32, i64);
float!(f32, f64);

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::element::Element;

    /// Reduces in all three ways, which must agree, and gives the result.
    fn reduce<T: Element + bytemuck::Pod>(op: ReduceOp, left: &[T], right: &[T]) -> Vec<T> {
        let (l, r) = (bytemuck::cast_slice(left), bytemuck::cast_slice(right));
        let mut both = vec![T::zeroed(); left.len()];
        reduce_into(T::TYPE, op, bytemuck::cast_slice_mut(&mut both), Operands::Both(l, r));
        let mut into_left = left.to_vec();
        reduce_into(T::TYPE, op, bytemuck::cast_slice_mut(&mut into_left), Operands::Right(r));
        let mut into_right = right.to_vec();
        reduce_into(T::TYPE, op, bytemuck::cast_slice_mut(&mut into_right), Operands::Left(l));
        let bits = |elements: &[T]| bytemuck::cast_slice::<T, u8>(elements).to_vec();
        assert_eq!(bits(&both), bits(&into_left));
        assert_eq!(bits(&both), bits(&into_right));
        both
    }

    fn all_ops<T: Element + bytemuck::Pod + Debug>(left: &[T], right: &[T], expected: [&[T]; 4]) {
        for (op, expected) in ReduceOp::ALL.into_iter().zip(expected) {
            assert_eq!(reduce(op, left, right), expected, "{op} of {}", T::TYPE);
        }
    }

    #[test]
    fn integers_wrap() {
        all_ops::<u8>(&[200, 3], &[100, 5], [&[44, 8], &[32, 15], &[100, 3], &[200, 5]]);
        let (big, small) = (i32::MAX, i32::MIN);
        all_ops(&[big, -2], &[1, 7], [&[small, 5], &[big, -14], &[1, -2], &[big, 7]]);
        let (big, small) = (i64::MAX, i64::MIN);
        all_ops(&[big, -2], &[1, 7], [&[small, 5], &[big, -14], &[1, -2], &[big, 7]]);
    }

    #[test]
    fn floats_add_multiply_and_compare() {
        all_ops::<f32>(&[1.5, -2.0], &[0.5, 4.0], [&[2.0, 2.0], &[0.75, -8.0], &[0.5, -2.0], &[1.5, 4.0]]);
        all_ops::<f64>(&[1.5, -2.0], &[0.5, 4.0], [&[2.0, 2.0], &[0.75, -8.0], &[0.5, -2.0], &[1.5, 4.0]]);
    }

    #[test]
    fn nan_is_kept_from_either_side() {
        for op in ReduceOp::ALL {
            let result = reduce(op, &[f32::NAN, 1.0, f32::NAN], &[1.0, f32::NAN, f32::NAN]);
            assert!(result.iter().all(|element| element.is_nan()), "{op}");
            let result = reduce(op, &[f64::NAN, 1.0], &[1.0, f64::NAN]);
            assert!(result.iter().all(|element| element.is_nan()), "{op}");
        }
    }

    #[test]
    fn every_length_is_reduced_to_its_end() {
        for len in 0..70 {
            let left: Vec<f64> = (0..len).map(f64::from).collect();
            let right = vec![0.5; left.len()];
            let expected: Vec<f64> = left.iter().map(|element| element + 0.5).collect();
            assert_eq!(reduce(ReduceOp::Sum, &left, &right), expected);
        }
    }

    #[test]
    #[should_panic(expected = "as many elements")]
    fn operands_of_another_length_panic() {
        reduce_into(ElementType::U8, ReduceOp::Sum, &mut [0; 3], Operands::Right(&[0; 2]));
    }
}
