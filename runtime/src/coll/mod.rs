//! Collectives: what they mean, and how they are run, checked and simulated.
//!
//! A collective is a [`schedule::Schedule`]: for every rank a list of steps, plain data, made lazily by a pure
//! generator ([`ring`], [`tree`]). The [`executor`] runs it on a transport, the [`check`]er proves it, the
//! [`sim`]ulator times it on a model, and all three read the same object.

pub mod check;
pub mod executor;
pub mod reduce;
pub mod ring;
pub mod schedule;
pub mod select;
pub mod sim;
pub mod tree;
