//! Memory for buffers that the ranks of a node reach in each other without a copy.
//!
//! A [`Region`] has a *part* per rank. In its own process a rank's part belongs to one [`Part`], and is used as any memory is.
//! The other ranks touch it in the middle of a call only, in which its rank has handed it over: by the leaves' direct forms.
//!
//! # Safety
//! A [`Part`] is the only one of its mapping, which checks that, and whoever uses it as memory borrows it. What other ranks do to it they do between
//! two moments at which its rank is in a call that borrows it; where the call fails, the part is detached before it returns.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mapping::{Kind, Mapping, Offer, PAGE_BYTES};
use crate::transport::TransportError;

/// Shared memory with a part per rank of a node, in the order of local ranks.
#[derive(Debug)]
pub(crate) struct Region {
    memory: Mapping,
    ranks: usize,
    part_bytes: usize,
    /// Whether this process has had a part of this mapping.
    is_taken: AtomicBool,
}

impl Region {
    /// Makes a region whose parts have so many bytes at least.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the system has no address space or descriptor for it.
    pub(crate) fn create(ranks: usize, len_bytes: usize) -> Result<Self, TransportError> {
        let (part_bytes, all_bytes, kind) = layout(ranks, len_bytes);
        let memory = Mapping::create(all_bytes, kind, &"memory for buffers that ranks share")?;
        Ok(Region { memory, ranks, part_bytes, is_taken: AtomicBool::new(false) })
    }

    /// Opens the region that another rank of this node has made by the same numbers.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when it cannot be opened, or is not what was offered.
    pub(crate) fn open(offer: &Offer, ranks: usize, len_bytes: usize) -> Result<Self, TransportError> {
        let (part_bytes, all_bytes, kind) = layout(ranks, len_bytes);
        let memory = Mapping::open(offer, all_bytes, kind, &"memory for buffers that ranks share")?;
        Ok(Region { memory, ranks, part_bytes, is_taken: AtomicBool::new(false) })
    }

    /// What another rank needs to open it.
    pub(crate) fn offer(&self) -> Offer {
        self.memory.offer()
    }

    /// Bytes of each part.
    pub(crate) fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// Where a rank's part begins: at a page.
    pub(crate) fn part(&self, rank: usize) -> *mut u8 {
        self.memory.range(self.offset(rank), self.part_bytes).as_ptr()
    }

    /// Puts memory of its own in the place of bytes of a rank's part and of the pages that they are in, with the same content:
    /// what others write there later is not seen any more.
    ///
    /// # Safety
    ///
    /// The caller is that rank, in a call that borrows these bytes. What another thread of its process writes to the same pages
    /// meanwhile may be lost.
    pub(crate) unsafe fn detach(&self, rank: usize, offset: usize, len_bytes: usize) {
        let (start, end) =
            (offset / PAGE_BYTES * PAGE_BYTES, (offset + len_bytes).next_multiple_of(PAGE_BYTES));
        assert!(end <= self.part_bytes, "bytes of a part are within it");
        // SAFETY: the caller's.
        unsafe { self.memory.detach(self.offset(rank) + start, end - start) };
    }

    fn offset(&self, rank: usize) -> usize {
        assert!(rank < self.ranks, "a rank is one of the node's");
        PAGE_BYTES + rank * self.part_bytes
    }
}

/// Bytes of a part and of all, and what all ranks must have alike.
fn layout(ranks: usize, len_bytes: usize) -> (usize, usize, Kind) {
    let part_bytes = len_bytes.next_multiple_of(PAGE_BYTES);
    let kind = Kind([REGION | ranks as u64, part_bytes as u64]);
    (part_bytes, PAGE_BYTES + ranks * part_bytes, kind)
}

/// A rank's part, in its own process.
#[derive(Debug)]
pub(crate) struct Part {
    region: Arc<Region>,
    rank: usize,
}

impl Part {
    /// Takes memory for a rank's part, which holds zeros. That rank has opened the region, or made it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] when the system has none.
    ///
    /// # Panics
    ///
    /// When the region has given a part before.
    pub(crate) fn take(region: Arc<Region>, rank: usize) -> Result<Self, TransportError> {
        assert!(!region.is_taken.swap(true, Ordering::Relaxed), "a rank has one part");
        if region.part_bytes > 0 {
            region.memory.reserve(region.offset(rank), region.part_bytes)?;
        }
        Ok(Part { region, rank })
    }

    /// Its memory.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: within the mapping, which the region keeps; reserved, so that it can be touched; written through `bytes_mut`
        // alone while it is not handed over to a call, which borrows this mutably, or reads and lets others read only.
        unsafe { std::slice::from_raw_parts(self.region.part(self.rank), self.region.part_bytes) }
    }

    /// Its memory.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`; this is the rank's only part, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.region.part(self.rank), self.region.part_bytes) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Addresses stay taken for as long as the World lives, so that nothing else is mistaken for the part.
        self.region.memory.give_back(self.region.offset(self.rank), self.region.part_bytes);
    }
}

/// Tells a region from an arena.
const REGION: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(len_bytes: usize) -> [Arc<Region>; 2] {
        let made = Region::create(2, len_bytes).unwrap();
        let opened = Region::open(&made.offer(), 2, len_bytes).unwrap();
        [Arc::new(made), Arc::new(opened)]
    }

    fn byte(region: &Region, rank: usize, at: usize) -> u8 {
        assert!(at < region.part_bytes());
        // SAFETY: within the part, which nobody writes to meanwhile.
        unsafe { region.part(rank).add(at).read() }
    }

    #[test]
    fn a_rank_sees_the_others_part_until_it_is_detached_or_given_back() {
        let [mine, theirs] = pair(5000);
        let mut part = Part::take(Arc::clone(&theirs), 1).unwrap();
        assert!(part.bytes().iter().all(|&byte| byte == 0) && part.bytes().len() == 8192);
        part.bytes_mut()[4999] = 7;
        assert_eq!((byte(&mine, 1, 4999), byte(&mine, 0, 4999)), (7, 0));
        // SAFETY: nobody uses the part meanwhile.
        unsafe { theirs.detach(1, 0, 5000) };
        // SAFETY: within the part of the other's mapping, which nobody else accesses.
        unsafe { mine.part(1).write(9) };
        assert_eq!((part.bytes()[0], part.bytes()[4999]), (0, 7));
        part.bytes_mut()[4999] = 8;
        assert_eq!((byte(&mine, 1, 0), byte(&mine, 1, 4999)), (9, 7));
        drop(part);
        assert_eq!((byte(&mine, 1, 0), byte(&mine, 1, 4999)), (0, 0));
    }

    #[test]
    fn a_region_is_opened_by_the_numbers_that_it_was_made_by_only() {
        let region = Region::create(2, 4096).unwrap();
        for (ranks, len_bytes) in [(3, 4096), (2, 8192), (1, 8192)] {
            assert!(Region::open(&region.offer(), ranks, len_bytes).is_err(), "{ranks} {len_bytes}");
        }
        Region::open(&region.offer(), 2, 1).unwrap();
        Region::create(2, 0).unwrap();
    }
}
