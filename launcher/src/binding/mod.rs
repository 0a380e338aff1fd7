//! Chooses cores, GPU and network cards for each rank of a node.
//!
//! Given what the user asked for ([`Policy`]), a node's topology and how many ranks it has, [`bind`] says which CPUs each
//! rank may run on, which GPU is its own, and which EFA devices are nearest to that. Pure. Without `--bind-to` ranks are
//! not bound at all; GPU and cards are told all the same.
//!
//! Objects are counted in the order of sockets, then NUMA nodes, then cores; CPUs that the agent may not use are not
//! there. How near devices are to each other is decided by their paths in the PCI tree, then by their NUMA nodes.

mod nearness;
mod render;

use efarun_wire::facts::{Cpu, Topology};

pub use render::{describe, ranges};

/// A part of a machine, from the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// One CPU, as the kernel counts them.
    Hwthread,
    /// A core, with all its hardware threads.
    Core,
    /// A NUMA node.
    Numa,
    /// A socket.
    Socket,
}

/// What ranks are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BindTo {
    /// Nothing.
    #[default]
    None,
    /// A part of the machine.
    Object(Object),
    /// The cores near their GPU.
    Gpu,
}

/// How ranks are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// What to.
    pub bind_to: BindTo,
    /// More ranks than there are cores may share them.
    pub overload_allowed: bool,
    /// Cores, or CPUs, for each rank; none means one.
    pub cpus_per_rank: Option<u32>,
    /// The objects that ranks of a node are dealt to, and how.
    pub dealt: Option<Dealt>,
}

/// How the ranks of a node are dealt to its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dealt {
    /// The objects.
    pub object: Object,
    /// One after the other, and from the first again.
    pub order: Order,
}

/// In which order objects get ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Each object one rank, then each a second one, as `--map-by socket` does.
    Turns,
    /// As many ranks as this on the first object before the second gets one, as `--map-by ppr:N:socket` does.
    Runs(u32),
    /// An even share of consecutive ranks on each, as `--rank-by slot` does.
    Shares,
}

/// What one rank gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RankBinding {
    /// The CPUs that it may run on, ascending; none means all.
    pub cpus: Vec<u32>,
    /// Its GPU's PCI address, where the node has GPUs.
    pub gpu: Option<String>,
    /// The EFA devices nearest to its GPU, or its share of them where there is no GPU.
    pub nics: Vec<String>,
}

/// Cores that are named by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Whose cores they are; none means the node's.
    pub socket: Option<u32>,
    /// Which.
    pub cores: CoreList,
}

/// Numbers of cores, counted from 0 in the order in which this module counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreList {
    /// Every one.
    All,
    /// These, ascending.
    Numbered(Vec<u32>),
}

/// Why ranks of a node cannot be bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// More is asked for than there is.
    #[error(
        "{ranks} ranks{} need {needed} {what}, and {host} has {there}\n  hint: ask for fewer ranks there, add `:overload-allowed` to --bind-to, or leave --bind-to out",
        share_text(*.each, .what)
    )]
    TooFew {
        /// The host.
        host: String,
        /// How many ranks.
        ranks: u32,
        /// How many of them each rank gets.
        each: u32,
        /// `cores`, `hardware threads`.
        what: &'static str,
        /// How many that makes.
        needed: u64,
        /// How many there are.
        there: usize,
    },
    /// Cores near a GPU are asked for, and there is none.
    #[error("--bind-to gpu: {host} has no GPU\n  hint: --bind-to numa or core needs none")]
    NoGpu {
        /// The host.
        host: String,
    },
    /// A core or socket is named that is not there.
    #[error("a rank is to run on {wanted} of {host}, which has {there}")]
    NoSuchCore {
        /// The host.
        host: String,
        /// `core 7`, `socket 2`.
        wanted: String,
        /// `4 cores`, `1 socket`.
        there: String,
    },
    /// The agent did not tell which CPUs there are.
    #[error("--bind-to: {host} does not tell which CPUs it has")]
    NoCpus {
        /// The host.
        host: String,
    },
}

