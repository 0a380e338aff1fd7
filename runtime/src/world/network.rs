//! Which network lies between the nodes, and by which address this node is on it.
//!
//! All ranks must take the same network, so each says how many EFA devices it could use, and EFA is taken where
//! all have some; each then uses as many as the rank that has fewest, those that are closest to it, and by writes where all
//! ranks' devices can ([`crate::transport::fabric`]). For TCP each rank must name an address of its node that all others reach. The one by which it met
//! them is such an address, unless it met rank 0 over loopback: then it is on rank 0's node, and the address by
//! which others met rank 0 leads to both.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Instant;

use efarun_wire::Rank;

use crate::bootstrap::OobConnection;
use crate::config::{Config, Provider};
use crate::error::Error;
use crate::fabric::{Library, Nic};
use crate::topology::Topology;
use crate::transport::fabric::affinity::{self, Machine};
use crate::transport::fabric::{Network, efa_devices};
use crate::warning;
use crate::world::setup::{Contribution, exchange};

/// What all ranks have agreed on, and this rank's place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// The network, never [`Provider::Auto`].
    pub(super) provider: Provider,
    /// The address of this node that the other nodes reach, for TCP.
    pub(super) local_address: Option<IpAddr>,
    /// The cards to use, rail by rail, for EFA.
    pub(super) devices: Vec<String>,
    /// Whether they write into others' memory, on all ranks.
    pub(super) writes: bool,
    /// Why it is this network, for people.
    pub(super) reason: String,
}

impl Agreement {
    /// How libfabric is used, where it is.
    pub(super) fn fabric(&self) -> Option<Network> {
        match self.provider {
            Provider::Efa if self.writes => Some(Network::EfaDirect),
            Provider::Efa | Provider::EfaRdm => Some(Network::Efa),
            Provider::FabricTcp => Some(Network::Tcp),
            Provider::Tcp | Provider::Auto => None,
        }
    }

    /// The EFA cards to use, where they are named.
    pub(super) fn cards(&self) -> Option<(Network, Vec<String>)> {
        let network = self.fabric().filter(|network| *network != Network::Tcp)?;
        (!self.devices.is_empty()).then(|| (network, self.devices.clone()))
    }
}

/// Agrees with all ranks on the network.
pub(super) fn agree(
    oob: &mut OobConnection,
    config: &Config,
    topology: &Topology,
    deadline: Instant,
) -> Result<Agreement, Error> {
    let address = config.node_address.or_else(|| oob.local_address()).or_else(route_to_master);
    let Cards { mut names, writes, left_out } = cards_of(oob.rank(), config.provider, topology);
    let mine = Word { rails: names.len(), writes, address };
    let all = exchange(oob, "network", Contribution::Good(mine.to_bytes()), deadline)?;
    let said: Vec<Word> = all.iter().map(|blob| Word::parse(blob)).collect();
    let host_of = |is_such: &dyn Fn(&Word) -> bool| {
        said.iter().position(is_such).map(|rank| topology.hostname(Rank(rank as u32)))
    };
    let fewest = said.iter().map(|word| word.rails).min().unwrap_or(0);
    let (provider, mut reason) = choose(config.provider, host_of(&|word| word.rails == 0));
    names.truncate(fewest);
    let reader = host_of(&|word| !word.writes);
    let writes = provider == Provider::Efa && fewest > 0 && reader.is_none();
    if provider == Provider::Efa {
        reason += &match reader {
            None => ", and every card writes into others' memory".to_owned(),
            Some(host) => format!(", and cards of {host} do not write into others' memory"),
        };
    }
    let first_with_cards = said.iter().position(|word| word.rails > 0) == Some(oob.rank().index());
    if provider == Provider::Tcp && config.provider == Provider::Auto && first_with_cards {
        warning::tell("network: TCP beside EFA", format_args!("EFA devices are not used but TCP: {reason}"));
    }
    if provider == Provider::Efa && !left_out.is_empty() {
        if topology.local_rank(oob.rank()) == 0 {
            warning::tell("network: left out", format_args!("goes without {}", left_out.join(", ")));
        }
        reason += &format!(", and without {}", left_out.join(", "));
    }
    let of_rank_0 = said.first().and_then(|word| word.address);
    Ok(Agreement { provider, local_address: reachable(address, of_rank_0), devices: names, writes, reason })
}

/// What a rank says to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    /// How many EFA devices it would use.
    rails: usize,
    /// Whether they write into others' memory.
    writes: bool,
    /// The address by which it met the others.
    address: Option<IpAddr>,
}

impl Word {
    fn to_bytes(self) -> Vec<u8> {
        let address = self.address.map_or_else(String::new, |address| address.to_string());
        format!("{} {} {address}", self.rails, u8::from(self.writes)).into_bytes()
    }

    /// Words that make no sense are those of a rank without EFA.
    fn parse(blob: &[u8]) -> Self {
        let mut words = std::str::from_utf8(blob).unwrap_or_default().split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (rails, writes) = (next().parse().unwrap_or(0), next() == "1");
        Word { rails, writes, address: next().parse().ok() }
    }
}

/// The cards that a rank would use.
#[derive(Debug, Default)]
struct Cards {
    names: Vec<String>,
    writes: bool,
    /// Cards that are not used, each with the reason.
    left_out: Vec<String>,
}

