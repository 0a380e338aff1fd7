//! Regions of callers' memory, for providers that want what is sent registered.
//!
//! Registering pins pages, which costs more than sending them, so a piece of memory is registered once per operation of
//! the World, however often its parts are sent. Between operations the caller may unmap it and map something else in its
//! place, of which nobody tells us; so no region is used beyond the operation that made it ([`Registrations::forget`]).
//!
//! The EFA provider has a cache of its own that does watch for unmapping. It does so by changing the code of `munmap`,
//! `madvise` and their like while the program runs; a thread that is in one of them at that moment crashes, as our tests
//! did. So the provider is asked for local registration (FI_MR_LOCAL), with which it leaves them alone.

use std::collections::BTreeMap;

use crate::fabric::{Access, Endpoint, FabricError, MemoryRegion};

/// The regions of one rail.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    /// By first and last address.
    regions: BTreeMap<(usize, usize), MemoryRegion>,
}

impl Registrations {
    /// A region that covers the memory.
    ///
    /// # Safety
    ///
    /// The memory stays mapped until [`Registrations::forget`], or until no operation on it is in flight any more.
    #[expect(unsafe_code, reason = "the caller's promise, passed on")]
    pub(super) unsafe fn cover(
        &mut self,
        endpoint: &Endpoint,
        memory: *const [u8],
        access: Access,
    ) -> Result<&MemoryRegion, FabricError> {
        let start = memory.cast::<u8>().addr();
        let end = start + memory.len();
        let near = self.regions.range(..=(start, usize::MAX)).rev().take(MOST_LOOKS);
        let found = near.map(|(key, _)| *key).find(|(_, last)| *last >= end);
        let key = match found {
            Some(key) => key,
            None => {
                // SAFETY: the caller's promise.
                let region = unsafe { MemoryRegion::register(endpoint, memory, access) }?;
                self.regions.insert((start, end), region);
                (start, end)
            }
        };
        Ok(&self.regions[&key])
    }

    /// Drops all regions. No operation that uses one may be in flight.
    pub(super) fn forget(&mut self) {
        self.regions.clear();
    }
}

/// How many regions that begin before a piece of memory are looked at. A region too many costs less than a long search.
const MOST_LOOKS: usize = 4;
