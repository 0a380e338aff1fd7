//! What hosts say to each other of slices that cards read, and what a rank makes of what it hears.
//!
//! A [`Word`] is one message: that a slice can be read, and where; that it was read; or a short stretch, which is said instead. It says
//! itself what it is. [`Hearing`] is what a rank makes of those of an exchange of transfers; of messages that is part of a
//! [session](super::far::session). What two ranks give each other keeps its order.
//!
//! Pure.

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
    pub(super) fn parse(bytes: &'w [u8]) -> Option<Word<'w>> {
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
pub(super) struct Hearing {
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

impl Hearing {
    /// Of one peer's gets the first comes first.
    pub(super) fn new(gets: Vec<Get>) -> Hearing {
        let are_heard = vec![false; gets.len()];
        Hearing { gets, are_heard, unread: Vec::new() }
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
        let number = self.next_get(from);
        let number = number.ok_or_else(|| "gives more than it is asked for".to_owned())?;
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
    fn messages_of_a_pair_keep_their_order_and_answers_are_counted() {
        let mut hearing = Hearing::new(vec![slice(A, 10), short(B, 3), slice(A, 20)]);
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
            let mut hearing = Hearing::new(gets.to_vec());
            given.iter().for_each(|to| hearing.gave(*to));
            hearing.hear(A, word).expect_err("it differs")
        };
        assert!(said(&[slice(A, 10)], &[B], &done()).contains("what it was not given"));
        assert!(said(&[slice(B, 10)], &[A], &ready(0, 10)).contains("more than it is asked for"));
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