/// The cards that this rank would use; none where EFA is not to be used, or libfabric finds none.
fn cards_of(me: Rank, asked: Provider, topology: &Topology) -> Cards {
    let looks = match asked {
        Provider::Efa | Provider::EfaRdm => true,
        Provider::Auto => has_efa_device(&affinity::sysfs().join("class/infiniband")),
        Provider::Tcp | Provider::FabricTcp => false,
    };
    if !looks {
        return Cards::default();
    }
    let ask = |library: Library| {
        Ok((efa_devices(&library, Network::Efa)?, efa_devices(&library, Network::EfaDirect)?))
    };
    let (mut nics, writers) = Library::open().and_then(ask).unwrap_or_else(|error| {
        warning::tell("network: no EFA", format_args!("this host's EFA devices cannot be used: {error}"));
        Default::default()
    });
    // Asking libfabric may have changed where /sys is: soft devices bring one of their own.
    let sysfs = affinity::sysfs();
    let mut left_out = Vec::new();
    nics.retain(|nic| {
        let trouble = affinity::port_trouble(&sysfs, &nic.name);
        left_out.extend(trouble.iter().map(|trouble| format!("{}, whose port is {trouble}", nic.name)));
        trouble.is_none()
    });
    let machine = Machine::read(&sysfs, &nics);
    let (local_rank, local_size) = (topology.local_rank(me) as usize, topology.local_ranks(me).len());
    let mine: Vec<&Nic> =
        affinity::rails(&machine, local_rank, local_size).iter().map(|&rail| &nics[rail]).collect();
    let writes = mine.iter().all(|nic| writers.iter().any(|writer| writer.name == nic.name));
    Cards { names: mine.iter().map(|nic| nic.name.clone()).collect(), writes, left_out }
}

/// The network and the reason, given what was asked for, and a host that has no EFA device, if there is one.
fn choose(asked: Provider, without_efa: Option<&str>) -> (Provider, String) {
    match (asked, without_efa) {
        (Provider::Auto, Some(hostname)) => (Provider::Tcp, format!("no EFA device on {hostname}")),
        (Provider::Auto, None) => (Provider::Efa, "every node has an EFA device".to_owned()),
        (asked, _) => (asked, "asked for".to_owned()),
    }
}

/// The address to be reached by, of a rank that met the others by `mine`.
fn reachable(mine: Option<IpAddr>, of_rank_0: Option<IpAddr>) -> Option<IpAddr> {
    match mine {
        Some(address) if !address.is_loopback() => Some(address),
        _ => of_rank_0.or(mine),
    }
}

/// The address of this node from which MASTER_ADDR is reached. efarun sets it to rank 0's node, and the links of
/// ranks to their agents show no address.
fn route_to_master() -> Option<IpAddr> {
    let master: IpAddr = std::env::var("MASTER_ADDR").ok()?.parse().ok()?;
    let any = if master.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Connecting a datagram socket sends nothing; it asks the kernel for the route. The port does not matter.
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(SocketAddr::new(master, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Whether one of the machine's RDMA devices is EFA's.
fn has_efa_device(devices: &Path) -> bool {
    let driver = |device: std::fs::DirEntry| std::fs::canonicalize(device.path().join("device/driver")).ok();
    let Ok(entries) = std::fs::read_dir(devices) else { return false };
    entries.flatten().filter_map(driver).any(|driver| driver.file_name().is_some_and(|name| name == "efa"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn efa_is_taken_where_all_have_it_and_sockets_otherwise() {
        let word = |(provider, reason): (Provider, String)| format!("{provider}: {reason}");
        assert_eq!(word(choose(Provider::Auto, None)), "efa: every node has an EFA device");
        assert_eq!(word(choose(Provider::Auto, Some("h2"))), "tcp: no EFA device on h2");
        for asked in [Provider::Efa, Provider::EfaRdm, Provider::Tcp, Provider::FabricTcp] {
            assert_eq!(choose(asked, Some("h2")), (asked, "asked for".to_owned()));
        }
    }

    #[test]
    fn a_rank_that_met_rank_0_over_loopback_is_reached_by_rank_0s_address() {
        let [loopback, ten, eleven] = ["127.0.1.1", "10.0.0.1", "10.0.0.2"].map(|text| text.parse().ok());
        assert_eq!(reachable(loopback, ten), ten);
        assert_eq!(reachable(eleven, ten), eleven);
        assert_eq!(reachable(eleven, loopback), eleven);
        assert_eq!(reachable(loopback, loopback), loopback);
        assert_eq!(reachable(None, ten), ten);
        assert_eq!(reachable(None, None), None);
    }

    #[test]
    fn efa_devices_are_told_from_others_by_their_driver() {
        let root = tempfile::tempdir().expect("a folder");
        let add = |device: &str, driver: &str| {
            let (device, driver) =
                (root.path().join("class").join(device), root.path().join("drivers").join(driver));
            std::fs::create_dir_all(&driver).expect("made");
            std::fs::create_dir_all(device.join("device")).expect("made");
            std::os::unix::fs::symlink(driver, device.join("device/driver")).expect("made");
        };
        assert!(!has_efa_device(&root.path().join("class")));
        add("mlx5_0", "mlx5_core");
        assert!(!has_efa_device(&root.path().join("class")));
        add("rdmap0s6", "efa");
        assert!(has_efa_device(&root.path().join("class")));
    }

    #[test]
    fn what_ranks_say_survives_its_bytes() {
        for word in [
            Word { rails: 4, writes: true, address: "10.0.0.1".parse().ok() },
            Word { rails: 1, writes: false, address: "fe80::1".parse().ok() },
            Word::default(),
        ] {
            assert_eq!(Word::parse(&word.to_bytes()), word);
        }
        assert_eq!(Word::parse(b"\xff"), Word::default());
    }
}
