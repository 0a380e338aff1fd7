//! Cuts a command line by mpirun's manners.
//!
//! Options end at `--`, or at the first word that is neither an option nor an option's value: that is PROGRAM. Long
//! options may have one dash. A number may stick to `-n` and `-N` (`-n4`). A value is the next word, whatever it
//! begins with, or what follows `=`. A `:` among PROGRAM's words begins another program with options of its own, unless
//! `--` came before PROGRAM. Everything is bytes; only options' names need to be text.
//!
//! What comes out is checked for what only shows here (unknown names, missing values, contradictions) and brought
//! into one form, `--long=value`, so that no value can be mistaken for an option later. An option of another launcher
//! becomes what its row in [`super::dialect`] says.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, ArgAction};

use super::CliExit;
use super::dialect::parameters::{self, Known};
use super::dialect::{self, ForeignFlag, Meaning, likely};
use super::line::{AppLine, Given, Line};
use super::typed::{Outcome, Typed};

/// Cuts command lines by these definitions.
#[derive(Debug)]
pub(super) struct Cutter<'a> {
    /// efarun's options.
    pub(super) command: &'a clap::Command,
    /// The long names of those that are one program's alone.
    pub(super) app_options: &'a [String],
}

impl Cutter<'_> {
    /// Cuts a command line, `:` included.
    pub(super) fn cut(&self, words: impl IntoIterator<Item = OsString>) -> Result<Line, CliExit> {
        let mut words = words.into_iter();
        let mut line = Line::default();
        while self.cut_program(&mut line, &mut words)? {}
        if line.apps.len() > 1
            && let Some(index) = line.apps.iter().position(|app| app.program.is_empty())
        {
            let place = if index == 0 {
                "before the first `:`"
            } else if index + 1 == line.apps.len() {
                "after the last `:`"
            } else {
                "between two `:`"
            };
            return Err(CliExit::NoProgramBesideColon { place: place.to_owned() });
        }
        Ok(line)
    }

    /// Adds one program to a line; says whether a `:` announced another.
    pub(super) fn cut_program(
        &self,
        line: &mut Line,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<bool, CliExit> {
        let mut app = AppLine::default();
        let mut has_more = false;
        while let Some(word) = words.next() {
            if word == "--" {
                app.program = words.collect();
                break;
            }
            if word == COLON {
                has_more = true;
                break;
            }
            let Some(dashless) = dashless(&word) else {
                app.program.push(word);
                let more = words.by_ref().take_while(|word| {
                    has_more = word == COLON;
                    !has_more
                });
                app.program.extend(more);
                break;
            };
            self.option(line, &mut app, &word, dashless, words)?;
        }
        line.apps.push(app);
        Ok(has_more)
    }

    fn option(
        &self,
        line: &mut Line,
        app: &mut AppLine,
        word: &OsStr,
        dashless: &[u8],
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), CliExit> {
        let (name, attached) = split_value(dashless);
        let one_dash = word.len() == dashless.len() + 1;
        let Some((arg, attached)) = find(self.command, one_dash, name, attached) else {
            return self.foreign(line, app, word, name, attached, words);
        };
        let typed_bytes = word.len() - attached.map_or(0, OsStr::len);
        let spelling = String::from_utf8_lossy(&word.as_bytes()[..typed_bytes]);
        let spelling = spelling.trim_end_matches('=').to_owned();
        let value = take_value(arg, &spelling, attached, words)?;
        let typed = match &value {
            Some(value) if arg.is_require_equals_set() => format!("{spelling}={}", value.display()),
            Some(value) => format!("{spelling} {}", value.display()),
            None => spelling.clone(),
        };
        let long = arg.get_long().expect("every option has a long name");
        let given = Given { spelling, typed: typed.clone(), canonical: format!("--{long}"), value };
        let outcomes = vec![Outcome::Option(given.canonical_word())];
        line.typed.push(Typed { words: typed, outcomes });
        self.add(line, app, arg, given)
    }

    /// An option that only another launcher has.
    fn foreign(
        &self,
        line: &mut Line,
        app: &mut AppLine,
        word: &OsStr,
        name: &[u8],
        attached: Option<&OsStr>,
        words: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), CliExit> {
        let row = std::str::from_utf8(name).ok().and_then(dialect::find);
        let Some(row) = row else { return Err(self.unknown(word, name)) };
        let spelling = word.display().to_string();
        let (spelling, values) = take_values(row, spelling, attached, words)?;
        let mut typed = spelling.clone();
        values.iter().for_each(|value| typed.push_str(&format!(" {}", value.display())));
        let mut target = Target { line, app, spelling: &spelling, typed: &typed, outcomes: Vec::new() };
        match (row.meaning, &values[..]) {
            (Meaning::Parameter(prefix), [name, value]) => {
                self.parameter(&mut target, prefix, name, value)?
            }
            (Meaning::Variable, [name, value]) => {
                let word = [b"--export=", name.as_bytes(), b"=", value.as_bytes()].concat();
                self.give(&mut target, OsString::from_vec(word))?;
            }
            (meaning, values) => {
                let value = values.first().map_or(OsStr::new(""), OsString::as_os_str);
                self.apply(&mut target, meaning, value)?;
            }
        }
        let outcomes = target.outcomes;
        line.typed.push(Typed { words: typed, outcomes });
        Ok(())
    }

    /// Makes an option, a parameter or a word of a list what its row says.
    fn apply(&self, target: &mut Target<'_>, meaning: Meaning, value: &OsStr) -> Result<(), CliExit> {
        match meaning {
            Meaning::Means(words) => {
                dialect::filled(words, value).into_iter().try_for_each(|word| self.give(target, word))
            }
            Meaning::Switch(words) => match dialect::truth(value) {
                Some(true) => words.iter().try_for_each(|word| self.give(target, OsString::from(word))),
                Some(false) => {
                    target.outcomes.push(Outcome::NoDifference("it is switched off".to_owned()));
                    Ok(())
                }
                None => Err(CliExit::BadValue {
                    option: target.spelling.to_owned(),
                    value: value.display().to_string(),
                    problem: "it must be 1 or 0".to_owned(),
                }),
            },
            Meaning::List(list) => self.apply_list(target, list, value),
            Meaning::NoDifference(why) => {
                target.outcomes.push(Outcome::NoDifference(why.to_owned()));
                Ok(())
            }
            Meaning::AlwaysTrue(why) if value.is_empty() || dialect::truth(value) == Some(true) => {
                target.outcomes.push(Outcome::NoDifference(why.to_owned()));
                Ok(())
            }
            Meaning::AlwaysTrue(why) | Meaning::Unused(why) => {
                target.outcomes.push(Outcome::Unused(why.to_owned()));
                Ok(())
            }
            Meaning::Refused(hint) => {
                Err(CliExit::NotTaken { option: target.typed.to_owned(), hint: hint.to_owned() })
            }
            Meaning::Each(words) => value
                .as_bytes()
                .split(|byte| *byte == b',')
                .flat_map(|word| dialect::filled(words, OsStr::from_bytes(word)))
                .try_for_each(|word| self.give(target, word)),
            Meaning::Parameter(_) | Meaning::Variable => {
                unreachable!("only an option with two values is a parameter or a variable")
            }
        }
    }

    fn apply_list(
        &self,
        target: &mut Target<'_>,
        list: &[dialect::ListWord],
        value: &OsStr,
    ) -> Result<(), CliExit> {
        for word in value.as_bytes().split(|byte| *byte == b',').map(OsStr::from_bytes) {
            let at = word.as_bytes().iter().position(|byte| matches!(byte, b'=' | b':'));
            let (name, rest) = word.as_bytes().split_at(at.unwrap_or(word.len()));
            let rest = OsStr::from_bytes(rest.get(1..).unwrap_or_default());
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            let Some(row) = list.iter().find(|row| row.names.contains(&name.as_str())) else {
                return Err(CliExit::UnknownWord {
                    option: target.typed.to_owned(),
                    word: word.display().to_string(),
                    words: list.iter().flat_map(|row| row.names).copied().collect(),
                });
            };
            self.apply(target, row.meaning, rest)?;
        }
        Ok(())
    }

    /// `--mca NAME VALUE`: ranks get it as a variable, and where it speaks to the launcher it is acted on as well.
    fn parameter(
        &self,
        target: &mut Target<'_>,
        prefix: &str,
        name: &OsStr,
        value: &OsStr,
    ) -> Result<(), CliExit> {
        let mut variable = OsString::from(prefix);
        variable.push(name);
        match target.line.parameters.iter_mut().find(|(known, _)| *known == variable) {
            Some((_, earlier)) if earlier == value => {}
            Some((_, earlier)) => {
                let text = format!("`{}` came before it and is replaced", earlier.display());
                target.outcomes.push(Outcome::Replaces(text));
                value.clone_into(earlier);
            }
            None => target.line.parameters.push((variable.clone(), value.to_owned())),
        }
        target.outcomes.push(Outcome::Variable(variable));
        match parameters::look_up(name) {
            Known::Program => Ok(()),
            Known::Unknown(suggestion) => {
                let meant = suggestion.map_or(String::new(), |name| format!(": did you mean `{name}`?"));
                target.outcomes.push(Outcome::Unused(format!(
                    "it looks like a launcher's parameter, and efarun knows none of this name{meant}"
                )));
                Ok(())
            }
            Known::Launcher(row) => {
                let spelling = format!("{} {}", target.spelling, name.display());
                let mut inner = Target { spelling: &spelling, ..target.reborrow() };
                self.apply(&mut inner, parameters::PARAMETERS[row].meaning, value)?;
                let outcomes = inner.outcomes;
                target.outcomes.extend(outcomes);
                Ok(())
            }
        }
    }

    /// Acts on the launcher's parameters that are set in the environment, where the line does not say otherwise.
    pub(super) fn add_environment(
        &self,
        line: &mut Line,
        env: &[(OsString, OsString)],
    ) -> Result<(), CliExit> {
        for (variable, value) in env {
            let name = PARAMETER_PREFIXES
                .iter()
                .find_map(|prefix| variable.as_bytes().strip_prefix(prefix.as_bytes()));
            let Some(Known::Launcher(row)) = name.map(|name| parameters::look_up(OsStr::from_bytes(name)))
            else {
                continue;
            };
            let (spelling, typed) =
                (variable.display().to_string(), format!("{}={}", variable.display(), value.display()));
            let mut scratch = Line { apps: vec![AppLine::default()], ..Line::default() };
            let mut app = AppLine::default();
            let mut target = Target {
                line: &mut scratch,
                app: &mut app,
                spelling: &spelling,
                typed: &typed,
                outcomes: Vec::new(),
            };
            self.apply(&mut target, parameters::PARAMETERS[row].meaning, value)?;
            let outcomes = target.outcomes;
            let is_new = |given: &Given| !line.has(&given.canonical) && !line.overrides(&given.canonical);
            let (job, own) = (scratch.job, app.own);
            if job.iter().chain(&own).all(is_new) {
                if job.iter().any(|given| given.canonical == "--hostfile") {
                    let (file, variable) = (value.display(), variable.display());
                    line.notes.push(format!("the hosts are those of {file}, which {variable} names"));
                }
                line.job.extend(job);
                line.apps.iter_mut().for_each(|app| app.own.extend(own.iter().cloned()));
                line.typed.push(Typed { words: typed, outcomes });
            }
        }
        Ok(())
    }

    /// Adds a canonical word of a row's.
    fn give(&self, target: &mut Target<'_>, word: OsString) -> Result<(), CliExit> {
        let (name, value) = split_value(word.as_bytes());
        let long = std::str::from_utf8(&name[2..]).expect("a row's words begin with `--` and a name");
        let arg = self.command.get_arguments().find(|arg| arg.get_long() == Some(long));
        let given = Given {
            spelling: target.spelling.to_owned(),
            typed: target.typed.to_owned(),
            canonical: format!("--{long}"),
            value: value.map(OsStr::to_owned),
        };
        self.add(target.line, target.app, arg.expect("a row's words are options"), given)?;
        target.outcomes.push(Outcome::Option(word));
        Ok(())
    }

    /// Adds an option. One that has a single value may be repeated only with the same value; a switch may be
    /// repeated, and once is enough for clap.
    fn add(&self, line: &mut Line, app: &mut AppLine, arg: &Arg, given: Given) -> Result<(), CliExit> {
        let is_apps = self.app_options.iter().any(|long| Some(long.as_str()) == arg.get_long());
        let list = if is_apps { &mut app.own } else { &mut line.job };
        if !matches!(arg.get_action(), ArgAction::Append)
            && let Some(first) = list.iter().find(|earlier| earlier.canonical == given.canonical)
        {
            if first.value == given.value {
                return Ok(());
            }
            return Err(CliExit::Contradiction { first: first.typed.clone(), second: given.typed });
        }
        list.push(given);
        Ok(())
    }

    fn unknown(&self, word: &OsStr, name: &[u8]) -> CliExit {
        let option = word.display().to_string();
        let Ok(name) = std::str::from_utf8(name) else {
            return CliExit::UnknownOption { option, suggestion: None };
        };
        let longs = self
            .command
            .get_arguments()
            .flat_map(|arg| arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default()));
        let longs: Vec<&str> = longs.filter(|long| long.len() > 1).collect();
        let foreign = dialect::flags().flat_map(|flag| flag.names).copied().filter(|name| name.len() > 1);
        let suggestion = likely(name, longs.into_iter().chain(foreign)).map(|long| format!("--{long}"));
        let option = option.split('=').next().unwrap_or_default().to_owned();
        CliExit::UnknownOption { option, suggestion }
    }
}

