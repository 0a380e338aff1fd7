//! What `rank_echo` reports: arguments and environment exactly as they arrived, byte for byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

use crate::Outcome;

/// One rank's birth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// `EFARUN_RANK`.
    pub rank: u32,
    /// Arguments without the program.
    args: Vec<Vec<u8>>,
    /// The environment, in order.
    env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder it was started in.
    pub wdir: String,
    /// The host's own name.
    pub hostname: String,
    /// Its standard input, to the end.
    pub stdin: Vec<u8>,
}

impl Echo {
    /// What this process got.
    pub fn of_this_process(rank: u32, stdin: Vec<u8>) -> Echo {
        Echo {
            rank,
            args: std::env::args_os().skip(1).map(OsString::into_vec).collect(),
            env: std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())).collect(),
            wdir: std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            hostname: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            stdin,
        }
    }

    /// What every rank of a job reported, by rank.
    ///
    /// # Panics
    ///
    /// When a line of the output is no report.
    #[track_caller]
    pub fn all(outcome: &Outcome) -> Vec<Echo> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let mut echoes: Vec<Echo> = outcome.stdout().lines().map(parse).collect();
        echoes.sort_by_key(|echo| echo.rank);
        echoes
    }

    /// The arguments.
    pub fn args(&self) -> Vec<OsString> {
        self.args.iter().cloned().map(OsString::from_vec).collect()
    }

    /// A variable's value.
    pub fn var(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find(|(key, _)| key == name.as_bytes()).map(|(_, value)| OsStr::from_bytes(value))
    }

    /// A variable's value as text.
    ///
    /// # Panics
    ///
    /// When it is not set, or no text.
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        let value = self.var(name).unwrap_or_else(|| panic!("rank {} has no {name}", self.rank));
        value.to_str().unwrap_or_else(|| panic!("{name} is no text: {value:?}"))
    }

    /// The names of all variables.
    pub fn names(&self) -> Vec<String> {
        self.env.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }
}
