//! What a user must be told though no call fails: a rail that was left, cards that are not used.
//!
//! [`tell`] hands a warning to the `log` crate where the program has a logger. Most programs have none, and a warning
//! that nobody sees is none: then it is a line on standard error, once per cause, which the launcher shows with the
//! rank's own. Never an error, and never waited for.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use efarun_wire::env::EFARUN_RANK;
use log::LevelFilter;

/// Tells what went wrong and is lived with. `cause` names its kind: standard error gets one line of each kind in a
/// process, however often it comes; a logger gets all.
pub fn tell(cause: &str, text: impl Display) {
    // A logger sets it; without one it is off.
    if log::max_level() != LevelFilter::Off {
        log::warn!("{text}");
    } else if is_new(cause) {
        // Whoever has closed standard error does not want to know.
        let _ = std::io::stderr().write_all(line(std::env::var(EFARUN_RANK).ok(), text).as_bytes());
    }
}

/// In one piece, so that lines of ranks which share a terminal stay whole.
fn line(rank: Option<String>, text: impl Display) -> String {
    let mut line = rank.map_or_else(|| "efarun: ".to_owned(), |rank| format!("efarun: rank {rank}: "));
    // Writing to a string does not fail.
    let _ = writeln!(line, "{text}");
    line
}

fn is_new(cause: &str) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(cause.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is() {
        assert_eq!(line(Some("3".to_owned()), "goes on"), "efarun: rank 3: goes on\n");
        assert_eq!(line(None, "goes on"), "efarun: goes on\n");
    }

    #[test]
    fn a_cause_is_told_once() {
        assert!(is_new("test: a") && is_new("test: b"));
        assert!(!is_new("test: a"));
    }
}
