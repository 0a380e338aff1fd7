//! Identical lines of several ranks, as one.
//!
//! A [`Fold`] is given whole lines, and gives them back with the ranks that have written each. A line waits until every
//! rank that still writes has written it too, or for a time that is given; it leaves only after those before it, so that the
//! lines of each of a rank's streams keep their order. What waits is bounded by [`FOLD_BYTES`]: beyond it the oldest leave early.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::message::Stream;

/// How many bytes of lines wait at most.
pub const FOLD_BYTES: usize = 4 << 20;

/// A line, and who has written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folded {
    pub(super) ranks: BTreeSet<Rank>,
    pub(super) stream: Stream,
    /// With its end of line, where it has one.
    pub(super) line: Vec<u8>,
}

/// Lines that wait, in the order in which they will leave.
#[derive(Debug, Default)]
pub(super) struct Fold {
    /// Each with its place, ascending, and since when it, or one behind it, waits.
    waiting: VecDeque<(u64, Instant, Folded)>,
    /// Where a line waits.
    places: HashMap<(Stream, Vec<u8>), BTreeSet<u64>>,
    /// The place of each stream's last line, also where that has left.
    last: HashMap<(Rank, Stream), u64>,
    /// The place of the last that has left.
    left: u64,
    bytes: usize,
    /// How long a line waits.
    age: Duration,
    /// The ranks that may still write, by stream.
    writing: [BTreeSet<Rank>; 2],
}

impl Fold {
    /// Waits `age` for this many ranks; `merged` ones write to one stream alone.
    pub(super) fn of(world_size: u32, age: Duration, merged: bool) -> Fold {
        let all: BTreeSet<Rank> = (0..world_size).map(Rank).collect();
        let errors = if merged { BTreeSet::new() } else { all.clone() };
        Fold { age, writing: [all, errors], ..Fold::default() }
    }

    /// Takes note that a rank writes no more to a stream.
    pub(super) fn ended(&mut self, rank: Rank, stream: Stream) {
        self.writing[index(stream)].remove(&rank);
    }

    /// Takes a line of a rank's.
    pub(super) fn push(&mut self, rank: Rank, stream: Stream, line: &[u8], now: Instant) {
        // Behind the stream's own last line, or its lines would change places. The two streams of a rank arrive in any
        // order, in which no two ranks need agree; a line that nobody has written yet stands behind both.
        let last = |stream| self.last.get(&(rank, stream)).copied().unwrap_or(0).max(self.left);
        let after = last(stream);
        let after_both = last(Stream::Stdout).max(last(Stream::Stderr));
        let key = (stream, line.to_vec());
        let known = self.places.get(&key).and_then(|places| places.range(after + 1..).next().copied());
        let place = known.unwrap_or_else(|| self.insert(after_both, key, now));
        let index = self.waiting.partition_point(|(known, ..)| *known < place);
        self.waiting[index].2.ranks.insert(rank);
        self.last.insert((rank, stream), place);
    }

    /// Puts a line that nobody has written yet right behind this place, where what follows can still be joined; at the end,
    /// where too many wait for that. Gives its place.
    fn insert(&mut self, after: u64, key: (Stream, Vec<u8>), now: Instant) -> u64 {
        let index = self.waiting.partition_point(|(known, ..)| *known <= after);
        let next = self.waiting.get(index).filter(|_| self.waiting.len() <= MOST_IN_BETWEEN);
        let between = next.map(|(next, since, _)| (after + (next - after) / 2, *since));
        let (index, place, since) = match between {
            Some((place, since)) if place > after => (index, place, since.min(now)),
            _ => {
                let last = self.waiting.back().map_or(self.left, |(last, ..)| *last);
                (self.waiting.len(), last.max(after) + PLACES_BETWEEN, now)
            }
        };
        self.bytes += key.1.len();
        let folded = Folded { ranks: BTreeSet::new(), stream: key.0, line: key.1.clone() };
        self.waiting.insert(index, (place, since, folded));
        self.places.entry(key).or_default().insert(place);
        place
    }

    /// Gives the next line that need not wait any longer.
    pub(super) fn next(&mut self, now: Instant) -> Option<Folded> {
        let (_, since, folded) = self.waiting.front()?;
        let is_due = self.writing[index(folded.stream)].is_subset(&folded.ranks)
            || now.saturating_duration_since(*since) >= self.age
            || self.bytes > FOLD_BYTES;
        is_due.then(|| self.pop()).flatten()
    }

    /// Gives the next line in any case.
    pub(super) fn pop(&mut self) -> Option<Folded> {
        let (place, _, folded) = self.waiting.pop_front()?;
        let key = (folded.stream, folded.line);
        if let Some(places) = self.places.get_mut(&key) {
            places.remove(&place);
            if places.is_empty() {
                self.places.remove(&key);
            }
        }
        self.bytes -= key.1.len();
        self.left = place;
        Some(Folded { line: key.1, ..folded })
    }

    /// When the oldest line has waited long enough.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.waiting.front().map(|(_, since, _)| *since + self.age)
    }
}

