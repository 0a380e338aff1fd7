//! Programs of MPICH's and Open MPI's, compiled here.

use std::path::{Path, PathBuf};
use std::process::Command;

use efarun_tests::{Job, mpich_folder, open_mpi_folder};

/// A program, in a folder of its own.
pub(crate) struct Program {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
}

impl Program {
    /// Compiles `world.c` for MPICH.
    pub(crate) fn world() -> Program {
        Program::compiled(&mpich_folder(), "libmpi.so.12")
    }

    /// Compiles `world.c` for a release of Open MPI's.
    pub(crate) fn of_open_mpi(release: &str) -> Program {
        Program::compiled(&open_mpi_folder(release), "libmpi.so.40")
    }

    /// What the linker is told about the library is what `mpicc` tells it; that is a script or a program with the paths of
    /// another machine in it.
    fn compiled(mpi: &Path, library: &str) -> Program {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("world");
        let built = Command::new("gcc")
            .args(["-O1", "-o"])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mpi/world.c"))
            .arg("-I")
            .arg(mpi.join("include"))
            .arg(mpi.join("lib").join(library))
            .arg(format!("-Wl,-rpath,{}", mpi.join("lib").display()))
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
