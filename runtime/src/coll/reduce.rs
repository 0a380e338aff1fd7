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
//!
//! # Speed
//! The loops are compiled twice, for any processor and for one with AVX2 and F16C, and the processor is asked which.
//!
//! # Safety
//!
//! A function that is compiled for features is called where the processor was found to have them.
#![allow(unsafe_code)]

mod halves;
#[cfg(test)]
mod tests;

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
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the processor has both.
        return unsafe { reduce_with_avx2(element, operation, out, left, right) };
    }
    reduce(element, operation, out, left, right);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn reduce_with_avx2(
    element: ElementType,
    operation: Operation,
    out: Target<'_>,
    left: Source<'_>,
    right: Source<'_>,
) {
    reduce(element, operation, out, left, right);
}

// Inlined, as all below it, so that the loops are compiled for the features of the caller.
#[inline(always)]
fn reduce(element: ElementType, operation: Operation, out: Target<'_>, left: Source<'_>, right: Source<'_>) {
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

/// A copy of so many elements stays in the first-level cache.
const SELECT_LEN: usize = 512;

/// What is done to two elements.
#[derive(Debug, Clone, Copy)]
struct Operation {
    op: ReduceOp,
    divisor: Option<u32>,
}

#[inline(always)]
fn reduce_typed<T: Arithmetic>(operation: Operation, out: Target<'_>, left: Source<'_>, right: Source<'_>) {
    let (Target::Elements(out) | Target::Wide(out)) = out;
    let out = bytemuck::cast_slice_mut::<u8, T>(out);
    let (left, right) = (operand::<T>(left, out.len()), operand::<T>(right, out.len()));
    match (operation.op, operation.divisor) {
        (ReduceOp::Prod, _) => apply(out, left, right, T::prod),
        (ReduceOp::Min, _) => select(out, left, right, T::min),
        (ReduceOp::Max, _) => select(out, left, right, T::max),
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

/// As [`apply`], for an operation that gives one of its operands. Where that can be the destination's own element the
/// compiler would store the others only, one by one or by a mask, which is several times slower than to store all; so the
/// destination is read from a copy.
#[inline(always)]
fn select<T: Arithmetic>(out: &mut [T], left: Option<&[T]>, right: Option<&[T]>, op: impl Fn(T, T) -> T) {
    let mut copy = [T::zeroed(); SELECT_LEN];
    let mut start = 0;
    for out in out.chunks_mut(SELECT_LEN) {
        let range = start..start + out.len();
        start = range.end;
        let copy = &mut copy[..out.len()];
        copy.copy_from_slice(out);
        let left = left.map_or(&*copy, |left| &left[range.clone()]);
        let right = right.map_or(&*copy, |right| &right[range]);
        apply(out, Some(left), Some(right), &op);
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
    ($($type:ty),*) => {$(
        impl Arithmetic for $type {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn prod(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                Ord::min(self, other)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                Ord::max(self, other)
            }
            #[inline(always)]
            fn over(self, divisor: u32) -> Self {
                // Processors divide vectors of floats only. Where the dividend has so many bits less than a float's, a
                // quotient that is no integer is further from the next one than it is rounded by; so cutting it off gives
                // the integer division, and none is further from zero than the dividend, so it fits.
                match size_of::<Self>() {
                    1 | 2 => (self as f32 / divisor as f32) as i32 as Self,
                    4 if Self::MIN == 0 => (self as f64 / f64::from(divisor)) as u32 as Self,
                    4 => (self as f64 / f64::from(divisor)) as i32 as Self,
                    _ => self / divisor as Self,
                }
            }
        }
    )*};
}

macro_rules! float {
    ($($type:ty),*) => {$(
        impl Arithmetic for $type {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn prod(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                if (self < other) | self.is_nan() { self } else { other }
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                if (self > other) | self.is_nan() { self } else { other }
            }
            #[inline(always)]
            fn over(self, divisor: u32) -> Self {
                self / divisor as $type
            }
        }
    )*};
}

integer!(i8, u8, i16, u16, i32, u32, i64, u64);
float!(f32, f64);
