//! Collectives on the memory of GPUs that reach each other, over NVLink or PCIe: all ranks of one node.
//!
//! [`call`] is what is asked for. [`layout`] says where things lie, [`part`] who gives whom what, [`select`] which leaf does
//! a call, [`room`] with how many blocks at most, [`launch`] and [`pairs`] what its kernel is told; these are pure. [`window`]
//! makes the memory that ranks share, [`mod@code`] is what the kernels are compiled to, [`engine`] enqueues them, [`lodger`] is
//! what threads with one GPU have together. What happens on the GPU stands in `cuda/kernels`, where `protocol.cuh` says why cells
//! may be written again; the tests run the same kernels on the CPU, in any order of events.
//!
//! A call enqueues one kernel and returns. It can be captured into a graph: what is counted is counted in the GPU's memory.

mod call;
mod code;
pub(crate) mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod launch;
pub mod layout;
mod lodger;
mod pairs;
mod parameters;
mod part;
mod room;
mod select;
#[cfg(test)]
mod tests;
pub(crate) mod window;

pub use self::call::{DeviceCall, DeviceCollective, DeviceElement, DeviceMessage, DeviceOp, Factor};
pub(crate) use self::code::code;
pub(crate) use self::engine::Trouble;
pub use self::launch::NodeStep;
pub(crate) use self::layout::THREADS;
pub use self::pairs::NearMessages;
pub(crate) use self::pairs::PairParameters;
pub(crate) use self::parameters::{Parameters, status};
pub use self::part::Leaf;
