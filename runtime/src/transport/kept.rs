//! Memory that outlives operations, so that transports may keep what they made of it.
//!
//! A caller's own memory may be unmapped between two operations, and something else mapped in its place, of which nobody
//! tells a transport; so a network card is told of such memory anew in every operation. A [`KeptBuffer`] is different: its
//! memory stays until the last transport that was told of it has let it go, and no address of it is used again before.
//!
//! # Safety
//!
//! Slices of the memory are made by the one [`KeptBuffer`] alone, whose borrows they are. Who else holds the [`Kept`] keeps
//! it allocated and knows where it is; what a network does there is between the transport and the caller who lent a slice.
#![expect(
    unsafe_code,
    reason = "makes slices of raw memory; the module's Safety paragraph says why it is sound"
)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::fabric::Memory;

/// Where a [`KeptBuffer`] is; its memory stays allocated as long as this.
#[derive(Debug)]
pub struct Kept {
    memory: Memory,
    is_dropped: AtomicBool,
}

impl Kept {
    /// Its addresses.
    pub fn addresses(&self) -> Range<usize> {
        let whole = self.memory.whole();
        let start = whole.cast::<u8>().addr();
        start..start + whole.len()
    }

    /// Whether the buffer is gone, so that nobody sends from here any more.
    pub fn is_dropped(&self) -> bool {
        self.is_dropped.load(Ordering::Acquire)
    }
}

/// Bytes that transports may be told of once and for all.
#[derive(Debug)]
pub struct KeptBuffer {
    kept: Arc<Kept>,
    len_bytes: usize,
}

impl KeptBuffer {
    /// So many zeros, aligned to 16 bytes.
    ///
    /// # Panics
    ///
    /// When the length is beyond what an allocation can have.
    pub fn new(len_bytes: usize) -> Self {
        KeptBuffer {
            kept: Arc::new(Kept {
                memory: Memory::on_large_pages(len_bytes),
                is_dropped: AtomicBool::new(false),
            }),
            len_bytes,
        }
    }

    /// What transports are told of.
    pub fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// Its memory.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: written through `bytes_mut` only, which needs `&mut self`.
        unsafe { self.kept.memory.bytes(0..self.len_bytes) }
    }

    /// Its memory, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: allocated, initialised with zeros, and no other slice of it lives while `self` is borrowed.
        unsafe { &mut *self.kept.memory.piece(0..self.len_bytes) }
    }
}

impl Drop for KeptBuffer {
    fn drop(&mut self) {
        self.kept.is_dropped.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_outlives_its_buffer_as_long_as_somebody_knows_it() {
        let mut buffer = KeptBuffer::new(5000);
        assert!(buffer.bytes().iter().all(|byte| *byte == 0));
        buffer.bytes_mut().fill(7);
        let kept = Arc::clone(buffer.kept());
        assert_eq!(
            kept.addresses(),
            buffer.bytes().as_ptr_range().start.addr()..buffer.bytes().as_ptr_range().end.addr()
        );
        assert!(!kept.is_dropped());
        drop(buffer);
        assert!(kept.is_dropped());
        let others: Vec<KeptBuffer> = (0..100).map(|_| KeptBuffer::new(5000)).collect();
        let is_apart = |other: &KeptBuffer| {
            let (ours, theirs) = (kept.addresses(), other.kept().addresses());
            ours.end <= theirs.start || theirs.end <= ours.start
        };
        assert!(others.iter().all(is_apart), "no address is used again");
    }
}
