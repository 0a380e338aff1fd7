//! Which cards a rank uses: those closest to its GPU, none too busy.
//!
//! Given a node's cards and GPUs as sysfs shows them, and how many ranks the node has, [`rails`] says for a rank which
//! cards are its rails, closest first. It promises that all cards are used where there are ranks enough, each by as
//! many ranks as any other, give or take one; and that every rank of the node computes the same for every other, so
//! that nobody need be asked. Rank i of a node is taken to use GPU i in the order of the bus, which is what efarun sets
//! up; a program that chooses otherwise loses closeness, not correctness.
//!
//! Names are never parsed: instances name cards in more than one way. Two devices are close when their paths in sysfs
//! have much in common. Virtual machines hide switches; there, what is behind one shares its root bus at least, and what
//! does not may share a NUMA node.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};

use crate::fabric::Nic;

/// A device on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where it is: root bus, bridges, address.
    path: Vec<String>,
    /// Its NUMA node, where the machine says.
    numa_node: Option<u32>,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Cards, in the order that they were asked for.
    pub nics: Vec<Device>,
    /// GPUs, in the order of the bus.
    pub gpus: Vec<Device>,
}

impl Machine {
    /// Reads from a `/sys` where these cards and whatever GPUs are. What it does not say is far from everything.
    pub fn read(sysfs: &Path, nics: &[Nic]) -> Self {
        let devices = sysfs.join("bus/pci/devices");
        let mut gpus: Vec<PathBuf> = std::fs::read_dir(&devices)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|device| is_gpu(device))
            .collect();
        gpus.sort();
        Machine {
            nics: nics.iter().map(|nic| Device::read(&devices.join(&nic.pci))).collect(),
            gpus: gpus.iter().map(|device| Device::read(device)).collect(),
        }
    }
}

impl Device {
    fn read(device: &Path) -> Self {
        let place = std::fs::canonicalize(device).unwrap_or_default();
        let parts = place.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let path = parts.skip_while(|part| !part.starts_with("pci")).collect();
        // -1 where the machine does not know.
        let numa_node = text(&device.join("numa_node")).parse().ok();
        Device { path, numa_node }
    }

    /// Sorts what is closer to `self` first.
    fn distance(&self, other: &Device) -> (Reverse<usize>, bool) {
        let common = self.path.iter().zip(&other.path).take_while(|(mine, theirs)| mine == theirs).count();
        let same_node = self.numa_node.is_some() && self.numa_node == other.numa_node;
        (Reverse(common), !same_node)
    }
}

/// The cards of a rank, as places in `machine.nics`, closest first; none where there are no cards.
pub fn rails(machine: &Machine, local_rank: usize, local_size: usize) -> Vec<usize> {
    let nic_count = machine.nics.len();
    if nic_count == 0 || local_rank >= local_size {
        return Vec::new();
    }
    let per_rank = (nic_count / local_size).max(1);
    // Each card has so many users, and so many cards one more.
    let (even, mut odd) = (local_size * per_rank / nic_count, local_size * per_rank % nic_count);
    let mut users = vec![0; nic_count];
    let mut mine = Vec::new();
    for rank in 0..=local_rank {
        // Without a GPU of its own a rank is as far along the ranks as its cards are along the cards.
        let gpu = machine.gpus.get(rank).filter(|_| machine.gpus.len() >= local_size);
        let along = rank * nic_count / local_size;
        let mut order: Vec<usize> = (0..nic_count).collect();
        order.sort_by_key(|&nic| (gpu.map(|gpu| gpu.distance(&machine.nics[nic])), nic.abs_diff(along), nic));
        mine.clear();
        for nic in order {
            let takes_odd = users[nic] == even && odd > 0;
            if mine.len() < per_rank && (users[nic] < even || takes_odd) {
                odd -= usize::from(takes_odd);
                users[nic] += 1;
                mine.push(nic);
            }
        }
    }
    // Rail i of a rank talks to rail i of others: the same order everywhere.
    mine.sort_unstable();
    mine
}

/// What is wrong with a card's port, as the kernel writes it (`DOWN`), if it says that anything is.
pub fn port_trouble(sysfs: &Path, nic: &str) -> Option<String> {
    let state = text(&sysfs.join("class/infiniband").join(nic).join("ports/1/state"));
    let (number, word) = state.split_once(": ")?;
    (number != "4").then(|| word.to_owned())
}

/// The `/sys` to look at: that of `SYSFS_PATH`, as libibverbs takes it, else the machine's.
pub fn sysfs() -> PathBuf {
    std::env::var_os("SYSFS_PATH")
        .filter(|path| !path.is_empty())
        .map_or_else(|| "/sys".into(), PathBuf::from)
}

