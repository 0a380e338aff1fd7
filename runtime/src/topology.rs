//! Which ranks share a node.
//!
//! Every rank describes the place it runs in ([`Place`]); from all descriptions every rank computes the same
//! [`Topology`]. Two ranks are on one node when they can share memory: same boot of the same machine, same PID and
//! network namespace, same user, and, under efarun, the same node number. Containers of one machine are nodes of
//! their own.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;

use efarun_wire::Rank;

use crate::coll::nodes::Nodes;

/// The place that a rank runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What the machine calls itself. For people; two machines may have the same.
    pub hostname: String,
    /// What tells this place from others. Ranks with the same key share a node.
    pub key: String,
}

impl Place {
    /// Describes this process's place. `node_rank` is the node's number, where a launcher gave one.
    pub fn here(node_rank: Option<u32>) -> Self {
        let hostname =
            hostname::get().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let namespace =
            |name: &str| std::fs::metadata(format!("/proc/self/ns/{name}")).map_or(0, |it| it.ino());
        let key = format!(
            "machine {} boot {} pid-ns {} net-ns {} uid {} node {}",
            file("/etc/machine-id"),
            file("/proc/sys/kernel/random/boot_id"),
            namespace("pid"),
            namespace("net"),
            nix::unistd::geteuid(),
            node_rank.map_or("-".to_owned(), |number| number.to_string()),
        );
        Place { hostname, key }
    }

    /// As bytes, for the bootstrap.
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{}\n{}", self.hostname, self.key).into_bytes()
    }

    /// From bytes, if they are a place.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (hostname, key) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        Some(Place { hostname: hostname.to_owned(), key: key.to_owned() })
    }
}

/// Who is where, the same on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The number of each rank's node. Nodes are numbered by their lowest rank.
    node_of: Vec<usize>,
    /// The ranks of each node, ascending.
    nodes: Vec<Vec<Rank>>,
    hostnames: Vec<String>,
}

impl Topology {
    /// From all ranks' places, in order of rank.
    pub fn from_places(places: &[Place]) -> Self {
        let mut numbers = HashMap::new();
        let mut nodes: Vec<Vec<Rank>> = Vec::new();
        let mut node_of = Vec::with_capacity(places.len());
        for (place, rank) in places.iter().zip((0..).map(Rank)) {
            let node = *numbers.entry(place.key.as_str()).or_insert_with(|| {
                nodes.push(Vec::new());
                nodes.len() - 1
            });
            nodes[node].push(rank);
            node_of.push(node);
        }
        Topology { node_of, nodes, hostnames: places.iter().map(|place| place.hostname.clone()).collect() }
    }

    /// World size.
    pub fn world_size(&self) -> u32 {
        self.node_of.len() as u32
    }

    /// The nodes, as schedules are made from them.
    pub fn nodes(&self) -> Nodes {
        Nodes::new(self.nodes.clone())
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// The number of a rank's node.
    pub fn node_rank(&self, rank: Rank) -> u32 {
        self.node_of[rank.index()] as u32
    }

    /// The ranks on a rank's node, itself among them, ascending.
    pub fn local_ranks(&self, rank: Rank) -> &[Rank] {
        &self.nodes[self.node_of[rank.index()]]
    }

    /// A rank's number on its node.
    pub fn local_rank(&self, rank: Rank) -> u32 {
        self.local_ranks(rank).partition_point(|&other| other < rank) as u32
    }

    /// What a rank's machine calls itself.
    pub fn hostname(&self, rank: Rank) -> &str {
        &self.hostnames[rank.index()]
    }

    /// Ranks of other nodes on machines of the same name as this rank's: they were expected to share memory.
    pub fn estranged(&self, rank: Rank) -> impl Iterator<Item = Rank> + '_ {
        let elsewhere = move |&other: &Rank| self.node_rank(other) != self.node_rank(rank);
        (0..self.world_size())
            .map(Rank)
            .filter(elsewhere)
            .filter(move |&other| self.hostname(other) == self.hostname(rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(keys: &str) -> Topology {
        let place = |key: char| Place { hostname: key.to_ascii_lowercase().into(), key: key.into() };
        Topology::from_places(&keys.chars().map(place).collect::<Vec<_>>())
    }

    #[test]
    fn nodes_are_numbered_by_their_lowest_rank_and_local_ranks_ascend() {
        let topology = topology("bbacab");
        assert_eq!(topology.node_count(), 3);
        assert_eq!((0..6).map(|rank| topology.node_rank(Rank(rank))).collect::<Vec<_>>(), [0, 0, 1, 2, 1, 0]);
        assert_eq!(
            (0..6).map(|rank| topology.local_rank(Rank(rank))).collect::<Vec<_>>(),
            [0, 1, 0, 0, 1, 2]
        );
        assert_eq!(topology.local_ranks(Rank(4)), [Rank(2), Rank(4)]);
    }

    #[test]
    fn ranks_of_one_hostname_and_different_places_are_estranged() {
        assert_eq!(topology("aAa").estranged(Rank(0)).collect::<Vec<_>>(), [Rank(1)]);
        assert_eq!(topology("aba").estranged(Rank(0)).count(), 0);
    }

    #[test]
    fn a_place_survives_its_bytes_and_separates_launcher_nodes() {
        let here = Place::here(None);
        assert_eq!(Place::from_bytes(&here.to_bytes()), Some(here.clone()));
        assert_eq!(Place::here(None), here);
        assert_ne!(Place::here(Some(0)).key, Place::here(Some(1)).key);
        assert_eq!(Place::from_bytes(b"no newline"), None);
    }
}
