//! Safe libfabric: one Rust type per C object, for what the fabric transport uses.
//!
//! [`Library`] is the libfabric of this process. [`Info`] says what a provider offers; from it come [`Fabric`],
//! [`Domain`], and in the domain a [`CompletionQueue`], an [`AddressVector`], [`MemoryRegion`]s and the [`Endpoint`].
//! Each type closes its object once, when it is dropped, and holds its parents by `Arc`, so that no parent closes
//! first. Closing logs what goes wrong; it never panics.
//!
//! Every object is opened with `FI_THREAD_SAFE`: the types are `Send` and `Sync`. Calls that hand memory to the
//! provider are `unsafe` with one contract: the memory stays allocated, and unchanged or unread as the operation
//! asks, until the operation's completion was read or the endpoint was closed.
//!
//! Names of errors, modes and calls are libfabric's; its manual pages apply.

mod av;
mod cq;
mod domain;
mod endpoint;
mod eq;
mod error;
#[expect(clippy::module_inception, reason = "the C object's name, as for its siblings")]
mod fabric;
mod info;
mod library;
mod memory;
mod mr;

pub use av::{AddressVector, FabricAddress};
pub use cq::{Completion, CompletionQueue, Failure};
pub use domain::Domain;
pub use endpoint::{Endpoint, FORBID_CUDA_CALLS, Part, Target};
pub use eq::EventQueue;
pub use error::FabricError;
pub use fabric::Fabric;
pub use info::{Info, Nic, Request, Service};
pub use library::Library;
pub use memory::Memory;
pub use mr::{Access, GpuMemory, MemoryRegion};
