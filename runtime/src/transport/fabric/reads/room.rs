//! The memory that a rank reads into and that others read.
//!
//! # Safety
//!
//! Device memory is named by its addresses and never reached by them here.
#![expect(unsafe_code, reason = "passes on a promise about memory")]

use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr;

use super::super::rail::Rail;
use crate::cuda::DeviceMemory;
#[cfg(test)]
use crate::fabric::Memory;
use crate::fabric::{Access, FabricError, GpuMemory, MemoryRegion};

/// A rank's room.
#[derive(Debug)]
pub(crate) enum Room {
    /// The host's, for tests on machines without a GPU.
    #[cfg(test)]
    Host(Memory),
    /// A GPU's.
    Gpu(DeviceMemory<u64>),
}

impl Room {
    /// Its length.
    pub(crate) fn len_bytes(&self) -> usize {
        match self {
            #[cfg(test)]
            Room::Host(memory) => memory.whole().len(),
            Room::Gpu(memory) => memory.len() * size_of::<u64>(),
        }
    }

    /// The GPU's memory, where it is one's.
    pub(crate) fn gpu(&self) -> Option<&DeviceMemory<u64>> {
        match self {
            #[cfg(test)]
            Room::Host(_) => None,
            Room::Gpu(memory) => Some(memory),
        }
    }

    /// Where it begins, as kernels of its GPU and cards take it.
    pub(crate) fn address(&self) -> u64 {
        self.piece(0..0).cast::<u8>().expose_provenance() as u64
    }

    /// A piece of it, which of a GPU's only cards and the driver can reach.
    pub(super) fn piece(&self, range: Range<usize>) -> *mut [u8] {
        match self {
            #[cfg(test)]
            Room::Host(memory) => memory.piece(range),
            Room::Gpu(memory) => {
                assert!(range.start <= range.end && range.end <= self.len_bytes(), "a piece of the room");
                let start = memory.pointer().offset(range.start).0 as usize;
                ptr::slice_from_raw_parts_mut(ptr::with_exposed_provenance_mut(start), range.len())
            }
        }
    }

    /// Tells a card of it.
    ///
    /// # Safety
    ///
    /// The room stays until the region is dropped.
    pub(super) unsafe fn register(&self, rail: &Rail) -> Result<MemoryRegion, FabricError> {
        let whole = self.piece(0..self.len_bytes());
        match self {
            #[cfg(test)]
            // SAFETY: the caller's promise.
            Room::Host(_) => unsafe { rail.register(whole, Access::Reads) },
            Room::Gpu(memory) => {
                let fd = memory.dma_buf().unwrap_or_else(|error| {
                    log::info!("GPU memory is no dma-buf: {error}");
                    None
                });
                let gpu = GpuMemory {
                    memory: whole,
                    ordinal: memory.device().ordinal(),
                    dma_buf: fd.as_ref().map(|fd| (fd.as_fd(), 0)),
                };
                // SAFETY: the caller's promise.
                unsafe { MemoryRegion::register_gpu(&rail.endpoint, gpu, Access::Reads) }
            }
        }
    }
}
