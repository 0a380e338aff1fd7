//! Address handles: the short numbers that a device gives to other devices' addresses.
//!
//! Handles belong to a protection domain: within one, handles to one address share one number, and count. A completion
//! names its sender by the number in its queue pair's domain; for a sender that no handle was made for there, it carries
//! the whole GID instead.

use std::collections::HashMap;

use crate::address::Gid;

/// The address handles of a process on a device.
#[derive(Debug)]
pub struct Handles {
    numbers: HashMap<(u32, Gid), (u16, u32)>,
    is_taken: Vec<bool>,
    handles: u32,
    limit: u32,
}

impl Handles {
    /// None yet, `limit` at most.
    pub fn new(limit: u32) -> Handles {
        let limit = limit.min(u32::from(u16::MAX));
        Handles { numbers: HashMap::new(), is_taken: Vec::new(), handles: 0, limit }
    }

    /// Makes a handle of a domain; none when the device has no more.
    pub fn add(&mut self, domain: u32, gid: Gid) -> Option<u16> {
        if self.handles >= self.limit {
            return None;
        }
        self.handles += 1;
        if let Some((number, users)) = self.numbers.get_mut(&(domain, gid)) {
            *users += 1;
            return Some(*number);
        }
        let number = match self.is_taken.iter().position(|is_taken| !is_taken) {
            Some(place) => place,
            None => {
                self.is_taken.push(true);
                self.is_taken.len() - 1
            }
        };
        self.is_taken[number] = true;
        // Fits: there are at most `limit` of them.
        self.numbers.insert((domain, gid), (number as u16, 1));
        Some(number as u16)
    }

    /// Gives a handle back.
    pub fn remove(&mut self, domain: u32, gid: Gid) {
        let Some((number, users)) = self.numbers.get_mut(&(domain, gid)) else { return };
        self.handles -= 1;
        *users -= 1;
        if *users == 0 {
            self.is_taken[usize::from(*number)] = false;
            self.numbers.remove(&(domain, gid));
        }
    }

    /// The number that an address has in a domain.
    pub fn number(&self, domain: u32, gid: Gid) -> Option<u16> {
        self.numbers.get(&(domain, gid)).map(|(number, _)| *number)
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
        let mut add = |last| handles.add(1, gid(last));
        assert_eq!((add(1), add(2), add(1)), (Some(0), Some(1), Some(0)));
        handles.remove(1, gid(1));
        assert_eq!(handles.number(1, gid(1)), Some(0));
        handles.remove(1, gid(1));
        assert_eq!((handles.number(1, gid(1)), handles.add(1, gid(3))), (None, Some(0)));
    }

    #[test]
    fn domains_do_not_share_handles() {
        let mut handles = Handles::new(10);
        assert_eq!(handles.add(1, gid(1)), Some(0));
        assert_eq!(handles.number(2, gid(1)), None);
        assert_eq!(handles.add(2, gid(1)), Some(1));
        handles.remove(1, gid(1));
        assert_eq!((handles.number(1, gid(1)), handles.number(2, gid(1))), (None, Some(1)));
    }

    #[test]
    fn limit_counts_handles_not_addresses() {
        let mut handles = Handles::new(2);
        assert!(handles.add(1, gid(1)).is_some() && handles.add(1, gid(1)).is_some());
        assert_eq!(handles.add(1, gid(1)), None);
    }
}
