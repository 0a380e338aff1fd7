//! Collectives: what they mean, and how they are run, checked and simulated.
//!
//! A [`collective::Collective`] is a meaning. A [`schedule::Schedule`] gives it steps: for every rank a list of them,
//! plain data, made lazily by a pure generator. The [`executor`] runs it on a transport, the [`check`]er proves it, the
//! [`sim`]ulator times it on a model, and all three read the same object. What is wrong with a schedule they say in one
//! set of words ([`fault`]), and the rules that concern one rank alone they keep by one piece of code (`ledger`).
//!
//! | collective | generators |
//! |---|---|
//! | all_reduce | [`ring`], [`tree`], [`double_tree`], [`doubling`] |
//! | broadcast, reduce | [`rooted`] along a chain, a binary or a binomial tree |
//! | all_gather | ring and Bruck in [`gather`], [`direct`] |
//! | reduce_scatter | ring and halving in [`scatter`], [`direct`] |
//! | barrier | [`dissemination`] |
//!
//! Of these a [`hierarchy`] makes collectives by node. Where ranks share memory a [`leaf`] may take the place of the messages:
//! of all of them where all ranks do, and of the stages within nodes where those of a node do.
//!
//! A caller goes [`select::select`], [`select::segment_len`], [`select::build`], makes a [`plan::Plan`] of it for its
//! rank, then calls [`executor::Executor::run`] on [`buffers::Buffers`], as often as it likes. [`explain`] says
//! what would be done and what that costs.

pub mod buffers;
pub mod check;
mod choice;
pub mod collective;
pub mod direct;
pub mod dissemination;
pub mod double_tree;
pub mod doubling;
mod estimate;
pub mod executor;
pub mod explain;
pub mod fault;
pub mod gather;
pub mod hierarchy;
pub mod leaf;
mod ledger;
pub mod nodes;
mod pace;
pub mod plan;
pub mod reduce;
pub mod ring;
pub mod rooted;
pub mod scatter;
pub mod schedule;
pub mod select;
pub mod shape;
pub mod sim;
pub mod tree;

#[cfg(test)]
mod tests;
