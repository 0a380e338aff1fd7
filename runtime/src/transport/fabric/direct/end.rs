//! The end of an ordered pair of ranks that is written to: memory, and how far each slot is.
//!
//! The receiver's slots lie one behind the other, each a header and a payload; where, and by which key on which rail, is in
//! the grant that the receiver writes into the sender's mailbox once. The sender writes a message into the slot: a short one in one piece behind its header, a longer one's
//! header by itself and its payload in pieces, each over the rail that [`Cut`] gives it. The receiver keeps
//! which of its parts the notices have told that come with them: the message is here when the header is, and as many
//! pieces as the header's length has. In what order they land makes no difference, nor how often, and nobody looks at
//! memory before its notice came.

use super::super::credit::Blocks;
use super::super::inbox::{Inbox, stride_bytes};
use super::super::slot::{CELL_BYTES, Cut, STAGED_BYTES};
use crate::fabric::Target;
use crate::transport::Header;

/// The receiving end.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    pub(super) inbox: Inbox,
    pub(super) slots: Vec<ReceiveSlot>,
}

/// A slot here.
#[derive(Debug, Default)]
pub(super) struct ReceiveSlot {
    /// The header, when it is here.
    pub(super) header: Option<Header>,
    /// Pieces of the payload that are here, a bit for each.
    pub(super) pieces: u32,
}

impl ReceiveEnd {
    /// With all slots ready, as the grant says.
    pub(super) fn new(blocks: Blocks, cut: Cut) -> Self {
        let mut inbox = Inbox::new(blocks, cut, 0);
        for slot in 0..blocks.slots() {
            inbox.ready(slot);
        }
        ReceiveEnd { inbox, slots: (0..blocks.slots()).map(|_| ReceiveSlot::default()).collect() }
    }
}

impl ReceiveSlot {
    /// The message, if all of it is here.
    pub(super) fn arrived(&self, cut: Cut) -> Option<Header> {
        let whole =
            |header: &Header| self.pieces.count_ones() as usize == pieces(header.len_bytes as usize, cut);
        self.header.filter(whole)
    }
}

/// Where a peer's slots are, as its grant says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) address: u64,
    /// One per rail.
    pub(super) keys: Vec<u64>,
}

impl Grant {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let words = std::iter::once(&self.address).chain(&self.keys);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8], rails: usize) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        Grant { address: words.next().unwrap_or_default(), keys: words.take(rails).collect() }
    }

    /// A place in a slot, counted from its header, for writes over a rail.
    pub(super) fn target(&self, slot: usize, offset: usize, rail: usize, cut: Cut) -> Target {
        let offset = slot * stride_bytes(cut) + offset;
        Target { address: self.address + offset as u64, key: self.keys[rail] }
    }
}

/// How many pieces come beside the first write of a message.
pub(super) fn pieces(len_bytes: usize, cut: Cut) -> usize {
    if len_bytes <= STAGED_BYTES { 0 } else { cut.count(len_bytes) }
}

/// What a peer's part of the mailbox has: room for its grant, and for what comes with a credit, which nobody reads.
pub(super) fn mailbox_bytes(rails: usize) -> usize {
    (8 + 8 * rails).next_multiple_of(CELL_BYTES) + CELL_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { piece_bytes: 64 << 10, pieces: 2 };

    #[test]
    fn a_message_is_here_when_its_header_and_all_its_pieces_are() {
        let header = |len_bytes| Header { signature: 1, sequence: 2, len_bytes };
        let mut slot = ReceiveSlot { pieces: 0b11, ..ReceiveSlot::default() };
        assert_eq!(slot.arrived(CUT), None, "pieces may overtake the header");
        slot.header = Some(header(100_000));
        assert_eq!(slot.arrived(CUT), slot.header);
        slot.pieces = 0b10;
        assert_eq!(slot.arrived(CUT), None);
        slot = ReceiveSlot { header: Some(header(100)), ..ReceiveSlot::default() };
        assert_eq!(slot.arrived(CUT), slot.header);
    }

    #[test]
    fn a_grant_survives_its_bytes_and_leads_into_slots() {
        let grant = Grant { address: 1 << 40, keys: vec![7, 9] };
        let mut bytes = grant.to_bytes();
        assert!(bytes.len() + CELL_BYTES <= mailbox_bytes(2));
        bytes.resize(mailbox_bytes(2), 0xEE);
        assert_eq!(Grant::from_bytes(&bytes, 2), grant);
        let end = ReceiveEnd::new(Blocks::of(2), CUT);
        let target = grant.target(1, CELL_BYTES + 8192, 1, CUT);
        let expected = (1 << 40) + end.inbox.payload(1, 100_000).start as u64 + 8192;
        assert_eq!(target, Target { address: expected, key: 9 });
    }
}
