//! What hosts say to each other of slices that cards read, and what a rank makes of what it hears.
//!
//! A [`Word`] is one message: that a slice can be read, and where; that it was read; or a short stretch, which is said instead. It says
//! itself what it is, as two ranks need not be in the same call: one may send and receive at the same time where its peer does one
//! behind the other. Then who waits for the end of what it gave hears of what it gets by a later call. That is kept in
//! [`Early`], and is the first that the later call hears. What two ranks give each other keeps its order either way, and what was
//! read is done in any order, as a call ends when all that it gave is.
//!
//! Pure. What it cannot do: bound what is kept, which a peer can add to while this rank waits for it to read.

use std::collections::{HashMap, VecDeque};

use efarun_wire::Rank;

/// What a host says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word<'w> {
    /// A slice can be read: where in the sender's room, and of which length.
    Ready { at: u64, len: u64 },
    /// One was read.
    Done,
    /// A short stretch.
    Whole(&'w [u8]),
}

impl<'w> Word<'w> {
    /// As a message.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let words = |list: &[u64]| list.iter().flat_map(|word| word.to_le_bytes()).collect();
        match self {
            Word::Ready { at, len } => words(&[READY, at, len]),
            Word::Done => words(&[DONE]),
            Word::Whole(bytes) => [&WHOLE.to_le_bytes(), bytes].concat(),
        }
    }

    /// What a message says; nothing when that is no word.
    fn parse(bytes: &'w [u8]) -> Option<Word<'w>> {
        let (kind, rest) = bytes.split_first_chunk()?;
        match (u64::from_le_bytes(*kind), rest.as_chunks::<8>()) {
            (READY, ([at, len], [])) => {
                Some(Word::Ready { at: u64::from_le_bytes(*at), len: u64::from_le_bytes(*len) })
            }
            (DONE, ([], [])) => Some(Word::Done),
            (WHOLE, _) => Some(Word::Whole(rest)),
            _ => None,
        }
    }
}

/// What a lane has heard before it was asked for, by peer.
#[derive(Debug, Default)]
pub(super) struct Early(HashMap<Rank, VecDeque<Vec<u8>>>);

impl Early {
    fn keep(&mut self, from: Rank, word: &[u8]) {
        self.0.entry(from).or_default().push_back(word.to_vec());
    }

    /// The first that came of a peer.
    pub(super) fn take(&mut self, from: Rank) -> Option<Vec<u8>> {
        let words = self.0.get_mut(&from)?;
        let word = words.pop_front();
        if words.is_empty() {
            self.0.remove(&from);
        }
        word
    }
}

/// Something that this rank is to get in an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Get {
    pub(super) from: Rank,
    pub(super) len: usize,
    /// Whether it is a whole stretch, which is said.
    pub(super) is_short: bool,
}

/// What a rank hears in an exchange, and what it still has to.
#[derive(Debug)]
pub(super) struct Hearing<'e> {
    early: &'e mut Early,
    gets: Vec<Get>,
    /// Which of them it has heard of.
    are_heard: Vec<bool>,
    /// Who has not read what it was given, as often as that is.
    unread: Vec<Rank>,
}

/// What follows from a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard<'w> {
    /// One of the gets can be read, from this place of the peer's room.
    Slice { get: usize, at: u64 },
    /// One is here.
    Whole { get: usize, bytes: &'w [u8] },
    /// Nothing in this exchange but that there is less to wait for.
    Nothing,
}

impl Heard<'_> {
    pub(super) fn get(self) -> Option<usize> {
        match self {
            Heard::Slice { get, .. } | Heard::Whole { get, .. } => Some(get),
            Heard::Nothing => None,
        }
    }
}

