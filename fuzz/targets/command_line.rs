//! A command line, its words separated by zero bytes: it is a job, a text to print or an error, and from PROGRAM on every
//! byte is the program's.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use efarun::cli::{Command, parse};
use efarun::job::Export;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let words: Vec<OsString> =
        input.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    match parse(words.clone()) {
        Ok(Command::Run(spec)) => {
            let program: Vec<&OsString> = std::iter::once(&spec.program).chain(&spec.args).collect();
            let typed: Vec<&OsString> = words[words.len() - program.len()..].iter().collect();
            assert_eq!(program, typed, "the program's words are not those that were typed");
            assert!(spec.rank_count != Some(0) && spec.ranks_per_node != Some(0));
            assert!(spec.timeout.is_none_or(|timeout| !timeout.is_zero()) && !spec.start_timeout.is_zero());
            for export in &spec.exports {
                let (Export::Inherit(name) | Export::Set(name, _)) = export;
                assert!(!name.is_empty() && !name.as_bytes().contains(&b'='), "{export:?}");
            }
            assert!(spec.launch_agent.is_none_or(|words| words.first().is_some_and(|word| !word.is_empty())));
        }
        Ok(Command::Print(text)) => assert!(!text.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
