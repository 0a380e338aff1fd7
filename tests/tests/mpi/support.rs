//! The MPI libraries that tests run, and programs that are compiled for them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use efarun_tests::{Job, Need, Testbed, mpi_folder, program};

/// A library that is run as it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    /// MPICH 5.0.2.
    Mpich,
    /// Intel MPI 2021.18.1.
    Intel,
    /// Open MPI 5.0.11.
    OpenMpi5,
    /// Open MPI 4.1.8.
    OpenMpi4,
    /// The distribution's Open MPI.
    SystemOpenMpi,
}

/// Those whose ranks ask for PMIx.
pub(crate) const OF_OPEN_MPI: [Library; 2] = [Library::OpenMpi5, Library::OpenMpi4];

impl Library {
    /// What a test needs that compiles programs for it.
    pub(crate) fn need(self) -> Need {
        match self {
            Library::Mpich => Need::Mpich,
            Library::Intel => Need::IntelMpi,
            Library::OpenMpi5 | Library::OpenMpi4 => Need::OpenMpi,
            Library::SystemOpenMpi => Need::SystemOpenMpi,
        }
    }

    pub(crate) fn folder(self) -> PathBuf {
        mpi_folder(match self {
            Library::Mpich => "mpich-5.0.2",
            Library::Intel => "impi-2021.18.1",
            Library::OpenMpi5 => "openmpi-5.0.11",
            Library::OpenMpi4 => "openmpi-4.1.8",
            Library::SystemOpenMpi => "openmpi-system",
        })
    }

    /// Its libmpi.
    pub(crate) fn file(self) -> PathBuf {
        match self {
            Library::Mpich | Library::Intel => self.folder().join("lib/libmpi.so.12"),
            Library::OpenMpi5 | Library::OpenMpi4 => self.folder().join("lib/libmpi.so.40"),
            Library::SystemOpenMpi => {
                let link = self.folder().join("usr/lib/libmpi.so.40");
                let file = std::fs::read_link(&link).expect("scripts/fetch-mpi makes it a link");
                link.with_file_name(file)
            }
        }
    }

    fn libraries(self) -> PathBuf {
        self.file().parent().expect("a file is in a folder").to_owned()
    }

    /// The folder of its mpi.h. Intel's, which is that of MPICH's interface, is in no package of libraries.
    fn headers(self) -> PathBuf {
        match self {
            Library::Intel => Library::Mpich.folder().join("include"),
            Library::SystemOpenMpi => self.libraries().join("openmpi/include"),
            _ => self.folder().join("include"),
        }
    }

    /// The Python whose mpi4py opens it.
    pub(crate) fn python(self) -> PathBuf {
        self.folder().join("bin/python")
    }

    /// A job of as many ranks as are asked for, whose programs find this library and one another: hosts that are
    /// namespaces have no network card, and a folder of packages has been moved.
    pub(crate) fn job<'a>(self, job: Job<'a>) -> Job<'a> {
        let job = job.options(["--oversubscribe"]).deadline(PATIENCE);
        let prefix = |folder: PathBuf| format!("OPAL_PREFIX={}", folder.display());
        match self {
            Library::Mpich | Library::Intel => job.options(["-x", "FI_PROVIDER=tcp"]),
            Library::OpenMpi5 | Library::OpenMpi4 => job.options(["-x", &prefix(self.folder())]),
            Library::SystemOpenMpi => {
                let libraries = format!("LD_LIBRARY_PATH={}", self.libraries().display());
                job.options(["-x", &prefix(self.folder().join("usr")), "-x", &libraries])
            }
        }
    }
}

/// A job on hosts, with these options.
pub(crate) fn on<'a>(testbed: &'a Testbed, options: &[&str]) -> Job<'a> {
    Job::on(testbed, program!("efarun-under-test")).options(options)
}

/// A job on this machine, with these options.
pub(crate) fn here<'a>(options: &[&str]) -> Job<'a> {
    Job::here(program!("efarun-under-test")).options(options)
}

/// What world.c, world.py say where all is right.
pub(crate) fn one_world(ranks: u32, nodes: u32) -> String {
    format!("world of {ranks} ranks on {nodes} nodes, 0 wrong\n")
}

/// A program, in a folder of its own.
pub(crate) struct Program {
    _folder: tempfile::TempDir,
    pub(crate) path: PathBuf,
    library: Library,
}

impl Program {
    /// Compiles `world.c` for a library.
    ///
    /// What the linker is told about the library is what `mpicc` tells it; that is a script or a program with the paths of
    /// another machine in it.
    pub(crate) fn of(library: Library) -> Program {
        Program::with_libraries_in(library, &library.libraries())
    }

    /// The same, but looking for it in another folder when it is run.
    pub(crate) fn with_libraries_in(library: Library, libraries: &Path) -> Program {
        Program::compiled("world.c", library, libraries)
    }

    /// Compiles another source of this folder.
    pub(crate) fn of_source(source: &str, library: Library) -> Program {
        Program::compiled(source, library, &library.libraries())
    }

    /// Whether the mpirun that was published with the library starts ranks of it here, with such a variable. Only the
    /// distribution's is asked, whose parts are of several releases; of the others it is taken to be so.
    pub(crate) fn starts_by_its_own_mpirun(&self, variable: &str) -> bool {
        let Library::SystemOpenMpi = self.library else { return true };
        let (prefix, libraries) = (self.library.folder().join("usr"), self.library.libraries());
        let ended = Command::new("timeout")
            .arg("60")
            .arg(prefix.join("bin/orterun"))
            .args(["-n", "2", "--oversubscribe", "--allow-run-as-root", "-x"])
            .arg(variable)
            .arg(&self.path)
            .args(["1", "names"])
            .envs([("OPAL_PREFIX", &prefix), ("LD_LIBRARY_PATH", &libraries)])
            .output()
            .expect("timeout runs");
        ended.status.success()
    }

    fn compiled(source: &str, library: Library, libraries: &Path) -> Program {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("world");
        let built = Command::new("gcc")
            .args(["-O1", "-o"])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mpi/").to_owned() + source)
            .arg("-I")
            .arg(library.headers())
            .arg(library.file())
            .arg(format!("-Wl,-rpath,{}", libraries.display()))
            .arg("-Wl,--allow-shlib-undefined")
            .output()
            .expect("gcc was required");
        assert!(built.status.success(), "gcc: {}", String::from_utf8_lossy(&built.stderr));
        Program { _folder: folder, path, library }
    }

    /// A job of this program with these arguments.
    pub(crate) fn job<'a>(&self, job: Job<'a>, args: &[&str]) -> Job<'a> {
        self.library.job(job).program(&self.path, args)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What is left of the patience of a job whose ranks spin, beside whatever else the machine has to do.
const PATIENCE: Duration = Duration::from_secs(240);
