//! Where results go: tables to standard output row by row, JSON and picture to their files at the end. Rank 0 alone
//! writes.

use std::fs::File;
use std::io::{self, Stdout, Write};
use std::path::{Path, PathBuf};

use crate::plot;
use crate::report::{Config, Report, Row};
use crate::table;

/// What rank 0 writes to; on other ranks nothing.
#[derive(Debug)]
pub(crate) struct Output {
    table: Option<Stdout>,
    json: Option<Target>,
    plot: Option<Target>,
}

#[derive(Debug)]
enum Target {
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
    /// Opens what `--json` and `--plot` name now, so that a path that cannot be written costs no measurement.
    pub(crate) fn new(
        json: Option<&Path>,
        plot: Option<&Path>,
        is_rank_zero: bool,
    ) -> Result<Self, OutputError> {
        if !is_rank_zero {
            return Ok(Output { table: None, json: None, plot: None });
        }
        let json = json.map(Target::open).transpose()?;
        let plot = plot.map(Target::open).transpose()?;
        let is_stdout = |target: &Option<Target>| matches!(target, Some(Target::Stdout(_)));
        let table = (!is_stdout(&json) && !is_stdout(&plot)).then(io::stdout);
        Ok(Output { table, json, plot })
    }

    /// Writes what stands above a collective's rows.
    pub(crate) fn header(&mut self, config: &Config) -> Result<(), OutputError> {
        self.write(|| table::header(config))
    }

    /// Writes one row; it is seen at once.
    pub(crate) fn row(&mut self, config: &Config, row: &Row) -> Result<(), OutputError> {
        self.write(|| table::row(config, row))
    }

    /// Writes what stands below a collective's rows.
    pub(crate) fn footer(&mut self, report: &Report) -> Result<(), OutputError> {
        self.write(|| table::footer(report))
    }

    /// Writes a text in the table's place.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), OutputError> {
        self.write(|| text.to_owned())
    }

    /// Writes the JSON and the picture of the whole run.
    pub(crate) fn finish(self, report: &Report) -> Result<(), OutputError> {
        if let Some(target) = self.json {
            target.write(&json(report))?;
        }
        match self.plot {
            Some(target) => target.write(&plot::draw(report)),
            None => Ok(()),
        }
    }

    fn write(&mut self, text: impl FnOnce() -> String) -> Result<(), OutputError> {
        let Some(stdout) = &mut self.table else { return Ok(()) };
        let written = stdout.write_all(text().as_bytes()).and_then(|()| stdout.flush());
        written.map_err(|cause| failed(STDOUT, cause))
    }
}

impl Target {
    fn open(path: &Path) -> Result<Self, OutputError> {
        if path == Path::new("-") {
            return Ok(Target::Stdout(io::stdout()));
        }
        let file = File::create(path).map_err(|cause| failed(path.display(), cause))?;
        Ok(Target::File { path: path.to_owned(), file })
    }

    fn write(self, text: &str) -> Result<(), OutputError> {
        let (name, written) = match self {
            Target::Stdout(mut stdout) => {
                (STDOUT.to_owned(), stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
            }
            Target::File { path, mut file } => (path.display().to_string(), file.write_all(text.as_bytes())),
        };
        written.map_err(|cause| failed(name, cause))
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("numbers and texts are JSON") + "\n"
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
        let path = Some(Path::new("/no/such/folder/x"));
        for (json, plot) in [(path, None), (None, path)] {
            let error = Output::new(json, plot, true).unwrap_err();
            assert!(error.to_string().starts_with("/no/such/folder/x: "), "{error}");
        }
    }

    #[test]
    fn ranks_other_than_0_touch_no_file() {
        let path = Some(Path::new("/no/such/folder/x"));
        let mut output = Output::new(path, path, false).unwrap();
        output.footer(&report()).unwrap();
        output.finish(&report()).unwrap();
    }

    #[test]
    fn files_hold_the_report_and_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let (json, plot) = (folder.path().join("x.json"), folder.path().join("x.svg"));
        Output::new(Some(&json), Some(&plot), true).unwrap().finish(&report()).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(read, serde_json::to_value(report()).unwrap());
        assert_eq!(std::fs::read_to_string(plot).unwrap(), plot::draw(&report()));
    }
}
