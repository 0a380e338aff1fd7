//! The device as a program sees it that calls verbs itself: what libfabric's provider, as it is built today, does not
//! ask for.
//!
//! Several devices in this one process, which each test has to itself:
//!
//! | device | used by |
//! |---|---|
//! | 0 | whatever leaves the device as it is |
//! | 1 | the port that goes down |
//! | 2 | the device that is lost |
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod consumer;
mod cuda;
mod domains;
mod ending;
mod events;
mod unsolicited;
