//! A command line, its words separated by zero bytes: it is a job, a text to print or an error, and from PROGRAM on every
//! byte is the program's, but for a `:` before another. The last word is what a file that the line names would hold; a
//! word before it that has a `=` in front is a variable of the environment.
#![no_main]

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use efarun::cli::{Command, Surroundings, parse};
use efarun::job::{App, Export};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut words: Vec<OsString> =
        input.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    let file = words.pop().unwrap_or_default().into_vec();
    let env: Vec<(OsString, OsString)> = words.iter().filter_map(variable).collect();
    words.retain(|word| variable(word).is_none());
    // A configuration file is read where a variable names one; the machine's has nothing to say.
    let read = |path: &Path| match path.to_str() {
        Some("/etc/efarun/config.toml") => Err(ErrorKind::NotFound.into()),
        _ => Ok(file.clone()),
    };
    let around = Surroundings { env: &env, read: &read };
    let from_file =
        words.iter().any(|word| word.as_bytes().ends_with(b"-app") || word.as_bytes().contains(&b'='));
    match parse(words.clone(), around) {
        Ok(Command::Run(spec)) => {
            if !from_file {
                check_programs(&words, &spec.apps);
            }
            assert!(!spec.apps.is_empty() && spec.ranks_per_node != Some(0) && spec.default_slots != Some(0));
            assert!(spec.apps.len() == 1 || spec.apps.iter().all(|app| app.rank_count.is_some()));
            assert!(spec.timeout.is_none_or(|timeout| !timeout.is_zero()) && !spec.start_timeout.is_zero());
            for app in &spec.apps {
                assert!(app.rank_count != Some(0));
                for export in &app.exports {
                    let (Export::Inherit(name) | Export::Set(name, _)) = export;
                    assert!(!name.is_empty() && !name.as_bytes().contains(&b'='), "{export:?}");
                }
            }
            let repeated = |index: usize| {
                spec.parameters[..index].iter().any(|(name, _)| *name == spec.parameters[index].0)
            };
            assert!(!(0..spec.parameters.len()).any(repeated), "a parameter is there twice");
            assert!(spec.launch_agent.is_none_or(|words| words.first().is_some_and(|word| !word.is_empty())));
        }
        Ok(Command::Print(text)) => assert!(!text.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// `=NAME=VALUE` as a variable.
fn variable(word: &OsString) -> Option<(OsString, OsString)> {
    let text = word.as_bytes().strip_prefix(b"=")?;
    let at = text.iter().position(|byte| *byte == b'=')?;
    Some((OsString::from_vec(text[..at].to_vec()), OsString::from_vec(text[at + 1..].to_vec())))
}

/// Each program's words stand on the line as they were typed, one program after the other.
fn check_programs(words: &[OsString], apps: &[App]) {
    let mut rest = words;
    for app in apps {
        let program: Vec<&OsString> = std::iter::once(&app.program).chain(&app.args).collect();
        let at = (0..=rest.len() - program.len())
            .find(|at| rest[*at..*at + program.len()].iter().eq(program.iter().copied()));
        let at = at.unwrap_or_else(|| panic!("{program:?} is not what was typed"));
        rest = &rest[at + program.len()..];
    }
    assert!(rest.is_empty() || apps.len() > 1 || rest.len() < words.len(), "words are left over: {rest:?}");
}
