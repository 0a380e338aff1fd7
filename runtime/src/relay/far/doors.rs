//! How far the channels of messages are, as a lane counts them.
//!
//! Pure. Kernels count the rounds of each channel from launch to launch, and lanes count alike: they learn of launches in their order,
//! and of each know which slices go by which channel.

use super::parameters::{CHANNELS, PLACES};
use crate::relay::cells::Round;

/// A channel of one direction, as the lane that it belongs to sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Door {
    /// How many rounds are known of.
    entered: u64,
    answered: u64,
    /// Which of the rounds behind the answered ones are done.
    done: u8,
}

impl Door {
    /// The round of its next slice.
    pub(super) fn enter(&mut self) -> Round {
        self.entered += 1;
        Round(self.entered)
    }

    /// Takes in that a round is done, in any order; and says how many are to be answered for, where those have become more.
    pub(super) fn done(&mut self, round: Round) -> Option<Round> {
        let ahead = round.0 - self.answered - 1;
        debug_assert!(ahead < PLACES as u64, "{round:?} of {self:?}");
        self.done |= 1 << ahead;
        let before = self.answered;
        while self.done & 1 == 1 {
            self.done >>= 1;
            self.answered += 1;
        }
        (self.answered > before).then_some(Round(self.answered))
    }
}

/// All of a direction.
#[derive(Clone, Debug)]
pub(super) struct Doors([Door; CHANNELS]);

impl Doors {
    pub(super) fn new() -> Doors {
        Doors([Door::default(); CHANNELS])
    }

    pub(super) fn of(&mut self, channel: usize) -> &mut Door {
        &mut self.0[channel]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_answered_in_order_whenever_they_are_done() {
        let mut door = Door::default();
        let rounds: Vec<_> = (0..5).map(|_| door.enter()).collect();
        assert_eq!(rounds[0], Round(1), "as kernels count");
        assert_eq!(door.done(rounds[0]), Some(Round(1)));
        assert_eq!(door.done(rounds[2]), None);
        assert_eq!(door.done(rounds[1]), Some(Round(3)));
        assert_eq!(door.done(rounds[3]), Some(Round(4)));
        assert_eq!(door.done(rounds[4]), Some(Round(5)));
    }
}
