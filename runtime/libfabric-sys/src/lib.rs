//! libfabric's C interface as far as efarun uses it: structs, constants, and calls through a library that is opened
//! at run time.
//!
//! Nothing is linked and nothing is generated at build time, so that one binary runs with no libfabric, with
//! Debian's 1.17 and with AWS's 2.x. [`Library::open`] finds `libfabric.so.1`; the few exported functions are fields
//! of [`Library`], and the calls that C code gets as inline functions are re-made in [`call`] over the tables of
//! function pointers that every object carries. Names are C's, so that the manual pages (`fi_endpoint(3)`, …) apply.
//!
//! # Layout
//!
//! The declarations follow the headers of 1.17. `fi_getinfo`, `fi_dupinfo` and `fi_freeinfo` are bound to the symbol
//! version that those headers mean (`FABRIC_1.3`), whatever the library's newest is; an `fi_info` is therefore only
//! ever allocated by the library. Structs that *we* allocate are another matter: a library writes and reads them at
//! the size of its own version. They carry the later fields too, each with the version that added it, and are
//! to be zeroed whole ([`zeroed`]). `tests/layout.rs` compares with a C compiler's view of the installed headers,
//! `tests/canary.rs` has real libraries write next to a guarded area.
#![deny(unsafe_code)]
#![expect(non_camel_case_types, reason = "C's names, so that libfabric's manual pages apply")]
#![expect(
    missing_docs,
    reason = "the manual pages document the names; said here is only what they do not say"
)]

pub mod call;
mod completion;
mod constant;
mod endpoint;
mod info;
mod library;
mod object;
mod region;

pub use completion::*;
pub use constant::*;
pub use endpoint::*;
pub use info::*;
pub use library::{Library, LibraryError, Version};
pub use object::*;
pub use region::*;

/// A struct of this crate that may be all zeros: numbers, null pointers, absent functions.
///
/// # Safety
///
/// All bytes zero must be a valid value of the type.
#[expect(unsafe_code, reason = "implementing it is a promise about the type's bytes")]
pub unsafe trait Zeroed: Sized {}

/// The value whose bytes, padding included, are all zero: what a struct starts from before it is given to the library.
#[expect(unsafe_code, reason = "Zeroed promises that zeros are a value")]
pub fn zeroed<T: Zeroed>() -> T {
    // SAFETY: implementing `Zeroed` promises that all-zero bytes are a valid `T`.
    unsafe { std::mem::zeroed() }
}
