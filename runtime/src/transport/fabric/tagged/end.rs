//! The end of an ordered pair of ranks that receives: memory, and how far each slot is.
//!
//! The first piece of a message has the header in front, which says how many pieces there are. The receiver has a receive
//! posted for each piece of a slot, which is ready then, and sends the credit of a block whose slots are; the sender has a
//! receive posted for that credit, and sends the messages once it has it. A receive for a piece that does not come stays for
//! the next message that has it: first pieces and credits are numbered by generation, others by how many there have been.
//! So each operation's partner is known by its tag alone, in whatever order things arrive, and the grant that opens a pair
//! is nothing but the credits of generation 0.
//!
//! A piece that comes round a rail that failed is copied to memory that no card knows of, and so is the rest of its message:
//! into its place in the slot the provider may still copy what came of it over its own rail.
//!
//! # Safety
//!
//! Of a slot only pieces are read that are here by a receive, until `pass`: that receive is over, and the next is posted after
//! that. What is gathered no card knows of, and it is written before its message is shown only.
#![expect(
    unsafe_code,
    reason = "reads what the provider wrote; the module's Safety paragraph says why it is sound"
)]

use std::ops::Range;

use super::super::credit::Blocks;
use super::super::inbox::Inbox;
use super::super::slot::{CELL_BYTES, Cut, decode};
use crate::fabric::Memory;
use crate::transport::{Header, Message};

/// The receiving end.
#[derive(Debug)]
pub(super) struct ReceiveEnd {
    pub(super) inbox: Inbox,
    pub(super) slots: Vec<ReceiveSlot>,
    /// Messages of which a piece came round its rail, as the slots are laid out; none before the first.
    gathered: Option<Memory>,
    cut: Cut,
}

/// A slot here.
#[derive(Debug)]
pub(super) struct ReceiveSlot {
    /// Receives that are to be posted before it is ready.
    pub(super) unposted: usize,
    /// How often each piece has come,
    pub(super) uses: Vec<u64>,
    /// and how often it had when the receive for it was posted.
    pub(super) awaited: Vec<u64>,
    /// The bytes of each piece that is here, the first's with its header.
    pub(super) here: Vec<Option<usize>>,
    /// Those of them that are gathered.
    gathered: Vec<bool>,
    /// The message, when all of it is here.
    pub(super) arrived: Option<Header>,
}

impl ReceiveEnd {
    pub(super) fn new(blocks: Blocks, cut: Cut) -> Self {
        let slot = || ReceiveSlot {
            unposted: cut.pieces,
            uses: vec![0; cut.pieces],
            awaited: vec![0; cut.pieces],
            here: vec![None; cut.pieces],
            gathered: vec![false; cut.pieces],
            arrived: None,
        };
        ReceiveEnd {
            inbox: Inbox::new(blocks, cut, blocks.count() * CELL_BYTES),
            slots: (0..blocks.slots()).map(|_| slot()).collect(),
            gathered: None,
            cut,
        }
    }

    /// Takes in that a piece has landed in the slot; nothing when it came another way before. An error when it cannot be.
    ///
    /// # Safety
    ///
    /// The receive of the piece is over, and no other is posted for it.
    pub(super) unsafe fn landed(
        &mut self,
        slot: usize,
        piece: usize,
        len_bytes: usize,
    ) -> Result<(), String> {
        let state = &mut self.slots[slot];
        if state.uses[piece] != state.awaited[piece] {
            return Ok(());
        }
        state.uses[piece] += 1;
        state.here[piece] = Some(len_bytes);
        // SAFETY: the caller's promise.
        unsafe { self.look_at(slot, piece, len_bytes) }
    }

