//! libfabric's real EFA provider on soft EFA devices.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod one_host;
mod support;
