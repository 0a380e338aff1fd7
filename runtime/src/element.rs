//! What is reduced and how: element types and reduction operations.

use std::fmt;

/// The type of a buffer's elements, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// `u8`
    U8,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `f32`
    F32,
    /// `f64`
    F64,
}

impl ElementType {
    /// All types, in the order of help texts.
    pub const ALL: [ElementType; 5] =
        [ElementType::U8, ElementType::I32, ElementType::I64, ElementType::F32, ElementType::F64];

    /// Size of one element.
    pub fn size_bytes(self) -> usize {
        match self {
            ElementType::U8 => 1,
            ElementType::I32 | ElementType::F32 => 4,
            ElementType::I64 | ElementType::F64 => 8,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ElementType::U8 => "uint8",
            ElementType::I32 => "int32",
            ElementType::I64 => "int64",
            ElementType::F32 => "float",
            ElementType::F64 => "double",
        })
    }
}

/// How two elements become one. All are commutative; sum and prod of floats are not associative, so the order in
/// which a schedule applies them is part of its meaning.
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
}

impl ReduceOp {
    /// All operations, in the order of help texts.
    pub const ALL: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max];
}

impl fmt::Display for ReduceOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
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

element!(u8 => U8, i32 => I32, i64 => I64, f32 => F32, f64 => F64);
