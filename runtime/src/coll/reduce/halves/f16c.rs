//! `f16` by the processor's own conversions, eight at a time. The crate `half` asks for each eight whether the processor
//! has them, which costs more than the conversion.
//!
//! # Safety
//!
//! The functions are called where the processor was found to have F16C and AVX. Vectors are read from and written to arrays
//! of eight, which have their size.

use std::arch::x86_64::{
    __m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _mm_loadu_si128, _mm_storeu_si128, _mm256_cvtph_ps,
    _mm256_cvtps_ph, _mm256_loadu_ps, _mm256_storeu_ps,
};

use half::f16;

/// Widens halves.
#[target_feature(enable = "avx,f16c")]
pub(super) fn widen(from: &[f16], into: &mut [f32]) {
    let (halves, halves_left) = from.as_chunks::<8>();
    let (wides, wides_left) = into.as_chunks_mut::<8>();
    for (half, wide) in halves.iter().zip(wides) {
        *wide = widen_eight(half);
    }
    let mut half = [f16::ZERO; 8];
    half[..halves_left.len()].copy_from_slice(halves_left);
    wides_left.copy_from_slice(&widen_eight(&half)[..halves_left.len()]);
}

/// Rounds to halves, to nearest even.
#[target_feature(enable = "avx,f16c")]
pub(super) fn round(from: &[f32], into: &mut [f16]) {
    let (wides, wides_left) = from.as_chunks::<8>();
    let (halves, halves_left) = into.as_chunks_mut::<8>();
    for (wide, half) in wides.iter().zip(halves) {
        *half = round_eight(wide);
    }
    let mut wide = [0.0; 8];
    wide[..wides_left.len()].copy_from_slice(wides_left);
    halves_left.copy_from_slice(&round_eight(&wide)[..wides_left.len()]);
}

#[target_feature(enable = "avx,f16c")]
#[inline]
fn widen_eight(halves: &[f16; 8]) -> [f32; 8] {
    let mut wide = [0.0; 8];
    // SAFETY: eight halves are 16 bytes, eight floats 32; neither load nor store needs alignment.
    unsafe {
        let halves = _mm_loadu_si128(halves.as_ptr().cast::<__m128i>());
        _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(halves));
    }
    wide
}

#[target_feature(enable = "avx,f16c")]
#[inline]
fn round_eight(wide: &[f32; 8]) -> [f16; 8] {
    let mut halves = [f16::ZERO; 8];
    // SAFETY: as in `widen_eight`.
    unsafe {
        let wide: __m256 = _mm256_loadu_ps(wide.as_ptr());
        let rounded = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(wide);
        _mm_storeu_si128(halves.as_mut_ptr().cast::<__m128i>(), rounded);
    }
    halves
}
