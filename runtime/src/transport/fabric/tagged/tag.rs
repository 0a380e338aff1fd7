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
    piece << 48 | class << 44 | u64::from(sender.0) << 24 | (slot as u64) << 16 | number & 0xFFFF
}

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
}
