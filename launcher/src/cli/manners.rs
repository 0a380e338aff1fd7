//! Cuts a command line by mpirun's manners.
//!
//! Options end at `--`, or at the first word that is neither an option nor an option's value: that is PROGRAM. Long
//! options may have one dash. A number may stick to `-n` and `-N` (`-n4`). A value is the next word, whatever it
//! begins with, or what follows `=`. Everything is bytes; only options' names need to be text.
//!
//! What comes out is checked for what only shows here (unknown names, missing values, contradictions) and brought
//! into one form, `--long=value`, so that no value can be mistaken for an option later.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, ArgAction};

use super::{CliExit, mpirun};

/// A command line, cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    options: Vec<Given>,
    /// PROGRAM and its arguments, as typed.
    pub(super) program: Vec<OsString>,
}

/// An option as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    /// As typed, without its value.
    spelling: String,
    /// `--long`, whatever was typed.
    canonical: String,
    value: Option<OsString>,
}

impl Given {
    fn shown(&self, arg: &Arg) -> String {
        let between = if arg.is_require_equals_set() { '=' } else { ' ' };
        match &self.value {
            Some(value) => format!("{}{between}{}", self.spelling, value.display()),
            None => self.spelling.clone(),
        }
    }
}

impl Line {
    /// Returns the options in the form that clap parses.
    pub(super) fn canonical(&self) -> Vec<OsString> {
        let word = |given: &Given| {
            let mut word = OsString::from(&given.canonical);
            if let Some(value) = &given.value {
                word.push("=");
                word.push(value);
            }
            word
        };
        self.options.iter().map(word).collect()
    }

    /// Returns how an option was typed, given its canonical form.
    pub(super) fn spelling<'a>(&'a self, canonical: &'a str) -> &'a str {
        let given = self.options.iter().rev().find(|given| given.canonical == canonical);
        given.map_or(canonical, |given| &given.spelling)
    }

    /// Returns the error for a value that must be text and is not. clap does not say which it was.
    pub(super) fn not_text(&self) -> CliExit {
        let is_text = |given: &&Given| given.value.as_ref().is_none_or(|value| value.to_str().is_some());
        let at_fault =
            self.options.iter().find(|given| !is_text(given) && !BYTES.contains(&&*given.canonical));
        CliExit::BadValue {
            option: at_fault.map_or_else(String::new, |given| given.spelling.clone()),
            value: at_fault
                .and_then(|given| given.value.as_ref())
                .map_or_else(String::new, |value| value.display().to_string()),
            problem: "it must be UTF-8 text".to_owned(),
        }
    }

    /// Returns the first of `spellings` that was given. `-help` counts as `--help`.
    pub(super) fn asks_for<'a>(&self, spellings: &[&'a str]) -> Option<&'a str> {
        self.options.iter().find_map(|given| {
            let long = spellings.iter().find(|spelling| **spelling == given.canonical)?;
            let short = spellings.iter().find(|spelling| **spelling == given.spelling);
            Some(*short.unwrap_or(long))
        })
    }
}

