//! Which hosts take part, and with how many ranks.

use std::borrow::Cow;

use efarun_wire::facts::NodeFacts;

use super::spec::PerNode;
use crate::job::{Host, JobSpec};
use crate::mapping::{MapBy, Resource};

/// Why hosts do not do for the nodes that are asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodesError {
    /// There are too few.
    #[error("--nnodes asks for {}{least} nodes, and {named} {} named\n  hint: name more by -H or --hostfile, or ask for fewer", if *.is_range { "at least " } else { "" }, if *.named == 1 { "host is" } else { "hosts are" })]
    TooFew {
        /// How many are needed.
        least: u32,
        /// More would be taken.
        is_range: bool,
        /// How many there are.
        named: usize,
    },
    /// A rank per GPU, and no GPU.
    #[error(
        "--nproc-per-node gpu: {host} has no GPU\n  hint: `auto` takes CPUs where a node has none; a number says how many ranks there are"
    )]
    NoGpu {
        /// The host as written.
        host: String,
    },
}

/// Returns those of the hosts that take part: of more than are asked for the first.
///
/// # Errors
///
/// When there are too few.
pub fn chosen_hosts(spec: &JobSpec, mut hosts: Vec<Host>) -> Result<Vec<Host>, NodesError> {
    let Some(torchrun) = &spec.torchrun else { return Ok(hosts) };
    let nodes = torchrun.nodes;
    if hosts.len() < nodes.least as usize {
        let is_range = nodes.least != nodes.most;
        return Err(NodesError::TooFew { least: nodes.least, is_range, named: hosts.len() });
    }
    hosts.truncate(nodes.most as usize);
    Ok(hosts)
}

/// Returns the job with its number of ranks per node as these nodes decide it.
///
/// # Errors
///
/// When ranks are asked for by GPU and a node has none.
pub fn resolved<'a>(
    spec: &'a JobSpec,
    hosts: &[Host],
    facts: &[&NodeFacts],
) -> Result<Cow<'a, JobSpec>, NodesError> {
    let Some(torchrun) = &spec.torchrun else { return Ok(Cow::Borrowed(spec)) };
    let without_gpu = hosts.iter().zip(facts).find(|(_, facts)| facts.gpus.is_empty());
    match (torchrun.per_node, without_gpu) {
        (PerNode::Gpu, Some((host, _))) => Err(NodesError::NoGpu { host: host.to_string() }),
        (PerNode::Auto, None) => {
            let map_by = MapBy::PerResource { count: 1, resource: Resource::Gpu };
            Ok(Cow::Owned(JobSpec { map_by, ..spec.clone() }))
        }
        _ => Ok(Cow::Borrowed(spec)),
    }
}
