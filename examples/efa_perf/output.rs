//! Where results go: the table to standard output row by row, JSON to its file at the end. Rank 0 alone writes.

use std::fs::File;
use std::io::{self, Stdout, Write};
use std::path::{Path, PathBuf};

use crate::report::{Config, Report, Row};
use crate::table;

/// What rank 0 writes to; on other ranks nothing.
#[derive(Debug)]
pub(crate) struct Output {
    table: Option<Stdout>,
    json: Option<Json>,
}

#[derive(Debug)]
enum Json {
    Stdout(Stdout),
    File { path: PathBuf, file: File },
}

/// What could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{target}: {cause}")]
pub(crate) struct OutputError {
    target: String,
    cause: io::Error,
}

impl Output {
    /// Opens what `--json` names now, so that a path that cannot be written costs no measurement.
    pub(crate) fn new(json: Option<&Path>, is_rank_zero: bool) -> Result<Self, OutputError> {
        if !is_rank_zero {
            return Ok(Output { table: None, json: None });
        }
        let json = match json {
            None => None,
            Some(path) if path == Path::new("-") => Some(Json::Stdout(io::stdout())),
            Some(path) => {
                let file = File::create(path).map_err(|cause| failed(path.display(), cause))?;
                Some(Json::File { path: path.to_owned(), file })
            }
        };
        let takes_stdout = matches!(json, Some(Json::Stdout(_)));
        Ok(Output { table: (!takes_stdout).then(io::stdout), json })
    }

    /// Writes what stands above the rows.
    pub(crate) fn header(&mut self, config: &Config) -> Result<(), OutputError> {
        self.write(|| table::header(config))
    }

    /// Writes one row; it is seen at once.
    pub(crate) fn row(&mut self, row: &Row) -> Result<(), OutputError> {
        self.write(|| table::row(row))
    }

    /// Writes what stands below the rows, and the JSON.
    pub(crate) fn footer(&mut self, report: &Report) -> Result<(), OutputError> {
        self.write(|| table::footer(report))?;
        let (target, written) = match &mut self.json {
            None => return Ok(()),
            Some(Json::Stdout(stdout)) => (STDOUT.to_owned(), write_json(stdout, report)),
            Some(Json::File { path, file }) => (path.display().to_string(), write_json(file, report)),
        };
        written.map_err(|cause| failed(target, cause))
    }

    fn write(&mut self, text: impl FnOnce() -> String) -> Result<(), OutputError> {
        let Some(stdout) = &mut self.table else { return Ok(()) };
        let written = stdout.write_all(text().as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|cause| failed(STDOUT, cause))
    }
}

fn write_json(target: &mut impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *target, report)?;
    target.write_all(b"\n")?;
    target.flush()
}

fn failed(target: impl ToString, cause: io::Error) -> OutputError {
    OutputError { target: target.to_string(), cause }
}

const STDOUT: &str = "standard output";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn path_that_cannot_be_written_is_named_before_anything_is_measured() {
        let error = Output::new(Some(Path::new("/no/such/folder/x.json")), true).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/folder/x.json: "), "{error}");
    }

    #[test]
    fn ranks_other_than_0_touch_no_file() {
        let mut output = Output::new(Some(Path::new("/no/such/folder/x.json")), false).unwrap();
        output.footer(&report()).unwrap();
    }

    #[test]
    fn json_file_holds_the_report() {
        let mut bytes = Vec::new();
        write_json(&mut bytes, &report()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json, serde_json::to_value(report()).unwrap());
        assert_eq!(bytes.last(), Some(&b'\n'));
    }
}
