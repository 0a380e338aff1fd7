//! What is reduced and how: element types and reduction operations.

use std::fmt;

use half::{bf16, f16};

/// The type of a buffer's elements, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// `i8`
    I8,
    /// `u8`
    U8,
    /// `i16`
    I16,
    /// `u16`
    U16,
    /// `i32`
    I32,
    /// `u32`
    U32,
    /// `i64`
    I64,
    /// `u64`
    U64,
    /// `half::f16`
    F16,
    /// `half::bf16`
    Bf16,
    /// `f32`
    F32,
    /// `f64`
    F64,
}

impl ElementType {
    /// All types, in the order of help texts.
    pub const ALL: [ElementType; 12] = [
        ElementType::I8,
        ElementType::U8,
        ElementType::I16,
        ElementType::U16,
        ElementType::I32,
        ElementType::U32,
        ElementType::I64,
        ElementType::U64,
        ElementType::F16,
        ElementType::Bf16,
        ElementType::F32,
        ElementType::F64,
    ];

    /// Size of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            ElementType::I8 | ElementType::U8 => 1,
            ElementType::I16 | ElementType::U16 | ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::I32 | ElementType::U32 | ElementType::F32 => 4,
            ElementType::I64 | ElementType::U64 | ElementType::F64 => 8,
        }
    }

    /// The type that a rank computes reductions in: `f32` for halves, else the type itself.
    pub fn accumulator(self) -> ElementType {
        match self {
            ElementType::F16 | ElementType::Bf16 => ElementType::F32,
            other => other,
        }
    }
}

/// The names of nccl-tests, and in their manner `int16` and `uint16`, which NCCL does not have.
impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElementType::I8 => "int8",
            ElementType::U8 => "uint8",
            ElementType::I16 => "int16",
            ElementType::U16 => "uint16",
            ElementType::I32 => "int32",
            ElementType::U32 => "uint32",
            ElementType::I64 => "int64",
            ElementType::U64 => "uint64",
            ElementType::F16 => "half",
            ElementType::Bf16 => "bfloat16",
            ElementType::F32 => "float",
            ElementType::F64 => "double",
        })
    }
}

/// How two elements become one. All are commutative; sum and product of floats are not associative, so the order in
/// which a schedule applies them is part of its meaning.
///
/// Halves are computed in `f32` and rounded to nearest even when a result leaves the rank or is the rank's result: once
/// per reduction, and once for several in a row where a rank reduces several operands before it passes the result on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReduceOp {
    /// a + b, wrapping for integers.
    Sum,
    /// a * b, wrapping for integers.
    Prod,
    /// The smaller one; NaN if either is.
    Min,
    /// The larger one; NaN if either is.
    Max,
    /// The sum, divided by the number of ranks where it becomes complete: once, behind the last addition, on one rank per
    /// element (by recursive doubling on every rank, with equal operands).
    ///
    /// Integers: the sum wraps as in `Sum`, and the quotient is rounded toward zero. Floats: the quotient is the nearest
    /// one. Dividing last rounds once, so the average of equal values is that value and small values are not lost to
    /// subnormals; the price is that a sum on its way may leave the type's range, which for `f16` ends at 65504. Halves
    /// are divided in `f32`, before they are rounded.
    Avg,
}

impl ReduceOp {
    /// All operations, in the order of help texts.
    pub const ALL: [ReduceOp; 5] =
        [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max, ReduceOp::Avg];
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
            ReduceOp::Avg => "avg",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be an element. Sealed: the wire knows these and no others.
pub trait Element: sealed::Sealed + Copy + Send + Sync + fmt::Debug + PartialEq + 'static {
    /// The type as data.
    const TYPE: ElementType;
}

macro_rules! element {
    ($($rust:ty => $variant:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const TYPE: ElementType = ElementType::$variant;
        }
    )*};
}

element!(
    i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
    f16 => F16, bf16 => Bf16, f32 => F32, f64 => F64
);
