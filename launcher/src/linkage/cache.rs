//! The list of libraries that ldconfig makes: /etc/ld.so.cache.
//!
//! Its format since glibc 2.2: a header with the number of entries, entries of 24 bytes with the places of a name and a
//! path, and the texts, counted from the header. Before it there may be a list in an older format.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The list, as it was read. Every launch asks it for a few names of a thousand, so that no index is made.
#[derive(Debug, Default)]
pub(super) struct Cache {
    bytes: Vec<u8>,
}

impl Cache {
    /// A list in this content of the file; an empty one, where there is none.
    pub(super) fn new(mut bytes: Vec<u8>) -> Cache {
        let start = bytes.windows(MAGIC.len()).position(|window| window == MAGIC);
        bytes.drain(..start.unwrap_or(bytes.len()));
        Cache { bytes }
    }

    /// The files for a library that is asked for by this name, best first. What is cut or wrong is left out.
    pub(super) fn files(&self, name: &[u8]) -> Vec<PathBuf> {
        let count = number(&self.bytes, MAGIC.len()).unwrap_or(0).min(self.bytes.len() / ENTRY_BYTES);
        let entries = (0..count).map(|index| HEADER_BYTES + index * ENTRY_BYTES);
        let text_at = |entry: usize, place: usize| text(&self.bytes, number(&self.bytes, entry + place)?);
        let named = entries.filter(|entry| text_at(*entry, NAME_AT) == Some(name));
        named
            .filter_map(|entry| text_at(entry, PATH_AT))
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .collect()
    }
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
