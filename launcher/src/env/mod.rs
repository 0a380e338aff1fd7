//! Makes the environment of ranks.
//!
//! Given the job, the head's environment, every node's facts and the placement, [`job_env`] decides what every rank of
//! one program sees. Pure. It promises that [`JobEnv::shared`] is computed once, from all nodes together, and is the same on
//! every node; only what describes a node itself (HOME, USER, TMPDIR, …) is the node's own, and only where nothing
//! shared overrides it.
//!
//! Layers, later ones win: the node's own basics; what is passed from the head without being asked for (`forward`);
//! what `--mca` sets; what `-x` names; what efarun sets (`prefix`, `efa`, `library_path`, `rank`, `torchrun`). A variable that tells a
//! rank who it is cannot be set by `-x`; everything else that `-x` sets stays.
//!
//! OMP_NUM_THREADS is left alone but by `efarun torchrun`. torchrun sets it to 1 where it is unset; somebody who comes
//! from mpirun would find a hybrid program silently on one thread.

mod differences;
mod efa;
mod forward;
mod library_path;
mod prefix;
mod rank;
mod redact;
mod render;
mod spawned;
mod torchrun;
mod variables;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use efarun_wire::facts::NodeFacts;
use efarun_wire::{JobId, NodeId, Rank};

use crate::exit_code::ExitCause;
use crate::job::{App, Export, JobSpec};
use crate::mapping::{Placement, RankPlace};

pub(crate) use forward::goes_along;
pub use library_path::{SYSTEM_LIBRARY_DIRS, WELL_KNOWN_LIBRARY_DIRS};
pub use rank::PMI_FD;
pub use redact::{is_secret, printable_value};
pub use spawned::{spawned_app, spawned_rank};
pub use variables::document as variables_document;

/// A variable's name and value, as the kernel takes them.
pub type NameValue = (Vec<u8>, Vec<u8>);

/// What an environment is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// The program whose ranks' environment it is: one of the job's.
    pub app: &'a App,
    /// The head's environment.
    pub head_env: &'a [NameValue],
    /// One per node of the placement, in its order; or none at all, where nobody was contacted.
    pub facts: &'a [NodeFacts],
    /// Where ranks go.
    pub placement: &'a Placement,
    /// The job's id.
    pub job: JobId,
    /// Where each node can be reached by the others, as far as it is known; in the order of the placement.
    pub addresses: &'a [Option<IpAddr>],
    /// A port that is free on rank 0's node.
    pub master_port: Option<u16>,
    /// The only node is the machine that efarun was typed on. Then ranks get the whole environment, as any child
    /// would, and as under mpirun.
    pub only_this_machine: bool,
}

/// A variable, and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// Why ranks have it.
    pub origin: Origin,
}

/// Why ranks have a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was set where efarun was typed, and is passed without being asked for.
    Head,
    /// `-x`.
    Export,
    /// `--mca` and its like.
    Parameter,
    /// It describes the node.
    Node,
    /// efarun sets it, for this reason.
    Efarun(&'static str),
}

/// The environment of a job's ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEnv {
    /// What every rank has, by name, the same on every node.
    pub shared: Vec<Variable>,
    /// What the user should read: differences between nodes, variables that will not do what they seem to.
    pub notes: Vec<String>,
    /// What each node adds of its own.
    node_own: Vec<Vec<Variable>>,
    /// Where each rank is, and how many ranks its node has.
    places: Vec<(RankPlace, u32)>,
    /// Where each node can be reached.
    addresses: Vec<Option<IpAddr>>,
}

impl JobEnv {
    /// Returns the environment that all ranks of a node share: the node's own basics, and over them what is shared
    /// by all nodes. It belongs into the node's launch plan.
    pub fn node_env(&self, node: NodeId) -> Vec<NameValue> {
        let own = self.node_own.get(node.index()).map_or(&[][..], Vec::as_slice);
        let merged: BTreeMap<&[u8], &[u8]> = own.iter().chain(&self.shared).map(Variable::as_pair).collect();
        merged.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
    }

    /// Returns what a rank has beyond [`JobEnv::node_env`]: who it is. Empty for a rank that is not in the job.
    pub fn per_rank(&self, rank: Rank) -> Vec<NameValue> {
        let address = |place: &RankPlace| self.addresses.get(place.node.index()).copied().flatten();
        self.places
            .get(rank.index())
            .map_or_else(Vec::new, |(place, local_size)| rank::own(*place, *local_size, address(place)))
    }
}

impl Variable {
    fn as_pair(&self) -> (&[u8], &[u8]) {
        (&self.name, &self.value)
    }
}

