//! Programs of MPICH's, compiled here.

use std::path::{Path, PathBuf};
use std::process::Command;

use efarun_tests::{Job, mpich_folder};

/// A program of MPICH's, in a folder of its own.
pub(crate) struct Program {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Program {
    /// Compiles `world.c`. What the linker is told about its library is what `mpicc` tells it; that is a script with the
    /// paths of another machine in it.
    pub(crate) fn world() -> Program {
        let mpich = mpich_folder();
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("world");
        let built = Command::new("gcc")
            .args(["-O1", "-o"])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mpi/world.c"))
            .arg("-I")
            .arg(mpich.join("include"))
            .arg(mpich.join("lib/libmpi.so.12"))
            .arg(format!("-Wl,-rpath,{}", mpich.join("lib").display()))
            .arg("-Wl,--allow-shlib-undefined")
            .output()
            .expect("gcc was required");
        assert!(built.status.success(), "gcc: {}", String::from_utf8_lossy(&built.stderr));
        Program { _folder: folder, path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What MPICH needs on hosts that are namespaces: they have one name, and no network card.
pub(crate) fn as_on_one_network(job: Job<'_>) -> Job<'_> {
    job.options(["-x", "FI_PROVIDER=tcp", "--oversubscribe"])
}
