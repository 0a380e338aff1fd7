//! `efarun translate mpirun …`: the line that does the same here, and what becomes of each option.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::line::Line;
use super::manners::Cutter;
use super::typed::{Outcome, Typed};
use super::{CliExit, torchrun};

/// The word that asks for it.
pub(super) const SUBCOMMAND: &str = "translate";

/// Translates a line that begins with another launcher's name.
pub(super) fn translate(
    cutter: &Cutter<'_>,
    subcommand: &OsStr,
    mut words: impl Iterator<Item = OsString>,
) -> Result<String, CliExit> {
    let launcher = words.next().unwrap_or_default();
    if let Some(words) = torchruns_words(&launcher, &mut words) {
        return torchrun::translate(words);
    }
    let name = Path::new(&launcher).file_name().unwrap_or_default();
    if !LAUNCHERS.iter().any(|known| *known == name) {
        let found =
            if launcher.is_empty() { String::new() } else { format!(", found `{}`", launcher.display()) };
        return Err(CliExit::Subcommand {
            problem: format!(
                "`efarun {}` needs a line that begins with {}{found}\n  hint: efarun translate mpirun -np 16 --mca btl ^openib ./prog",
                subcommand.display(),
                [LAUNCHERS, &[torchrun::SUBCOMMAND]].concat().join(", ")
            ),
        });
    }
    let line = cutter.cut(words)?;
    let mut text = format!("{}\n", equivalent(&line));
    let rows: Vec<(String, String)> = line.typed.iter().map(|typed| row(cutter.command, typed)).collect();
    if !rows.is_empty() {
        text.push('\n');
    }
    let width = rows.iter().map(|(words, _)| words.chars().count()).max().unwrap_or(0).min(WIDEST_COLUMN);
    for (words, meaning) in rows {
        text.push_str(&format!("{words:<width$}  {meaning}\n"));
    }
    Ok(text)
}

/// The words behind `torchrun`, or behind the words of python that mean it; none for another launcher.
fn torchruns_words(launcher: &OsStr, words: &mut impl Iterator<Item = OsString>) -> Option<Vec<OsString>> {
    let name = Path::new(launcher).file_name()?;
    if name == torchrun::SUBCOMMAND {
        return Some(words.collect());
    }
    if !name.as_bytes().starts_with(b"python") || words.next()? != "-m" {
        return None;
    }
    let module = words.next()?;
    TORCHRUNS_MODULES.iter().any(|known| module == *known).then(|| words.collect())
}

/// Whether another launcher of the same dialect has this name.
pub(super) fn is_a_launchers(name: &OsStr) -> bool {
    name != "efarun" && LAUNCHERS.iter().any(|known| *known == name)
}

/// The line for efarun, quoted for a shell.
fn equivalent(line: &Line) -> String {
    let mut words = vec!["efarun".to_owned()];
    words.extend(line.of_the_job().iter().map(|word| shown(word)));
    let parameter = |(variable, value): &(OsString, OsString)| {
        let mut word = OsString::from("--export=");
        word.push(variable);
        word.push("=");
        word.push(value);
        shown(&word)
    };
    for (index, app) in line.apps.iter().enumerate() {
        if index > 0 {
            words.push(":".to_owned());
        }
        words.extend(line.parameters.iter().map(parameter));
        words.extend(app.canonical().iter().map(|word| shown(word)));
        words.extend(app.program.iter().map(|word| quoted(word)));
    }
    words.join(" ")
}

/// A canonical word as people write it: `--np 16`, `-x NAME`.
fn shown(word: &OsStr) -> String {
    let at = word.as_bytes().iter().position(|byte| *byte == b'=');
    let Some(at) = at else { return word.display().to_string() };
    let (option, value) = word.as_bytes().split_at(at);
    let option = String::from_utf8_lossy(option);
    let value = quoted(OsStr::from_bytes(&value[1..]));
    match SHORT.iter().find(|(long, _)| *long == option) {
        Some((_, short)) => format!("{short} {value}"),
        None if option == "--dry-run" => format!("{option}={value}"),
        None => format!("{option} {value}"),
    }
}

/// Bytes that are no text keep their places, as a shell's `$'\xff'` writes them.
pub(super) fn quoted(word: &OsStr) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,=@%+".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) => shell_words::quote(text).into_owned(),
        None => {
            let escaped: String =
                word.as_bytes().iter().map(|byte| byte.escape_ascii().to_string()).collect();
            format!("$'{escaped}'")
        }
    }
}

fn row(command: &clap::Command, typed: &Typed) -> (String, String) {
    let meanings: Vec<String> =
        typed.outcomes.iter().map(|outcome| meaning(command, &typed.words, outcome)).collect();
    (typed.words.clone(), meanings.join("; "))
}

fn meaning(command: &clap::Command, words: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Option(word) => {
            let long = String::from_utf8_lossy(word.as_bytes());
            let long = long.trim_start_matches("--").split('=').next().unwrap_or_default().to_owned();
            let help = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(&long))
                .and_then(clap::Arg::get_help);
            let help = help.map_or_else(String::new, ToString::to_string);
            let bare = |text: &str| text.trim_start_matches('-').replace('\'', "");
            if bare(words) == bare(&shown(word)) { help } else { format!("`{}`: {help}", shown(word)) }
        }
        Outcome::Variable(name) => format!("ranks get it as {}", name.display()),
        Outcome::Replaces(text) => text.clone(),
        Outcome::NoDifference(why) => format!("changes nothing: {why}"),
        Outcome::Unused(why) => format!("NOT ACTED ON: {why}"),
    }
}

/// The launchers whose lines are understood.
const LAUNCHERS: &[&str] = &["mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "efarun"];

/// What `python -m` runs as torchrun.
const TORCHRUNS_MODULES: &[&str] = &["torch.distributed.run", "torch.distributed.launch"];

/// Options that people know by their short names.
const SHORT: &[(&str, &str)] = &[("--np", "-n"), ("--npernode", "-N"), ("--export", "-x"), ("--host", "-H")];

/// A longer option pushes its own meaning to the right, and nobody else's.
const WIDEST_COLUMN: usize = 44;
