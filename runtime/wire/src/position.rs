//! Where ranks are: which operation each has come to, as their agents tell whatever the ranks themselves do.
//!
//! A rank keeps a page of memory in a memfd, offers it to its agent ([`PageOffer`]), and writes there which operation it
//! begins. The agent reads the page like a file when a rank asks it to ([`Question`]), so that a rank is found that is
//! stuck in code of its own, is stopped, or runs in circles.
//!
//! # The page
//! 64-bit words in the machine's order, as both ends are on one machine: two of a token that the offer has too, and from
//! [`ENTRIES_OFFSET`] on [`ENTRIES`] entries of [`ENTRY_BYTES`]. World w of a process has entry w mod [`ENTRIES`]: w + 1;
//! one more than the number of the operation; the signatures of the operations for which that is even, and odd. A signature
//! is written before the number. So what two readings in a row have alike is what was there at one time.

use serde::{Deserialize, Serialize};

use crate::ids::Rank;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Where entries begin.
pub const ENTRIES_OFFSET: usize = 128;
/// How many Worlds of a process are told apart.
pub const ENTRIES: usize = 16;
/// Bytes of an entry: a pair of cache lines, so that Worlds of several threads do not disturb each other.
pub const ENTRY_BYTES: usize = 128;
/// Bytes of a page's token.
pub const TOKEN_BYTES: usize = 16;

/// Where a rank's page is, for its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageOffer {
    /// The process that has it open; the rank's, or of the rank's.
    pub pid: u32,
    /// Its descriptor there.
    pub fd: u32,
    /// What the page begins with: in another PID namespace the number is somebody else's.
    pub token: [u8; TOKEN_BYTES],
}

/// How far a rank has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// One more than the number of the operation that it began last; 0 where it has begun none.
    pub begun: u64,
    /// That operation's signature.
    pub signature: u64,
}

/// What a rank asks an agent, or where there is none another rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// How far have the ranks come in this World, which is the n-th of each process?
    Positions {
        /// n, from 0.
        world: u32,
    },
}

impl Question {
    /// As a request's body.
    pub fn to_bytes(self) -> Vec<u8> {
        postcard::to_allocvec(&self).expect("every message of this crate can be encoded")
    }

    /// A request's body, if it is a question that is known here.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        whole(bytes)
    }
}

/// The answer: of every rank that the one who answers knows of, unless its position is changing or cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Positions(pub Vec<(Rank, Option<Position>)>);

impl Positions {
    /// As a reply's body.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("every message of this crate can be encoded")
    }

    /// A reply's body, if it is an answer.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        whole(bytes)
    }
}

/// What a page says of a World of its process; none where it is not the page of this offer, or knows nothing of the World.
pub fn position(page: &[u8; PAGE_BYTES], offer: &PageOffer, world: u32) -> Option<Position> {
    if page[..TOKEN_BYTES] != offer.token {
        return None;
    }
    let entry = &page[ENTRIES_OFFSET + world as usize % ENTRIES * ENTRY_BYTES..][..ENTRY_BYTES];
    let word = |index: usize| entry[8 * index..].first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
    let (number, begun) = (word(0)?, word(1)?);
    let signature = word(2 + (begun & 1) as usize)?;
    (number == u64::from(world) + 1).then_some(Position { begun, signature })
}

const _: () = assert!(ENTRIES_OFFSET + ENTRIES * ENTRY_BYTES <= PAGE_BYTES);

fn whole<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(message, _)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> PageOffer {
        PageOffer { pid: 7, fd: 5, token: [9; TOKEN_BYTES] }
    }

    fn page(entry: usize, words: [u64; 4]) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[..TOKEN_BYTES].fill(9);
        for (index, word) in words.into_iter().enumerate() {
            page[ENTRIES_OFFSET + entry * ENTRY_BYTES + 8 * index..][..8]
                .copy_from_slice(&word.to_ne_bytes());
        }
        page
    }

    #[test]
    fn a_position_is_that_of_the_world_that_is_asked_for() {
        assert_eq!(
            position(&page(2, [19, 183, 5, 6]), &offer(), 18),
            Some(Position { begun: 183, signature: 6 })
        );
        assert_eq!(
            position(&page(2, [19, 184, 5, 6]), &offer(), 18),
            Some(Position { begun: 184, signature: 5 })
        );
        for (entry, world) in [(2, 2), (2, 34), (3, 18)] {
            assert_eq!(position(&page(entry, [19, 183, 5, 6]), &offer(), world), None);
        }
    }

    #[test]
    fn a_page_with_another_token_says_nothing() {
        let other = PageOffer { token: [8; TOKEN_BYTES], ..offer() };
        assert_eq!(position(&page(2, [19, 183, 5, 6]), &other, 18), None);
    }

    #[test]
    fn questions_and_answers_survive_their_bytes_and_nothing_else_is_one() {
        let question = Question::Positions { world: 300 };
        assert_eq!(Question::from_bytes(&question.to_bytes()), Some(question));
        let position = Position { begun: 183, signature: u64::MAX };
        let answer = Positions(vec![(Rank(3), Some(position)), (Rank(900), None)]);
        assert_eq!(Positions::from_bytes(&answer.to_bytes()), Some(answer.clone()));
        for bytes in [&b""[..], b"missing", &[&answer.to_bytes()[..], b"x"].concat()] {
            assert_eq!(
                (Question::from_bytes(bytes), Positions::from_bytes(bytes)),
                (None, None),
                "{bytes:?}"
            );
        }
    }
}
