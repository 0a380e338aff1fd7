//! What a write tells its target: 32 bits that come with it.

use efarun_wire::Rank;

/// A write has landed, and this is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) kind: Kind,
    /// Who wrote.
    pub(super) from: Rank,
    /// The slot that it is about; 0 for a grant.
    pub(super) slot: usize,
    /// Of the slot's message, modulo 4; 0 for a grant and for a credit.
    pub(super) generation: u64,
}

/// What a write was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Where the writer's slots are.
    Grant,
    /// A slot of the writer's is free again.
    Credit,
    /// A message's header, and its payload where that is short.
    First,
    /// A piece of a message's payload.
    Piece,
}

impl Notice {
    pub(super) fn to_bits(self) -> u32 {
        let kind = KINDS.iter().position(|kind| *kind == self.kind).expect("every kind is listed") as u32;
        debug_assert!(
            self.from.0 < 1 << RANK_BITS && self.slot < 1 << SLOT_BITS,
            "checked when the transport was made"
        );
        kind << 30 | ((self.generation & 3) as u32) << 28 | (self.slot as u32) << RANK_BITS | self.from.0
    }

    pub(super) fn from_bits(bits: u32) -> Self {
        Notice {
            kind: KINDS[(bits >> 30) as usize],
            from: Rank(bits & ((1 << RANK_BITS) - 1)),
            slot: (bits >> RANK_BITS) as usize & ((1 << SLOT_BITS) - 1),
            generation: u64::from(bits >> 28 & 3),
        }
    }
}

const KINDS: [Kind; 4] = [Kind::Grant, Kind::Credit, Kind::First, Kind::Piece];
const RANK_BITS: u32 = 20;
const SLOT_BITS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_survives_its_bits() {
        for kind in KINDS {
            for (from, slot, generation) in [(0, 0, 0), (1, 2, 3), ((1 << 20) - 1, 255, 1)] {
                let notice = Notice { kind, from: Rank(from), slot, generation };
                assert_eq!(Notice::from_bits(notice.to_bits()), notice);
            }
        }
        let fifth = Notice { kind: Kind::First, from: Rank(1), slot: 0, generation: 5 };
        assert_eq!(Notice::from_bits(fifth.to_bits()).generation, 1);
    }
}
