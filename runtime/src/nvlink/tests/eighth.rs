//! Floats of eight bits by their definition, to compare the kernels' with.

use crate::element::ReduceOp;
use crate::nvlink::call::{DeviceElement, DeviceOp};

/// Bits of mantissa, and the largest number.
fn format(element: DeviceElement) -> (i32, u8) {
    match element {
        DeviceElement::F8E4M3 => (3, 0x7e),
        _ => (2, 0x7b),
    }
}

/// What a number of the type means.
fn value(element: DeviceElement, bits: u8) -> f32 {
    let (mantissa, _) = format(element);
    let bias = (1 << (6 - mantissa)) - 1;
    let (exponent, fraction) = (i32::from(bits & 0x7f) >> mantissa, i32::from(bits) & ((1 << mantissa) - 1));
    let magnitude = match exponent {
        0 => f64::from(fraction) * 2f64.powi(1 - bias - mantissa),
        _ => f64::from(fraction + (1 << mantissa)) * 2f64.powi(exponent - bias - mantissa),
    };
    (if bits & 0x80 == 0 { magnitude } else { -magnitude }) as f32
}

/// The number of the type that is nearest, of two the even one; the largest where it is beyond.
pub(super) fn nearest(element: DeviceElement, wanted: f32) -> u8 {
    let distance = |bits: u8| (f64::from(value(element, bits)) - f64::from(wanted.abs())).abs();
    let (_, largest) = format(element);
    let best = (0..=largest).min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
    best.expect("there are numbers") | if wanted.is_sign_negative() { 0x80 } else { 0 }
}

pub(super) fn product(element: DeviceElement, a: u8, b: u8) -> u8 {
    nearest(element, value(element, a) * value(element, b))
}

/// The reduction of several in this order, in `f32` and rounded once, or for every operand.
pub(super) fn reduced(element: DeviceElement, op: DeviceOp, operands: &[u8], is_rounded_often: bool) -> u8 {
    let values = operands.iter().map(|&bits| value(element, bits));
    let rounded = |a: f32| if is_rounded_often { value(element, nearest(element, a)) } else { a };
    let result = values.reduce(|a, b| combined(op, rounded(a), b));
    let result = result.expect("there are operands");
    let divisor = if op == DeviceOp::Of(ReduceOp::Avg) { operands.len() as f32 } else { 1.0 };
    nearest(element, result / divisor)
}

fn combined(op: DeviceOp, a: f32, b: f32) -> f32 {
    match op {
        DeviceOp::Of(ReduceOp::Prod) => a * b,
        DeviceOp::Of(ReduceOp::Min) => {
            if a < b {
                a
            } else {
                b
            }
        }
        DeviceOp::Of(ReduceOp::Max) => {
            if a > b {
                a
            } else {
                b
            }
        }
        _ => a + b,
    }
}
