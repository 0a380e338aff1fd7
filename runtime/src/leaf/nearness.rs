//! Whether another core's caches are nearer than memory.
//!
//! Between cores that share a cache, what one has just written comes to the other from there, and is written over there.
//! Between cores that share none, every line must be asked back from the other core before it is written again: all_reduces
//! of 64 KiB between two such cores of an AMD EPYC took 42 us, where 9 would do by writing past the caches. A virtual
//! machine's cores are moved between the two without a word, so ranks find out, again and again: now and then a cell is
//! written one way or the other whatever holds, as a *sample*, and who writes or reads it takes the time. What a rank finds it
//! tells, and all write as one of them wants it.
//!
//! Which bytes are read does not depend on it. (Reading single lines of either kind says little: some of them have been
//! fetched by the processor of its own accord before they are asked for.)

use std::time::Duration;

/// How a cell is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As anything.
    Cached,
    /// Past the caches.
    Past,
}

/// What was done to a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Write,
    Read,
}

/// What a rank has found.
#[derive(Debug, Default)]
pub(super) struct Nearness {
    /// By manner.
    latest: [Latest; 2],
    score: u8,
    is_far: bool,
}

/// The latest samples of a manner.
#[derive(Clone, Copy, Debug, Default)]
struct Latest {
    len: usize,
    /// By act.
    took: [Option<Duration>; 2],
}

impl Nearness {
    /// Takes in how long it took to write or read a sample; says what holds now if that has changed.
    pub(super) fn take(&mut self, manner: Manner, act: Act, len: usize, took: Duration) -> Option<bool> {
        let latest = &mut self.latest[manner as usize];
        if latest.len != len {
            *latest = Latest { len, ..Latest::default() };
        }
        latest.took[act as usize] = Some(took);
        let [cached, past] = self.latest;
        if cached.len != past.len {
            return None;
        }
        // A rank may do one of the two only.
        let both = cached.took.into_iter().zip(past.took).filter_map(|(cached, past)| cached.zip(past));
        let (cached, past) =
            both.fold((Duration::ZERO, Duration::ZERO), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let is_slower = cached * FAR_FACTOR.1 > past * FAR_FACTOR.0;
        self.score = if is_slower { (self.score + 1).min(MAX_SCORE) } else { self.score.saturating_sub(1) };
        let is_far = if self.is_far { self.score > 0 } else { self.score == MAX_SCORE };
        (std::mem::replace(&mut self.is_far, is_far) != is_far).then_some(is_far)
    }
}

/// The manner in which an epoch's cells are written whatever holds, where they are samples. All ranks come to the same
/// answer.
pub(super) fn sample(epoch: u64, len: usize) -> Option<Manner> {
    if !HAS_BOTH_MANNERS || len < LEAST_SAMPLE_BYTES || !epoch.is_multiple_of(BETWEEN_SAMPLES) {
        return None;
    }
    // Two of each in a row: one of an even epoch, and one of an odd.
    Some(if (epoch / BETWEEN_SAMPLES) % 4 < 2 { Manner::Cached } else { Manner::Past })
}

/// Elsewhere nothing can be written past the caches.
const HAS_BOTH_MANNERS: bool = cfg!(target_arch = "x86_64");
/// From this length on a time says something.
const LEAST_SAMPLE_BYTES: usize = 4096;
/// Odd, so that where content goes by every other epoch there are samples among them. The wrong manner takes up to five
/// times as long: 4% in all.
const BETWEEN_SAMPLES: u64 = 51;
/// By how much cells that are cached must be slower than those that are not: it is four times between cores that share no
/// cache, and rather less than one between cores that share one.
const FAR_FACTOR: (u32, u32) = (7, 4);
/// Findings of one kind, more than of the other, by which a rank changes its mind: a sample may have been disturbed.
const MAX_SCORE: u8 = 5;

#[cfg(test)]
mod tests {
    use super::Act::{Read, Write};
    use super::Manner::{Cached, Past};
    use super::*;

    /// What comes of rounds of samples of both manners, given the microseconds that writing and reading each took.
    fn take(nearness: &mut Nearness, rounds: &[[(u64, u64); 2]]) -> Vec<bool> {
        let mut take =
            |manner, act, took_us| nearness.take(manner, act, 1000, Duration::from_micros(took_us));
        let mut changes = Vec::new();
        for &[cached, past] in rounds {
            changes.extend(take(Cached, Write, cached.0));
            changes.extend(take(Cached, Read, cached.1));
            changes.extend(take(Past, Write, past.0));
            changes.extend(take(Past, Read, past.1));
        }
        changes
    }

    const NEAR: [(u64, u64); 2] = [(2, 6), (4, 5)];
    const FAR: [(u64, u64); 2] = [(34, 6), (4, 5)];
    const DISTURBED: [(u64, u64); 2] = [(2, 1000), (4, 5)];

    #[test]
    fn a_rank_changes_its_mind_by_several_findings_and_not_by_one() {
        let mut nearness = Nearness::default();
        assert_eq!(take(&mut nearness, &[NEAR, DISTURBED, NEAR, DISTURBED, NEAR]), []);
        assert_eq!(take(&mut nearness, &[FAR; 3]), [true]);
        assert_eq!(take(&mut nearness, &[FAR, [(34, 6), (4, 1000)], FAR, FAR]), []);
        assert_eq!(take(&mut nearness, &[NEAR; 3]), [false]);
    }

    #[test]
    fn a_rank_that_writes_only_or_reads_only_finds_out_too() {
        for act in [Write, Read] {
            let mut nearness = Nearness::default();
            let mut changes = Vec::new();
            for _ in 0..4 {
                changes.extend(nearness.take(Cached, act, 1000, Duration::from_micros(34)));
                changes.extend(nearness.take(Past, act, 1000, Duration::from_micros(5)));
            }
            assert_eq!(changes, [true]);
        }
    }

    #[test]
    fn samples_of_different_lengths_are_not_compared() {
        let mut nearness = Nearness::default();
        for round in 0..10 {
            let took = Duration::from_micros(100);
            assert_eq!(nearness.take(Cached, Read, 4096 + round, took), None);
            assert_eq!(nearness.take(Past, Read, 65_536, Duration::from_micros(1)), None);
        }
    }

    #[test]
    fn samples_are_of_long_cells_and_of_both_manners_among_even_and_odd_epochs() {
        assert!((0..1000).all(|epoch| sample(epoch, LEAST_SAMPLE_BYTES - 1).is_none()));
        for manner in [Cached, Past] {
            for parity in 0..2 {
                let is_found = |&epoch: &u64| epoch % 2 == parity && sample(epoch, 4096) == Some(manner);
                let found = (0..1000).filter(is_found).count();
                assert_eq!(found > 0, HAS_BOTH_MANNERS);
                assert!(found < 10);
            }
        }
    }
}
