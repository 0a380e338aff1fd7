//! What the agent finds on its node. Reading only; what is missing is left out, and never an error: a node with odd
//! files is a node all the same.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sched::CpuSet;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;

use efarun_wire::BuildId;
use efarun_wire::facts::NodeFacts;

use crate::env::{SYSTEM_LIBRARY_DIRS, WELL_KNOWN_LIBRARY_DIRS, is_secret};
use crate::keeper::sys;

/// Gathers the node's facts. Nothing in it waits for anything but the node's own /proc and /sys.
pub(super) fn gather(build: BuildId, keeper_pid: i32, free_port: Option<u16>) -> NodeFacts {
    let node = Node::here();
    let allowed_cpus = allowed_cpus();
    let (gpus, efa_devices) = (node.gpus(), node.efa_devices());
    let kernel = nix::sys::utsname::uname().ok();
    let uname = |field: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        kernel.as_ref().map(|kernel| field(kernel).to_string_lossy().into_owned()).unwrap_or_default()
    };
    NodeFacts {
        build,
        hostname: uname(|kernel| kernel.nodename()),
        machine_id: node.machine_id(),
        namespaces: (inode("/proc/self/ns/net"), inode("/proc/self/ns/pid")),
        architecture: uname(|kernel| kernel.machine()),
        libc: sys::c_library(),
        kernel: uname(|kernel| kernel.release()),
        cores: node.cores(&allowed_cpus),
        topology: node.topology(&allowed_cpus, &gpus, &efa_devices),
        allowed_cpus,
        gpus,
        efa_devices,
        efa_driver: node.text("sys/module/efa/version"),
        library_dirs: node.existing(WELL_KNOWN_LIBRARY_DIRS),
        libfabrics: node.libfabrics(),
        efa_installer: node.efa_installer(),
        home: home(),
        memlock_bytes: soft_limit(Resource::RLIMIT_MEMLOCK),
        open_files: soft_limit(Resource::RLIMIT_NOFILE).unwrap_or(u64::MAX),
        ssh_client: ssh_connection(0),
        ssh_server: ssh_connection(2),
        free_port,
        agent_pid: nix::unistd::getpid().as_raw(),
        keeper_pid,
        unix_time_ms: unix_time_ms(),
        env: environment(),
    }
}

/// A node's files, below another root in tests.
#[derive(Debug)]
pub(super) struct Node {
    root: PathBuf,
}

impl Node {
    fn here() -> Node {
        Node { root: "/".into() }
    }

    /// A file's text without surrounding white space; `None` for one that is missing or empty.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// A file's number, as /sys writes it: `0x1d0f`.
    fn hexadecimal(&self, path: impl AsRef<Path>) -> Option<u32> {
        u32::from_str_radix(self.text(path)?.strip_prefix("0x")?, 16).ok()
    }

    /// The names in a folder, sorted; none where there is no such folder.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// What a path leads to once every link in it is followed, below the root.
    pub(super) fn resolved(&self, path: &Path) -> Option<String> {
        let resolved = self.root.join(path).canonicalize().ok()?;
        let root = self.root.canonicalize().ok()?;
        Some(format!("/{}", resolved.strip_prefix(root).ok()?.display()))
    }

