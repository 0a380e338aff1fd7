//! Memory for messages that have arrived and were not released yet.
//!
//! Shared by all peers of a transport: the slot that was given back last is taken first, as it is in the cache.
//! How many there can be at once is bounded by the grants of all peers; how many there are is what was needed.

/// Room for one message.
pub(super) type Slot = Box<[u128]>;

/// Slots that are not in use.
#[derive(Debug, Default)]
pub(super) struct Slots {
    free: Vec<Slot>,
}

impl Slots {
    /// Takes a slot. Its content is whatever was there.
    pub(super) fn take(&mut self) -> Slot {
        // Zeroed memory of this size is mapped, not written: it takes room where it was touched.
        self.free.pop().unwrap_or_else(|| vec![0; super::SLOT_BYTES.div_ceil(16)].into_boxed_slice())
    }

    /// Gives a slot back.
    pub(super) fn give_back(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// Whether no slot was ever needed.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.free.is_empty()
    }
}
