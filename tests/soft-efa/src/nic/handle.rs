//! Address handles: the short numbers that a device gives to other devices' addresses.
//!
//! Handles to one address share one number, and count. A completion names its sender by this number; for a sender
//! that no handle was made for, it carries the whole GID instead.

use std::collections::HashMap;

use crate::address::Gid;

/// The address handles of a process on a device.
#[derive(Debug)]
pub struct Handles {
    numbers: HashMap<Gid, (u16, u32)>,
    addresses: Vec<Option<Gid>>,
    handles: u32,
    limit: u32,
}

impl Handles {
    /// None yet, `limit` at most.
    pub fn new(limit: u32) -> Handles {
        let limit = limit.min(u32::from(u16::MAX));
        Handles { numbers: HashMap::new(), addresses: Vec::new(), handles: 0, limit }
    }

    /// Makes a handle; none when the device has no more.
    pub fn add(&mut self, gid: Gid) -> Option<u16> {
        if self.handles >= self.limit {
            return None;
        }
        self.handles += 1;
        if let Some((number, users)) = self.numbers.get_mut(&gid) {
            *users += 1;
            return Some(*number);
        }
        let number = match self.addresses.iter().position(Option::is_none) {
            Some(place) => place,
            None => {
                self.addresses.push(None);
                self.addresses.len() - 1
            }
        };
        self.addresses[number] = Some(gid);
        // Fits: there are at most `limit` of them.
        self.numbers.insert(gid, (number as u16, 1));
        Some(number as u16)
    }

    /// Gives a handle back.
    pub fn remove(&mut self, gid: Gid) {
        let Some((number, users)) = self.numbers.get_mut(&gid) else { return };
        self.handles -= 1;
        *users -= 1;
        if *users == 0 {
            self.addresses[usize::from(*number)] = None;
            self.numbers.remove(&gid);
        }
    }

    /// The number that an address has.
    pub fn number(&self, gid: Gid) -> Option<u16> {
        self.numbers.get(&gid).map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(last: u8) -> Gid {
        Gid::new([10, 0, 0, last].into(), 0)
    }

    #[test]
    fn handles_to_one_address_share_its_number() {
        let mut handles = Handles::new(10);
        assert_eq!(
            (handles.add(gid(1)), handles.add(gid(2)), handles.add(gid(1))),
            (Some(0), Some(1), Some(0))
        );
        handles.remove(gid(1));
        assert_eq!(handles.number(gid(1)), Some(0));
        handles.remove(gid(1));
        assert_eq!((handles.number(gid(1)), handles.add(gid(3))), (None, Some(0)));
    }

    #[test]
    fn limit_counts_handles_not_addresses() {
        let mut handles = Handles::new(2);
        assert!(handles.add(gid(1)).is_some() && handles.add(gid(1)).is_some());
        assert_eq!(handles.add(gid(1)), None);
    }
}
