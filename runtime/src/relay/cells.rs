//! Short stretches between a host and its GPU, as the kernels put and get them (`cuda/kernels/cells.cuh`).
//!
//! A cell is two 64-bit words, each four bytes of data and behind them the mark of the round that they belong to. A word is
//! written at once, so that it is there whole as soon as its mark is, in whatever order words come. Marks repeat after 2^31
//! rounds, and so cells are cleared every so many rounds: what was put when it has been taken and nobody may put again, and
//! what was got before it is filled, when nobody reads it yet.
//!
//! Pure: memory is given as words.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::parameters::{GOT_CELL_WORDS, POST_WORDS, POSTS, ROUND_CELL_WORDS, ROUNDS, STRETCH_CELL_WORDS};

/// A round of a channel, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Round(pub(crate) u64);

impl Round {
    /// Never 0, as memory begins.
    fn mark(self) -> u32 {
        self.0 as u32 | 1 << 31
    }

    /// Where it stands among a channel's last rounds.
    fn place(self) -> usize {
        (self.0 % ROUNDS as u64) as usize
    }

    /// Where its post is among the channel's words.
    pub(crate) fn post(self) -> Range<usize> {
        let start = POSTS + self.place() * POST_WORDS;
        start..start + POST_WORDS
    }

    /// Which of all words have the stretch of this number that is put.
    pub(crate) fn put(self, stretch: usize) -> Range<usize> {
        let start = self.place() * ROUND_CELL_WORDS + stretch * STRETCH_CELL_WORDS;
        start..start + STRETCH_CELL_WORDS
    }

    /// And that is got.
    pub(crate) fn got(self, stretch: usize) -> Range<usize> {
        let put = self.put(stretch);
        GOT_CELL_WORDS + put.start..GOT_CELL_WORDS + put.end
    }

    /// Whether its cells are to be cleared, so that no mark of 2^31 rounds ago is found there: that of each place, in turn.
    pub(crate) fn clears(self) -> bool {
        self.0 % CLEAR_EVERY < ROUNDS as u64
    }

    /// Which plan and slice a post says, when it is there.
    #[inline]
    pub(crate) fn posted(self, post: &[AtomicU64]) -> Option<(u32, u32)> {
        // The slice's word comes with what lies in the outbox, behind which it was written.
        let slice = self.half(post[1].load(Ordering::Acquire))?;
        Some((self.half(post[0].load(Ordering::Relaxed))?, slice))
    }

    /// Takes bytes out of cells, from the cell on where it was left off; whether that was all.
    pub(crate) fn take(self, cells: &[AtomicU64], bytes: &mut [u8], taken: &mut usize) -> bool {
        let content = |number: usize| {
            // Both words, also where the last has no data: nothing of the round comes later.
            let [low, high] = [0, 1].map(|at| self.half(cells[2 * number + at].load(Ordering::Relaxed)));
            Some((u64::from(high?) << 32 | u64::from(low?)).to_le_bytes())
        };
        // Whole cells apart, as a copy of a length that is known is an instruction, and else a call.
        let (whole, rest) = bytes.as_chunks_mut::<8>();
        for (number, bytes) in whole.iter_mut().enumerate().skip(*taken) {
            let Some(content) = content(number) else { return false };
            *bytes = content;
            *taken = number + 1;
        }
        if *taken == whole.len() && !rest.is_empty() {
            let Some(content) = content(*taken) else { return false };
            rest.copy_from_slice(&content[..rest.len()]);
            *taken += 1;
        }
        true
    }

    /// Fills cells with bytes.
    pub(crate) fn fill(self, cells: &[AtomicU64], bytes: &[u8]) {
        let mark = u64::from(self.mark()) << 32;
        let put = |cell: &[AtomicU64], content: [u8; 8]| {
            let content = u64::from_le_bytes(content);
            cell[0].store(mark | content & u64::from(u32::MAX), Ordering::Relaxed);
            cell[1].store(mark | content >> 32, Ordering::Relaxed);
        };
        let (whole, rest) = bytes.as_chunks::<8>();
        for (content, cell) in whole.iter().zip(cells.chunks_exact(2)) {
            put(cell, *content);
        }
        if !rest.is_empty() {
            let mut content = [0; 8];
            content[..rest.len()].copy_from_slice(rest);
            put(&cells[2 * whole.len()..], content);
        }
    }

