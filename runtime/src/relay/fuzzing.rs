//! A door for the fuzz targets: what hosts say to each other of slices that cards read, without hosts or cards.
//!
//! Nothing of the runtime uses this module.

use efarun_wire::Rank;

use super::words::{Get, Heard, Hearing};

/// Something that a rank is to get in an exchange: from whom, how long, and whether that is a whole stretch, which is said.
pub type Wanted = (Rank, usize, bool);

/// What a rank makes of a word: which of its gets it is about, and of a stretch the bytes; or how it differs.
pub type Made = Result<Option<(usize, Option<Vec<u8>>)>, String>;

/// What a rank makes of these words of its peers, one behind the other, where it gave something to read to these; and for whom it waits
/// then.
pub fn hear(gets: &[Wanted], given: &[Rank], words: &[(Rank, Vec<u8>)]) -> (Vec<Made>, Option<Rank>) {
    let gets = gets.iter().map(|&(from, len, is_short)| Get { from, len, is_short }).collect();
    let mut hearing = Hearing::new(gets);
    given.iter().for_each(|to| hearing.gave(*to));
    let made = words.iter().map(|(from, word)| {
        hearing.hear(*from, word).map(|heard| match heard {
            Heard::Slice { get, .. } => Some((get, None)),
            Heard::Whole { get, bytes } => Some((get, Some(bytes.to_vec()))),
            Heard::Nothing => None,
        })
    });
    (made.collect(), hearing.waits())
}
