//! What an agent finds on its node and tells the head before anything is placed there.

use serde::{Deserialize, Serialize};

use crate::ids::BuildId;

/// A node as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The agent's build.
    pub build: BuildId,
    /// What the node calls itself.
    pub hostname: String,
    /// /etc/machine-id and the boot id together: two hosts that have the same are one machine.
    pub machine_id: String,
    /// The network namespace's and PID namespace's inode numbers: containers of one machine differ here.
    pub namespaces: (u64, u64),
    /// `x86_64`, `aarch64`, …
    pub architecture: String,
    /// The C library and its version: `glibc 2.36`.
    pub libc: String,
    /// The kernel's release.
    pub kernel: String,
    /// CPUs that the agent may run on.
    pub allowed_cpus: Vec<u32>,
    /// Physical cores among them.
    pub cores: u32,
    /// NVIDIA GPUs by PCI address, in PCI order.
    pub gpus: Vec<String>,
    /// EFA devices by name (`rdmap16s27`, `efa_0`), sorted.
    pub efa_devices: Vec<String>,
    /// The EFA kernel driver's version, where it is loaded.
    pub efa_driver: Option<String>,
    /// Where CPUs, GPUs and EFA devices are.
    pub topology: Topology,
    /// Those of the well-known library folders that exist here.
    pub library_dirs: Vec<String>,
    /// In which of the looked-at folders there is a `libfabric.so.1`, and which file it is: releases have files of
    /// different names.
    pub libfabrics: Vec<(String, String)>,
    /// The EFA installer's release, where it left its list.
    pub efa_installer: Option<String>,
    /// The home folder of the user that the agent runs as.
    pub home: String,
    /// Soft limit of locked memory in bytes; `None` is unlimited.
    pub memlock_bytes: Option<u64>,
    /// Soft limit of open files.
    pub open_files: u64,
    /// The address that the SSH connection came from, as this node sees it.
    pub ssh_client: Option<String>,
    /// The address of the node's own that the SSH connection reached.
    pub ssh_server: Option<String>,
    /// A TCP port that the agent keeps free for as long as it lives: torchrun's MASTER_PORT, should rank 0 be here. Who
    /// listens with SO_REUSEADDR gets it, and nobody gets it by chance.
    pub free_port: Option<u16>,
    /// The agent's process id.
    pub agent_pid: i32,
    /// The keeper's process id.
    pub keeper_pid: i32,
    /// The agent's clock, in milliseconds since 1970.
    pub unix_time_ms: u64,
    /// The agent's environment: PATH, LD_LIBRARY_PATH and what else decides how a program starts, as bytes.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The parts of a node, and how near they are to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The CPUs that the agent may run on, ascending.
    pub cpus: Vec<Cpu>,
    /// As [`NodeFacts::gpus`].
    pub gpus: Vec<Device>,
    /// As [`NodeFacts::efa_devices`].
    pub efa_devices: Vec<Device>,
}

/// A CPU as the kernel counts them: a hardware thread of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Its number.
    pub id: u32,
    /// Its core, by the number of the core's first CPU.
    pub core: u32,
    /// Its socket.
    pub package: u32,
    /// Its NUMA node.
    pub numa: u32,
}

/// A device on a PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// A GPU's PCI address, an EFA device's name.
    pub name: String,
    /// The bridges before it and itself, from its root bus: `pci0000:10/0000:10:1b.0`. Empty where /sys hides it.
    pub pci_path: String,
    /// The NUMA node that it is at, where the machine tells.
    pub numa: Option<u32>,
}