    fn half(self, word: u64) -> Option<u32> {
        (word >> 32 == u64::from(self.mark())).then_some(word as u32)
    }
}

/// Lets no mark be found there.
pub(crate) fn clear(cells: &[AtomicU64]) {
    cells.iter().for_each(|word| word.store(0, Ordering::Relaxed));
}

const CLEAR_EVERY: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::super::parameters::{SHORT_BYTES, SPANS_MAX};
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn bytes_come_back_out_of_cells_and_of_no_other_round() {
        let cells = words(STRETCH_CELL_WORDS);
        for (number, len) in [1, 2, 3, 7, 8, 9, 12, 4093, SHORT_BYTES].into_iter().enumerate() {
            let (round, mut found) = (Round(number as u64 + 1), vec![0; len]);
            let bytes: Vec<u8> = (0..len).map(|at| (at * 7 + number) as u8).collect();
            let mut taken = 0;
            assert!(!round.take(&cells, &mut found, &mut taken) && taken == 0, "nothing is there");
            round.fill(&cells, &bytes);
            assert!(round.take(&cells, &mut found, &mut taken));
            assert_eq!(found, bytes);
        }
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for_where_it_is_missing() {
        let (cells, round) = (words(STRETCH_CELL_WORDS), Round(9));
        let bytes: Vec<u8> = (1..=100).collect();
        round.fill(&cells, &bytes);
        // The last word has no byte, and belongs to the round all the same.
        for missing in [0, 7, 24, 25] {
            let late = cells[missing].swap(0, Ordering::Relaxed);
            let (mut found, mut taken) = ([0; 100], 0);
            assert!(!round.take(&cells, &mut found, &mut taken));
            assert_eq!(taken, missing / 2);
            cells[missing].store(late, Ordering::Relaxed);
            assert!(round.take(&cells, &mut found, &mut taken));
            assert_eq!(found[..], bytes[..]);
        }
    }

    #[test]
    fn a_post_is_there_when_both_of_its_words_are() {
        let (post, round) = (words(POST_WORDS), Round(17));
        let say = |at: usize, round: Round, what: u64| {
            post[at].store(u64::from(round.mark()) << 32 | what, Ordering::Relaxed);
        };
        say(0, Round(9), 3);
        say(1, Round(9), 4);
        assert_eq!((round.posted(&post), Round(9).posted(&post)), (None, Some((3, 4))));
        say(1, round, 5);
        assert_eq!(round.posted(&post), None);
        say(0, round, u64::from(u32::MAX));
        assert_eq!(round.posted(&post), Some((u32::MAX, 5)));
    }

    #[test]
    fn rounds_whose_answers_may_be_missing_share_nothing() {
        let last = Round(ROUNDS as u64 + 3);
        let rounds = || (4..=last.0).map(Round);
        let parts =
            |round: Round| (0..SPANS_MAX).flat_map(move |stretch| [round.put(stretch), round.got(stretch)]);
        let mut all: Vec<_> = rounds().flat_map(parts).collect();
        all.sort_by_key(|part| part.start);
        assert!(all.windows(2).all(|two| two[0].end <= two[1].start));
        assert_eq!(all.last().map(|part| part.end), Some(2 * GOT_CELL_WORDS));
        assert_eq!(Round(3).post(), last.post(), "and then it begins anew");
        assert!((1..=2 * CLEAR_EVERY).map(Round).filter(|round| round.clears()).count() > ROUNDS);
    }

    #[test]
    fn marks_are_never_what_cleared_memory_has() {
        for number in [1, (1 << 31) - 1, 1 << 31, 1 << 32, u64::MAX] {
            let (cells, mut byte) = (words(2), [0]);
            assert!(!Round(number).take(&cells, &mut byte, &mut 0));
            Round(number).fill(&cells, &[5]);
            clear(&cells);
            assert!(!Round(number).take(&cells, &mut byte, &mut 0));
        }
    }
}
