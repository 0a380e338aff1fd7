//! What a test needs beyond cargo, and what happens where it is missing.
//!
//! A test that cannot run prints one line, `SKIPPED: test: what is missing`, and passes; `scripts/test` counts these
//! lines. Where `EFARUN_TEST_REQUIRE` names the need, it fails instead.

use std::env;
use std::path::{Path, PathBuf};

use crate::cgroup::MemoryCgroup;
use crate::exec_stall::ExecStall;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Hosts from namespaces: root, iproute2, sshd.
    Testbed,
    /// The distribution's libfabric 1.x.
    Libfabric1,
    /// libfabric 2.5.1, by `scripts/fetch-libfabric`.
    Libfabric2,
    /// The login shells that people have: zsh, csh, tcsh, fish, ksh.
    Shells,
    /// A library that shows programs another time.
    Faketime,
    /// What soft EFA devices need beside our own library: libfabric 2.5.1, the libraries that its EFA provider names,
    /// and libfabric's tools.
    SoftEfa,
    /// A cgroup with a limit of memory.
    MemoryCgroup,
    /// A kernel that asks before it runs a program.
    ExecStall,
    /// Two CPUs, for ranks that are bound to one each.
    TwoCores,
    /// A `python3` with torch.
    Torch,
    /// MPICH 5, by `scripts/fetch-libfabric --mpich`, and a C compiler for its programs.
    Mpich,
    /// Open MPI 4 and 5, by `scripts/fetch-mpi`, and a C compiler for their programs.
    OpenMpi,
    /// The distribution's Open MPI, by `scripts/fetch-mpi`, and a C compiler for its programs.
    SystemOpenMpi,
    /// Intel MPI, by `scripts/fetch-mpi`, the headers of MPICH, and a C compiler for its programs.
    IntelMpi,
    /// mpi4py beside every MPI that is there, by `scripts/fetch-mpi4py`.
    Mpi4py,
    /// libfabric 1.22 and MPICH 5, by `scripts/fetch-libfabric`, for soft EFA devices.
    SoftEfaPeers,
}

impl Need {
    /// Its name in `EFARUN_TEST_REQUIRE`.
    pub fn name(self) -> &'static str {
        match self {
            Need::Testbed => "testbed",
            Need::Libfabric1 | Need::Libfabric2 => "libfabric",
            Need::Shells => "shells",
            Need::Faketime => "faketime",
            Need::MemoryCgroup => "memory-cgroup",
            Need::ExecStall => "exec-stall",
            Need::TwoCores => "cores",
            Need::SoftEfa | Need::SoftEfaPeers => "soft-efa",
            Need::Torch => "torch",
            Need::Mpich => "mpich",
            Need::OpenMpi => "openmpi",
            Need::SystemOpenMpi => "openmpi-system",
            Need::IntelMpi => "impi",
            Need::Mpi4py => "mpi4py",
        }
    }

    /// What is missing here for it, as a lowercase fragment.
    fn lack(self) -> Option<String> {
        match self {
            Need::Testbed if !nix::unistd::geteuid().is_root() => Some("making hosts needs root".to_owned()),
            Need::Testbed => lacking_command(&TESTBED_TOOLS),
            Need::Libfabric1 => {
                (!has_system_libfabric()).then(|| "there is no libfabric.so.1 here".to_owned())
            }
            Need::Libfabric2 => libfabric_2_folder().err(),
            Need::Shells => lacking_command(&SHELLS),
            Need::Faketime => faketime_library().err(),
            Need::TwoCores => {
                let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                (cpus < 2).then(|| "there is one CPU".to_owned())
            }
            Need::MemoryCgroup => MemoryCgroup::lack(),
            Need::ExecStall => ExecStall::lack(),
            Need::Torch => (!has_python_module("torch"))
                .then(|| "`python3` has no torch: `pip install torch`".to_owned()),
            Need::SoftEfa => libfabric_2_folder().err().or_else(soft_efa_lack),
            Need::Mpich => lacking_mpi(&[MPICH]),
            Need::OpenMpi => lacking_mpi(&["openmpi-5.0.11", "openmpi-4.1.8"]),
            Need::SystemOpenMpi => lacking_mpi(&["openmpi-system"]),
            Need::IntelMpi => lacking_mpi(&["impi-2021.18.1", MPICH]),
            Need::Mpi4py => MPIS
                .iter()
                .map(|name| mpi_folder(name))
                .find(|folder| folder.exists() && !folder.join("bin/python").exists())
                .map(|folder| {
                    format!("there is no mpi4py in {0}: run `scripts/fetch-mpi4py {0}`", folder.display())
                }),
            Need::SoftEfaPeers => [libfabric_1_22_folder(), mpi_folder(MPICH)]
                .iter()
                .find(|folder| !folder.exists())
                .map(|folder| format!("there is no {}: run `scripts/fetch-libfabric`", folder.display())),
        }
    }
}

