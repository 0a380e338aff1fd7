//! Which MPI library a program is linked with, as this node's loader would find it.
//!
//! Given a program's file and the environment of its ranks, [`mpi_library`] follows what it and its libraries need, in the
//! order of glibc's loader: RPATH, LD_LIBRARY_PATH, RUNPATH, ld.so.cache, the system's folders. It only reads files, and
//! knows nothing of what a program opens by itself while it runs, nor of what a script starts: those are judged when their
//! ranks connect to PMI. A program that is not for this kind of machine, or is linked statically, needs nothing here.

mod cache;
mod elf;
mod search;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use elf::Needs;
use search::Search;

/// An MPI library that a program needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MpiLibrary {
    /// Whose it is, by the number of its interface.
    pub kind: MpiKind,
    /// The name that the program needs.
    pub name: String,
    /// The file, where there is one.
    pub file: Option<PathBuf>,
}

/// What an MPI library asks its launcher for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MpiKind {
    /// MPICH, Intel MPI, MVAPICH and others of MPICH's family: PMI.
    Mpich,
    /// Open MPI: PMIx.
    OpenMpi,
}

/// Finds the MPI library that a program needs; none where it needs none, or nothing can be said about it.
pub fn mpi_library(program: &Path, env: &[(Vec<u8>, Vec<u8>)]) -> Option<MpiLibrary> {
    let program_needs = elf::needs(program)?;
    let search = Search::new(env, program_needs.machine);
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
            if let Some(kind) = kind_of(name) {
                let name = String::from_utf8_lossy(name).into_owned();
                return Some(MpiLibrary { kind, name, file: found.map(|(file, _)| file) });
            }
            if let Some((_, needs)) = found {
                queue.push_back((needs, rpath.clone()));
            }
        }
    }
    None
}

/// Tells libraries apart by the number of their interface, which MPICH's family (12, and its own older names) and Open MPI
/// (20 and 40) have agreed not to share.
fn kind_of(name: &[u8]) -> Option<MpiKind> {
    let name = std::str::from_utf8(name).ok()?;
    match name {
        "libmpi.so.12" | "libmpi.so.10" | "libmpich.so.12" | "libmpich.so.10" | "libmpi_abi.so.1" => {
            Some(MpiKind::Mpich)
        }
        "libmpi.so.40" | "libmpi.so.20" => Some(MpiKind::OpenMpi),
        _ => None,
    }
}

/// A bound for a program that is made to be followed for ever.
const MAX_LIBRARIES: usize = 4096;

#[cfg(test)]
mod tests;