impl<'e> Hearing<'e> {
    /// Of one peer's gets the first comes first.
    pub(super) fn new(early: &'e mut Early, gets: Vec<Get>) -> Hearing<'e> {
        let are_heard = vec![false; gets.len()];
        Hearing { early, gets, are_heard, unread: Vec::new() }
    }

    /// What came before this exchange and belongs to it: the next of it, to be heard before anything else.
    pub(super) fn next_early(&mut self) -> Option<(Rank, Vec<u8>)> {
        if self.early.0.is_empty() {
            return None;
        }
        let unheard = self.gets.iter().zip(&self.are_heard).filter(|(_, is_heard)| !**is_heard);
        unheard.map(|(get, _)| get.from).find_map(|from| Some((from, self.early.take(from)?)))
    }

    /// Says that a peer was told to read something.
    pub(super) fn gave(&mut self, to: Rank) {
        self.unread.push(to);
    }

    /// Whether a peer has something to say that this exchange waits for.
    pub(super) fn waits_for(&self, peer: Rank) -> bool {
        self.unread.contains(&peer) || self.next_get(peer).is_some()
    }

    /// Somebody who has.
    pub(super) fn waits(&self) -> Option<Rank> {
        let unheard = self.gets.iter().zip(&self.are_heard).find(|(_, is_heard)| !**is_heard);
        unheard.map(|(get, _)| get.from).or_else(|| self.unread.first().copied())
    }

    /// Whether the get of this number was heard of.
    pub(super) fn has_heard_of(&self, get: usize) -> bool {
        self.are_heard[get]
    }

    /// Takes in what a peer says; or how that differs from what it can say, as a lowercase fragment behind its name.
    pub(super) fn hear<'w>(&mut self, from: Rank, word: &'w [u8]) -> Result<Heard<'w>, String> {
        let parsed = Word::parse(word)
            .ok_or_else(|| format!("says something of {} bytes that is not about slices", word.len()))?;
        if parsed == Word::Done {
            let given = self.unread.iter().position(|to| *to == from);
            let given = given.ok_or_else(|| "says that it has read what it was not given".to_owned())?;
            self.unread.remove(given);
            return Ok(Heard::Nothing);
        }
        let Some(number) = self.next_get(from) else {
            self.early.keep(from, word);
            return Ok(Heard::Nothing);
        };
        let Get { len, is_short, .. } = self.gets[number];
        let (found, fits, heard) = match parsed {
            Word::Ready { at, len } => (len, !is_short, Heard::Slice { get: number, at }),
            Word::Whole(bytes) => (bytes.len() as u64, is_short, Heard::Whole { get: number, bytes }),
            Word::Done => unreachable!("that is no get"),
        };
        if found != len as u64 {
            return Err(format!("has {found} bytes where {len} belong"));
        }
        if !fits {
            return Err(format!("has a stretch of another length, of which {len} bytes are in this slice"));
        }
        self.are_heard[number] = true;
        Ok(heard)
    }

    /// The first from this peer that was not heard of.
    fn next_get(&self, from: Rank) -> Option<usize> {
        (0..self.gets.len()).find(|&number| self.gets[number].from == from && !self.are_heard[number])
    }
}

const READY: u64 = 0xEFA_0001;
const DONE: u64 = 0xEFA_0002;
const WHOLE: u64 = 0xEFA_0003;

#[cfg(test)]
mod tests {
    use super::*;

    const A: Rank = Rank(3);
    const B: Rank = Rank(5);

    fn slice(from: Rank, len: usize) -> Get {
        Get { from, len, is_short: false }
    }

    fn short(from: Rank, len: usize) -> Get {
        Get { from, len, is_short: true }
    }

    fn ready(at: u64, len: u64) -> Vec<u8> {
        Word::Ready { at, len }.to_bytes()
    }

    fn done() -> Vec<u8> {
        Word::Done.to_bytes()
    }

