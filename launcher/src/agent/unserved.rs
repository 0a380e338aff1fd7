//! Programs whose MPI library asks its launcher for something that efarun does not serve.
//!
//! Open MPI asks for PMIx, and where nobody answers each of its ranks is a world of one, without a word. Such a program is
//! not started. What is started by a shell or an interpreter cannot be seen here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use efarun_wire::Rank;
use efarun_wire::message::{AppPlan, LaunchPlan};

use crate::linkage::{self, MpiKind};

/// Finds the first rank of the plan whose program cannot be served, and its MPI library. Files that do not answer in time
/// say nothing.
pub(super) async fn first(plan: &LaunchPlan) -> Option<(Rank, String)> {
    if plan.world_size < 2 {
        return None;
    }
    let looking = tokio::task::spawn_blocking({
        let apps = plan.apps.clone();
        move || apps.iter().map(library).collect::<Vec<_>>()
    });
    let libraries = tokio::time::timeout(LOOKING_PATIENCE, looking).await.ok()?.ok()?;
    plan.ranks.iter().find_map(|rank| {
        let library = libraries.get(usize::try_from(rank.app).ok()?)?.clone()?;
        Some((rank.rank, library))
    })
}

fn library(app: &AppPlan) -> Option<String> {
    let value = |wanted: &[u8]| app.env.iter().find(|(name, _)| name == wanted).map(|(_, value)| &value[..]);
    if value(ALL_THE_SAME.as_bytes()) == Some(b"any") {
        return None;
    }
    let found = linkage::mpi_library(&program_file(app, value(b"PATH").unwrap_or_default())?, &app.env)?;
    let file = found.file.map_or_else(|| found.name.clone(), |file| file.display().to_string());
    (found.kind == MpiKind::OpenMpi).then_some(file)
}

/// The file that will be started, as far as that can be told.
fn program_file(app: &AppPlan, path: &[u8]) -> Option<PathBuf> {
    let program = Path::new(OsStr::from_bytes(&app.program));
    let wdir = Path::new(OsStr::from_bytes(&app.wdir));
    if app.program.contains(&b'/') {
        return Some(wdir.join(program));
    }
    let folders = [&app.search_path[..], path].into_iter().flat_map(|list| list.split(|byte| *byte == b':'));
    let files = folders.map(|folder| wdir.join(OsStr::from_bytes(folder)).join(program));
    files.into_iter().find(|file| file.is_file())
}

/// With the value `any` a program is started whichever MPI it is linked with.
const ALL_THE_SAME: &str = "EFARUN_MPI";
/// A file system that hangs is told about by whoever waits for the program.
const LOOKING_PATIENCE: Duration = Duration::from_secs(2);