fn share_text(each: u32, what: &str) -> String {
    if each == 1 { String::new() } else { format!(" of {each} {what} each") }
}

/// Chooses for every rank of a node, in order of local rank. `host` is named in errors.
///
/// # Errors
/// More cores than there are, or a GPU where there is none.
pub fn bind(
    policy: Policy,
    topology: &Topology,
    ranks: u32,
    host: &str,
) -> Result<Vec<RankBinding>, BindError> {
    let mut bindings: Vec<RankBinding> = (0..ranks).map(|rank| devices(topology, rank, ranks)).collect();
    if policy.bind_to == BindTo::None {
        return Ok(bindings);
    }
    if topology.cpus.is_empty() {
        return Err(BindError::NoCpus { host: host.to_owned() });
    }
    let cpus = match policy.bind_to {
        BindTo::None => Vec::new(),
        BindTo::Gpu => near_gpus(topology, ranks, host)?,
        BindTo::Object(object @ (Object::Core | Object::Hwthread)) => {
            small_parts(policy, object, topology, ranks, host)?
        }
        BindTo::Object(object) => large_parts(policy, object, topology, ranks),
    };
    bindings.iter_mut().zip(cpus).for_each(|(binding, cpus)| binding.cpus = cpus);
    Ok(bindings)
}

/// The CPUs of cores that are named.
///
/// # Errors
/// A core or socket that `host` does not have.
pub fn cpus_of(cores: &Cores, topology: &Topology, host: &str) -> Result<Vec<u32>, BindError> {
    let missing = |what: &str, number: u32, count: usize| {
        let plural = if count == 1 { "" } else { "s" };
        let (wanted, there) = (format!("{what} {number}"), format!("{count} {what}{plural}"));
        BindError::NoSuchCore { host: host.to_owned(), wanted, there }
    };
    let mut all = objects(topology, Object::Core);
    if let Some(number) = cores.socket {
        let sockets = objects(topology, Object::Socket);
        let socket = sockets.get(number as usize).ok_or_else(|| missing("socket", number, sockets.len()))?;
        all.retain(|core| socket.contains(&core[0]));
    }
    let mut cpus = Vec::new();
    match &cores.cores {
        CoreList::All => cpus.extend(all.into_iter().flatten()),
        CoreList::Numbered(numbers) => {
            for number in numbers {
                cpus.extend(all.get(*number as usize).ok_or_else(|| missing("core", *number, all.len()))?);
            }
        }
    }
    cpus.sort_unstable();
    Ok(cpus)
}

/// How many objects of a kind a node has.
pub fn count(topology: &Topology, object: Object) -> u32 {
    u32::try_from(objects(topology, object).len()).unwrap_or(u32::MAX)
}

/// The CPUs of each object of a kind, in order.
fn objects(topology: &Topology, object: Object) -> Vec<Vec<u32>> {
    let key = |cpu: &Cpu| match object {
        Object::Socket => (cpu.package, 0, 0, 0),
        Object::Numa => (0, cpu.numa, 0, 0),
        Object::Core => (cpu.package, cpu.numa, cpu.core, 0),
        Object::Hwthread => (cpu.package, cpu.numa, cpu.core, cpu.id),
    };
    let mut cpus: Vec<&Cpu> = topology.cpus.iter().collect();
    cpus.sort_by_key(|cpu| (key(cpu), cpu.id));
    cpus.chunk_by(|a, b| key(a) == key(b)).map(|cpus| cpus.iter().map(|cpu| cpu.id).collect()).collect()
}

/// Which of `count` objects a rank is dealt to.
fn turn(order: Order, rank: u32, ranks: u32, count: usize) -> usize {
    let (rank, ranks) = (rank as usize, ranks as usize);
    match order {
        Order::Turns => rank % count,
        Order::Runs(length) => rank / (length.max(1) as usize) % count,
        Order::Shares => rank * count / ranks.max(1),
    }
}

