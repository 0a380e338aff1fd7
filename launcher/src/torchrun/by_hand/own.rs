//! What is each node's own where the line is typed on every node: its environment, folders and interpreter.
//!
//! Under torchrun a node's ranks have the environment of the torchrun that started them. Here they have it too; over it
//! comes what says who a rank is, and what efarun chooses where the node's own environment says nothing.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use efarun_wire::message::LaunchPlan;

use crate::env::{self, NameValue};
use crate::job::{Export, JobSpec};
use crate::torchrun;

/// Puts this process's own things into the plan of this node's ranks.
pub(crate) fn complete(plan: &mut LaunchPlan, spec: &JobSpec) {
    let own: Vec<NameValue> =
        std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec())).collect();
    let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
    complete_with(plan, spec, &own, &here);
}

fn complete_with(plan: &mut LaunchPlan, spec: &JobSpec, own: &[NameValue], here: &Path) {
    for (planned, app) in plan.apps.iter_mut().zip(&spec.apps) {
        // `-x NAME` means what the variable is here, which it is already.
        let exported = |name: &[u8]| {
            let is_set = |export: &Export| matches!(export, Export::Set(set, _) if set.as_bytes() == name);
            app.exports.iter().any(is_set)
        };
        planned.env = merged(own, &planned.env, exported);
        let (program, args) = torchrun::command(spec, app);
        planned.program = program.into_vec();
        planned.args = args.into_iter().map(OsString::into_vec).collect();
        planned.wdir = app.wdir.as_deref().unwrap_or(here).as_os_str().as_bytes().to_vec();
    }
    if let (Some(folders), Some(torchrun)) = (&mut plan.folders, &spec.torchrun) {
        folders.folder = torchrun.logs.folder.as_ref().map(|folder| folder.as_os_str().as_bytes().to_vec());
    }
}

/// This node's own environment, and over it what is planned; but of what is no word about the job itself the node's own
/// value wins.
fn merged(own: &[NameValue], planned: &[NameValue], exported: impl Fn(&[u8]) -> bool) -> Vec<NameValue> {
    let goes_along = |(name, _): &&NameValue| env::goes_along(name, true);
    let mut merged: Vec<NameValue> = own.iter().filter(goes_along).cloned().collect();
    for (name, value) in planned {
        match merged.iter_mut().find(|(known, _)| known == name) {
            None => merged.push((name.clone(), value.clone())),
            Some((_, known)) if name == b"LD_LIBRARY_PATH" && !exported(name) => {
                *known = both_paths(known, value)
            }
            Some((_, known)) if exported(name) => known.clone_from(value),
            Some(_) => {}
        }
    }
    merged
}

/// The folders of the first, then those of the second that it lacks.
fn both_paths(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut both = OsStr::from_bytes(first).to_owned().into_vec();
    for folder in second.split(|byte| *byte == b':') {
        if !first.split(|byte| *byte == b':').any(|known| known == folder) {
            both.push(b':');
            both.extend_from_slice(folder);
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<NameValue> {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_nodes_own_environment_wins_but_for_who_ranks_are_and_what_is_exported() {
        let own = pairs(&[
            ("NCCL_SOCKET_IFNAME", "ens5"),
            ("LD_LIBRARY_PATH", "/own:/efa"),
            ("RANK", "7"),
            ("MASTER_ADDR", "stale"),
            ("PWD", "/"),
            ("A", "own"),
        ]);
        let planned = pairs(&[
            ("NCCL_SOCKET_IFNAME", "eth0"),
            ("LD_LIBRARY_PATH", "/efa:/cuda"),
            ("RANK", "1"),
            ("MASTER_ADDR", "10.0.0.1"),
            ("A", "exported"),
            ("B", "planned"),
        ]);
        let env = merged(&own, &planned, |name| name == b"A");
        let value = |name: &str| {
            env.iter()
                .find(|(known, _)| known == name.as_bytes())
                .map(|(_, value)| String::from_utf8_lossy(value))
        };
        assert_eq!(value("NCCL_SOCKET_IFNAME").unwrap(), "ens5");
        assert_eq!(value("LD_LIBRARY_PATH").unwrap(), "/own:/efa:/cuda");
        assert_eq!((value("RANK").unwrap(), value("MASTER_ADDR").unwrap()), ("1".into(), "10.0.0.1".into()));
        assert_eq!(
            (value("A").unwrap(), value("B").unwrap(), value("PWD")),
            ("exported".into(), "planned".into(), None)
        );
    }
}
