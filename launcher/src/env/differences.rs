//! Where nodes differ, and where what they have does not fit the job.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use efarun_wire::facts::NodeFacts;

use super::variables::PROVIDER;
use super::{EnvError, Inputs, Variable, efa, library_path};
use crate::job::Export;

/// Refuses nodes that cannot run one program.
pub(super) fn check_architecture(inputs: &Inputs<'_>) -> Result<(), EnvError> {
    let groups = groups(inputs, |facts| facts.architecture.clone());
    if groups.len() < 2 { Ok(()) } else { Err(EnvError::Architectures { nodes: groups }) }
}

/// Returns a line for each difference that a user should know of, and for each limit that EFA will run into.
///
/// Kernels are not compared: they differ between images all the time and decide nothing for a rank.
pub(super) fn notes(inputs: &Inputs<'_>, shared: &BTreeMap<Vec<u8>, Variable>) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(difference(inputs, "C libraries", |facts| facts.libc.clone()));
    notes.extend(difference(inputs, "EFA driver versions", |facts| {
        facts.efa_driver.clone().unwrap_or_else(|| "none".to_owned())
    }));
    notes.extend(difference(inputs, "EFA installers", |facts| {
        facts.efa_installer.clone().unwrap_or_else(|| "none".to_owned())
    }));
    notes.extend(different_libfabrics(inputs, shared));
    notes.extend(difference(inputs, "numbers of EFA devices", |facts| facts.efa_devices.len().to_string()));
    notes.extend(difference(inputs, "numbers of GPUs", |facts| facts.gpus.len().to_string()));
    let wants_efa = shared.get(PROVIDER.as_bytes()).is_some_and(|variable| efa::names_efa(&variable.value));
    if wants_efa {
        notes.extend(note(
            inputs,
            |facts| facts.efa_devices.is_empty(),
            |nodes| format!("FI_PROVIDER names efa, but there is no EFA device on {nodes}"),
        ));
        notes.extend(note(inputs, |facts| facts.memlock_bytes.is_some(), |nodes| {
            format!(
                "locked memory is limited on {nodes}: EFA needs it unlimited (`* - memlock unlimited` in /etc/security/limits.d/, then log in anew)"
            )
        }));
    }
    notes.extend(unused_library_paths(inputs, shared));
    notes.extend(same_machines(inputs));
    notes
}

fn difference(inputs: &Inputs<'_>, what: &str, value: impl Fn(&NodeFacts) -> String) -> Option<String> {
    let groups = groups(inputs, value);
    let differ = groups.len() > 1;
    differ.then(|| format!("the nodes have different {what}: {}", groups.join("; ")))
}

/// Releases of libfabric do not understand each other's EFA packets in every case, and say so late or never.
fn different_libfabrics(inputs: &Inputs<'_>, shared: &BTreeMap<Vec<u8>, Variable>) -> Option<String> {
    let path = shared.get(library_path::NAME.as_bytes()).map_or(&[][..], |variable| &variable.value);
    let with_efa = inputs.facts.iter().any(|facts| !facts.efa_devices.is_empty());
    let all_known = inputs.facts.iter().all(|facts| library_path::libfabric(facts, path).is_some());
    (with_efa && all_known)
        .then(|| {
            difference(
                inputs,
                "libfabric releases, which do not speak to each other over EFA in every case",
                |facts| library_path::libfabric(facts, path).unwrap_or_default().to_owned(),
            )
        })
        .flatten()
}

/// A node's start-up files may set an LD_LIBRARY_PATH that no rank will see, because all nodes share one. Whoever
/// passes one by `-x` has said what it is to be.
fn unused_library_paths(inputs: &Inputs<'_>, shared: &BTreeMap<Vec<u8>, Variable>) -> Option<String> {
    let name = library_path::NAME.as_bytes();
    let chosen = inputs.app.exports.iter().any(|export| match export {
        Export::Set(exported, _) | Export::Inherit(exported) => exported.as_bytes() == name,
    });
    if chosen {
        return None;
    }
    let used = shared.get(name).map_or(&[][..], |variable| &variable.value);
    let is_used = |dir: &[u8]| used.split(|byte| *byte == b':').any(|part| part == dir);
    let has_other = |facts: &NodeFacts| {
        let own = facts.env.iter().find(|(candidate, _)| candidate == name);
        own.is_some_and(|(_, value)| {
            value.split(|byte| *byte == b':').any(|dir| !dir.is_empty() && !is_used(dir))
        })
    };
    note(inputs, has_other, |nodes| {
        format!(
            "LD_LIBRARY_PATH is the same on every node; folders that the start-up files add on {nodes} are not in it (pass them by -x)"
        )
    })
}

/// Two hosts that are one machine share its cards and cores. Containers of one machine have namespaces of their own.
fn same_machines(inputs: &Inputs<'_>) -> Vec<String> {
    let mut machines: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, facts) in inputs.facts.iter().enumerate().filter(|(_, facts)| !facts.machine_id.is_empty()) {
        machines.entry((&facts.machine_id, facts.namespaces)).or_default().push(index);
    }
    let several = machines.into_values().filter(|nodes| nodes.len() > 1);
    several.map(|nodes| format!("one machine under several names: {} (its cores and cards are shared: name it once, with all its slots)", names(inputs, &nodes))).collect()
}

fn note(
    inputs: &Inputs<'_>,
    applies: impl Fn(&NodeFacts) -> bool,
    text: impl Fn(&str) -> String,
) -> Option<String> {
    let nodes: Vec<usize> =
        inputs.facts.iter().enumerate().filter(|(_, facts)| applies(facts)).map(|(index, _)| index).collect();
    if nodes.is_empty() { None } else { Some(text(&names(inputs, &nodes))) }
}

/// Nodes by what they have in common: `glibc 2.36 on a, b`, one per value, in the order in which they appear.
fn groups(inputs: &Inputs<'_>, value: impl Fn(&NodeFacts) -> String) -> Vec<String> {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, facts) in inputs.facts.iter().enumerate() {
        let value = value(facts);
        match groups.iter_mut().find(|(known, _)| *known == value) {
            Some((_, nodes)) => nodes.push(index),
            None => groups.push((value, vec![index])),
        }
    }
    groups.into_iter().map(|(value, nodes)| format!("{value} on {}", names(inputs, &nodes))).collect()
}

fn names(inputs: &Inputs<'_>, nodes: &[usize]) -> String {
    let name = |index: &usize| {
        let node = inputs.placement.nodes.get(*index);
        node.map_or_else(|| format!("node {index}"), |node| node.host.to_string())
    };
    let mut shown: Vec<String> = nodes.iter().take(LISTED_NODES).map(name).collect();
    if nodes.len() > LISTED_NODES {
        shown.push(format!("{} more", nodes.len() - LISTED_NODES));
    }
    shown.join(", ")
}

/// How many nodes a note names before it is cut.
const LISTED_NODES: usize = 4;
