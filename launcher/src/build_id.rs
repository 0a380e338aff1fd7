//! Which build of the launcher this process is.
//!
//! Head and agent must be the same build: the messages between them have no other version. The id is a hash of the
//! executable file, so it also names the file in the cache of a host that it was pushed to.

use std::fs::File;
use std::io;
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
    let id = of_reader(File::open("/proc/self/exe")?)?;
    Ok(*ID.get_or_init(|| id))
}

/// Gives the id of an executable's bytes.
///
/// # Errors
///
/// Whatever reading gives.
pub fn of_reader(bytes: impl io::Read) -> io::Result<BuildId> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(bytes)?;
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    Ok(BuildId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_byte_is_another_build() {
        let ids = [&b"abc"[..], b"abcd"].map(|bytes| of_reader(bytes).expect("memory can be read"));
        assert_ne!(ids[0], ids[1]);
    }
}
