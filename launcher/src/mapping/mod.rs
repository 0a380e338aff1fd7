//! Places ranks on hosts.
//!
//! Given the hosts that the user named and how many ranks are asked for, [`place`] decides which node and local rank
//! each rank gets; [`hosts_needed`] says beforehand how many of the hosts need to be contacted at all, and
//! [`slots_of`] how many slots a host has and which fact says so. Pure: the same input always gives the same
//! [`Placement`].
//!
//! Hosts are filled in the order in which they were named, slot by slot, or in turns ([`MapBy`]), one program after the
//! other; ranks are numbered host by host, or in turns ([`RankBy`]). A host that gets
//! no rank is no node: nodes are numbered among themselves.
//!
//! Which cores a rank is bound to is [`crate::binding`]'s to say.

mod counts;
mod error;
mod policy;
mod rankfile;
mod render;

use efarun_wire::facts::{NodeFacts, Topology};
use efarun_wire::message::{JobMap, MappedNode};
use efarun_wire::{NodeId, Rank};

use crate::hostfile::{self, HostError};
use crate::job::{App, Host, JobSpec};

pub use error::MapError;
pub use policy::{MapBy, RankBy, Resource};
pub use rankfile::{Rankfile, RankfileError, RankfilePlace};

/// The most ranks that a job can have: far beyond what a launcher's tables are made for, and small enough that no
/// sum of slots overflows.
pub const MAX_RANKS: u32 = 1 << 20;

/// How many ranks are asked for, and what limits them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// The job's programs, in order; ranks are numbered program by program.
    pub apps: Vec<AppRequest>,
    /// `-N`: at most so many ranks per node, of each program.
    pub per_node: Option<u32>,
    /// More ranks than slots is allowed.
    pub oversubscribe: bool,
    /// By what ranks are dealt to hosts.
    pub map_by: MapBy,
    /// In which order they are numbered; none means as they are dealt.
    pub rank_by: Option<RankBy>,
    /// With [`MapBy::Sequence`] and [`MapBy::Rankfile`] the places of ranks, in order, as places in the list of hosts.
    pub sequence: Vec<usize>,
}

/// What one program asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppRequest {
    /// `-n`: how many ranks; none means one per slot, or `per_node` on every node.
    pub rank_count: Option<u32>,
    /// The hosts that the program may run on, by their places in the list of hosts; none means all.
    pub hosts: Option<Vec<HostChoice>>,
}

/// A host that a program may run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostChoice {
    /// Its place in the list of hosts.
    pub index: usize,
    /// How many of its slots the program may take; none means all.
    pub slots: Option<u32>,
}

impl Request {
    /// Returns what a job asks of these hosts.
    ///
    /// # Errors
    /// An item of `-H` that names none of the hosts.
    pub fn new(spec: &JobSpec, hosts: &[Host]) -> Result<Request, HostError> {
        let app = |app: &App| {
            // A single program's list has made the list of hosts already.
            let is_chosen = spec.apps.len() > 1 && !app.host_list.is_empty();
            let chosen = is_chosen.then(|| hostfile::choices(hosts, &app.host_list)).transpose()?;
            Ok(AppRequest { rank_count: app.rank_count, hosts: chosen })
        };
        Ok(Request {
            apps: spec.apps.iter().map(app).collect::<Result<_, HostError>>()?,
            per_node: spec.ranks_per_node,
            oversubscribe: spec.oversubscribe,
            map_by: spec.map_by,
            rank_by: spec.rank_by,
            sequence: sequence(spec, hosts)?,
        })
    }

    /// Whether each rank's host is named, one by one.
    fn is_one_by_one(&self) -> bool {
        matches!(self.map_by, MapBy::Sequence | MapBy::Rankfile)
    }
}

