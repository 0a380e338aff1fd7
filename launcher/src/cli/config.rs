//! Defaults of a user's own, and `efarun config`, which shows what holds and where it comes from.
//!
//! Every option may be set by a variable, `EFARUN_START_TIMEOUT=120` for `--start-timeout 120`, and by a line of
//! a configuration file, `start-timeout = 120`. The command line wins over variables, they over the user's file, and that
//! over the machine's. Files are TOML: numbers, texts, `true` and `false`, and lists for options that may be repeated.
//!
//! Within a rank variables are left alone: they are those that the rank's own launcher was given.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction};
use toml_span::value::ValueInner;

use super::line::{Given, Line};
use super::{CliExit, Surroundings, dialect};
use crate::env::is_secret;

/// The word that asks for it.
pub(super) const SUBCOMMAND: &str = "config";

/// An option's value that is not on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// The option's long name.
    long: String,
    value: OsString,
    /// The variable, or `FILE:LINE`.
    origin: String,
}

/// Adds what variables and files set and the line does not.
pub(super) fn add(
    command: &clap::Command,
    app_options: &[String],
    line: &mut Line,
    around: Surroundings<'_>,
) -> Result<(), CliExit> {
    let Defaults { options, hosts, mut notes } = defaults(command, around)?;
    line.notes.append(&mut notes);
    let hosts_are_named = HOST_OPTIONS.iter().any(|long| line.has(&format!("--{long}")));
    for default in hosts.into_iter().filter(|_| !hosts_are_named).chain(options) {
        let arg = argument(command, &default.long).expect("settings are options");
        let canonical = format!("--{}", default.long);
        let is_repeated = matches!(arg.get_action(), ArgAction::Append);
        if !is_repeated && line.has(&canonical) {
            continue;
        }
        let Default { long, value, spelling, origin } = default;
        let shown = value.as_deref().unwrap_or_default().display();
        if long == "hostfile" {
            line.notes.push(format!("the hosts are those of {shown}, which {origin} names"));
        }
        let typed = format!("{spelling} {shown}").trim_end().to_owned();
        let given = Given { spelling, typed, canonical, value };
        if app_options.contains(&long) {
            // Before the program's own, of which the last wins.
            line.apps.iter_mut().for_each(|app| app.own.insert(0, given.clone()));
        } else {
            line.job.push(given);
        }
    }
    Ok(())
}

/// Options that variables and files set.
#[derive(Debug)]
pub(super) struct Defaults {
    /// Those that are not about hosts.
    pub(super) options: Vec<Default>,
    /// `--hostfile` and `--host`.
    pub(super) hosts: Vec<Default>,
    /// About variables that look like an option's.
    pub(super) notes: Vec<String>,
}

/// One of them, which is not switched off.
#[derive(Debug)]
pub(super) struct Default {
    /// The option's long name.
    pub(super) long: String,
    /// None for a switch.
    pub(super) value: Option<OsString>,
    /// How it is called in messages.
    pub(super) spelling: String,
    /// The variable, or `FILE:LINE`.
    pub(super) origin: String,
}

/// Reads what variables and files set.
pub(super) fn defaults(command: &clap::Command, around: Surroundings<'_>) -> Result<Defaults, CliExit> {
    let (settings, notes) = settings(command, around)?;
    let mut defaults = Defaults { options: Vec::new(), hosts: Vec::new(), notes };
    for setting in settings {
        let arg = argument(command, &setting.long).expect("settings are options");
        let Some(value) = value_of(arg, &setting)? else { continue };
        let Setting { long, origin, .. } = setting;
        let spelling = if origin.starts_with(PREFIX) { origin.clone() } else { format!("{origin}: {long}") };
        let list =
            if HOST_OPTIONS.contains(&long.as_str()) { &mut defaults.hosts } else { &mut defaults.options };
        list.push(Default { long, value, spelling, origin });
    }
    Ok(defaults)
}

