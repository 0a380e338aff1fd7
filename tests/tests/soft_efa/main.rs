//! libfabric's real EFA provider on soft EFA devices.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod accept;
mod ends;
mod faults;
mod hosts;
mod one_host;
mod programs;
mod ranks;
mod support;
