//! Other launchers' options, as data: what each is called, how many values it has, and what it means here.
//!
//! [`super::manners`] reads these tables to cut a line and to bring it into efarun's own options, and
//! [`super::translate`] to say what becomes of each. An option that efarun itself has is not in a table: clap's
//! definitions name it. Rows decide nothing by themselves, and nothing else decides.
//!
//! Not here: options of efarun's own, whose sentences are the help.

pub(super) mod hydra;
pub(super) mod open_mpi;
pub(super) mod parameters;

use std::ffi::{OsStr, OsString};

/// An option of another launcher.
#[derive(Debug, Clone, Copy)]
pub(super) struct ForeignFlag {
    /// Its names, without dashes.
    pub(super) names: &'static [&'static str],
    /// How many words after it are its values.
    pub(super) values: usize,
    /// What it means here.
    pub(super) meaning: Meaning,
}

/// What an option, a word of a list, or a parameter of another launcher means here.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meaning {
    /// These words of efarun's, where `{}` stands for the value.
    Means(&'static [&'static str]),
    /// These words if the value is true, nothing if it is false.
    Switch(&'static [&'static str]),
    /// A list with commas; each word of it, up to its `=` or `:`, has a meaning of its own.
    List(&'static [ListWord]),
    /// Two values, a parameter's name and value. Ranks get it in a variable whose name begins with this.
    Parameter(&'static str),
    /// Two values, a variable's name and value.
    Variable,
    /// A list with commas; these words for each word of it.
    Each(&'static [&'static str]),
    /// Nothing changes, and this is why; said by `--verbose`.
    NoDifference(&'static str),
    /// As [`Meaning::NoDifference`] for a value that is true; one that is false is not acted on, and that is said.
    AlwaysTrue(&'static str),
    /// Accepted, not acted on, and said once, with this reason.
    Unused(&'static str),
    /// Refused, with what to do without it.
    Refused(&'static str),
}

/// A word of a list, such as `tag` in `--output tag,timestamp`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListWord {
    /// Its names.
    pub(super) names: &'static [&'static str],
    /// What it means here. `{}` is what stands behind its `=`.
    pub(super) meaning: Meaning,
}

/// Every option of other launchers. No name is there twice.
pub(super) fn flags() -> impl Iterator<Item = &'static ForeignFlag> {
    open_mpi::FLAGS.iter().chain(hydra::FLAGS)
}

/// Finds a row by an option's name without dashes.
pub(super) fn find(name: &str) -> Option<&'static ForeignFlag> {
    flags().find(|flag| flag.names.contains(&name))
}

/// Writes a row's words with this value.
pub(super) fn filled(words: &[&str], value: &OsStr) -> Vec<OsString> {
    let fill = |word: &&str| match word.split_once("{}") {
        None => OsString::from(word),
        Some((before, after)) => {
            let mut filled = OsString::from(before);
            filled.push(value);
            filled.push(after);
            filled
        }
    };
    words.iter().map(fill).collect()
}

/// Whether a parameter's value means yes; none if it is neither yes nor no.
pub(super) fn truth(value: &OsStr) -> Option<bool> {
    let value = value.to_str()?.to_ascii_lowercase();
    match value.as_str() {
        "1" | "true" | "yes" | "t" | "y" | "on" | "enabled" => Some(true),
        "0" | "false" | "no" | "f" | "n" | "off" | "disabled" => Some(false),
        _ => None,
    }
}

/// Returns the candidate that a misspelled word resembles.
pub(super) fn likely<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = candidates.map(|candidate| (candidate, strsim::jaro_winkler(candidate, word)));
    alike
        .filter(|(_, likeness)| *likeness > LIKE_ENOUGH)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(candidate, _)| candidate)
}

/// Of 1: `hostflie` is 0.97 like `hostfile`, `frobnicate` is 0.5 like its nearest.
const LIKE_ENOUGH: f64 = 0.8;

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row of every table, with the words that it may write.
    fn rows() -> impl Iterator<Item = (&'static [&'static str], Meaning)> {
        let flags = flags().map(|flag| (flag.names, flag.meaning));
        let parameters = parameters::PARAMETERS.iter().map(|row| (row.names, row.meaning));
        flags.chain(parameters)
    }

    fn words(meaning: Meaning) -> Vec<&'static str> {
        match meaning {
            Meaning::Means(words) | Meaning::Switch(words) | Meaning::Each(words) => words.to_vec(),
            Meaning::List(list) => list.iter().flat_map(|word| words(word.meaning)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn rows_write_options_that_exist() {
        let command = crate::cli::definition();
        for (names, meaning) in rows() {
            for word in words(meaning) {
                let long = word.trim_start_matches('-').split('=').next().unwrap();
                let known = command.get_arguments().find(|arg| arg.get_long() == Some(long));
                let arg = known.unwrap_or_else(|| panic!("{names:?} writes {word}, which is no option"));
                let optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
                assert!(
                    word.contains('=') == arg.get_action().takes_values() || optional,
                    "{names:?}: {word}"
                );
            }
        }
    }

    #[test]
    fn no_name_is_in_a_table_twice_or_an_option_of_efaruns() {
        let command = crate::cli::definition();
        let mut seen = std::collections::BTreeSet::new();
        for name in flags().flat_map(|flag| flag.names) {
            assert!(seen.insert(name), "{name} is there twice");
            let is_taken = |arg: &clap::Arg| {
                arg.get_long() == Some(name)
                    || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(name))
                    || arg.get_short().is_some_and(|short| short.to_string() == *name)
            };
            assert!(!command.get_arguments().any(is_taken), "{name} is efarun's own");
        }
        let mut seen = std::collections::BTreeSet::new();
        assert!(parameters::PARAMETERS.iter().flat_map(|row| row.names).all(|name| seen.insert(name)));
    }
}
