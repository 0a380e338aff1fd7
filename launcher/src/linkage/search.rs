//! Where the loader looks for a library.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use object::elf::Machine;

use super::cache::Cache;
use super::elf::{self, Needs};

/// The folders that are the same for all of a program's libraries.
#[derive(Debug)]
pub(super) struct Search {
    library_path: Vec<PathBuf>,
    cached: Cache,
    machine: Machine,
}

impl Search {
    /// The folders for a program with this environment.
    pub(super) fn new(env: &[(Vec<u8>, Vec<u8>)], machine: Machine) -> Search {
        let list = env.iter().find(|(name, _)| name == b"LD_LIBRARY_PATH").map(|(_, value)| value.as_slice());
        let library_path = elf::folders(list.unwrap_or_default(), Path::new("/"));
        Search { library_path, cached: cached(), machine }
    }

    /// Finds a library, and what it needs itself. Files for other machines are passed over, as the loader does.
    pub(super) fn find(
        &self,
        name: &[u8],
        rpath: &[PathBuf],
        runpath: &[PathBuf],
    ) -> Option<(PathBuf, Needs)> {
        let as_path = Path::new(OsStr::from_bytes(name));
        let usable = |path: PathBuf| {
            let needs = elf::needs(&path)?;
            (needs.machine == self.machine).then_some((path, needs))
        };
        if name.contains(&b'/') {
            return usable(as_path.to_owned());
        }
        let mut before =
            rpath.iter().chain(&self.library_path).chain(runpath).map(|folder| folder.join(as_path));
        let cached = || self.cached.files(name);
        let system = SYSTEM_FOLDERS.iter().map(|folder| Path::new(folder).join(as_path));
        before.find_map(usable).or_else(|| cached().into_iter().chain(system).find_map(usable))
    }
}

/// What ldconfig has found.
pub(super) fn cached() -> Cache {
    std::fs::read(LIST).map(Cache::new).unwrap_or_default()
}

const LIST: &str = "/etc/ld.so.cache";
const SYSTEM_FOLDERS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
