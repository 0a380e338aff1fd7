//! What both protocols have of an ordered pair of ranks: how its messages are cut, and the end that sends.
//!
//! Which slot a message uses, and when, is in [`super::credit`]. A message is cut into pieces of a fixed size, one per rail at most; a short one is one piece. Piece p of slot s goes over rail
//! (s + p) mod rails, so that long messages use all rails, short ones take turns, and both ends know which piece comes
//! where.

use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use super::credit::{Blocks, Granted, place};
use crate::fabric::{Memory, MemoryRegion};
use crate::transport::{Header, SendToken};

/// How messages are cut, the same for all pairs of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// The longest piece, header aside.
    pub(super) piece_bytes: usize,
    /// How many pieces a message has at most, which is the number of rails.
    pub(super) pieces: usize,
}

impl Cut {
    /// The largest payload.
    pub(super) fn slot_bytes(self) -> usize {
        self.piece_bytes * self.pieces
    }

    /// How many pieces a payload has.
    pub(super) fn count(self, len_bytes: usize) -> usize {
        len_bytes.div_ceil(self.piece_bytes).max(1)
    }

    /// Where a piece is in a payload.
    pub(super) fn range(self, len_bytes: usize, piece: usize) -> Range<usize> {
        (piece * self.piece_bytes).min(len_bytes)..((piece + 1) * self.piece_bytes).min(len_bytes)
    }

    /// The rail of a piece of a slot's message.
    pub(super) fn rail(self, slot: usize, piece: usize) -> usize {
        (slot + piece) % self.pieces
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct SendEnd {
    /// One per rail, where the provider takes regions. Before the memory, so that they are dropped first.
    pub(super) regions: Vec<MemoryRegion>,
    pub(super) memory: Memory,
    /// The number of the next message.
    pub(super) next: u64,
    pub(super) granted: Granted,
    /// For each slot at the receiver, the message that is not sent completely yet.
    pub(super) sending: Vec<Option<Sending>>,
    /// How many credits can be under way to us.
    credits: usize,
}

/// A message under way.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) token: SendToken,
    pub(super) payload: Payload,
    pub(super) generation: u64,
    /// Its operations that are not over.
    pub(super) left: usize,
    /// Regions of the payload, which are in use until it is sent.
    pub(super) regions: Vec<Arc<MemoryRegion>>,
}

/// A caller's memory, by its address: whoever hands it to an operation answers for its use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    address: usize,
    len_bytes: usize,
}

impl Payload {
    pub(super) fn new(memory: *const [u8]) -> Self {
        Payload { address: memory.cast::<u8>().expose_provenance(), len_bytes: memory.len() }
    }

    pub(super) fn len_bytes(self) -> usize {
        self.len_bytes
    }

    pub(super) fn address(self) -> usize {
        self.address
    }

    /// A part of it.
    pub(super) fn part(self, range: &Range<usize>) -> *const [u8] {
        debug_assert!(range.start <= range.end && range.end <= self.len_bytes, "inside the payload");
        let start = ptr::with_exposed_provenance::<u8>(self.address).wrapping_add(range.start);
        ptr::slice_from_raw_parts(start, range.len())
    }
}

impl SendEnd {
    pub(super) fn new(blocks: Blocks) -> Self {
        let (slots, credits) = (blocks.slots(), blocks.count());
        SendEnd {
            regions: Vec::new(),
            memory: Memory::new(credits * CELL_BYTES + slots * STAGE_BYTES),
            next: 0,
            granted: Granted::new(blocks),
            sending: (0..slots).map(|_| None).collect(),
            credits,
        }
    }

    /// Slot and generation of the next message, if the slot is free there and here.
    pub(super) fn free_slot(&self) -> Option<(usize, u64)> {
        let (slot, generation) = place(self.next, self.sending.len());
        let is_free = self.granted.allows(slot, generation) && self.sending[slot].is_none();
        is_free.then_some((slot, generation))
    }

    /// Keeps a region in use until the slot's message is sent.
    pub(super) fn share(&mut self, slot: usize, region: Option<Arc<MemoryRegion>>) {
        if let Some(message) = &mut self.sending[slot] {
            message.regions.extend(region);
        }
    }

    /// Notes that an operation of the slot's message is over; the message's token when it was the last.
    pub(super) fn sent(&mut self, slot: usize) -> Option<SendToken> {
        let sending = &mut self.sending[slot];
        sending.as_mut()?.left -= 1;
        sending.take_if(|message| message.left == 0).map(|message| message.token)
    }

