//! Who may send how much: the credits of an ordered pair of ranks, as numbers.
//!
//! Pure. Message k uses slot k mod slots of its receiver, in generation k / slots, and its sender may send it when that
//! was granted. Slots are granted in *blocks* of neighbours, by one credit each: a block's next credit is due when every
//! slot of it can take a message again. There are two blocks or more, so that the sender fills one while the credit of
//! another is on its way; and as a credit costs both ranks what a short message does, blocks are as long as that allows.
//!
//! A block's credits come one at a time: the next is due only after messages have been taken that the last one allowed.
//! So a credit is named by block and generation, however late it comes.

/// How a pair's slots are granted, the same on both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Blocks {
    slots: usize,
    /// Slots of a block.
    len: usize,
}

impl Blocks {
    /// Of so many slots: the longest blocks of which there are two or more, all alike.
    pub(super) fn of(slots: usize) -> Self {
        let len = (1..=slots / 2).rev().find(|len| slots.is_multiple_of(*len)).unwrap_or(1);
        Blocks { slots, len }
    }

    pub(super) fn count(self) -> usize {
        self.slots / self.len
    }

    /// How many slots there are in all blocks.
    pub(super) fn slots(self) -> usize {
        self.slots
    }

    fn of_slot(self, slot: usize) -> usize {
        slot / self.len
    }

    /// How many messages can be in flight before the first of them is released, whatever was released and not granted
    /// again.
    pub(super) fn promised(self) -> usize {
        self.slots + 1 - self.len
    }
}

/// What the sender was granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Granted {
    blocks: Blocks,
    /// How many generations of each block.
    generations: Vec<u64>,
}

impl Granted {
    pub(super) fn new(blocks: Blocks) -> Self {
        Granted { blocks, generations: vec![0; blocks.count()] }
    }

    /// How many generations of a block were granted.
    pub(super) fn generations(&self, block: usize) -> u64 {
        self.generations[block]
    }

    /// Takes in a block's next credit.
    pub(super) fn grant(&mut self, block: usize) {
        self.generations[block] += 1;
    }

    /// Takes in that all slots may be used for the first time.
    pub(super) fn grant_all(&mut self) {
        self.generations.iter_mut().for_each(|generations| *generations += 1);
    }

    /// Whether a message may be sent.
    pub(super) fn allows(&self, slot: usize, generation: u64) -> bool {
        self.generations[self.blocks.of_slot(slot)] > generation
    }
}

/// What the receiver owes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owed {
    blocks: Blocks,
    /// How many slots of each block cannot take their next message yet.
    unready: Vec<usize>,
}

impl Owed {
    /// Before any slot can take a message.
    pub(super) fn new(blocks: Blocks) -> Self {
        Owed { blocks, unready: vec![blocks.len; blocks.count()] }
    }

    /// Notes that a slot can take its next message; the block whose credit is due with that.
    pub(super) fn ready(&mut self, slot: usize) -> Option<usize> {
        let block = self.blocks.of_slot(slot);
        let unready = &mut self.unready[block];
        *unready -= 1;
        if *unready > 0 {
            return None;
        }
        // All of them are used before the credit after this one.
        *unready = self.blocks.len;
        Some(block)
    }
}

/// Slot and generation of message `number`.
pub(super) fn place(number: u64, slots: usize) -> (usize, u64) {
    ((number % slots as u64) as usize, number / slots as u64)
}