/// Why ranks cannot be given an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// libfabric's EFA provider ends the process when it sees this variable.
    #[error(
        "{variable} is set ({origin}), and libfabric's EFA provider aborts every process that has it: {why}\n  hint: {remedy}"
    )]
    AbortsEfa {
        /// The variable.
        variable: String,
        /// Where it comes from.
        origin: &'static str,
        /// What the provider does about it.
        why: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// One program cannot run on all nodes.
    #[error("the nodes are of different CPU architectures, so one PROGRAM cannot run on all of them: {}", .nodes.join("; "))]
    Architectures {
        /// `x86_64 on a, b`, one per architecture.
        nodes: Vec<String>,
    },
}

impl EnvError {
    /// Returns what the exit code says.
    pub fn exit_cause(&self) -> ExitCause {
        match self {
            EnvError::AbortsEfa { .. } => ExitCause::Usage,
            EnvError::Architectures { .. } => ExitCause::Data,
        }
    }
}

/// Makes the environment of the ranks of one of a job's programs.
///
/// # Errors
/// A variable that would abort every rank, or nodes that cannot run the same program.
pub fn job_env(inputs: &Inputs<'_>) -> Result<JobEnv, EnvError> {
    differences::check_architecture(inputs)?;
    let mut shared = Variables::default();
    shared.add_forwarded(inputs);
    shared.add_parameters(inputs);
    shared.add_exports(inputs);
    prefix::add(inputs, &mut shared);
    library_path::add(inputs, &mut shared);
    efa::add(inputs, &mut shared)?;
    rank::add_shared(inputs, &mut shared);
    torchrun::add(inputs, &mut shared);
    let mut notes = shared.notes;
    notes.extend(differences::notes(inputs, &shared.by_name));
    let nodes = &inputs.placement.nodes;
    let local_size = |place: &RankPlace| {
        let node = nodes.iter().find(|node| node.node == place.node);
        node.map_or(0, |node| u32::try_from(node.ranks.len()).unwrap_or(u32::MAX))
    };
    Ok(JobEnv {
        shared: shared.by_name.into_values().collect(),
        notes,
        node_own: inputs.facts.iter().map(forward::node_own).collect(),
        places: inputs.placement.ranks.iter().map(|place| (*place, local_size(place))).collect(),
        addresses: inputs.addresses.to_vec(),
    })
}

/// Variables while they are collected.
#[derive(Debug, Default)]
struct Variables {
    by_name: BTreeMap<Vec<u8>, Variable>,
    notes: Vec<String>,
}

impl Variables {
    fn value(&self, name: &str) -> Option<&[u8]> {
        self.by_name.get(name.as_bytes()).map(|variable| variable.value.as_slice())
    }

    fn set(&mut self, name: &[u8], value: &[u8], origin: Origin) {
        let variable = Variable { name: name.to_vec(), value: value.to_vec(), origin };
        self.by_name.insert(name.to_vec(), variable);
    }

    /// Sets a variable that efarun chooses only where the user did not.
    fn set_by_default(&mut self, name: &str, value: &str, reason: &'static str) {
        if self.value(name).is_none() {
            self.set(name.as_bytes(), value.as_bytes(), Origin::Efarun(reason));
        }
    }

    fn add_forwarded(&mut self, inputs: &Inputs<'_>) {
        if inputs.spec.is_by_hand() {
            // Every node has the environment of the line that was typed on it.
            return;
        }
        for (name, value) in inputs.head_env {
            if forward::goes_along(name, inputs.only_this_machine) {
                self.set(name, value, Origin::Head);
            }
        }
    }

    fn add_parameters(&mut self, inputs: &Inputs<'_>) {
        for (name, value) in &inputs.spec.parameters {
            self.set(name.as_bytes(), value.as_bytes(), Origin::Parameter);
        }
    }

    fn add_exports(&mut self, inputs: &Inputs<'_>) {
        for export in &inputs.app.exports {
            match export {
                Export::Set(name, value) => self.export(name.as_bytes(), value.as_bytes()),
                Export::Inherit(name) => self.inherit(name.as_bytes(), inputs.head_env),
            }
        }
    }

    fn export(&mut self, name: &[u8], value: &[u8]) {
        if rank::is_identity(name) {
            let name = printable_value(b"", name);
            self.notes
                .push(format!("-x {name}: efarun sets {name} itself, for each rank; yours is not used"));
        } else {
            self.set(name, value, Origin::Export);
        }
    }

    /// `-x NAME`, or `-x PREFIX*` as Open MPI 5 takes it.
    fn inherit(&mut self, name: &[u8], head_env: &[NameValue]) {
        let prefix = name.strip_suffix(b"*");
        let matches = |candidate: &[u8]| match prefix {
            Some(prefix) => candidate.starts_with(prefix) && !rank::is_identity(candidate),
            None => candidate == name,
        };
        let found: Vec<&NameValue> = head_env.iter().filter(|(candidate, _)| matches(candidate)).collect();
        if found.is_empty() {
            let name = printable_value(b"", name);
            self.notes.push(format!("-x {name}: no such variable is set here, so none is passed"));
        }
        for (name, value) in found {
            self.export(name, value);
        }
    }
}

#[cfg(test)]
mod tests;
