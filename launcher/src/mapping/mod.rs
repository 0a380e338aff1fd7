//! Places ranks on hosts.
//!
//! Given the hosts that the user named and how many ranks are asked for, [`place`] decides which node and local rank
//! each rank gets; [`hosts_needed`] says beforehand how many of the hosts need to be contacted at all, and
//! [`slots_of`] how many slots a host has and which fact says so. Pure: the same input always gives the same
//! [`Placement`].
//!
//! Hosts are filled in the order in which they were named, slot by slot, so the nodes of a placement are a prefix of
//! the hosts and [`NodeId`] is the host's index. Ranks of one node are consecutive.
//!
//! Binding ranks to cores, GPUs and network cards is not decided here.

mod error;
mod render;

use efarun_wire::facts::NodeFacts;
use efarun_wire::{NodeId, Rank};

use crate::job::{Host, JobSpec};

pub use error::MapError;

/// The most ranks that a job can have: far beyond what a launcher's tables are made for, and small enough that no
/// sum of slots overflows.
pub const MAX_RANKS: u32 = 1 << 20;

/// How many ranks are asked for, and what limits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    /// `-n`: how many ranks; none means one per slot, or `per_node` on every node.
    pub rank_count: Option<u32>,
    /// `-N`: at most so many ranks per node.
    pub per_node: Option<u32>,
    /// More ranks than slots is allowed.
    pub oversubscribe: bool,
}

impl From<&JobSpec> for Request {
    fn from(spec: &JobSpec) -> Request {
        Request {
            rank_count: spec.rank_count,
            per_node: spec.ranks_per_node,
            oversubscribe: spec.oversubscribe,
        }
    }
}

/// A host, with its slots as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostWithSlots {
    /// The host.
    pub host: Host,
    /// Its slots; none before the host was contacted, where the user gave no number.
    pub slots: Option<u32>,
    /// Where the number came from.
    pub origin: SlotsOrigin,
}

/// Where a host's number of slots came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotsOrigin {
    /// The user gave it, in the hostfile or by `-H`; [`Host::origin`] says where.
    Given,
    /// `-H` named the host without a number: one slot.
    HostListDefault,
    /// The GPUs that the host has.
    Gpus,
    /// The cores that the host has, as it has no GPU.
    Cores,
    /// The host was not contacted.
    Unknown,
}

/// Returns a host's slots: those that the user gave, else one for a host of `-H`, else its GPUs, else its cores.
///
/// Without facts (before the host is contacted) the last two are unknown.
pub fn slots_of(host: Host, facts: Option<&NodeFacts>) -> HostWithSlots {
    let (slots, origin) = match (host.slots, facts) {
        (Some(slots), _) => (Some(slots), SlotsOrigin::Given),
        (None, _) if host.is_from_host_list() => (Some(1), SlotsOrigin::HostListDefault),
        (None, Some(facts)) if !facts.gpus.is_empty() => {
            (Some(u32::try_from(facts.gpus.len()).unwrap_or(MAX_RANKS)), SlotsOrigin::Gpus)
        }
        (None, Some(facts)) => (Some(facts.cores.max(1)), SlotsOrigin::Cores),
        (None, None) => (None, SlotsOrigin::Unknown),
    };
    HostWithSlots { host, slots, origin }
}

/// Which rank runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Every rank, in order.
    pub ranks: Vec<RankPlace>,
    /// Every node that has a rank, in order.
    pub nodes: Vec<NodePlace>,
}

impl Placement {
    /// Returns the number of ranks.
    pub fn world_size(&self) -> u32 {
        u32::try_from(self.ranks.len()).expect("`place` makes at most MAX_RANKS ranks")
    }
}

/// Where one rank runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankPlace {
    /// The rank.
    pub rank: Rank,
    /// Its node.
    pub node: NodeId,
    /// Its number on that node.
    pub local_rank: u32,
}

/// What one node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// The node.
    pub node: NodeId,
    /// The host that it is.
    pub host: Host,
    /// Its ranks, in order of local rank.
    pub ranks: Vec<Rank>,
    /// Its slots; none where they are unknown and were not needed.
    pub slots: Option<u32>,
    /// Where that number came from.
    pub slots_origin: SlotsOrigin,
}

