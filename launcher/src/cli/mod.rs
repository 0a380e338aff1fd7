//! Turns the command line into a [`JobSpec`].
//!
//! Given the words after `efarun`, [`parse`] returns what to do, or which word is wrong and what would be right. It
//! takes mpirun's manners: long options with one dash (`-np 4`, `-hostfile f`), two-argument `--mca`, `--` ends the
//! options, from PROGRAM on every byte is the program's, and `:` begins another program.
//!
//! `flags` has one item per option of efarun's with its help; `dialect` has other launchers' options as tables of data;
//! `manners` cuts the line into options and programs and brings options into the one form that clap reads;
//! `translate` says what became of each, `hosts` converts lists of hosts, and `efarun variables` prints what the
//! environment's table says; `config` has defaults of the user's own, `completions` what shells and `man` read.
//! `torchrun` is apart from these: torchrun's lines have other manners. Pure: nobody is contacted, and files that a line
//! may name (`--app`), or that hold defaults, are read by whoever calls.

mod completions;
mod config;
mod dialect;
mod error;
mod flags;
mod hosts;
mod line;
mod manners;
mod placement;
mod torchrun;
mod translate;
mod typed;
mod values;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::env;
use crate::hostfile::{self, Found};
use crate::job::{App, JobSpec};
use crate::mapping::{MapBy, Rankfile};

pub use error::CliExit;

use flags::Flags;
use line::Line;
use manners::Cutter;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run a job, or show what would be run.
    Run(Box<JobSpec>),
    /// Print this to standard output and end: help, version, a translation.
    Print(String),
}

/// What parsing may look at beside the command line.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The environment: parameters of Open MPI's are taken from it as mpirun takes them.
    pub env: &'a [(OsString, OsString)],
    /// Reads a file that the line names.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// Parses the words after the launcher's own name.
///
/// # Errors
/// The first word that is wrong.
pub fn parse(args: impl IntoIterator<Item = OsString>, around: Surroundings<'_>) -> Result<Command, CliExit> {
    parse_called(OsStr::new("efarun"), args, around)
}

/// Parses the words after the name by which the launcher was called. By mpirun's or mpiexec's names it has no
/// subcommands: a program may be called `hosts`.
///
/// # Errors
/// The first word that is wrong.
pub fn parse_called(
    name: &OsStr,
    args: impl IntoIterator<Item = OsString>,
    around: Surroundings<'_>,
) -> Result<Command, CliExit> {
    let command = flags::command();
    let app_options = flags::app_options();
    let cutter = Cutter { command: &command, app_options: &app_options };
    let mut words = args.into_iter().peekable();
    let has_subcommands = !Path::new(name).file_name().is_some_and(translate::is_a_launchers);
    let subcommand = words.next_if(|word| has_subcommands && SUBCOMMANDS.iter().any(|known| word == known));
    if let Some(word) = subcommand {
        return match word.to_str().unwrap_or_default() {
            hosts::SUBCOMMAND => hosts::convert(words, around),
            config::SUBCOMMAND => config::show(&command, words, around),
            completions::SUBCOMMAND => completions::completions(words),
            completions::MAN_SUBCOMMAND => {
                takes_nothing(completions::MAN_SUBCOMMAND, words).and_then(|()| completions::man())
            }
            VARIABLES => takes_nothing(VARIABLES, words).map(|()| env::variables_document()),
            _ => translate::translate(&cutter, &word, words),
        }
        .map(Command::Print);
    }
    if words.next_if(|word| has_subcommands && word == torchrun::SUBCOMMAND).is_some() {
        return torchrun::parse(words, around);
    }
    let mut line = cutter.cut(words)?;
    if let Some(text) = flags::asked_text(&command, &line) {
        return Ok(Command::Print(text));
    }
    if !is_within_a_rank(around.env) {
        cutter.add_environment(&mut line, around.env)?;
    }
    if let Some(file) = line.value_of("--app").map(OsStr::to_owned) {
        add_app_file(&cutter, &mut line, Path::new(&file), around)?;
    }
    config::add(&command, &app_options, &mut line, around)?;
    let mut job = into_job(&command, &line, around)?;
    if !is_within_a_rank(around.env) {
        find_hosts(&mut job, around.env);
    }
    Ok(Command::Run(Box::new(job)))
}

/// The words that ask for something else than a job.
const SUBCOMMANDS: [&str; 6] = [
    translate::SUBCOMMAND,
    hosts::SUBCOMMAND,
    config::SUBCOMMAND,
    completions::SUBCOMMAND,
    completions::MAN_SUBCOMMAND,
    VARIABLES,
];

fn takes_nothing(subcommand: &str, mut words: impl Iterator<Item = OsString>) -> Result<(), CliExit> {
    words.next().map_or(Ok(()), |word| {
        let problem = format!("`efarun {subcommand}` takes nothing, and `{}` is something", word.display());
        Err(CliExit::Subcommand { problem })
    })
}

/// Takes the hosts that the environment names, where nothing else names any.
fn find_hosts(job: &mut JobSpec, env: &[(OsString, OsString)]) {
    if job.hostfile.is_some() || job.apps.iter().any(|app| !app.host_list.is_empty()) {
        return;
    }
    let Some((variable, found)) = hostfile::found(env) else { return };
    match found {
        Found::File(path) => {
            job.notes.push(format!("the hosts are those of {}, which {variable} names", path.display()));
            job.hostfile = Some(path);
        }
        Found::List(list) => {
            job.notes.push(format!("the hosts are those of {variable}"));
            job.apps.iter_mut().for_each(|app| app.host_list.clone_from(&list));
        }
    }
}

