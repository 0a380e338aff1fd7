//! Options as they were typed, and what became of each.

use std::ffi::OsString;

/// An option as it was typed, its values with it, or a variable that says the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Typed {
    /// As typed.
    pub(super) words: String,
    /// What became of it; several things, for a list or a parameter.
    pub(super) outcomes: Vec<Outcome>,
}

/// What became of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This option of efarun's, in the form `--long=value`.
    Option(OsString),
    /// Ranks get it as this variable.
    Variable(OsString),
    /// An earlier one loses its value, and which.
    Replaces(String),
    /// Nothing changes, and why.
    NoDifference(String),
    /// Nothing acts on it, and why.
    Unused(String),
}

impl Typed {
    /// What the user is told without asking: whatever was accepted and is not acted on.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Unused(why) => Some(format!("`{}` is not acted on: {why}", self.words)),
            Outcome::Replaces(text) => Some(format!("`{}`: {text}", self.words)),
            Outcome::Option(_) | Outcome::Variable(_) | Outcome::NoDifference(_) => None,
        })
    }

    /// What the user is told by `--verbose` alone.
    pub(super) fn asides(&self) -> impl Iterator<Item = String> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::NoDifference(why) => Some(format!("`{}` changes nothing: {why}", self.words)),
            _ => None,
        })
    }
}
