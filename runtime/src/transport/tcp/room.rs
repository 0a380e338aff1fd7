//! Memory for a peer's messages that have arrived and were not released yet.
//!
//! They are released in the order in which they arrived, so that a ring has room for them, made once: no message needs
//! memory of its own however ranks happen to run. As soon as none is there the ring begins at its beginning again,
//! which is in the cache. What a peer may have on its way fits; what goes beyond is refused.

use super::credit::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, SLOT_BYTES};

/// Room for the messages of one peer.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Made when the first message comes, wherever that lands: which message is the first that finds nobody expecting it
    /// is chance, and a repeated call allocates nothing. It takes memory where it was touched.
    words: Box<[u128]>,
    /// Where the next message goes, if it fits there.
    next: usize,
    /// Where the oldest message begins.
    oldest: usize,
    /// How many are here.
    count: usize,
}

impl Room {
    /// Sees to it that there is memory.
    pub(super) fn make(&mut self) {
        if self.words.is_empty() {
            self.words = vec![0; ROOM_WORDS].into_boxed_slice();
        }
    }

    /// Where a message goes that comes now; none where there is no room.
    pub(super) fn place(&mut self, len_bytes: usize) -> Option<usize> {
        self.make();
        let needed = words(len_bytes);
        if self.count == 0 {
            (self.next, self.oldest) = (0, 0);
        }
        let is_wrapped = self.next < self.oldest;
        // Never up to the oldest: a full ring would look like an empty one.
        if is_wrapped {
            (self.next + needed < self.oldest).then_some(self.next)
        } else if self.next + needed <= ROOM_WORDS {
            Some(self.next)
        } else {
            (needed < self.oldest).then_some(0)
        }
    }

    /// Takes the room that [`Room::place`] shows.
    pub(super) fn take(&mut self, len_bytes: usize) -> Option<usize> {
        let start = self.place(len_bytes)?;
        self.next = start + words(len_bytes);
        self.count += 1;
        Some(start)
    }

    /// Gives the oldest message's room back.
    pub(super) fn release(&mut self, start: usize, len_bytes: usize) {
        self.oldest = start + words(len_bytes);
        self.count -= 1;
    }

    /// A message's bytes.
    pub(super) fn bytes(&self, start: usize, len_bytes: usize) -> &[u8] {
        &bytemuck::cast_slice(&self.words[start..])[..len_bytes]
    }

    /// A message's bytes, as it arrives.
    pub(super) fn bytes_mut(&mut self, start: usize, len_bytes: usize) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words[start..])[..len_bytes]
    }

    /// Whether it was never needed.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.count == 0 && self.next == 0
    }
}

fn words(len_bytes: usize) -> usize {
    len_bytes.div_ceil(size_of::<u128>())
}

/// What may be on its way, each message rounded up, and what is left over where the longest does not fit before the end.
const ROOM_WORDS: usize = (MAX_IN_FLIGHT_BYTES + SLOT_BYTES) / size_of::<u128>() + MAX_IN_FLIGHT as usize + 1;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever lengths come within what may be on its way, and however late they are released.
        #[test]
        fn what_may_be_on_its_way_fits_and_nothing_overlaps(
            lens in prop::collection::vec(
                prop_oneof![0..100usize, Just(SLOT_BYTES), SLOT_BYTES / 3..SLOT_BYTES], 1..400
            ),
            patience in 1..MAX_IN_FLIGHT as usize,
        ) {
            let mut room = Room::default();
            let mut here: VecDeque<(usize, usize)> = VecDeque::new();
            for len_bytes in lens {
                let bytes = |here: &VecDeque<(usize, usize)>| here.iter().map(|(_, len)| len).sum::<usize>();
                while here.len() > patience || bytes(&here) + len_bytes > MAX_IN_FLIGHT_BYTES {
                    let (start, len) = here.pop_front().unwrap();
                    room.release(start, len);
                }
                let shown = room.place(len_bytes);
                prop_assert!(shown.is_some(), "{} bytes beside {:?}", len_bytes, here);
                prop_assert_eq!(room.take(len_bytes), shown);
                let start = shown.unwrap();
                prop_assert!(start + words(len_bytes) <= ROOM_WORDS);
                for &(other, len) in &here {
                    let is_apart = start + words(len_bytes) <= other || other + words(len) <= start;
                    prop_assert!(is_apart || len == 0 || len_bytes == 0, "{} and {}", start, other);
                }
                here.push_back((start, len_bytes));
            }
        }
    }

    #[test]
    fn more_than_may_be_on_its_way_is_refused_in_the_end() {
        let mut room = Room::default();
        let taken = std::iter::from_fn(|| room.take(SLOT_BYTES)).count();
        assert_eq!(taken, ROOM_WORDS * size_of::<u128>() / SLOT_BYTES);
    }

    #[test]
    fn an_empty_room_begins_at_its_beginning() {
        let mut room = Room::default();
        for _ in 0..3 {
            let start = room.take(5000).unwrap();
            assert_eq!(start, 0);
            room.release(start, 5000);
        }
    }
}