/// The host of each rank, where they are named one by one.
fn sequence(spec: &JobSpec, hosts: &[Host]) -> Result<Vec<usize>, HostError> {
    match (&spec.rankfile, spec.map_by) {
        (Some(rankfile), MapBy::Rankfile) => {
            let index = |place: &RankfilePlace| {
                let name = place.host.clone();
                // Hosts behind the last one that is needed may be gone already, and so may the ranks on them.
                hostfile::choices(hosts, &[name]).map(|chosen| chosen[0].index)
            };
            let places = rankfile.places.iter().take(asked(spec).unwrap_or(usize::MAX));
            places.map(index).collect()
        }
        (_, MapBy::Sequence) => {
            let mentions = hosts.iter().enumerate();
            let mut places: Vec<(u32, usize)> = mentions
                .flat_map(|(index, host)| host.places.iter().map(move |place| (*place, index)))
                .collect();
            places.sort_unstable();
            Ok(places.into_iter().map(|(_, index)| index).collect())
        }
        _ => Ok(Vec::new()),
    }
}

/// How many ranks all programs ask for, where all say it.
fn asked(spec: &JobSpec) -> Option<usize> {
    spec.apps.iter().map(|app| app.rank_count.map(|count| count as usize)).sum()
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
    /// Its parts; none before the host was contacted.
    pub topology: Option<Topology>,
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
    HostWithSlots { host, slots, origin, topology: facts.map(|facts| facts.topology.clone()) }
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

    /// Returns how many ranks the nodes have slots for: the job's own at least.
    pub fn universe_size(&self) -> u32 {
        let slots = self.nodes.iter().map(|node| node.slots.map_or(node.ranks.len(), |slots| slots as usize));
        u32::try_from(slots.sum::<usize>().max(self.ranks.len())).unwrap_or(u32::MAX)
    }

    /// Returns what agents are told about where ranks are.
    pub fn job_map(&self) -> JobMap {
        let node =
            |place: &NodePlace| MappedNode { host: place.host.to_string(), ranks: place.ranks.clone() };
        JobMap {
            world: 0,
            first_rank: Rank(0),
            nodes: self.nodes.iter().map(node).collect(),
            universe_size: self.universe_size(),
            app_sizes: app_sizes(self.ranks.iter().map(|place| place.app)),
        }
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
    /// Which of the job's programs it runs.
    pub app: usize,
}

/// What one node runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// The node: its number among those that have ranks.
    pub node: NodeId,
    /// Its place in the list of hosts.
    pub host_index: usize,
    /// The host that it is.
    pub host: Host,
    /// Its ranks, in order of local rank.
    pub ranks: Vec<Rank>,
    /// Its slots; none where they are unknown and were not needed.
    pub slots: Option<u32>,
    /// Where that number came from.
    pub slots_origin: SlotsOrigin,
}

/// How many ranks each program has, given the program of every rank.
fn app_sizes(apps: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut sizes = Vec::new();
    for app in apps {
        sizes.resize(sizes.len().max(app + 1), 0);
        sizes[app] += 1;
    }
    sizes
}

/// Places ranks on hosts, in the order of the hosts.
///
/// Without `-N` a host takes as many ranks as it has slots. With `-N Y` it takes at most Y, and slots limit it only
/// where the user spelled them. More ranks than that is an error unless `oversubscribe` is set: then, without `-N`,
/// what is left over is shared out evenly, earlier hosts first. A program takes what those before it have left.
///
/// # Errors
/// [`MapError`] names each host, its slots, where each number came from, and the flag that would allow it.
pub fn place(request: &Request, hosts: &[HostWithSlots]) -> Result<Placement, MapError> {
    let places = places(request, hosts)?;
    let mut nodes: Vec<NodePlace> = Vec::new();
    let mut node_of_host = vec![None; hosts.len()];
    let mut has_rank = vec![false; hosts.len()];
    places.iter().for_each(|(host, _)| has_rank[*host] = true);
    for (index, host) in hosts.iter().enumerate().filter(|(index, _)| has_rank[*index]) {
        let node = NodeId(u32::try_from(nodes.len()).expect("a node has one of at most MAX_RANKS ranks"));
        node_of_host[index] = Some(node);
        nodes.push(NodePlace {
            node,
            host_index: index,
            host: host.host.clone(),
            ranks: Vec::new(),
            slots: host.slots,
            slots_origin: host.origin,
        });
    }
    let mut ranks = Vec::with_capacity(places.len());
    for ((host, app), rank) in places.into_iter().zip(0..) {
        let node = node_of_host[host].expect("every host that has a rank is a node");
        let on_node = &mut nodes[node.index()].ranks;
        let local_rank = u32::try_from(on_node.len()).expect("there are at most MAX_RANKS ranks");
        on_node.push(Rank(rank));
        ranks.push(RankPlace { rank: Rank(rank), node, local_rank, app });
    }
    Ok(Placement { ranks, nodes })
}

