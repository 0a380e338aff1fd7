//! Which build of the launcher this process is.
//!
//! Head and agent must be the same build: the messages between them have no other version. The id is a hash of the
//! executable file, so it also names the file in the cache of a host that it was pushed to.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use efarun_wire::BuildId;

/// Gives the id of the executable that this process runs, also when its file has been replaced or deleted since.
///
/// The file is read once per process; later calls are free.
///
/// # Errors
///
/// When `/proc/self/exe` cannot be read.
pub fn of_this_executable() -> io::Result<BuildId> {
    static ID: OnceLock<BuildId> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(*id);
    }
    let id = of_file(Path::new("/proc/self/exe"))?;
    Ok(*ID.get_or_init(|| id))
}

/// Gives the id of an executable. It is mapped, not read: every launch does this on every node, and copying costs more
/// than the hash.
///
/// # Errors
///
/// When the file cannot be read.
pub fn of_file(path: &Path) -> io::Result<BuildId> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap(path)?;
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    Ok(BuildId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_byte_is_another_build() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("executable");
        let ids = [100_000, 100_001].map(|len| {
            std::fs::write(&path, vec![7; len]).unwrap();
            of_file(&path).unwrap()
        });
        assert_ne!(ids[0], ids[1]);
    }
}
