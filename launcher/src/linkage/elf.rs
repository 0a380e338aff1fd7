//! What one program or library says that it needs.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{self, FileHeader64, Machine};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::read::{ReadCache, StringTable};

/// What a file needs to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) machine: Machine,
    /// The libraries, by the names that they are asked for.
    pub(super) libraries: Vec<Vec<u8>>,
    /// Folders that come before LD_LIBRARY_PATH.
    pub(super) rpath: Option<Vec<PathBuf>>,
    /// Folders that come after it.
    pub(super) runpath: Option<Vec<PathBuf>>,
}

/// Reads a file; none where it is not of a 64-bit machine and loaded dynamically.
pub(super) fn needs(path: &Path) -> Option<Needs> {
    let data = ReadCache::new(File::open(path).ok()?);
    let header = FileHeader64::<Endianness>::parse(&data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, &data).ok()?;
    let entries = segments.iter().find_map(|segment| segment.dynamic(endian, &data).ok().flatten())?;
    let value =
        |tag| entries.iter().find(|entry| entry.d_tag(endian) == tag).map(|entry| entry.d_val(endian));
    let (address, length) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
    // The address is where the table is once it is loaded.
    let start = segments.iter().find_map(|segment| {
        let first = segment.p_vaddr(endian);
        let is_here = (first..first.checked_add(segment.p_filesz(endian))?).contains(&address);
        is_here.then(|| segment.p_offset(endian).checked_add(address - first)).flatten()
    })?;
    let strings = StringTable::new(&data, start, start.checked_add(length)?);
    let text = |at: u64| strings.get(u32::try_from(at).ok()?).ok();
    let origin = path.canonicalize().ok()?.parent()?.to_owned();
    let folders = |tag| value(tag).and_then(text).map(|list| folders(list, &origin));
    let is_needed = |entry: &&elf::Dyn64<Endianness>| entry.d_tag(endian) == elf::DT_NEEDED;
    Some(Needs {
        machine: header.e_machine(endian),
        libraries: entries
            .iter()
            .filter(is_needed)
            .filter_map(|entry| text(entry.d_val(endian)))
            .map(<[u8]>::to_vec)
            .collect(),
        rpath: folders(elf::DT_RPATH),
        runpath: folders(elf::DT_RUNPATH),
    })
}

/// Cuts a list of folders; `$ORIGIN` is the folder of the file that has it.
pub(super) fn folders(list: &[u8], origin: &Path) -> Vec<PathBuf> {
    let folder = |folder: &[u8]| {
        let rest = [&b"$ORIGIN"[..], b"${ORIGIN}"].iter().find_map(|word| folder.strip_prefix(*word));
        match rest {
            Some(rest) => origin.join(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest))),
            None => PathBuf::from(OsStr::from_bytes(folder)),
        }
    };
    list.split(|byte| *byte == b':').filter(|part| !part.is_empty()).map(folder).collect()
}
