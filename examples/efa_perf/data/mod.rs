//! Inputs whose result is known exactly, whatever the order of reduction, and the check of what came out.
//!
//! Every element is a function of (type, reduction, world size, rank, seed, index), so that a result which used a
//! wrong rank, a wrong place, an earlier call's data or one contribution twice differs from the expected one.
//! [`value`] makes single elements, [`pattern`] whole buffers of them, [`guarded`] notices writes beside a buffer, and
//! [`expect`] says for each operation what a rank gives and what it must get.

pub(crate) mod expect;
pub(crate) mod guarded;
pub(crate) mod pattern;
pub(crate) mod value;

pub(crate) use self::expect::{Given, Place};
pub(crate) use self::guarded::GuardedBuffer;
pub(crate) use self::value::Sample;
