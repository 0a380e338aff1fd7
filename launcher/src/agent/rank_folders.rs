//! The folders and files that ranks of torchrun's lines have on their node.
//!
//! Made from the head's plan before ranks start. A temporary folder is this user's alone and goes with the agent, unless
//! it holds logs. What a rank left in its error file is untrusted: it is read only where it is a plain file, and only so
//! far.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use efarun_wire::message::{LaunchPlan, Stream};
use efarun_wire::torchrun::{MAX_ERROR_FILE_BYTES, RankFolders, StreamWay};

use crate::keeper::protocol::ForkOrder;

/// The folders of one attempt.
#[derive(Debug)]
pub(super) struct Folders {
    plan: RankFolders,
    attempt: PathBuf,
    /// Removed with this.
    temporary: Option<PathBuf>,
}

/// A file or folder that cannot be made.
#[derive(Debug)]
pub(super) struct Unmade {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl Folders {
    /// Makes the folders of all ranks of the plan; none where it asks for none.
    ///
    /// # Errors
    ///
    /// The first folder that cannot be made.
    pub(super) fn create(launch: &LaunchPlan) -> Result<Option<Folders>, Unmade> {
        let Some(plan) = launch.folders.clone() else { return Ok(None) };
        let (base, temporary) = match &plan.folder {
            Some(folder) => {
                let wdir = launch.apps.first().map_or(&b"/"[..], |app| &app.wdir);
                (Path::new(OsStr::from_bytes(wdir)).join(OsStr::from_bytes(folder)), None)
            }
            None => {
                let name = plan.run_folder.rsplit('_').next().unwrap_or_default();
                let base = std::env::temp_dir().join(format!("torchelastic_{name}"));
                make_own(&base)?;
                let temporary = (!plan.has_logs()).then(|| base.clone());
                (base, temporary)
            }
        };
        let attempt = base.join(&plan.run_folder).join(format!("attempt_{}", plan.attempt));
        let folders = Folders { plan, attempt, temporary };
        for rank in &launch.ranks {
            let path = folders.of(rank.local_rank);
            fs::create_dir_all(&path).map_err(|source| Unmade { path, source })?;
        }
        Ok(Some(folders))
    }

    /// Tells a rank where its error file is, and puts its local rank into arguments that ask for it.
    pub(super) fn complete(&self, order: &mut ForkOrder, local_rank: u32) {
        order.env.retain(|(name, _)| name != ERROR_FILE);
        order.env.push((ERROR_FILE.to_vec(), self.error_file(local_rank).into_os_string().into_vec()));
        for arg in &mut order.args {
            *arg = replaced(arg, LOCAL_RANK_MACRO, local_rank.to_string().as_bytes());
        }
    }

    /// Returns where a stream goes.
    pub(super) fn way(&self, local_rank: u32, stream: Stream) -> &StreamWay {
        let ways = self.plan.ways.get(local_rank as usize);
        ways.map_or(&StreamWay::Shown, |ways| match stream {
            Stream::Stdout => &ways.stdout,
            Stream::Stderr => &ways.stderr,
        })
    }

    /// Makes the file of a stream.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub(super) fn log(&self, local_rank: u32, stream: Stream) -> Result<File, Unmade> {
        let name = if stream == Stream::Stdout { "stdout.log" } else { "stderr.log" };
        let path = self.of(local_rank).join(name);
        File::create(&path).map_err(|source| Unmade { path, source })
    }

    /// Reads what a rank wrote to its error file; none where there is nothing.
    pub(super) fn error(&self, local_rank: u32) -> Option<Vec<u8>> {
        // A pipe in its place must not be waited for.
        let mut options = OpenOptions::new();
        let file =
            options.read(true).custom_flags(libc::O_NONBLOCK).open(self.error_file(local_rank)).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_ERROR_FILE_BYTES as u64).read_to_end(&mut bytes).ok()?;
        (!bytes.is_empty()).then_some(bytes)
    }

    /// Returns the folder of the attempt, where the user finds logs.
    pub(super) fn place_of_logs(&self) -> Option<&Path> {
        self.plan.has_logs().then_some(&self.attempt)
    }

    /// Says whether the user knows where that is: below a folder that he named.
    pub(super) fn is_temporary(&self) -> bool {
        self.plan.folder.is_none()
    }

    fn of(&self, local_rank: u32) -> PathBuf {
        self.attempt.join(local_rank.to_string())
    }

    fn error_file(&self, local_rank: u32) -> PathBuf {
        self.of(local_rank).join("error.json")
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        if let Some(folder) = &self.temporary {
            // What is left of it is a few empty folders in the system's place for such things.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        result.extend_from_slice(&rest[..at]);
        result.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    result.extend_from_slice(rest);
    result
}

const ERROR_FILE: &[u8] = b"TORCHELASTIC_ERROR_FILE";

/// What torchrun replaces in arguments by the local rank.
const LOCAL_RANK_MACRO: &[u8] = b"${local_rank}";

/// Makes a folder that is nobody else's. One that an earlier attempt has made is as good.
fn make_own(path: &Path) -> Result<(), Unmade> {
    let unmade = |source| Unmade { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path).map_err(unmade)?;
            let is_own = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
            if is_own { Ok(()) } else { Err(unmade(error)) }
        }
        made => made.map_err(unmade),
    }
}

/// What a stream that is shown and kept passes through: its bytes go into the file as they are, and on with a prefix
/// before each line.
#[derive(Debug)]
pub(super) struct Tee {
    file: Option<File>,
    prefix: Vec<u8>,
    is_within_line: bool,
}

impl Tee {
    pub(super) fn new(file: File, prefix: Vec<u8>) -> Tee {
        Tee { file: Some(file), prefix, is_within_line: false }
    }

    /// Writes bytes to the file and returns what is to be shown. A file that cannot be written to is given up; its
    /// error comes once.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, Option<io::Error>) {
        let written = self.file.as_mut().map_or(Ok(()), |file| file.write_all(bytes));
        if written.is_err() {
            self.file = None;
        }
        let mut shown = Vec::with_capacity(bytes.len() + self.prefix.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.is_within_line {
                shown.extend_from_slice(&self.prefix);
            }
            shown.extend_from_slice(line);
            self.is_within_line = !line.ends_with(b"\n");
        }
        (shown, written.err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_rank_is_put_where_arguments_ask_for_it() {
        assert_eq!(replaced(b"--r=${local_rank},${local_rank}$x", LOCAL_RANK_MACRO, b"12"), b"--r=12,12$x");
        assert_eq!(replaced(b"${local", LOCAL_RANK_MACRO, b"1"), b"${local");
    }

    #[test]
    fn a_teed_line_that_comes_in_pieces_has_one_prefix_and_none_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout.log");
        let mut tee = Tee::new(File::create(&path).unwrap(), b"[default0]:".to_vec());
        let shown: Vec<u8> =
            [&b"a"[..], b"b\nc\n", b"", b"d"].iter().flat_map(|part| tee.pass(part).0).collect();
        assert_eq!(shown, b"[default0]:ab\n[default0]:c\n[default0]:d");
        assert_eq!(fs::read(&path).unwrap(), b"ab\nc\nd");
    }

    #[test]
    fn somebody_elses_name_for_the_temporary_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("torchelastic_x");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert_eq!(make_own(&link).unwrap_err().path, link);
        let own = folder.path().join("own");
        make_own(&own).unwrap();
        make_own(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
    }
}
