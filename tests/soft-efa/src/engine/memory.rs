//! The memory of this process, as its devices reach it: its own, and CUDA's.
//!
//! # Safety
//!
//! Hardware reads and writes registered memory while the program runs, and so does this: the program has promised, by
//! registering it, that the memory stays mapped until it is deregistered, and by posting, that it keeps its hands off
//! until the completion. Bounds were checked against the region before.
#![allow(unsafe_code)]

use nix::errno::Errno;

use super::cuda::{Cuda, Place};
use crate::nic::{Gone, Memory, Region, RegionKind};

/// This process's memory.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory;

impl ProcessMemory {
    /// What memory it is that is to be registered.
    ///
    /// # Errors
    ///
    /// `EFAULT` for memory that is not there, or not all of it.
    pub fn kind(address: u64, len_bytes: u64) -> Result<RegionKind, Errno> {
        match Cuda::of_process().map_or(Place::Host, |cuda| cuda.place(address, len_bytes)) {
            Place::Device => Ok(RegionKind::Cuda),
            Place::Host if is_mapped(address, len_bytes) => Ok(RegionKind::Host),
            Place::Host | Place::TooShort => Err(Errno::EFAULT),
        }
    }
}

impl Memory for ProcessMemory {
    fn read(&self, region: &Region, memory: u64, into: &mut [u8]) -> Result<(), Gone> {
        match region.kind {
            // SAFETY: inside a registered region, see the module; `into` is the device's own memory, or that of a link.
            RegionKind::Host => unsafe {
                std::ptr::copy_nonoverlapping(memory as *const u8, into.as_mut_ptr(), into.len());
                Ok(())
            },
            RegionKind::Cuda => Cuda::of_process().ok_or(Gone)?.read(memory, into),
        }
    }

    fn write(&self, region: &Region, memory: u64, bytes: &[u8]) -> Result<(), Gone> {
        match region.kind {
            // SAFETY: as above.
            RegionKind::Host => unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory as *mut u8, bytes.len());
                Ok(())
            },
            RegionKind::Cuda => Cuda::of_process().ok_or(Gone)?.write(memory, bytes),
        }
    }
}

/// Whether there is memory at all these addresses; the kernel pins it for a card, and refuses what it does not find.
fn is_mapped(address: u64, len_bytes: u64) -> bool {
    let start = address & !(PAGE_BYTES - 1);
    let Some(end) = address.checked_add(len_bytes) else { return false };
    let mut residency = vec![0_u8; PAGES_AT_ONCE.min((end - start).div_ceil(PAGE_BYTES)) as usize];
    let mut next = start;
    while next < end {
        let len = (end - next).min(PAGES_AT_ONCE * PAGE_BYTES);
        // SAFETY: the kernel only looks at its tables; the vector has a byte for each page.
        if unsafe { libc::mincore(next as *mut _, len as usize, residency.as_mut_ptr()) } != 0 {
            return false;
        }
        next += len;
    }
    true
}

const PAGE_BYTES: u64 = 4096;
/// 4 GiB.
const PAGES_AT_ONCE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_there_or_it_is_refused() {
        let memory = vec![0_u8; 3 * PAGE_BYTES as usize];
        let address = memory.as_ptr() as u64;
        assert_eq!(ProcessMemory::kind(address + 5, 8000), Ok(RegionKind::Host));
        assert_eq!(
            ProcessMemory::kind(PAGE_BYTES, 1),
            Err(Errno::EFAULT),
            "the first pages are never mapped"
        );
        assert_eq!(ProcessMemory::kind(address, 1 << 46), Err(Errno::EFAULT), "half of all addresses");
        assert_eq!(ProcessMemory::kind(u64::MAX - 5, 10), Err(Errno::EFAULT));
    }
}
