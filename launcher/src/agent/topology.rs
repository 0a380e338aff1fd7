//! CPUs, GPUs and network cards of a node, and where they are, from /sys.
//!
//! Reading only. What /sys does not tell is 0 or missing, as in a container that hides it: then everything is one
//! socket, and every CPU a core.

use std::collections::BTreeMap;
use std::path::Path;

use efarun_wire::facts::{Cpu, Device, Topology};

use super::facts::Node;

impl Node {
    /// Gathers what there is, for an agent that may use these CPUs; GPUs by PCI address, EFA devices by name.
    pub(super) fn topology(&self, allowed_cpus: &[u32], gpus: &[String], efa_devices: &[String]) -> Topology {
        let gpu = |address: &String| self.device(address, &Path::new("sys/bus/pci/devices").join(address));
        let card =
            |name: &String| self.device(name, &Path::new("sys/class/infiniband").join(name).join("device"));
        Topology {
            cpus: self.cpus(allowed_cpus),
            gpus: gpus.iter().map(gpu).collect(),
            efa_devices: efa_devices.iter().map(card).collect(),
        }
    }

    fn cpus(&self, allowed_cpus: &[u32]) -> Vec<Cpu> {
        let numa_of_cpu = self.numa_of_cpu();
        // Cores are counted from 0 within a socket; the first CPU of a core names it on the whole node.
        let mut core_names = BTreeMap::new();
        let cpu = |id: &u32| {
            let number = |name: &str| -> Option<u32> {
                self.text(format!("sys/devices/system/cpu/cpu{id}/topology/{name}"))?.parse().ok()
            };
            let package = number("physical_package_id").unwrap_or(0);
            let core =
                number("core_id").map_or(*id, |core| *core_names.entry((package, core)).or_insert(*id));
            Cpu { id: *id, core, package, numa: numa_of_cpu.get(id).copied().unwrap_or(0) }
        };
        allowed_cpus.iter().map(cpu).collect()
    }

    fn numa_of_cpu(&self) -> BTreeMap<u32, u32> {
        let nodes = self.names("sys/devices/system/node").into_iter();
        let nodes = nodes.filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
        let cpus = |node: u32| {
            let list = self.text(format!("sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
            parse_ranges(&list).into_iter().map(move |cpu| (cpu, node))
        };
        nodes.flat_map(cpus).collect()
    }

    fn device(&self, name: &str, link: &Path) -> Device {
        let path = self.resolved(link).unwrap_or_default();
        // The tree of bridges begins at the root bus.
        let pci_path = path.find("/pci").map_or("", |at| &path[at + 1..]).to_owned();
        let numa = self.text(link.join("numa_node")).and_then(|node| node.parse().ok());
        Device { name: name.to_owned(), pci_path, numa }
    }
}

/// CPUs as the kernel lists them: `0-3,8`. What is no number is left out.
fn parse_ranges(list: &str) -> Vec<u32> {
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<u32>().ok()?);
        Some(first..=last.min(MOST_CPUS))
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// More than any machine has; a bound for what a strange file says.
const MOST_CPUS: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::facts::fixture;

    #[test]
    fn ranges_are_the_kernels() {
        assert_eq!(parse_ranges("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(parse_ranges(" 7\n"), [7]);
        assert_eq!(parse_ranges("-,x-3,"), Vec::<u32>::new());
    }

    /// Trees written after what is documented of these machines, not recorded on them; each with all its CPUs.
    #[test]
    fn machines_are_read_as_their_trees_say() {
        let mut text = String::new();
        for (name, tree) in [("p4d", P4D), ("p5", P5), ("plain", PLAIN)] {
            let (_folder, node) = fixture::tree(tree);
            let cpus: Vec<u32> = node.numa_of_cpu().into_keys().collect();
            let topology = node.topology(&cpus, &node.gpus(), &node.efa_devices());
            text.push_str(&format!("{name}: {} cores of {} CPUs\n", node.cores(&cpus), cpus.len()));
            for cpu in &topology.cpus {
                text.push_str(&format!(
                    "  CPU {}: core {}, socket {}, NUMA {}\n",
                    cpu.id, cpu.core, cpu.package, cpu.numa
                ));
            }
            for device in topology.gpus.iter().chain(&topology.efa_devices) {
                text.push_str(&format!("  {}: {}, NUMA {:?}\n", device.name, device.pci_path, device.numa));
            }
            let ranks = u32::try_from(topology.gpus.len().max(2)).unwrap();
            let bindings =
                crate::binding::bind(crate::binding::Policy::default(), &topology, ranks, name).unwrap();
            for (rank, binding) in bindings.iter().enumerate() {
                text.push_str(&format!("  rank {rank}: {}\n", crate::binding::describe(binding)));
            }
        }
        insta::assert_snapshot!("machines", text);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_one_socket_of_cores() {
        let (_folder, node) = fixture::tree("");
        let topology = node.topology(&[0, 3], &[], &[]);
        let cpu = |id| Cpu { id, core: id, package: 0, numa: 0 };
        assert_eq!(topology.cpus, [cpu(0), cpu(3)]);
    }

    const P4D: &str = include_str!("machines/p4d");
    const P5: &str = include_str!("machines/p5");
    const PLAIN: &str = include_str!("machines/plain");
}
