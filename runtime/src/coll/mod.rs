//! Collectives: what they mean, and how they are run, checked and simulated.
//!
//! A collective is a [`schedule::Schedule`]: for every rank a list of steps, plain data, made lazily by a pure
//! generator ([`ring`], [`tree`]). The [`executor`] runs it on a transport, the [`check`]er proves it, the
//! [`sim`]ulator times it on a model, and all three read the same object. What is wrong with a schedule they say in
//! one set of words ([`fault`]), and the rules that concern one rank alone they keep by one piece of code (`ledger`).
//!
//! A caller goes [`select::select`], [`select::segment_len`], [`select::build`], then [`executor::Executor::run`] on
//! [`buffers::Buffers`].

pub mod buffers;
pub mod check;
pub mod executor;
pub mod fault;
mod ledger;
pub mod reduce;
pub mod ring;
pub mod schedule;
pub mod select;
pub mod sim;
pub mod tree;

#[cfg(test)]
mod tests;
