//! What comes round a rail that failed: where it is received.
//!
//! Both ends of a pair have a receive posted on each rail for whatever the peer sends round another, in memory that is for
//! nothing else; the tag says what it is. More than that waits in the provider, which has room for it: credits bound it, and
//! all of it is short enough to be sent without an answer of ours.

use std::ops::Range;

use super::super::slot::{CELL_BYTES, Cut};
use super::super::traffic::Traffic;
use crate::fabric::{Access, FabricError, Memory, MemoryRegion};

/// Room for a piece on each rail.
#[derive(Debug)]
pub(super) struct Detours {
    /// One per rail. Before the memory, so that they are dropped first.
    pub(super) regions: Vec<MemoryRegion>,
    pub(super) memory: Memory,
    room_bytes: usize,
}

impl Detours {
    /// For pieces of this cut.
    pub(super) fn new(traffic: &Traffic, cut: Cut) -> Result<Self, FabricError> {
        let room_bytes = (CELL_BYTES + cut.piece_bytes).next_multiple_of(CELL_BYTES);
        let memory = Memory::new(cut.pieces * room_bytes);
        // SAFETY: the memory is dropped after the regions, and both after the endpoints were closed.
        #[expect(unsafe_code, reason = "the end that has it keeps the promise")]
        let regions = unsafe { traffic.register(&memory, Access::Messages) }?;
        Ok(Detours { regions, memory, room_bytes })
    }

    /// Where a rail's receive is.
    pub(super) fn room(&self, rail: usize) -> Range<usize> {
        rail * self.room_bytes..(rail + 1) * self.room_bytes
    }
}
