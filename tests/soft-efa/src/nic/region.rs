//! Registered memory: what keys name, and who may do what to it.
//!
//! A key is the region's place in a table and the number of times that the place was used, so that a key which was
//! given back names nothing, rather than whoever got the place next.

use crate::status::Status;

/// What a region may be used for, in verbs' bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(pub u32);

impl Access {
    /// The device may write to it for its owner.
    pub const LOCAL_WRITE: Access = Access(1);
    /// Others may write to it.
    pub const REMOTE_WRITE: Access = Access(1 << 1);
    /// Others may read from it.
    pub const REMOTE_READ: Access = Access(1 << 2);
    /// It may be sent from: any region.
    pub const LOCAL_READ: Access = Access(0);

    fn allows(self, wanted: Access) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

/// What kind of memory a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The process's own.
    Host,
    /// A CUDA device's, by device pointer.
    Cuda,
}

/// A piece of memory that the device was told of.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// The protection domain that it is in.
    pub domain: u32,
    /// The address that operations use for its first byte.
    pub address: u64,
    /// Where its first byte is.
    pub memory: u64,
    /// How long it is.
    pub len_bytes: u64,
    /// What it may be used for.
    pub access: Access,
    /// What memory it is.
    pub kind: Kind,
}

impl Region {
    fn covers(&self, address: u64, len_bytes: u64) -> bool {
        let Some(start) = address.checked_sub(self.address) else { return false };
        start <= self.len_bytes && len_bytes <= self.len_bytes - start
    }

    /// Where an address that operations use lies in memory.
    pub fn locate(&self, address: u64) -> u64 {
        self.memory + (address - self.address)
    }
}

/// The regions of a process on a device.
#[derive(Debug)]
pub struct Regions {
    places: Vec<(u16, Option<Region>)>,
    free: Vec<u32>,
    limit: u32,
}

impl Regions {
    /// None yet, `limit` at most.
    pub fn new(limit: u32) -> Regions {
        Regions { places: Vec::new(), free: Vec::new(), limit: limit.min(PLACES) }
    }

    /// Adds a region and makes its key; none when the device has no more room.
    pub fn add(&mut self, region: Region) -> Option<u32> {
        if self.count() >= self.limit as usize {
            return None;
        }
        // A place rests as long as there are fresh ones, so that a stale key stays stale for long.
        let place = if self.places.len() < self.limit as usize {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        } else {
            self.free.pop()?
        };
        let (generation, entry) = &mut self.places[place as usize];
        *generation = generation.wrapping_add(1) & GENERATIONS;
        *entry = Some(region);
        Some(u32::from(*generation) << PLACE_BITS | place)
    }

    /// Forgets a region.
    pub fn remove(&mut self, key: u32) -> bool {
        let Some(entry) = self.entry_mut(key) else { return false };
        *entry = None;
        self.free.push(key & (PLACES - 1));
        true
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The memory that a key stands for, if the key is of this domain and covers the bytes for this use.
    ///
    /// # Errors
    ///
    /// `refusal`, whatever is wrong: hardware does not say more either.
    pub fn find(
        &self,
        key: u32,
        domain: u32,
        address: u64,
        len_bytes: u64,
        wanted: Access,
        refusal: Status,
    ) -> Result<&Region, Status> {
        self.entry(key)
            .filter(|region| region.domain == domain && region.access.allows(wanted))
            .filter(|region| region.covers(address, len_bytes))
            .ok_or(refusal)
    }

    fn entry(&self, key: u32) -> Option<&Region> {
        let (generation, region) = self.places.get((key & (PLACES - 1)) as usize)?;
        region.as_ref().filter(|_| u32::from(*generation) == key >> PLACE_BITS)
    }

    fn entry_mut(&mut self, key: u32) -> Option<&mut Option<Region>> {
        let (generation, region) = self.places.get_mut((key & (PLACES - 1)) as usize)?;
        (region.is_some() && u32::from(*generation) == key >> PLACE_BITS).then_some(region)
    }
}

const PLACE_BITS: u32 = 16;
const PLACES: u32 = 1 << PLACE_BITS;
/// Keys fit 31 bits.
const GENERATIONS: u16 = 0x7fff;

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> Region {
        Region {
            domain: 1,
            address: 0x1000,
            memory: 0x7000,
            len_bytes: 100,
            access: Access::REMOTE_READ,
            kind: Kind::Host,
        }
    }

    fn find(regions: &Regions, key: u32, address: u64, len_bytes: u64) -> bool {
        regions.find(key, 1, address, len_bytes, Access::REMOTE_READ, Status::RemoteBadAddress).is_ok()
    }

    #[test]
    fn key_covers_its_bytes_and_no_more() {
        let mut regions = Regions::new(4);
        let key = regions.add(region()).unwrap();
        assert!(find(&regions, key, 0x1000, 100) && find(&regions, key, 0x1064, 0));
        assert!(!find(&regions, key, 0x1000, 101) && !find(&regions, key, 0xfff, 1));
        assert!(!find(&regions, key, u64::MAX, 2) && !find(&regions, key, 0x1064, u64::MAX));
    }

    #[test]
    fn other_domain_or_use_is_refused() {
        let mut regions = Regions::new(4);
        let key = regions.add(region()).unwrap();
        let refusal = Status::RemoteBadAddress;
        assert!(regions.find(key, 2, 0x1000, 1, Access::REMOTE_READ, refusal).is_err());
        assert!(regions.find(key, 1, 0x1000, 1, Access::REMOTE_WRITE, refusal).is_err());
        assert!(regions.find(key, 1, 0x1000, 1, Access::LOCAL_READ, refusal).is_ok());
    }

    #[test]
    fn stale_key_names_nothing_even_when_its_place_is_used_again() {
        let mut regions = Regions::new(1);
        let old = regions.add(region()).unwrap();
        assert!(regions.remove(old) && !regions.remove(old));
        let new = regions.add(region()).unwrap();
        assert!(!find(&regions, old, 0x1000, 1) && find(&regions, new, 0x1000, 1));
    }

    #[test]
    fn limit_counts_what_is_registered_now() {
        let mut regions = Regions::new(2);
        let first = regions.add(region()).unwrap();
        regions.add(region()).unwrap();
        assert!(regions.add(region()).is_none());
        assert!(regions.remove(first));
        assert!(regions.add(region()).is_some() && regions.add(region()).is_none());
    }
}
