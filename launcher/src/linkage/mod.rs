//! Which libraries a program is linked with, its MPI library before all, as this node's loader would find them.
//!
//! Given a program's file and the environment of its ranks, [`linkage`] follows what it and its libraries need, in the
//! order of glibc's loader: RPATH, LD_LIBRARY_PATH, RUNPATH, ld.so.cache, the system's folders. It only reads files, and
//! knows nothing of what a program opens by itself while it runs, nor of what a script starts: those are judged when their
//! ranks connect. A program that is not for this kind of machine, or is linked statically, needs nothing here.

mod cache;
mod elf;
mod search;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use elf::Needs;
use search::Search;

/// What a program is linked with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Linkage {
    /// All of it, nearest first: the names that are needed, and the files, where there are such.
    pub libraries: Vec<(String, Option<PathBuf>)>,
}

/// What an MPI library asks its launcher for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MpiKind {
    /// MPICH, Intel MPI, MVAPICH and others of MPICH's family: PMI.
    Mpich,
    /// Open MPI: PMIx.
    OpenMpi,
}

/// Follows what a program needs; none where nothing can be said about it.
pub fn linkage(program: &Path, env: &[(Vec<u8>, Vec<u8>)]) -> Option<Linkage> {
    let program_needs = elf::needs(program)?;
    let search = Search::new(env, program_needs.machine);
    let mut linkage = Linkage::default();
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut queue: VecDeque<(Needs, Vec<PathBuf>)> = VecDeque::from([(program_needs, Vec::new())]);
    while let Some((needs, inherited)) = queue.pop_front() {
        // The RPATH of whoever loads a library holds for it too, unless it has a RUNPATH.
        let rpath: Vec<PathBuf> = match needs.runpath {
            Some(_) => Vec::new(),
            None => needs.rpath.iter().flatten().cloned().chain(inherited).collect(),
        };
        for name in &needs.libraries {
            if seen.len() >= MAX_LIBRARIES || !seen.insert(name.clone()) {
                continue;
            }
            let found = search.find(name, &rpath, needs.runpath.as_deref().unwrap_or_default());
            let file = found.as_ref().map(|(file, _)| file.clone());
            linkage.libraries.push((String::from_utf8_lossy(name).into_owned(), file));
            if let Some((_, needs)) = found {
                queue.push_back((needs, rpath.clone()));
            }
        }
    }
    Some(linkage)
}

/// Finds the libraries of this name that the system's loader knows, without any program's own folders.
pub fn of_system(name: &str) -> Vec<PathBuf> {
    search::cached().files(name.as_bytes())
}

impl Linkage {
    /// The MPI library: whose it is, the name that is needed, and the file.
    pub fn mpi(&self) -> Option<(MpiKind, &str, Option<&Path>)> {
        self.libraries.iter().find_map(|(name, file)| Some((kind_of(name)?, name.as_str(), file.as_deref())))
    }

    /// The file of the first library whose name begins so.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.libraries.iter().find(|(needed, _)| needed.starts_with(name))?.1.as_deref()
    }
}

/// Tells libraries apart by the number of their interface, which MPICH's family (12, and its own older names) and Open MPI
/// (20 and 40) have agreed not to share.
fn kind_of(name: &str) -> Option<MpiKind> {
    match name {
        "libmpi.so.12" | "libmpi.so.10" | "libmpich.so.12" | "libmpich.so.10" | "libmpi_abi.so.1" => {
            Some(MpiKind::Mpich)
        }
        "libmpi.so.40" | "libmpi.so.20" => Some(MpiKind::OpenMpi),
        _ => None,
    }
}

/// Whose library a file is, by its name, which may say more of its release than programs ask for: `libmpi.so.40.30.7`.
pub fn kind_of_file(name: &str) -> Option<MpiKind> {
    let (stem, release) = name.split_once(".so.")?;
    let interface = release.split('.').next()?;
    kind_of(&format!("{stem}.so.{interface}"))
}

/// A bound for a program that is made to be followed for ever.
const MAX_LIBRARIES: usize = 4096;

#[cfg(test)]
mod tests;
