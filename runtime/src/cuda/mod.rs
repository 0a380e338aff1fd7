//! CUDA, made safe: devices, streams, events, memory, kernels and graphs, by the driver that the machine has.
//!
//! The driver (`libcuda.so.1`) is opened when the first [`Device`] is asked for, by cudarc. Nothing of CUDA is needed to
//! build, and without a driver every entry answers [`CudaError::NoDriver`].
//!
//! One object of the driver is one Rust type that frees it once; it holds its [`Device`], whose primary context outlives
//! it. Every call makes that context current for its own time only, so that a program's own use of CUDA is not
//! disturbed. An error names the call and the device.
//!
//! What is enqueued on a stream runs later. Memory that work in flight may touch is not given back before that work is
//! done: freeing waits for the device.

mod code;
mod device;
mod driver;
mod error;
mod event;
mod graph;
mod ipc;
mod memory;
mod module;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use self::code::{Code, MachineCode};
pub use self::device::Device;
pub use self::driver::version;
pub use self::error::CudaError;
pub use self::event::Event;
pub use self::graph::Graph;
pub use self::ipc::{ImportedMemory, IpcHandle};
pub(crate) use self::memory::Allocation;
pub use self::memory::{DeviceMemory, DevicePointer, DeviceSlice, DeviceSliceMut, HostMemory};
#[cfg(test)]
pub(crate) use self::module::for_hopper;
pub use self::module::{Grid, Kernel, Module};
pub use self::stream::Stream;
