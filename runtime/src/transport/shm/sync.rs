//! The atomics that the board's protocol is written with. `tests/loom.rs` compiles that protocol with loom's in their place.

pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
