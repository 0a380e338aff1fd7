//! How operations are named on the wire: the tag that a send and its receive have in common.

use efarun_wire::Rank;

/// What a tagged message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A header and a payload for a slot of the receiver.
    Message,
    /// The receiver's word that a slot is free for its next generation.
    Credit,
}

/// The tag of a slot's message or credit. 48 bits, from the top: class, rank that sends, slot, generation. Generations
/// wrap; a pair's are never more than one apart.
pub(super) fn tag(class: Class, sender: Rank, slot: usize, generation: u64) -> u64 {
    let class = match class {
        Class::Message => 1,
        Class::Credit => 2,
    };
    debug_assert!(sender.0 < MAX_RANKS && slot < MAX_SLOTS, "checked when the transport was made");
    class << 44 | u64::from(sender.0) << 24 | (slot as u64) << 16 | generation & 0xFFFF
}

/// How many ranks fit a tag.
pub(super) const MAX_RANKS: u32 = 1 << 20;
/// How many slots fit a tag.
pub(super) const MAX_SLOTS: usize = 1 << 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_class_sender_slot_and_generation_apart() {
        let last = tag(Class::Credit, Rank(MAX_RANKS - 1), MAX_SLOTS - 1, 0xFFFF);
        assert_eq!(last, 0x2FFF_FFFF_FFFF);
        let one = tag(Class::Message, Rank(1), 1, 1);
        for other in [
            tag(Class::Credit, Rank(1), 1, 1),
            tag(Class::Message, Rank(2), 1, 1),
            tag(Class::Message, Rank(1), 2, 1),
            tag(Class::Message, Rank(1), 1, 2),
        ] {
            assert_ne!(one, other);
        }
        assert_eq!(one, tag(Class::Message, Rank(1), 1, 0x1_0001));
    }
}
