//! The list of libraries that ldconfig makes: /etc/ld.so.cache.
//!
//! Its format since glibc 2.2: a header with the number of entries, entries of 24 bytes with the places of a name and a
//! path, and the texts, counted from the header. Before it there may be a list in an older format.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The files by the names that libraries are asked for, best first. What is cut or wrong is left out.
pub(super) fn libraries(bytes: &[u8]) -> BTreeMap<Vec<u8>, Vec<PathBuf>> {
    let mut files: BTreeMap<Vec<u8>, Vec<PathBuf>> = BTreeMap::new();
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else { return files };
    let bytes = &bytes[start..];
    let count = number(bytes, MAGIC.len()).unwrap_or(0).min(bytes.len() / ENTRY_BYTES);
    for entry in (0..count).map(|index| HEADER_BYTES + index * ENTRY_BYTES) {
        let text_at = |place: usize| text(bytes, number(bytes, entry + place)?);
        if let (Some(name), Some(path)) = (text_at(NAME_AT), text_at(PATH_AT)) {
            files.entry(name.to_vec()).or_default().push(PathBuf::from(OsStr::from_bytes(path)));
        }
    }
    files
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_ne_bytes(four)).ok()
}

fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    bytes.get(at..)?.split(|byte| *byte == 0).next()
}

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
/// Within an entry.
const NAME_AT: usize = 4;
const PATH_AT: usize = 8;
