//! The two ends of an ordered pair of ranks: memory, and how far each slot is.
//!
//! Message k uses slot k mod slots in generation k / slots. A message is cut into pieces of a fixed size, one per rail at
//! most; a short one is one piece. Piece p of slot s goes over rail (s + p) mod rails, so that long messages use all
//! rails, short ones take turns, and both ends know which piece comes where. The first piece has the header in front,
//! which says how many there are.
//!
//! The receiver has a receive posted for each piece of a slot, then sends the credit for the slot's generation; the sender
//! has a receive posted for that credit, and sends the message once it has the credit. A receive for a piece that does
//! not come stays for the next message that has it: first pieces and credits are numbered by generation, others by how
//! many there have been. So each operation's partner is known by its tag alone, in whatever order things arrive, and the
//! grant that opens a pair is nothing but the credits of generation 0.

use std::ops::Range;
use std::ptr;

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

    /// The rail of a piece, or of a slot's credit, which has that of the first.
    pub(super) fn rail(self, slot: usize, piece: usize) -> usize {
        (slot + piece) % self.pieces
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct SendEnd {
    pub(super) memory: Memory,
    /// One per rail, where the provider takes regions.
    pub(super) regions: Vec<MemoryRegion>,
    /// The number of the next message.
    pub(super) next: u64,
    pub(super) slots: Vec<SendSlot>,
}

/// A slot at the receiver, as the sender knows it.
#[derive(Debug)]
pub(super) struct SendSlot {
    /// How many generations the receiver has granted; the receive for this generation's credit is posted, or about to be.
    pub(super) granted: u64,
    /// How often each piece was sent.
    pub(super) uses: Vec<u64>,
    /// The message that is not sent completely yet.
    pub(super) sending: Option<Sending>,
}

/// A message under way.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) token: SendToken,
    pub(super) payload: Payload,
    /// Pieces that are not over.
    pub(super) left: usize,
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

    /// A part of it.
    pub(super) fn part(self, range: &Range<usize>) -> *const [u8] {
        debug_assert!(range.start <= range.end && range.end <= self.len_bytes, "inside the payload");
        let start = ptr::with_exposed_provenance::<u8>(self.address).wrapping_add(range.start);
        ptr::slice_from_raw_parts(start, range.len())
    }
}

impl SendEnd {
    pub(super) fn new(slots: usize, cut: Cut) -> Self {
        SendEnd {
            memory: Memory::new(slots * (CELL_BYTES + STAGE_BYTES)),
            regions: Vec::new(),
            next: 0,
            slots: (0..slots)
                .map(|_| SendSlot { granted: 0, uses: vec![0; cut.pieces], sending: None })
                .collect(),
        }
    }

    /// Slot and generation of the next message, if the slot is free there and here.
    pub(super) fn free_slot(&self) -> Option<(usize, u64)> {
        let (index, generation) = place(self.next, self.slots.len());
        let slot = &self.slots[index];
        (slot.granted > generation && slot.sending.is_none()).then_some((index, generation))
    }

    /// Where the slot's credit is received.
    pub(super) fn credit_cell(&self, slot: usize) -> Range<usize> {
        cell(slot)
    }

    /// Where the slot's message is kept while it is sent: its header and, of a short one, the payload.
    pub(super) fn stage(&self, slot: usize, payload_bytes: usize) -> Range<usize> {
        let start = self.slots.len() * CELL_BYTES + slot * STAGE_BYTES;
        start..start + CELL_BYTES + payload_bytes
    }
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    pub(super) memory: Memory,
    /// One per rail, where the provider takes regions.
    pub(super) regions: Vec<MemoryRegion>,
    /// The number of the message that [`crate::transport::Transport::arrived`] shows next.
    pub(super) next: u64,
    pub(super) slots: Vec<ReceiveSlot>,
    cut: Cut,
    stride_bytes: usize,
}

/// A slot here.
#[derive(Debug)]
pub(super) struct ReceiveSlot {
    /// The generation that is posted, about to be, or here.
    pub(super) generation: u64,
    /// Receives that are to be posted before the slot's credit may go.
    pub(super) unposted: usize,
    /// How often each piece has come.
    pub(super) uses: Vec<u64>,
    /// The bytes of each piece that is here, the first's with its header.
    pub(super) here: Vec<Option<usize>>,
    /// The message, when all of it is here.
    pub(super) arrived: Option<Header>,
    /// Whether the send of the last credit is not complete yet.
    pub(super) credit_in_flight: bool,
}

