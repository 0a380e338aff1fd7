//! Where a libpmix may be that serves a program.
//!
//! One that a program's own MPI brings comes first: it is there on every node that can run the program, and of the release
//! that its ranks have. Where the program is a script's or an interpreter, its MPI is guessed from the folders beside it,
//! from LD_LIBRARY_PATH and from PATH.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::env::NameValue;
use crate::linkage::{self, Linkage};

/// What is known of a program.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Its file.
    pub file: &'a Path,
    /// What it is linked with, where that is known.
    pub linkage: Option<&'a Linkage>,
    /// The environment of its ranks.
    pub env: &'a [NameValue],
}

/// Lists the files that may serve, best first, among those that exist; the one that EFARUN_LIBPMIX names, and no other,
/// whether it exists or not.
pub fn candidates(program: Program<'_>) -> Vec<PathBuf> {
    if let Some(named) = program.value(EFARUN_LIBPMIX) {
        return vec![PathBuf::from(OsStr::from_bytes(named))];
    }
    let mut files = Vec::new();
    if let Some(linkage) = program.linkage {
        files.extend(linkage.file(LIBPMIX).map(Path::to_owned));
        let of_mpi = linkage.mpi().and_then(|(_, _, file)| file?.parent());
        files.extend(of_mpi.into_iter().flat_map(in_folder));
        files.extend(linkage.file(OPEN_PAL_4).map(Path::to_owned));
    }
    files.extend(program.folders().iter().flat_map(|folder| in_folder(folder)));
    files.extend(linkage::of_system(LIBPMIX));
    let of_system = linkage::of_system(LIBMPI);
    files.extend(of_system.iter().filter_map(|file| file.parent()).flat_map(in_folder));
    let mut seen = BTreeSet::new();
    files.retain(|file| file.is_file() && seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())));
    files
}

/// Says where [`candidates`] looks, for whoever is told that there is none.
pub fn looked_in(program: Program<'_>) -> String {
    let of_mpi = program.linkage.and_then(|linkage| linkage.mpi()?.2?.parent().map(Path::to_owned));
    let folders = of_mpi.into_iter().chain(program.folders());
    let mut seen = BTreeSet::new();
    let named: Vec<String> = folders
        .filter(|folder| seen.insert(folder.clone()))
        .map(|folder| folder.display().to_string())
        .collect();
    [named, vec!["the system's libraries".to_owned()]].concat().join(", ")
}

impl Program<'_> {
    fn value(&self, name: &str) -> Option<&[u8]> {
        let found = self.env.iter().find(|(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value.as_slice()).filter(|value| !value.is_empty())
    }

    fn list(&self, name: &str) -> Vec<PathBuf> {
        let parts = self.value(name).unwrap_or_default().split(|byte| *byte == b':');
        parts
            .filter(|part| part.starts_with(b"/"))
            .map(|part| PathBuf::from(OsStr::from_bytes(part)))
            .collect()
    }

    /// Folders in which an MPI may be that the program comes to later: that of its own installation, which a Python's
    /// virtual environment has too, those that it is told of, and those of an `mpirun` in PATH.
    fn folders(&self) -> Vec<PathBuf> {
        let of_bin = |bin: &Path| {
            let root = bin.parent().map(Path::to_owned);
            root.into_iter().flat_map(|root| [root.join("lib"), root.join("lib64")])
        };
        let prefixes = [OPAL_PREFIX, PMIX_PREFIX].into_iter().filter_map(|name| self.value(name));
        let of_prefixes = prefixes.map(|prefix| Path::new(OsStr::from_bytes(prefix)).join("lib"));
        let beside = self.file.parent().into_iter().flat_map(of_bin);
        let with_mpirun = self.list("PATH").into_iter().filter(|folder| folder.join("mpirun").is_file());
        let with_mpirun: Vec<PathBuf> = with_mpirun.collect();
        let of_mpirun = with_mpirun.iter().flat_map(|folder| of_bin(folder));
        let system = [Path::new("/lib"), Path::new("/usr/lib"), Path::new("/lib64"), Path::new("/usr/lib64")];
        let all = of_prefixes.chain(beside).chain(self.list("LD_LIBRARY_PATH")).chain(of_mpirun);
        all.filter(|folder| folder.is_dir() && !system.contains(&folder.as_path())).collect()
    }
}

/// The places that builds of Open MPI have for it: beside libmpi, in its folder of plug-ins, as a plug-in of Open MPI 4, or
/// inside its libopen-pal.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let places =
        [LIBPMIX, "openmpi/libpmix.so.2", "pmix/lib/libpmix.so.2", "openmpi/mca_pmix_pmix3x.so", OPEN_PAL_4];
    places.iter().map(|place| folder.join(place)).collect()
}

/// Names the library, in place of any that is found.
pub const EFARUN_LIBPMIX: &str = "EFARUN_LIBPMIX";
const LIBPMIX: &str = "libpmix.so.2";
const LIBMPI: &str = "libmpi.so.40";
/// That of Open MPI 5 has another number, and no PMIx in it.
const OPEN_PAL_4: &str = "libopen-pal.so.40";
const OPAL_PREFIX: &str = "OPAL_PREFIX";
const PMIX_PREFIX: &str = "PMIX_PREFIX";