/// Returns the word that a command line begins with where the launcher is called by this name: `torchrun` chooses
/// torchrun's dialect, every other name mpirun's.
pub fn dialect_of(name: &OsStr) -> Option<OsString> {
    let name = Path::new(name).file_name()?;
    (name == torchrun::SUBCOMMAND).then(|| name.to_owned())
}

/// Returns the clap definitions, for completions and the man page.
pub fn definition() -> clap::Command {
    Flags::command()
}

/// Adds the programs of a file to a line that has none. Options that are one program's alone and stand on the line hold
/// for each of them that does not say otherwise.
fn add_app_file(
    cutter: &Cutter<'_>,
    line: &mut Line,
    file: &Path,
    around: Surroundings<'_>,
) -> Result<(), CliExit> {
    if let Some(program) = line.apps.iter().find_map(|app| app.program.first()) {
        return Err(CliExit::ProgramBesideApp {
            file: file.to_owned(),
            program: program.display().to_string(),
        });
    }
    let unreadable = |problem| CliExit::AppFileUnreadable { file: file.to_owned(), problem };
    let bytes = (around.read)(file).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
    let common = std::mem::take(&mut line.apps);
    for (index, text) in text.lines().enumerate() {
        let at_fault =
            |problem| CliExit::AppFile { file: file.to_owned(), line: index + 1, problem: Box::new(problem) };
        let words = values::argument_words(text).map_err(|text| at_fault(CliExit::Other { text }))?;
        let has_more = match words.first() {
            None => continue,
            Some(_) => cutter.cut_program(line, &mut words.into_iter()).map_err(at_fault)?,
        };
        if has_more || line.apps.last().is_none_or(|app| app.program.is_empty()) {
            return Err(at_fault(CliExit::NoProgram));
        }
    }
    line.put_before_each(&common);
    Ok(())
}

fn into_job(command: &clap::Command, line: &Line, around: Surroundings<'_>) -> Result<JobSpec, CliExit> {
    let read = |words: Vec<OsString>| {
        let explained =
            |error| explain(&error, |canonical| line.spelling(canonical).to_owned(), || line.not_text());
        let matches = command.clone().try_get_matches_from(words).map_err(explained)?;
        Flags::from_arg_matches(&matches).map_err(explained)
    };
    let several = line.apps.len() > 1;
    let mut apps: Vec<App> = Vec::with_capacity(line.apps.len());
    for (index, app) in line.apps.iter().enumerate() {
        let flags = read(line.canonical(app))?;
        let Some((program, args)) = app.program.split_first() else { return Err(CliExit::NoProgram) };
        let app = flags.into_app(program.clone(), args.to_vec());
        if several && app.rank_count.is_none() {
            return Err(CliExit::NoRankCount { number: index + 1, program: program.display().to_string() });
        }
        apps.push(app);
    }
    if apps.is_empty() {
        return Err(CliExit::NoProgram);
    }
    let flags = read(line.of_the_job())?;
    let rankfile = flags.rankfile()?;
    let mut job = flags.into_job(apps);
    if let Some(path) = rankfile {
        job.map_by = MapBy::Rankfile;
        job.rankfile = Some(read_rankfile(&path, around)?);
    }
    job.parameters = line.parameters.clone();
    job.notes = line.notes.clone();
    job.notes.extend(line.typed.iter().flat_map(typed::Typed::notes));
    if job.verbose {
        job.notes.extend(line.typed.iter().flat_map(typed::Typed::asides));
    }
    Ok(job)
}

fn read_rankfile(path: &Path, around: Surroundings<'_>) -> Result<Rankfile, CliExit> {
    let unreadable = |error: io::Error| CliExit::Rankfile { problem: format!("{}: {error}", path.display()) };
    let bytes = (around.read)(path).map_err(unreadable)?;
    Rankfile::parse(path, &bytes).map_err(|error| CliExit::Rankfile { problem: error.to_string() })
}

/// Whether this process is itself a rank of Open MPI's: then its launcher's parameters are in the environment, and they
/// speak of that job.
fn is_within_a_rank(env: &[(OsString, OsString)]) -> bool {
    env.iter().any(|(name, _)| {
        name.as_bytes().starts_with(b"OMPI_COMM_WORLD_") || name.as_bytes().starts_with(b"OMPI_MCA_ess")
    })
}

/// Says in our words, and with the option as typed, what clap found wrong with a value. `spelling` gives that for an
/// option's canonical form, `not_text` the error for a value that is no text.
fn explain(
    error: &clap::Error,
    spelling: impl FnOnce(&str) -> String,
    not_text: impl FnOnce() -> CliExit,
) -> CliExit {
    let context = |kind| error.get(kind).map(ToString::to_string);
    let value_is_wrong = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
    match (value_is_wrong, context(ContextKind::InvalidArg), context(ContextKind::InvalidValue)) {
        (true, Some(arg), Some(value)) => {
            let canonical = arg.split(['=', ' ', '[']).next().unwrap_or_default();
            CliExit::BadValue {
                option: spelling(canonical),
                value,
                problem: std::error::Error::source(error).map_or_else(
                    || format!("expected {}", context(ContextKind::ValidValue).unwrap_or_default()),
                    ToString::to_string,
                ),
            }
        }
        _ if error.kind() == ErrorKind::InvalidUtf8 => not_text(),
        _ => CliExit::Other { text: error.to_string().trim_start_matches("error: ").trim_end().to_owned() },
    }
}

/// The word that asks for the table of variables.
const VARIABLES: &str = "variables";

#[cfg(test)]
mod tests;