/// Where the meaning of a row goes.
struct Target<'a> {
    line: &'a mut Line,
    app: &'a mut AppLine,
    /// As typed, without the value.
    spelling: &'a str,
    /// As typed, with it.
    typed: &'a str,
    outcomes: Vec<Outcome>,
}

impl Target<'_> {
    fn reborrow(&mut self) -> Target<'_> {
        Target {
            line: self.line,
            app: self.app,
            spelling: self.spelling,
            typed: self.typed,
            outcomes: Vec::new(),
        }
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

/// Takes a foreign option's values; gives them with the option's spelling.
fn take_values(
    row: &ForeignFlag,
    word: String,
    attached: Option<&OsStr>,
    words: &mut impl Iterator<Item = OsString>,
) -> Result<(String, Vec<OsString>), CliExit> {
    let spelling = word.split('=').next().unwrap_or_default().to_owned();
    let mut values: Vec<OsString> = attached.map(OsStr::to_owned).into_iter().collect();
    if values.len() > row.values {
        let found = values[0].display().to_string();
        return Err(CliExit::UnexpectedValue { option: spelling, found });
    }
    let missing = row.values - values.len();
    values.extend(words.take(missing));
    if values.len() < row.values {
        let value_name = if row.values == 2 { "NAME VALUE" } else { "VALUE" }.to_owned();
        return Err(CliExit::MissingValue { option: spelling, value_name });
    }
    Ok((spelling, values))
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

const COLON: &str = ":";

/// What the names of variables begin with that set a launcher's parameters.
const PARAMETER_PREFIXES: &[&str] = &["OMPI_MCA_", "PRTE_MCA_"];