/// Shows every option's value, and where it comes from.
pub(super) fn show(
    command: &clap::Command,
    mut words: impl Iterator<Item = OsString>,
    around: Surroundings<'_>,
) -> Result<String, CliExit> {
    if let Some(word) = words.next() {
        let problem = format!("`efarun {SUBCOMMAND}` takes nothing, and `{}` is more", word.display());
        return Err(CliExit::Subcommand { problem });
    }
    let (settings, notes) = settings(command, around)?;
    let mut rows = Vec::new();
    for arg in command.get_arguments().filter(|arg| can_be_set(arg)) {
        let long = arg.get_long().expect("every option has a long name");
        let set: Vec<&Setting> = settings.iter().filter(|setting| setting.long == long).collect();
        let default = arg.get_default_values().first().map_or("", |value| value.to_str().unwrap_or_default());
        if set.is_empty() {
            let value = if default.is_empty() { "-" } else { default };
            rows.push([format!("--{long}"), value.to_owned(), "default".to_owned()]);
        }
        for setting in set {
            // What is wrong with it is told here, too.
            value_of(arg, setting)?;
            rows.push([format!("--{long}"), shown(&setting.value), setting.origin.clone()]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1).min(WIDEST_VALUE));
    let mut text = String::new();
    for [option, value, origin] in &rows {
        text += &format!("{option:first$}  {value:second$}  {origin}\n");
    }
    text += "\nfiles, the first of which wins:\n";
    for (path, _) in files(around.env) {
        let state = if (around.read)(&path).is_ok() { "" } else { " (cannot be read, or is not there)" };
        text += &format!("  {}{state}\n", path.display());
    }
    notes.iter().for_each(|note| text += &format!("note: {note}\n"));
    Ok(text)
}

/// Reads variables and files; the first setting of an option wins, and a list is settings from one place. Gives notes
/// about variables that look like an option's.
fn settings(
    command: &clap::Command,
    around: Surroundings<'_>,
) -> Result<(Vec<Setting>, Vec<String>), CliExit> {
    let mut settings = Vec::new();
    let mut notes = Vec::new();
    let is_within_a_rank = around.env.iter().any(|(name, _)| name == efarun_wire::env::EFARUN_RANK);
    for (name, value) in around.env.iter().filter(|_| !is_within_a_rank) {
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let origin = name.to_string_lossy().into_owned();
        let long = rest.to_ascii_lowercase().replace('_', "-");
        match argument(command, &long) {
            Some(_) => settings.push(Setting { long, value: value.clone(), origin }),
            None if OTHERS.contains(&origin.as_str()) => {}
            None => notes.extend(
                likely_option(command, &long)
                    .map(|option| format!("{origin} sets nothing: did you mean {}?", variable_of(option))),
            ),
        }
    }
    for (path, is_wanted) in files(around.env) {
        let bytes = match (around.read)(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound && !is_wanted => continue,
            Err(error) => {
                let problem = format!("it cannot be read: {error}");
                return Err(CliExit::ConfigFile { file: path, line: 0, problem });
            }
        };
        let in_file = parse(command, &path, &bytes)?;
        let is_new = |setting: &Setting| !settings.iter().any(|known: &Setting| known.long == setting.long);
        let new: Vec<Setting> = in_file.into_iter().filter(is_new).collect();
        settings.extend(new);
    }
    Ok((settings, notes))
}

/// The files to read, and whether each must be there.
fn files(env: &[(OsString, OsString)]) -> Vec<(PathBuf, bool)> {
    let variable = |wanted: &str| {
        env.iter()
            .find(|(name, value)| name == wanted && !value.is_empty())
            .map(|(_, value)| PathBuf::from(value))
    };
    if env.iter().any(|(name, _)| name == CONFIG_VARIABLE) {
        return variable(CONFIG_VARIABLE).map(|path| (path, true)).into_iter().collect();
    }
    let of_user = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")));
    let of_user = of_user.map(|folder| folder.join("efarun/config.toml"));
    of_user.into_iter().chain([PathBuf::from("/etc/efarun/config.toml")]).map(|path| (path, false)).collect()
}

fn parse(command: &clap::Command, file: &Path, bytes: &[u8]) -> Result<Vec<Setting>, CliExit> {
    let fault = |line, problem: String| CliExit::ConfigFile { file: file.to_owned(), line, problem };
    let text = std::str::from_utf8(bytes).map_err(|_| fault(0, "it is not UTF-8 text".to_owned()))?;
    let line_of = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let parsed = toml_span::parse(text)
        .map_err(|error| fault(line_of(error.span.start), format!("it is not TOML: {error}")))?;
    let table = parsed.as_table().expect("a file of TOML is a table");
    let mut settings = Vec::new();
    for (key, value) in table {
        let line = line_of(key.span.start);
        let long = key.name.replace('_', "-");
        let Some(arg) = argument(command, &long) else {
            let meant = likely_option(command, &long)
                .map_or(String::new(), |long| format!(": did you mean `{long}`?"));
            return Err(fault(line, format!("`{}` is no option{meant}", key.name)));
        };
        let values = match value.as_ref() {
            ValueInner::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
                values.iter().collect()
            }
            _ => vec![value],
        };
        for value in values {
            let value = scalar(value.as_ref()).ok_or_else(|| {
                fault(line, format!("`{}` takes a text, a number, true or false", key.name))
            })?;
            let origin = format!("{}:{line}", file.display());
            settings.push(Setting { long: long.clone(), value: value.into(), origin });
        }
    }
    Ok(settings)
}