    /// The machine's id and the id of its boot: containers of one machine have the second in common, and a cloned
    /// image has the first.
    fn machine_id(&self) -> String {
        let ids = ["etc/machine-id", "proc/sys/kernel/random/boot_id"].map(|path| self.text(path));
        ids.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// How many physical cores these CPUs belong to.
    pub(super) fn cores(&self, cpus: &[u32]) -> u32 {
        // Where /sys says nothing each CPU counts as a core.
        let siblings = |cpu: &u32| {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            self.text(path).unwrap_or_else(|| cpu.to_string())
        };
        let cores: BTreeSet<String> = cpus.iter().map(siblings).collect();
        u32::try_from(cores.len()).unwrap_or(u32::MAX)
    }

    /// NVIDIA display and 3D controllers. Addresses have a fixed width, so that their order as text is PCI's.
    pub(super) fn gpus(&self) -> Vec<String> {
        if self.has_pci_device_of(NVIDIA) == Some(false) {
            return Vec::new();
        }
        let mut devices = self.names("sys/bus/pci/devices");
        devices.retain(|device| {
            let folder = Path::new("sys/bus/pci/devices").join(device);
            let class = || self.hexadecimal(folder.join("class")).map(|class| class >> 8);
            self.hexadecimal(folder.join("vendor")) == Some(NVIDIA)
                && matches!(class(), Some(VGA_CONTROLLER | CONTROLLER_3D))
        });
        devices
    }

    /// Whether the kernel's list of PCI devices has one of this vendor: one file, where /sys has two for each of what may be
    /// a hundred devices. None where there is no list.
    fn has_pci_device_of(&self, vendor: u32) -> Option<bool> {
        let list = self.text("proc/bus/pci/devices")?;
        // Bus and function, then vendor and device, four digits each.
        let vendors = list.lines().filter_map(|line| line.split_ascii_whitespace().nth(1)?.get(..4));
        Some(vendors.filter_map(|digits| u32::from_str_radix(digits, 16).ok()).any(|found| found == vendor))
    }

    pub(super) fn efa_devices(&self) -> Vec<String> {
        let mut devices = self.names("sys/class/infiniband");
        devices.retain(|name| {
            let folder = Path::new("sys/class/infiniband").join(name).join("device");
            self.hexadecimal(folder.join("vendor")) == Some(AMAZON)
                && self.hexadecimal(folder.join("device")).is_some_and(|device| EFA.contains(&device))
        });
        devices
    }

    /// Which libfabric each of the folders has that loaders look in.
    fn libfabrics(&self) -> Vec<(String, String)> {
        let folders = WELL_KNOWN_LIBRARY_DIRS.iter().chain(SYSTEM_LIBRARY_DIRS);
        let file = |folder: &&str| {
            let library =
                self.root.join(folder.trim_start_matches('/')).join("libfabric.so.1").canonicalize().ok()?;
            Some(((*folder).to_owned(), library.file_name()?.to_string_lossy().into_owned()))
        };
        folders.filter_map(file).collect()
    }

    /// The first line of the installer's list: `# EFA installer version: 1.38.0`.
    fn efa_installer(&self) -> Option<String> {
        let list = self.text("opt/amazon/efa_installed_packages")?;
        let (_, release) = list.lines().next()?.split_once("EFA installer version:")?;
        Some(release.trim().to_owned())
    }

    fn existing(&self, folders: &[&str]) -> Vec<String> {
        let exists = |folder: &&&str| self.root.join(folder.trim_start_matches('/')).is_dir();
        folders.iter().filter(exists).map(|folder| (*folder).to_owned()).collect()
    }
}

fn allowed_cpus() -> Vec<u32> {
    let Ok(set) = nix::sched::sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    let allowed = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    allowed.filter_map(|cpu| u32::try_from(cpu).ok()).collect()
}

fn inode(path: &str) -> u64 {
    fs::metadata(path).map(|file| file.ino()).unwrap_or(0)
}

fn soft_limit(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft).filter(|&soft| soft != RLIM_INFINITY)
}

fn home() -> String {
    let from_passwd =
        || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.dir);
    let home = std::env::var_os("HOME").map(PathBuf::from).or_else(from_passwd);
    home.unwrap_or_else(|| "/".into()).to_string_lossy().into_owned()
}

/// A word of what sshd says about its connection: the client's address and port, then its own.
fn ssh_connection(word: usize) -> Option<String> {
    std::env::var("SSH_CONNECTION").ok()?.split(' ').nth(word).map(str::to_owned)
}

fn unix_time_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The agent's own environment, but for what looks like a secret: the head has no use for it.
fn environment() -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = std::env::vars_os().map(|(name, value)| (name.into_vec(), value.into_vec()));
    all.filter(|(name, _)| !is_secret(name)).collect()
}

const NVIDIA: u32 = 0x10de;
const AMAZON: u32 = 0x1d0f;
const VGA_CONTROLLER: u32 = 0x0300;
const CONTROLLER_3D: u32 = 0x0302;
/// The device ids of the EFA generations so far.
const EFA: std::ops::RangeInclusive<u32> = 0xefa0..=0xefa4;

/// Trees of files as a node has them.
#[cfg(test)]
pub(super) mod fixture {
    use super::*;