/// Cuts a command line.
pub(super) fn cut(
    command: &clap::Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Line, CliExit> {
    let mut words = words.into_iter();
    let mut line = Line { options: Vec::new(), program: Vec::new() };
    while let Some(word) = words.next() {
        if word == "--" {
            line.program = words.collect();
            break;
        }
        let Some(dashless) = dashless(&word) else {
            line.program = std::iter::once(word).chain(words).collect();
            break;
        };
        let (name, attached) = split_value(dashless);
        let one_dash = word.len() == dashless.len() + 1;
        let Some((arg, attached)) = find(command, one_dash, name, attached) else {
            return Err(unknown(command, &word, name, attached.is_none(), words));
        };
        let typed_bytes = word.len() - attached.map_or(0, OsStr::len);
        let spelling = String::from_utf8_lossy(&word.as_bytes()[..typed_bytes]);
        let spelling = spelling.trim_end_matches('=').to_owned();
        let value = take_value(arg, &spelling, attached, &mut words)?;
        let long = arg.get_long().expect("every option has a long name");
        line.add(arg, Given { spelling, canonical: format!("--{long}"), value })?;
    }
    Ok(line)
}

impl Line {
    /// Adds an option. One that has a single value may be repeated only with the same value; a switch may be
    /// repeated, and once is enough for clap.
    fn add(&mut self, arg: &Arg, given: Given) -> Result<(), CliExit> {
        if !matches!(arg.get_action(), ArgAction::Append)
            && let Some(first) = self.options.iter().find(|earlier| earlier.canonical == given.canonical)
        {
            if first.value == given.value {
                return Ok(());
            }
            return Err(CliExit::Contradiction { first: first.shown(arg), second: given.shown(arg) });
        }
        self.options.push(given);
        Ok(())
    }
}

/// The word without its one or two dashes; none if it is no option. `-` alone is a program's name.
fn dashless(word: &OsStr) -> Option<&[u8]> {
    let bytes = word.as_bytes();
    let rest = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"))?;
    if rest.is_empty() { None } else { Some(rest) }
}

fn split_value(dashless: &[u8]) -> (&[u8], Option<&OsStr>) {
    match dashless.iter().position(|byte| *byte == b'=') {
        Some(at) => (&dashless[..at], Some(OsStr::from_bytes(&dashless[at + 1..]))),
        None => (dashless, None),
    }
}

/// Finds an option by name; long names win, with one dash or two.
fn find<'a>(
    command: &'a clap::Command,
    one_dash: bool,
    name: &'a [u8],
    attached: Option<&'a OsStr>,
) -> Option<(&'a Arg, Option<&'a OsStr>)> {
    let name = std::str::from_utf8(name).ok()?;
    let has_long = |arg: &&Arg| {
        arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    if let Some(arg) = command.get_arguments().find(has_long) {
        return Some((arg, attached));
    }
    if !one_dash {
        return None;
    }
    let mut characters = name.chars();
    let short = characters.next()?;
    let stuck = characters.as_str();
    let is_short = |arg: &&Arg| {
        arg.get_short() == Some(short)
            || arg.get_all_short_aliases().is_some_and(|aliases| aliases.contains(&short))
    };
    let arg = command.get_arguments().find(is_short)?;
    match (stuck.is_empty(), attached) {
        (true, attached) => Some((arg, attached)),
        (false, None) if takes_value(arg) && stuck.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((arg, Some(OsStr::new(stuck))))
        }
        _ => None,
    }
}

fn take_value(
    arg: &Arg,
    spelling: &str,
    attached: Option<&OsStr>,
    words: &mut impl Iterator<Item = OsString>,
) -> Result<Option<OsString>, CliExit> {
    let option = || spelling.to_owned();
    match (takes_value(arg), attached) {
        (true, Some(value)) => Ok(Some(value.to_owned())),
        (true, None) if arg.is_require_equals_set() => Ok(None),
        (true, None) => match words.next() {
            Some(value) => Ok(Some(value)),
            None => Err(CliExit::MissingValue {
                option: option(),
                value_name: arg
                    .get_value_names()
                    .and_then(<[_]>::first)
                    .map_or("VALUE", |name| name)
                    .to_owned(),
            }),
        },
        (false, None) => Ok(None),
        (false, Some(found)) => {
            Err(CliExit::UnexpectedValue { option: option(), found: found.display().to_string() })
        }
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn unknown(
    command: &clap::Command,
    word: &OsStr,
    name: &[u8],
    values_follow: bool,
    words: impl Iterator<Item = OsString>,
) -> CliExit {
    let option = word.display().to_string();
    let Ok(name) = std::str::from_utf8(name) else {
        return CliExit::UnknownOption { option, suggestion: None };
    };
    if let Some(foreign) = mpirun::find(name) {
        let values = words.take(if values_follow { foreign.values } else { 0 });
        let shown = values.fold(option, |shown, value| format!("{shown} {}", value.display()));
        return CliExit::NotTaken { option: shown, hint: foreign.hint.to_owned() };
    }
    let longs = command
        .get_arguments()
        .flat_map(|arg| arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()));
    let suggestion = longs
        .filter(|long| long.len() > 1)
        .map(|long| (long.to_owned(), strsim::jaro_winkler(long, name)))
        .filter(|(_, likeness)| *likeness > LIKE_ENOUGH)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(long, _)| format!("--{long}"));
    let option = option.split('=').next().unwrap_or_default().to_owned();
    CliExit::UnknownOption { option, suggestion }
}

/// Of 1: `hostflie` is 0.97 like `hostfile`, `frobnicate` is 0.5 like its nearest.
const LIKE_ENOUGH: f64 = 0.8;

/// Options whose values may be any bytes.
const BYTES: &[&str] = &["--export", "--hostfile", "--wdir"];