fn scalar(value: &ValueInner<'_>) -> Option<String> {
    match value {
        ValueInner::String(text) => Some(text.to_string()),
        ValueInner::Integer(number) => Some(number.to_string()),
        ValueInner::Float(number) => Some(number.to_string()),
        ValueInner::Boolean(truth) => Some(truth.to_string()),
        ValueInner::Array(_) | ValueInner::Table(_) => None,
    }
}

/// The value in the form of the command line: none inside for a switch, none outside for one that is off.
fn value_of(arg: &Arg, setting: &Setting) -> Result<Option<Option<OsString>>, CliExit> {
    let takes_value = arg.get_action().takes_values();
    let is_optional = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
    match dialect::truth(&setting.value) {
        Some(false) if !takes_value || setting.value == "false" => Ok(None),
        Some(true) if !takes_value || (is_optional && setting.value == "true") => Ok(Some(None)),
        _ if takes_value => Ok(Some(Some(setting.value.clone()))),
        _ => Err(CliExit::BadValue {
            option: format!("{}: {}", setting.origin, setting.long),
            value: setting.value.display().to_string(),
            problem: "it must be true or false".to_owned(),
        }),
    }
}

/// An option that can be set, by its long name.
fn argument<'a>(command: &'a clap::Command, long: &str) -> Option<&'a Arg> {
    command.get_arguments().filter(|arg| can_be_set(arg)).find(|arg| arg.get_long() == Some(long))
}

fn can_be_set(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|long| !NOT_SET.contains(&long))
}

fn likely_option<'a>(command: &'a clap::Command, long: &str) -> Option<&'a str> {
    let longs = command.get_arguments().filter(|arg| can_be_set(arg)).filter_map(Arg::get_long);
    dialect::likely(long, longs)
}

fn variable_of(long: &str) -> String {
    format!("{PREFIX}{}", long.to_ascii_uppercase().replace('-', "_"))
}

/// A value as it may be shown: `NAME=VALUE` of a secret keeps its name alone.
fn shown(value: &OsStr) -> String {
    let bytes = value.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) if is_secret(&bytes[..at]) => format!("{}=…", String::from_utf8_lossy(&bytes[..at])),
        _ => value.display().to_string(),
    }
}

const PREFIX: &str = "EFARUN_";
/// Names the one file to read; empty, none is read.
const CONFIG_VARIABLE: &str = "EFARUN_CONFIG";
const HOST_OPTIONS: [&str; 2] = ["hostfile", "host"];
/// What is asked for once, and is no habit.
const NOT_SET: [&str; 4] = ["help", "version", "app", "dry-run"];
const WIDEST_VALUE: usize = 40;

/// Variables that are not the launcher's options.
const OTHERS: &[&str] = &[
    CONFIG_VARIABLE,
    efarun_wire::env::EFARUN_WORLD_SIZE,
    efarun_wire::env::EFARUN_LOCAL_RANK,
    efarun_wire::env::EFARUN_LOCAL_WORLD_SIZE,
    efarun_wire::env::EFARUN_NODE_RANK,
    efarun_wire::env::EFARUN_NODE_ADDRESS,
    efarun_wire::env::EFARUN_NODE_COUNT,
    efarun_wire::env::EFARUN_JOB_ID,
    efarun_wire::env::EFARUN_AGENT_FD,
    efarun_wire::env::EFARUN_BOOTSTRAP,
    efarun_wire::env::EFARUN_BOOTSTRAP_TIMEOUT,
    efarun_wire::env::EFARUN_KEY_FILE,
    efarun_wire::env::EFARUN_INSECURE,
    efarun_wire::env::EFARUN_PROVIDER,
    efarun_wire::env::EFARUN_GPUDIRECT,
    efarun_wire::env::EFARUN_LOCAL_TRANSPORT,
    efarun_wire::env::EFARUN_ALGORITHM,
    efarun_wire::env::EFARUN_LEAVES,
    efarun_wire::env::EFARUN_SHARED_GPUS,
    efarun_wire::env::EFARUN_GPU_BLOCKS,
    efarun_wire::env::EFARUN_DEADLINE,
];

#[cfg(test)]
mod tests;
