//! Reduction of elements in memory.
//!
//! Given destination and operands as bytes, with the element type and the operation as data, it writes
//! `left[i] op right[i]`. Type and operation are looked at once per call; the loops behind are plain, so that the
//! compiler vectorises each.
//!
//! Integers wrap. `Min` and `Max` of floats are NaN if an operand is, and the right operand where the two are equal,
//! so that the sign of a zero depends on the order of the operands and on nothing else. An average is a sum, and with
//! a divisor a sum divided by it.
//!
//! Halves are widened to `f32`, a block at a time, reduced there, and rounded to nearest even when they are written as
//! elements. An accumulator holds them unrounded ([`Source::Wide`], [`Target::Wide`]); of all other types it holds
//! elements.

mod halves;

use half::{bf16, f16};

use crate::element::{ElementType, ReduceOp};

/// What a step reads.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Elements.
    Elements(&'a [u8]),
    /// What an accumulator holds of as many elements.
    Wide(&'a [u8]),
    /// What the destination holds.
    Destination,
}

/// What a step writes.
#[derive(Debug)]
pub enum Target<'a> {
    /// Elements.
    Elements(&'a mut [u8]),
    /// What an accumulator holds of as many elements.
    Wide(&'a mut [u8]),
}

/// Reduces elements of type `element` into `out`; the divisor is that of an average which becomes complete.
///
/// # Panics
///
/// When operands and destination differ in length, or one of them is not whole, aligned elements.
pub fn reduce_into(
    element: ElementType,
    op: ReduceOp,
    divisor: Option<u32>,
    out: Target<'_>,
    left: Source<'_>,
    right: Source<'_>,
) {
    let operation = Operation { op, divisor };
    match element {
        ElementType::I8 => reduce_typed::<i8>(operation, out, left, right),
        ElementType::U8 => reduce_typed::<u8>(operation, out, left, right),
        ElementType::I16 => reduce_typed::<i16>(operation, out, left, right),
        ElementType::U16 => reduce_typed::<u16>(operation, out, left, right),
        ElementType::I32 => reduce_typed::<i32>(operation, out, left, right),
        ElementType::U32 => reduce_typed::<u32>(operation, out, left, right),
        ElementType::I64 => reduce_typed::<i64>(operation, out, left, right),
        ElementType::U64 => reduce_typed::<u64>(operation, out, left, right),
        ElementType::F16 => halves::reduce::<f16>(operation, out, left, right),
        ElementType::Bf16 => halves::reduce::<bf16>(operation, out, left, right),
        ElementType::F32 => reduce_typed::<f32>(operation, out, left, right),
        ElementType::F64 => reduce_typed::<f64>(operation, out, left, right),
    }
}

/// Copies elements of type `element`, widened or rounded where source and destination ask for it.
///
/// # Panics
///
/// As [`reduce_into`].
pub fn copy_into(element: ElementType, out: Target<'_>, source: Source<'_>) {
    match (element, out, source) {
        (_, _, Source::Destination) => {}
        (_, Target::Elements(out), Source::Elements(source))
        | (_, Target::Wide(out), Source::Wide(source)) => {
            out.copy_from_slice(source);
        }
        (ElementType::F16, out, source) => halves::convert::<f16>(out, source),
        (ElementType::Bf16, out, source) => halves::convert::<bf16>(out, source),
        (_, Target::Elements(out) | Target::Wide(out), Source::Elements(source) | Source::Wide(source)) => {
            out.copy_from_slice(source);
        }
    }
}

/// What is done to two elements.
#[derive(Debug, Clone, Copy)]
struct Operation {
    op: ReduceOp,
    divisor: Option<u32>,
}

fn reduce_typed<T: Arithmetic>(operation: Operation, out: Target<'_>, left: Source<'_>, right: Source<'_>) {
    let (Target::Elements(out) | Target::Wide(out)) = out;
    let out = bytemuck::cast_slice_mut::<u8, T>(out);
    let (left, right) = (operand::<T>(left, out.len()), operand::<T>(right, out.len()));
    match (operation.op, operation.divisor) {
        (ReduceOp::Prod, _) => apply(out, left, right, T::prod),
        (ReduceOp::Min, _) => apply(out, left, right, T::min),
        (ReduceOp::Max, _) => apply(out, left, right, T::max),
        (ReduceOp::Avg, Some(divisor)) => apply(out, left, right, |a, b| T::sum(a, b).over(divisor)),
        (ReduceOp::Sum | ReduceOp::Avg, _) => apply(out, left, right, T::sum),
    }
}

// Inlined, so that each operation has a loop of its own.
#[inline(always)]
fn apply<T: Copy>(out: &mut [T], left: Option<&[T]>, right: Option<&[T]>, op: impl Fn(T, T) -> T) {
    match (left, right) {
        (Some(left), Some(right)) => {
            for ((out, &left), &right) in out.iter_mut().zip(left).zip(right) {
                *out = op(left, right);
            }
        }
        (Some(left), None) => {
            for (out, &left) in out.iter_mut().zip(left) {
                *out = op(left, *out);
            }
        }
        (None, Some(right)) => {
            for (out, &right) in out.iter_mut().zip(right) {
                *out = op(*out, right);
            }
        }
        (None, None) => {
            for out in out {
                *out = op(*out, *out);
            }
        }
    }
}

/// An operand as elements; none is the destination.
fn operand<T: bytemuck::Pod>(source: Source<'_>, len: usize) -> Option<&[T]> {
    let (Source::Elements(bytes) | Source::Wide(bytes)) = source else { return None };
    let elements = bytemuck::cast_slice(bytes);
    assert_eq!(elements.len(), len, "an operand has as many elements as the destination");
    Some(elements)
}

/// The operations on one type.
trait Arithmetic: bytemuck::Pod {
    fn sum(self, other: Self) -> Self;
    fn prod(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn over(self, divisor: u32) -> Self;
}

macro_rules! integer {
    ($($type:ty as $wide:ty),*) => {$(
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
            fn over(self, divisor: u32) -> Self {
                // The quotient is no further from zero than the dividend, so it fits.
                (<$wide>::from(self) / <$wide>::from(divisor)) as $type
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
            fn min(self, other: Self) -> Self {
                if self < other || self.is_nan() { self } else { other }
            }
            fn max(self, other: Self) -> Self {
                if self > other || self.is_nan() { self } else { other }
            }
            fn over(self, divisor: u32) -> Self {
                self / divisor as $type
            }
        }
    )*};
}

integer!(i8 as i64, u8 as u32, i16 as i64, u16 as u32, i32 as i64, u32 as u32, i64 as i64, u64 as u64);
float!(f32, f64);
