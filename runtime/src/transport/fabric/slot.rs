//! The two ends of an ordered pair of ranks: memory, and how far each slot is.
//!
//! Message k uses slot k mod slots in generation k / slots. The receiver posts a receive for the slot's generation,
//! then sends the credit for it; the sender has a receive posted for that credit, and sends the message once it has
//! the credit. So each operation's partner is known by its tag alone, in whatever order things arrive, and the grant
//! that opens a pair is nothing but the credits of generation 0.

use std::ops::Range;

use crate::fabric::{Memory, MemoryRegion};
use crate::transport::{Header, SendToken};

/// The sending end.
#[derive(Debug)]
pub(super) struct SendEnd {
    pub(super) memory: Memory,
    pub(super) region: Option<MemoryRegion>,
    /// The number of the next message.
    pub(super) next: u64,
    pub(super) slots: Vec<SendSlot>,
}

/// A slot at the receiver, as the sender knows it.
#[derive(Debug, Default)]
pub(super) struct SendSlot {
    /// How many generations the receiver has granted; the receive for this generation's credit is posted, or about to be.
    pub(super) granted: u64,
    /// The send that is not complete yet, and the region of its payload where the provider wants one.
    pub(super) in_flight: Option<(SendToken, Option<MemoryRegion>)>,
}

impl SendEnd {
    pub(super) fn new(slots: usize) -> Self {
        SendEnd {
            memory: Memory::new(slots * 2 * CELL_BYTES),
            region: None,
            next: 0,
            slots: (0..slots).map(|_| SendSlot::default()).collect(),
        }
    }

    /// Slot and generation of the next message, if the slot is free there and here.
    pub(super) fn free_slot(&self) -> Option<(usize, u64)> {
        let (index, generation) = place(self.next, self.slots.len());
        let slot = &self.slots[index];
        (slot.granted > generation && slot.in_flight.is_none()).then_some((index, generation))
    }

    /// Where the header of the slot's message is kept while it is sent.
    pub(super) fn header_cell(&self, slot: usize) -> Range<usize> {
        cell(2 * slot)
    }

    /// Where the slot's credit is received.
    pub(super) fn credit_cell(&self, slot: usize) -> Range<usize> {
        cell(2 * slot + 1)
    }
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    pub(super) memory: Memory,
    pub(super) region: Option<MemoryRegion>,
    /// The number of the message that [`crate::transport::Transport::arrived`] shows next.
    pub(super) next: u64,
    pub(super) slots: Vec<ReceiveSlot>,
    stride_bytes: usize,
}

/// A slot here.
#[derive(Debug, Default)]
pub(super) struct ReceiveSlot {
    /// The generation that is posted, about to be, or here.
    pub(super) generation: u64,
    /// The message, when it is here.
    pub(super) arrived: Option<Header>,
    /// Whether the send of the last credit is not complete yet.
    pub(super) credit_in_flight: bool,
}

impl ReceiveEnd {
    pub(super) fn new(slots: usize, slot_bytes: usize) -> Self {
        let stride_bytes = CELL_BYTES + slot_bytes.next_multiple_of(CELL_BYTES);
        ReceiveEnd {
            memory: Memory::new(slots * (CELL_BYTES + stride_bytes)),
            region: None,
            next: 0,
            slots: (0..slots).map(|_| ReceiveSlot::default()).collect(),
            stride_bytes,
        }
    }

    /// The slot of the next message.
    pub(super) fn current(&self) -> usize {
        place(self.next, self.slots.len()).0
    }

    /// Where the slot's credit is kept while it is sent.
    pub(super) fn credit_cell(&self, slot: usize) -> Range<usize> {
        cell(slot)
    }

    /// The slot: a header, then room for the payload.
    pub(super) fn slot(&self, slot: usize) -> Range<usize> {
        let start = self.slots.len() * CELL_BYTES + slot * self.stride_bytes;
        start..start + self.stride_bytes
    }

    /// Where the header of the slot's message is.
    pub(super) fn header(&self, slot: usize) -> Range<usize> {
        let start = self.slot(slot).start;
        start..start + CELL_BYTES
    }

    /// Where the payload of the slot's message is.
    pub(super) fn payload(&self, slot: usize, len_bytes: usize) -> Range<usize> {
        let start = self.slot(slot).start + CELL_BYTES;
        start..start + len_bytes
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

/// The header of a message of `received_bytes`, header included; `None` when the two do not agree.
pub(super) fn decode(bytes: &[u8], received_bytes: usize) -> Option<Header> {
    let header = Header {
        signature: u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?),
        sequence: u32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?),
        len_bytes: u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?),
    };
    (received_bytes == CELL_BYTES + header.len_bytes as usize).then_some(header)
}

/// Slot and generation of message `number`.
fn place(number: u64, slots: usize) -> (usize, u64) {
    ((number % slots as u64) as usize, number / slots as u64)
}

fn cell(index: usize) -> Range<usize> {
    index * CELL_BYTES..(index + 1) * CELL_BYTES
}

/// A header's size, and what everything is aligned to.
pub(super) const CELL_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_when_granted_and_not_in_flight() {
        let mut end = SendEnd::new(2);
        assert_eq!(end.free_slot(), None);
        end.slots[0].granted = 1;
        assert_eq!(end.free_slot(), Some((0, 0)));
        end.next = 2;
        assert_eq!(end.free_slot(), None, "generation 1 was not granted");
        end.slots[0].granted = 2;
        end.slots[0].in_flight = Some((SendToken(0), None));
        assert_eq!(end.free_slot(), None, "generation 0 is still being sent");
    }

    #[test]
    fn pieces_of_an_end_do_not_overlap() {
        let end = ReceiveEnd::new(3, 100);
        let mut pieces: Vec<_> = (0..3).flat_map(|slot| [end.credit_cell(slot), end.slot(slot)]).collect();
        pieces.sort_by_key(|piece| piece.start);
        assert!(pieces.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!(end.payload(1, 100).start % 16, 0);
        assert!(end.payload(1, 100).end <= end.slot(1).end);
    }

    #[test]
    fn a_header_that_disagrees_with_what_arrived_is_none() {
        let header = Header { signature: 1 << 63 | 5, sequence: 9, len_bytes: 7 };
        assert_eq!(decode(&encode(header), 23), Some(header));
        assert_eq!(decode(&encode(header), 24), None);
        assert_eq!(decode(&encode(header)[..10], 23), None);
    }
}
