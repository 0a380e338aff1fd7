//! Files of `--output-filename`: one per rank and stream, in folders as Open MPI 4.1 makes them.
//!
//! Given a folder and the number of ranks, [`RankFiles::create`] makes `DIR/1/rank.N/stdout` and `…/stderr` at once, so
//! that a rank that writes nothing has empty files, and a folder that cannot be written to is known before anything
//! runs. They are the head's, not the nodes'. What is written is what the terminal would get. A file that cannot be
//! written to any more is given up and named once; the job goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use efarun_wire::Rank;
use efarun_wire::message::Stream;

/// All files of a job.
#[derive(Debug)]
pub struct RankFiles {
    folder: PathBuf,
    digits: usize,
    /// Ranks below this one had their files from the start.
    made_for: u32,
    /// Those of ranks that another rank has asked for are made with their first byte.
    made_later: BTreeSet<(Rank, bool)>,
    open: BTreeMap<(Rank, bool), File>,
    /// Those whose last byte was no end of line.
    unfinished: BTreeMap<(Rank, bool), bool>,
    failed: BTreeMap<(Rank, bool), ()>,
}

/// A file, or its folder, that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", .path.display())]
pub struct FilesError {
    /// What could not be made.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl RankFiles {
    /// Makes the files of this many ranks, and empties those that are there. With `by_job` a folder named for the job,
    /// which is always 1, lies between. Without `stderr` ranks write both streams to the first.
    ///
    /// # Errors
    ///
    /// The first folder or file that cannot be made.
    pub fn create(
        folder: &Path,
        by_job: bool,
        stderr: bool,
        world_size: u32,
    ) -> Result<RankFiles, FilesError> {
        let folder = if by_job { folder.join("1") } else { folder.to_owned() };
        // Open MPI's width: the digits of the number of ranks, not of the last one.
        let digits = world_size.to_string().len();
        let files = RankFiles {
            folder,
            digits,
            made_for: world_size,
            made_later: BTreeSet::new(),
            open: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            failed: BTreeMap::new(),
        };
        for rank in (0..world_size).map(Rank) {
            for stream in [Stream::Stdout, Stream::Stderr].into_iter().take(if stderr { 2 } else { 1 }) {
                let path = files.path(rank, stream);
                let made = path.parent().map_or(Ok(()), fs::create_dir_all);
                let made = made.and_then(|()| File::create(&path));
                made.map_err(|source| FilesError { path, source })?;
            }
        }
        Ok(files)
    }

    /// Says whether the next byte continues a line.
    pub(super) fn is_line_open(&self, rank: Rank, stream: Stream) -> bool {
        self.unfinished.get(&key(rank, stream)).copied().unwrap_or(false)
    }

    /// Adds bytes to a rank's file. Gives the error of a file that is given up with this.
    pub(super) fn write(&mut self, rank: Rank, stream: Stream, bytes: &[u8]) -> Option<FilesError> {
        let key = key(rank, stream);
        let last = bytes.last()?;
        if self.failed.contains_key(&key) {
            return None;
        }
        self.unfinished.insert(key, *last != b'\n');
        match self.file(rank, stream).and_then(|file| file.write_all(bytes)) {
            Ok(()) => None,
            Err(source) => {
                self.open.remove(&key);
                self.failed.insert(key, ());
                Some(FilesError { path: self.path(rank, stream), source })
            }
        }
    }

    fn file(&mut self, rank: Rank, stream: Stream) -> io::Result<&mut File> {
        let key = key(rank, stream);
        if !self.open.contains_key(&key) {
            if self.open.len() >= OPEN_FILES {
                self.open.clear();
            }
            let path = self.path(rank, stream);
            if rank.0 >= self.made_for && self.made_later.insert(key) {
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                File::create(&path)?;
            }
            let file = OpenOptions::new().append(true).open(path)?;
            self.open.insert(key, file);
        }
        Ok(self.open.get_mut(&key).expect("it has just been opened"))
    }

    fn path(&self, rank: Rank, stream: Stream) -> PathBuf {
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let digits = self.digits;
        self.folder.join(format!("rank.{:0digits$}", rank.0)).join(name)
    }
}

fn key(rank: Rank, stream: Stream) -> (Rank, bool) {
    (rank, stream == Stream::Stderr)
}

/// How many files are kept open: below the 1,024 that a process may have open by default.
const OPEN_FILES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn folders_are_open_mpis() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = RankFiles::create(folder.path(), true, true, 10).unwrap();
        assert!(files.write(Rank(3), Stream::Stderr, b"oops").is_none());
        assert!(files.is_line_open(Rank(3), Stream::Stderr) && !files.is_line_open(Rank(3), Stream::Stdout));
        assert!(files.write(Rank(3), Stream::Stderr, b" again\n").is_none());
        assert_eq!(text(folder.path().join("1/rank.03/stderr")), "oops again\n");
        assert_eq!(text(folder.path().join("1/rank.09/stdout")), "", "a silent rank has its files");
        let other = RankFiles::create(&folder.path().join("x"), false, false, 9).unwrap();
        assert!(
            other.path(Rank(8), Stream::Stdout).exists() && !other.path(Rank(8), Stream::Stderr).exists()
        );
        assert!(folder.path().join("x/rank.8/stdout").exists());
    }

    #[test]
    fn more_ranks_than_open_files_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ranks = u32::try_from(OPEN_FILES).unwrap() + 3;
        let mut files = RankFiles::create(folder.path(), false, false, ranks).unwrap();
        for turn in [&b"one\n"[..], b"two\n"] {
            assert!((0..ranks).all(|rank| files.write(Rank(rank), Stream::Stdout, turn).is_none()));
        }
        assert!((0..ranks).all(|rank| text(files.path(Rank(rank), Stream::Stdout)) == "one\ntwo\n"));
    }

    #[test]
    fn folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = RankFiles::create(&file.path().join("x"), true, true, 1).unwrap_err();
        assert!(error.path.starts_with(file.path()), "{error}");
    }
}
