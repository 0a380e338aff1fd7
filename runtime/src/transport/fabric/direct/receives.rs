//! Receives for notices, on cards where a notice takes one.
//!
//! A notice needs no memory of ours, but on cards without unsolicited receives it takes a posted receive. As many are
//! posted as notices can come at once, which credits bound: nobody is ever not ready.
#![expect(unsafe_code, reason = "hands contexts to the provider; they live until the endpoint is closed")]

use super::super::operation::CONTEXT_BYTES;
use super::super::rail::Rail;
use crate::fabric::{Access, FabricError, Info, Memory, MemoryRegion};

/// Receives for notices on a rail.
#[derive(Debug)]
pub(super) struct Receives {
    // Before its memory, which it may outlive no longer than the endpoint.
    sink_region: MemoryRegion,
    /// A cell that receives name, which nothing comes into.
    sink: Memory,
    contexts: Memory,
    posted: usize,
    /// Contexts whose receive the provider did not take yet.
    refused: Vec<usize>,
}

impl Receives {
    /// None yet, with room for as many as the rail's queue has entries.
    pub(super) fn new(info: &Info, rail: &Rail) -> Result<Self, FabricError> {
        let count = if info.wants_receives_for_data() { rail.capacity() } else { 0 };
        let sink = Memory::new(SINK_BYTES);
        // SAFETY: it is dropped, or left allocated, with the region, after the endpoint was closed.
        let sink_region = unsafe { rail.register(sink.whole(), Access::Messages) }?;
        let contexts = Memory::new(count * CONTEXT_BYTES);
        Ok(Receives { sink_region, sink, contexts, posted: 0, refused: Vec::new() })
    }

    /// Posts so many more, where the card takes any.
    pub(super) fn add(&mut self, rail: &Rail, count: usize) -> Result<(), FabricError> {
        let room = self.contexts.whole().len() / CONTEXT_BYTES;
        let first = self.posted;
        self.posted = (first + count).min(room);
        (first..self.posted).try_for_each(|number| self.post(rail, number))
    }

    /// Posts what the card has not taken yet.
    pub(super) fn post_refused(&mut self, rail: &Rail) -> Result<(), FabricError> {
        std::mem::take(&mut self.refused).into_iter().try_for_each(|number| self.post(rail, number))
    }

    /// Posts the receive again whose context is at an address, if one is.
    pub(super) fn renew(&mut self, rail: &Rail, context: usize) -> Result<(), FabricError> {
        let whole = self.contexts.whole();
        let offset = context.checked_sub(whole.cast::<u8>().addr());
        match offset {
            Some(offset) if offset < whole.len() && offset % CONTEXT_BYTES == 0 => {
                self.post(rail, offset / CONTEXT_BYTES)
            }
            _ => Ok(()),
        }
    }

    fn post(&mut self, rail: &Rail, number: usize) -> Result<(), FabricError> {
        let context = self.contexts.piece(number * CONTEXT_BYTES..(number + 1) * CONTEXT_BYTES);
        // SAFETY: sink and context live until the endpoint is closed; the context's last receive is over, and nobody looks
        // at the sink.
        let posted = unsafe {
            rail.endpoint.post_receive_for_data(self.sink.whole(), &self.sink_region, context.cast())
        }?;
        if !posted {
            self.refused.push(number);
        }
        Ok(())
    }
}

/// What providers take for a receive at least.
const SINK_BYTES: usize = 16;
