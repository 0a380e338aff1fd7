//! What GPUs of several nodes give each other: read by cards from one GPU's memory into another's, or staged through memory of
//! their hosts and carried by Worlds.
//!
//! A [`Transfer`] says what this rank's GPU puts and gets, and with whom its host exchanges it. [`Relay`] enqueues a transfer
//! on a stream: one kernel (`cuda/kernels/relay.cuh`), which hands slices to the host and takes its answers while others
//! are on their way. [`carrier`] is the host's part: threads that wait for slices, each with a World of its own, so that
//! several connections carry a long transfer. Where the nodes' cards reach GPU memory, its kernel stages slices there
//! ([`staging`]), and the hosts only tell each other what can be read ([`direct`], [`words`]). The host moves bytes only; what is
//! reduced is reduced on the GPU, so that all types and operations are as within a node.
//!
//! [`Messages`] of single ranks go by a kernel of their own, in which none waits for another ([`far`]), as ranks need not make the same
//! calls of them; transfers are those that all ranks have alike, as the parts of collectives.
//!
//! Where a transfer is short, so may be what the node's ranks do before it or behind it: then the two can be one launch
//! ([`ShortSteps`]).
//!
//! A short stretch ([`cells`]) always goes by way of the host, which sends it with what it would say of it: no fence, no answer and
//! no read is waited for.
//!
//! A transfer returns at once and is ordered with what else is on its stream. It can be captured: the host finds what to do
//! by the number of a plan, which the kernel hands over each time it runs.
//!
//! What it cannot do: have cards read from callers' own memory; a slice is copied within the GPU before and after.

mod carrier;
pub(crate) mod cells;
mod direct;
mod engine;
pub(crate) mod far;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod lanes;
pub(crate) mod parameters;
pub(crate) mod short_steps;
mod shorts;
mod staging;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;
mod words;

pub use self::engine::Relay;
pub use self::far::messages::{FarMessage, Messages};
pub use self::far::parameters::{BLOCKS_MAX, LONG_MAX as LONG_MESSAGES_MAX};
pub use self::parameters::SPANS_MAX;
pub use self::short_steps::ShortSteps;
pub use self::transfer::{Caller, Reduction, Stretch, Transfer};
