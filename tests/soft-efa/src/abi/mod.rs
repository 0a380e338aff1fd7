//! The structs of verbs and efadv, as far as libfabric's EFA provider touches them.
//!
//! Declared by hand after rdma-core 44 (Debian 12), with the later fields that newer consumers hand in or read, each
//! with what brought it. `tests/layout.rs` compares with a C compiler's view of the installed headers. Names are C's,
//! so that the manual pages apply. Function pointers that nobody calls through are [`Unused`], present for their
//! place.
#![allow(non_camel_case_types, reason = "C's names, so that the manual pages apply")]
#![allow(missing_docs, reason = "the manual pages document the names")]

pub mod efadv;
pub mod verbs;

pub use efadv::*;
pub use verbs::*;

/// A function pointer that is null here.
pub type Unused = *const std::ffi::c_void;
