//! What the folder holds, as data.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::address::Gid;
use crate::nic::counters;
use crate::profile::Profile;

/// Something in the tree, at a path from its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file with this content.
    File(PathBuf, String),
    /// A symbolic link to another path from the root.
    Link(PathBuf, PathBuf),
}

/// The tree of a host's devices, and the topology that it has with them ([`topology`]).
pub fn tree(profile: &Profile, host: Ipv4Addr, nics: u8, processors: usize) -> Vec<Entry> {
    let mut entries = vec![
        Entry::File("hwloc.xml".into(), topology(profile, nics, processors)),
        Entry::File("class/infiniband_verbs/abi_version".into(), "6\n".to_owned()),
        Entry::File("module/efa/version".into(), "0.0.0-soft\n".to_owned()),
        Entry::File("bus/pci/drivers/efa/module_version".into(), "0.0.0-soft\n".to_owned()),
    ];
    for number in 0..nics {
        entries.extend(device(profile, Gid::new(host, number), number));
    }
    entries
}

fn device(profile: &Profile, gid: Gid, number: u8) -> Vec<Entry> {
    let pci = profile.pci_address(number);
    let name = pci.device_name();
    let place = PathBuf::from(format!("devices/pci0000:{:02x}/{}", pci.bus, pci.text()));
    let device = place.join("infiniband").join(&name);
    let verbs = place.join(format!("infiniband_verbs/uverbs{number}"));
    let port = device.join("ports/1");
    let guid: Vec<String> =
        gid.guid().chunks(2).map(|pair| format!("{:02x}{:02x}", pair[0], pair[1])).collect();
    let mut entries = Vec::new();
    let mut file = |path: PathBuf, content: &str| entries.push(Entry::File(path, format!("{content}\n")));
    file(place.join("vendor"), "0x1d0f");
    file(place.join("device"), &format!("{:#06x}", profile.part_id));
    file(place.join("class"), "0x020000");
    file(place.join("numa_node"), &pci.numa_node.to_string());
    file(device.join("node_type"), "7: <unknown>");
    file(device.join("node_guid"), &guid.join(":"));
    file(device.join("sys_image_guid"), &guid.join(":"));
    file(device.join("fw_ver"), "0.0.0.0");
    file(device.join("hw_rev"), &format!("{:#x}", profile.part_id));
    file(port.join("state"), ACTIVE);
    file(port.join("phys_state"), LINK_UP);
    file(port.join("rate"), profile.port.rate);
    file(port.join("link_layer"), "Unspecified");
    file(port.join("lid"), "0x0");
    file(port.join("gids/0"), &gid.to_string());
    file(port.join("pkeys/0"), "0xffff");
    for counter in counters::NAMES {
        file(port.join(counter), "0");
    }
    file(verbs.join("ibdev"), &name);
    file(verbs.join("abi_version"), "1");
    let mut link = |from: PathBuf, to: PathBuf| entries.push(Entry::Link(from, to));
    link(place.join("driver"), "bus/pci/drivers/efa".into());
    link(device.join("device"), place.clone());
    link(verbs.join("device"), place.clone());
    link(format!("class/infiniband/{name}").into(), device);
    link(format!("class/infiniband_verbs/uverbs{number}").into(), verbs);
    link(format!("bus/pci/devices/{}", pci.text()).into(), place.clone());
    link(format!("bus/pci/drivers/efa/{}", pci.text()).into(), place);
    entries
}

/// The host as hwloc shows it in XML, for HWLOC_XMLFILE: MPICH insists on finding the device's PCI address there.
fn topology(profile: &Profile, nics: u8, processors: usize) -> String {
    // hwloc writes sets as 32-bit words, the highest first.
    let set = |processors: std::ops::Range<usize>| {
        let words = processors.end.div_ceil(32).max(1);
        let word = |word: usize| {
            let bits = processors.clone().filter(|bit| bit / 32 == word);
            format!("0x{:08x}", bits.fold(0_u32, |sum, bit| sum | 1 << (bit % 32)))
        };
        (0..words).rev().map(word).collect::<Vec<_>>().join(",")
    };
    let sets = |cpuset: &str| {
        format!("cpuset=\"{cpuset}\" complete_cpuset=\"{cpuset}\" nodeset=\"0x1\" complete_nodeset=\"0x1\"")
    };
    let all = set(0..processors);
    let mut index = 2;
    let mut next = || {
        index += 1;
        index
    };
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology version=\"2.0\">\n\
         <object type=\"Machine\" os_index=\"0\" {} allowed_cpuset=\"{all}\" allowed_nodeset=\"0x1\" gp_index=\"1\">\n\
         <object type=\"NUMANode\" os_index=\"0\" {} gp_index=\"2\" local_memory=\"1073741824\"/>\n",
        sets(&all),
        sets(&all)
    );
    for processor in 0..processors {
        let sets = sets(&set(processor..processor + 1));
        text += &format!("<object type=\"Core\" os_index=\"{processor}\" {sets} gp_index=\"{}\">", next());
        text += &format!(
            "<object type=\"PU\" os_index=\"{processor}\" {sets} gp_index=\"{}\"/></object>\n",
            next()
        );
    }
    for nic in 0..nics {
        let pci = profile.pci_address(nic);
        text += &format!(
            "<object type=\"Bridge\" gp_index=\"{}\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"0000:[{:02x}-{:02x}]\">",
            next(),
            pci.bus,
            pci.bus
        );
        text += &format!(
            "<object type=\"PCIDev\" gp_index=\"{}\" pci_busid=\"{}\" pci_type=\"0200 [1d0f:{:04x}] [0000:0000] 00\" \
             pci_link_speed=\"0.000000\"/></object>\n",
            next(),
            pci.text(),
            profile.part_id
        );
    }
    text + "</object>\n</topology>\n"
}

/// As the kernel writes a port's state.
pub const ACTIVE: &str = "4: ACTIVE";
/// And the state of one that is down.
pub const DOWN: &str = "1: DOWN";
/// As the kernel writes a port's physical state.
pub const LINK_UP: &str = "5: LinkUp";
/// And that of one that is down.
pub const DISABLED: &str = "3: Disabled";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::P4D;

    #[test]
    fn topology_has_every_processor_and_device_once() {
        let text = topology(&P4D, 4, 33);
        assert_eq!((text.matches("<object type=\"PU\"").count(), text.matches("PCIDev").count()), (33, 4));
        assert!(text.contains("cpuset=\"0x00000001,0x00000000\""), "{text}");
        assert!(text.contains("cpuset=\"0x00000001,0xffffffff\""), "{text}");
        assert!(text.contains("0000:a0:1b.0") && text.contains("[1d0f:efa1]"), "{text}");
    }
}
