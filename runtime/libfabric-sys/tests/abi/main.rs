//! Whether this crate's view of libfabric's memory is right: by a C compiler, and by the libraries themselves.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports by printing"
)]

mod canary;
mod imposter;
mod layout;
mod support;