impl ReceiveEnd {
    pub(super) fn new(slots: usize, cut: Cut) -> Self {
        let stride_bytes = CELL_BYTES + cut.slot_bytes().next_multiple_of(CELL_BYTES);
        let slot = || ReceiveSlot {
            generation: 0,
            unposted: cut.pieces,
            uses: vec![0; cut.pieces],
            here: vec![None; cut.pieces],
            arrived: None,
            credit_in_flight: false,
        };
        ReceiveEnd {
            memory: Memory::new(slots * (CELL_BYTES + stride_bytes)),
            regions: Vec::new(),
            next: 0,
            slots: (0..slots).map(|_| slot()).collect(),
            cut,
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

    /// Where a piece is received: the first behind room for a header.
    pub(super) fn piece(&self, slot: usize, piece: usize) -> Range<usize> {
        let payload = self.header(slot).end;
        let range = self.cut.range(self.cut.slot_bytes(), piece);
        let start = if piece == 0 { self.header(slot).start } else { payload + range.start };
        start..payload + range.end
    }

    /// Where the header of the slot's message is.
    pub(super) fn header(&self, slot: usize) -> Range<usize> {
        let start = self.slots.len() * CELL_BYTES + slot * self.stride_bytes;
        start..start + CELL_BYTES
    }

    /// Where the payload of the slot's message is.
    pub(super) fn payload(&self, slot: usize, len_bytes: usize) -> Range<usize> {
        let start = self.header(slot).end;
        start..start + len_bytes
    }
}

impl ReceiveSlot {
    /// The message of this header, if all its pieces are here; an error when one of them is not of its length.
    pub(super) fn whole(&self, header: Header, cut: Cut) -> Result<Option<Header>, String> {
        let len_bytes = header.len_bytes as usize;
        if len_bytes > cut.slot_bytes() {
            return Err(format!("it sent a message that is larger than a slot: {len_bytes} bytes"));
        }
        for piece in 0..cut.count(len_bytes) {
            let in_front = if piece == 0 { CELL_BYTES } else { 0 };
            let expected = in_front + cut.range(len_bytes, piece).len();
            match self.here[piece] {
                None => return Ok(None),
                Some(found) if found == expected => {}
                Some(found) => {
                    return Err(format!(
                        "piece {piece} of its message of {len_bytes} bytes has {found} bytes instead of {expected}"
                    ));
                }
            }
        }
        Ok(Some(header))
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

/// Slot and generation of message `number`.
pub(super) fn place(number: u64, slots: usize) -> (usize, u64) {
    ((number % slots as u64) as usize, number / slots as u64)
}

fn cell(index: usize) -> Range<usize> {
    index * CELL_BYTES..(index + 1) * CELL_BYTES
}

/// Of a message of so many bytes, header included, the payload is copied, which is cheaper than registering it. Such a
/// message also fits one packet.
pub(super) const STAGE_BYTES: usize = 4096;
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
        let mut end = SendEnd::new(2, CUT);
        assert_eq!(end.free_slot(), None);
        end.slots[0].granted = 1;
        assert_eq!(end.free_slot(), Some((0, 0)));
        end.next = 2;
        assert_eq!(end.free_slot(), None, "generation 1 was not granted");
        end.slots[0].granted = 2;
        let payload = Payload::new(&raw const b""[..]);
        end.slots[0].sending = Some(Sending { token: SendToken(0), payload, left: 1 });
        assert_eq!(end.free_slot(), None, "generation 0 is still being sent");
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
        let end = ReceiveEnd::new(3, CUT);
        let pieces = (0..3).flat_map(|slot| (0..3).map(move |piece| (slot, piece)));
        let mut places: Vec<_> = pieces.map(|(slot, piece)| end.piece(slot, piece)).collect();
        places.extend((0..3).map(|slot| end.credit_cell(slot)));
        places.sort_by_key(|place| place.start);
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!(end.payload(1, 100).start % 16, 0);
        let end = SendEnd::new(3, CUT);
        let mut places: Vec<_> =
            (0..3).flat_map(|slot| [end.credit_cell(slot), end.stage(slot, STAGED_BYTES)]).collect();
        places.sort_by_key(|place| place.start);
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!(places[5].end, end.memory.whole().len());
        let end = ReceiveEnd::new(3, CUT);
        assert_eq!(end.payload(1, 384), end.header(1).end..end.piece(1, 2).end);
    }

    #[test]
    fn a_message_is_whole_when_every_piece_is_here_in_its_length() {
        let header = Header { signature: 1 << 63 | 5, sequence: 9, len_bytes: 130 };
        let mut slot = ReceiveEnd::new(1, CUT).slots.remove(0);
        slot.here[0] = Some(16 + 128);
        assert_eq!(slot.whole(header, CUT), Ok(None));
        slot.here[1] = Some(2);
        assert_eq!(slot.whole(header, CUT), Ok(Some(header)));
        slot.here[1] = Some(3);
        assert!(slot.whole(header, CUT).unwrap_err().contains("3 bytes instead of 2"));
        let larger = Header { len_bytes: 385, ..header };
        assert!(slot.whole(larger, CUT).unwrap_err().contains("larger than a slot"));
    }

    #[test]
    fn a_header_survives_its_bytes() {
        let header = Header { signature: 1 << 63 | 5, sequence: 9, len_bytes: 7 };
        assert_eq!(decode(&encode(header)), Some(header));
        assert_eq!(decode(&encode(header)[..10]), None);
    }
}