/// Whether the calling test cannot run, after saying so.
///
/// # Panics
///
/// When `EFARUN_TEST_REQUIRE` names the need and it is missing.
pub fn missing(need: Need) -> bool {
    let Some(lack) = need.lack() else { return false };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let required = env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|name| name == need.name()),
        "{test} needs {} (EFARUN_TEST_REQUIRE={required}): {lack}",
        need.name()
    );
    say(&format!("SKIPPED: {test}: {lack}"));
    true
}

/// Says that the calling test leaves out a part, and why.
pub fn skip_part(lack: &str) {
    say(&format!("SKIPPED: {}: {lack}", std::thread::current().name().unwrap_or("a test")));
}

/// Whether `scripts/test --all` asks for every size, type and library.
pub fn is_full_matrix() -> bool {
    env::var_os("EFARUN_TEST_MATRIX").is_some_and(|matrix| matrix == "full")
}

/// The folder of the libfabric 2.5.1 that `scripts/fetch-libfabric` leaves, or `EFARUN_TEST_LIBFABRIC_2` names.
///
/// # Errors
///
/// Why there is none, as a lowercase fragment.
pub fn libfabric_2_folder() -> Result<PathBuf, String> {
    let folder =
        env::var_os("EFARUN_TEST_LIBFABRIC_2").map_or_else(|| workspace().join(LIBFABRIC_2), PathBuf::from);
    if folder.join("libfabric.so.1").exists() {
        Ok(folder)
    } else {
        Err(format!("there is no libfabric.so.1 in {}: run `scripts/fetch-libfabric`", folder.display()))
    }
}

/// Where `scripts/fetch-libfabric --release 1.22.0` leaves it.
pub fn libfabric_1_22_folder() -> PathBuf {
    workspace().join(".cache/libfabric-1.22.0")
}

/// Where `scripts/fetch-mpi` leaves what it calls by this name, and `scripts/fetch-libfabric --mpich` `mpich-5.0.2`.
pub fn mpi_folder(name: &str) -> PathBuf {
    workspace().join(".cache").join(name)
}

/// The repository.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// Debian's libfaketime.
///
/// # Errors
///
/// Why there is none, as a lowercase fragment.
pub fn faketime_library() -> Result<PathBuf, String> {
    let names = LIBRARY_FOLDERS.iter().map(|folder| Path::new(folder).join("faketime/libfaketime.so.1"));
    let lack = || "there is no libfaketime.so.1: run `scripts/setup test`".to_owned();
    names.into_iter().find(|path| path.exists()).ok_or_else(lack)
}

fn lacking_mpi(names: &[&str]) -> Option<String> {
    let folder = names.iter().map(|name| mpi_folder(name)).find(|folder| !folder.exists());
    let lack = folder
        .map(|folder| format!("there is no {}: run `scripts/test` or `scripts/fetch-mpi`", folder.display()));
    lack.or_else(|| lacking_command(&["gcc"]))
}

fn lacking_command(names: &[&str]) -> Option<String> {
    let lacking = names.iter().find(|name| !is_command(name))?;
    Some(format!("there is no `{lacking}`: run `scripts/setup test`"))
}

fn has_system_libfabric() -> bool {
    has_system_library("libfabric.so.1")
}

fn has_system_library(name: &str) -> bool {
    LIBRARY_FOLDERS.iter().any(|folder| Path::new(folder).join(name).exists())
}

fn has_python_module(name: &str) -> bool {
    let question = format!("import importlib.util as u; raise SystemExit(u.find_spec('{name}') is None)");
    let asked = std::process::Command::new("python3").args(["-c", &question]).output();
    asked.is_ok_and(|answer| answer.status.success())
}

fn soft_efa_lack() -> Option<String> {
    let library = ["libibverbs.so.1", "libefa.so.1"].into_iter().find(|name| !has_system_library(name));
    let tool = ["fi_info", "fi_pingpong"].into_iter().find(|name| !is_command(name));
    library.or(tool).map(|missing| format!("there is no {missing}: run `scripts/setup test`"))
}

fn is_command(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).exists())
}

#[expect(clippy::print_stdout, reason = "the line that scripts/test counts")]
fn say(line: &str) {
    println!("{line}");
}

const LIBRARY_FOLDERS: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/local/lib"];

const SHELLS: [&str; 5] = ["zsh", "csh", "tcsh", "fish", "ksh"];

const TESTBED_TOOLS: [&str; 5] = ["sshd", "ssh-keygen", "ip", "unshare", "nsenter"];

const MPICH: &str = "mpich-5.0.2";

const MPIS: [&str; 5] = [MPICH, "impi-2021.18.1", "openmpi-5.0.11", "openmpi-4.1.8", "openmpi-system"];

const LIBFABRIC_2: &str = ".cache/libfabric-2.5.1";