    pub(in crate::agent) fn node(files: &[(&str, &str)]) -> (tempfile::TempDir, Node) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            fs::write(made(folder.path(), path), text).unwrap();
        }
        let root = folder.path().to_owned();
        (folder, Node { root })
    }

    /// A tree of lines `path = text` and `path -> target of a link`; `#` begins a comment.
    pub(in crate::agent) fn tree(lines: &str) -> (tempfile::TempDir, Node) {
        let (folder, node) = node(&[]);
        for line in lines.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match (line.split_once(" = "), line.split_once(" -> ")) {
                (Some((path, text)), _) => {
                    fs::write(made(folder.path(), path), format!("{text}\n")).unwrap();
                }
                (None, Some((path, target))) => {
                    std::os::unix::fs::symlink(target, made(folder.path(), path)).unwrap();
                }
                (None, None) => panic!("{line}"),
            }
        }
        (folder, node)
    }

    fn made(root: &Path, path: &str) -> PathBuf {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::node;
    use super::*;

    #[test]
    fn gpus_are_nvidias_controllers_in_pci_order() {
        let (_folder, node) = node(&[
            ("sys/bus/pci/devices/0000:a0:1c.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:a0:1c.0/class", "0x030200\n"),
            ("sys/bus/pci/devices/0000:10:1c.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:10:1c.0/class", "0x030000\n"),
            // An NVSwitch, and a display controller of somebody else's.
            ("sys/bus/pci/devices/0000:c4:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:c4:00.0/class", "0x068000\n"),
            ("sys/bus/pci/devices/0000:00:03.0/vendor", "0x1d0f\n"),
            ("sys/bus/pci/devices/0000:00:03.0/class", "0x030000\n"),
        ]);
        assert_eq!(node.gpus(), ["0000:10:1c.0", "0000:a0:1c.0"]);
    }

    #[test]
    fn devices_are_looked_at_one_by_one_where_the_kernels_list_has_nvidias_or_is_missing() {
        let gpu = [
            ("sys/bus/pci/devices/0000:10:1c.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:10:1c.0/class", "0x030200\n"),
        ];
        let found =
            |list: &'static str| node(&[&gpu[..], &[("proc/bus/pci/devices", list)]].concat()).1.gpus().len();
        let without = "0000\t80861237\t0\t               0\n0018\t1d0f0061\tb\t        febf4000\tena\n";
        let with = "0000\t80861237\t0\t               0\n10e0\t10de20b0\tb\t        febf4000\tnvidia\n";
        assert_eq!([found(without), found(with), found("")], [0, 1, 1]);
    }

    #[test]
    fn efa_devices_are_told_from_other_infiniband() {
        let (_folder, node) = node(&[
            ("sys/class/infiniband/rdmap16s27/device/vendor", "0x1d0f\n"),
            ("sys/class/infiniband/rdmap16s27/device/device", "0xefa1\n"),
            ("sys/class/infiniband/efa_0/device/vendor", "0x1d0f\n"),
            ("sys/class/infiniband/efa_0/device/device", "0xefa0\n"),
            ("sys/class/infiniband/mlx5_0/device/vendor", "0x15b3\n"),
            ("sys/class/infiniband/mlx5_0/device/device", "0x101b\n"),
        ]);
        assert_eq!(node.efa_devices(), ["efa_0", "rdmap16s27"]);
    }

    #[test]
    fn two_threads_of_a_core_are_one_core() {
        let topology = |cpu: u32| format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let (_folder, node) =
            node(&[(&topology(0), "0,2\n"), (&topology(2), "0,2\n"), (&topology(1), "1,3\n")]);
        assert_eq!(node.cores(&[0, 1, 2]), 2);
        assert_eq!(node.cores(&[0, 1, 2, 9]), 3, "a CPU without topology is a core");
    }

    #[test]
    fn a_machine_is_named_by_its_image_and_its_boot() {
        let (_folder, node) =
            node(&[("etc/machine-id", "abc\n"), ("proc/sys/kernel/random/boot_id", "def\n")]);
        assert_eq!(node.machine_id(), "abc def");
    }

    #[test]
    fn libfabrics_are_told_by_their_files_and_the_installer_by_its_list() {
        let (folder, node) = node(&[
            ("opt/amazon/efa/lib/libfabric.so.1.29.1", ""),
            ("usr/lib64/libfabric.so.1.17.1", ""),
            ("opt/amazon/efa_installed_packages", "# EFA installer version: 1.38.0\n# Debug packages\n"),
        ]);
        for (path, file) in
            [("opt/amazon/efa/lib", "libfabric.so.1.29.1"), ("usr/lib64", "libfabric.so.1.17.1")]
        {
            std::os::unix::fs::symlink(file, folder.path().join(path).join("libfabric.so.1")).unwrap();
        }
        let found = |folder: &str, file: &str| (folder.to_owned(), file.to_owned());
        assert_eq!(
            node.libfabrics(),
            [found("/opt/amazon/efa/lib", "libfabric.so.1.29.1"), found("/usr/lib64", "libfabric.so.1.17.1")]
        );
        assert_eq!(node.efa_installer().as_deref(), Some("1.38.0"));
    }

    #[test]
    fn a_bare_root_has_facts_too() {
        let (_folder, node) = node(&[]);
        assert_eq!((node.gpus(), node.efa_devices(), node.machine_id()), (vec![], vec![], String::new()));
    }

    #[test]
    fn facts_of_this_machine_fit_it() {
        let facts = gather(BuildId([7; 16]), 5, None);
        assert_eq!(facts.architecture, std::env::consts::ARCH);
        assert_eq!(facts.keeper_pid, 5);
        assert!(facts.cores >= 1 && facts.cores as usize <= facts.allowed_cpus.len());
        assert!(facts.libc.starts_with("glibc 2."));
    }
}
