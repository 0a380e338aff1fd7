//! How many blocks a rank's launch can have, where several ranks share a GPU.
//!
//! Pure, and the same on every rank. A kernel waits for the other ranks' kernels. Where these run on the same GPU all their
//! blocks must be there side by side: one that waits for a place would wait for those that wait for it. A multiprocessor
//! has room for one block of ours (`__launch_bounds__`), and so each of the ranks on the fullest GPU has its share of the
//! multiprocessors, of those of the smallest GPU.

/// How many blocks a launch can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many ranks the fullest GPU has.
    sharing: u32,
    blocks: u32,
}

impl Room {
    /// Of ranks that have a GPU each. What they do not find room for at once comes later, and nobody waits for it.
    pub(crate) const WHOLE: Room = Room { sharing: 1, blocks: u32::MAX };

    /// Of so many ranks on the fullest GPU.
    pub(crate) fn of(sharing: u32, multiprocessors: u32) -> Room {
        match sharing {
            0 | 1 => Room::WHOLE,
            _ => Room { sharing, blocks: multiprocessors / sharing },
        }
    }

    /// Whether any rank shares a GPU with another.
    pub(crate) fn is_shared(self) -> bool {
        self.sharing > 1
    }

    /// The most that a launch can have.
    pub(crate) fn blocks(self) -> u32 {
        self.blocks
    }

    /// Whether so many ranks can talk with each other: a message takes a block for each of them at least.
    pub(crate) fn suffices(self, ranks: usize) -> bool {
        !self.is_shared() || self.blocks as usize >= ranks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_share_a_gpu_share_its_multiprocessors() {
        for (sharing, multiprocessors, blocks) in [(2, 132, 66), (4, 132, 33), (8, 132, 16), (8, 108, 13)] {
            let room = Room::of(sharing, multiprocessors);
            assert_eq!((room.is_shared(), room.blocks()), (true, blocks));
            assert!(room.suffices(8) && sharing * room.blocks() <= multiprocessors);
        }
        assert!(!Room::of(8, 58).suffices(8) && Room::of(7, 58).suffices(8));
    }

    #[test]
    fn ranks_with_a_gpu_each_have_all_of_it() {
        assert_eq!((Room::of(1, 132), Room::of(1, 1)), (Room::WHOLE, Room::WHOLE));
        assert!(!Room::WHOLE.is_shared() && Room::WHOLE.suffices(8));
    }
}
