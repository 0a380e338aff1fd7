//! Cuts a line by torchrun's manners, which are Python's argparse's.
//!
//! Options have two dashes, or one letter behind one dash; `_` in a name is `-`; a name may be cut short as long as it is
//! one option's only. A value is the next word or what follows `=`. Options end at `--`, or at the first word that is
//! neither an option nor a value: the script. Everything from there on is the script's, a `:` too. Of an option that is
//! repeated the last counts, but for those of efarun's own that add up.
//!
//! What comes out is in one form, `--long=value`, so that no value can be mistaken for an option later.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, ArgAction};

use super::super::CliExit;
use super::super::dialect::likely;

/// A line, cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// The options, in order; each name once, unless it adds up.
    pub(super) given: Vec<Given>,
    /// The script and its arguments, as typed.
    pub(super) program: Vec<OsString>,
    /// Options that a later one replaced, as typed, each with the one that counts.
    pub(super) replaced: Vec<(String, String)>,
}

/// An option as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Its long name.
    pub(super) long: String,
    /// As typed, without its value.
    pub(super) spelling: String,
    /// Its value, where it takes one.
    pub(super) value: Option<OsString>,
}

impl Given {
    /// Returns it in the form that clap parses.
    pub(super) fn canonical_word(&self) -> OsString {
        let mut word = OsString::from(format!("--{}", self.long));
        if let Some(value) = &self.value {
            word.push("=");
            word.push(value);
        }
        word
    }

    /// Returns it as it was typed.
    pub(super) fn typed(&self) -> String {
        match &self.value {
            Some(value) => format!("{} {}", self.spelling, value.display()),
            None => self.spelling.clone(),
        }
    }
}

/// Cuts a line by the options of this command.
pub(super) fn cut(
    command: &clap::Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Line, CliExit> {
    let mut words = words.into_iter();
    let mut line = Line::default();
    while let Some(word) = words.next() {
        if word == "--" {
            line.program = words.collect();
            break;
        }
        let bytes = word.as_bytes();
        if !bytes.starts_with(b"-") || bytes.len() == 1 {
            line.program.push(word);
            line.program.extend(words);
            break;
        }
        let (arg, spelling, attached) = find(command, &word)?;
        let value = match (arg.get_action().takes_values(), attached) {
            (true, Some(value)) => Some(value),
            (true, None) if arg.is_require_equals_set() => None,
            (true, None) => Some(words.next().ok_or_else(|| missing_value(arg, &spelling))?),
            (false, None) => None,
            (false, Some(found)) => {
                let found = found.display().to_string();
                return Err(CliExit::UnexpectedValue { option: spelling, found });
            }
        };
        let long = arg.get_long().expect("every option has a long name").to_owned();
        line.add(arg, Given { long, spelling, value });
    }
    Ok(line)
}

impl Line {
    /// Adds an option that a variable sets, unless the line says something itself.
    pub(super) fn add_default(&mut self, given: Given) {
        if !self.has(&given.long) {
            self.given.push(given);
        }
    }

    /// Says whether an option was given.
    pub(super) fn has(&self, long: &str) -> bool {
        self.given.iter().any(|given| given.long == long)
    }

    /// Returns how an option was spelled, given its canonical form.
    pub(super) fn spelling(&self, canonical: &str) -> String {
        let long = canonical.trim_start_matches("--");
        let given = self.given.iter().find(|given| given.long == long);
        given.map_or(canonical, |given| &given.spelling).to_owned()
    }

    fn add(&mut self, arg: &Arg, given: Given) {
        let adds_up = matches!(arg.get_action(), ArgAction::Append);
        let earlier = self.given.iter().position(|earlier| earlier.long == given.long).filter(|_| !adds_up);
        if let Some(at) = earlier {
            let earlier = self.given.remove(at);
            if earlier.value != given.value {
                self.replaced.push((earlier.typed(), given.typed()));
            }
        }
        self.given.push(given);
    }
}

/// Finds an option by the word that begins with it; gives its spelling, and a value that sticks to it.
fn find<'a>(
    command: &'a clap::Command,
    word: &OsStr,
) -> Result<(&'a Arg, String, Option<OsString>), CliExit> {
    let unknown = |suggestion: Option<String>| {
        let option = word.display().to_string();
        let option = option.split('=').next().unwrap_or_default().to_owned();
        CliExit::UnknownOption { option, suggestion }
    };
    let bytes = word.as_bytes();
    let Some(name) = bytes.strip_prefix(b"--") else {
        return short(command, bytes).ok_or_else(|| unknown(None));
    };
    let at = name.iter().position(|byte| *byte == b'=').unwrap_or(name.len());
    let attached = name.get(at + 1..).map(|value| OsStr::from_bytes(value).to_owned());
    let Ok(name) = std::str::from_utf8(&name[..at]) else { return Err(unknown(None)) };
    let spelling = format!("--{name}");
    let name = name.replace('_', "-");
    let longs = |arg: &'a Arg| arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
    if let Some(arg) = command.get_arguments().find(|arg| longs(arg).any(|long| long == name)) {
        return Ok((arg, spelling, attached));
    }
    let begun: Vec<&Arg> =
        command.get_arguments().filter(|arg| longs(arg).any(|long| long.starts_with(&name))).collect();
    match begun[..] {
        [arg] => Ok((arg, spelling, attached)),
        [] => {
            let known = command.get_arguments().flat_map(longs);
            Err(unknown(likely(&name, known).map(|long| format!("--{long}"))))
        }
        [first, second, ..] => Err(CliExit::Ambiguous {
            option: spelling,
            first: first.get_long().unwrap_or_default().to_owned(),
            second: second.get_long().unwrap_or_default().to_owned(),
        }),
    }
}

/// `-m`, `-r 3`, `-r3`, `-r=3`.
fn short<'a>(command: &'a clap::Command, word: &[u8]) -> Option<(&'a Arg, String, Option<OsString>)> {
    let letter = char::from(*word.get(1)?);
    let arg = command.get_arguments().find(|arg| arg.get_short() == Some(letter))?;
    let stuck = word.get(2..).filter(|rest| !rest.is_empty());
    let stuck = stuck.map(|rest| OsStr::from_bytes(rest.strip_prefix(b"=").unwrap_or(rest)).to_owned());
    Some((arg, format!("-{letter}"), stuck))
}

fn missing_value(arg: &Arg, spelling: &str) -> CliExit {
    let value_name = arg.get_value_names().and_then(<[_]>::first).map_or("VALUE", |name| name).to_owned();
    CliExit::MissingValue { option: spelling.to_owned(), value_name }
}
