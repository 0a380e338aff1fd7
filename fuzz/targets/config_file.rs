//! Configuration files: whatever they hold, an answer comes within memory that their size explains, and the same twice.
#![no_main]

use std::ffi::OsString;
use std::io;
use std::path::Path;

use efarun::cli::{self, Surroundings};
use efarun_fuzz::within_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let env: Vec<(OsString, OsString)> = vec![("EFARUN_CONFIG".into(), "config".into())];
    let read = |path: &Path| match path.to_str() {
        Some("config") => Ok(input.to_vec()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    for line in [&["prog"][..], &["config"], &["torchrun", "train.py"]] {
        let parse = || {
            let words = line.iter().map(OsString::from);
            cli::parse(words, Surroundings { env: &env, read: &read }).map_err(|error| error.to_string())
        };
        let came = within_bytes(MEMORY_BYTES + 1024 * input.len(), parse);
        assert_eq!(came, parse(), "the same text read twice");
    }
});

/// clap's definitions are made anew for each line.
const MEMORY_BYTES: usize = 8 << 20;