/// The host and the program of each rank, in the order of the ranks.
fn places(request: &Request, hosts: &[HostWithSlots]) -> Result<Vec<(usize, usize)>, MapError> {
    if request.is_one_by_one() {
        return one_by_one(request, hosts);
    }
    let mut places = Vec::new();
    for (app, counts) in counts::ranks_per_host(request, hosts)?.iter().enumerate() {
        places.extend(numbered(request, counts).into_iter().map(|host| (host, app)));
    }
    Ok(places)
}

/// Each program takes the next of the places that are named, on its own hosts.
fn one_by_one(request: &Request, hosts: &[HostWithSlots]) -> Result<Vec<(usize, usize)>, MapError> {
    if hosts.is_empty() {
        return Err(MapError::NoHosts);
    }
    let mut free: Vec<usize> = request.sequence.clone();
    let mut places = Vec::new();
    for (number, app) in request.apps.iter().enumerate() {
        let is_chosen =
            |host: usize| app.hosts.as_ref().is_none_or(|chosen| chosen.iter().any(|one| one.index == host));
        let wanted = app.rank_count.map_or(usize::MAX, |count| count as usize);
        let (mut taken, mut left) = (0, Vec::new());
        for host in free {
            if taken < wanted && is_chosen(host) {
                taken += 1;
                places.push((host, number));
            } else {
                left.push(host);
            }
        }
        free = left;
        if taken < wanted && wanted != usize::MAX || taken == 0 {
            let source = if request.map_by == MapBy::Rankfile { "the rankfile" } else { "the list of hosts" };
            return Err(MapError::TooFewPlaces {
                asked: if wanted == usize::MAX { 1 } else { wanted as u64 },
                places: taken,
                source_of_places: source.to_owned(),
            });
        }
    }
    Ok(places)
}

/// The host of each rank of a program, in the order of the ranks.
fn numbered(request: &Request, counts: &[u32]) -> Vec<usize> {
    let hosts = || counts.iter().enumerate();
    match request.rank_by.unwrap_or(request.map_by.rank_by()) {
        RankBy::Slot => hosts().flat_map(|(host, count)| (0..*count).map(move |_| host)).collect(),
        RankBy::Node => {
            let turns = 0..counts.iter().copied().max().unwrap_or(0);
            let turn = |turn: u32| hosts().filter(move |(_, count)| **count > turn).map(|(host, _)| host);
            turns.flat_map(turn).collect()
        }
    }
}

/// Says for each host whether it needs to be contacted before ranks can be placed.
///
/// A host whose slots are unknown counts as one slot, the least it can have; so a host that is not needed can never
/// get a rank. Some that are needed may get none once their slots are known.
pub fn hosts_needed(request: &Request, hosts: &[Host]) -> Vec<bool> {
    let known: Vec<HostWithSlots> = hosts.iter().map(|host| slots_of(host.clone(), None)).collect();
    let mut needed = vec![false; hosts.len()];
    if request.is_one_by_one() {
        let asked: Option<usize> = request
            .apps
            .iter()
            .map(|app| app.rank_count.filter(|_| app.hosts.is_none()).map(|count| count as usize))
            .sum();
        request.sequence.iter().take(asked.unwrap_or(usize::MAX)).for_each(|host| needed[*host] = true);
        return needed;
    }
    for app in &request.apps {
        let mut room = 0;
        for (index, share) in counts::shares(app, hosts.len()) {
            let wanted = app.rank_count.map_or(u64::MAX, u64::from);
            // Where programs share hosts, what the others take is not known here.
            if room < wanted || request.apps.len() > 1 {
                needed[index] = true;
            }
            room += u64::from(counts::least(request, &known[index]).min(share));
        }
    }
    needed
}

#[cfg(test)]
mod tests;
