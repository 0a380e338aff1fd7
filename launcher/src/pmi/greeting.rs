//! How a rank that has no descriptor says who it is: the first line on a connection to PMI_PORT, `cmd=initack pmiid=ID`, with
//! the number that PMI_ID told it.
//!
//! Given a stranger's bytes, [`Greeting`] gives the number once the line is whole; [`Ids`] says whose it is, and makes
//! numbers that nobody can guess in the time that a job has, if a wrong one costs a moment: libraries read them with
//! `atoi`, so that they have 31 bits. PMI-1 only: the libraries that speak PMI-2 are given a descriptor.

use std::collections::BTreeMap;

use efarun_wire::Rank;

use super::pmi1;

/// What a stranger has said so far.
#[derive(Debug, Default)]
pub struct Greeting {
    bytes: Vec<u8>,
}

/// What came of a stranger's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeted {
    /// Its line is not whole.
    NotYet,
    /// It has said this number, and then these bytes, which are no longer part of the greeting.
    By(u32, Vec<u8>),
    /// It greets in no way that is known here.
    Wrongly,
}

impl Greeting {
    /// Takes bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) -> Greeted {
        self.bytes.extend_from_slice(bytes);
        let Some(end) = self.bytes.iter().take(MAX_GREETING_BYTES).position(|byte| *byte == b'\n') else {
            return if self.bytes.len() < MAX_GREETING_BYTES { Greeted::NotYet } else { Greeted::Wrongly };
        };
        match pmi1::parse_greeting(&self.bytes[..end]) {
            Some(id) => Greeted::By(id, self.bytes.split_off(end + 1)),
            None => Greeted::Wrongly,
        }
    }
}

/// The numbers of a node's ranks.
#[derive(Debug, Default)]
pub struct Ids {
    ranks: BTreeMap<u32, Rank>,
}

impl Ids {
    /// Gives a rank a number of its own. Random bits come from `random`.
    ///
    /// # Errors
    ///
    /// That of `random`.
    pub fn give<E>(&mut self, rank: Rank, mut random: impl FnMut() -> Result<u32, E>) -> Result<u32, E> {
        loop {
            let id = random()? & ID_BITS;
            if id != 0 && !self.ranks.contains_key(&id) {
                self.ranks.insert(id, rank);
                return Ok(id);
            }
        }
    }

    /// Whose number it is.
    pub fn rank_of(&self, id: u32) -> Option<Rank> {
        self.ranks.get(&id).copied()
    }
}

/// What a rank reads after its greeting: who it is among how many.
pub(super) fn welcome(rank: u32, size: u32) -> Vec<u8> {
    format!("cmd=initack rc=0\ncmd=set size={size}\ncmd=set rank={rank}\ncmd=set debug=0\n").into_bytes()
}

/// A greeting has some 30.
const MAX_GREETING_BYTES: usize = 128;
/// Those of a positive `int`.
const ID_BITS: u32 = i32::MAX as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_read_however_it_is_cut_and_what_follows_is_kept() {
        let said = b"cmd=initack pmiid=1234567\ncmd=init pmi_version=1 pmi_subversion=1\n";
        let whole = Greeting::default().push(said);
        assert_eq!(whole, Greeted::By(1_234_567, b"cmd=init pmi_version=1 pmi_subversion=1\n".to_vec()));
        let mut greeting = Greeting::default();
        let (last, first) = said[..26].split_last().expect("it has a line end");
        assert!(first.iter().all(|byte| greeting.push(&[*byte]) == Greeted::NotYet));
        assert_eq!(greeting.push(&[*last]), Greeted::By(1_234_567, Vec::new()));
    }

    #[test]
    fn what_is_no_greeting_is_refused() {
        let endless = [b'x'; MAX_GREETING_BYTES];
        let wrong: [&[u8]; 7] = [
            b"\n",
            b"cmd=init pmi_version=1 pmi_subversion=1\n",
            b"cmd=initack\n",
            b"cmd=initack pmiid=\n",
            b"cmd=initack pmiid=-1\n",
            b"cmd=initack pmiid=99999999999\n",
            &endless,
        ];
        for bytes in wrong {
            assert_eq!(Greeting::default().push(bytes), Greeted::Wrongly, "{}", bytes.escape_ascii());
        }
        assert_eq!(Greeting::default().push(&endless[1..]), Greeted::NotYet);
    }

    #[test]
    fn ranks_have_numbers_of_their_own_that_an_int_can_hold() {
        let mut ids = Ids::default();
        let mut random = [0, 7, u32::MAX, 7, 1 << 31, 9].into_iter();
        let mut give =
            |rank| ids.give(Rank(rank), || random.next().ok_or("no more")).expect("there are enough");
        assert_eq!([give(0), give(1), give(2)], [7, i32::MAX as u32, 9]);
        assert_eq!([7, 9, 8].map(|id| ids.rank_of(id)), [Some(Rank(0)), Some(Rank(2)), None]);
        assert!(ids.give(Rank(3), || Err("no bits")).is_err());
    }
}
