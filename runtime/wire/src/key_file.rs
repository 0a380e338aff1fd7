//! Reading a key that only its owner may know: 64 hexadecimal digits in a file that nobody else can read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::secure::{LinkKey, ParseKeyError};

/// What is wrong with a key file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is a folder, a pipe, …
    #[error("it is not a regular file")]
    NotAFile,
    /// Others than its owner may read or write it.
    #[error(
        "its mode is {mode:04o}, so others can read or change it; `chmod 600` it, and make a new key if it matters"
    )]
    Open {
        /// The permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("it belongs to user {owner}, and this process runs as user {user}")]
    Foreign {
        /// Its owner.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// It holds no key.
    #[error(transparent)]
    Parse(#[from] ParseKeyError),
}

/// Reads a key file, and refuses one that others can read.
///
/// # Errors
///
/// What is wrong with the file; which it is, the caller knows.
pub fn read(path: &Path) -> Result<LinkKey, KeyFileError> {
    // What is checked is what is read: the open file, not its name. A pipe must not be waited for.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile);
    }
    let user = nix::unistd::geteuid().as_raw();
    if metadata.uid() != user && metadata.uid() != 0 {
        return Err(KeyFileError::Foreign { owner: metadata.uid(), user });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Open { mode });
    }
    // At its final size from the start, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE_BYTES));
    file.take(MAX_KEY_FILE_BYTES as u64).read_to_string(&mut text)?;
    Ok(LinkKey::from_hex(&text)?)
}

const MAX_KEY_FILE_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn file_with(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn a_private_file_with_64_digits_is_a_key() {
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        for mode in [0o600, 0o400] {
            let key = read(file_with(&format!("{digits}\n"), mode).path()).unwrap();
            assert_eq!(key, LinkKey::from_hex(&digits).unwrap());
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_write_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o777] {
            let error = read(file_with(&"00".repeat(32), mode).path()).unwrap_err();
            assert!(matches!(error, KeyFileError::Open { mode: found } if found == mode), "{error}");
            let error = error.to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_told() {
        assert!(matches!(read(file_with("abc", 0o600).path()), Err(KeyFileError::Parse(_))));
        let missing = read(Path::new("/nonexistent/key")).unwrap_err().to_string();
        assert!(missing.contains("No such file"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(KeyFileError::NotAFile)));
    }
}
