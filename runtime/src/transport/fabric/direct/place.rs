//! Places in the receiver's own memory, where messages are written instead of into its slots.
//!
//! A receiver that knows where later messages belong says so with the credit that allows them: behind the notice of a credit with
//! places there is a table: the generation that it is for, and of each slot of the block the address and length of the next message's
//! place, and a key for each piece on the rail that the piece goes over. A message of another length than its place goes into its slot, and so does one
//! that has no place; which of the two it was its pieces' notices say. Nobody waits for a place.
//!
//! A place is written to once, by the message that it was given for. What fails on the way there goes over another rail into the
//! slot, so that nothing comes late to memory that the receiver has given back. Where a receiver sees that this was so, it takes the
//! regions back whose cards may still be at it, before it shows the message or, where messages under way use the same region,
//! when these have come; and gives that peer no more places. No place outlasts a call: each is of a message that the call takes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::credit::Blocks;
use super::super::slot::{CELL_BYTES, Payload};
use crate::fabric::{MemoryRegion, Target};

/// A place here, which a peer may write to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) memory: Payload,
    /// The piece's on its rail, piece by piece.
    pub(super) regions: Vec<Arc<MemoryRegion>>,
}

/// Where later messages of a peer belong, by number, as long as no credit has said so.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<u64, Payload>);

impl Told {
    /// Learns where a message belongs.
    pub(super) fn add(&mut self, number: u64, memory: Payload) {
        self.0.insert(number, memory);
    }

    /// Where a message belongs, if that was told.
    pub(super) fn take(&mut self, number: u64) -> Option<Payload> {
        self.0.remove(&number)
    }

    /// Forgets messages that were passed.
    pub(super) fn forget_before(&mut self, number: u64) {
        self.0 = self.0.split_off(&number);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// A place at a peer, for one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// The generation of its slot that it is for.
    pub(super) generation: u64,
    pub(super) address: u64,
    pub(super) len_bytes: usize,
    /// One per piece, for the rail that the piece goes over.
    pub(super) keys: Vec<u64>,
}

impl Remote {
    /// Whether it is for this message.
    pub(super) fn is_for(&self, generation: u64, len_bytes: usize) -> bool {
        (self.generation, self.len_bytes) == (generation, len_bytes)
    }

    /// Where a piece is written.
    pub(super) fn target(&self, piece: usize, range: &Range<usize>) -> Option<Target> {
        let key = *self.keys.get(piece)?;
        Some(Target { address: self.address.wrapping_add(range.start as u64), key })
    }
}

/// How a block's places travel: a generation, and of each slot an address, a length and a key per piece. No length is no place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pieces: usize,
    slots: usize,
}

impl Table {
    pub(super) fn new(blocks: Blocks, pieces: usize) -> Self {
        Table { pieces, slots: blocks.slots() / blocks.count() }
    }

    /// How long the table of a block is.
    pub(super) fn len_bytes(self) -> usize {
        CELL_BYTES + self.slots * self.entry_bytes()
    }

    fn entry_bytes(self) -> usize {
        16 + 8 * self.pieces.next_multiple_of(2)
    }

    /// A block's table for this generation, of these places, one or none for each slot.
    pub(super) fn encode<'p>(
        self,
        generation: u64,
        places: impl Iterator<Item = Option<&'p Place>>,
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        bytes.extend(generation.to_le_bytes());
        bytes.resize(CELL_BYTES, 0);
        for place in places {
            let start = bytes.len();
            if let Some(Place { memory, regions }) = place {
                let words = [memory.address() as u64, memory.len_bytes() as u64];
                let words = words.into_iter().chain(regions.iter().map(|region| region.key()));
                bytes.extend(words.flat_map(u64::to_le_bytes));
            }
            bytes.resize(start + self.entry_bytes(), 0);
        }
        bytes
    }

    /// The places of a block's slots, for messages of this generation; none of a table that is for another one.
    pub(super) fn decode(self, bytes: &[u8], generation: u64) -> Vec<Option<Remote>> {
        let entry = |bytes: &[u8]| {
            let (words, _) = bytes.as_chunks::<8>();
            let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
            let (address, len_bytes) = (words.next()?, usize::try_from(words.next()?).ok()?);
            let keys = words.take(self.pieces).collect();
            (len_bytes > 0).then_some(Remote { generation, address, len_bytes, keys })
        };
        let (first, entries) = bytes.split_at(CELL_BYTES.min(bytes.len()));
        let is_for = first.first_chunk().is_some_and(|bytes| u64::from_le_bytes(*bytes) == generation);
        let entry = |bytes| Some(bytes).filter(|_| is_for).and_then(entry);
        entries.chunks_exact(self.entry_bytes()).take(self.slots).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_survives_its_bytes_and_is_for_its_generation() {
        let memory = vec![0; 5000];
        let place = Place { memory: Payload::new(&raw const memory[..]), regions: Vec::new() };
        for pieces in [1, 2, 3, 32] {
            let table = Table::new(Blocks::of(8), pieces);
            let bytes = table.encode(7, [None, Some(&place), None, None].into_iter());
            assert_eq!(bytes.len(), table.len_bytes());
            assert!(bytes.len().is_multiple_of(CELL_BYTES));
            let places = table.decode(&bytes, 7);
            let address = memory.as_ptr().addr() as u64;
            let expected = Remote { generation: 7, address, len_bytes: 5000, keys: vec![0; pieces] };
            assert_eq!(places, [None, Some(expected), None, None]);
            assert_eq!(table.decode(&bytes, 8), [None, None, None, None], "it is for another generation");
        }
    }

    #[test]
    fn a_place_is_for_one_message_of_one_length() {
        let remote = Remote { generation: 2, address: 1 << 20, len_bytes: 300, keys: vec![5, 6] };
        assert!(remote.is_for(2, 300) && !remote.is_for(3, 300) && !remote.is_for(2, 299));
        assert_eq!(remote.target(1, &(200..300)), Some(Target { address: (1 << 20) + 200, key: 6 }));
        assert_eq!(remote.target(2, &(0..1)), None);
    }

    #[test]
    fn what_was_told_is_taken_by_number_and_what_is_passed_forgotten() {
        let mut told = Told::default();
        let memory = |len| Payload::new(std::ptr::slice_from_raw_parts(std::ptr::dangling(), len));
        for number in [3, 5, 6] {
            told.add(number, memory(number as usize));
        }
        told.forget_before(4);
        assert!(told.take(4).is_none());
        assert_eq!(told.take(5).map(Payload::len_bytes), Some(5));
        assert!(told.take(3).is_none(), "it was passed");
        assert!(!told.is_empty());
        assert_eq!(told.take(6).map(Payload::len_bytes), Some(6));
        assert!(told.is_empty());
    }
}