/// Places ranks on hosts, in the order of the hosts.
///
/// Without `-N` a host takes as many ranks as it has slots. With `-N Y` it takes at most Y, and slots limit it only
/// where the user spelled them. More ranks than that is an error unless `oversubscribe` is set: then, without `-N`,
/// what is left over is shared out evenly, earlier hosts first.
///
/// # Errors
/// [`MapError`] names each host, its slots, where each number came from, and the flag that would allow it.
pub fn place(request: Request, hosts: &[HostWithSlots]) -> Result<Placement, MapError> {
    let counts = ranks_per_host(request, hosts)?;
    let mut placement = Placement { ranks: Vec::new(), nodes: Vec::new() };
    for (index, (host, count)) in hosts.iter().zip(counts).enumerate().filter(|(_, (_, count))| *count > 0) {
        let node =
            NodeId(u32::try_from(index).expect("each node before this one has one of MAX_RANKS ranks"));
        let first = placement.world_size();
        let ranks: Vec<Rank> = (first..first + count).map(Rank).collect();
        placement.ranks.extend(ranks.iter().zip(0..).map(|(rank, local_rank)| RankPlace {
            rank: *rank,
            node,
            local_rank,
        }));
        placement.nodes.push(NodePlace {
            node,
            host: host.host.clone(),
            ranks,
            slots: host.slots,
            slots_origin: host.origin,
        });
    }
    Ok(placement)
}

/// Returns how many of the hosts, from the first, need to be contacted before ranks can be placed.
///
/// A host whose slots are unknown counts as one slot, the least it can have; so a host beyond the prefix can never
/// get a rank. Some in the prefix may get none once their slots are known.
pub fn hosts_needed(request: Request, hosts: &[Host]) -> usize {
    let Some(wanted) = request.rank_count else { return hosts.len() };
    let mut room = 0;
    for (index, host) in hosts.iter().enumerate() {
        let known = slots_of(host.clone(), None);
        room += u64::from(limit(request, &known).unwrap_or(1));
        if room >= u64::from(wanted) {
            return index + 1;
        }
    }
    hosts.len()
}

/// Says how many ranks each host gets. Zeros come last: that is what makes the nodes a prefix of the hosts.
fn ranks_per_host(request: Request, hosts: &[HostWithSlots]) -> Result<Vec<u32>, MapError> {
    if hosts.is_empty() {
        return Err(MapError::NoHosts);
    }
    check_per_node(request, hosts)?;
    let limits = limits(request, hosts)?;
    let room: u64 = limits.iter().map(|limit| u64::from(*limit)).sum();
    let wanted = request.rank_count.map_or(room, u64::from);
    let Some(wanted) = u32::try_from(wanted).ok().filter(|wanted| *wanted <= MAX_RANKS) else {
        return Err(MapError::TooManyRanks { asked: wanted });
    };
    let mut left = wanted;
    let mut counts: Vec<u32> = limits
        .iter()
        .map(|limit| {
            let taken = left.min(*limit);
            left -= taken;
            taken
        })
        .collect();
    if left > 0 {
        if request.per_node.is_some() || !request.oversubscribe {
            return Err(MapError::too_few_slots(request, wanted, room, hosts));
        }
        share_out(left, &mut counts);
    }
    Ok(counts)
}

/// `-N Y` alone asks for Y on every host, so a host with fewer slots spelled is a contradiction; with `-n` as well,
/// Y is only a limit.
fn check_per_node(request: Request, hosts: &[HostWithSlots]) -> Result<(), MapError> {
    let (Some(per_node), None, false) = (request.per_node, request.rank_count, request.oversubscribe) else {
        return Ok(());
    };
    let short = |host: &&HostWithSlots| host.origin == SlotsOrigin::Given && host.slots < Some(per_node);
    match hosts.iter().find(short) {
        None => Ok(()),
        Some(host) => Err(MapError::TooFewSlotsForPerNode {
            host: host.host.to_string(),
            per_node,
            slots: host.describe(),
        }),
    }
}

fn limits(request: Request, hosts: &[HostWithSlots]) -> Result<Vec<u32>, MapError> {
    // With -n, hosts behind the last one needed may stay unknown: nobody contacted them.
    let mut wanted = request.rank_count.map_or(u64::MAX, u64::from);
    let mut limits = Vec::with_capacity(hosts.len());
    for host in hosts {
        let limit = match limit(request, host) {
            Some(limit) => limit,
            None if wanted == 0 => 0,
            None => return Err(MapError::slots_unknown(hosts)),
        };
        wanted = wanted.saturating_sub(u64::from(limit));
        limits.push(limit);
    }
    Ok(limits)
}

/// The most ranks that a host takes before it would be oversubscribed.
fn limit(request: Request, host: &HostWithSlots) -> Option<u32> {
    match (request.per_node, host.slots) {
        (Some(per_node), Some(slots)) if host.origin == SlotsOrigin::Given && !request.oversubscribe => {
            Some(per_node.min(slots))
        }
        (Some(per_node), _) => Some(per_node),
        (None, slots) => slots,
    }
}

fn share_out(left: u32, counts: &mut [u32]) {
    let hosts = u32::try_from(counts.len()).unwrap_or(u32::MAX);
    let (each, extra) = (left / hosts, left % hosts);
    for (count, index) in counts.iter_mut().zip(0..) {
        *count += each + u32::from(index < extra);
    }
}

#[cfg(test)]
mod tests;