fn is_gpu(device: &Path) -> bool {
    let class = text(&device.join("class"));
    text(&device.join("vendor")) == "0x10de" && (class.starts_with("0x0302") || class.starts_with("0x0300"))
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A `/sys` with devices of (path below `devices`, vendor, class, NUMA node).
    fn sysfs_of(devices: &[(String, &str, &str, i32)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        let links = root.path().join("bus/pci/devices");
        fs::create_dir_all(&links).expect("made");
        for (path, vendor, class, numa_node) in devices {
            let device = root.path().join("devices").join(path);
            fs::create_dir_all(&device).expect("made");
            for (file, content) in
                [("vendor", *vendor), ("class", *class), ("numa_node", &numa_node.to_string())]
            {
                fs::write(device.join(file), format!("{content}\n")).expect("written");
            }
            symlink(&device, links.join(device.file_name().expect("an address"))).expect("linked");
        }
        root
    }

    fn nics(addresses: &[String]) -> Vec<Nic> {
        addresses.iter().map(|pci| Nic { name: String::new(), pci: pci.clone() }).collect()
    }

    const GPU: (&str, &str) = ("0x10de", "0x030200");
    const EFA: (&str, &str) = ("0x1d0f", "0x020000");

    /// A p4d: on each of four root buses a card and two GPUs, no switch to be seen.
    fn p4d() -> Machine {
        let mut devices = Vec::new();
        let mut cards = Vec::new();
        for (bus, numa_node) in [("10", 0), ("20", 0), ("90", 1), ("a0", 1)] {
            let place = |slot: &str| format!("pci0000:{bus}/0000:{bus}:{slot}.0");
            devices.push((place("1b"), EFA.0, EFA.1, numa_node));
            devices.push((place("1c"), GPU.0, GPU.1, numa_node));
            devices.push((place("1d"), GPU.0, GPU.1, numa_node));
            cards.push(format!("0000:{bus}:1b.0"));
        }
        let root = sysfs_of(&devices);
        Machine::read(root.path(), &nics(&cards))
    }

    /// A p5: eight switches with four cards and a GPU each; cards are asked for in an order that is not the bus's.
    fn p5() -> Machine {
        let mut devices = Vec::new();
        let mut cards = Vec::new();
        for (switch, first) in [0x4f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6].into_iter().enumerate() {
            let numa_node = i32::from(switch >= 4);
            let behind = |bus: u32| {
                format!("pci0000:{:02x}/0000:{:02x}:01.0/0000:{bus:02x}:00.0", first - 11, first - 11)
            };
            for bus in first..first + 4 {
                devices.push((behind(bus), EFA.0, EFA.1, numa_node));
                cards.push(format!("0000:{bus:02x}:00.0"));
            }
            devices.push((behind(first + 4), GPU.0, GPU.1, numa_node));
        }
        let root = sysfs_of(&devices);
        Machine::read(root.path(), &nics(&cards))
    }

    fn all_rails(machine: &Machine, local_size: usize) -> Vec<Vec<usize>> {
        (0..local_size).map(|rank| rails(machine, rank, local_size)).collect()
    }

    #[test]
    fn ranks_of_a_p4d_use_the_card_on_their_gpus_bus() {
        let machine = p4d();
        assert_eq!((machine.nics.len(), machine.gpus.len()), (4, 8));
        assert_eq!(all_rails(&machine, 8), [[0], [0], [1], [1], [2], [2], [3], [3]]);
    }

    #[test]
    fn fewer_ranks_than_cards_share_all_of_a_p4ds_cards() {
        let machine = p4d();
        assert_eq!(all_rails(&machine, 1), [[0, 1, 2, 3]]);
        assert_eq!(all_rails(&machine, 2), [[0, 1], [2, 3]]);
        // GPU 1's card has a user; the other of its NUMA node has none.
        assert_eq!(all_rails(&machine, 4), [[0], [1], [2], [3]]);
    }

    #[test]
    fn ranks_of_a_p5_use_the_four_cards_behind_their_gpus_switch() {
        let machine = p5();
        for (rank, cards) in all_rails(&machine, 8).into_iter().enumerate() {
            assert_eq!(cards, (rank * 4..rank * 4 + 4).collect::<Vec<_>>());
        }
    }

    #[test]
    fn more_ranks_than_gpus_spread_over_the_cards() {
        let users = |local_size: usize, nic: usize| {
            all_rails(&p4d(), local_size).iter().filter(|cards| cards.contains(&nic)).count()
        };
        for local_size in [3, 5, 9, 16, 96] {
            let counts: Vec<usize> = (0..4).map(|nic| users(local_size, nic)).collect();
            let (least, most) = (counts.iter().min().expect("four"), counts.iter().max().expect("four"));
            assert!(most - least <= 1, "{local_size} ranks: {counts:?}");
        }
    }

    #[test]
    fn without_gpus_ranks_are_as_far_along_as_their_cards() {
        let machine = Machine { gpus: Vec::new(), ..p4d() };
        assert_eq!(all_rails(&machine, 2), [[0, 1], [2, 3]]);
        assert_eq!(all_rails(&machine, 8), [[0], [0], [1], [1], [2], [2], [3], [3]]);
    }

    #[test]
    fn ports_that_are_not_active_are_told_by_the_kernels_word() {
        let root = tempfile::tempdir().expect("a folder");
        let port = root.path().join("class/infiniband/rdmap16s27/ports/1");
        fs::create_dir_all(&port).expect("made");
        assert_eq!(port_trouble(root.path(), "rdmap16s27"), None, "nothing is said");
        for (state, trouble) in
            [("4: ACTIVE\n", None), ("1: DOWN\n", Some("DOWN")), ("2: INIT\n", Some("INIT"))]
        {
            fs::write(port.join("state"), state).expect("written");
            assert_eq!(port_trouble(root.path(), "rdmap16s27").as_deref(), trouble);
        }
    }

    #[test]
    fn a_machine_that_says_nothing_still_has_cards() {
        let machine = Machine::read(Path::new("/nowhere"), &nics(&["0000:10:1b.0".into(), String::new()]));
        assert_eq!(machine.gpus, []);
        assert_eq!(rails(&machine, 0, 1), [0, 1]);
        assert_eq!(rails(&Machine::default(), 0, 1), []);
    }
}