    #[test]
    fn words_come_back_and_nothing_else_is_one() {
        for word in [
            Word::Ready { at: 1 << 40, len: 7 },
            Word::Done,
            Word::Whole(&[]),
            Word::Whole(&[1; 4096]),
            // As long as another word, and as what it says.
            Word::Whole(&DONE.to_le_bytes()),
        ] {
            assert_eq!(Word::parse(&word.to_bytes()), Some(word));
        }
        let longer = |word: Vec<u8>| [&word[..], &[0]].concat();
        for bytes in
            [vec![], vec![1; 7], vec![0; 24], longer(done()), longer(ready(0, 8)), ready(0, 8)[..16].to_vec()]
        {
            assert_eq!(Word::parse(&bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_for_a_later_call_is_kept_while_an_answer_is_waited_for() {
        let mut early = Early::default();
        let mut first = Hearing::new(&mut early, Vec::new());
        first.gave(A);
        assert!(first.waits_for(A) && !first.waits_for(B) && first.next_early().is_none());
        for word in [ready(64, 5000), Word::Whole(&[9; 10]).to_bytes(), ready(128, 6000)] {
            assert_eq!(first.hear(A, &word), Ok(Heard::Nothing));
        }
        assert_eq!(first.waits(), Some(A));
        assert_eq!(first.hear(A, &done()), Ok(Heard::Nothing));
        assert_eq!(first.waits(), None);
        // Somebody else's is not taken for it, and a call takes no more than it gets.
        let mut second = Hearing::new(&mut early, vec![slice(B, 5000), slice(A, 5000), short(A, 10)]);
        for expected in [Heard::Slice { get: 1, at: 64 }, Heard::Whole { get: 2, bytes: &[9; 10] }] {
            let (from, word) = second.next_early().expect("it came early");
            assert_eq!((from, second.hear(from, &word)), (A, Ok(expected)));
        }
        assert_eq!(second.next_early(), None);
        assert!(second.waits_for(B) && !second.waits_for(A));
        let mut third = Hearing::new(&mut early, vec![slice(A, 6000), slice(A, 7000)]);
        let (from, word) = third.next_early().expect("it came early");
        assert_eq!(third.hear(from, &word), Ok(Heard::Slice { get: 0, at: 128 }));
        assert_eq!(third.next_early(), None);
        assert_eq!(third.hear(A, &ready(0, 7000)), Ok(Heard::Slice { get: 1, at: 0 }));
        assert_eq!(third.waits(), None);
    }

    #[test]
    fn messages_of_a_pair_keep_their_order_and_answers_are_counted() {
        let mut early = Early::default();
        let mut hearing = Hearing::new(&mut early, vec![slice(A, 10), short(B, 3), slice(A, 20)]);
        hearing.gave(A);
        hearing.gave(A);
        assert_eq!(hearing.hear(A, &ready(1, 10)), Ok(Heard::Slice { get: 0, at: 1 }));
        assert_eq!(hearing.hear(A, &done()), Ok(Heard::Nothing));
        assert_eq!(hearing.hear(A, &ready(2, 20)), Ok(Heard::Slice { get: 2, at: 2 }));
        assert!(hearing.waits_for(A), "one of two was read");
        assert_eq!(hearing.hear(A, &done()), Ok(Heard::Nothing));
        assert!(!hearing.waits_for(A));
        assert_eq!(hearing.waits(), Some(B));
        let word = Word::Whole(&[1, 2, 3]).to_bytes();
        assert_eq!(hearing.hear(B, &word), Ok(Heard::Whole { get: 1, bytes: &[1, 2, 3] }));
        assert_eq!(hearing.waits(), None);
    }

    #[test]
    fn what_cannot_be_said_is_told() {
        let said = |gets: &[Get], given: &[Rank], word: &[u8]| {
            let mut early = Early::default();
            let mut hearing = Hearing::new(&mut early, gets.to_vec());
            given.iter().for_each(|to| hearing.gave(*to));
            hearing.hear(A, word).expect_err("it differs")
        };
        assert!(said(&[slice(A, 10)], &[B], &done()).contains("what it was not given"));
        assert_eq!(said(&[slice(A, 10)], &[], &ready(0, 11)), "has 11 bytes where 10 belong");
        assert_eq!(
            said(&[short(A, 10)], &[A], &Word::Whole(&[0; 9]).to_bytes()),
            "has 9 bytes where 10 belong"
        );
        assert!(said(&[short(A, 10)], &[], &ready(0, 10)).contains("a stretch of another length"));
        assert!(said(&[slice(A, 10)], &[], &Word::Whole(&[0; 10]).to_bytes()).contains("of another length"));
        assert!(said(&[slice(A, 10)], &[], &[1; 10]).contains("10 bytes that is not about slices"));
    }
}
