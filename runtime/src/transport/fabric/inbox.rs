//! What both protocols have of the end of a pair that receives: the slots' memory, which message is next, and which credits
//! are owed or under way.
//!
//! The slots lie one behind the other, each a header and a payload; behind them is what else a protocol needs. When a slot
//! can take a message, and what says that one is there, is the protocol's to know.

use std::ops::Range;

use super::credit::{Blocks, Owed, generation, place};
use super::slot::{CELL_BYTES, Cut};
use crate::fabric::{Memory, MemoryRegion};
use crate::transport::{Header, Message};

/// The memory and the numbers of a receiving end.
#[derive(Debug)]
pub(super) struct Inbox {
    /// One per rail, where the provider takes regions. Before the memory, so that they are dropped first.
    pub(super) regions: Vec<MemoryRegion>,
    pub(super) memory: Memory,
    /// The number of the message that [`crate::transport::Transport::arrived`] shows next.
    next: u64,
    slots: usize,
    owed: Owed,
    /// Of each block, the generation of its last credit that was due, and whether that is under way.
    due: Vec<u64>,
    credits: Vec<bool>,
    stride_bytes: usize,
}

impl Inbox {
    /// With so many bytes behind the slots.
    pub(super) fn new(blocks: Blocks, cut: Cut, bytes_behind: usize) -> Self {
        let (slots, stride_bytes) = (blocks.slots(), stride_bytes(cut));
        Inbox {
            regions: Vec::new(),
            memory: Memory::on_large_pages(slots * stride_bytes + bytes_behind),
            next: 0,
            slots,
            owed: Owed::new(blocks),
            due: vec![0; blocks.count()],
            credits: vec![false; blocks.count()],
            stride_bytes,
        }
    }

    /// The number of the next message.
    pub(super) fn number(&self) -> u64 {
        self.next
    }

    /// The slot of the next message.
    pub(super) fn current(&self) -> usize {
        place(self.next, self.slots).0
    }

    /// The generation that a slot is to take next, or shows.
    pub(super) fn generation(&self, slot: usize) -> u64 {
        generation(self.next, slot, self.slots)
    }

    /// The generation that a block's last credit is for, however late it is sent, and however often: one that failed may
    /// have come all the same, and messages with it.
    pub(super) fn generation_of_credit(&self, block: usize) -> u64 {
        self.due[block]
    }

    /// Goes on to the next message; the slot of the one before.
    pub(super) fn pass(&mut self) -> usize {
        let slot = self.current();
        self.next += 1;
        slot
    }

    /// Whether a message was ever taken.
    pub(super) fn has_passed(&self) -> bool {
        self.next > 0
    }

    /// Notes that a slot can take its next message; the block whose credit is due with that.
    pub(super) fn ready(&mut self, slot: usize) -> Option<usize> {
        let block = self.owed.ready(slot)?;
        self.due[block] = self.generation(block * (self.slots / self.credits.len()));
        Some(block)
    }

    /// Notes whether a block's credit is under way.
    pub(super) fn set_credit_under_way(&mut self, block: usize, is_under_way: bool) {
        self.credits[block] = is_under_way;
    }

    /// Whether a block's credit is under way.
    pub(super) fn is_credit_under_way(&self, block: usize) -> bool {
        self.credits[block]
    }

    /// How many credits are under way.
    pub(super) fn credits_under_way(&self) -> usize {
        self.credits.iter().filter(|is_under_way| **is_under_way).count()
    }

    /// Where the header of a slot's message is.
    pub(super) fn header(&self, slot: usize) -> Range<usize> {
        let start = slot * self.stride_bytes;
        start..start + CELL_BYTES
    }

    /// Where the payload of a slot's message is.
    pub(super) fn payload(&self, slot: usize, len_bytes: usize) -> Range<usize> {
        let start = self.header(slot).end;
        start..start + len_bytes
    }

    /// What is behind the slots.
    pub(super) fn behind(&self) -> Range<usize> {
        self.slots * self.stride_bytes..self.memory.whole().len()
    }

    /// The current message, which has this header.
    ///
    /// # Safety
    ///
    /// All of it is here, and nothing is written to its slot before [`Inbox::pass`].
    #[expect(unsafe_code, reason = "the caller's promise, passed on")]
    pub(super) unsafe fn message(&self, header: Header) -> Message<'_> {
        // SAFETY: the caller's promise.
        unsafe { self.message_in(&self.memory, header) }
    }

    /// The same, from memory that is laid out as the slots are.
    ///
    /// # Safety
    ///
    /// As for [`Inbox::message`].
    #[expect(unsafe_code, reason = "the caller's promise, passed on")]
    pub(super) unsafe fn message_in<'m>(&'m self, memory: &'m Memory, header: Header) -> Message<'m> {
        let range = self.payload(self.current(), header.len_bytes as usize);
        // SAFETY: the caller's promise; `pass` needs `&mut self`.
        Message { header, payload: unsafe { memory.bytes(range) } }
    }
}

/// From one slot to the next.
pub(super) fn stride_bytes(cut: Cut) -> usize {
    CELL_BYTES + cut.slot_bytes().next_multiple_of(CELL_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Cut = Cut { piece_bytes: 100, pieces: 3 };

    #[test]
    fn slots_and_what_is_behind_do_not_overlap() {
        let inbox = Inbox::new(Blocks::of(4), CUT, 40);
        let slots = (0..4).flat_map(|slot| [inbox.header(slot), inbox.payload(slot, CUT.slot_bytes())]);
        let places: Vec<_> = slots.chain([inbox.behind()]).collect();
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(places.iter().all(|place| place.start.is_multiple_of(16)));
        assert_eq!((places[8].len(), places[8].end), (40, inbox.memory.whole().len()));
    }

    #[test]
    fn a_block_is_granted_the_generation_that_its_slots_take() {
        let mut inbox = Inbox::new(Blocks::of(4), CUT, 0);
        let due = |inbox: &mut Inbox, slot| {
            inbox.ready(slot).map(|block| (block, inbox.generation_of_credit(block)))
        };
        let granted: Vec<_> = (0..4).filter_map(|slot| due(&mut inbox, slot)).collect();
        assert_eq!(granted, [(0, 0), (1, 0)]);
        let mut granted = Vec::new();
        for _ in 0..8 {
            let slot = inbox.pass();
            granted.extend(due(&mut inbox, slot));
        }
        assert_eq!(granted, [(0, 1), (1, 1), (0, 2), (1, 2)]);
    }

    #[test]
    fn a_credit_that_is_sent_again_late_grants_no_more_than_before() {
        let mut inbox = Inbox::new(Blocks::of(4), CUT, 0);
        assert_eq!((0..4).filter_map(|slot| inbox.ready(slot)).count(), 2);
        // It was told as failed after it had come, and a message by it.
        let slot = inbox.pass();
        inbox.ready(slot);
        assert_eq!(inbox.generation(0), 1);
        assert_eq!(inbox.generation_of_credit(0), 0, "the other slot of the block is not free");
    }
}
