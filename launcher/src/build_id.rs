//! Which build of the launcher this process is.
//!
//! Head and agent must be the same build: the messages between them have no other version. The id is made of what the
//! linker wrote into the executable as its own hash of it, and of the file's length; where there is no such note, of all
//! bytes. It also names the file in the cache of a host that it was pushed to.
//!
//! It tells builds apart, and does not show that a file is undamaged.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use efarun_wire::BuildId;
use object::Endianness;
use object::elf::{ELF_NOTE_GNU, FileHeader64, NT_GNU_BUILD_ID};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};

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

/// Gives the id of an executable. Every launch does this on every node, and hashing all of the file was half of an
/// agent's processor time: 5 ms.
///
/// # Errors
///
/// When the file cannot be read.
pub fn of_file(path: &Path) -> io::Result<BuildId> {
    let file = File::open(path)?;
    let len_bytes = file.metadata()?.len();
    let mut hasher = blake3::Hasher::new();
    match linkers_id(file) {
        Some(id) => hasher.update(&id).update(&len_bytes.to_le_bytes()),
        // A linker that was told to write none, and whatever stands in for the launcher in tests.
        None => hasher.update_mmap(path)?,
    };
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    Ok(BuildId(id))
}

/// Reads the note in which the linker leaves its hash of what it has made: a few pages of the file.
fn linkers_id(file: File) -> Option<Vec<u8>> {
    let data = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, &data).ok()?;
    let mut notes = segments.iter().filter_map(|segment| segment.notes(endian, &data).ok().flatten());
    notes.find_map(|mut notes| {
        while let Ok(Some(note)) = notes.next() {
            if note.name() == ELF_NOTE_GNU && note.n_type(endian) == NT_GNU_BUILD_ID {
                return Some(note.desc().to_vec()).filter(|id| id.len() >= SHORTEST_ID_BYTES);
            }
        }
        None
    })
}

/// A linker's hash has 16 or 20 bytes; what somebody has it write instead (`--build-id=0x…`) may be anything.
const SHORTEST_ID_BYTES: usize = 16;

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

    #[test]
    fn an_executable_is_known_by_its_linkers_note_and_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("executable");
        let ours = std::fs::read("/proc/self/exe").unwrap();
        let note = linkers_id(File::open("/proc/self/exe").unwrap()).expect("the linker writes a build id");
        let at = ours.windows(note.len()).position(|bytes| bytes == note).unwrap();
        let id_of = |change: fn(&mut Vec<u8>, usize)| {
            let mut bytes = ours.clone();
            change(&mut bytes, at);
            std::fs::write(&path, bytes).unwrap();
            of_file(&path).unwrap()
        };
        let same = of_this_executable().unwrap();
        assert_eq!(id_of(|_, _| {}), same);
        assert_ne!(id_of(|bytes, at| bytes[at] ^= 1), same, "another hash of the linker's");
        assert_ne!(id_of(|bytes, _| bytes.push(0)), same, "another length");
        let is_read_in_part = id_of(|bytes, _| *bytes.last_mut().unwrap() ^= 1) == same;
        assert!(is_read_in_part, "every launch waits for this: the file is not to be read as a whole");
    }
}