/// The generation that a slot takes, or shows, when `next` is the message that is shown next.
pub(super) fn generation(next: u64, slot: usize, slots: usize) -> u64 {
    let (current, generation) = place(next, slots);
    if slot < current { generation + 1 } else { generation }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    #[test]
    fn blocks_are_alike_and_two_or_more_where_there_are_two_slots() {
        for (slots, count, promised) in
            [(1, 1, 1), (2, 2, 2), (4, 2, 3), (5, 5, 5), (8, 2, 5), (9, 3, 7), (32, 2, 17)]
        {
            let blocks = Blocks::of(slots);
            assert_eq!((blocks.count(), blocks.promised()), (count, promised), "{slots}");
            assert_eq!(blocks.of_slot(slots - 1), count - 1);
        }
    }

    #[test]
    fn a_slot_shows_the_next_message_that_is_its() {
        for slots in 1..6 {
            for next in 0..20 {
                for number in next..next + slots as u64 {
                    let (slot, expected) = place(number, slots);
                    assert_eq!(generation(next, slot, slots), expected);
                }
            }
        }
    }

    /// Both ends and what is between them.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Pair {
        granted: Granted,
        owed: Owed,
        sent: u64,
        messages: BTreeSet<u64>,
        /// By block and generation.
        credits: BTreeSet<(usize, u64)>,
        here: BTreeSet<u64>,
        taken: u64,
        /// Slots that were released, and cannot take a message yet.
        unready: BTreeSet<usize>,
        given: u64,
    }

    impl Pair {
        fn new(blocks: Blocks) -> Self {
            Pair {
                granted: Granted::new(blocks),
                owed: Owed::new(blocks),
                sent: 0,
                messages: BTreeSet::new(),
                credits: BTreeSet::new(),
                here: BTreeSet::new(),
                taken: 0,
                unready: (0..blocks.slots()).collect(),
                given: 0,
            }
        }

        /// Whatever may happen next, anything in flight in any order; checks that it may.
        fn successors(&self, blocks: Blocks, count: u64) -> Vec<Pair> {
            let slots = blocks.slots();
            let mut all = Vec::new();
            let mut add = |change: &dyn Fn(&mut Pair)| {
                let mut next = self.clone();
                change(&mut next);
                all.push(next);
            };
            let (slot, number) = place(self.sent, slots);
            if self.sent < count && self.granted.allows(slot, number) {
                assert!(!self.unready.contains(&slot), "message {} finds its slot not ready", self.sent);
                assert_eq!(generation(self.taken, slot, slots), number, "nor is the slot's last one taken");
                add(&|next| {
                    next.messages.insert(next.sent);
                    next.sent += 1;
                });
            }
            for &number in &self.messages {
                add(&|next| {
                    next.messages.remove(&number);
                    next.here.insert(number);
                });
            }
            for &(block, generation) in &self.credits {
                assert_eq!(
                    self.granted.generations(block),
                    generation,
                    "a block's credits come one at a time"
                );
                add(&|next| {
                    next.credits.remove(&(block, generation));
                    next.granted.grant(block);
                });
            }
            if self.here.contains(&self.taken) {
                add(&|next| {
                    next.here.remove(&next.taken);
                    next.unready.insert(place(next.taken, slots).0);
                    next.taken += 1;
                });
            }
            for &slot in &self.unready {
                add(&|next| {
                    next.unready.remove(&slot);
                    if let Some(block) = next.owed.ready(slot) {
                        let first = (0..slots).find(|slot| blocks.of_slot(*slot) == block).unwrap();
                        let is_new = next.credits.insert((block, generation(next.taken, first, slots)));
                        assert!(is_new, "one credit of a block at a time");
                        next.given += 1;
                    }
                });
            }
            all
        }
    }

    /// In whatever order things arrive and slots get ready, no message is sent into a slot that is not, and all of them get
    /// through.
    #[test]
    fn every_message_finds_its_slot_ready_in_any_order_of_events() {
        for (slots, count) in [(1, 4), (2, 6), (3, 6), (4, 9)] {
            let blocks = Blocks::of(slots);
            let mut seen = HashSet::new();
            let mut open = vec![Pair::new(blocks)];
            let mut ends = 0;
            while let Some(pair) = open.pop() {
                let next = pair.successors(blocks, count);
                if next.is_empty() {
                    assert_eq!(pair.taken, count, "{slots} slots: nothing is left to happen");
                    assert_eq!(
                        pair.given,
                        (slots as u64 + count) / blocks.len as u64,
                        "one credit per block"
                    );
                    ends += 1;
                }
                open.extend(next.into_iter().filter(|pair| seen.insert(pair.clone())));
            }
            assert!(ends > 0, "{slots} slots: {} states", seen.len());
        }
    }

    /// However many messages were taken: with all credits here, as many more as promised can be sent.
    #[test]
    fn the_promised_messages_are_in_flight_before_the_next_release() {
        for slots in 1..=32 {
            let blocks = Blocks::of(slots);
            let (mut granted, mut owed) = (Granted::new(blocks), Owed::new(blocks));
            let due = (0..slots).filter_map(|slot| owed.ready(slot)).collect::<Vec<_>>();
            due.into_iter().for_each(|block| granted.grant(block));
            for taken in 0..4 * slots as u64 {
                let may = (taken..).take_while(|&number| {
                    let (slot, generation) = place(number, slots);
                    granted.allows(slot, generation)
                });
                let may = may.count();
                assert!((blocks.promised()..=slots).contains(&may), "{slots} slots, {taken} taken: {may}");
                owed.ready(place(taken, slots).0).into_iter().for_each(|block| granted.grant(block));
            }
        }
    }
}
