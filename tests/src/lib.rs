//! Harness of the integration tests: real binaries, real hosts, real processes.
//!
//! A test asks for what it needs ([`require!`]), makes hosts ([`Testbed`]), runs the launcher on them ([`Job`]), and
//! looks at what came out ([`Outcome`]) and at what was left behind ([`Process`]). Ranks are programs of `bin/`,
//! one misbehaviour each; [`program!`] gives their paths, and those of the shipped binaries.
//!
//! Whatever a test starts is ended when its handle is dropped. A test process that is killed cannot do that; the next
//! testbed that is made takes away what such a one left.
#![deny(unsafe_code)]

mod cgroup;
pub mod echo;
mod exec_stall;
pub mod fixture;
mod job;
mod pidfd;
mod process;
mod require;
mod testbed;

pub use cgroup::MemoryCgroup;
pub use exec_stall::ExecStall;
pub use job::{Job, Outcome, Running};
pub use process::{Process, listening_port, wait_until_gone};
pub use require::{
    Need, faketime_library, is_full_matrix, libfabric_1_22_folder, libfabric_2_folder, missing, mpi_folder,
    skip_part,
};
pub use testbed::{Host, Testbed};

/// The path of a binary of this package: a fixture rank, `efarun-under-test` or `efa-perf-under-test`.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        std::path::Path::new(env!(concat!("CARGO_BIN_EXE_", $name)))
    };
}

/// Returns from the test, saying that it is skipped, unless this machine has what it needs.
#[macro_export]
macro_rules! require {
    ($($need:expr),+) => {
        $(if $crate::missing($need) {
            return;
        })+
    };
}
