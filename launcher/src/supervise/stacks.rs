//! Where ranks are when the time that a job was given is over.
//!
//! [`Collection`] waits for the answer of every rank that runs, or for its end; [`Collection::text`] tells what came,
//! ranks at the same place together. Pure: the dispatcher asks, and owns the deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use efarun_wire::Rank;

use crate::binding::ranges;

/// How long the answers are waited for. Debuggers take seconds to read the symbols of a large program.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The answers of ranks to the question where they are.
#[derive(Debug)]
pub struct Collection {
    awaited: BTreeSet<Rank>,
    told: BTreeMap<Rank, String>,
}

impl Collection {
    /// Awaits these ranks.
    pub fn of(ranks: impl IntoIterator<Item = Rank>) -> Collection {
        Collection { awaited: ranks.into_iter().collect(), told: BTreeMap::new() }
    }

    /// Takes a rank's answer.
    pub fn told(&mut self, rank: Rank, text: String) {
        if self.awaited.remove(&rank) {
            self.told.insert(rank, text);
        }
    }

    /// Takes note that a rank has ended: it will not answer any more.
    pub fn ended(&mut self, rank: Rank) {
        self.awaited.remove(&rank);
    }

    /// Whether nobody is awaited any more.
    pub fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Tells where the ranks are, in the order of the first rank at each place; then who did not answer.
    pub fn text(&self) -> String {
        let mut ranks_by_text: Vec<(&str, Vec<u32>)> = Vec::new();
        for (rank, text) in &self.told {
            match ranks_by_text.iter_mut().find(|(known, _)| known == text) {
                Some((_, ranks)) => ranks.push(rank.0),
                None => ranks_by_text.push((text, vec![rank.0])),
            }
        }
        let mut lines = vec!["--timeout is over; where the ranks are:".to_owned()];
        for (text, ranks) in ranks_by_text {
            lines.push(format!("[{}]", ranges(&ranks)));
            lines.extend(text.lines().map(shown));
        }
        if !self.awaited.is_empty() {
            let silent: Vec<u32> = self.awaited.iter().map(|rank| rank.0).collect();
            lines.push(format!("[{}] no answer in {} s", ranges(&silent), PATIENCE.as_secs()));
        }
        lines.join("\n")
    }
}

/// A program's name may hold anything.
fn shown(line: &str) -> String {
    format!("  {}", line.replace(|c: char| c.is_control() && c != '\t', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_at_the_same_place_are_told_once_and_silent_ones_are_named() {
        let mut collection = Collection::of((0..7).map(Rank));
        for rank in [0, 1, 2, 4] {
            collection.told(Rank(rank), "`p`\n  in futex\x1b[0m\n".to_owned());
        }
        collection.told(Rank(3), "`p`\n  in read\n".to_owned());
        collection.ended(Rank(6));
        assert!(!collection.is_complete());
        assert_eq!(
            collection.text(),
            "--timeout is over; where the ranks are:\n[0-2,4]\n  `p`\n    in futex [0m\n[3]\n  `p`\n    in read\n\
             [5] no answer in 20 s"
        );
        collection.ended(Rank(5));
        assert!(collection.is_complete());
    }

    #[test]
    fn a_rank_that_was_not_asked_adds_nothing() {
        let mut collection = Collection::of([Rank(0)]);
        collection.told(Rank(9), "lies".to_owned());
        collection.ended(Rank(0));
        assert_eq!(collection.text(), "--timeout is over; where the ranks are:");
    }
}
