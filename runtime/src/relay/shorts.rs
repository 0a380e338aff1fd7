//! Short stretches on their way: what a lane has taken out of cells to be sent, and has received to be put there.

use std::sync::atomic::AtomicU64;

use super::carrier::Plan;
use super::cells::{Round, clear};
use super::parameters::{ROUND_CELL_WORDS, SHORT_BYTES, SPANS_MAX};
use super::transfer::is_short;

/// A lane's.
#[derive(Debug, Default)]
pub(super) struct Shorts {
    pub(super) put: Stretches,
    pub(super) got: Stretches,
}

impl Shorts {
    /// Takes what a round's kernel puts, which may still be on its way. False when that is no more to be expected.
    pub(super) fn take(
        &mut self,
        plan: &Plan,
        cells: &[AtomicU64],
        round: Round,
        is_over: impl Fn() -> bool,
    ) -> bool {
        let mut are_taken = [false; SPANS_MAX];
        for &(_, index, bytes) in plan.sends.iter().filter(|(.., bytes)| is_short(*bytes)) {
            if std::mem::replace(&mut are_taken[index], true) {
                continue;
            }
            let (cells, into) = (&cells[round.put(index)], &mut self.put.of_mut(index)[..bytes]);
            let (mut taken, mut looks) = (0, 0u32);
            while !round.take(cells, into, &mut taken) {
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(LOOKS) && is_over() {
                    return false;
                }
                std::hint::spin_loop();
            }
        }
        true
    }

    /// Puts what has come where the round's kernel looks for it.
    pub(super) fn give(&self, plan: &Plan, cells: &[AtomicU64], round: Round) {
        for &(_, index, bytes) in plan.receives.iter().filter(|(.., bytes)| is_short(*bytes)) {
            round.fill(&cells[round.got(index)], &self.got.of(index)[..bytes]);
        }
    }
}

/// Clears what a round may put, when that has been taken.
pub(super) fn clear_put(cells: &[AtomicU64], round: Round) {
    let start = round.put(0).start;
    clear(&cells[start..start + ROUND_CELL_WORDS]);
}

/// Clears what a round may get, before it gets anything.
pub(super) fn clear_got(cells: &[AtomicU64], round: Round) {
    let start = round.got(0).start;
    clear(&cells[start..start + ROUND_CELL_WORDS]);
}

/// Room for a stretch of each number.
#[derive(Debug)]
pub(super) struct Stretches(Vec<u8>);

impl Stretches {
    pub(super) fn of(&self, index: usize) -> &[u8] {
        &self.0[index * SHORT_BYTES..][..SHORT_BYTES]
    }

    pub(super) fn of_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.0[index * SHORT_BYTES..][..SHORT_BYTES]
    }

    /// All of them, each to be taken once.
    pub(super) fn parts_mut(&mut self) -> Parts<'_> {
        let mut parts = self.0.chunks_mut(SHORT_BYTES);
        Parts(std::array::from_fn(|_| parts.next()))
    }
}

impl Default for Stretches {
    fn default() -> Stretches {
        Stretches(vec![0; SPANS_MAX * SHORT_BYTES])
    }
}

pub(super) struct Parts<'a>([Option<&'a mut [u8]>; SPANS_MAX]);

impl<'a> Parts<'a> {
    /// # Panics
    ///
    /// When it was taken before.
    pub(super) fn take(&mut self, index: usize) -> &'a mut [u8] {
        self.0[index].take().expect("no get is named twice")
    }
}

/// Between two looks at whether all is over.
const LOOKS: u32 = 1 << 12;
