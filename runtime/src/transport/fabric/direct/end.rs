//! The end of an ordered pair of ranks that is written to: memory, and how far each slot is.
//!
//! The receiver's slots lie one behind the other, each a header and a payload; where, and by which key on which rail, is in
//! the grant that the receiver writes into the sender's mailbox once. The sender writes a message into the slot: a short one in one piece behind its header, a longer one's
//! header by itself and its payload in pieces, each over the rail that [`Cut`] gives it. The receiver keeps
//! which of its parts the notices have told that come with them: the message is here when the header is, and as many
//! pieces as the header's length has. In what order they land makes no difference, nor how often, and nobody looks at
//! memory before its notice came. Where the receiver gave a [place](super::place) for the message, its pieces go there instead.
#![expect(unsafe_code, reason = "copies what landed into its slot, where it was told to be here")]

use std::ops::Range;
use std::sync::Arc;

use super::super::credit::Blocks;
use super::super::inbox::{Inbox, stride_bytes};
use super::super::slot::{CELL_BYTES, Cut, STAGED_BYTES};
use super::place::{Place, Table, Told};
use crate::fabric::{MemoryRegion, Target};
use crate::transport::Header;

/// The receiving end.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    pub(super) inbox: Inbox,
    pub(super) slots: Vec<ReceiveSlot>,
    /// Where later messages belong.
    pub(super) told: Told,
    /// Of each block, the last generation that places were looked for, and whether there were any.
    pub(super) given: Vec<Option<(u64, bool)>>,
    /// The peer gets no more places: a message came into its slot though there was one.
    pub(super) gives_none: bool,
}

/// A slot here.
#[derive(Debug, Default)]
pub(super) struct ReceiveSlot {
    /// The header, when it is here.
    pub(super) header: Option<Header>,
    /// Pieces of the payload that are here, a bit for each.
    pub(super) pieces: u32,
    /// The same of what is in the message's place.
    pub(super) landed: u32,
    pub(super) given: Given,
}

/// The place of a slot's message.
#[derive(Debug, Default)]
pub(super) enum Given {
    /// It has none.
    #[default]
    Nothing,
    /// The peer may write there.
    Open(Place),
    /// All of the message is there.
    Taken(Place),
    /// Not all of it came there.
    Withdrawn,
}

impl ReceiveEnd {
    /// With all slots ready, as the grant says.
    pub(super) fn new(blocks: Blocks, cut: Cut) -> Self {
        let mut inbox = Inbox::new(blocks, cut, 0);
        for slot in 0..blocks.slots() {
            inbox.ready(slot);
        }
        ReceiveEnd {
            inbox,
            slots: (0..blocks.slots()).map(|_| ReceiveSlot::default()).collect(),
            told: Told::default(),
            given: vec![None; blocks.count()],
            gives_none: false,
        }
    }

    /// Once all of a slot's message is here, settles where it is: in its place, or else all of it in the slot. Then what the peer
    /// may still be writing to the place by is to be given up: these regions, each on its rail.
    pub(super) fn settle(&mut self, slot: usize, cut: Cut) -> Vec<(usize, Arc<MemoryRegion>)> {
        let it = &mut self.slots[slot];
        let Some(header) = it.arrived(cut) else { return Vec::new() };
        let len_bytes = header.len_bytes as usize;
        let place = match std::mem::take(&mut it.given) {
            Given::Open(place) => place,
            other => {
                it.given = other;
                return Vec::new();
            }
        };
        if it.landed & all(len_bytes, cut) == all(len_bytes, cut) && place.memory.len_bytes() == len_bytes {
            it.given = Given::Taken(place);
            return Vec::new();
        }
        (it.given, self.gives_none) = (Given::Withdrawn, true);
        let is_in = |pieces: u32, piece: usize| pieces >> piece & 1 == 1;
        for piece in (0..pieces(len_bytes, cut)).filter(|piece| !is_in(it.pieces, *piece)) {
            let range = cut.range(len_bytes, piece);
            let start = self.inbox.payload(slot, len_bytes).start + range.start;
            // SAFETY: this piece is in the place and not in the slot, each by its own notice, so that nobody writes to either.
            unsafe { self.inbox.memory.write(start, &*place.memory.part(&range)) };
        }
        let late = place.regions.into_iter().enumerate().filter(|(piece, _)| !is_in(it.landed, *piece));
        late.map(|(piece, region)| (cut.rail(slot, piece), region)).collect()
    }
}

impl ReceiveSlot {
    /// The message, if all of it is here.
    pub(super) fn arrived(&self, cut: Cut) -> Option<Header> {
        let here = self.pieces | self.landed;
        let is_whole = |header: &Header| {
            let all = all(header.len_bytes as usize, cut);
            here & all == all
        };
        self.header.filter(is_whole)
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

/// The bits of all pieces that come beside the first write of a message.
fn all(len_bytes: usize, cut: Cut) -> u32 {
    ((1_u64 << pieces(len_bytes, cut)) - 1) as u32
}

/// What a peer's part of the mailbox has: room for its grant, for the places of each block, and for what comes with other credits,
/// which nobody reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) table: Table,
    rails: usize,
    blocks: usize,
}

impl Layout {
    pub(super) fn new(blocks: Blocks, rails: usize) -> Self {
        Layout { table: Table::new(blocks, rails), rails, blocks: blocks.count() }
    }