    /// Takes in a piece that came round its rail, of this use modulo 2^16; nothing when it is here. An error when it cannot
    /// be.
    pub(super) fn came_round(
        &mut self,
        slot: usize,
        piece: usize,
        number: u16,
        bytes: &[u8],
    ) -> Result<(), String> {
        let place = match self.slots.get(slot) {
            Some(state) if piece < self.cut.pieces && bytes.len() <= self.piece(slot, piece).len() => {
                if state.uses[piece] as u16 != number {
                    return Ok(());
                }
                self.piece(slot, piece)
            }
            _ => return Err(format!("it sent piece {piece} of slot {slot}, which is none of its")),
        };
        let whole_bytes = self.inbox.behind().start;
        let memory = self.gathered.get_or_insert_with(|| Memory::new(whole_bytes));
        // SAFETY: no card knows of the memory, and no message of the slot is shown: this piece was not here.
        unsafe {
            memory.write(place.start, bytes);
        }
        let state = &mut self.slots[slot];
        state.uses[piece] += 1;
        state.here[piece] = Some(bytes.len());
        state.gathered[piece] = true;
        // SAFETY: the piece is not looked at in the slot, where its receive may be posted, but where it was gathered.
        unsafe { self.look_at(slot, piece, bytes.len()) }
    }

    /// Looks whether the slot's message is whole, now that this piece is here.
    ///
    /// # Safety
    ///
    /// What is here and not gathered is not received into any more.
    unsafe fn look_at(&mut self, slot: usize, piece: usize, len_bytes: usize) -> Result<(), String> {
        let state = &self.slots[slot];
        match state.here[0] {
            None => return Ok(()),
            Some(len) if len < CELL_BYTES => {
                let is_it = piece == 0;
                return if is_it {
                    Err(format!("it sent a message of {len_bytes} bytes that is none"))
                } else {
                    Ok(())
                };
            }
            Some(_) => {}
        }
        let memory = match &self.gathered {
            Some(gathered) if state.gathered[0] => gathered,
            _ => &self.inbox.memory,
        };
        // SAFETY: the first piece is here: gathered, or by the caller's promise not received into any more.
        let header =
            decode(unsafe { memory.bytes(self.inbox.header(slot)) }).expect("a cell is a header's size");
        let arrived = state.whole(header, self.cut)?;
        if let (Some(header), Some(gathered)) = (arrived, &self.gathered) {
            let pieces = 0..self.cut.count(header.len_bytes as usize);
            if pieces.clone().any(|piece| state.gathered[piece]) {
                for piece in pieces.filter(|piece| !state.gathered[*piece]) {
                    let place = self.piece(slot, piece);
                    let place = place.start..place.start + state.here[piece].unwrap_or_default();
                    // SAFETY: a piece that is here, by the caller's promise; and as in `came_round`.
                    unsafe { gathered.write(place.start, self.inbox.memory.bytes(place)) };
                }
            }
        }
        self.slots[slot].arrived = arrived;
        Ok(())
    }

    /// The current message, if all of it is here.
    pub(super) fn message(&self) -> Option<Message<'_>> {
        let state = &self.slots[self.inbox.current()];
        let header = state.arrived?;
        let pieces = self.cut.count(header.len_bytes as usize);
        let gathered = self.gathered.as_ref().filter(|_| state.gathered[..pieces].contains(&true));
        let memory = gathered.unwrap_or(&self.inbox.memory);
        // SAFETY: all of the message was gathered; or all of its pieces are here by receives, which are over, and the next
        // are posted after `pass` only.
        Some(unsafe { self.inbox.message_in(memory, header) })
    }

    /// Makes room for the next message where the current one is; how many pieces that had, and its slot. None when it is not
    /// here.
    pub(super) fn pass(&mut self) -> Option<(usize, usize)> {
        let slot = self.inbox.current();
        let state = &mut self.slots[slot];
        let pieces = self.cut.count(state.arrived.take()?.len_bytes as usize);
        state.here[..pieces].fill(None);
        state.gathered[..pieces].fill(false);
        state.unposted = pieces;
        Some((pieces, self.inbox.pass()))
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
