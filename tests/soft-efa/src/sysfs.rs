//! The folder that looks like /sys, for the provider and for tools.
//!
//! The tree is data ([`tree`]); writing it is the other half. The provider reads a device's PCI address from where its
//! `device` link leads, its driver from `device/driver`, and the version of the verbs interface under `SYSFS_PATH`.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::address::Gid;
use crate::nic::counters;
use crate::profile::Profile;
use crate::settings::Settings;

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
        file(port.join("hw_counters").join(counter), "0");
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

/// A tree that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the folder that looks like /sys, {path}: {cause}; SOFTEFA_SYSFS names another")]
pub struct SysfsError {
    path: PathBuf,
    cause: io::Error,
}

/// Makes the folder if it is not there, and points the provider to it by SYSFS_PATH. Processes of a host that
/// have the same devices share a folder.
///
/// # Errors
///
/// [`SysfsError`] when it cannot be written.
pub fn prepare(settings: &Settings, host: Ipv4Addr) -> Result<PathBuf, SysfsError> {
    let root = settings.sysfs.clone().unwrap_or_else(|| {
        let user = nix::unistd::getuid();
        std::env::temp_dir()
            .join(format!("soft-efa-{user}"))
            .join(format!("{}-{host}-{}-{}", settings.fabric, settings.profile.name, settings.nics))
    });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let result = write(&root, &tree(settings.profile, host, settings.nics, processors));
    result.map_err(|cause| SysfsError { path: root.clone(), cause })?;
    point_to(&root);
    Ok(root)
}

/// The provider asks the environment where /sys is.
#[expect(unsafe_code, reason = "changes the environment")]
fn point_to(root: &Path) {
    // SAFETY: called once, under the lock of the process's devices, by the first call that looks for them. A program
    // that at that very moment changes its environment in another thread has a race of its own: the provider,
    // too, reads it then.
    unsafe { std::env::set_var("SYSFS_PATH", root) };
}

/// Writes the tree, beside its place first, so that nobody sees half of it. One that is there is left as it is.
fn write(root: &Path, entries: &[Entry]) -> io::Result<()> {
    if root.join("class").exists() {
        return Ok(());
    }
    let parent = root.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let draft = parent.join(format!(".draft-{}-{}", std::process::id(), fastrand::u64(..)));
    let written = write_all(&draft, entries).and_then(|()| {
        // An empty folder may be there already; one with something in it is another process's, finished before ours.
        match fs::rename(&draft, root) {
            Err(_) if root.join("class").exists() => Ok(()),
            result => result,
        }
    });
    let _ = fs::remove_dir_all(&draft);
    written
}

fn write_all(root: &Path, entries: &[Entry]) -> io::Result<()> {
    for entry in entries {
        let (Entry::File(path, _) | Entry::Link(path, _)) = entry;
        if let Some(parent) = root.join(path).parent() {
            fs::create_dir_all(parent)?;
        }
        match entry {
            Entry::File(path, content) => fs::File::create(root.join(path))?.write_all(content.as_bytes())?,
            Entry::Link(path, target) => {
                let up = path.components().count() - 1;
                let relative: PathBuf = std::iter::repeat_n("..", up).collect::<PathBuf>().join(target);
                std::os::unix::fs::symlink(relative, root.join(path))?;
            }
        }
    }
    Ok(())
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
    fn links_lead_to_places_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("sys");
        write(&root, &tree(&P4D, Ipv4Addr::new(10, 88, 0, 1), 4, 2)).unwrap();
        let device = root.join("class/infiniband/rdmap160s27");
        let place = fs::canonicalize(device.join("device")).unwrap();
        assert_eq!(place.file_name().unwrap(), "0000:a0:1b.0");
        assert_eq!(fs::canonicalize(place.join("driver")).unwrap().file_name().unwrap(), "efa");
        assert_eq!(fs::read_to_string(device.join("ports/1/state")).unwrap(), "4: ACTIVE\n");
        assert_eq!(
            fs::read_to_string(device.join("ports/1/gids/0")).unwrap(),
            "fe80:0000:0000:0000:0003:0aff:fe58:0001\n"
        );
        assert_eq!(
            fs::read_to_string(root.join("class/infiniband_verbs/uverbs3/ibdev")).unwrap(),
            "rdmap160s27\n"
        );
        assert_eq!(fs::read_dir(device.join("ports/1/hw_counters")).unwrap().count(), counters::COUNTERS);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn topology_has_every_processor_and_device_once() {
        let text = topology(&P4D, 4, 33);
        assert_eq!((text.matches("<object type=\"PU\"").count(), text.matches("PCIDev").count()), (33, 4));
        assert!(text.contains("cpuset=\"0x00000001,0x00000000\""), "{text}");
        assert!(text.contains("cpuset=\"0x00000001,0xffffffff\""), "{text}");
        assert!(text.contains("0000:a0:1b.0") && text.contains("[1d0f:efa1]"), "{text}");
    }

    #[test]
    fn tree_that_is_there_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("sys");
        write(&root, &tree(&P4D, Ipv4Addr::LOCALHOST, 1, 2)).unwrap();
        let file = root.join("class/infiniband_verbs/abi_version");
        fs::write(&file, "7\n").unwrap();
        write(&root, &tree(&P4D, Ipv4Addr::LOCALHOST, 1, 2)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "7\n");
    }
}
