//! What a write tells its target: 32 bits that come with it.
//!
//! From the top: what was written (a piece by its number), generation, slot, rank. They say it all, so that a notice that
//! comes twice is known for what it is.

use efarun_wire::Rank;

use super::super::operation::{MAX_PIECES, MAX_RANKS, MAX_SLOTS};

/// A write has landed, and this is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) kind: Kind,
    /// Who wrote.
    pub(super) from: Rank,
    /// The slot that it is about, or of a credit the block of slots; 0 for a grant.
    pub(super) slot: usize,
    /// Of the slot's message, or of the next ones that a credit allows, modulo [`GENERATIONS`]; 0 for a grant.
    pub(super) generation: u64,
}

/// What a write was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A piece of a message's payload, into the slot.
    Piece(usize),
    /// The same into the place that was given for it.
    Landed(usize),
    /// A message's header, and its payload where that is short.
    First,
    /// Slots of the writer's are free again.
    Credit,
    /// The same, with places for the messages that come next.
    Places,
    /// Where the writer's slots are.
    Grant,
}

/// When a notice is for, by the generation that its slot is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// Once more: what it tells is known.
    Before,
    /// Nobody may write so far ahead.
    Ahead,
}

impl Notice {
    pub(super) fn to_bits(self) -> u32 {
        let kind = match self.kind {
            Kind::Piece(piece) => piece,
            Kind::First => FIRST,
            Kind::Credit => FIRST + 1,
            Kind::Grant => FIRST + 2,
            Kind::Places => FIRST + 3,
            Kind::Landed(piece) => LANDED + piece,
        };
        debug_assert!(
            self.from.0 < MAX_RANKS && self.slot < MAX_SLOTS && kind < KIND_COUNT,
            "checked when the transport was made"
        );
        let generation = (self.generation % GENERATIONS) as u32;
        (kind as u32) << KIND_SHIFT
            | generation << GENERATION_SHIFT
            | (self.slot as u32) << SLOT_SHIFT
            | self.from.0
    }

    /// The notice of these bits; none where they name no kind.
    pub(super) fn from_bits(bits: u32) -> Option<Self> {
        let kind = match (bits >> KIND_SHIFT) as usize {
            piece if piece < FIRST => Kind::Piece(piece),
            FIRST => Kind::First,
            credit if credit == FIRST + 1 => Kind::Credit,
            grant if grant == FIRST + 2 => Kind::Grant,
            places if places == FIRST + 3 => Kind::Places,
            landed if (LANDED..KIND_COUNT).contains(&landed) => Kind::Landed(landed - LANDED),
            _ => return None,
        };
        Some(Notice {
            kind,
            from: Rank(bits % MAX_RANKS),
            slot: (bits >> SLOT_SHIFT) as usize % MAX_SLOTS,
            generation: u64::from(bits >> GENERATION_SHIFT) % GENERATIONS,
        })
    }

    /// Whether it is for the generation that is expected.
    pub(super) fn when(self, expected: u64) -> When {
        match self.generation.wrapping_sub(expected) % GENERATIONS {
            0 => When::Now,
            behind if behind > GENERATIONS / 2 => When::Before,
            _ => When::Ahead,
        }
    }
}

const FIRST: usize = MAX_PIECES;
const LANDED: usize = 2 * MAX_PIECES;
const KIND_COUNT: usize = 3 * MAX_PIECES;
const SLOT_SHIFT: u32 = MAX_RANKS.ilog2();
const GENERATION_SHIFT: u32 = SLOT_SHIFT + MAX_SLOTS.ilog2();
const KIND_SHIFT: u32 = GENERATION_SHIFT + GENERATIONS.ilog2();
/// How many generations notices tell apart.
pub(super) const GENERATIONS: u64 = 16;
const _: () = assert!(((KIND_COUNT - 1) as u64) << KIND_SHIFT <= u32::MAX as u64, "a notice has 32 bits");

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 8] = [
        Kind::Piece(0),
        Kind::Piece(MAX_PIECES - 1),
        Kind::Landed(0),
        Kind::Landed(MAX_PIECES - 1),
        Kind::First,
        Kind::Credit,
        Kind::Grant,
        Kind::Places,
    ];

    #[test]
    fn a_notice_survives_its_bits() {
        for kind in KINDS {
            for (from, slot, generation) in [(0, 0, 0), (1, 2, 3), (MAX_RANKS - 1, MAX_SLOTS - 1, 1)] {
                let notice = Notice { kind, from: Rank(from), slot, generation };
                assert_eq!(Notice::from_bits(notice.to_bits()), Some(notice));
            }
        }
        assert_eq!(Notice::from_bits(u32::MAX), None);
    }

    #[test]
    fn a_notice_that_comes_late_is_told_from_one_that_comes_too_early() {
        let notice = |generation| {
            let notice = Notice { kind: Kind::First, from: Rank(1), slot: 0, generation };
            Notice::from_bits(notice.to_bits()).unwrap()
        };
        for expected in [0, 1, 15, 16, 1 << 40] {
            assert_eq!(notice(expected).when(expected), When::Now);
            assert_eq!(notice(expected + 1).when(expected), When::Ahead);
            assert_eq!(notice(expected).when(expected + 1), When::Before);
            assert_eq!(notice(expected).when(expected + 7), When::Before);
        }
    }
}