    /// Whether a message is not sent completely.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.iter().any(Option::is_some)
    }

    /// How many operations of messages are not over.
    pub(super) fn under_way(&self) -> usize {
        self.sending.iter().flatten().map(|message| message.left).sum()
    }

    /// Where a block's credit is received, where credits are messages.
    pub(super) fn credit_cell(&self, block: usize) -> Range<usize> {
        block * CELL_BYTES..(block + 1) * CELL_BYTES
    }

    /// Where the slot's message is kept while it is sent: its header and, of a short one, the payload.
    pub(super) fn stage(&self, slot: usize, payload_bytes: usize) -> Range<usize> {
        let start = self.credits * CELL_BYTES + slot * STAGE_BYTES;
        start..start + CELL_BYTES + payload_bytes
    }
}

/// A header as it travels.
pub(super) fn encode(header: Header) -> [u8; CELL_BYTES] {
    let mut bytes = [0; CELL_BYTES];
    bytes[..8].copy_from_slice(&header.signature.to_le_bytes());
    bytes[8..12].copy_from_slice(&header.sequence.to_le_bytes());
    bytes[12..].copy_from_slice(&header.len_bytes.to_le_bytes());
    bytes
}

/// The header that bytes are; `None` where there are too few.
pub(super) fn decode(bytes: &[u8]) -> Option<Header> {
    Some(Header {
        signature: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
        sequence: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
        len_bytes: u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?),
    })
}

/// Of a message of so many bytes, header included, the payload is copied, which is cheaper than registering it: on soft EFA
/// a message of 4,160 bytes took 42 us where it was registered and 8 where it was copied, and copying 32 KiB takes some 3.
pub(super) const STAGE_BYTES: usize = 32 << 10;
/// The longest payload that is copied.
pub(super) const STAGED_BYTES: usize = STAGE_BYTES - CELL_BYTES;
/// A header's size, and what everything is aligned to.
pub(super) const CELL_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { piece_bytes: 128, pieces: 3 };

    #[test]
    fn a_slot_is_free_when_granted_and_not_sending() {
        let mut end = SendEnd::new(Blocks::of(2));
        assert_eq!(end.free_slot(), None);
        end.granted.grant(0);
        assert_eq!(end.free_slot(), Some((0, 0)));
        end.next = 2;
        assert_eq!(end.free_slot(), None, "generation 1 was not granted");
        end.granted.grant(0);
        let payload = Payload::new(&raw const b""[..]);
        end.sending[0] =
            Some(Sending { token: SendToken(0), payload, generation: 0, left: 2, regions: Vec::new() });
        assert_eq!(end.free_slot(), None, "generation 0 is still being sent");
        assert!(end.is_sending());
        assert_eq!((end.under_way(), end.sent(0)), (2, None));
        assert_eq!((end.under_way(), end.sent(0)), (1, Some(SendToken(0))));
        assert!(!end.is_sending());
        assert_eq!((end.free_slot(), end.sent(0)), (Some((0, 1)), None));
    }

    #[test]
    fn a_message_has_as_many_pieces_as_it_needs_and_they_make_it_up() {
        for (len, pieces) in [(0, 1), (1, 1), (128, 1), (129, 2), (256, 2), (257, 3), (384, 3)] {
            assert_eq!(CUT.count(len), pieces, "{len}");
            let ranges: Vec<_> = (0..pieces).map(|piece| CUT.range(len, piece)).collect();
            assert_eq!((ranges[0].start, ranges[pieces - 1].end), (0, len));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn pieces_of_a_slot_and_first_pieces_of_slots_go_over_every_rail() {
        for slot in 0..3 {
            let mut rails: Vec<_> = (0..3).map(|piece| CUT.rail(slot, piece)).collect();
            rails.sort_unstable();
            assert_eq!(rails, [0, 1, 2]);
            assert_eq!(CUT.rail(slot, 0), slot);
        }
    }

    #[test]
    fn places_of_an_end_do_not_overlap() {
        let end = SendEnd::new(Blocks::of(4));
        let stages = (0..4).map(|slot| end.stage(slot, STAGED_BYTES));
        let places: Vec<_> = (0..2).map(|block| end.credit_cell(block)).chain(stages).collect();
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!(places[5].end, end.memory.whole().len());
    }

    #[test]
    fn a_header_survives_its_bytes() {
        let header = Header { signature: 1 << 63 | 5, sequence: 9, len_bytes: 7 };
        assert_eq!(decode(&encode(header)), Some(header));
        assert_eq!(decode(&encode(header)[..10]), None);
    }
}
