//! The end of an ordered pair of ranks that receives: memory, and how far each slot is.
//!
//! The first piece of a message has the header in front, which says how many pieces there are. The receiver has a receive
//! posted for each piece of a slot, which is ready then, and sends the credit of a block whose slots are; the sender has a
//! receive posted for that credit, and sends the messages once it has it. A receive for a piece that does not come stays for
//! the next message that has it: first pieces and credits are numbered by generation, others by how many there have been.
//! So each operation's partner is known by its tag alone, in whatever order things arrive, and the grant that opens a pair
//! is nothing but the credits of generation 0.

use std::ops::Range;

use super::super::credit::Blocks;
use super::super::inbox::Inbox;
use super::super::slot::{CELL_BYTES, Cut};
use crate::transport::Header;

/// The receiving end.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    pub(super) inbox: Inbox,
    pub(super) slots: Vec<ReceiveSlot>,
    cut: Cut,
}

/// A slot here.
#[derive(Debug)]
pub(super) struct ReceiveSlot {
    /// Receives that are to be posted before it is ready.
    pub(super) unposted: usize,
    /// How often each piece has come.
    pub(super) uses: Vec<u64>,
    /// The bytes of each piece that is here, the first's with its header.
    pub(super) here: Vec<Option<usize>>,
    /// The message, when all of it is here.
    pub(super) arrived: Option<Header>,
}

impl ReceiveEnd {
    pub(super) fn new(blocks: Blocks, cut: Cut) -> Self {
        let slot = || ReceiveSlot {
            unposted: cut.pieces,
            uses: vec![0; cut.pieces],
            here: vec![None; cut.pieces],
            arrived: None,
        };
        ReceiveEnd {
            inbox: Inbox::new(blocks, cut, blocks.count() * CELL_BYTES),
            slots: (0..blocks.slots()).map(|_| slot()).collect(),
            cut,
        }
    }

    /// Where a block's credit is kept while it is sent.
    pub(super) fn credit_cell(&self, block: usize) -> Range<usize> {
        let start = self.inbox.behind().start + block * CELL_BYTES;
        start..start + CELL_BYTES
    }

    /// Where a piece is received: the first behind room for a header.
    pub(super) fn piece(&self, slot: usize, piece: usize) -> Range<usize> {
        let header = self.inbox.header(slot);
        let range = self.cut.range(self.cut.slot_bytes(), piece);
        let start = if piece == 0 { header.start } else { header.end + range.start };
        start..header.end + range.end
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

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { piece_bytes: 128, pieces: 3 };

    #[test]
    fn places_of_an_end_do_not_overlap() {
        let end = ReceiveEnd::new(Blocks::of(4), CUT);
        let pieces = (0..4).flat_map(|slot| (0..3).map(move |piece| (slot, piece)));
        let mut places: Vec<_> = pieces.map(|(slot, piece)| end.piece(slot, piece)).collect();
        places.extend((0..2).map(|block| end.credit_cell(block)));
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert_eq!(places[13].end, end.inbox.memory.whole().len());
        assert_eq!(end.inbox.payload(1, 384), end.inbox.header(1).end..end.piece(1, 2).end);
    }

    #[test]
    fn a_message_is_whole_when_every_piece_is_here_in_its_length() {
        let header = Header { signature: 1 << 63 | 5, sequence: 9, len_bytes: 130 };
        let mut slot = ReceiveEnd::new(Blocks::of(1), CUT).slots.remove(0);
        slot.here[0] = Some(16 + 128);
        assert_eq!(slot.whole(header, CUT), Ok(None));
        slot.here[1] = Some(2);
        assert_eq!(slot.whole(header, CUT), Ok(Some(header)));
        slot.here[1] = Some(3);
        assert!(slot.whole(header, CUT).unwrap_err().contains("3 bytes instead of 2"));
        let larger = Header { len_bytes: 385, ..header };
        assert!(slot.whole(larger, CUT).unwrap_err().contains("larger than a slot"));
    }
}