/// NUMA nodes or sockets: the ones that ranks are dealt to, or even shares of consecutive ranks.
fn large_parts(policy: Policy, object: Object, topology: &Topology, ranks: u32) -> Vec<Vec<u32>> {
    let parts = objects(topology, object);
    let of_rank = |rank: u32| {
        let Some(dealt) = policy.dealt.filter(|dealt| dealt.object != object) else {
            let order = policy.dealt.map_or(Order::Shares, |dealt| dealt.order);
            return parts[turn(order, rank, ranks, parts.len())].clone();
        };
        // Dealt to something else: the part that has, or is in, the first CPU of that.
        let homes = objects(topology, dealt.object);
        let first = homes[turn(dealt.order, rank, ranks, homes.len())][0];
        parts.iter().find(|part| part.contains(&first)).cloned().unwrap_or_default()
    };
    (0..ranks).map(of_rank).collect()
}

/// Cores or hardware threads, each for one rank alone while they last.
fn small_parts(
    policy: Policy,
    object: Object,
    topology: &Topology,
    ranks: u32,
    host: &str,
) -> Result<Vec<Vec<u32>>, BindError> {
    let each = policy.cpus_per_rank.unwrap_or(1).max(1);
    let all = objects(topology, object);
    // What a rank chooses from: all, or those of the larger object that it is dealt to.
    let dealt = policy.dealt.filter(|dealt| dealt.object > object);
    let homes: Vec<Vec<Vec<u32>>> = match dealt {
        None => vec![all.clone()],
        Some(dealt) => {
            let inside =
                |home: &Vec<u32>| all.iter().filter(|part| home.contains(&part[0])).cloned().collect();
            objects(topology, dealt.object).iter().map(inside).collect()
        }
    };
    let order = dealt.map_or(Order::Turns, |dealt| dealt.order);
    let mut taken = vec![0; homes.len()];
    let mut parts = Vec::with_capacity(ranks as usize);
    for rank in 0..ranks {
        let home = turn(order, rank, ranks, homes.len());
        let (from, room) = (taken[home], homes[home].len());
        let to = from + each as usize;
        if to > room && !policy.overload_allowed {
            let (needed, there) = (u64::from(ranks) * u64::from(each), all.len());
            let what = if object == Object::Core { "cores" } else { "hardware threads" };
            return Err(BindError::TooFew { host: host.to_owned(), ranks, each, what, needed, there });
        }
        let mut cpus: Vec<u32> = (from..to).flat_map(|index| homes[home][index % room].clone()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        parts.push(cpus);
        taken[home] = to;
    }
    Ok(parts)
}

/// The CPUs of the NUMA node that each rank's GPU is at; all, where the machine does not tell.
fn near_gpus(topology: &Topology, ranks: u32, host: &str) -> Result<Vec<Vec<u32>>, BindError> {
    if topology.gpus.is_empty() {
        return Err(BindError::NoGpu { host: host.to_owned() });
    }
    let of_rank = |rank: u32| {
        let numa = topology.gpus[rank as usize % topology.gpus.len()].numa;
        let near = |cpu: &&Cpu| numa == Some(cpu.numa);
        let mut cpus: Vec<u32> = topology.cpus.iter().filter(near).map(|cpu| cpu.id).collect();
        if cpus.is_empty() {
            cpus = topology.cpus.iter().map(|cpu| cpu.id).collect();
        }
        cpus.sort_unstable();
        cpus
    };
    Ok((0..ranks).map(of_rank).collect())
}

/// A rank's GPU by its number, and the cards nearest to it.
fn devices(topology: &Topology, rank: u32, ranks: u32) -> RankBinding {
    let gpus = &topology.gpus;
    let (gpu, nics) = if gpus.is_empty() {
        let nics = &topology.efa_devices;
        let shares = (ranks as usize).min(nics.len()).max(1);
        let share = rank as usize % shares;
        let mine = nics.iter().enumerate().filter(|(index, _)| index * shares / nics.len().max(1) == share);
        (None, mine.map(|(_, nic)| nic.name.clone()).collect())
    } else {
        let index = rank as usize % gpus.len();
        (Some(gpus[index].name.clone()), nearness::nics_of_gpu(topology, index))
    };
    RankBinding { cpus: Vec::new(), gpu, nics }
}

#[cfg(test)]
mod tests;