    pub(super) fn grant(self) -> Range<usize> {
        0..(8 + 8 * self.rails).next_multiple_of(CELL_BYTES)
    }

    pub(super) fn places(self, block: usize) -> Range<usize> {
        let start = self.grant().end + block * self.table.len_bytes();
        start..start + self.table.len_bytes()
    }

    pub(super) fn unread(self) -> Range<usize> {
        let start = self.places(self.blocks).start;
        start..start + CELL_BYTES
    }

    /// How long all of it is.
    pub(super) fn len_bytes(self) -> usize {
        self.unread().end
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::slot::Payload;
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
        slot.landed = 0b01;
        assert_eq!(slot.arrived(CUT), slot.header, "one in the slot, one in the place");
        slot = ReceiveSlot { header: Some(header(100)), ..ReceiveSlot::default() };
        assert_eq!(slot.arrived(CUT), slot.header);
    }

    /// A message of two pieces whose place is this memory, of which so many came to the slot and to the place.
    fn settled(memory: &[u8], pieces: u32, landed: u32) -> ReceiveEnd {
        let mut end = ReceiveEnd::new(Blocks::of(2), CUT);
        let place = Place { memory: Payload::new(memory), regions: Vec::new() };
        let header = Some(Header { signature: 1, sequence: 2, len_bytes: 100_000 });
        end.slots[0] = ReceiveSlot { header, pieces, landed, given: Given::Open(place) };
        let payload = end.inbox.payload(0, 100_000);
        // SAFETY: nobody else knows of the memory.
        unsafe { end.inbox.memory.write(payload.start, &[1; 100_000]) };
        assert!(end.settle(0, CUT).is_empty());
        end
    }

    #[test]
    fn a_message_that_came_to_both_is_put_together_in_the_slot_and_is_the_last_with_a_place() {
        let place = vec![2; 100_000];
        for (pieces, landed, first, second) in [(0b01, 0b10, 1, 2), (0b10, 0b01, 2, 1), (0b11, 0b00, 1, 1)] {
            let end = settled(&place, pieces, landed);
            assert!(matches!(end.slots[0].given, Given::Withdrawn) && end.gives_none);
            // SAFETY: as above.
            let bytes = unsafe { end.inbox.memory.bytes(end.inbox.payload(0, 100_000)) };
            let (one, other) = bytes.split_at(64 << 10);
            assert!(one.iter().all(|byte| *byte == first) && other.iter().all(|byte| *byte == second));
        }
    }

    #[test]
    fn a_message_that_landed_is_in_its_place_whatever_came_to_the_slot_besides() {
        let place = vec![2; 100_000];
        for pieces in [0b00, 0b10, 0b11] {
            let end = settled(&place, pieces, 0b11);
            assert!(matches!(end.slots[0].given, Given::Taken(_)) && !end.gives_none);
        }
        let end = settled(&place, 0b01, 0b00);
        assert!(matches!(end.slots[0].given, Given::Open(_)), "it is not whole");
    }

    #[test]
    fn parts_of_a_mailbox_do_not_overlap() {
        for (slots, rails) in [(1, 1), (8, 1), (8, 4), (9, 3), (32, 32)] {
            let layout = Layout::new(Blocks::of(slots), rails);
            let tables = (0..Blocks::of(slots).count()).map(|block| layout.places(block));
            let places: Vec<_> =
                [layout.grant()].into_iter().chain(tables).chain([layout.unread()]).collect();
            assert!(places.windows(2).all(|pair| pair[0].end == pair[1].start), "{places:?}");
            assert!(places.iter().all(|place| place.start.is_multiple_of(CELL_BYTES)));
            assert_eq!(places.last().unwrap().end, layout.len_bytes());
        }
    }

    #[test]
    fn a_grant_survives_its_bytes_and_leads_into_slots() {
        let grant = Grant { address: 1 << 40, keys: vec![7, 9] };
        let mut bytes = grant.to_bytes();
        let layout = Layout::new(Blocks::of(2), 2);
        assert!(bytes.len() <= layout.grant().len());
        bytes.resize(layout.len_bytes(), 0xEE);
        assert_eq!(Grant::from_bytes(&bytes, 2), grant);
        let end = ReceiveEnd::new(Blocks::of(2), CUT);
        let target = grant.target(1, CELL_BYTES + 8192, 1, CUT);
        let expected = (1 << 40) + end.inbox.payload(1, 100_000).start as u64 + 8192;
        assert_eq!(target, Target { address: expected, key: 9 });
    }
}
