//! Whether ranks need a PMIx server, and where libraries for one may be.
//!
//! A program that is linked with Open MPI needs one: where nobody answers, each of its ranks is a world of one, without a
//! word. Where a program is linked with no MPI it may be a shell or an interpreter that comes to one later, and is offered
//! a server where there is a library for it. MPICH's family asks for PMI.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use efarun_wire::Rank;
use efarun_wire::message::{AppPlan, LaunchPlan};

use crate::linkage::{self, MpiKind};
use crate::pmix::candidates::{Program, candidates, looked_in};

/// What a node's programs want of PMIx.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The first rank that cannot be part of a world without a server, and why.
    pub(super) needed_by: Option<(Rank, Need)>,
    /// The libraries that may serve, best first.
    pub(super) libraries: Vec<PathBuf>,
    /// The MPI libraries that programs are linked with, by the programs' numbers.
    pub(super) mpis: BTreeMap<usize, Mpi>,
}

/// An MPI library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mpi {
    /// Its file, or its name and that there is none.
    pub(super) shown: String,
    /// How long the file is, where there is one.
    pub(super) len_bytes: Option<u64>,
}

/// Why a server is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    /// The program's library that asks for it.
    pub(super) library: String,
    /// Where a library that serves was looked for.
    pub(super) looked_in: String,
}

/// Looks at the plan's programs. Files that do not answer in time say nothing.
pub(super) async fn survey(plan: &LaunchPlan) -> Survey {
    // A rank that is alone is a world of one either way, and yet may ask for more.
    if plan.map.universe_size < 2 {
        return Survey::default();
    }
    let apps = plan.apps.clone();
    let used: Vec<(Rank, usize)> = plan.ranks.iter().map(|rank| (rank.rank, rank.app as usize)).collect();
    let looking = tokio::task::spawn_blocking(move || of_apps(&apps, &used));
    match tokio::time::timeout(LOOKING_PATIENCE, looking).await {
        Ok(Ok(survey)) if plan.world_size >= 2 => survey,
        Ok(Ok(Survey { needed_by: Some(_), libraries, mpis })) => Survey { needed_by: None, libraries, mpis },
        Ok(Ok(_) | Err(_)) | Err(_) => Survey::default(),
    }
}

fn of_apps(apps: &[AppPlan], used: &[(Rank, usize)]) -> Survey {
    let mut survey = Survey::default();
    for (number, app) in apps.iter().enumerate() {
        let Some((rank, _)) = used.iter().find(|(_, app)| *app == number) else { continue };
        let Some(Wants { mpi, need, libraries }) = of_app(app) else { continue };
        survey.mpis.extend(mpi.map(|mpi| (number, mpi)));
        // What is needed comes before what is guessed.
        match need {
            Some(need) if survey.needed_by.is_none() => {
                survey.needed_by = Some((*rank, need));
                survey.libraries.splice(..0, libraries);
            }
            _ => survey.libraries.extend(libraries),
        }
    }
    survey
}

/// What one program wants.
struct Wants {
    /// The MPI library that it is linked with.
    mpi: Option<Mpi>,
    need: Option<Need>,
    libraries: Vec<PathBuf>,
}

/// Looks at one program; none where there is no file to look at.
fn of_app(app: &AppPlan) -> Option<Wants> {
    let value = |wanted: &[u8]| app.env.iter().find(|(name, _)| name == wanted).map(|(_, value)| &value[..]);
    let file = program_file(app, value(b"PATH").unwrap_or_default())?;
    let linkage = linkage::linkage(&file, &app.env);
    let program = Program { file: &file, linkage: linkage.as_ref(), env: &app.env };
    let asking = linkage.as_ref().and_then(|linkage| match linkage.mpi() {
        Some((MpiKind::OpenMpi, name, file)) => Some(shown(name, file)),
        // MPICH may have been built for PMIx, and programs may use it without any MPI.
        _ => linkage.file(LIBPMIX).map(|file| shown(LIBPMIX, Some(file))),
    });
    let mpi = linkage.as_ref().and_then(linkage::Linkage::mpi);
    let is_mpich = matches!(mpi, Some((MpiKind::Mpich, ..)));
    let mpi = mpi.map(|(_, name, file)| Mpi {
        shown: shown(name, file),
        len_bytes: file.and_then(|file| Some(file.metadata().ok()?.len())),
    });
    if is_mpich && asking.is_none() {
        return Some(Wants { mpi, need: None, libraries: Vec::new() });
    }
    let is_forced = value(ALL_THE_SAME.as_bytes()) == Some(b"any");
    let need = asking.filter(|_| !is_forced).map(|library| Need { library, looked_in: looked_in(program) });
    Some(Wants { mpi, need, libraries: candidates(program) })
}

fn shown(name: &str, file: Option<&Path>) -> String {
    file.map_or_else(|| format!("{name}, which is not found"), |file| file.display().to_string())
}

/// The file that will be started, as far as that can be told.
fn program_file(app: &AppPlan, path: &[u8]) -> Option<PathBuf> {
    let program = Path::new(OsStr::from_bytes(&app.program));
    let wdir = Path::new(OsStr::from_bytes(&app.wdir));
    if app.program.contains(&b'/') {
        return Some(wdir.join(program));
    }
    let folders = [&app.search_path[..], path].into_iter().flat_map(|list| list.split(|byte| *byte == b':'));
    let mut files = folders.map(|folder| wdir.join(OsStr::from_bytes(folder)).join(program));
    files.find(|file| file.is_file())
}

/// With the value `any` a program is started whether or not it can be served.
const ALL_THE_SAME: &str = "EFARUN_MPI";
const LIBPMIX: &str = "libpmix.so";
/// A file system that hangs is told about by whoever waits for the program.
const LOOKING_PATIENCE: Duration = Duration::from_secs(2);
