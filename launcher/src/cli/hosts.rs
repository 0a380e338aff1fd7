//! `efarun hosts SPEC --to DIALECT`: hosts of any grammar, written in one.

use std::ffi::OsString;
use std::path::Path;

use super::{CliExit, Surroundings};
use crate::hostfile::{self, Dialect};

/// The word that asks for it.
pub(super) const SUBCOMMAND: &str = "hosts";

/// Converts: SPEC is a hostfile, or a list as `-H` takes it where there is no such file.
pub(super) fn convert(
    words: impl Iterator<Item = OsString>,
    around: Surroundings<'_>,
) -> Result<String, CliExit> {
    let mut words = words.map(|word| {
        word.into_string().map_err(|word| usage(&format!("`{}` is not UTF-8 text", word.display())))
    });
    let (mut spec, mut dialect) = (None, Dialect::OpenMpi);
    while let Some(word) = words.next().transpose()? {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        match name.as_str() {
            "--to" | "-to" => {
                let value = match attached {
                    Some(value) => value,
                    None => words.next().transpose()?.unwrap_or_default(),
                };
                let known = Dialect::ALL.iter().find(|(name, _)| *name == value);
                let (_, known) =
                    known.ok_or_else(|| usage(&format!("`--to {value}`: it must be {}", names())))?;
                dialect = *known;
            }
            _ if spec.is_none() => spec = Some(word),
            _ => return Err(usage(&format!("one hostfile or list is taken, and `{word}` is another"))),
        }
    }
    let spec = spec.ok_or_else(|| usage("a hostfile or a list of hosts is missing"))?;
    let hosts = match (around.read)(Path::new(&spec)) {
        Ok(bytes) => hostfile::hosts(Some((Path::new(&spec), &bytes)), &[]),
        Err(_) => hostfile::hosts(None, &hostfile::split_list(&spec)),
    };
    let hosts = hosts.map_err(|error| CliExit::Other { text: error.to_string() })?;
    Ok(hostfile::write(&hosts, dialect))
}

fn usage(problem: &str) -> CliExit {
    CliExit::Subcommand {
        problem: format!("{problem}\n  hint: efarun hosts 'p4d[01-16]:8' --to {}", names()),
    }
}

fn names() -> String {
    Dialect::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<String, CliExit> {
        let read = |path: &Path| match path.to_str() {
            Some("file") => Ok(b"u@a slots=2 port=22\n[fd00::1]\nn[1-2]:4\n".to_vec()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        convert(line.split_whitespace().map(OsString::from), Surroundings { env: &[], read: &read })
    }

    #[test]
    fn hosts_are_written_in_every_dialect() {
        assert_eq!(run("file").unwrap(), "u@a slots=2 port=22\nfd00::1\nn1 slots=4\nn2 slots=4\n");
        assert_eq!(run("file --to mpich").unwrap(), "a:2 user=u\n[fd00::1]\nn1:4\nn2:4\n");
        assert_eq!(run("--to=slurm file").unwrap(), "a,fd00::1,n[1-2]");
        assert_eq!(
            run("p[08-10]:8,x --to openmpi").unwrap(),
            "p08 slots=8\np09 slots=8\np10 slots=8\nx slots=1\n"
        );
        let json: serde_json::Value = serde_json::from_str(&run("a:2 --to json").unwrap()).unwrap();
        assert_eq!((&json[0]["host"], &json[0]["slots"]), (&"a".into(), &2.into()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refusal = |line: &str| run(line).unwrap_err().to_string();
        assert!(refusal("").starts_with("a hostfile or a list of hosts is missing"));
        assert!(refusal("a --to pbs").starts_with("`--to pbs`: it must be openmpi|mpich|slurm|json"));
        assert!(refusal("a b").contains("`b` is another"));
        assert!(refusal("n[1-").contains("without its `]`"));
    }
}
