//! Halves: widened, reduced as `f32`, rounded.
//!
//! A block at a time goes through two small arrays, so that conversion and arithmetic are loops over whole vectors.

#[cfg(target_arch = "x86_64")]
mod f16c;

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Arithmetic, Operation, Source, Target, apply, select};
use crate::element::ReduceOp;

/// A type of 16 bits that is computed in 32.
pub(super) trait Half: bytemuck::Pod {
    fn widen(from: &[Self], into: &mut [f32]);
    fn round(from: &[f32], into: &mut [Self]);
}

impl Half for f16 {
    fn widen(from: &[Self], into: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has F16C, and with it AVX.
            return unsafe { f16c::widen(from, into) };
        }
        from.convert_to_f32_slice(into);
    }

    fn round(from: &[f32], into: &mut [Self]) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("f16c") {
            // SAFETY: the processor has F16C, and with it AVX.
            return unsafe { f16c::round(from, into) };
        }
        into.convert_from_f32_slice(from);
    }
}

impl Half for bf16 {
    #[inline(always)]
    fn widen(from: &[Self], into: &mut [f32]) {
        for (wide, half) in into.iter_mut().zip(from) {
            *wide = f32::from_bits(u32::from(half.to_bits()) << 16);
        }
    }

    #[inline(always)]
    fn round(from: &[f32], into: &mut [Self]) {
        for (half, wide) in into.iter_mut().zip(from) {
            let bits = wide.to_bits();
            // To nearest, and where two are as near to the even one. A NaN stays one, with its upper payload.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            let nan = bits >> 16 | 0x40;
            *half = bf16::from_bits(if wide.is_nan() { nan } else { rounded } as u16);
        }
    }
}

/// Reduces halves.
#[inline(always)]
pub(super) fn reduce<H: Half>(operation: Operation, out: Target<'_>, left: Source<'_>, right: Source<'_>) {
    let mut out = ViewMut::<H>::of_target(out);
    let (left, right) = (View::<H>::of_source(left), View::<H>::of_source(right));
    let len = out.view().len();
    for operand in [&left, &right].into_iter().flatten() {
        assert_eq!(operand.len(), len, "an operand has as many elements as the destination");
    }
    let (mut reduced, mut other) = ([0f32; BLOCK_LEN], [0f32; BLOCK_LEN]);
    for start in (0..len).step_by(BLOCK_LEN) {
        let block = start..len.min(start + BLOCK_LEN);
        let (reduced, other) = (&mut reduced[..block.len()], &mut other[..block.len()]);
        match &left {
            Some(left) => left.widen(block.clone(), reduced),
            None => out.view().widen(block.clone(), reduced),
        }
        match &right {
            Some(right) => right.widen(block.clone(), other),
            None => out.view().widen(block.clone(), other),
        }
        let other = Some(&*other);
        match (operation.op, operation.divisor) {
            (ReduceOp::Prod, _) => apply(reduced, None, other, f32::prod),
            (ReduceOp::Min, _) => select(reduced, None, other, Arithmetic::min),
            (ReduceOp::Max, _) => select(reduced, None, other, Arithmetic::max),
            (ReduceOp::Avg, Some(divisor)) => {
                apply(reduced, None, other, |a, b| f32::sum(a, b).over(divisor))
            }
            (ReduceOp::Sum | ReduceOp::Avg, _) => apply(reduced, None, other, f32::sum),
        }
        out.write(block, reduced);
    }
}

/// Copies between halves and what an accumulator holds of them.
pub(super) fn convert<H: Half>(out: Target<'_>, source: Source<'_>) {
    let mut out = ViewMut::<H>::of_target(out);
    let Some(source) = View::<H>::of_source(source) else { return };
    let len = out.view().len();
    assert_eq!(source.len(), len, "an operand has as many elements as the destination");
    let mut wide = [0f32; BLOCK_LEN];
    for start in (0..len).step_by(BLOCK_LEN) {
        let block = start..len.min(start + BLOCK_LEN);
        let wide = &mut wide[..block.len()];
        source.widen(block.clone(), wide);
        out.write(block, wide);
    }
}

/// Halves that are read, as elements or as an accumulator holds them.
enum View<'a, H> {
    Elements(&'a [H]),
    Wide(&'a [f32]),
}

impl<'a, H: Half> View<'a, H> {
    /// None is the destination.
    fn of_source(source: Source<'a>) -> Option<Self> {
        match source {
            Source::Elements(bytes) => Some(View::Elements(bytemuck::cast_slice(bytes))),
            Source::Wide(bytes) => Some(View::Wide(bytemuck::cast_slice(bytes))),
            Source::Destination => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            View::Elements(elements) => elements.len(),
            View::Wide(wide) => wide.len(),
        }
    }

    #[inline(always)]
    fn widen(&self, block: Range<usize>, into: &mut [f32]) {
        match self {
            View::Elements(elements) => H::widen(&elements[block], into),
            View::Wide(wide) => into.copy_from_slice(&wide[block]),
        }
    }
}

/// Halves that are written.
enum ViewMut<'a, H> {
    Elements(&'a mut [H]),
    Wide(&'a mut [f32]),
}

impl<'a, H: Half> ViewMut<'a, H> {
    fn of_target(target: Target<'a>) -> Self {
        match target {
            Target::Elements(bytes) => ViewMut::Elements(bytemuck::cast_slice_mut(bytes)),
            Target::Wide(bytes) => ViewMut::Wide(bytemuck::cast_slice_mut(bytes)),
        }
    }

    fn view(&self) -> View<'_, H> {
        match self {
            ViewMut::Elements(elements) => View::Elements(elements),
            ViewMut::Wide(wide) => View::Wide(wide),
        }
    }

    #[inline(always)]
    fn write(&mut self, block: Range<usize>, from: &[f32]) {
        match self {
            ViewMut::Elements(elements) => H::round(from, &mut elements[block]),
            ViewMut::Wide(wide) => wide[block].copy_from_slice(from),
        }
    }
}

/// Two arrays of it stay in the first-level cache beside what they are made from.
const BLOCK_LEN: usize = 512;
