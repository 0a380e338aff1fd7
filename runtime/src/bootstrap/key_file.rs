//! Reading a key that only its owner may know.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use efarun_wire::secure::LinkKey;
use zeroize::Zeroizing;

use super::error::{BootstrapError, KeyFileError};

/// Reads a key file, and refuses one that others can read.
pub(super) fn read(path: &Path) -> Result<LinkKey, BootstrapError> {
    read_checked(path).map_err(|cause| BootstrapError::KeyFile { path: path.to_owned(), cause })
}

fn read_checked(path: &Path) -> Result<LinkKey, KeyFileError> {
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
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        std::fs::set_permissions(file.path(), Permissions::from_mode(mode)).expect("its mode");
        file
    }

    #[test]
    fn a_private_file_with_64_digits_is_a_key() {
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        for mode in [0o600, 0o400] {
            let key = read(file_with(&format!("{digits}\n"), mode).path()).expect("a key");
            assert_eq!(key, LinkKey::from_hex(&digits).expect("the same digits"));
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_write_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o777] {
            let error = read(file_with(&"00".repeat(32), mode).path()).expect_err("refused").to_string();
            assert!(error.contains(&format!("{mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_named() {
        let short = file_with("abc", 0o600);
        let error = read(short.path()).expect_err("too short").to_string();
        assert!(error.starts_with(&format!("EFARUN_KEY_FILE={}: ", short.path().display())), "{error}");
        assert!(
            read(Path::new("/nonexistent/key")).expect_err("missing").to_string().contains("No such file")
        );
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read(folder.path()).expect_err("a folder").to_string().contains("not a regular file"));
    }
}
