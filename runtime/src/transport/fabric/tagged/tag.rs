//! How operations are named on the wire: the tag that a send and its receive have in common.

use efarun_wire::Rank;

use super::super::operation::{MAX_PIECES, MAX_RANKS, MAX_SLOTS};

/// What a tagged message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A piece of a message for a slot of the receiver.
    Piece(usize),
    /// The receiver's word that a block of slots is free for its next generation.
    Credit,
}

/// The tag of a piece or a credit. 56 bits, from the top: piece, class, rank that sends, slot or block, use. Uses wrap; those that
/// a pair has under way are never more than one apart.
pub(super) fn tag(class: Class, sender: Rank, slot: usize, number: u64) -> u64 {
    let (piece, class) = match class {
        Class::Piece(piece) => (piece as u64, 1),
        Class::Credit => (0, 2),
    };
    debug_assert!(sender.0 < MAX_RANKS && slot < MAX_SLOTS, "checked when the transport was made");
    debug_assert!(piece < MAX_PIECES as u64, "checked when the transport was made");
    piece << PIECE_SHIFT
        | class << CLASS_SHIFT
        | u64::from(sender.0) << SENDER_SHIFT
        | (slot as u64) << SLOT_SHIFT
        | number & NUMBERS
}

/// The tag of the same where it goes round its rail.
pub(super) fn detoured(tag: u64) -> u64 {
    tag | DETOUR
}

/// The tag of everything that a rank sends round its rails, and the bits that tell one from another.
pub(super) fn any_detour(sender: Rank) -> (u64, u64) {
    let one = detoured(tag(Class::Piece(0), sender, 0, 0));
    (one & !OF_ONE, OF_ONE)
}

/// What came round its rail: what it is, its slot or block, and the use, of which these are the last 16 bits.
pub(super) fn parse(tag: u64) -> (Class, usize, u16) {
    let class = match tag >> CLASS_SHIFT & 3 {
        1 => Class::Piece((tag >> PIECE_SHIFT) as usize),
        _ => Class::Credit,
    };
    (class, (tag >> SLOT_SHIFT & 0xFF) as usize, (tag & NUMBERS) as u16)
}

const NUMBERS: u64 = 0xFFFF;
const SLOT_SHIFT: u32 = 16;
const SENDER_SHIFT: u32 = 24;
const CLASS_SHIFT: u32 = 44;
const PIECE_SHIFT: u32 = 48;
const DETOUR: u64 = 4 << CLASS_SHIFT;
/// Piece, class, slot and use.
const OF_ONE: u64 = 0xFF << PIECE_SHIFT | 3 << CLASS_SHIFT | 0xFF << SLOT_SHIFT | NUMBERS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_piece_class_sender_slot_and_use_apart() {
        let last = tag(Class::Piece(MAX_PIECES - 1), Rank(MAX_RANKS - 1), MAX_SLOTS - 1, 0xFFFF);
        assert_eq!(last, 0x1F_10FF_FF1F_FFFF);
        let one = tag(Class::Piece(0), Rank(1), 1, 1);
        for other in [
            tag(Class::Piece(1), Rank(1), 1, 1),
            tag(Class::Credit, Rank(1), 1, 1),
            tag(Class::Piece(0), Rank(2), 1, 1),
            tag(Class::Piece(0), Rank(1), 2, 1),
            tag(Class::Piece(0), Rank(1), 1, 2),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(one, tag(Class::Piece(0), Rank(1), 1, 0x1_0001));
    }

    #[test]
    fn what_goes_round_its_rail_is_taken_by_its_sender_and_known_by_its_tag() {
        for (class, slot, number) in [
            (Class::Piece(0), 0, 0),
            (Class::Piece(MAX_PIECES - 1), MAX_SLOTS - 1, 0xFFFF),
            (Class::Credit, 1, 7),
        ] {
            for sender in [0, 1, MAX_RANKS - 1].map(Rank) {
                let straight = tag(class, sender, slot, number);
                assert_eq!(parse(detoured(straight)), (class, slot, number as u16));
                let (wanted, ignored) = any_detour(sender);
                let is_taken = |tag: u64| tag & !ignored == wanted & !ignored;
                assert!(is_taken(detoured(straight)) && !is_taken(straight));
                assert!(!is_taken(detoured(tag(class, Rank(sender.0 ^ 1), slot, number))));
            }
        }
    }
}