/// Room between the places of lines that were put at the end, for others to come between them.
const PLACES_BETWEEN: u64 = 1 << 20;
/// How many may wait where one is put between others, which moves those behind it.
const MOST_IN_BETWEEN: usize = 256;

fn index(stream: Stream) -> usize {
    if stream == Stream::Stdout { 0 } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const AGE: Duration = Duration::from_secs(1);

    fn push(fold: &mut Fold, rank: u32, line: &str, now: Instant) {
        fold.push(Rank(rank), Stream::Stdout, line.as_bytes(), now);
    }

    fn all(fold: &mut Fold) -> Vec<(Vec<u32>, String)> {
        let shown = |folded: Folded| {
            let ranks = folded.ranks.iter().map(|rank| rank.0).collect();
            (ranks, String::from_utf8(folded.line).unwrap())
        };
        std::iter::from_fn(|| fold.pop()).map(shown).collect()
    }

    #[test]
    fn the_same_line_of_all_ranks_is_one_and_leaves_at_once() {
        let (mut fold, now) = (Fold::of(3, AGE, false), Instant::now());
        for rank in 0..3 {
            assert_eq!(fold.next(now), None, "not all have written it");
            push(&mut fold, rank, "hello\n", now);
        }
        let folded = fold.next(now).unwrap();
        assert_eq!((folded.ranks.len(), &folded.line[..]), (3, &b"hello\n"[..]));
        assert_eq!((fold.next(now), fold.due_at(), fold.bytes, fold.places.len()), (None, None, 0, 0));
    }

    #[test]
    fn the_order_of_two_streams_keeps_no_line_from_being_one() {
        let (mut fold, now) = (Fold::of(2, AGE, false), Instant::now());
        fold.push(Rank(0), Stream::Stdout, b"bye\n", now);
        fold.push(Rank(0), Stream::Stderr, b"oops\n", now);
        fold.push(Rank(1), Stream::Stderr, b"oops\n", now);
        fold.push(Rank(1), Stream::Stdout, b"bye\n", now);
        assert_eq!(all(&mut fold), [(vec![0, 1], "bye\n".to_owned()), (vec![0, 1], "oops\n".to_owned())]);
    }

    #[test]
    fn a_line_of_one_rank_leaves_when_it_has_waited() {
        let (mut fold, now) = (Fold::of(2, AGE, false), Instant::now());
        push(&mut fold, 1, "mine\n", now);
        assert_eq!(fold.due_at(), Some(now + AGE));
        assert_eq!(fold.next(now + AGE / 2), None);
        assert!(fold.next(now + AGE).is_some());
    }

    #[test]
    fn lines_that_repeat_fold_one_by_one() {
        let (mut fold, now) = (Fold::default(), Instant::now());
        for rank in [0, 1] {
            for line in ["x\n", "x\n", "y\n"] {
                push(&mut fold, rank, line, now);
            }
        }
        let both = |line: &str| (vec![0, 1], line.to_owned());
        assert_eq!(all(&mut fold), [both("x\n"), both("x\n"), both("y\n")]);
    }

    #[test]
    fn lines_of_one_rank_do_not_keep_those_of_all_from_folding() {
        let (mut fold, now) = (Fold::of(3, AGE, false), Instant::now());
        for rank in 0..3 {
            for line in ["hello\n".to_owned(), format!("mine {rank}\n"), "bye\n".to_owned()] {
                push(&mut fold, rank, &line, now);
            }
        }
        let all = all(&mut fold);
        assert_eq!((all.len(), &all[0].0, &all[4].0), (5, &vec![0, 1, 2], &vec![0, 1, 2]), "{all:?}");
    }

    #[test]
    fn streams_are_apart_and_what_waits_is_bounded() {
        let (mut fold, now) = (Fold::of(9, AGE, false), Instant::now());
        push(&mut fold, 0, "a\n", now);
        fold.push(Rank(1), Stream::Stderr, b"a\n", now);
        assert_eq!(fold.waiting.len(), 2);
        fold.push(Rank(0), Stream::Stdout, &vec![b'x'; FOLD_BYTES], now);
        assert!(fold.next(now).is_some() && fold.next(now).is_some() && fold.next(now).is_none());
    }

    #[test]
    fn ranks_that_have_ended_are_not_waited_for() {
        let (mut fold, now) = (Fold::of(2, AGE, true), Instant::now());
        push(&mut fold, 0, "a\n", now);
        assert_eq!(fold.next(now), None);
        fold.ended(Rank(1), Stream::Stdout);
        assert!(fold.next(now).is_some());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_rank_keeps_its_order(
            lines in proptest::collection::vec((0u32..4, 0u32..3), 0..60),
        ) {
            let (mut fold, now) = (Fold::default(), Instant::now());
            let mut written: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            for (rank, line) in &lines {
                push(&mut fold, *rank, &format!("{line}\n"), now);
                written.entry(*rank).or_default().push(format!("{line}\n"));
            }
            let mut read: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            for (ranks, line) in all(&mut fold) {
                ranks.into_iter().for_each(|rank| read.entry(rank).or_default().push(line.clone()));
            }
            prop_assert_eq!(read, written);
        }
    }
}
