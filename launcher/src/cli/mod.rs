//! Turns the command line into a [`JobSpec`].
//!
//! Given the words after `efarun`, [`parse`] returns what to do, or which word is wrong and what would be right. It
//! takes mpirun's manners: long options with one dash (`-np 4`, `-hostfile f`), `--` ends the options, and from
//! PROGRAM on every byte is the program's.
//!
//! `flags` has one item per option with its help; `manners` cuts the line into options and program and brings
//! options into the one form that clap reads; `mpirun` lists the options of mpirun that efarun does not take yet,
//! so that they are refused by name. Nothing is read or contacted here.

mod flags;
mod manners;
mod mpirun;
mod values;

use std::ffi::OsString;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::exit_code::ExitCause;
use crate::job::JobSpec;

use flags::Flags;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run a job, or show what would be run.
    Run(Box<JobSpec>),
    /// Print this to standard output and end: help, version.
    Print(String),
}

/// Why the command line cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CliExit {
    /// Nobody knows this option.
    #[error("unknown option `{option}`{}\n  hint: options come before PROGRAM; `efarun --help` lists them", suggestion_text(.suggestion))]
    UnknownOption {
        /// The option as typed.
        option: String,
        /// The option that it resembles.
        suggestion: Option<String>,
    },
    /// mpirun knows this option, efarun does not take it yet.
    #[error("`{option}` is an option of mpirun that efarun does not take yet\n  hint: {hint}")]
    NotTaken {
        /// The option with its values, as typed.
        option: String,
        /// What to do without it.
        hint: String,
    },
    /// An option lacks its value.
    #[error("`{option}` needs a value: {option} {value_name}")]
    MissingValue {
        /// The option as typed.
        option: String,
        /// What the value is.
        value_name: String,
    },
    /// A value for an option that takes none.
    #[error("`{option}` takes no value, found `{found}`")]
    UnexpectedValue {
        /// The option as typed.
        option: String,
        /// The value.
        found: String,
    },
    /// A value that does not do.
    #[error("`{option} {value}`: {problem}")]
    BadValue {
        /// The option as typed.
        option: String,
        /// The value.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// Two values for an option that has one.
    #[error("`{second}` contradicts `{first}`: leave one out")]
    Contradiction {
        /// What came first, as typed.
        first: String,
        /// What came later, as typed.
        second: String,
    },
    /// No PROGRAM.
    #[error("no program to run\n  hint: efarun [OPTIONS] PROGRAM [ARGS]…, such as `efarun -n 4 ./hello`")]
    NoProgram,
    /// clap refuses what we let through.
    #[error("{text}")]
    Other {
        /// Its words.
        text: String,
    },
}

impl CliExit {
    /// Returns the reason for the exit code: always [`ExitCause::Usage`].
    pub fn exit_cause(&self) -> ExitCause {
        ExitCause::Usage
    }
}

/// Parses the words after the launcher's own name.
///
/// # Errors
/// The first word that is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, CliExit> {
    let command = flags::command();
    let line = manners::cut(&command, args)?;
    if let Some(text) = flags::asked_text(&command, &line) {
        return Ok(Command::Print(text));
    }
    let matches = command.try_get_matches_from(line.canonical()).map_err(|error| explain(&error, &line))?;
    let flags = Flags::from_arg_matches(&matches).map_err(|error| explain(&error, &line))?;
    let Some((program, args)) = line.program.split_first() else { return Err(CliExit::NoProgram) };
    Ok(Command::Run(Box::new(flags.into_job(program.clone(), args.to_vec()))))
}

/// Returns the clap definitions, for completions and the man page.
pub fn definition() -> clap::Command {
    Flags::command()
}

/// Says in our words, and with the option as typed, what clap found wrong with a value.
fn explain(error: &clap::Error, line: &manners::Line) -> CliExit {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let value_is_wrong = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    match (value_is_wrong, context(ContextKind::InvalidArg), context(ContextKind::InvalidValue)) {
        (true, Some(arg), Some(value)) => {
            let canonical = arg.split(['=', ' ', '[']).next().unwrap_or_default();
            CliExit::BadValue {
                option: line.spelling(canonical).to_owned(),
                value,
                problem: std::error::Error::source(error).map_or_else(
                    || format!("expected {}", context(ContextKind::ValidValue).unwrap_or_default()),
                    ToString::to_string,
                ),
            }
        }
        _ if error.kind() == ErrorKind::InvalidUtf8 => line.not_text(),
        _ => CliExit::Other { text: error.to_string().trim_start_matches("error: ").trim_end().to_owned() },
    }
}

fn suggestion_text(suggestion: &Option<String>) -> String {
    suggestion.as_ref().map_or_else(String::new, |option| format!(": did you mean `{option}`?"))
}

#[cfg(test)]
mod tests;
