//! A command line that has been cut: options in efarun's own form, and the programs that they hold for.
//!
//! [`super::manners`] makes it; clap reads what [`Line::canonical`] and [`Line::of_the_job`] give. Every option keeps
//! the words that it was typed with, for messages about it.

use std::ffi::{OsStr, OsString};

use super::CliExit;
use super::typed::Typed;

/// A command line, cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// Options of the job as a whole, wherever they stood.
    pub(super) job: Vec<Given>,
    /// The programs, in order.
    pub(super) apps: Vec<AppLine>,
    /// Every option as it was typed, with what became of it.
    pub(super) typed: Vec<Typed>,
    /// What the user is told beside what became of each option.
    pub(super) notes: Vec<String>,
    /// Variables that `--mca` and its like give to ranks, each name once.
    pub(super) parameters: Vec<(OsString, OsString)>,
}

/// One program, with the options that are its alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AppLine {
    pub(super) own: Vec<Given>,
    /// PROGRAM and its arguments, as typed.
    pub(super) program: Vec<OsString>,
}

/// An option of efarun's as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// As typed, without its value.
    pub(super) spelling: String,
    /// As typed, with its value.
    pub(super) typed: String,
    /// `--long`, whatever was typed.
    pub(super) canonical: String,
    pub(super) value: Option<OsString>,
}

impl Given {
    /// The option in the form that clap parses.
    pub(super) fn canonical_word(&self) -> OsString {
        let mut word = OsString::from(&self.canonical);
        if let Some(value) = &self.value {
            word.push("=");
            word.push(value);
        }
        word
    }
}

impl Line {
    /// Returns the options that hold for one of the programs, in the form that clap parses.
    pub(super) fn canonical(&self, app: &AppLine) -> Vec<OsString> {
        self.job.iter().chain(&app.own).map(Given::canonical_word).collect()
    }

    /// Returns the options of the job as a whole, in the form that clap parses.
    pub(super) fn of_the_job(&self) -> Vec<OsString> {
        self.job.iter().map(Given::canonical_word).collect()
    }

    /// Returns how an option was typed, given its canonical form.
    pub(super) fn spelling<'a>(&'a self, canonical: &'a str) -> &'a str {
        let given = self.given().rev().find(|given| given.canonical == canonical);
        given.map_or(canonical, |given| &given.spelling)
    }

    /// Returns the error for a value that must be text and is not. clap does not say which it was.
    pub(super) fn not_text(&self) -> CliExit {
        let is_text = |given: &&Given| given.value.as_ref().is_none_or(|value| value.to_str().is_some());
        let at_fault = self.given().find(|given| !is_text(given) && !BYTES.contains(&&*given.canonical));
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
        self.given().find_map(|given| {
            let long = spellings.iter().find(|spelling| **spelling == given.canonical)?;
            let short = spellings.iter().find(|spelling| **spelling == given.spelling);
            Some(*short.unwrap_or(long))
        })
    }

    /// Returns the value of one of the job's options.
    pub(super) fn value_of(&self, canonical: &str) -> Option<&OsStr> {
        self.job.iter().find(|given| given.canonical == canonical)?.value.as_deref()
    }

    /// Says whether an option was given anywhere.
    pub(super) fn has(&self, canonical: &str) -> bool {
        self.given().any(|given| given.canonical == canonical)
    }

    /// Gives every program the options of these, but for one that it has itself and that cannot be repeated.
    pub(super) fn put_before_each(&mut self, common: &[AppLine]) {
        for app in &mut self.apps {
            let is_wanted = |given: &&Given| {
                REPEATED.contains(&&*given.canonical)
                    || !app.own.iter().any(|own| own.canonical == given.canonical)
            };
            let wanted: Vec<Given> =
                common.iter().flat_map(|app| &app.own).filter(is_wanted).cloned().collect();
            app.own.splice(0..0, wanted);
        }
    }

    /// A default hostfile says nothing where the line names hosts itself.
    pub(super) fn overrides(&self, canonical: &str) -> bool {
        canonical == "--hostfile" && self.has("--host")
    }

    fn given(&self) -> impl DoubleEndedIterator<Item = &Given> {
        self.job.iter().chain(self.apps.iter().flat_map(|app| &app.own))
    }
}

impl AppLine {
    /// Returns the options that are this program's alone, in the form that clap parses.
    pub(super) fn canonical(&self) -> Vec<OsString> {
        self.own.iter().map(Given::canonical_word).collect()
    }
}

/// Options of a program's own that add up.
const REPEATED: &[&str] = &["--export"];

/// Options whose values may be any bytes.
const BYTES: &[&str] = &[
    "--export",
    "--hostfile",
    "--wdir",
    "--prefix",
    "--path",
    "--app",
    "--output-filename",
    "--events",
    "--report",
    "--junit",
];
