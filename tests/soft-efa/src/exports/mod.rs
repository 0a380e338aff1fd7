//! The functions that programs find under libibverbs' and libefa's names.
//!
//! What the provider calls, and what others ask who look around; a program that wants more of verbs finds the real
//! libraries behind this one. Each function finds its device, takes the lock, asks the device, and puts the answer into
//! C's form.
//!
//! # Safety
//!
//! The contract is that of verbs: objects come from the call that makes them and are used until the call that destroys
//! them, and pointers point to what the manual pages say. Every object that is handed out is a box whose first field
//! is the C struct, so that a pointer to the one is a pointer to the other; it is taken back exactly once, by the
//! call that destroys it. Objects are reached through raw pointers only, as C writes to them behind our back.
//! No panic leaves a function: see [`guard`].
#![allow(unsafe_code)]
#![allow(missing_docs, reason = "the manual pages document verbs' functions")]
#![allow(clippy::missing_safety_doc, reason = "the module's Safety paragraph is every function's contract")]

pub mod completion;
pub mod device;
pub mod events;
pub mod memory;
pub mod pair;
mod posting;
pub mod refused;

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;

use crate::abi::ibv_context;
use crate::engine::Host;
use crate::report;

/// Runs the body of an exported function; a panic becomes `otherwise`, and is told.
fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        report::say("this is a bug in soft-efa: the call that met it fails");
        Errno::EIO.set();
        otherwise
    })
}

/// The devices of this process. Whoever has an object has been through the call that makes them.
fn host() -> &'static Host {
    Host::of_process().unwrap_or_else(|error| panic!("there are no devices: {error}"))
}

/// The number of the device that a context is of.
unsafe fn device_number(context: *mut ibv_context) -> usize {
    // SAFETY: contexts are handed out inside of a `device::Context`.
    unsafe { device::Context::of(context) }
}

/// Fails a call that returns a pointer.
fn refuse<T>(errno: Errno) -> *mut T {
    errno.set();
    std::ptr::null_mut()
}

/// What calls return that return an errno.
const OK: c_int = 0;
