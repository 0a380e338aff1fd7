//! How many blocks a rank's launch can have: as many as it is allowed, and where several ranks share a GPU no more than fit.
//!
//! Pure, and the same on every rank. Who computes beside collectives allows them so many multiprocessors, as each block of ours
//! keeps one. A kernel waits for the other ranks' kernels. Where these run on the same GPU all their blocks must be there side by
//! side: one that waits for a place would wait for those that wait for it. A multiprocessor has room for one block of ours
//! (`__launch_bounds__`), and so each of the ranks on the fullest GPU has its share of the multiprocessors, of those of the
//! smallest GPU.

/// How many blocks a launch can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// How many ranks the fullest GPU has.
    sharing: u32,
    /// How many are there side by side, whatever else the GPU's ranks run.
    fitting: u32,
    /// How many are allowed of these.
    allowed: u32,
    /// How many of those leave a place for others, where each rank has a GPU.
    sparing: u32,
}

impl Room {
    /// Of ranks that have a GPU each, of any size. What they do not find room for at once comes later, and nobody of the same
    /// launch waits for it.
    pub(crate) const WHOLE: Room =
        Room { sharing: 1, fitting: u32::MAX, allowed: u32::MAX, sparing: u32::MAX };

    /// Of so many ranks on the fullest GPU.
    pub(crate) fn of(sharing: u32, multiprocessors: u32) -> Room {
        match sharing {
            0 | 1 => Room { sparing: multiprocessors.saturating_sub(SPARED).max(1), ..Room::WHOLE },
            _ => {
                let fitting = multiprocessors / sharing;
                Room { sharing, fitting, allowed: fitting, sparing: fitting }
            }
        }
    }

    /// The same, but for no more blocks than are allowed, where they suffice.
    pub(crate) fn within(self, allowed: u32, ranks: usize) -> Room {
        let needed = u32::try_from(ranks).unwrap_or(u32::MAX);
        Room { allowed: self.allowed.min(allowed.max(needed)), ..self }
    }

    /// Whether any rank shares a GPU with another.
    pub(crate) fn is_shared(self) -> bool {
        self.sharing > 1
    }

    /// The most that a launch can have. It does not take a whole GPU: of two communicators, whose calls two ranks may have
    /// begun in another order each, one block of the call that comes second can then run beside those that wait for it, and make
    /// room for more when it ends.
    pub(crate) fn blocks(self) -> u32 {
        self.allowed.min(self.sparing)
    }

    /// The most that launches can have that run at the same time, or are one.
    pub(crate) fn fitting(self) -> u32 {
        self.fitting
    }

    /// Whether so many ranks can talk with each other: a message takes a block for each of them at least.
    pub(crate) fn suffices(self, ranks: usize) -> bool {
        self.fitting as usize >= ranks
    }
}

/// How many multiprocessors a collective leaves alone: as many as an H200 has more than any leaf can use.
const SPARED: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

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
    fn launches_have_the_blocks_that_are_allowed_and_one_for_each_rank() {
        let blocks = |room: Room, allowed| room.within(allowed, 8).blocks();
        assert_eq!([1, 8, 24].map(|allowed| blocks(Room::WHOLE, allowed)), [8, 8, 24]);
        assert_eq!([1, 24, 66, 200].map(|allowed| blocks(Room::of(2, 132), allowed)), [8, 24, 66, 66]);
        assert!(!Room::WHOLE.within(24, 8).is_shared());
        assert_eq!(Room::of(2, 132).within(24, 8).fitting(), 66);
        assert_eq!(Room::WHOLE.within(u32::MAX, 8), Room::WHOLE);
    }

    /// Whether two calls of so many blocks end that two ranks have begun in another order each: block c of a call ends when it has a
    /// multiprocessor on both, and the next one in line takes its place.
    fn both_end(multiprocessors: u32, blocks: u32) -> bool {
        let line = |first: u32| {
            [first, 1 - first].into_iter().flat_map(move |call| (0..blocks).map(move |at| (call, at)))
        };
        let mut lines: [VecDeque<(u32, u32)>; 2] = [line(0).collect(), line(1).collect()];
        let mut running: [Vec<(u32, u32)>; 2] = [Vec::new(), Vec::new()];
        loop {
            for (line, running) in lines.iter_mut().zip(&mut running) {
                let free = multiprocessors as usize - running.len();
                running.extend(line.drain(..free.min(line.len())));
            }
            let met = running[0].iter().copied().find(|block| running[1].contains(block));
            let Some(met) = met else { return lines.iter().all(VecDeque::is_empty) };
            running.iter_mut().for_each(|running| running.retain(|&block| block != met));
        }
    }

    #[test]
    fn calls_of_two_communicators_end_in_whatever_order_ranks_have_begun_them() {
        for multiprocessors in [8, 58, 108, 114, 132] {
            assert!(both_end(multiprocessors, Room::of(1, multiprocessors).blocks()), "{multiprocessors}");
        }
        assert!(!both_end(108, 128) && !both_end(108, 108), "else nothing would have to be spared");
    }

    #[test]
    fn collectives_of_ranks_with_a_gpu_each_leave_some_of_it_alone() {
        let blocks = |multiprocessors| Room::of(1, multiprocessors).blocks();
        // H200, A100, and less than any that can be had.
        assert_eq!([132, 108, 2].map(blocks), [128, 104, 1]);
        assert_eq!(Room::of(1, 108).within(24, 8).blocks(), 24);
        assert_eq!(Room::of(1, 108).fitting(), u32::MAX);
        assert!(!Room::of(1, 132).is_shared() && Room::WHOLE.suffices(8));
    }
}
